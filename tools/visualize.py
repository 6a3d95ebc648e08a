"""Draw a clip: truth, teacher and student side by side.

    python tools/visualize.py CONFIG CHECKPOINT --clip 12 --out forecast.gif

A .gif plays the clip, a .png shows it as a sheet; --window opens it in 3-D, to turn with the mouse.
With --samples K there are K futures of the student, and FILE.npz beside the picture says how far
they agree: `occupancy` (share of the futures that fill a voxel) and `entropy` of their classes.
"""

import argparse
import logging
import time

import _options as common

from occdistill.build.builders import build_dataset
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.showing import scores
from occdistill.errors import UserError, run
from occdistill.runtime.spread import spread
from occdistill.seeds import torch_generator
from occdistill.store import check_place, write_npz
from occdistill.visualization import panels
from occdistill.visualization.open3d_scene import require_screen
from occdistill.visualization.palette import errors


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add)
    add("checkpoint", help="a distilled student")
    add("--clip", type=int, default=0, help="number in the validation split")
    add("--out", type=check_place, help="a .gif or .png file")
    add("--nfe", type=common.positive, nargs="*", default=[10, 1], help="of the teacher")
    add("--samples", type=common.positive, default=1, help="futures of the student")
    add("--style", choices=("3d", "bev"), default="3d")
    add("--size", type=int, nargs=2, default=[480, 340], help="of a panel, pixels")
    add("--seed", type=int, default=0, help="of the noise, the same for all")
    add("--errors", action="store_true", help="a panel more per forecast: where it is wrong")
    add("--window", action="store_true", help="open a window instead")
    common.add_forecaster(add)
    args = parser.parse_args()
    if args.window:
        require_screen()
    elif args.out is None:
        raise UserError("nothing to do: pass --out FILE.gif, --out FILE.png, or --window")
    return args


def main() -> None:
    """Forecast, draw, write."""
    logging.basicConfig(format="%(message)s")
    args = parse()
    config = common.read_config(args)
    entries = lineup(Models(config), args.checkpoint, args.nfe, **common.forecaster_options(args))
    dataset = build_dataset(config, "val")
    if not 0 <= args.clip < len(dataset):
        raise UserError(f"no clip {args.clip}; the split has clips 0 to {len(dataset) - 1}")
    item = dataset[args.clip]
    past, poses, drive = (item[key][None] for key in ("past", "poses", "trajectory"))
    rows = {"truth": item["future"].numpy()}
    for entry in entries:
        nfe, count = entry.forecaster.nfe, 1 if entry.model == "teacher" else args.samples
        seed = torch_generator(args.seed)
        futures = entry.forecaster(past, poses, trajectory=drive, samples=count, generator=seed)
        futures = futures.view(count, *item["future"].shape)
        for number, future in enumerate(futures.cpu().numpy(), 1):
            steps = f"{nfe} step{'s' * (nfe > 1)}" + f", future {number}" * (count > 1)
            rows[f"{entry.title}, {steps}"] = future
        if count > 1 and args.out is not None:
            agreement = {k: v[0].cpu().numpy() for k, v in spread(futures[None])._asdict().items()}
            write_npz(args.out.with_suffix(".npz"), agreement)

    truth, *forecasts = rows
    notes = {name: [s.split(",")[0] for s in scores(rows[name], rows[truth])] for name in forecasts}
    if args.errors:
        wrong = {f"error: {name}": errors(rows[truth], rows[name]) for name in forecasts}
        rows |= wrong
    start = time.perf_counter()
    if args.window:
        panels.play(item["past"].numpy(), rows, dataset.grid)
    else:
        size = tuple(args.size)
        past = item["past"].numpy()
        panels.save(args.out, past, rows, dataset.grid, size, args.style, notes)
        print(f"{args.out}: {dataset.clip_id(args.clip)}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    run(main)
