"""Import what OccFM's authors publish: checkpoints, cached latents, info files.

    python tools/import_occfm.py weights FILE.ckpt [--weights ema|plain] [--out DIR]
    python tools/import_occfm.py latents FILE.pkl --out FILE.npz
    python tools/import_occfm.py infos FILE.pkl --out FILE.npz [--dataroot data/nuscenes --split val]

Nothing in a file is run: checkpoints may hold tensors and plain values, pickles arrays and plain
containers. Anything else is refused, and nothing is written.
"""

import argparse
from pathlib import Path

from occdistill.errors import Parser, UserError, run
from occdistill.occfm.checkpoints import read
from occdistill.occfm.importing import describe, import_infos, import_latents, import_weights

INDEX = "keep the file's table of the Swin blocks (what OccFM evaluated), or put the intended one"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    add = what.add_parser("weights", help="a checkpoint of OccFM's").add_argument
    add("file", type=Path)
    add("--out", type=Path, help="folder; default: data/occfm/<variant>")
    add("--weights", choices=("auto", "plain", "ema"), default="auto")
    add("--variant", help="refuse any other, such as occfm_fut, occfm, occfm_4c, vae, vae3d")
    add("--relative-index", choices=("keep", "intended"), default="keep", help=INDEX)
    add("--report", action="store_true", help="say what the file holds and write nothing")
    add("--force", action="store_true", help="replace weights that are there")
    add = what.add_parser("latents", help="a pickle of cached latents").add_argument
    add("file", type=Path)
    add("--out", type=Path, required=True, help="npz: latents, trajectory, scene, token")
    add = what.add_parser("infos", help="a nuscenes_infos_*_temporal_v3_scene.pkl").add_argument
    add("file", type=Path)
    add("--out", type=Path, required=True, help="npz: one row per keyframe")
    add("--dataroot", type=Path, help="compare with what the raw tables there say")
    add("--version", default="v1.0-trainval")
    add("--split", default="val")
    return parser.parse_args()


def weights(args: argparse.Namespace) -> None:
    """Read, check, describe and write a checkpoint."""
    published = read(args.file, args.weights)
    variant = published.variant.name
    if args.variant and args.variant != variant:
        raise UserError(f"{args.file} holds {variant}, not {args.variant}: give that one's file")
    print(describe(published))
    if not args.report:
        out = args.out or Path("data/occfm") / variant
        for path in import_weights(published, out, args.relative_index, args.force):
            print(f"wrote     {path}")


def main() -> None:
    """Import one file."""
    args = parse()
    if args.what == "weights":
        weights(args)
    elif args.what == "latents":
        print(f"wrote {args.out}: {import_latents(args.file, args.out)}")
    else:
        where = (args.dataroot, args.version, args.split)
        print(f"wrote {args.out}: {import_infos(args.file, args.out, *where)}")


if __name__ == "__main__":
    run(main)
