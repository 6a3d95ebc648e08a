"""Rays through a voxel grid: the first occupied voxel, and everything seen on the way."""

import math
from typing import Literal

import numpy as np

from occdistill.compiled import njit

# A ray that runs exactly along an axis never crosses that axis' borders.
_NEVER = np.inf


@njit(cache=True, inline="always")
def _clip(position, direction, size):
    """Entry and exit distance of the slab [0, size] (in voxels)."""
    if direction == 0.0:
        return (-_NEVER, _NEVER) if 0.0 <= position < size else (_NEVER, -_NEVER)
    near, far = -position / direction, (size - position) / direction
    return (near, far) if near < far else (far, near)


@njit(cache=True, inline="always")
def _enter(position, direction, near, size):
    """First cell on one axis, its step, the distance to its border and between borders."""
    cell = min(max(math.floor(position + near * direction), 0), size - 1)
    if direction > 0.0:
        delta = 1.0 / direction
        return cell, 1, (cell + 1 - position) * delta, delta
    if direction < 0.0:
        delta = -1.0 / direction
        return cell, -1, (position - cell) * delta, delta
    return cell, 0, _NEVER, _NEVER


@njit(cache=True)
def _march(grid, start, direction, limit, seen, mark, stop):
    """Walk one ray (all lengths in voxels) up to `limit`: (x, y, z, entry, exit) of its hit.

    `mark`: set every voxel that is entered in `seen`; `stop`: end at an occupied voxel. All state
    is in scalars: small arrays would cost five times the walk itself.
    """
    nx, ny, nz = grid.shape
    x_near, x_far = _clip(start[0], direction[0], nx)
    y_near, y_far = _clip(start[1], direction[1], ny)
    z_near, z_far = _clip(start[2], direction[2], nz)
    near, far = max(0.0, x_near, y_near, z_near), min(limit, x_far, y_far, z_far)
    if near > far:
        return -1, -1, -1, np.inf, np.inf
    x, x_step, x_border, x_delta = _enter(start[0], direction[0], near, nx)
    y, y_step, y_border, y_delta = _enter(start[1], direction[1], near, ny)
    z, z_step, z_border, z_delta = _enter(start[2], direction[2], near, nz)
    entry = near
    while entry <= far:
        if mark:
            seen[x, y, z] = 1
        if stop and grid[x, y, z]:
            return x, y, z, entry, min(x_border, y_border, z_border)
        if x_border <= y_border and x_border <= z_border:
            entry = x_border
            x_border += x_delta
            x += x_step
            if x < 0 or x >= nx:
                break
        elif y_border <= z_border:
            entry = y_border
            y_border += y_delta
            y += y_step
            if y < 0 or y >= ny:
                break
        else:
            entry = z_border
            z_border += z_delta
            z += z_step
            if z < 0 or z >= nz:
                break
    return -1, -1, -1, np.inf, np.inf


@njit(cache=True)
def _cast(grid, start, directions, limit, hits, entry, leave):
    for r in range(directions.shape[0]):
        x, y, z, near, far = _march(grid, start, directions[r], limit, grid, False, True)
        hits[r, 0], hits[r, 1], hits[r, 2] = x, y, z
        entry[r], leave[r] = near, far


@njit(cache=True)
def _view(grid, start, directions, limit, seen):
    for r in range(directions.shape[0]):
        _march(grid, start, directions[r], limit, seen, True, True)


@njit(cache=True)
def _observe(grid, start, ends, seen):
    direction = np.empty(3)
    for r in range(ends.shape[0]):
        length = 0.0
        for a in range(3):
            direction[a] = ends[r, a] - start[a]
            length += direction[a] * direction[a]
        length = math.sqrt(length)
        if not length < np.inf:  # also NaN
            continue
        if length > 0.0:
            for a in range(3):
                direction[a] /= length
        _march(grid, start, direction, length, seen, True, False)


def _in_voxels(points, grid_origin, voxel_size: float) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return np.ascontiguousarray((points - np.asarray(grid_origin, np.float64)) / voxel_size)


def cast_rays(
    occupied: np.ndarray,
    grid_origin,
    voxel_size: float,
    origin,
    directions: np.ndarray,
    max_range: float = np.inf,
    to: Literal["entry", "exit"] = "entry",
) -> tuple[np.ndarray, np.ndarray]:
    """Find the first occupied voxel along each ray (Amanatides and Woo, 1987).

    Args:
        occupied: (X, Y, Z) bool or uint8; non-zero voxels stop a ray.
        grid_origin: (3,) metres; low corner of the grid.
        voxel_size: float; metres.
        origin: (3,) metres; where all rays start; it may lie outside the grid.
        directions: (R, 3); unit vectors.
        max_range: float; metres; a voxel entered farther away is no hit.
        to: "entry" or "exit"; measure to where the ray enters the hit voxel, or to where it leaves
            it.

    Returns:
        hit_index: (R, 3) int32; voxel indices, -1 where nothing is hit.
        distance: (R,) float32; metres to the hit voxel, inf where nothing is hit.
    """
    grid = np.ascontiguousarray(occupied).view(np.uint8)
    start = _in_voxels(origin, grid_origin, voxel_size)
    directions = np.ascontiguousarray(directions, np.float64)
    hits = np.empty(directions.shape, np.int32)
    distance = {"entry": np.empty(len(directions)), "exit": np.empty(len(directions))}
    _cast(grid, start, directions, max_range / voxel_size, hits, *distance.values())
    return hits, (distance[to] * voxel_size).astype(np.float32)


def observed_mask(shape: tuple[int, ...], start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Mark the voxels between a sensor and its measured points, the points' own included.

    What stands between isn't looked at: a measured point has by itself shown the way to it to be
    free.

    Args:
        shape: (X, Y, Z); of the grid.
        start: (3,) float64; the sensor, in voxels from the grid's low corner.
        ends: (R, 3) float64; measured points, likewise, inside the grid or not; rows that are not
            finite are skipped.

    Returns:
        (X, Y, Z) uint8, 1 where a ray passed or ended.
    """
    seen = np.zeros(shape, np.uint8)
    _observe(seen, start, ends, seen)
    return seen


def visible_mask(
    occupied: np.ndarray,
    grid_origin,
    voxel_size: float,
    origin,
    directions: np.ndarray,
    max_range: float,
) -> np.ndarray:
    """Mark the voxels that rays pass through up to and including the first occupied one.

    Parameters as in `cast_rays`; returns (X, Y, Z) uint8, 1 where something is seen.
    """
    grid = np.ascontiguousarray(occupied).view(np.uint8)
    seen = np.zeros(grid.shape, np.uint8)
    start = _in_voxels(origin, grid_origin, voxel_size)
    directions = np.ascontiguousarray(directions, np.float64)
    _view(grid, start, directions, max_range / voxel_size, seen)
    return seen
