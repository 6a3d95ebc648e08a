"""Voxel grids in other frames and on other grids: the nearest source voxel of each target voxel.

`warp` does it for batches of tensors on any device, `nearest` for an array and any part of a target
grid. Both go where `voxel_map` says.
"""

from __future__ import annotations

from typing import TypeVar

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from occdistill.data.occ3d import FREE, Grid

Array = TypeVar("Array", np.ndarray, Tensor)


def voxel_map(target_to_source: Array, source: Grid, target: Grid) -> tuple[Array, Array]:
    """Positions of one grid on another, in voxels from the low corners: x' = A x + b.

    Args:
        target_to_source: rigid transforms that take target metres to source metres, float64
            `(…, 4, 4)`: in float64 the identity maps every centre onto itself exactly.
        source: the grid that is looked at.
        target: the grid that is filled.

    Returns:
        A `(…, 3, 3)` and b `(…, 3)`, of the input's kind.
    """
    kind = target_to_source.new_tensor if isinstance(target_to_source, Tensor) else np.array
    low, origin = kind(target.origin), kind(source.origin)
    rotation, shift = target_to_source[..., :3, :3], target_to_source[..., :3, 3]
    offset = (rotation @ low + shift - origin) / source.voxel_size
    return rotation * (target.voxel_size / source.voxel_size), offset


def warp(voxels: Tensor, target_to_source: Tensor, grid: Grid, fill: int = FREE) -> Tensor:
    """See one frame's voxels from another frame.

    Args:
        voxels: class ids `(N, X, Y, Z)` in the source frames.
        target_to_source: rigid transforms `(N, 4, 4)`, target metres to source metres.
        grid: the grid of both.
        fill: what a target voxel gets whose centre lies outside the source grid.

    Returns:
        Voxels `(N, X, Y, Z)` in the target frames, of the input's dtype and device.
    """
    n, *shape = voxels.shape
    device = voxels.device
    scale, offset = voxel_map(target_to_source.to(device, torch.float64), grid, grid)
    scale, offset = scale.float(), offset.float()

    # A border of `fill` around the source takes whatever lies outside. Positions stay floats to the
    # end: whole numbers below 2**24 are exact, and so is the floor.
    centres = [torch.arange(size, device=device) + 0.5 for size in shape]
    flat = torch.zeros((), device=device)
    for axis, size in enumerate(shape):
        x, y, z = (
            scale[:, axis, i, None] * centre for i, centre in enumerate(centres)
        )  # each (N, side)
        x = x + offset[:, axis, None]
        position = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        flat = position.clamp_(-1, size).floor_().add_(1).add_(flat, alpha=size + 2)
    cells = flat.long().clamp_(min=0)  # NaN lands in the border as well
    bordered = F.pad(voxels, (1,) * 6, value=fill).reshape(n, -1)
    return bordered.gather(1, cells.reshape(n, -1)).reshape(voxels.shape)


@numba.njit(cache=True, nogil=True)
def nearest(voxels, scale, offset, low, out):
    """Fill a part of a target grid; what lies outside the source stays as it is.

    Args:
        voxels: source `(X, Y, Z)`, contiguous.
        scale: `(3, 3)`, with offset `(3,)` what `voxel_map` gives.
        offset: see there.
        low: target index of the part's first voxel, `(3,)`.
        out: the part, of any shape and the source's dtype.
    """
    for x in range(out.shape[0]):
        for y in range(out.shape[1]):
            for z in range(out.shape[2]):
                flat = 0
                for a in range(3):
                    position = (
                        scale[a, 0] * (low[0] + x + 0.5)
                        + scale[a, 1] * (low[1] + y + 0.5)
                        + scale[a, 2] * (low[2] + z + 0.5)
                    ) + offset[a]
                    cell = int(np.floor(position))
                    if cell < 0 or cell >= voxels.shape[a]:
                        flat = -1
                        break
                    flat = flat * voxels.shape[a] + cell
                if flat >= 0:
                    out[x, y, z] = voxels.flat[flat]
