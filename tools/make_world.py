"""Make the embedded world: simulated or recorded traffic as a nuScenes dataset with Occ3D labels."""

from pathlib import Path

from occdistill.errors import Parser, run
from occdistill.world import make_recorded_world, make_world, summary
from occdistill.world.recordings import SPLITTINGS, read_recorded, told


def main() -> None:
    """Parse the command line and write the world."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add("--scenes", type=int, help="training scenes, default 20")
    add("--val-scenes", type=int, help="default: a fifth as many, at least 1")
    add("--motion", type=Path, metavar="SOURCE", help="re-enact recorded drives (data/README.md)")
    add("--split", choices=SPLITTINGS, default="val", help="that recorded drives are in")
    add("--seed", type=int, default=0)
    add("--no-lidar", action="store_true", help="no point clouds, only labels")
    add("--workers", type=int, help="processes; default: one per core")
    add("--overwrite", action="store_true", help="replace an older world")
    args = parser.parse_args()
    how = dict(lidar=not args.no_lidar, workers=args.workers, overwrite=args.overwrite)
    counts = {k: v for k in ("scenes", "val_scenes") if (v := getattr(args, k)) is not None}
    if args.motion is None:
        out = make_world(args.out, seed=args.seed, **counts, **how)
    elif counts:
        parser.error("recorded scenes are counted: --motion goes without --scenes and --val-scenes")
    else:
        print(told(recorded := read_recorded(args.motion)), flush=True)
        out = make_recorded_world(args.out, recorded, args.split, args.seed, **how)
    print(summary(out))


if __name__ == "__main__":
    run(main)
