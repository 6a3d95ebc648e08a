"""Forecast live: frames come at the sensor's rate, late and lost ones are counted.

    python tools/realtime.py CONFIG CHECKPOINT --source replay --rate 2 --frames 40
    python tools/realtime.py CONFIG CHECKPOINT --source folder --folder SWEEPS --rate 20
    python tools/realtime.py CONFIG CHECKPOINT --source synthetic --rate 20

Sources: `replay` (a scene's voxels), `lidar` (the same scene's raw sweeps, merged as they come),
`folder` (*.pcd.bin with poses.txt), `synthetic` (the embedded world, made on the fly). A ROS 2 node
or another driver puts packets into `occdistill.runtime.live.Queue` from its callback.
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from occdistill.build.config import data_root, load_config
from occdistill.build.lineup import add_options, forecaster_options, lineup, positive
from occdistill.data.clips import FrameReader
from occdistill.data.occ3d import GridTransform
from occdistill.data.scenes import load_index
from occdistill.errors import UserError, run
from occdistill.runtime.live import LiveRunner, PacedQueue, SystemClock
from occdistill.runtime.machine import device_name
from occdistill.runtime.sources import Packet, lidar_folder, replay, synthetic
from occdistill.runtime.stream import RollingForecaster
from occdistill.store import write_json
from occdistill.visualization.open3d_scene import RenderError, Window

SOURCES = ("replay", "lidar", "folder", "synthetic")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    add = parser.add_argument
    add("--nfe", type=positive, default=1, help="evaluations per forecast")
    add("--source", choices=SOURCES, default="replay")
    add("--folder", type=Path, help="of LiDAR sweeps")
    add("--scene", help="replay this scene only")
    add("--rate", type=float, default=2.0, help="frames per second")
    add("--frames", type=int, help="stop after so many frames; default: when the source ends")
    add("--deadline", type=float, help="milliseconds; default: until the next frame comes")
    add(
        "--queue", type=positive, default=2, help="frames that may wait; then the oldest is dropped"
    )
    add("--seed", type=int, default=0)
    add("--tensorboard", type=Path, metavar="DIR")
    add("--window", action="store_true", help="show the forecasts, 1 s and 3 s ahead")
    add("--out", type=Path, help="folder for realtime.json; default: the config's work_dir")
    args = parser.parse_args()
    if args.rate <= 0:
        raise UserError("--rate must be positive")
    if (args.source == "folder") != (args.folder is not None):
        raise UserError("--source folder and --folder DIR belong together")
    return args


def packets(args: argparse.Namespace, config: Config, plan: int) -> Iterator[Packet]:
    """The source that was asked for."""
    data = config.data
    transform = GridTransform(data.get("crop"), data.get("coarsen", 1), data.get("min_fill", 1))
    merge = data.get("merge", 5)
    if args.source == "synthetic":
        return synthetic(transform, args.seed, args.rate, plan)
    if args.source == "folder":
        return lidar_folder(args.folder, transform, args.rate, merge, plan)
    scenes = load_index(data_root(config), data.version, data.val_split)
    if args.scene is not None:
        names = [scene.name for scene in scenes]
        if args.scene not in names:
            raise UserError(f"no scene {args.scene}; the split has {', '.join(names[:5])} …")
        scenes = [scenes[names.index(args.scene)]]
    kind = "lidar" if args.source == "lidar" else data.get("source", "occ3d")
    return replay(FrameReader(data.dataroot, transform, kind, merge), scenes, plan)


def listeners(args: argparse.Namespace, grid) -> Iterator[Callable[[LiveRunner, Tensor], bool]]:
    """What else is done with a forecast; False stops the run."""
    if args.tensorboard is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(args.tensorboard)

        def log(runner: LiveRunner, future: Tensor) -> bool:
            report = runner.report()
            step = report["frames"]["forecasts"]
            for stage, summary in report["stages"].items():
                for name in ("p50_ms", "p99_ms"):
                    writer.add_scalar(f"{stage}/{name}", summary[name], step)
            writer.add_scalar("frames/missed", report["missed"], step)
            for name in ("dropped", "bad"):
                writer.add_scalar(f"frames/{name}", report["frames"][name], step)
            return True

        yield log
    if args.window:
        try:
            window = Window(grid)
        except RenderError as error:
            raise UserError(str(error)) from error
        yield lambda runner, future: window.show(*future[[1, -1]].cpu().numpy())


def main() -> None:
    """Run until the source ends, or until Ctrl-C; then report."""
    logging.basicConfig(format="%(message)s")
    args = parse()
    config = load_config(args.config, args.cfg_options)
    (forecaster,) = lineup(
        config, args.checkpoint, (), (args.nfe,), **forecaster_options(args)
    ).values()
    codec = forecaster.codec
    source = packets(args, config, codec.plan)
    rolling = RollingForecaster(forecaster, config.data.past)
    rolling.warm_up()

    more = list(listeners(args, codec.grid))

    def listen(packet: Packet, future: Tensor) -> None:
        for listener in more:
            if not listener(runner, future):
                runner.stop()

    queue = PacedQueue(source, args.rate, args.queue, SystemClock())
    deadline = 1 / args.rate if args.deadline is None else args.deadline / 1e3
    runner = LiveRunner(rolling, queue, deadline, listen, seed=args.seed)
    signal.signal(signal.SIGINT, runner.stop)
    report = runner.run(args.frames)
    report.update(device=device_name(args.device), source=args.source, rate=args.rate)
    print(text(report))
    out = args.out or Path(config.work_dir)
    write_json(out / "realtime.json", report)
    print(f"written: {out / 'realtime.json'}")


def text(report: dict) -> str:
    """The report for people."""
    frames = ", ".join(f"{count} {name}" for name, count in report["frames"].items())
    lines = [
        f"{report['device']}: {report['source']} at {report['rate']:g} Hz",
        f"{report['forecasts_per_s']:.2f} forecasts/s over {report['seconds']:.1f} s: {frames}",
        f"{report['missed']} later than the deadline of {report['deadline_ms']:.0f} ms",
        f"{'stage':10} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}  ms",
    ]
    for stage, summary in report["stages"].items():
        if summary["count"]:
            numbers = (summary[f"{q}_ms"] for q in ("p50", "p90", "p99", "max"))
            lines.append(f"{stage:10} " + " ".join(f"{x:9.2f}" for x in numbers))
    lines += [f"bad frame: {reason}" for reason in report["bad_frames"][-3:]]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
