"""LiDAR points with labels → voxel grids: what a car has when nobody has labelled its world.

Several past sweeps are moved into the newest ego frame and vote for the class of each voxel; an
observed mask tells free space from space that no ray has reached.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numba
import numpy as np

from occdistill.data.occ3d import FREE, MOVABLE, OCC3D, RANK, Grid
from occdistill.data.poses import invert
from occdistill.data.raycast import observed_mask
from occdistill.errors import UserError
from occdistill.store import reading
from occdistill.untrusted import open_file

NO_VOTE = 255

# nuScenes-lidarseg's 32 raw ids → Occ3D classes. Noise (0) and the ego car's own body (31) are
# nothing that stands in the world; animals, debris, strollers and the like are "others".
LIDARSEG_TO_OCC3D = np.array(
    [
        NO_VOTE,  # noise
        0,  # animal
        7,  # human.pedestrian.adult
        7,  # human.pedestrian.child
        7,  # human.pedestrian.construction_worker
        0,  # human.pedestrian.personal_mobility
        7,  # human.pedestrian.police_officer
        0,  # human.pedestrian.stroller
        0,  # human.pedestrian.wheelchair
        1,  # movable_object.barrier
        0,  # movable_object.debris
        0,  # movable_object.pushable_pullable
        8,  # movable_object.trafficcone
        0,  # static_object.bicycle_rack
        2,  # vehicle.bicycle
        3,  # vehicle.bus.bendy
        3,  # vehicle.bus.rigid
        4,  # vehicle.car
        5,  # vehicle.construction
        0,  # vehicle.emergency.ambulance
        0,  # vehicle.emergency.police
        6,  # vehicle.motorcycle
        9,  # vehicle.trailer
        10,  # vehicle.truck
        11,  # flat.driveable_surface
        12,  # flat.other
        13,  # flat.sidewalk
        14,  # flat.terrain
        15,  # static.manmade
        0,  # static.other
        16,  # static.vegetation
        NO_VOTE,  # vehicle.ego
    ],
    dtype=np.uint8,
)


class Sweep(NamedTuple):
    """One turn of the LiDAR.

    Attributes:
        points: (N, ≥3) float, metres in the LiDAR's frame; columns after the third are not used.
        labels: Occ3D class of each point, uint8 (N,), `NO_VOTE` for points that are to be left out;
            or None where nothing is known.
        lidar_to_global: rigid transform (4, 4).
    """

    points: np.ndarray
    labels: np.ndarray | None
    lidar_to_global: np.ndarray


def load_points(path: str | os.PathLike, layout: Layout = "xyzir") -> np.ndarray:
    """Read a cloud of float32 rows, as nuScenes' `.pcd.bin` and KITTI's `.bin` are.

    Args:
        path: of the file.
        layout: what stands in a row: x, y, z in metres, intensity, ring, time.

    Returns:
        float32 (N, columns), as in the file; rows without a place (`placed`) belong to rays that
        did not come back.

    Raises:
        UserError: it can't be read, holds no whole rows or none, more than `BAD_SHARE` of them have
            no place, or it looks as if it had another layout.
    """
    with reading(path, "LiDAR file", "unpack nuScenes' LIDAR_TOP files under the data root"):
        raw = _bytes(path, _CLOUD_BYTES)
    width = 4 * len(layout)
    if len(raw) % width:
        raise UserError(
            f"{path} has {len(raw)} bytes, not a multiple of {width} ({len(layout)} float32 per"
            f" point); it is truncated, fetch it again{_other_layouts(raw, layout)}"
        )
    if not raw:
        raise UserError(f"{path} is empty; fetch it again")
    points = np.frombuffer(raw, np.float32).reshape(-1, len(layout))
    bad = len(points) - int(np.count_nonzero(placed(points)))
    if bad > BAD_SHARE * len(points):
        raise UserError(
            f"{path} holds {bad} of {len(points)} points with NaN, infinite or absurd coordinates;"
            f" fetch it again{_other_layouts(raw, layout)}"
        )
    if reason := _implausible(points, layout):
        raise UserError(
            f"{path} is no cloud of {layout}: {reason}; fetch it again{_other_layouts(raw, layout)}"
        )
    return points


Layout = Literal["xyzir", "xyzi", "xyz", "xyzirt"]
BAD_SHARE = 0.5  # of a cloud's points: organised ones keep a row for each ray that found nothing
FARTHEST = 1000.0  # metres from the sensor along an axis
_WRONG_SHARE = 0.01  # of the points looked at, for a layout to be another
_LOOKED_AT = 1000  # points of a cloud


def placed(points: np.ndarray) -> np.ndarray:
    """Which points are somewhere: finite, and not farther than any LiDAR sees; bool (N,)."""
    x, y, z = np.abs(points[:, :3]).T
    return (x < FARTHEST) & (y < FARTHEST) & (z < FARTHEST)


def _implausible(points: np.ndarray, layout: str) -> str | None:
    """Why the columns behind the places can't be what the layout says, judged by some rows."""
    some = points[:: max(1, len(points) // _LOOKED_AT)]
    some = some[placed(some)]
    wrong = {}
    if "r" in layout:
        ring = some[:, layout.index("r")]
        wrong["rings aren't whole numbers below 256"] = ~(
            (ring >= 0) & (ring < 256) & (ring == np.rint(ring))
        )
    if "i" in layout:
        intensity = some[:, layout.index("i")]
        wrong["intensities aren't 0 to 65535"] = ~((intensity >= 0) & (intensity <= 65535))
    for reason, found in wrong.items():
        if np.count_nonzero(found) > _WRONG_SHARE * len(some):
            return reason
    return None


def _other_layouts(raw: bytes, layout: str) -> str:
    """The layouts that would fit a file, as the end of an advice."""
    fitting = []
    for other in get_args(Layout):
        if other != layout and raw and len(raw) % (4 * len(other)) == 0:
            points = np.frombuffer(raw, np.float32).reshape(-1, len(other))
            whole = np.count_nonzero(placed(points)) >= (1 - BAD_SHARE) * len(points)
            if whole and not _implausible(points, other):
                fitting.append(other)
    # three columns say nothing that could be wrong
    fitting = [other for other in fitting if other != "xyz"]
    return f", or set data.layout to {' or '.join(fitting)}" if fitting else ""


Box = tuple[float, float, float, float]
NEAR = (-1.0, 1.0, -1.0, 1.0)  # what nuScenes' devkit takes for the own car when it merges sweeps


def read_sweep(
    cloud: str | os.PathLike,
    labels: str | os.PathLike | None,
    lidar_to_global: np.ndarray,
    layout: Layout = "xyzir",
    own_car: Box = NEAR,
) -> Sweep:
    """A sweep without the points that are nowhere, and without the own car.

    The own car moves along with the sensor: merged sweeps would draw it out into a trail.

    Args:
        cloud, labels: files of the points and of their lidarseg classes, or None.
        lidar_to_global: rigid transform (4, 4).
        layout: of the cloud.
        own_car: x from, x to, y from, y to in metres in the LiDAR's frame, whatever the height.

    Raises:
        UserError: as `load_points` and `load_point_labels`.
    """
    points = load_points(cloud, layout)
    classes = None if labels is None else load_point_labels(labels, len(points))
    x, y = points[:, 0], points[:, 1]
    own = (x > own_car[0]) & (x < own_car[1]) & (y > own_car[2]) & (y < own_car[3])
    kept = placed(points) & ~own
    return Sweep(points[kept], None if classes is None else classes[kept], lidar_to_global)


_CLOUD_BYTES = 1 << 28  # ten million points; a sweep has 35 thousand


def _bytes(path: str | os.PathLike, limit: int) -> bytes:
    with open_file(path, limit) as file:
        return file.read()


def load_point_labels(path: str | os.PathLike, count: int) -> np.ndarray:
    """Read the lidarseg labels of `count` points as Occ3D classes, uint8 (N,)."""
    with reading(path, "LiDAR file", "unpack nuScenes-lidarseg under the data root"):
        raw = _bytes(path, _CLOUD_BYTES)
    labels = np.frombuffer(raw, np.uint8)
    if len(labels) != count:
        raise UserError(
            f"{path} labels {len(labels)} points, but the cloud has {count}; fetch both files again"
        )
    if count and labels.max() >= len(LIDARSEG_TO_OCC3D):
        raise UserError(
            f"{path} holds class id {labels.max()}, beyond {len(LIDARSEG_TO_OCC3D) - 1};"
            " only nuScenes-lidarseg's 32 raw classes are known"
        )
    return LIDARSEG_TO_OCC3D[labels]


class Merged(NamedTuple):
    """Class ids and observed mask, uint8 grids."""

    voxels: np.ndarray
    observed: np.ndarray


def merge(
    sweeps: Sequence[Sweep],
    ego_to_global: np.ndarray,
    grid: Grid = OCC3D,
    unlabelled: int = 0,
) -> Merged:
    """Merge sweeps in one ego frame and let the points in each voxel vote for its class.

    A point of a movable thing does not vote where a ray of a later sweep has gone through its
    voxel without ending there: the thing has left, and would be smeared along its way. (Ground
    and walls are not treated so: rays graze their voxels without meeting them.)

    Args:
        sweeps: the newest and as many earlier ones as are wanted, in order of time.
        ego_to_global: pose (4, 4) of the ego frame that the grid belongs to.
        grid: where the voxels are.
        unlabelled: class of the points of a sweep without labels.

    Returns:
        voxels: the class with most votes (the more important one of `COARSEN_PRIORITY` in a tie),
        free where there is no vote; observed: 1 where a ray of any sweep passed or ended.

    Raises:
        UserError: a coordinate is NaN or infinite, or a label is no class.
    """
    seen, left = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    cells, classes = [], []
    for sweep in reversed(sweeps):
        start, ends = _placed(sweep, ego_to_global, grid)
        cell, label = _cells(ends, grid.shape), _classes(sweep, unlabelled)
        gone = _IS_MOVABLE[label] & (cell >= 0) & (left.reshape(-1)[cell] == 1)
        cells.append(cell)
        classes.append(np.where(gone, np.uint8(NO_VOTE), label))
        passed = observed_mask(grid.shape, start, ends)
        seen |= passed
        passed.reshape(-1)[cell[cell >= 0]] = 0
        left |= passed
    return Merged(_counted(cells, classes, grid), seen)


def _placed(sweep: Sweep, ego_to_global: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Sensor (3,) and points (N, 3) in voxels from the grid's low corner, float64."""
    to_grid = invert(ego_to_global) @ sweep.lidar_to_global
    to_grid[:3, 3] -= grid.origin
    to_grid[:3] /= grid.voxel_size
    return to_grid[:3, 3].copy(), _moved(_points(sweep), to_grid)


def _points(sweep: Sweep) -> np.ndarray:
    """Coordinates of a sweep, float32 (N, 3)."""
    points = np.array(np.asarray(sweep.points)[:, :3], np.float32, order="C")
    if not np.isfinite(points).all():
        raise UserError(
            "a LiDAR sweep holds NaN or infinite coordinates; remove those points first"
        )
    return points


def _classes(sweep: Sweep, unlabelled: int) -> np.ndarray:
    """The class each point votes for, uint8 (N,)."""
    if sweep.labels is None:
        return np.full(len(sweep.points), unlabelled, np.uint8)
    labels = np.asarray(sweep.labels, np.uint8)
    if len(labels) != len(sweep.points):
        raise UserError(
            f"a LiDAR sweep has {len(sweep.points)} points but {len(labels)} labels;"
            " give one label per point"
        )
    wrong = labels[(labels >= FREE) & (labels != NO_VOTE)]
    if len(wrong):
        raise UserError(
            f"a LiDAR sweep has points of class {wrong[0]}; classes are 0…{FREE - 1},"
            f" or {NO_VOTE} for points that do not vote"
        )
    return labels


def _counted(cells: list[np.ndarray], classes: list[np.ndarray], grid: Grid) -> np.ndarray:
    """The grid that the votes `classes` in the voxels `cells` elect."""
    out = np.full(grid.shape, FREE, np.uint8)
    if cells:
        _vote(np.concatenate(cells), np.concatenate(classes), RANK, out.reshape(-1))
    return out


_IS_MOVABLE = np.isin(np.arange(NO_VOTE + 1), MOVABLE)


@numba.njit(cache=True, nogil=True)
def _moved(points, transform):
    """Points (N, 3) after a transform (4, 4), float64."""
    out = np.empty(points.shape, np.float64)
    for i, (x, y, z) in enumerate(points):
        for axis in range(3):
            m = transform[axis]
            out[i, axis] = m[0] * x + m[1] * y + m[2] * z + m[3]
    return out


@numba.njit(cache=True, nogil=True)
def _cells(points, shape):
    """Flat voxel index of each point, -1 outside the grid."""
    cells = np.empty(len(points), np.int32)
    for i, point in enumerate(points):
        cell = 0
        for axis in range(3):
            if point[axis] < 0 or point[axis] >= shape[axis]:
                cell = -1
                break
            cell = cell * shape[axis] + int(point[axis])
        cells[i] = cell
    return cells


@numba.njit(cache=True, nogil=True)
def _vote(cells, classes, rank, out):
    slot = np.full(len(out), -1, np.int32)
    filled = 0
    for cell in cells:
        if cell >= 0 and slot[cell] < 0:
            slot[cell] = filled
            filled += 1
    votes = np.zeros((filled, len(rank)), np.int32)
    where = np.empty(filled, np.int32)
    for cell, label in zip(cells, classes):
        if cell >= 0:
            where[slot[cell]] = cell
            if label < len(rank):
                votes[slot[cell], label] += 1
    for i in range(filled):
        best = 0
        for label in range(1, len(rank)):
            more = votes[i, label] - votes[i, best]
            if more > 0 or (more == 0 and rank[label] < rank[best]):
                best = label
        if votes[i, best] > 0:
            out[where[i]] = best
