import logging

import numpy as np
import pytest
from PIL import Image

from occdistill.data.occ3d import CLASS_NAMES, FREE, PALETTE, Grid
from occdistill.errors import UserError
from occdistill.visualization import panels
from occdistill.visualization.open3d_scene import RenderError, missing_packages
from occdistill.visualization.palette import (
    COLOURS,
    CONFUSED,
    GIF_DISTANCE,
    INVENTED,
    LEVEL_NAMES,
    LEVELS,
    MISSED,
    NAMES,
    RIGHT,
    errors,
    levels,
)

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
        assert gif.size[0] == 2 * 60 and gif.size[1] >= 2 * 60  # maps fill their panels
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
        assert sheet.size[0] == 4 * 60  # now, 1 s, 2 s, 3 s
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


def test_a_png_may_have_a_column_per_forecast(tmp_path):
    past, rows = clip()
    panels.save(tmp_path / "clip.png", past, rows, GRID, (80, 60), style="bev", across=True)
    panels.save(tmp_path / "down.png", past, rows, GRID, (80, 60), style="bev")
    with Image.open(tmp_path / "clip.png") as sheet, Image.open(tmp_path / "down.png") as other:
        assert sheet.size[0] == 4 * 60  # truth and three forecasts; now isn't shown
        across, down = np.asarray(sheet), np.asarray(other)
    at = 60 + 20  # a panel and its caption
    assert (across[20:at, 60:120] == down[at + 20 : 2 * at, 60:120]).all()  # at 1 s, the second row


def test_levels_are_quarters_with_their_upper_ends():
    values = np.array([0.0, 0.01, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0])
    filled = np.array([False, *[True] * 7])
    first = LEVELS.start
    expected = [FREE, first, first, first + 1, first + 1, first + 2, first + 3, first + 3]
    assert levels(values, filled).tolist() == expected
    assert levels(np.zeros(1), np.ones(1, bool)).tolist() == [first]  # nobody doubts it
    assert [NAMES[i] for i in LEVELS] == list(LEVEL_NAMES) and len(NAMES) == len(COLOURS)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="clip.mp4"):
        panels.save(tmp_path / "clip.mp4", *clip(), GRID)


def all_classes():
    """Fields of every class on a big road, as most of a street is road."""
    grid = Grid((60, 60, 4), 1.0, (-30.0, -30.0, 0.0))
    frame = np.full(grid.shape, FREE, np.uint8)
    frame[..., 0] = 11
    for c in range(FREE):
        x, y = 7 * (c // 5) + 32, 7 * (c % 5) + 13  # ahead of the car
        frame[x : x + 5, y : y + 5, 0:2] = c
    return grid, frame


def near(image, colour, within):
    """Pixels that are this colour at most so far from it, in any light that pictures have."""
    light = np.linspace(0.38, 1, 60)[:, None, None] * np.asarray(colour, float)
    codes, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return int(counts[(np.abs(codes - light).max(-1) <= within).any(0)].sum())


@pytest.mark.parametrize("style", ["bev", "3d"])
@pytest.mark.parametrize("ending, within", [("gif", GIF_DISTANCE), ("png", 3)])
def test_every_class_keeps_its_colour_in_map_and_legend(tmp_path, style, ending, within):
    if style == "3d" and missing_packages():
        pytest.skip("Open3D lacks system packages")
    grid, frame = all_classes()
    path = tmp_path / f"f.{ending}"
    panels.save(path, frame[None], {"truth": frame[None]}, grid, (300, 300), style)
    with Image.open(path) as image:
        image.seek(image.n_frames - 1 if ending == "gif" else 0)
        drawn = np.asarray(image.convert("RGB")).astype(int)
    legend, chart = drawn[321:], drawn[20:320]
    for c in range(FREE):
        if c == 15:
            continue  # manmade is nearly white, as paper is; its field is told from the road's
        assert near(chart, PALETTE[c], within) > 30, CLASS_NAMES[c]
        off = np.abs(legend - PALETTE[c]).max(-1)
        assert (off <= within).sum() >= 100, CLASS_NAMES[c]


def test_the_legend_says_which_classes_are_absent(tmp_path):
    _, frame = all_classes()
    road = np.where(frame == FREE, np.uint8(FREE), np.uint8(11))
    full, few = (np.asarray(panels._legend(600, [x])) for x in (frame, road))
    for c in range(1, FREE):
        box = (full == PALETTE[c]).all(-1).sum(), (few == PALETTE[c]).all(-1).sum()
        assert min(box) >= 90  # both name all; their ink differs
    assert full.shape[0] < few.shape[0]  # "(absent)" takes room


def test_errors_are_told_apart():
    truth = np.array([FREE, 4, 4, FREE, 4], np.uint8)
    forecast = np.array([FREE, 4, FREE, 4, 11], np.uint8)
    assert errors(truth, forecast).tolist() == [FREE, RIGHT, MISSED, INVENTED, CONFUSED]
    assert len({tuple(COLOURS[c]) for c in range(len(COLOURS))}) == len(COLOURS)


def test_notes_stand_in_the_captions(tmp_path):
    past, rows = clip()
    plain = panels.still(past, rows, GRID, (200, 200), "bev")
    noted = panels.still(past, rows, GRID, (200, 200), "bev", {"teacher, 1 step": ["mIoU 1"] * 6})
    differs = (np.asarray(plain) != np.asarray(noted)).any(-1)
    assert differs[2 * (220) : 2 * 220 + 20, 200:].any() and not differs[: 2 * 220].any()
    assert not differs[:, :200].any()  # nothing is known of now
