"""A plan: what the ego car does in the next keyframes, one step for each.

A step is `(dx, dy, dyaw)`: metres forward, metres to the left and radians to the left, from one
keyframe to the next, in the axes of the ego frame that it starts from. Standing is zeros, and a
circle is the same step again and again. What the car has done is told in steps, too. *Places* are
where a plan leads: `(x, y, yaw)` in the frame that it starts from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill.data.poses import invert, wrapped


def steps_between(poses: Tensor) -> Tensor:
    """Steps `(…, N - 1, 3)` from each of the poses `(…, N, 4, 4)` to the next."""
    motion = (invert(poses[..., :-1, :, :].double()) @ poses[..., 1:, :, :].double()).to(poses)
    yaw = torch.atan2(motion[..., 1, 0], motion[..., 0, 0])
    return torch.stack([motion[..., 0, 3], motion[..., 1, 3], yaw], dim=-1)


def steps_along(track: np.ndarray) -> np.ndarray:
    """Steps `(…, K - 1, 3)` along places `(…, K, 3)` that are given in any one frame."""
    x, y, yaw = np.moveaxis(np.asarray(track, np.float64), -1, 0)
    dx, dy, turn = (np.diff(value, axis=-1) for value in (x, y, yaw))
    c, s = np.cos(yaw[..., :-1]), np.sin(yaw[..., :-1])
    return np.stack([c * dx + s * dy, c * dy - s * dx, wrapped(turn)], -1)


def places(plan: Tensor) -> Tensor:
    """Where the plans `(…, F, 3)` lead: x, y, yaw, `(…, F, 3)`."""
    dx, dy, turn = plan.unbind(-1)
    yaw = turn.cumsum(-1)
    before = yaw - turn
    c, s = before.cos(), before.sin()
    x, y = (c * dx - s * dy).cumsum(-1), (s * dx + c * dy).cumsum(-1)
    return torch.stack([x, y, yaw], dim=-1)


def poses_of(plan: Tensor) -> Tensor:
    """The plans' ego frames `(…, F, 4, 4)`, each to the frame that the plan starts from."""
    x, y, yaw = places(plan).unbind(-1)
    poses = torch.eye(4, dtype=plan.dtype, device=plan.device).repeat(*x.shape, 1, 1)
    poses[..., 0, 0] = poses[..., 1, 1] = yaw.cos()
    poses[..., 1, 0] = yaw.sin()
    poses[..., 0, 1] = -poses[..., 1, 0]
    poses[..., 0, 3], poses[..., 1, 3] = x, y
    return poses


def constant_turn(past: Tensor, future: int) -> Tensor:
    """The plan `(…, future, 3)` that repeats the last of the steps `(…, N, 3)`."""
    return past[..., -1:, :].expand(*past.shape[:-2], future, 3)


def constant_velocity(past: Tensor, future: int) -> Tensor:
    """The plan `(…, future, 3)` that goes straight on where the car heads, as fast as it came.

    The velocity of the last step `(…, N, 3)`, turned by it, as seen from the newest frame.
    """
    dx, dy, turn = past[..., -1, :].unbind(-1)
    c, s = turn.cos(), turn.sin()
    step = torch.stack([c * dx + s * dy, c * dy - s * dx, torch.zeros_like(turn)], dim=-1)
    return step[..., None, :].expand(*past.shape[:-2], future, 3)


def windows(steps: np.ndarray, past: int, future: int, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Every window of a drive's steps, as float32.

    Args:
        steps: `(K, 3)`.
        past: steps that are known, one less than past keyframes.
        future: steps of a plan.
        stride: steps between the starts of two windows.

    Returns:
        What was done `(N, past, 3)`, and what was done then `(N, future, 3)`; N may be 0.
    """
    count = max(0, (len(steps) - past - future) // stride + 1)
    at = stride * np.arange(count)[:, None] + np.arange(past + future)
    cut = torch.from_numpy(np.asarray(steps, np.float32)[at])
    return cut[:, :past], cut[:, past:]
