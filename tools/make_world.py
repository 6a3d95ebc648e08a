"""Make the embedded world: a town's traffic as a nuScenes dataset with Occ3D labels."""

from pathlib import Path

from occdistill.errors import Parser, run
from occdistill.store import read_json
from occdistill.world import VERSION, make_world


def main() -> None:
    """Parse the command line and write the world."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scenes", type=int, default=20, help="training scenes")
    parser.add_argument("--val-scenes", type=int, help="default: a fifth as many, at least 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-lidar", action="store_true", help="no point clouds, only labels")
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace an older world")
    args = parser.parse_args()
    out = make_world(
        args.out, args.scenes, args.seed, args.val_scenes, lidar=not args.no_lidar,
        workers=args.workers, overwrite=args.overwrite,
    )  # fmt: skip
    splits = read_json(out / "splits.json")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    counts = " + ".join(f"{len(names)} {split}" for split, names in splits.items())
    print(f"{out}: {counts} scenes, {size / 1e6:.0f} MB, version {VERSION}")
    lidar = "" if args.no_lidar else ", samples/LIDAR_TOP/, lidarseg/"
    print(f"  gts/ (Occ3D labels), tables, annotations.json, splits.json{lidar}")


if __name__ == "__main__":
    run(main)
