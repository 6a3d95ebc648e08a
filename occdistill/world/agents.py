"""What stands and moves in the town: kinds of road users and objects, and their sizes."""

import math
from typing import NamedTuple

import numpy as np

from occdistill.compiled import njit


class Kind(NamedTuple):
    """One kind of boxed object: its Occ3D class, nuScenes category, size (l, w, h) and spread."""

    name: str
    label: int
    category: str
    size: tuple[float, float, float]
    spread: float


KINDS = (
    Kind("car", 4, "vehicle.car", (4.6, 1.9, 1.65), 0.08),
    Kind("van", 4, "vehicle.car", (5.2, 2.05, 2.15), 0.05),
    Kind("truck", 10, "vehicle.truck", (7.6, 2.5, 3.1), 0.08),
    Kind("bus", 3, "vehicle.bus.rigid", (11.6, 2.7, 3.4), 0.04),
    Kind("tractor", 10, "vehicle.truck", (6.0, 2.5, 3.4), 0.03),
    Kind("trailer", 9, "vehicle.trailer", (10.4, 2.55, 3.8), 0.04),
    Kind("construction_vehicle", 5, "vehicle.construction", (6.2, 2.6, 3.1), 0.10),
    Kind("motorcycle", 6, "vehicle.motorcycle", (2.1, 0.8, 1.55), 0.06),
    Kind("bicycle", 2, "vehicle.bicycle", (1.8, 0.65, 1.6), 0.05),
    Kind("adult", 7, "human.pedestrian.adult", (0.7, 0.68, 1.76), 0.06),
    Kind("worker", 7, "human.pedestrian.construction_worker", (0.72, 0.7, 1.78), 0.04),
    Kind("child", 7, "human.pedestrian.child", (0.5, 0.5, 1.3), 0.08),
    Kind("cone", 8, "movable_object.trafficcone", (0.42, 0.42, 0.9), 0.10),
    Kind("barrier", 1, "movable_object.barrier", (0.55, 2.2, 1.05), 0.05),
    Kind("debris", 0, "movable_object.debris", (1.0, 0.8, 0.8), 0.25),
    Kind("bin", 0, "movable_object.pushable_pullable", (0.75, 0.7, 1.2), 0.10),
    Kind("bicycle_rack", 2, "vehicle.bicycle", (1.75, 0.6, 1.15), 0.05),
    Kind("parked_motorcycle", 6, "vehicle.motorcycle", (2.05, 0.8, 1.25), 0.06),
    # What only recordings have; classes as in nuScenes-lidarseg.
    Kind("bendy_bus", 3, "vehicle.bus.bendy", (17.5, 2.8, 3.4), 0.0),
    Kind("police_officer", 7, "human.pedestrian.police_officer", (0.72, 0.7, 1.78), 0.0),
    Kind("personal_mobility", 0, "human.pedestrian.personal_mobility", (1.1, 0.7, 1.7), 0.0),
    Kind("stroller", 0, "human.pedestrian.stroller", (1.0, 0.6, 1.1), 0.0),
    Kind("wheelchair", 0, "human.pedestrian.wheelchair", (1.1, 0.7, 1.3), 0.0),
    Kind("animal", 0, "animal", (0.8, 0.35, 0.6), 0.0),
    Kind("ambulance", 0, "vehicle.emergency.ambulance", (6.2, 2.2, 2.6), 0.0),
    Kind("police_car", 0, "vehicle.emergency.police", (4.8, 1.95, 1.6), 0.0),
    Kind("rack", 0, "static_object.bicycle_rack", (3.0, 1.8, 1.1), 0.0),
)
KIND = {kind.name: number for number, kind in enumerate(KINDS)}
LABELS = np.array([kind.label for kind in KINDS], np.uint8)
_OF_CATEGORY = {kind.category: number for number, kind in reversed(list(enumerate(KINDS)))}
_TALL = 1.95


def kind_of(category: str, height: float) -> int | None:
    """The kind that a recorded object (nuScenes category, metres) is drawn as; None: no kind."""
    kind = _OF_CATEGORY.get(category)
    return KIND["van"] if kind == KIND["car"] and height > _TALL else kind


def draw_size(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one object's (length, width, height) in metres."""
    spread = KINDS[kind].spread
    factor = 1.0 + np.clip(rng.normal(0.0, spread, 3), -1.5 * spread, 1.5 * spread)
    return np.round(np.array(KINDS[kind].size) * factor, 3)


@njit(cache=True)
def overlap(one, size_one, two, size_two):
    """Whether two boxes (x, y, yaw; l, w, h) overlap in the plane: the separating axis test."""
    dx, dy = two[0] - one[0], two[1] - one[1]
    reach = math.hypot(size_one[0], size_one[1]) + math.hypot(size_two[0], size_two[1])
    if dx * dx + dy * dy > reach * reach / 4:
        return False
    turn = two[2] - one[2]
    c, s = abs(math.cos(turn)), abs(math.sin(turn))
    for side in range(2):
        yaw = one[2] if side == 0 else two[2]
        near, far = (size_one, size_two) if side == 0 else (size_two, size_one)
        along = abs(math.cos(yaw) * dx + math.sin(yaw) * dy)
        across = abs(-math.sin(yaw) * dx + math.cos(yaw) * dy)
        if along > (near[0] + far[0] * c + far[1] * s) / 2:
            return False
        if across > (near[1] + far[0] * s + far[1] * c) / 2:
            return False
    return True


@njit(cache=True)
def _hits_any(pose, size, poses, sizes):
    for n in range(len(poses)):
        if overlap(pose, size, poses[n], sizes[n]):
            return True
    return False


@njit(cache=True)
def untouched(still, still_sizes, tracks, track_sizes):
    """Which standing boxes (M, 3) no moving box (K, N, 3) ever touches: (M,) bool."""
    free = np.ones(len(still), np.bool_)
    for m in range(len(still)):
        for k in range(tracks.shape[0]):
            if _hits_any(still[m], still_sizes[m], tracks[k], track_sizes):
                free[m] = False
                break
    return free


class StreetObjects:
    """A growing list of boxes that never move: parked vehicles, cones, barriers, bins."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self._kind: list[int] = []
        self._boxes = np.empty((4096, 6))

    def __len__(self) -> int:
        return len(self._kind)

    def add(self, name: str, x: float, y: float, yaw: float) -> None:
        """Put one object at x, y (metres), turned by yaw (radians), unless its place is taken."""
        n = len(self)
        pose = np.round([x, y, yaw], 5)
        size = draw_size(KIND[name], self.rng)
        taken = _hits_any(pose, size, self._boxes[:n, :3], self._boxes[:n, 3:])
        if n < len(self._boxes) and not taken:
            self._boxes[n] = *pose, *size
            self._kind.append(KIND[name])

    @property
    def kind(self) -> np.ndarray:
        """Kinds (N,)."""
        return np.array(self._kind, int)

    @property
    def pose(self) -> np.ndarray:
        """x, y, yaw (N, 3)."""
        return self._boxes[: len(self), :3].copy()

    @property
    def size(self) -> np.ndarray:
        """Length, width, height (N, 3)."""
        return self._boxes[: len(self), 3:].copy()
