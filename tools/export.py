"""Write weights as safetensors, or a whole forecaster as ONNX, for code that isn't this project's.

    python tools/export.py data/demo-weights/student.pth --out student.safetensors
    python tools/export.py configs/demo.py data/demo-weights/student.pth --out exported

The first file's metadata says what the weights are: kind, config, fingerprints. The second writes
`encoder.onnx`, `flow.onnx`, `decoder.onnx` and `manifest.json`, which says how they go together, and
nothing where on clips of the validation split more voxels than --limit differ from plain float32.
With --dtype int8 convolutions and matrix products are 8-bit, calibrated on training clips.
"""

import argparse
from pathlib import Path

import _options as common

from occdistill import checkpoint, places
from occdistill.build.builders import clips_of
from occdistill.build.handover import hand_over
from occdistill.build.lineup import lineup
from occdistill.build.models import DECODERS, ENCODERS, NETWORKS, Models
from occdistill.errors import UserError, run
from occdistill.runtime import int8


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add, nargs="?", help="a file in configs/; without: a safetensors file")
    add("checkpoint", type=Path)
    add("--out", type=Path, required=True, help="a .safetensors file, or a folder")
    add("--nfe", type=common.positive, help="evaluations per forecast; default: a student's own")
    add("--dtype", choices=("float32", common.INT8), default="float32")
    add("--limit", type=float, help="percent of voxels that may differ; default: 0.1, int8 0.5")
    add("--clips", type=common.positive, default=8, help="to compare, spread over the split")
    for name, known in (("decoder", DECODERS), ("encoder", ENCODERS), ("network", NETWORKS)):
        add(f"--{name}", choices=known, default="full")
    args = parser.parse_args()
    if args.limit is None:
        args.limit = 100 * int8.LIMIT if args.dtype == common.INT8 else 0.1
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
    parts = dict(decoder=args.decoder, encoder=args.encoder, network=args.network)
    several = {f"{name}s": [part] for name, part in parts.items()}
    nfe = args.nfe and (args.nfe,)
    entry = lineup(Models(config), args.checkpoint, (), nfe, backend="plain", **several)[0]
    about = dict(model=entry.name, weights=entry.checkpoint, **parts)
    plain, items, calibrate = entry.forecaster, clips_of(config, "val", args.clips), []
    if args.dtype == common.INT8:
        calibrate = clips_of(config, "train", int8.CLIPS)
        about["calibrated_on"] = f"{len(calibrate)} clips of {config.data.train_split}"
    print(f"{args.out}: {hand_over(plain, items, args.out, args.limit / 100, about, calibrate)}")


if __name__ == "__main__":
    run(main)
