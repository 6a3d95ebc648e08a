"""Bird's-eye pictures with numpy alone: for machines that can't render, and for quick looks."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from occdistill.data.occ3d import FREE, Grid
from occdistill.visualization.palette import COLOURS

EGO_HALF = (2.05, 0.95)  # metres, about the ego car
EGO_AHEAD = 1.4  # from the rear axle, where the ego frame has its origin, to the car's middle


def topmost(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and height index of the highest occupied voxel of each column.

    Args:
        voxels: uint8 `(X, Y, Z)`.

    Returns:
        Classes uint8 `(X, Y)`, free where a column is empty, and heights int `(X, Y)`, there -1.
    """
    occupied = voxels != FREE
    height = voxels.shape[2] - 1 - occupied[:, :, ::-1].argmax(2)
    height = np.where(occupied.any(2), height, -1)
    classes = np.take_along_axis(voxels, height.clip(0)[..., None], 2)[..., 0]
    return np.where(height < 0, np.uint8(FREE), classes), height


def picture(voxels: np.ndarray, grid: Grid, size: tuple[int, int], ego: bool = True) -> np.ndarray:
    """A frame from above, forward up: class colours, lighter the higher, edges shaded.

    Args:
        voxels: uint8 `(X, Y, Z)`.
        grid: where the voxels are.
        size: width and height in pixels that the map is fitted into.
        ego: also draw the ego car.

    Returns:
        uint8 `(height, width, 3)`, the map alone: as wide or as high as `size`, of the grid's shape.
    """
    classes, height = topmost(voxels)
    light = 0.72 + 0.28 * height.clip(0) / (voxels.shape[2] - 1)
    step = height - np.roll(height, 1, axis=1)  # light from the right, where a column stands up
    light = light * np.where(step > 0, 1.0, np.where(step < 0, 0.80, 0.93))
    colours = COLOURS[classes] * light[..., None]
    colours[height < 0] = COLOURS[FREE]
    upright = colours[::-1, ::-1].round().astype(np.uint8)  # forward up, left to the left

    scale = min(size[0] / grid.shape[1], size[1] / grid.shape[0])
    map_size = (round(grid.shape[1] * scale), round(grid.shape[0] * scale))
    chart = Image.fromarray(upright).resize(map_size, Image.Resampling.NEAREST)
    if ego:
        _draw_ego(chart, grid, scale / grid.voxel_size)
    return np.asarray(chart)


def _draw_ego(chart: Image.Image, grid: Grid, pixels_per_metre: float) -> None:
    front, left = grid.upper[:2]

    def pixel(x: float, y: float) -> tuple[float, float]:
        return (left - y) * pixels_per_metre, (front - x) * pixels_per_metre

    (length, width), ahead = EGO_HALF, EGO_AHEAD
    nose, tail = ahead + length, ahead - length
    outline = [(tail, -width), (tail, width), (nose - 1, width), (nose, 0), (nose - 1, -width)]
    ImageDraw.Draw(chart).polygon(
        [pixel(*corner) for corner in outline], fill=(60, 64, 72), outline="white"
    )
