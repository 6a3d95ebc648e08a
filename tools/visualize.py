"""Draw a clip: truth, teacher and student side by side.

    python tools/visualize.py CONFIG CHECKPOINT --clip 12 --out forecast.gif

A .gif plays the clip, a .png shows it as a sheet; --window opens it in 3-D, to turn with the mouse.
With --samples K there are K futures of the student, and FILE.npz beside the picture says how far
they agree: `occupancy` (share of the futures that fill a voxel) and `entropy` of their classes.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.lineup import add_options, forecaster_options, lineup, positive
from occdistill.errors import UserError, run
from occdistill.runtime.spread import spread
from occdistill.seeds import torch_generator
from occdistill.store import write_npz
from occdistill.visualization import panels
from occdistill.visualization.open3d_scene import RenderError, Window


def main() -> None:
    """Forecast, draw, write."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--clip", type=int, default=0, help="number in the validation split")
    parser.add_argument("--out", type=Path, help="a .gif or .png file")
    parser.add_argument("--nfe", type=positive, nargs="*", default=[10, 1], help="of the teacher")
    parser.add_argument("--samples", type=positive, default=1, help="futures of the student")
    parser.add_argument("--style", choices=("3d", "bev"), default="3d")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 340], help="of a panel, pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, the same for all")
    parser.add_argument("--window", action="store_true", help="open a window instead")
    args = parser.parse_args()
    if not args.window and args.out is None:
        raise UserError("nothing to do: pass --out FILE.gif, --out FILE.png, or --window")

    config = load_config(args.config, args.cfg_options)
    forecasters = lineup(config, args.checkpoint, args.nfe, **forecaster_options(args))
    dataset = build_dataset(config, "val")
    if not 0 <= args.clip < len(dataset):
        raise UserError(f"no clip {args.clip}; the split has clips 0 to {len(dataset) - 1}")
    item = dataset[args.clip]
    clip = [item[key][None] for key in ("past", "poses", "trajectory")]
    rows = {"truth": item["future"].numpy()}
    for name, forecaster in forecasters.items():
        seed = torch_generator(args.seed)
        model, nfe = name.split("@")
        steps = "1 step" if nfe == "1" else f"{nfe} steps"
        count = args.samples if model == "student" else 1
        futures = forecaster(*clip, samples=count, generator=seed).view(
            count, *item["future"].shape
        )
        for number, future in enumerate(futures.cpu().numpy(), 1):
            rows[f"{model}, {steps}" + f", future {number}" * (count > 1)] = future
        if count > 1 and args.out is not None:
            agreement = {k: v[0].cpu().numpy() for k, v in spread(futures[None])._asdict().items()}
            write_npz(args.out.with_suffix(".npz"), agreement)

    start = time.perf_counter()
    if args.window:
        show(item["past"].numpy(), rows, dataset.grid)
    else:
        size = tuple(args.size)
        panels.save(args.out, item["past"].numpy(), rows, dataset.grid, size, args.style)
        print(f"{args.out}: {dataset.clip_id(args.clip)}, {time.perf_counter() - start:.1f} s")


def show(past, rows, grid) -> None:
    """Play the clip in a window until it is closed: the panels stand in a row."""
    try:
        window = Window(grid)
    except RenderError as error:
        raise UserError(str(error)) from error
    print("in the window, left to right:", ", ".join(rows))
    frames = [[frame] * len(rows) for frame in past] + [list(step) for step in zip(*rows.values())]
    alive = True
    while alive:
        for step in frames:
            alive = window.show(*step)
            until = time.monotonic() + panels.INTERVAL
            while alive and time.monotonic() < until:
                alive = window.poll()
                time.sleep(0.02)
            if not alive:
                break
    window.close()


if __name__ == "__main__":
    run(main)
