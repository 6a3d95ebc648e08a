"""Make the embedded world: simulated or recorded traffic as a nuScenes dataset with Occ3D labels.

    python tools/make_world.py --out DIR [--scenes 20] [--val-scenes 4]
    python tools/make_world.py --out DIR --motion SOURCE [--split official]

SOURCE is a folder of recorded motion (data/README.md), or a nuScenes root that needs only tables.
"""

from pathlib import Path

from occdistill.errors import Parser, run
from occdistill.world import make_recorded_world, make_world, summary
from occdistill.world.recordings import SPLITTINGS, read_recorded, told


def main() -> None:
    """Parse the command line and write the world."""
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add("--scenes", type=int, help="training scenes, default 20")
    add("--val-scenes", type=int, help="default: a fifth as many, at least 1")
    add("--motion", type=Path, metavar="SOURCE", help="re-enact these drives instead")
    add("--split", choices=SPLITTINGS, default="val", help="recorded ones: all val, or nuScenes'")
    add("--seed", type=int, default=0)
    add("--no-lidar", action="store_true", help="no point clouds, only labels")
    add("--workers", type=int, help="processes; default: one per core")
    add("--overwrite", action="store_true", help="replace an older world")
    args = parser.parse_args()
    how = dict(lidar=not args.no_lidar, workers=args.workers, overwrite=args.overwrite)
    if args.motion is None:
        scenes = 20 if args.scenes is None else args.scenes
        out = make_world(args.out, scenes, args.seed, args.val_scenes, **how)
    elif args.scenes is None and args.val_scenes is None:
        recorded = read_recorded(args.motion)
        print(told(recorded), flush=True)
        out = make_recorded_world(args.out, recorded, args.split, args.seed, **how)
    else:
        parser.error("recorded scenes are what they are: no --scenes or --val-scenes with --motion")
    print(summary(out))


if __name__ == "__main__":
    run(main)
