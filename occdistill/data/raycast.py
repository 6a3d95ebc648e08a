"""Rays through a voxel grid: the first occupied voxel, and everything seen on the way."""

import math

import numpy as np
from numba import njit

# A ray that runs exactly along an axis never crosses that axis' borders.
_NEVER = np.inf


@njit(cache=True, inline="always")
def _axis(position, direction, size):
    """Clip one axis: entry and exit distance of the slab [0, size] (in voxels)."""
    if direction == 0.0:
        if position < 0.0 or position >= size:
            return _NEVER, -_NEVER
        return -_NEVER, _NEVER
    near = -position / direction
    far = (size - position) / direction
    return (near, far) if near < far else (far, near)


@njit(cache=True)
def _march(grid, start, direction, limit, seen, mark, stop):
    """Walk one ray (all lengths in voxels) up to `limit`; return (x, y, z, distance) of its hit.

    `mark`: set every voxel that is entered in `seen`; `stop`: end at an occupied voxel.
    """
    near, far = 0.0, limit
    for a in range(3):
        lo, hi = _axis(start[a], direction[a], grid.shape[a])
        near, far = max(near, lo), min(far, hi)
    if near > far:
        return -1, -1, -1, np.inf
    cell = np.empty(3, np.int64)
    step = np.empty(3, np.int64)
    border = np.empty(3)
    delta = np.empty(3)
    for a in range(3):
        p = start[a] + near * direction[a]
        cell[a] = min(max(int(math.floor(p)), 0), grid.shape[a] - 1)
        if direction[a] > 0.0:
            step[a] = 1
            delta[a] = 1.0 / direction[a]
            border[a] = (cell[a] + 1 - start[a]) * delta[a]
        elif direction[a] < 0.0:
            step[a] = -1
            delta[a] = -1.0 / direction[a]
            border[a] = (start[a] - cell[a]) * delta[a]
        else:
            step[a] = 0
            delta[a] = _NEVER
            border[a] = _NEVER
    entry = near
    while entry <= far:
        if mark:
            seen[cell[0], cell[1], cell[2]] = 1
        if stop and grid[cell[0], cell[1], cell[2]]:
            return cell[0], cell[1], cell[2], entry
        a = 0
        if border[1] < border[a]:
            a = 1
        if border[2] < border[a]:
            a = 2
        entry = border[a]
        border[a] += delta[a]
        cell[a] += step[a]
        if cell[a] < 0 or cell[a] >= grid.shape[a]:
            break
    return -1, -1, -1, np.inf


@njit(cache=True)
def _cast(grid, start, directions, limit, hits, distance):
    for r in range(directions.shape[0]):
        x, y, z, d = _march(grid, start, directions[r], limit, grid, False, True)
        hits[r, 0], hits[r, 1], hits[r, 2] = x, y, z
        distance[r] = d


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
    max_range: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the first occupied voxel along each ray (Amanatides and Woo, 1987).

    Parameters
    ----------
    occupied : (X, Y, Z) bool or uint8
        Non-zero voxels stop a ray.
    grid_origin : (3,) metres
        Low corner of the grid.
    voxel_size : float
        Metres.
    origin : (3,) metres
        Where all rays start; it may lie outside the grid.
    directions : (R, 3)
        Unit vectors.
    max_range : float
        Metres; a voxel entered farther away is no hit.

    Returns
    -------
    hit_index : (R, 3) int32
        Voxel indices, -1 where nothing is hit.
    distance : (R,) float32
        Metres to where the ray enters the hit voxel, inf where nothing is hit.
    """
    grid = np.ascontiguousarray(occupied).view(np.uint8)
    start = _in_voxels(origin, grid_origin, voxel_size)
    directions = np.ascontiguousarray(directions, np.float64)
    hits = np.empty(directions.shape, np.int32)
    distance = np.empty(len(directions))
    _cast(grid, start, directions, max_range / voxel_size, hits, distance)
    return hits, (distance * voxel_size).astype(np.float32)


def observed_mask(
    occupied: np.ndarray, grid_origin, voxel_size: float, origin, endpoints: np.ndarray
) -> np.ndarray:
    """Mark the voxels between a sensor and its measured points, the points' own included.

    Parameters
    ----------
    occupied : (X, Y, Z)
        Only its shape is used: a measured point has by itself shown the way to it to be free.
    grid_origin, voxel_size, origin
        As in `cast_rays`.
    endpoints : (R, 3) metres
        Measured points, inside the grid or not; rows that are not finite are skipped.

    Returns
    -------
    (X, Y, Z) uint8, 1 where a ray passed or ended.
    """
    seen = np.zeros(np.shape(occupied), np.uint8)
    start = _in_voxels(origin, grid_origin, voxel_size)
    _observe(seen, start, _in_voxels(endpoints, grid_origin, voxel_size), seen)
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
