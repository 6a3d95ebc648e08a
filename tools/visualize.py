"""Draw a clip: truth, teacher and student side by side.

    python tools/visualize.py CONFIG CHECKPOINT --clip 12 --out forecast.gif

A .gif plays the clip, a .png shows it as a sheet; --window opens it in 3-D, to turn with the mouse.
With --samples K there are K futures of the student and how far they agree: the share of them that
fill a voxel, and the entropy of their classes; FILE.npz beside the picture has both as numbers.
"""

import argparse
import logging
import time

import _options as common

from occdistill.build import showing
from occdistill.build.builders import build_grid
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
    add("--across", action="store_true", help="in a .png a column per forecast, a line per second")
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
    clip = showing.recorded(config, None, args.clip, config.data.future)
    found = showing.forecasts(entries, clip, args.samples, args.seed)
    truth, rows, layers = clip.future.numpy(), {}, {}
    for name, forecast in found.items():
        several = len(forecast.futures) > 1
        for number, future in enumerate(forecast.futures, 1):
            rows[name + f", future {number}" * several] = future
        if several:
            layers |= showing.layers(forecast)
            if args.out is not None:
                agreement = dict(occupancy=forecast.occupancy, entropy=forecast.entropy)
                write_npz(args.out.with_suffix(".npz"), agreement)
    notes = {n: [s.split(",")[0] for s in showing.scores(row, truth)] for n, row in rows.items()}
    if args.errors:
        layers |= {f"error: {name}": errors(truth, row) for name, row in rows.items()}
    rows, past = {"truth": truth} | rows | layers, clip.past.numpy()
    start = time.perf_counter()
    grid = build_grid(config)
    if args.window:
        panels.play(past, rows, grid)
    else:
        panels.save(args.out, past, rows, grid, tuple(args.size), args.style, notes, args.across)
        print(f"{args.out}: {clip.name}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    run(main)
