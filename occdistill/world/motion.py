"""Recorded or simulated motion: where the ego car and everything about it was, and the lanes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from occdistill.world.agents import KINDS
from occdistill.world.traffic import Tracks

KEYFRAME = 0.5
"""Seconds between keyframes."""


@dataclass(frozen=True)
class Line:
    """A lane's centre line or, where `closed`, its outline: points (P, 2), metres."""

    points: np.ndarray
    closed: bool = False


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
        lanes: what is driven on.
        notes: what was mended or left out when it was read, a sentence each.
    """

    name: str
    time: np.ndarray
    ego: np.ndarray
    pose: np.ndarray
    valid: np.ndarray
    size: np.ndarray
    category: np.ndarray
    lanes: list[Line] = field(default_factory=list)
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
            turn = (b[..., 2] - a[..., 2] + np.pi) % (2 * np.pi) - np.pi
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
