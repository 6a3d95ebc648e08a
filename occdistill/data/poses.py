"""All rigid mathematics, and the one place that says where the LiDAR sits.

A pose is a 4 × 4 matrix, metres, named after the frames it leads from and to:
`point_in_b = a_to_b @ point_in_a`, so `b_to_c @ a_to_b` is `a_to_c`. Ego frames have x forward,
y left, z up; LIDAR_TOP has x right, y forward, z up, as in nuScenes. Quaternions are w, x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Poses = TypeVar("Poses", np.ndarray, Tensor)

# LIDAR_TOP on nuScenes cars, within centimetres, and on the embedded world's: metres in the ego
# frame, and a quarter turn to the right.
LIDAR_POSITION = (0.94, 0.0, 1.84)
LIDAR_ROTATION = (0.5**0.5, 0.0, 0.0, -(0.5**0.5))
FASTEST = 100.0  # metres a second; no car on a road drives further
SHARPEST = math.pi  # radians a second; nor turns further


def invert(poses: Poses) -> Poses:
    """Inverse of rigid transforms (…, 4, 4)."""
    if isinstance(poses, Tensor):
        out, rotation = poses.clone(), poses[..., :3, :3].mT
    else:
        out, rotation = np.array(poses), np.swapaxes(poses[..., :3, :3], -1, -2).copy()
    out[..., :3, :3] = rotation
    out[..., :3, 3:] = -rotation @ poses[..., :3, 3:]
    return out


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Angles in radians, the short way round: in [-π, π)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Poses float64 (…, 4, 4) from rotation matrices (…, 3, 3) and translations (…, 3)."""
    out = np.zeros((*rotation.shape[:-2], 4, 4))
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = rotation, translation, 1
    return out


def is_rigid(poses: np.ndarray, tolerance: float = 1e-3) -> np.ndarray:
    """Whether matrices (…, 4, 4) are finite and turn and move without stretching: bool (…)."""
    poses = np.asarray(poses, np.float64)
    rotation, last = poses[..., :3, :3], poses[..., 3, :]
    with np.errstate(invalid="ignore", over="ignore"):
        turns = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-2, -1))
        right = np.abs(last - (0, 0, 0, 1)).max(-1)
        handed = np.linalg.det(rotation) > 0
        return np.isfinite(poses).all((-2, -1)) & (turns < tolerance) & (right == 0) & handed


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (…, 3, 3) of unit quaternions (…, 4)."""
    w, x, y, z = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z of a matrix (3, 3) that turns less than half a turn about x and y."""
    r = rotation
    w = math.sqrt(max(1.0 + r[0, 0] + r[1, 1] + r[2, 2], 0.0)) / 2
    z = math.sqrt(max(1.0 - r[0, 0] - r[1, 1] + r[2, 2], 0.0)) / 2
    if w > z:
        x, y = (r[2, 1] - r[1, 2]) / (4 * w), (r[0, 2] - r[2, 0]) / (4 * w)
        z = (r[1, 0] - r[0, 1]) / (4 * w)
    else:
        x, y = (r[0, 2] + r[2, 0]) / (4 * z), (r[1, 2] + r[2, 1]) / (4 * z)
        w = (r[1, 0] - r[0, 1]) / (4 * z)
    return np.array([w, x, y, z])


def pose_matrix(translation: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Poses (…, 4, 4) from metres (…, 3) and quaternions (…, 4) of any length but zero."""
    q = np.asarray(rotation, np.float64)
    unit = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return rigid(rotation_matrix(unit), np.asarray(translation, np.float64))


def read_poses(records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str | None]]:
    """Poses as tables have them, as matrices, and what is wrong with each.

    Args:
        records: of N poses `{translation, rotation}`: metres and a quaternion w, x, y, z.

    Returns:
        float64 (N, 4, 4), the identity where there is none; why, or None, N times.
    """
    reasons: list[str | None] = [None] * len(records)
    parts = {"translation": 3, "rotation": 4}
    try:
        numbers = [np.array([r[key] for r in records]) for key in parts]
        shapes = [(len(records), width) for width in parts.values()]
        regular = all(x.shape == s and x.dtype.kind in "iuf" for x, s in zip(numbers, shapes))
    except ValueError:  # of several lengths
        regular = False
    if not regular:
        reasons = [_not_numbers(record) for record in records]
        still = {"translation": [0.0] * 3, "rotation": [1.0, 0.0, 0.0, 0.0]}
        used = [still if reason else record for record, reason in zip(records, reasons)]
        numbers = [np.array([r[key] for r in used], np.float64).reshape(-1, n)
                   for key, n in parts.items()]  # fmt: skip
    places, turns = (np.asarray(x, np.float64) for x in numbers)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(turns, axis=1)
        finite = np.isfinite(places).all(1) & np.isfinite(turns).all(1)
        unit = np.abs(length - 1) < _UNIT
    for i in np.flatnonzero(~(finite & unit)):
        reasons[i] = reasons[i] or (
            f"its rotation is a quaternion of length {length[i]:.3g}, not 1"
            if finite[i]
            else "its pose is NaN or infinite"
        )
    good = np.array([reason is None for reason in reasons], bool)
    poses = np.tile(np.eye(4), (len(records), 1, 1))
    poses[good] = pose_matrix(places[good], turns[good])
    return poses, reasons


_UNIT = 0.01  # quaternions written with two decimals are as far from 1


def _not_numbers(record: Mapping[str, Any]) -> str | None:
    """Why a pose isn't three and four numbers, or None."""
    for key, width in (("translation", 3), ("rotation", 4)):
        value = record[key]
        flat = np.array(value, object).ravel().tolist() if isinstance(value, list) else [value]
        if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in flat):
            return f"its {key} isn't {width} numbers"
        if key == "rotation" and len(flat) == 9:
            return "its rotation is a matrix, not a quaternion w, x, y, z"
        if not isinstance(value, list) or len(value) != width or len(flat) != width:
            return f"its {key} has {len(flat)} numbers, not {width}"
        if any(isinstance(x, int) and abs(x) > 10**300 for x in flat):
            return "its pose is NaN or infinite"
    return None


def broken_motion(
    poses: np.ndarray, seconds: np.ndarray, longest: float, upright: bool = True
) -> list[str | None]:
    """What no car does from one frame of a drive to the next.

    Args:
        poses: rigid, of car or sensor, (N, 4, 4) in one frame.
        seconds: (N,), NaN where unknown.
        longest: seconds between two frames, at most.
        upright: the pose's z points up, unless the car lies on its side.

    Returns:
        Of each frame why it doesn't follow the one before it, or doesn't stand on a road, or None.
    """
    reasons: list[str | None] = [None] * len(poses)
    step = np.diff(seconds)
    time = np.clip(np.nan_to_num(step, nan=longest), 0.05, None)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
        turned = invert(poses[:-1])[:, :3, :3] @ poses[1:, :3, :3]
        angle = np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))
    for i in np.flatnonzero(poses[:, 2, 2] < _UPRIGHT) if upright else ():
        reasons[i] = "the car lies on its side (quaternions are w, x, y, z)"
    told = (
        (step <= 0, lambda i: f"its time is {abs(step[i]):.3g} s earlier than the one before"),
        (step > longest, lambda i: f"it comes {step[i]:.3g} s after the one before"),
        (~(moved <= FASTEST * time), lambda i: f"the car jumps {moved[i]:.4g} m to it"),
        (angle > SHARPEST * time, lambda i: f"the car turns {np.degrees(angle[i]):.0f}° to it"),
    )
    for wrong, say in told:
        for i in np.flatnonzero(wrong):
            reasons[i + 1] = reasons[i + 1] or say(i)
    return reasons


_UPRIGHT = 0.5  # cosine of 60°


LIDAR_TO_EGO = pose_matrix(LIDAR_POSITION, LIDAR_ROTATION)


def displacements(poses: Poses) -> Poses:
    """Planar steps, (…, N, 4, 4) to (…, N - 1, 2) metres: from each frame to the next, in its axes.

    Of LiDAR poses these are x right, y forward: what the field calls `gt_ego_fut_trajs`.
    """
    return (invert(poses[..., :-1, :, :]) @ poses[..., 1:, :, :])[..., :2, 3]


def trajectory_from_poses(poses: Tensor, lidar_to_ego: np.ndarray = LIDAR_TO_EGO) -> Tensor:
    """LiDAR displacement from each frame to the next, float32 `(B, N, 2)`, x right and y forward.

    The step after the last pose is not known; it repeats the one before.

    Args:
        poses: ego poses in any common frame, `(B, N, 4, 4)`, N >= 2.
        lidar_to_ego: rigid transform `(4, 4)`.
    """
    steps = displacements(poses.double() @ torch.as_tensor(lidar_to_ego, device=poses.device))
    return torch.cat([steps, steps[:, -1:]], dim=1).float()


def extrapolate(poses: Tensor, future: int) -> Tensor:
    """Continue the ego's motion with the velocity and yaw rate between the last two keyframes.

    Roll, pitch and vertical motion are not continued: on a road they come back, and repeating
    them would tip the scene over.

    Args:
        poses: past frame to newest frame, `(B, P, 4, 4)` with P >= 2; the last two are used.
        future: how many keyframes to continue, at the same interval.

    Returns:
        Future frame to newest frame, `(B, future, 4, 4)`.

    Raises:
        ValueError: fewer than two past keyframes.
    """
    if poses.shape[1] < 2:
        raise ValueError("extrapolation needs at least two past keyframes")
    # The newest frame as seen from the one before; moving on is doing this step again.
    motion = invert(poses[:, -2].double()) @ poses[:, -1].double()
    yaw = torch.atan2(motion[:, 1, 0], motion[:, 0, 0])
    step = torch.eye(4, dtype=motion.dtype, device=motion.device).repeat(len(motion), 1, 1)
    step[:, 0, 0] = step[:, 1, 1] = torch.cos(yaw)
    step[:, 1, 0] = torch.sin(yaw)
    step[:, 0, 1] = -step[:, 1, 0]
    step[:, :2, 3] = motion[:, :2, 3]
    steps = [step]
    for _ in range(future - 1):
        steps.append(steps[-1] @ step)
    return torch.stack(steps, dim=1).to(poses.dtype)


def between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values `(K, …)` of keyframes at the times `at (N,)` in keyframes, 0 to K - 1: `(N, …)`."""
    low = np.minimum(at.astype(int), len(values) - 2)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[low] + share * values[low + 1]


def rotations_between(quaternions: np.ndarray, at: np.ndarray) -> np.ndarray:
    """As `between`, of quaternions `(K, 4)` along the shorter way: unit ones `(N, 4)`."""
    # a quaternion and its negative are one rotation: keep neighbours on the same side
    turn = np.sign((quaternions[1:] * quaternions[:-1]).sum(1))
    mixed = between(quaternions * np.cumprod([1.0, *turn])[:, None], at)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
