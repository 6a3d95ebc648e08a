"""The static world as columns: 0.2 m cells, each with its ground and up to four solid intervals.

Heights are kept in decimetres above the local ground, so that everything follows the terrain and
a scene of 250 × 250 m takes some 25 MB.
"""

import math
from typing import NamedTuple

import numpy as np

from occdistill.compiled import njit
from occdistill.world.town import elevation

CELL = 0.2
SLOTS = 4
EMPTY = 255


class Columns(NamedTuple):
    """Static world in a window; cell (i, j) is centred at origin + (i + ½, j + ½) · 0.2 m.

    `ground` class and `height` (metres) of the terrain; `low`, `high` (decimetres above ground)
    and `label` of the intervals (EMPTY where a slot is free).
    """

    origin: np.ndarray
    ground: np.ndarray
    height: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: np.ndarray


def empty_columns(low: np.ndarray, high: np.ndarray, hills: np.ndarray) -> Columns:
    """Bare terrain between two corners (metres)."""
    origin = np.floor(np.asarray(low))
    nx, ny = (np.ceil((np.asarray(high) - origin) / CELL)).astype(int)
    height = np.empty((nx, ny), np.float32)
    _raise_terrain(hills, origin, height)
    return Columns(
        origin,
        np.full((nx, ny), 14, np.uint8),
        height,
        np.zeros((nx, ny, SLOTS), np.uint8),
        np.zeros((nx, ny, SLOTS), np.uint8),
        np.full((nx, ny, SLOTS), EMPTY, np.uint8),
    )


@njit(cache=True)
def _raise_terrain(hills, origin, height):
    for i in range(height.shape[0]):
        for j in range(height.shape[1]):
            x, y = origin[0] + (i + 0.5) * CELL, origin[1] + (j + 0.5) * CELL
            # Centimetres: libms that differ in the last bit give the same terrain.
            height[i, j] = math.floor(100.0 * elevation(hills, x, y)[0] + 0.5) / 100.0


@njit(cache=True)
def _put(columns, i, j, low, high, label):
    """Add an interval to a column, merged with one of its class that it touches."""
    for k in range(SLOTS):
        if columns.label[i, j, k] == EMPTY:
            columns.low[i, j, k] = low
            columns.high[i, j, k] = high
            columns.label[i, j, k] = label
            return
        touches = low <= columns.high[i, j, k] and high >= columns.low[i, j, k]
        if columns.label[i, j, k] == label and touches:
            columns.low[i, j, k] = min(low, columns.low[i, j, k])
            columns.high[i, j, k] = max(high, columns.high[i, j, k])
            return


@njit(cache=True)
def cell_noise(i, j, salt):
    """A uniform number in [0, 1) for a cell."""
    n = (i * 73856093) ^ (j * 19349663) ^ (salt * 83492791)
    n = (n ^ (n >> 13)) * 1274126177
    n = n & 0x7FFFFFFF
    n = n ^ (n >> 16)
    return (n & 0xFFFF) / 65536.0


@njit(cache=True)
def _span(columns, x, y, reach):
    nx, ny = columns.ground.shape
    i0 = max(int((x - reach - columns.origin[0]) / CELL), 0)
    i1 = min(int((x + reach - columns.origin[0]) / CELL) + 1, nx)
    j0 = max(int((y - reach - columns.origin[1]) / CELL), 0)
    j1 = min(int((y + reach - columns.origin[1]) / CELL) + 1, ny)
    return i0, i1, j0, j1


@njit(cache=True)
def _from_middle(columns, i, j, x, y, c, s):
    """How far a column lies from x, y along and across a heading of this cosine and sine, metres."""
    dx = columns.origin[0] + (i + 0.5) * CELL - x
    dy = columns.origin[1] + (j + 0.5) * CELL - y
    return abs(c * dx + s * dy), abs(-s * dx + c * dy)


@njit(cache=True)
def _take(columns, i, j, below):
    """Remove the intervals of a column that begin below a height (decimetres)."""
    left = 0
    for k in range(SLOTS):
        if columns.label[i, j, k] != EMPTY and columns.low[i, j, k] >= below:
            columns.low[i, j, left] = columns.low[i, j, k]
            columns.high[i, j, left] = columns.high[i, j, k]
            columns.label[i, j, left] = columns.label[i, j, k]
            left += 1
    columns.label[i, j, left:] = EMPTY


@njit(cache=True)
def clear_boxes(columns, pose, size, below):
    """Remove what begins below a height (metres) where boxes (N: x, y, yaw; l, w, h) stand."""
    for n in range(len(pose)):
        x, y, yaw = pose[n]
        length, width = size[n, 0], size[n, 1]
        i0, i1, j0, j1 = _span(columns, x, y, math.hypot(length, width) / 2 + CELL)
        c, s = math.cos(yaw), math.sin(yaw)
        for i in range(i0, i1):
            for j in range(j0, j1):
                u, v = _from_middle(columns, i, j, x, y, c, s)
                if u <= length / 2 and v <= width / 2:
                    _take(columns, i, j, round(10 * below[n]))


@njit(cache=True)
def clear_ground(columns, label, below):
    """Remove what begins below a height (metres) above ground of one class."""
    for i in range(columns.ground.shape[0]):
        for j in range(columns.ground.shape[1]):
            if columns.ground[i, j] == label:
                _take(columns, i, j, round(10 * below))


@njit(cache=True)
def stamp_box(columns, x, y, yaw, length, width, low, high, label, wall):
    """Add an upright box (heights in metres above ground); wall > 0 leaves only its walls."""
    i0, i1, j0, j1 = _span(columns, x, y, math.hypot(length, width) / 2 + CELL)
    c, s = math.cos(yaw), math.sin(yaw)
    lo, hi = round(low * 10), min(round(high * 10), 255)
    for i in range(i0, i1):
        for j in range(j0, j1):
            u, v = _from_middle(columns, i, j, x, y, c, s)
            inside = u <= length / 2 and v <= width / 2
            if inside and (wall <= 0.0 or u > length / 2 - wall or v > width / 2 - wall):
                _put(columns, i, j, lo, hi, label)


@njit(cache=True)
def stamp_disc(columns, x, y, radius, low, high, label):
    """Add an upright cylinder (metres above ground)."""
    i0, i1, j0, j1 = _span(columns, x, y, radius + CELL)
    lo, hi = round(low * 10), min(round(high * 10), 255)
    for i in range(i0, i1):
        for j in range(j0, j1):
            dx = columns.origin[0] + (i + 0.5) * CELL - x
            dy = columns.origin[1] + (j + 0.5) * CELL - y
            if dx * dx + dy * dy <= radius * radius:
                _put(columns, i, j, lo, hi, label)


@njit(cache=True)
def stamp_crown(columns, x, y, radius, middle, half, label, salt):
    """Add a ragged ellipsoid: a tree's crown or a bush (metres above ground)."""
    i0, i1, j0, j1 = _span(columns, x, y, radius + CELL)
    for i in range(i0, i1):
        for j in range(j0, j1):
            dx = columns.origin[0] + (i + 0.5) * CELL - x
            dy = columns.origin[1] + (j + 0.5) * CELL - y
            # Leaves come in clumps of 0.6 m.
            rough = 0.75 + 0.5 * cell_noise(i // 3, j // 3, salt)
            d = (dx * dx + dy * dy) / (radius * radius) * rough
            if d < 1.0:
                reach = half * math.sqrt(1.0 - d)
                lo = max(middle - reach, 0.0)
                hi = min(middle + reach * (0.8 + 0.4 * cell_noise(i // 2, j // 2, salt + 1)), 25.0)
                _put(columns, i, j, int(lo * 10), int(hi * 10), label)


@njit(cache=True)
def paint_box(columns, x, y, yaw, length, width, label, over):
    """Set the ground class in a rectangle where it is `over` (or anything if over is EMPTY)."""
    i0, i1, j0, j1 = _span(columns, x, y, math.hypot(length, width) / 2 + CELL)
    c, s = math.cos(yaw), math.sin(yaw)
    for i in range(i0, i1):
        for j in range(j0, j1):
            u, v = _from_middle(columns, i, j, x, y, c, s)
            inside = u <= length / 2 and v <= width / 2
            if inside and (over == EMPTY or columns.ground[i, j] == over):
                columns.ground[i, j] = label


@njit(cache=True)
def near_segments(points, half_width, origin, field):
    """Lower `field` (1 m cells) to the distance from a polyline's kerb, within 45 m."""
    reach = half_width + 45.0
    for k in range(points.shape[0] - 1):
        ax, ay = points[k, 0], points[k, 1]
        ex, ey = points[k + 1, 0] - ax, points[k + 1, 1] - ay
        square = ex * ex + ey * ey
        i0 = max(int(min(ax, ax + ex) - reach - origin[0]), 0)
        i1 = min(int(max(ax, ax + ex) + reach - origin[0]) + 1, field.shape[0])
        j0 = max(int(min(ay, ay + ey) - reach - origin[1]), 0)
        j1 = min(int(max(ay, ay + ey) + reach - origin[1]) + 1, field.shape[1])
        for i in range(i0, i1):
            for j in range(j0, j1):
                dx, dy = origin[0] + i - ax, origin[1] + j - ay
                t = min(max((dx * ex + dy * ey) / square, 0.0), 1.0)
                d = math.hypot(dx - t * ex, dy - t * ey) - half_width
                field[i, j] = min(field[i, j], d)


@njit(cache=True)
def bilinear(field, origin, x, y):
    """A 1 m field at a point, clamped to its border."""
    u = min(max(x - origin[0], 0.0), field.shape[0] - 1.001)
    v = min(max(y - origin[1], 0.0), field.shape[1] - 1.001)
    i, j = int(u), int(v)
    f, g = u - i, v - j
    low = field[i, j] * (1 - f) + field[i + 1, j] * f
    high = field[i, j + 1] * (1 - f) + field[i + 1, j + 1] * f
    return low * (1 - g) + high * g


@njit(cache=True)
def paint_ground(columns, kerb, road, district, origin, verge, sidewalk, ends, trims):
    """Give every cell its ground class from the distance to the kerb and the district."""
    nx, ny = columns.ground.shape
    for i in range(nx):
        for j in range(ny):
            x = columns.origin[0] + (i + 0.5) * CELL
            y = columns.origin[1] + (j + 0.5) * CELL
            d = bilinear(kerb, origin, x, y)
            a = min(max(round(x - origin[0]), 0), kerb.shape[0] - 1)
            b = min(max(round(y - origin[1]), 0), kerb.shape[1] - 1)
            r, kind = road[a, b], district[a, b]
            label = 14
            if d < 0.0:
                label = 11
            elif r >= 0 and d < verge[r] + sidewalk[r]:
                label = 13
                if d < verge[r]:
                    first = math.hypot(x - ends[r, 0], y - ends[r, 1]) > trims[r, 0] + 3.0
                    if first and math.hypot(x - ends[r, 2], y - ends[r, 3]) > trims[r, 1] + 3.0:
                        label = 14
            elif kind == 0:
                label = 13 if r >= 0 and d < verge[r] + sidewalk[r] + 3.5 else 12
            elif kind == 3:
                label = 12
            columns.ground[i, j] = label
