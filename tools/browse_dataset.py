"""Clips as pictures, with their conditions: what a network sees, and what it is to forecast.

    python tools/browse_dataset.py CONFIG --out DIR [--split val] [--count 8 | --clip 12 40 …]

A sheet per clip, from above: the past, the past as it will look from each future place (where the
config aligns or carries it), and the truth there. Needs data, but no weights.
"""

import _options as common
import torch

from occdistill.build.builders import build_codec, build_dataset, some_clips
from occdistill.errors import UserError, run
from occdistill.store import atomic, check_folder
from occdistill.visualization.conditions import condition_sheet


def main() -> None:
    """Draw one sheet after the other."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add)
    add("--out", type=check_folder, required=True, help="folder for the pictures")
    add("--split", default="val", help="train, val, or a split of the data set")
    add(
        "--count",
        type=common.positive,
        default=8,
        help="this many clips, spread evenly over the split",
    )
    add("--clip", type=int, nargs="+", help="these clips instead")
    add("--size", type=common.positive, default=200, help="of a panel, pixels")
    args = parser.parse_args()
    config = common.read_config(args)
    dataset = build_dataset(config, args.split)
    codec = build_codec(config, torch.nn.Identity())  # nothing is encoded
    chosen = args.clip or some_clips(dataset, args.count) or range(len(dataset))
    for clip in chosen:
        if not 0 <= clip < len(dataset):
            raise UserError(f"no clip {clip}; the split has clips 0 to {len(dataset) - 1}")
    for clip in chosen:
        item, aligned = dataset[clip], None
        if codec.align:
            aligned = codec.aligned_voxels(item["past"][None], item["poses"][None])[0]
        picture = condition_sheet(
            item["past"], aligned, item["future"], dataset.grid, codec.align, codec.carry,
            (args.size, args.size),
        )  # fmt: skip
        path = args.out / f"{clip:05}-{dataset.clip_id(clip).replace('/', '-')}.png"
        with atomic(path) as part:
            picture.save(part)
        shown = codec.visible_trajectory(item["trajectory"][None], dataset.past).shape[1]
        print(f"{path}: conditioning {codec.conditioning}, {shown} steps of the trajectory shown")


if __name__ == "__main__":
    run(main)
