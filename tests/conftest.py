"""Shared fixtures, and the markers' rules."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Two test processes on two cores must not start two times two threads.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config, items):
    no_slow = pytest.mark.skip(reason="slow: run with --slow")
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(no_slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A small embedded world: three training scenes and one validation scene of 12 keyframes."""
    from occdistill.world import make_world

    out = tmp_path_factory.mktemp("world")
    make_world(out, scenes=3, val_scenes=1, seed=7, keyframes=12, workers=1)
    return out


@pytest.fixture(scope="session")
def real_sweeps() -> list:
    """The LiDAR of 32 keyframes of a real nuScenes drive, where somebody has them.

    The folder, beside the repository or named by OCCDISTILL_REAL_LIDAR, holds 000.npz … with xyz
    (N, 3) in the LiDAR frame, label (N,) of merged lidarseg classes and lidar_to_first (4, 4).
    """
    from occdistill.data.voxelize import NO_VOTE, Sweep

    beside = Path(__file__).parents[2] / "shared" / "real" / "nuscenes_lidar"
    folder = Path(os.environ.get("OCCDISTILL_REAL_LIDAR", beside))
    files = sorted(folder.glob("[0-9]*.npz"))
    if not files:
        pytest.skip(f"no real LiDAR: {folder} holds no 000.npz …")
    # road, sidewalk, building, barrier/cone, vegetation, person, two-wheeler, car, truck, bus, none
    classes = np.array([11, 13, 15, 1, 16, 7, 2, 4, 10, 3, NO_VOTE], np.uint8)
    frames = [np.load(file) for file in files]
    return [Sweep(f["xyz"], classes[f["label"]], f["lidar_to_first"]) for f in frames]
