"""Voxel grids seen from other ego frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occdistill.data.occ3d import FREE, Grid


def warp(voxels: Tensor, target_to_source: Tensor, grid: Grid, fill: int = FREE) -> Tensor:
    """See one frame's voxels from another frame: nearest source voxel per target voxel centre.

    Parameters
    ----------
    voxels
        Class ids (N, X, Y, Z) in the source frames.
    target_to_source
        Rigid transforms (N, 4, 4) that take target coordinates (metres) to source coordinates.
    grid
        The grid of both.
    fill
        What a target voxel gets whose centre lies outside the source grid.

    Returns
    -------
    Tensor
        Voxels (N, X, Y, Z) in the target frames, of the input's dtype and device.
    """
    n, *shape = voxels.shape
    device = voxels.device
    # In units of voxels: p' = R p + (R o + t - o) / size. Built in float64, so that the identity
    # maps every centre onto itself exactly.
    pose = target_to_source.to(device, torch.float64)
    origin = torch.tensor(grid.origin, dtype=torch.float64, device=device)
    rotation = pose[:, :3, :3]
    offset = (rotation @ origin + pose[:, :3, 3] - origin) / grid.voxel_size
    rotation, offset = rotation.float(), offset.float()

    # A border of `fill` around the source takes whatever lies outside. Positions stay floats to the
    # end: whole numbers below 2**24 are exact, and so is the floor.
    centres = [torch.arange(size, device=device) + 0.5 for size in shape]
    flat = torch.zeros((), device=device)
    for axis, size in enumerate(shape):
        x, y, z = (
            rotation[:, axis, i, None] * centre for i, centre in enumerate(centres)
        )  # each (N, side)
        x = x + offset[:, axis, None]
        position = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        flat = position.clamp_(-1, size).floor_().add_(1).add_(flat, alpha=size + 2)
    cells = flat.long().clamp_(min=0)  # NaN lands in the border as well
    bordered = F.pad(voxels, (1,) * 6, value=fill).reshape(n, -1)
    return bordered.gather(1, cells.reshape(n, -1)).reshape(voxels.shape)
