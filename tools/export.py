"""Write weights as safetensors, or a whole forecaster as ONNX, for code that isn't this project's.

    python tools/export.py data/demo-weights/student.pth --out student.safetensors
    python tools/export.py configs/demo.py data/demo-weights/student.pth --out exported

The first file's metadata says what the weights are: kind, config, fingerprints. The second writes
`encoder.onnx`, `flow.onnx`, `decoder.onnx` and `manifest.json`, which says how they go together, and
nothing where on clips of the validation split more voxels than --limit differ from plain float32.
"""

import argparse
from pathlib import Path

import _options as common

from occdistill import checkpoint, places
from occdistill.build.builders import build_dataset
from occdistill.build.handover import hand_over
from occdistill.build.lineup import lineup
from occdistill.build.models import DECODERS, ENCODERS, NETWORKS, Models
from occdistill.build.scoring import some_clips
from occdistill.errors import UserError, run


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add, nargs="?", help="a file in configs/; without: a safetensors file")
    add("checkpoint", type=Path)
    add("--out", type=Path, required=True, help="a .safetensors file, or a folder")
    add("--nfe", type=common.positive, help="evaluations per forecast; default: a student's own")
    add("--limit", type=float, default=0.1, help="percent of voxels that may differ")
    add("--clips", type=common.positive, default=8, help="to compare, spread over the split")
    for name, known in (("decoder", DECODERS), ("encoder", ENCODERS), ("network", NETWORKS)):
        add(f"--{name}", choices=known, default="full")
    args = parser.parse_args()
    if not 0 <= args.limit < 100:
        raise UserError("--limit is a share in percent, from 0 to less than 100")
    return args


def main() -> None:
    """Export one checkpoint."""
    args = parse()
    if args.config is None:
        count = checkpoint.export(places.typed(args.checkpoint), args.out)
        print(f"{args.out}: {count} tensors")
        return
    config = common.read_config(args)
    dataset = build_dataset(config, "val")
    parts = dict(decoder=args.decoder, encoder=args.encoder, network=args.network)
    several = {f"{name}s": [part] for name, part in parts.items()}
    nfe = args.nfe and (args.nfe,)
    entry = lineup(Models(config), args.checkpoint, (), nfe, backend="plain", **several)[0]
    items = [dataset[i] for i in some_clips(dataset, args.clips) or range(len(dataset))]
    about = dict(model=entry.name, weights=entry.checkpoint, **parts)
    print(f"{args.out}: {hand_over(entry.forecaster, items, args.out, args.limit / 100, about)}")


if __name__ == "__main__":
    run(main)
