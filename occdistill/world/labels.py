"""From the town to Occ3D labels: what accumulated scans would have seen, in the ego grid.

As in Occ3D, a label grid shows surfaces and not volumes (buildings are hollow), holds what was
seen at any time of the scene, and is free where nothing was ever seen. The masks tell what one
sweep, or the six cameras, see at the keyframe itself.
"""

import math

import numpy as np

from occdistill.compiled import njit
from occdistill.data.occ3d import FREE, NUM_CLASSES, OCC3D
from occdistill.data.poses import LIDAR_POSITION
from occdistill.data.raycast import visible_mask
from occdistill.world.agents import KIND, LABELS
from occdistill.world.columns import CELL, EMPTY, SLOTS, Columns
from occdistill.world.sensors import camera_rays, lidar_rays

_SURVEY_AZIMUTHS = 2048
_SURVEY_RANGE = 62.0
_GROUND_RANGE = 46.0
_TOP_SLOPE = math.tan(math.radians(10.67))
UNSEEN = 1e6


@njit(cache=True)
def _survey(columns, eyes, above, below, ground):
    """Sweep the horizon round every eye (x, y, z); see `survey`."""
    nx, ny = columns.ground.shape
    for e in range(eyes.shape[0]):
        for a in range(_SURVEY_AZIMUTHS):
            angle = 2.0 * math.pi * a / _SURVEY_AZIMUTHS
            dx, dy = math.cos(angle), math.sin(angle)
            step = CELL / max(abs(dx), abs(dy))
            horizon, d = -0.6, 0.5 * step
            while d < _SURVEY_RANGE and horizon < _TOP_SLOPE:
                i = int((eyes[e, 0] + d * dx - columns.origin[0]) / CELL)
                j = int((eyes[e, 1] + d * dy - columns.origin[1]) / CELL)
                if i < 0 or j < 0 or i >= nx or j >= ny:
                    break
                floor = columns.height[i, j]
                seen = eyes[e, 2] + horizon * d - floor
                above[i, j] = min(above[i, j], seen)
                top = eyes[e, 2] + _TOP_SLOPE * d - floor
                below[i, j] = max(below[i, j], top)
                slope = (floor - eyes[e, 2]) / d
                if d < _GROUND_RANGE and slope >= horizon - 0.003:
                    ground[i, j] = 1
                horizon = max(horizon, slope)
                for k in range(SLOTS):
                    if columns.label[i, j, k] != EMPTY and columns.low[i, j, k] <= 3:
                        high = floor + columns.high[i, j, k] / 10.0
                        horizon = max(horizon, (high - eyes[e, 2]) / d)
                d += step


def survey(columns: Columns, eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a LiDAR sees of the static world from a series of places (E, 3).

    Returns per cell the lowest and highest visible heights above ground (metres; UNSEEN where
    nothing is visible) and whether the ground is seen.
    """
    above = np.full(columns.ground.shape, UNSEEN, np.float32)
    below = np.full(columns.ground.shape, -UNSEEN, np.float32)
    ground = np.zeros(columns.ground.shape, np.uint8)
    _survey(columns, eyes, above, below, ground)
    return above, below, ground


@njit(cache=True)
def _sight(columns, eye, x, y, z):
    """Whether no static thing stands between the eye and a point."""
    nx, ny = columns.ground.shape
    dx, dy, dz = x - eye[0], y - eye[1], z - eye[2]
    n = int(math.hypot(dx, dy) / 0.3)
    for k in range(2, n - 2):
        f = k / n
        i = int((eye[0] + f * dx - columns.origin[0]) / CELL)
        j = int((eye[1] + f * dy - columns.origin[1]) / CELL)
        if i < 0 or j < 0 or i >= nx or j >= ny:
            return False
        h = (eye[2] + f * dz - columns.height[i, j]) * 10.0
        for m in range(SLOTS):
            solid = columns.label[i, j, m] != EMPTY
            if solid and columns.low[i, j, m] <= h <= columns.high[i, j, m]:
                return False
    return True


@njit(cache=True)
def _spot(columns, eyes, pose, size, reach, alive):
    """alive[k, n]: box n is in reach and in sight of eye k."""
    nx, ny = columns.ground.shape
    for k in range(eyes.shape[0]):
        for n in range(pose.shape[1]):
            x, y, yaw = pose[k, n]
            if math.hypot(x - eyes[k, 0], y - eyes[k, 1]) > reach:
                continue
            i, j = int((x - columns.origin[0]) / CELL), int((y - columns.origin[1]) / CELL)
            if i < 0 or j < 0 or i >= nx or j >= ny:
                continue
            floor = columns.height[i, j]
            c, s = math.cos(yaw), math.sin(yaw)
            for corner in range(5):
                u = size[n, 0] * 0.45 * ((corner % 2) * 2 - 1) * (corner > 0)
                v = size[n, 1] * 0.45 * ((corner > 2) * 2 - 1) * (corner > 0)
                for part in (0.9, 0.5):
                    z = floor + part * size[n, 2]
                    if _sight(columns, eyes[k], x + c * u - s * v, y + s * u + c * v, z):
                        alive[k, n] = True
                        break
                if alive[k, n]:
                    break


def in_sight(columns: Columns, eyes: np.ndarray, pose: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which boxes (K, N) are within 60 m of the eye and not wholly hidden by the static world."""
    seen = np.zeros(pose.shape[:2], np.bool_)
    _spot(columns, eyes, pose, size, 60.0, seen)
    return seen


def annotated(seen: np.ndarray) -> np.ndarray:
    """Which boxes (K, N) an annotator would have drawn: all from first to last sight."""
    started = np.logical_or.accumulate(seen, axis=0)
    unfinished = np.logical_or.accumulate(seen[::-1], axis=0)[::-1]
    return started & unfinished


@njit(cache=True)
def _sample(columns, above, below, ground, rotation, translation, out):
    """Fill `out` (X, Y, Z) from 3 × 3 columns per voxel: any solid wins over the ground."""
    nx, ny = columns.ground.shape
    votes = np.zeros((out.shape[2], NUM_CLASSES), np.int64)
    for a in range(out.shape[0]):
        for b in range(out.shape[1]):
            votes[:] = 0
            for p in range(9):
                x = -40.0 + 0.4 * a + 0.4 / 6.0 * (2 * (p // 3) + 1)
                y = -40.0 + 0.4 * b + 0.4 / 6.0 * (2 * (p % 3) + 1)
                gx = rotation[0, 0] * x + rotation[0, 1] * y + translation[0]
                gy = rotation[1, 0] * x + rotation[1, 1] * y + translation[1]
                plane = rotation[2, 0] * x + rotation[2, 1] * y + translation[2]
                i, j = int((gx - columns.origin[0]) / CELL), int((gy - columns.origin[1]) / CELL)
                if i < 0 or j < 0 or i >= nx or j >= ny:
                    continue
                floor = columns.height[i, j] - plane
                if ground[i, j]:
                    k = math.floor((floor + 1.0) / 0.4)
                    if 0 <= k < out.shape[2]:
                        votes[k, columns.ground[i, j]] += 1
                for m in range(SLOTS):
                    label = columns.label[i, j, m]
                    if label == EMPTY:
                        break
                    low = floor + max(columns.low[i, j, m] / 10.0, above[i, j])
                    high = floor + min(columns.high[i, j, m] / 10.0, below[i, j])
                    if high - low < 0.05:
                        continue
                    # A voxel counts as filled from 0.12 m of it on; flat things where they are.
                    thin = min(0.12, (high - low) / 2)
                    first = max(math.floor((low + thin + 1.0) / 0.4), 0)
                    last = min(math.floor((high - thin + 1.0) / 0.4), out.shape[2] - 1)
                    for k in range(first, last + 1):
                        votes[k, label] += 1
            for k in range(out.shape[2]):
                best, most = FREE, 0
                for label in range(FREE):
                    solid = label < 11 or label > 14
                    weight = votes[k, label] * (10 if solid else 1)
                    if weight > most:
                        best, most = label, weight
                out[a, b, k] = best


_CAR, _VAN, _TRUCK = KIND["car"], KIND["van"], KIND["truck"]
_BUS, _BENDY_BUS = KIND["bus"], KIND["bendy_bus"]
_TRAILER, _DIGGER = KIND["trailer"], KIND["construction_vehicle"]
_MOTORCYCLE, _BICYCLE = KIND["motorcycle"], KIND["bicycle"]


@njit(cache=True)
def solid_part(kind, u, v, w, length, width, height):
    """Whether a point of a box (u, v in ±½ along length and width, w in 0…1) is in the body."""
    if kind == _CAR:
        if w < 0.56:
            return True
        return -0.47 + 0.15 * (w - 0.56) < u < 0.24 - 0.3 * (w - 0.56) and abs(v) < 0.46
    if kind == _VAN:
        return w < 0.55 or u < 0.42 - 0.5 * (w - 0.55)
    if kind == _DIGGER:
        if w < 0.32:
            return u < 0.3
        if u < 0.12:
            return w < 0.82
        rise = 1.0 - 2.2 * (u - 0.12)
        return abs(v) < 0.22 and rise - 0.3 < w < rise
    if kind == _MOTORCYCLE or kind == _BICYCLE:
        return w < 0.62 or -0.28 < u < 0.14
    big = kind == _TRUCK or kind == _BUS or kind == _BENDY_BUS or kind == _TRAILER
    if not big:
        return True
    if kind == _TRUCK and 0.19 < u < 0.24:
        return w < 0.35
    if kind == _TRUCK and u >= 0.24:
        return w < 0.85
    if kind == _TRAILER and w < 0.28:
        return u < -0.18 or u > 0.38
    # Scans show the skin of large vehicles only.
    inside = abs(u) * length < length / 2 - 0.75 and abs(v) * width < width / 2 - 0.75
    return not (inside and 0.2 < w < 1.0 - 0.6 / height)


@njit(cache=True)
def _draw(out, kind, label, x, y, z, yaw, size):
    """Draw one body into the grid; x, y, z (its foot) and yaw in the ego frame."""
    c, s = math.cos(yaw), math.sin(yaw)
    reach = math.hypot(size[0], size[1]) / 2 + 0.3
    a0, a1 = int((x - reach + 40.0) / 0.4), int((x + reach + 40.0) / 0.4) + 1
    b0, b1 = int((y - reach + 40.0) / 0.4), int((y + reach + 40.0) / 0.4) + 1
    k0, k1 = int((z + 1.0) / 0.4), int((z + size[2] + 1.0) / 0.4) + 1
    for a in range(max(a0, 0), min(a1, out.shape[0])):
        for b in range(max(b0, 0), min(b1, out.shape[1])):
            for k in range(max(k0, 0), min(k1, out.shape[2])):
                for p in range(8):
                    dx = -40.0 + 0.4 * a + 0.1 + 0.2 * (p % 2) - x
                    dy = -40.0 + 0.4 * b + 0.1 + 0.2 * (p // 2 % 2) - y
                    u, v = (c * dx + s * dy) / size[0], (-s * dx + c * dy) / size[1]
                    h = -1.0 + 0.4 * k + 0.1 + 0.2 * (p // 4) - z
                    if h < 0.2 or h > size[2] or abs(u) > 0.5 or abs(v) > 0.5:
                        continue
                    if solid_part(kind, u, v, h / size[2], size[0], size[1], size[2]):
                        out[a, b, k] = label
                        break


@njit(cache=True)
def _draw_all(out, kinds, labels, feet, yaws, sizes):
    for n in range(len(kinds)):
        if abs(feet[n, 0]) < 48.0 and abs(feet[n, 1]) < 48.0:
            x, y, z = feet[n, 0], feet[n, 1], feet[n, 2]
            _draw(out, kinds[n], labels[n], x, y, z, yaws[n], sizes[n])


def label_grid(
    columns: Columns,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    pose: np.ndarray,
    kinds: np.ndarray,
    feet: np.ndarray,
    yaws: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """Semantics (200, 200, 16) uint8 in the ego frame.

    Args:
        columns, seen: the static world and its `survey`.
        pose: (4, 4); ego → global.
        kinds, feet, yaws, sizes: boxes to draw: kind (N,), foot point in the ego frame (N, 3), yaw
            in it, l, w, h.
    """
    out = np.empty(OCC3D.shape, np.uint8)
    _sample(columns, *seen, pose[:3, :3].copy(), pose[:3, 3].copy(), out)
    _draw_all(out, kinds, LABELS[kinds], feet, yaws, sizes)
    return out


def visibility(semantics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mask_lidar and mask_camera: voxels that rays reach through the labels, as in Occ3D."""
    solid = semantics != FREE
    grid = (OCC3D.origin, OCC3D.voxel_size)
    rays = lidar_rays().reshape(-1, 3)
    lidar = visible_mask(solid, *grid, LIDAR_POSITION, rays, 70.0)
    camera = np.zeros_like(lidar)
    for position, rays in camera_rays():
        camera |= visible_mask(solid, *grid, position, rays, 70.0)
    return lidar, camera
