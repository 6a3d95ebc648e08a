"""What the newest frame doesn't hold: where futures are too sure of air, and the one number for it.

A car that drives on meets places that lay outside its grid. Where nothing is known of them, each
future decodes what is likeliest, which is air, and so their votes agree on it. Of K futures let n
fill a voxel, and m hold it for air in a place that the newest frame's grid doesn't reach, seen from
where that future has the ego go. The probability is then

    p = (n + λ m) / K

with λ the chance that such air is filled after all: the same for all horizons, and 0 for votes as
they are. A table counts voxels, int64 `(..., K + 1, K + 1, 2)`, by n, m and outcome.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill.data.occ3d import FREE, Grid
from occdistill.data.resample import warp
from occdistill.evaluation import votes


def outside(to_newest: Tensor, grid: Grid) -> Tensor:
    """Which voxels of future frames lie outside the newest past frame's grid.

    Args:
        to_newest: future frame to newest past frame, `(..., 4, 4)`.
        grid: of all frames.

    Returns:
        bool `(..., X, Y, Z)` on the same device.
    """
    flat = to_newest.reshape(-1, 4, 4)
    inside = torch.ones(1, *grid.shape, dtype=torch.uint8, device=flat.device)
    seen = warp(inside.expand(len(flat), -1, -1, -1), flat, grid, fill=0)
    return (seen == 0).reshape(*to_newest.shape[:-2], *grid.shape)


def table(samples: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count one clip.

    Args:
        samples: K futures, uint8 `(K, F, ...)`.
        unseen: what lies outside for each of them, bool `(K, F, ...)`, or `(1, F, ...)` for all.
        truth: uint8 `(F, ...)`.

    Returns:
        int64 `(F, K + 1, K + 1, 2)`.
    """
    side, air = len(samples) + 1, samples == FREE
    n, m = (~air).sum(0), (air & unseen).sum(0)
    index = (n * side + m) * 2 + (truth != FREE)
    found = [np.bincount(frame.ravel(), minlength=2 * side**2) for frame in index]
    return np.stack(found).reshape(-1, side, side, 2)


def probability(count: int, chance: float) -> np.ndarray:
    """p of n and m, `(K + 1, K + 1)`; what n + m <= K allows lies within 0 to 1."""
    n, m = np.ogrid[: count + 1, : count + 1]
    return (n + chance * m) / count


def fit(found: np.ndarray) -> float:
    """The λ with the least Brier score on a table `(K + 1, K + 1, 2)`, 0 to 1.

    p is linear in it, so it is a regression through the origin:

        λ = Σ (y - n / K) (m / K) / Σ (m / K)²

    Without a voxel outside there is nothing to tell it from: 0.
    """
    count = len(found) - 1
    n, m = np.ogrid[: count + 1, : count + 1]
    excess = found[..., 1] - n / count * found.sum(-1)
    squares = float((found.sum(-1) * (m / count) ** 2).sum())
    return float(np.clip((excess * m / count).sum() / squares, 0, 1)) if squares else 0.0


def brier(found: np.ndarray, chance: float) -> np.ndarray:
    """`votes.brier` of p: `(..., K + 1, K + 1, 2)` to `(...)`."""
    p = probability(found.shape[-2] - 1, chance)
    return votes.brier(found.reshape(*found.shape[:-3], -1, 2), p.ravel())


def calibration_error(found: np.ndarray, chance: float) -> np.ndarray:
    """`votes.calibration_error` of p: `(..., K + 1, K + 1, 2)` to `(...)`.

    Voxels are judged together whose p rounds to the same K-th; with λ = 0 these have equal votes.
    """
    count = found.shape[-2] - 1
    p = probability(count, chance)
    excess, levels = found[..., 1] - p * found.sum(-1), np.rint(count * p)
    gap = sum(np.abs(excess[..., levels == level].sum(-1)) for level in range(count + 1))
    filled = (found.sum((-1, -2, -3)) - found[..., 0, :, 0].sum(-1)).astype(np.float64)
    return np.divide(gap, filled, out=np.full(np.shape(gap), np.nan), where=filled > 0)
