"""A real 10 Hz drive through the live loop: rate, missed deadlines, drops, and whether memory grows.

    python benchmarks/real_drive.py [--laps 3] [--backend auto] [--decoder light --encoder light]

The drive is a folder beside the repository, ../shared/real/kitti_drive, or the one that
OCCDISTILL_REAL_DRIVE names: 000.npz … with `xyz_cm` int16 (N, 3), centimetres in the sensor's axes
(x ahead, y left, z up, 1.73 m above the ground), and poses.npz with `vehicle_to_first` (T, 4, 4) and
`timestamp` (T,) seconds. Its points have no classes: all are "others". What the car will do is read
from the poses that follow.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from occdistill.build.builders import build_transform
from occdistill.build.config import load_config
from occdistill.build.models import DECODERS, NETWORKS, Models
from occdistill.data.occ3d import GridTransform
from occdistill.data.poses import LIDAR_TO_EGO, invert
from occdistill.data.voxelize import Sweep
from occdistill.errors import UserError, run
from occdistill.runtime.auto import AUTO
from occdistill.runtime.forecaster import BACKENDS, Forecaster
from occdistill.runtime.live import LiveRunner, PacedQueue, SystemClock
from occdistill.runtime.live_page import live_page
from occdistill.runtime.machine import device_name
from occdistill.runtime.sources import GAP, Packet, sweeps
from occdistill.runtime.stream import RollingForecaster

PLACE = Path(__file__).parents[2] / "shared" / "real" / "kitti_drive"
HEIGHT = 1.73  # of the sensor, metres
RATE = 10.0  # sweeps a second
OTHERS = 0


def drive_folder() -> Path | None:
    """Where the drive lies; None: nowhere."""
    folder = Path(os.environ.get("OCCDISTILL_REAL_DRIVE", PLACE))
    return folder if (folder / "poses.npz").is_file() else None


def drive(folder: Path, transform: GridTransform, plan: int, merge: int, laps: int = 1) -> Iterator:
    """Its packets, several times over, a minute apart.

    Args:
        folder: of the drive.
        transform: to the model's grid.
        plan: future poses, 0.5 s apart, that a packet must carry.
        merge: sweeps merged into one grid.
        laps: how often it is driven.
    """
    poses = np.load(folder / "poses.npz")
    to_first, times = poses["vehicle_to_first"], poses["timestamp"] - poses["timestamp"][0]
    files = sorted(folder.glob("[0-9]*.npz"))
    to_lidar = invert(LIDAR_TO_EGO)

    @lru_cache(merge)  # neighbouring frames share all sweeps but one
    def read(i: int) -> Sweep:
        points = np.load(files[i])["xyz_cm"].astype(np.float64) / 100 + (0, 0, HEIGHT)
        points = points @ to_lidar[:3, :3].T + to_lidar[:3, 3]
        classes = np.full(len(points), OTHERS, np.uint8)
        return Sweep(points.astype(np.float32), classes, to_first[i] @ LIDAR_TO_EGO)

    names = [file.name for file in files]
    where = (names, to_first @ LIDAR_TO_EGO, times, round(RATE / 2), transform, merge, plan)
    for lap in range(laps):
        for packet in sweeps(read, *where):
            yield replace(packet, time=packet.time + lap * (times[-1] + GAP))


def resident_mb() -> float:
    """Memory of this process now, MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024


def play(
    forecaster: Forecaster, past: int, packets: Iterator[Packet], rate: float = RATE, queue: int = 2
) -> tuple[dict, list[float]]:
    """Play packets at a rate to a live loop whose deadline is the next one.

    Returns:
        The loop's report, and memory in MiB after each forecast.
    """
    rolling, memory = RollingForecaster(forecaster, past), []
    rolling.warm_up()
    paced = PacedQueue(packets, rate, queue, SystemClock())
    runner = LiveRunner(rolling, paced, 1 / rate, lambda *_: memory.append(resident_mb()))
    return runner.run(), memory


def main() -> None:
    """Play it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", default="configs/demo.py")
    add("--checkpoint", default="data/demo-weights/student.pth")
    add("--laps", type=int, default=3)
    add("--rate", type=float, default=RATE)
    add("--merge", type=int, default=5, help="sweeps in a grid")
    add("--queue", type=int, default=2, help="frames that may wait")
    add("--backend", default="eager", choices=(*BACKENDS, AUTO))
    add("--dtype", default="float32", choices=("float32", "bfloat16", AUTO))
    for name, known in (("decoder", DECODERS), ("encoder", DECODERS), ("network", NETWORKS)):
        add(f"--{name}", default="full", choices=known)
    args = parser.parse_args()
    folder = drive_folder()
    if folder is None:
        raise UserError(f"no drive at {PLACE}: set OCCDISTILL_REAL_DRIVE to its folder")
    config = load_config(args.config)
    models = Models(config)
    checkpoint = models.light_network if args.network == "light" else args.checkpoint
    dtype = AUTO if args.dtype == AUTO else getattr(torch, args.dtype)
    forecaster = models.forecaster(
        checkpoint, decoder=args.decoder, encoder=args.encoder, backend=args.backend, dtype=dtype
    )
    packets = drive(folder, build_transform(config), forecaster.codec.plan, args.merge, args.laps)
    report, memory = play(forecaster, config.data.past, packets, args.rate, args.queue)
    report.update(device=device_name("cpu"), source=folder.name, rate=args.rate)
    print(forecaster)
    print(live_page(report))
    frames = report["frames"]
    answered = frames["forecasts"] + frames["dropped"]
    late = report["missed"] + frames["dropped"]
    print(f"late or dropped: {late} of {answered} ({100 * late / max(1, answered):.1f} %)")
    if memory:
        half = len(memory) // 2
        print(
            f"memory: {memory[0]:.0f} MiB at the first forecast, {max(memory[:half] or memory):.0f} at most in"
            f" the first half, {max(memory[half:]):.0f} in the second"
        )


if __name__ == "__main__":
    run(main)
