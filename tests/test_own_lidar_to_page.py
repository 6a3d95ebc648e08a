"""Somebody with a sensor and nothing else: a folder of unlabelled clouds to a page in a browser."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Browser, find_chromium

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_from_unlabelled_clouds_to_a_page(tiny_world, tmp_path):
    pytest.importorskip("spconv")
    if find_chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from occdistill.data.scenes import load_index
    from occdistill.data.voxelize import load_points

    (scene,) = load_index(tiny_world, "v1.0-synthetic", "val")
    folder = tmp_path / "my sweeps"
    folder.mkdir()
    for i, frame in enumerate(scene.keyframes):  # as KITTI has them: x ahead, four numbers a point
        x, y, z = load_points(tiny_world / frame.lidar)[:, :3].T
        np.stack([y, -x, z, 0 * z], 1).astype(np.float32).tofile(folder / f"{i}.bin")
    axes = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    poses = np.stack([frame.lidar_to_global @ axes for frame in scene.keyframes])
    np.savetxt(tmp_path / "poses.txt", poses[:, :3].reshape(-1, 12))

    command = [
        sys.executable, ROOT / "tools" / "forecast.py", "--lidar", folder, "--rate", "2", "--nfe",
        "1", "--poses", tmp_path / "poses.txt", "--clip", "5", "--out", tmp_path / "f.html",
        "--save", tmp_path / "forecasts",
    ]  # fmt: skip
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120
    saved = sorted(path.name for path in (tmp_path / "forecasts" / "my sweeps").iterdir())
    assert len(saved) == 9
    with Browser((800, 500)) as browser:
        browser.open(tmp_path / "f.html")
        shown = browser.run("document.body.innerText")
        assert "my sweeps/5" in shown and "LiDAR, as it came" in shown and "12 sweeps" in shown
        road = "scene.volumes[scene.panels[1].frames[frame]].filter(v => v == 11).length"
        assert browser.run(road) > 300
        assert browser.errors == []
