"""Forecast live: frames come at the sensor's rate, late and lost ones are counted.

    python tools/realtime.py CONFIG CHECKPOINT --source replay --rate 2 --frames 40
    python tools/realtime.py CONFIG CHECKPOINT --source folder --folder SWEEPS --rate 20
    python tools/realtime.py CONFIG CHECKPOINT --source synthetic --rate 20 --view 8080

Sources: `replay` (a scene's voxels), `lidar` (the same scene's raw sweeps, merged as they come),
`folder` (*.pcd.bin with poses.txt), `synthetic` (the embedded world, made on the fly). A ROS 2 node
or another driver puts packets into `occdistill.runtime.live.Queue` from its callback.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import _options as common
from torch import Tensor

from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.packets import SOURCES, packets
from occdistill.build.pretrained import the_planner
from occdistill.data.occ3d import Grid
from occdistill.errors import UserError, run
from occdistill.runtime.estimate import live
from occdistill.runtime.live import LiveRunner, PacedQueue, SystemClock
from occdistill.runtime.live_page import failure, live_page, scalars_to
from occdistill.runtime.machine import device_name
from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import RollingForecaster
from occdistill.store import write_json
from occdistill.visualization.live_view import LiveView
from occdistill.visualization.open3d_scene import Viewer, require_screen
from occdistill.visualization.rerun_scene import follow


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add)
    add("checkpoint", help="a distilled student")
    add("--nfe", type=common.positive, default=1, help="evaluations per forecast")
    add("--plan", metavar="PLANNER", nargs="?", const="", help="by the config's planner, or this")
    add("--source", choices=SOURCES, default="replay")
    add("--folder", type=Path, help="of LiDAR sweeps")
    add("--scene", help="replay this scene only")
    add("--rate", type=float, default=2.0, help="frames per second")
    add("--frames", type=int, help="stop after so many frames; default: when the source ends")
    add("--deadline", type=float, help="milliseconds; default: until the next frame comes")
    add("--queue", type=common.positive, default=2, help="frames that may wait, else dropped")
    add("--seed", type=int, default=0)
    add("--tensorboard", type=Path, metavar="DIR")
    add("--window", action="store_true", help="show the forecasts, 1 s and 3 s ahead")
    add("--view", type=int, metavar="PORT", help="serve a page of the newest forecast")
    add("--viewer", choices=("rerun",), help="show the forecasts in Rerun")
    add("--out", type=Path, help="folder for realtime.json; default: the config's work_dir")
    common.add_forecaster(add)
    args = parser.parse_args()
    if args.window:
        require_screen()
    if args.rate <= 0:
        raise UserError("--rate must be positive")
    if (args.source == "folder") != (args.folder is not None):
        raise UserError("--source folder and --folder DIR belong together")
    return args


def listeners(args: argparse.Namespace, grid: Grid) -> list[Callable[[LiveRunner, Tensor], bool]]:
    """What else is done with a forecast; False stops the run."""
    found = [] if args.tensorboard is None else [scalars_to(args.tensorboard)]
    if args.window:
        window = Viewer(grid)
        found.append(lambda runner, future: window.show(*future[[1, -1]].cpu().numpy()))
    if args.view is not None:
        found.append(LiveView(grid, args.view))
        print(f"watch it at {found[-1].address}", flush=True)
    if args.viewer == "rerun":
        found.append(follow(grid))
    return found


def main() -> None:
    """Run until the source ends, or until Ctrl-C or SIGTERM; then report."""
    logging.basicConfig(format="%(message)s")
    args = parse()
    config = common.read_config(args)
    out = common.out_folder(args, config)
    options = common.forecaster_options(args)
    (entry,) = lineup(Models(config), args.checkpoint, (), (args.nfe,), **options)
    forecaster, codec = entry.forecaster, entry.forecaster.codec
    if args.plan is not None:
        forecaster.planner = the_planner(config, args.plan, args.device)
    where = (args.folder, args.scene, args.rate, args.seed)
    source = packets(config, args.source, 0 if forecaster.planner else codec.plan, *where)
    past = config.data.past
    rolling = RollingForecaster(live(forecaster, past, 1 / args.rate), past)
    rolling.warm_up()
    more = listeners(args, codec.grid)

    def listen(packet: Packet, future: Tensor) -> None:
        for listener in more:
            if not listener(runner, future):
                runner.stop()

    queue = PacedQueue(source, args.rate, args.queue, SystemClock())
    deadline = 1 / args.rate if args.deadline is None else args.deadline / 1e3
    runner = LiveRunner(rolling, queue, deadline, listen, seed=args.seed)
    runner.heed_signals()
    report = runner.run(args.frames)
    report.update(device=device_name(args.device), source=args.source, rate=args.rate)
    report.update(conditioning="pred" if forecaster.planner else codec.conditioning_class)
    report.update(backend=forecaster.backend, dtype=str(forecaster.dtype)[6:], tf32=forecaster.tf32)
    print(live_page(report))
    write_json(out / "realtime.json", report)
    print(f"written: {out / 'realtime.json'}")
    if why := failure(report):
        raise UserError(why)


if __name__ == "__main__":
    run(main)
