"""What checking values costs, as a share of loading them and of a live step.

    python benchmarks/check_cost.py [--repeats 200]

Each part is timed as it is used, and its checks are timed alone on the same values: medians, one
thread, half a minute. A live step is the demo's at 48×48×8 with light parts, the quickest there is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.data.occ3d import OCC3D, _problem, load_labels, save_labels
from occdistill.data.poses import LIDAR_TO_EGO, broken_motion
from occdistill.data.voxelize import _implausible, load_points, merge, placed, read_sweep
from occdistill.evaluation.report import table
from occdistill.runtime.bench import street
from occdistill.runtime.forecaster import check_voxels
from occdistill.runtime.stream import RollingForecaster, rigid_matrix

LIMIT = 3.0  # percent


def median(function: Callable[[], object], repeats: int) -> float:
    """Seconds that a call takes."""
    function()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def labels(folder: Path, repeats: int) -> tuple[float, float]:
    """A keyframe's labels.npz, and the range of its classes and masks."""
    past, *_ = street(1, 1, OCC3D.shape)
    semantics = past[0, 0].numpy()
    seen = np.ones_like(semantics)
    save_labels(folder / "labels.npz", semantics, seen, seen)
    read = load_labels(folder / "labels.npz")

    def check() -> None:
        for name, array in read._asdict().items():
            assert _problem(name, array) is None

    return median(lambda: load_labels(folder / "labels.npz"), repeats), median(check, repeats)


def clouds(folder: Path, repeats: int, points: int = 34_720) -> tuple[float, float]:
    """A LiDAR keyframe of five sweeps, read and merged; layout, places and poses of them."""
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-40, 40, (points, 5)).astype(np.float32)
    cloud[:, 2] = rng.uniform(-2, 3, points)
    cloud[:, 3:] = rng.integers(0, 32, (points, 2))
    path = folder / "cloud.pcd.bin"
    cloud.tofile(path)
    read, poses, times = load_points(path), np.tile(np.eye(4), (5, 1, 1)), np.arange(5) / 2

    def use() -> None:
        merge([read_sweep(path, None, LIDAR_TO_EGO) for _ in range(5)], np.eye(4))

    def check() -> None:
        broken_motion(poses, times, 1.25)
        for _ in range(5):
            placed(read)
            assert _implausible(read, "xyzir") is None

    return median(use, max(5, repeats // 10)), median(check, repeats)


def live(repeats: int) -> tuple[float, float]:
    """A live step: a frame taken in and a forecast made; what both are held against."""
    config = load_config("configs/demo.py")
    models = Models.of_what_is_there(config)
    forecaster = models.forecaster(None, 1, None, "light", "light", backend="eager")
    past, *_ = street(config.data.past, config.data.future, models.vae.grid_shape)
    frame, pose = past[0, 0], np.eye(4)
    stream = RollingForecaster(forecaster, config.data.past)
    plan = np.tile(pose, (config.data.future, 1, 1))
    clock = iter(range(1_000_000))

    def use() -> None:
        stream.push(frame, pose, next(clock) / 2)
        if stream.ready:
            stream.forecast(plan)

    for _ in range(config.data.past):
        use()
    latents = stream.frames[-1].latents

    def check() -> None:
        check_voxels(frame, models.vae.grid_shape, "a frame", axes=3)
        rigid_matrix(pose, "an ego pose")
        rigid_matrix(LIDAR_TO_EGO, "a LiDAR mounting")
        for matrix in plan:
            rigid_matrix(matrix, "a plan")
        assert torch.isfinite(latents).all()

    return median(use, max(5, repeats // 10)), median(check, repeats)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        rows = {
            "labels of a keyframe": labels(Path(place), repeats),
            "LiDAR of a keyframe, five sweeps": clouds(Path(place), repeats),
            "live step, light parts": live(repeats),
        }
    shown = [
        [what, f"{1e3 * whole:.2f}", f"{1e3 * checks:.2f}", f"{100 * checks / whole:.1f} %"]
        for what, (whole, checks) in rows.items()
    ]
    print(table(["what", "whole, ms", "its checks, ms", "share"], shown))
    worst = max(100 * checks / whole for whole, checks in rows.values())
    print(f"worst share {worst:.1f} %, limit {LIMIT:g} %: {'met' if worst <= LIMIT else 'missed'}")


if __name__ == "__main__":
    main()
