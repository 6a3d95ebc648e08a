"""A rotating 32-beam LiDAR in the town, like nuScenes' HDL-32E.

Rays go through the columns cell by cell and against the bodies of all boxes; ranges get noise,
some echoes are lost, and leaves let some light through.
"""

import math
from typing import NamedTuple

import numpy as np

from occdistill.compiled import njit
from occdistill.data.poses import LIDAR_POSITION
from occdistill.world.agents import KIND, KINDS
from occdistill.world.columns import CELL, EMPTY, SLOTS, Columns, cell_noise
from occdistill.world.labels import solid_part
from occdistill.world.sensors import lidar_rays

MAX_RANGE = 70.0
_NOISE = 0.02
_NOTHING, _STATIC = -2, -1
# What the sensor sees of the car that carries it: the roof about its mast (l, w, h).
_ROOF = (1.3, 0.9, 1.56)

# The categories of nuScenes-lidarseg; their order gives the ids.
LIDARSEG_NAMES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
_EGO = LIDARSEG_NAMES.index("vehicle.ego")
_KIND_IDS = np.array([LIDARSEG_NAMES.index(kind.category) for kind in KINDS], np.uint8)
_STATIC_IDS = np.zeros(256, np.uint8)
for _label, _name in {
    0: "static.other",
    11: "flat.driveable_surface",
    12: "flat.other",
    13: "flat.sidewalk",
    14: "flat.terrain",
    15: "static.manmade",
    16: "static.vegetation",
}.items():
    _STATIC_IDS[_label] = LIDARSEG_NAMES.index(_name)
# Mean echo strength per lidarseg id, 0…255: bright for paint and plates, weak for asphalt.
_STRENGTH = np.full(len(LIDARSEG_NAMES), 30.0)
_STRENGTH[[9, 12]] = 70.0
_STRENGTH[24:28] = (9.0, 14.0, 17.0, 15.0)
_STRENGTH[28:32] = (28.0, 25.0, 19.0, 20.0)


class Scan(NamedTuple):
    """One sweep.

    `points` (P, 5) float32: x right, y forward, z up (metres, LiDAR frame), intensity 0…255,
    ring; `lidarseg` (P,) uint8; `box` (P,) number of the box hit or negative;
    `shown` (N,) the part of each box's rays that nothing else stops (NaN where no ray goes).
    """

    points: np.ndarray
    lidarseg: np.ndarray
    box: np.ndarray
    shown: np.ndarray


@njit(cache=True)
def _enter(low, high, z0, slope, t0, t1):
    """Where within [t0, t1] a ray of height z0 + slope · t enters a height interval; inf: never."""
    z = z0 + slope * t0
    if low <= z <= high:
        return t0
    if slope == 0.0:
        return np.inf
    t = ((high if z > high else low) - z0) / slope
    return t if t0 < t <= t1 else np.inf


@njit(cache=True)
def _through_columns(columns, eye, rays, salt, distance, label):
    """First static thing on each ray (R, 3); distance inf and label EMPTY where there is none."""
    nx, ny = columns.ground.shape
    for r in range(rays.shape[0]):
        distance[r], label[r] = np.inf, EMPTY
        u = (eye[0] - columns.origin[0]) / CELL
        v = (eye[1] - columns.origin[1]) / CELL
        i, j = math.floor(u), math.floor(v)
        du, dv, dz = rays[r, 0] / CELL, rays[r, 1] / CELL, rays[r, 2]
        step_i, step_j = (1 if du > 0 else -1), (1 if dv > 0 else -1)
        gap_u = abs(1.0 / du) if du != 0.0 else np.inf
        gap_v = abs(1.0 / dv) if dv != 0.0 else np.inf
        next_u = (i + 1 - u if du > 0 else u - i) * gap_u if du != 0.0 else np.inf
        next_v = (j + 1 - v if dv > 0 else v - j) * gap_v if dv != 0.0 else np.inf
        t0 = 0.0
        while t0 < MAX_RANGE and 0 <= i < nx and 0 <= j < ny:
            t1 = min(next_u, next_v)
            floor = columns.height[i, j]
            best, kind = np.inf, EMPTY
            if eye[2] + dz * t1 < floor:
                best = max((floor - eye[2]) / dz, t0) if dz < 0.0 else t0
                kind = columns.ground[i, j]
            for k in range(SLOTS):
                if columns.label[i, j, k] == EMPTY:
                    break
                low = floor + columns.low[i, j, k] / 10.0
                high = floor + columns.high[i, j, k] / 10.0
                t = _enter(low, high, eye[2], dz, t0, t1)
                if t < best:
                    leaves = columns.label[i, j, k] == 16 and columns.low[i, j, k] > 0
                    if not (leaves and cell_noise(i * 31 + r, j, salt) < 0.45):
                        best, kind = t, columns.label[i, j, k]
            if best < np.inf:
                distance[r], label[r] = best, kind
                break
            t0 = t1
            if next_u < next_v:
                next_u += gap_u
                i += step_i
            else:
                next_v += gap_v
                j += step_j


@njit(cache=True)
def _body(kind, size, x, y, z, dx, dy, dz):
    """Distance at which a ray in a box's own frame (foot at 0) meets its body; inf: never."""
    near, far = 0.0, MAX_RANGE
    for a in range(3):
        p = x if a == 0 else (y if a == 1 else z)
        d = dx if a == 0 else (dy if a == 1 else dz)
        low = 0.2 if a == 2 else -size[a] / 2
        high = size[a] if a == 2 else size[a] / 2
        if d == 0.0:
            if p < low or p > high:
                return np.inf
            continue
        t0, t1 = (low - p) / d, (high - p) / d
        near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    t = near + 1e-6
    while t < far:
        u, v, w = (x + t * dx) / size[0], (y + t * dy) / size[1], (z + t * dz) / size[2]
        if solid_part(kind, u, v, w, size[0], size[1], size[2]):
            return t
        t += 0.05
    return np.inf


@njit(cache=True)
def _against_boxes(rays, feet, yaws, kinds, sizes, static, distance, box, could, does):
    """Nearest body on each ray (rings, azimuths, 3) seen from the origin; counts rays per box."""
    rings, azimuths = rays.shape[0], rays.shape[1]
    for n in range(len(kinds)):
        x, y = feet[n, 0], feet[n, 1]
        reach = math.hypot(sizes[n, 0], sizes[n, 1]) / 2
        far = math.hypot(x, y)
        if far - reach > MAX_RANGE:
            continue
        half = math.pi if far <= reach else math.asin(reach / far)
        middle = math.atan2(y, x)
        first = math.floor((middle - half) / (2 * math.pi) * azimuths)
        last = math.ceil((middle + half) / (2 * math.pi) * azimuths)
        if last - first >= azimuths:
            last = first + azimuths - 1
        c, s = math.cos(yaws[n]), math.sin(yaws[n])
        px, py = -(c * x + s * y), -(-s * x + c * y)
        for ring in range(rings):
            for step in range(first, last + 1):
                a = step % azimuths
                ray = rays[ring, a]
                dx, dy = c * ray[0] + s * ray[1], -s * ray[0] + c * ray[1]
                t = _body(kinds[n], sizes[n], px, py, -feet[n, 2], dx, dy, ray[2])
                if t < np.inf:
                    could[n] += 1
                    if t < distance[ring, a] and t < static[ring, a]:
                        distance[ring, a] = t
                        box[ring, a] = n
    for ring in range(rings):
        for a in range(azimuths):
            if box[ring, a] >= 0:
                does[box[ring, a]] += 1


def scan(
    columns: Columns,
    pose: np.ndarray,
    eye: np.ndarray,
    kinds: np.ndarray,
    feet: np.ndarray,
    yaws: np.ndarray,
    sizes: np.ndarray,
    rng: np.random.Generator,
) -> Scan:
    """Scan the world once, all rays at the same instant.

    Args:
        columns: the static world.
        pose, eye: ego → global (4, 4); the LiDAR's position in the world (3,).
        kinds, feet, yaws, sizes: boxes in the ego frame, as for `labels.label_grid`.
        rng: source of noise and lost echoes.
    """
    rays = lidar_rays()
    shape = rays.shape[:2]
    static, label = np.empty(shape), np.empty(shape, np.uint8)
    in_world = np.ascontiguousarray(rays.reshape(-1, 3) @ pose[:3, :3].T)
    salt = int(rng.integers(1 << 20))
    _through_columns(columns, eye, in_world, salt, static.reshape(-1), label.reshape(-1))

    # The ego's roof is one more box, whose label differs.
    sensor = pose[:3, :3].T @ (eye - pose[:3, 3])
    feet = np.vstack([feet, [LIDAR_POSITION[0], 0.0, 0.0]]) - sensor
    kinds, yaws = np.append(kinds, KIND["bin"]), np.append(yaws, 0.0)
    sizes = np.vstack([sizes, _ROOF])
    distance, box = np.full(shape, np.inf), np.full(shape, _STATIC)
    could, does = np.zeros(len(kinds)), np.zeros(len(kinds))
    _against_boxes(rays, feet, yaws, kinds, sizes, static, distance, box, could, does)

    distance = np.minimum(distance, static)
    box[~np.isfinite(distance)] = _NOTHING
    ids = np.append(_KIND_IDS[kinds[:-1]], _EGO).astype(np.uint8)
    lidarseg = np.where(box >= 0, ids[box], _STATIC_IDS[label])
    lost = 0.03 + 0.35 * np.clip(distance / MAX_RANGE - 0.35, 0.0, 1.0)
    echo = (box != _NOTHING) & (rng.random(shape) > lost) & (distance > 0.1)
    noisy = distance + np.clip(rng.normal(0.0, _NOISE, shape), -2.5 * _NOISE, 2.5 * _NOISE)
    intensity = _STRENGTH[lidarseg] * rng.gamma(4.0, 0.25, shape)
    ring = np.broadcast_to(np.arange(shape[0])[:, None], shape)
    # Beams fire together while the head turns, so points come azimuth by azimuth.
    order = np.nonzero(echo.T)[::-1]
    along = rays[order] * noisy[order][:, None]
    points = np.column_stack(
        [
            -along[:, 1],
            along[:, 0],
            along[:, 2],
            np.clip(np.round(intensity[order]), 0, 255),
            ring[order],
        ]
    ).astype(np.float32)
    hit = box[order]
    hit = np.where(hit == len(kinds) - 1, _STATIC, hit)
    with np.errstate(invalid="ignore"):
        shown = (does / could)[:-1]
    return Scan(points, lidarseg[order], hit, shown)
