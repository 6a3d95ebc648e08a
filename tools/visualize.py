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

from occdistill.build import showing
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.errors import UserError, run
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
    grid, future = entries[0].forecaster.grid, config.data.future
    clip = showing.recorded(config, None, args.clip, future)
    rows = {"truth": clip.future.numpy()}
    for name, found in showing.forecasts(entries, clip, args.samples, args.seed).items():
        many = len(found.futures) > 1
        for number, one in enumerate(found.futures, 1):
            rows[name + f", future {number}" * many] = one
        if many and args.out is not None:
            agreement = {"occupancy": found.occupancy, "entropy": found.entropy}
            write_npz(args.out.with_suffix(".npz"), agreement)

    truth, *forecasts = rows
    notes = {
        name: [s.split(",")[0] for s in showing.scores(rows[name], rows[truth])]
        for name in forecasts
    }
    if args.errors:
        wrong = {f"error: {name}": errors(rows[truth], rows[name]) for name in forecasts}
        rows |= wrong
    start = time.perf_counter()
    if args.window:
        panels.play(clip.past.numpy(), rows, grid)
    else:
        size = tuple(args.size)
        panels.save(args.out, clip.past.numpy(), rows, grid, size, args.style, notes)
        print(f"{args.out}: {clip.name}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    run(main)
