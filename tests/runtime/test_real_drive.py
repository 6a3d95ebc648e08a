"""A real 10 Hz drive through the live loop, where somebody has it (benchmarks/real_drive.py)."""

import importlib.util
from pathlib import Path

import pytest

from occdistill.build.builders import build_transform
from occdistill.build.config import load_config
from occdistill.build.models import Models

ROOT = Path(__file__).parents[2]


@pytest.fixture
def real_drive():
    path = ROOT / "benchmarks" / "real_drive.py"
    spec = importlib.util.spec_from_file_location("real_drive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.drive_folder() is None:
        pytest.skip(f"no real drive: {module.PLACE} holds no poses.npz (OCCDISTILL_REAL_DRIVE)")
    return module


@pytest.mark.slow
def test_every_sweep_of_a_drive_ends_somewhere_and_memory_is_flat(real_drive):
    config = load_config(ROOT / "configs" / "demo.py")
    models = Models(config)
    forecaster = models.forecaster(
        ROOT / "data/demo-weights/student.pth", decoder="light", encoder="light"
    )
    packets = real_drive.drive(
        real_drive.drive_folder(), build_transform(config), forecaster.codec.plan, 3, laps=2
    )
    report, memory = real_drive.play(forecaster, config.data.past, packets, queue=3)
    frames = report["frames"]
    ended = sum(frames[name] for name in ("dropped", "bad", "filling", "forecasts", "waiting"))
    # 107 sweeps a lap, of which the last 3 s lack a plan
    assert frames["arrived"] == ended == 2 * (107 - 30) and frames["bad"] == 0
    assert report["jumps"] == 1  # back to the start
    assert frames["forecasts"] >= 10 and frames["forecasts"] == len(memory)
    half = len(memory) // 2
    assert max(memory[half:]) - max(memory[:half]) < 16  # MiB


@pytest.mark.slow
def test_its_street_is_there(real_drive):
    """The sensor's height and axes are right: most columns ahead have their ground low down."""
    config = load_config(ROOT / "configs" / "demo.py")
    packets = real_drive.drive(real_drive.drive_folder(), build_transform(config), 0, 5)
    voxels = [next(packets) for _ in range(20)][-1].voxels()
    grid = build_transform(config).grid
    x, y = voxels.shape[:2]
    filled = voxels != 17
    ahead = filled[x // 2 + 3 : x // 2 + 15, y // 2 - 3 : y // 2 + 3]
    ground = int((0.0 - grid.origin[2]) // grid.voxel_size)
    lowest = ahead.float().argmax(-1)[ahead.any(-1)]
    assert ahead.any(-1).float().mean() > 0.8
    assert (lowest - ground).abs().float().mean() <= 1
