import logging

import numpy as np
import pytest
from PIL import Image

from occdistill.data.occ3d import FREE, Grid
from occdistill.errors import UserError
from occdistill.visualization import panels
from occdistill.visualization.open3d_scene import RenderError

GRID = Grid((12, 12, 4), 1.0, (-6.0, -6.0, 0.0))


def clip():
    """A car that moves one voxel a frame, over 4 past and 6 future frames; four rows."""
    frames = np.full((10, *GRID.shape), FREE, np.uint8)
    frames[..., 0] = 11
    for i in range(10):
        frames[i, i, 2, 1] = 4
    names = ("truth", "teacher, 10 steps", "teacher, 1 step", "student, 1 step")
    return frames[:4], dict.fromkeys(names, frames[4:])


def test_a_gif_plays_past_and_future_in_all_panels(tmp_path):
    past, rows = clip()
    panels.save(tmp_path / "new" / "clip.gif", past, rows, GRID, (80, 60), style="bev")
    with Image.open(tmp_path / "new" / "clip.gif") as gif:
        assert gif.n_frames == 10
        assert gif.size[0] == 2 * 80 and gif.size[1] >= 2 * 60
        assert gif.info["duration"] == 500 and gif.info["loop"] == 0
        pictures = []
        for i in range(10):
            gif.seek(i)
            pictures.append(np.asarray(gif.convert("RGB")))
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:]))


def test_a_png_has_a_line_per_forecast_and_a_column_per_second(tmp_path):
    past, rows = clip()
    panels.save(tmp_path / "clip.png", past, rows, GRID, (80, 60), style="bev")
    with Image.open(tmp_path / "clip.png") as sheet:
        assert sheet.size[0] == 4 * 80  # now, 1 s, 2 s, 3 s
        assert sheet.size[1] >= 4 * 60


def test_without_open3d_a_birds_eye_view_and_a_reason(monkeypatch, caplog):
    def broken(*_):
        raise RenderError("apt-get install libegl1")

    monkeypatch.setattr(panels, "render", broken)
    past, _ = clip()
    with caplog.at_level(logging.WARNING):
        drawn = panels.pictures(past, GRID, (80, 60))
    assert "libegl1" in caplog.text
    assert np.array_equal(drawn, panels.pictures(past, GRID, (80, 60), style="bev"))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="clip.mp4"):
        panels.save(tmp_path / "clip.mp4", *clip(), GRID)
