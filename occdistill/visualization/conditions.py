"""A clip as a network is shown it: what is known, what it is made into, and what is to come."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from occdistill.data.occ3d import Grid
from occdistill.visualization.panels import INTERVAL, sheet


def condition_sheet(
    past: Tensor,
    aligned: Tensor | None,
    future: Tensor,
    grid: Grid,
    align: tuple[int, ...] = (),
    carry: bool = False,
    size: tuple[int, int] = (240, 240),
) -> Image.Image:
    """The past, the past as it will look from each future place, and the truth there, from above.

    Args:
        past: uint8 `(P, X, Y, Z)`.
        aligned: uint8 `(F, K, X, Y, Z)`, see `Codec.aligned_voxels`; None: the network has none.
        future: uint8 `(F, X, Y, Z)`.
        grid: where the voxels are.
        align: how many keyframes before the newest one each of the K aligned frames lies.
        carry: whether the objects of the newest one have moved on.
        size: of a panel, pixels.

    Returns:
        A line of P panels, K + 1 lines of F.
    """
    lines = [[("past", INTERVAL * (i + 1 - len(past)), x) for i, x in enumerate(past.numpy())]]
    aligned = torch.empty(len(future), 0) if aligned is None else aligned
    for offset, frames in zip(align, aligned.unbind(1)):
        name = f"{-INTERVAL * offset:+.1f} s, seen from" if offset else "now, seen from"
        name = "carried, seen from" if carry and not offset else name
        lines.append([(name, INTERVAL * (i + 1), x) for i, x in enumerate(frames.numpy())])
    lines.append([("truth", INTERVAL * (i + 1), x) for i, x in enumerate(future.numpy())])
    return sheet(lines, grid, size)
