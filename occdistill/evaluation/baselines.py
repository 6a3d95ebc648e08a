"""Rows that a forecaster has to beat, and the row that it can't: no model, no training.

All take and return uint8 voxels, `(B, P, X, Y, Z)` to `(B, F, X, Y, Z)`, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.data.objects import carry_objects
from occdistill.data.occ3d import Grid
from occdistill.data.poses import extrapolate
from occdistill.data.resample import warp
from occdistill.latents.codec import Codec


def copy_last(past: Tensor, future: int = 6) -> Tensor:
    """The newest past frame, repeated: the world stands still and so does the ego car."""
    return past[:, -1:].expand(-1, future, -1, -1, -1)


def ego_warp(
    past: Tensor,
    poses: Tensor,
    future: int,
    grid: Grid,
    extrapolated: bool = False,
    carry: bool = False,
) -> Tensor:
    """The newest past frame seen from each future ego frame: the world stands still.

    Args:
        past: uint8 `(B, P, X, Y, Z)`.
        poses: frame to newest past ego frame, `(B, P + F, 4, 4)`.
        future: frames to forecast, F.
        grid: the grid the voxels lie on.
        extrapolated: continue the last motion (constant velocity and yaw rate) instead of using
            the true future poses; then `(B, P, 4, 4)` is enough, and nothing leaks.
        carry: move objects on at the constant velocity that the past frames show.
    """
    frames = past.shape[1]
    if extrapolated:
        target_to_source = extrapolate(poses[:, :frames], future)
    else:
        target_to_source = poses[:, frames : frames + future]
    if carry:
        return carry_objects(past, poses, target_to_source, grid)
    voxels = copy_last(past, future).flatten(0, 1)
    return warp(voxels, target_to_source.flatten(0, 1), grid).unflatten(0, (-1, future))


@torch.no_grad()
def vae_ceiling(codec: Codec, future: Tensor) -> Tensor:
    """The truth `(B, F, X, Y, Z)`, encoded and decoded: the best a latent forecaster can score."""
    return codec.decode(codec.encode(future.flatten(0, 1))).unflatten(0, future.shape[:2])
