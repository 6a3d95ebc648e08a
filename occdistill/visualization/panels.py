"""Forecasts side by side: stills as PNG, animations as GIF."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from occdistill.data.occ3d import FREE, Grid
from occdistill.errors import UserError
from occdistill.store import atomic
from occdistill.visualization import bev
from occdistill.visualization.open3d_scene import RenderError, Viewer, render
from occdistill.visualization.palette import COLOURS, NAMES, gif_palette

INTERVAL = 0.5  # seconds between keyframes
INK, GREY = (30, 32, 38), (110, 114, 122)
_log = logging.getLogger(__name__)


def pictures(
    frames: Sequence[np.ndarray], grid: Grid, size: tuple[int, int], style: str = "3d"
) -> np.ndarray:
    """Pictures of frames; from above where Open3D can't render, with a warning that says why.

    Args:
        frames: uint8 `(X, Y, Z)` each.
        grid: where the voxels are.
        size: width and height in pixels; pictures from above are as large as fits into it.
        style: `3d` or `bev`.

    Returns:
        uint8 `(N, height, width, 3)`.
    """
    if style == "3d":
        try:
            return render(frames, grid, size)
        except RenderError as error:
            _log.warning("%s; drawing a bird's-eye view instead", error)
    return np.stack([bev.picture(frame, grid, size) for frame in frames])


def save(
    path: str | Path,
    past: np.ndarray,
    rows: Mapping[str, np.ndarray],
    grid: Grid,
    size: tuple[int, int] = (480, 360),
    style: str = "3d",
    notes: Mapping[str, Sequence[str]] | None = None,
    across: bool = False,
) -> None:
    """Write forecasts of one clip side by side.

    A GIF plays the past, then each future frame, in all panels at once. A PNG has a line per
    forecast: now, and the future at whole seconds.

    Args:
        path: ends in `.gif` or `.png`.
        past: uint8 `(P, X, Y, Z)`.
        rows: caption to uint8 `(F, X, Y, Z)`; the truth first. Ids are classes, or `palette.errors`.
        grid: where the voxels are.
        size: of a panel, pixels.
        style: `3d` or `bev`.
        notes: caption to a remark per future frame, such as its score.
        across: in a PNG a column per forecast instead, and a line per second, without now.

    Raises:
        UserError: another file ending.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".png"):
        raise UserError(f"{path.name} is neither a .gif nor a .png file")
    with atomic(path) as part:
        if path.suffix == ".gif":
            _save_gif(part, animation(past, rows, grid, size, style, notes))
        else:
            still(past, rows, grid, size, style, notes, across).save(part, optimize=True)


def animation(
    past: np.ndarray,
    rows: Mapping[str, np.ndarray],
    grid: Grid,
    size: tuple[int, int],
    style: str = "3d",
    notes: Mapping[str, Sequence[str]] | None = None,
) -> list[Image.Image]:
    """One sheet per keyframe, past and future; arguments as for `save`."""
    frames = len(next(iter(rows.values())))
    drawn = pictures([*past, *(f for row in rows.values() for f in row)], grid, size, style)
    before, after = drawn[: len(past)], drawn[len(past) :].reshape(-1, frames, *drawn.shape[1:])
    columns = 2 if len(rows) in (2, 4) else min(len(rows), 3)
    key = _legend(columns * drawn.shape[2], [past, *rows.values()])
    sheets = []
    for i in range(-len(past) + 1, frames + 1):
        panels = [
            _panel(after[k, i - 1], _noted(name, notes, i - 1), _when(INTERVAL * i), True)
            if i > 0
            else _panel(before[i - 1], name, _when(INTERVAL * i), False)
            for k, name in enumerate(rows)
        ]
        sheets.append(_sheet(panels, columns, key))
    return sheets


def still(
    past: np.ndarray,
    rows: Mapping[str, np.ndarray],
    grid: Grid,
    size: tuple[int, int],
    style: str = "3d",
    notes: Mapping[str, Sequence[str]] | None = None,
    across: bool = False,
) -> Image.Image:
    """A line per forecast, a column per second, or the other way; arguments as for `save`."""
    seconds = round(1 / INTERVAL)
    frames = len(next(iter(rows.values())))
    chosen = list(range(seconds - 1, frames, seconds)) or [frames - 1]
    lines = [
        [
            (name, 0, past[-1]),
            *((_noted(name, notes, i), INTERVAL * (i + 1), row[i]) for i in chosen),
        ]
        for name, row in rows.items()
    ]
    if across:
        lines = [*zip(*lines)][1:]
    return sheet(lines, grid, size, style)


def play(past: np.ndarray, rows: Mapping[str, np.ndarray], grid: Grid) -> None:
    """Play a clip in a window until it is closed, its panels in a row; arguments as for `save`."""
    window = Viewer(grid)
    print("in the window, left to right:", ", ".join(rows))
    frames = [[frame] * len(rows) for frame in past] + [list(step) for step in zip(*rows.values())]
    alive = True
    while alive:
        for step in frames:
            alive = window.show(*step)
            until = time.monotonic() + INTERVAL
            while alive and time.monotonic() < until:
                alive = window.poll()
                time.sleep(0.02)
            if not alive:
                break
    window.close()


def sheet(
    lines: Sequence[Sequence[tuple[str, float, np.ndarray]]],
    grid: Grid,
    size: tuple[int, int],
    style: str = "bev",
) -> Image.Image:
    """Frames in lines, each with a caption.

    Args:
        lines: name, seconds from now, and voxels uint8 `(X, Y, Z)` of each frame.
        grid: where the voxels are.
        size: of a panel, pixels.
        style: `3d` or `bev`.
    """
    frames = [frame for line in lines for _, _, frame in line]
    images = pictures(frames, grid, size, style)
    drawn = iter(images)
    columns, panels = max(map(len, lines)), []
    for line in lines:
        panels += [_panel(next(drawn), name, _when(at), at > 0) for name, at, _ in line]
        panels += [Image.new("RGB", panels[0].size, "white")] * (columns - len(line))
    return _sheet(panels, columns, _legend(columns * images.shape[2], frames))


def _noted(name: str, notes: Mapping[str, Sequence[str]] | None, frame: int) -> str:
    return f"{name}: {notes[name][frame]}" if notes and notes.get(name) else name


def _when(seconds: float) -> str:
    return f"{seconds:+.1f} s" if seconds else "now"


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _panel(picture: np.ndarray, name: str, time: str, forecast: bool) -> Image.Image:
    """A picture with its caption on top: the name to the left, the time to the right."""
    bar = max(20, picture.shape[0] // 14)
    panel = Image.new("RGB", (picture.shape[1], picture.shape[0] + bar), "white")
    panel.paste(Image.fromarray(picture), (0, bar))
    draw, font, middle = ImageDraw.Draw(panel), _font(round(0.62 * bar)), bar // 2
    draw.text((bar // 3, middle), name, INK, font, anchor="lm")
    draw.text((panel.width - bar // 3, middle), time, INK if forecast else GREY, font, anchor="rm")
    return panel


def _sheet(panels: Sequence[Image.Image], columns: int, key: Image.Image) -> Image.Image:
    width, height = panels[0].size
    lines = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * width, lines * height + key.height), "white")
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i % columns * width, i // columns * height))
    sheet.paste(key, (0, lines * height))
    return sheet


def _legend(width: int, grids: Sequence[np.ndarray]) -> Image.Image:
    """What occurs, with its colours, in as many lines as it needs; then which classes don't."""
    present = np.zeros(256, bool)
    for grid in grids:
        present |= np.bincount(grid.reshape(-1), minlength=256) > 0
    line, box = 20, 11
    font = _font(12)
    places, x, y = [], 8, 0
    there = [c for c in np.flatnonzero(present[: len(COLOURS)]) if c != FREE]
    for c in (*there, *np.flatnonzero(~present[:FREE])):
        name = NAMES[c] if c in there else f"{NAMES[c]} (absent)"
        needed = box + 5 + round(font.getlength(name)) + 14
        if x + needed > width:
            x, y = 8, y + line
        places.append((c, name, x, y))
        x += needed
    key = Image.new("RGB", (width, y + line + 4), "white")
    draw = ImageDraw.Draw(key)
    for c, name, x, y in places:
        top = y + (line - box) // 2
        draw.rectangle((x, top, x + box, top + box), tuple(COLOURS[c].tolist()), GREY)
        ink = INK if c in there else GREY
        draw.text((x + box + 5, y + line // 2), name, ink, font, anchor="lm")
    return key


def _save_gif(path: Path, sheets: Sequence[Image.Image]) -> None:
    """Half a second a frame, a longer look at the last one, one palette for all."""
    palette = gif_palette()
    first, *rest = (sheet.quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets)
    first.save(
        path, save_all=True, append_images=rest, loop=0, optimize=True,
        duration=[round(1000 * INTERVAL)] * len(rest) + [1500],
    )  # fmt: skip
