"""Where things move: boxes with speeds, from nuScenes' tables or from tracks in the labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occdistill.data.objects import find_objects, velocities
from occdistill.data.occ3d import Grid
from occdistill.data.poses import invert, rotation_matrix
from occdistill.data.scenes import Scene
from occdistill.data.tables import wanted_records
from occdistill.errors import UserError

MOVING = 0.5  # m/s
INTERVAL = 0.5  # seconds between keyframes
MARGIN = 1.0  # metres added to all sides of a box
LONGEST = 1.5  # seconds between the boxes that a speed is taken from, as in nuScenes' devkit


@dataclass
class Boxes:
    """Boxes of one keyframe.

    Attributes:
        centres: metres, `(N, 3)`.
        sizes: length, width, height in metres, `(N, 3)`.
        headings: unit vectors along the length, `(N, 3)`.
    """

    centres: np.ndarray
    sizes: np.ndarray
    headings: np.ndarray

    def seen_from(self, pose: np.ndarray) -> Boxes:
        """In another frame; `pose (4, 4)` leads there."""
        turn, shift = pose[:3, :3], pose[:3, 3]
        return Boxes(self.centres @ turn.T + shift, self.sizes, self.headings @ turn.T)

    def fill(self, mask: np.ndarray, grid: Grid, margin: float = MARGIN) -> None:
        """Set the voxels of `mask (X, Y, Z)` whose centres lie in a box, or nearer than `margin`
        along one of its axes. Boxes stand upright.
        """
        axes = [
            grid.origin[a] + grid.voxel_size * (np.arange(grid.shape[a]) + 0.5) for a in range(3)
        ]
        for centre, size, heading in zip(self.centres, self.sizes, self.headings):
            x, y, z = (axis - c for axis, c in zip(axes, centre))
            cos, sin = heading[:2] / np.linalg.norm(heading[:2])
            along = np.abs(cos * x[:, None] + sin * y)
            aside = np.abs(cos * y - sin * x[:, None])
            flat = (along <= size[0] / 2 + margin) & (aside <= size[1] / 2 + margin)
            if flat.any():
                mask |= flat[..., None] & (np.abs(z) <= size[2] / 2 + margin)


def boxes_of_tables(
    dataroot: str | os.PathLike, version: str, scenes: Iterable[Scene]
) -> dict[str, Boxes] | None:
    """What moves at each keyframe, by nuScenes' annotations, in global coordinates.

    A speed is the distance between an object's boxes at the keyframes before and after, over the
    time between them; at the ends of its track, to the one neighbour.

    Args:
        dataroot: of the data set.
        version: the folder of its tables.
        scenes: whose keyframes are wanted.

    Returns:
        Sample token to its boxes faster than `MOVING`; None where there is no table of boxes.

    Raises:
        UserError: a record without the fields of nuScenes' schema.
    """
    path = Path(dataroot) / version / "sample_annotation.json"
    if not path.is_file():
        return None
    times = {frame.token: frame.timestamp for scene in scenes for frame in scene.keyframes}
    try:
        records = {r["token"]: r for r in wanted_records(path, "sample_token", times)}
        found = {token: [] for token in times}
        for record in records.values():
            if _speed(record, records, times) > MOVING:
                found[record["sample_token"]].append(record)
        return {token: _boxes(moving) for token, moving in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds a record that isn't one of nuScenes' boxes ({error!r}); fetch it again"
            " with nuScenes' metadata"
        ) from error


def _speed(record: dict, records: dict[str, dict], times: dict[str, int]) -> float:
    """Metres a second; 0 for a box without neighbours, or with ones too far apart in time."""
    first, last = (records.get(record[way], record) for way in ("prev", "next"))
    seconds = 1e-6 * (times[last["sample_token"]] - times[first["sample_token"]])
    sides = (first is not record) + (last is not record)
    if not 0 < seconds <= LONGEST * sides:
        return 0.0
    return float(np.linalg.norm(np.subtract(last["translation"], first["translation"])) / seconds)


def _boxes(records: Sequence[dict]) -> Boxes:
    centres = np.array([r["translation"] for r in records], np.float64).reshape(-1, 3)
    sizes = np.array([r["size"] for r in records], np.float64).reshape(-1, 3)[:, [1, 0, 2]]
    quaternions = np.array([r["rotation"] for r in records], np.float64).reshape(-1, 4)
    return Boxes(centres, sizes, rotation_matrix(quaternions)[:, :, 0])


def boxes_of_tracks(voxels: np.ndarray, poses: np.ndarray, grid: Grid) -> Boxes:
    """What moves in the newest of three keyframes, by the tracks of its objects in the labels.

    Slower than 0.7 m/s is standing (`objects.SLOWEST`): less is what voxels do to a centre.

    Args:
        voxels: uint8 `(3, X, Y, Z)`.
        poses: each frame to the newest one, `(3, 4, 4)`.
        grid: of the voxels.

    Returns:
        Boxes along the grid's axes, in the newest frame.
    """
    frames = [find_objects(frame, grid) for frame in voxels]
    steps = velocities(frames, poses, grid)
    low, high = [], []
    for i in np.flatnonzero(np.linalg.norm(steps, axis=1) > MOVING * INTERVAL):
        cells = np.argwhere(frames[-1].labels == i + 1)
        low.append(cells.min(0))
        high.append(cells.max(0) + 1)
    low, high = (np.array(x, np.float64).reshape(-1, 3) for x in (low, high))
    centres = (low + high) / 2 * grid.voxel_size + grid.origin
    ahead = np.tile([1.0, 0.0, 0.0], (len(centres), 1))
    return Boxes(centres, (high - low) * grid.voxel_size, ahead)


def swept(boxes: Sequence[Boxes], poses: np.ndarray, grid: Grid) -> np.ndarray:
    """Where what moves is, was and will be: the region in which moving is forecast right or wrong.

    All places that a moving object passes from now on count at every horizon, so that a forecast
    that leaves it standing, or drives it too fast, errs inside.

    Args:
        boxes: of what moves, now and at each future keyframe, each in its own frame; 1 + F.
        poses: each of these frames to one common frame, `(1 + F, 4, 4)`.
        grid: of the result.

    Returns:
        bool `(F, X, Y, Z)`, in the future frames.
    """
    mask = np.zeros((len(boxes) - 1, *grid.shape), bool)
    poses = np.asarray(poses, np.float64)
    for f, to_frame in enumerate(invert(poses[1:])):
        for own, pose in zip(boxes, poses):
            own.seen_from(to_frame @ pose).fill(mask[f], grid)
    return mask
