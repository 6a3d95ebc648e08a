"""Recorded or simulated motion: where the ego car and everything about it was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from occdistill.data.poses import wrapped
from occdistill.errors import UserError
from occdistill.store import read_npz
from occdistill.world.agents import KINDS
from occdistill.world.traffic import Tracks

KEYFRAME = 0.5
"""Seconds between keyframes."""


class Streets(NamedTuple):
    """Where vehicles may drive, in a scene's frame, metres.

    `areas`, each a list of closed rings (P, 2), of which every second one that holds a point takes
    it out again (a hole); `lanes` (P, 2) are centre lines.
    """

    areas: list[list[np.ndarray]]
    lanes: list[np.ndarray]


@dataclass
class Motion:
    """What moved in one scene, in one frame: metres, radians, z left out.

    Attributes:
        name: of the scene.
        time: (T,) seconds, rising.
        ego: (T, 3) x, y, yaw of the ego car's rear axle, which is nuScenes' ego frame.
        pose: (N, T, 3) x, y, yaw of the other boxes' centres.
        valid: (N, T) bool, where a box is known; `pose` is finite there.
        size: (N, 3) length, width, height.
        category: (N,) nuScenes' names, such as vehicle.car.
        streets: what is known of them; nothing where there is no map.
        notes: what was mended or left out when it was read, a sentence each.
    """

    name: str
    time: np.ndarray
    ego: np.ndarray
    pose: np.ndarray
    valid: np.ndarray
    size: np.ndarray
    category: np.ndarray
    streets: Streets = field(default_factory=lambda: Streets([], []))
    notes: list[str] = field(default_factory=list)

    def at(self, times: np.ndarray) -> Motion:
        """The same at other times (K,) within `time`: positions evenly between, turns the short
        way; a box is known at a time if it is at both neighbours."""
        times = np.clip(times, self.time[0], self.time[-1])
        after = np.clip(np.searchsorted(self.time, times), 1, len(self.time) - 1)
        low, high = self.time[after - 1], self.time[after]
        share = (times - low) / (high - low)

        def between(track):  # (..., T, 3)
            a, b = track[..., after - 1, :], track[..., after, :]
            turn = wrapped(b[..., 2] - a[..., 2])
            step = np.concatenate([b[..., :2] - a[..., :2], turn[..., None]], -1)
            return a + share[:, None] * step

        before, beyond = self.valid[:, after - 1], self.valid[:, after]
        valid = (before | (share == 1.0)) & (beyond | (share == 0.0))
        pose = np.where(self.valid[..., None], self.pose, 0.0)
        exact = np.where((share == 1.0)[:, None], pose[:, after], pose[:, after - 1])
        pose = np.where((before & beyond)[..., None], between(pose), exact)
        return replace(self, time=times, ego=between(self.ego), pose=pose, valid=valid)

    def keyframes(self) -> Motion:
        """The same at 2 Hz, from its first moment on."""
        count = int((self.time[-1] - self.time[0]) / KEYFRAME + 1e-3) + 1
        return self.at(self.time[0] + KEYFRAME * np.arange(count))


def simulated(tracks: Tracks, name: str = "") -> Motion:
    """A simulated scene's traffic as motion; what is parked isn't in it."""
    pose = tracks.pose.transpose(1, 0, 2)
    return Motion(
        name,
        KEYFRAME * np.arange(len(tracks.ego)),
        tracks.ego,
        pose,
        np.ones(pose.shape[:2], bool),
        tracks.size,
        np.array([KINDS[kind].category for kind in tracks.kind], str),
    )


_ARRAYS = ("timestep", "position", "heading", "valid", "size", "nuscenes_class")
_MAP = ("map_points", "map_offsets", "map_kind", "map_closed")
_ADVICE = "write it as data/README.md says"


def read_folder(folder: str | Path) -> list[Motion]:
    """Read recorded scenes, one npz each, in the format of data/README.md.

    A recording that ends with the ego car set back, faster than it could reverse, is cut before
    that; the scene's `notes` say so.

    Raises:
        UserError: the folder holds no npz, or one has not these arrays or other shapes.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise UserError(f"{folder} holds no recorded scenes (*.npz); {_ADVICE}")
    return [_read(path) for path in files]


def _read(path: Path) -> Motion:
    data = read_npz(path, (), "recorded scene", _ADVICE)
    if missing := [name for name in _ARRAYS if name not in data]:
        raise UserError(f"{path} holds no array named {missing[0]!r}; {_ADVICE}")
    time, valid = data["timestep"].astype(float), data["valid"].astype(bool)
    count, steps = valid.shape if valid.ndim == 2 else (0, 0)
    shapes = {"position": (count, steps, 3), "heading": (count, steps), "size": (count, 3)}
    shapes |= {"timestep": (steps,), "nuscenes_class": (count,)}
    wrong = [name for name, shape in shapes.items() if data[name].shape != shape]
    if wrong or count < 1 or steps < 2:
        raise UserError(
            f"{path} has {(wrong or ['valid'])[0]} of a shape that fits no scene; {_ADVICE}"
        )
    pose = np.concatenate([data["position"][..., :2], data["heading"][..., None]], -1).astype(float)
    if not (np.isfinite(pose[0]).all() and np.isfinite(time).all() and (np.diff(time) > 0).all()):
        raise UserError(f"{path} has an ego track with gaps, or times that do not rise; {_ADVICE}")
    category = data["nuscenes_class"].astype(str)
    known = valid & np.isfinite(pose).all(-1)
    last = _before_set_back(time, pose[0])
    cut = f"the ego car is set back at {time[min(last, steps - 1)]:.1f} s; the rest is left out"
    notes = [cut] if last < steps else []
    return Motion(
        path.stem, time[:last], pose[0, :last], pose[1:, :last], known[1:, :last],
        data["size"][1:].astype(float), category[1:], _streets(path, data), notes,
    )  # fmt: skip


def _streets(path: Path, data: dict[str, np.ndarray]) -> Streets:
    """The map beside the motion, which a recording may lack.

    Lanes' outlines are areas of their own; other closed lines are kerbs, together one area; open
    lanes are centre lines, and open lines of another kind are paint.
    """
    if any(name not in data for name in _MAP):
        return Streets([], [])
    points, cuts = data["map_points"].astype(float), data["map_offsets"]
    kinds, closed = data["map_kind"].astype(str), data["map_closed"].astype(bool)
    ends = len(cuts) and (cuts[0], cuts[-1]) == (0, len(points)) and (np.diff(cuts) > 0).all()
    fits = ends and kinds.shape == closed.shape == (len(cuts) - 1,)
    if not fits or points.shape[1:] != (2,) or not np.isfinite(points).all():
        raise UserError(f"{path} has a map whose arrays do not fit together; {_ADVICE}")
    kerbs, outlines, lanes = [], [], []
    for line, kind, outline in zip(np.split(points, cuts[1:-1]), kinds, closed):
        ring = len(line) > 3 and np.allclose(line[0], line[-1], atol=0.01)
        if outline and len(line) > 2:
            outlines.append([line])
        elif kind.startswith("LANE") and len(line) > 1:
            lanes.append(line)
        elif ring:
            kerbs.append(line)
    return Streets([kerbs, *outlines] if kerbs else outlines, lanes)


def _before_set_back(time: np.ndarray, ego: np.ndarray) -> int:
    """How many moments there are before the ego jumps back in the last second of a recording."""
    step = np.diff(ego[:, :2], axis=0)
    forward = (step * np.stack([np.cos(ego[:-1, 2]), np.sin(ego[:-1, 2])], -1)).sum(-1)
    back = (forward < -3.0 * np.diff(time)) & (time[1:] > time[-1] - 1.0)
    return int(np.argmax(back)) + 1 if back.any() else len(time)
