"""Do static things stay where they are? Neighbouring frames of a forecast, laid over each other."""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.data.occ3d import Grid
from occdistill.data.poses import invert
from occdistill.data.resample import warp
from occdistill.evaluation.measures.base import Context, Measure, Observer
from occdistill.evaluation.measures.subsets import STATIC
from occdistill.evaluation.rows import ClipBatch, Row

_OUTSIDE = 255


class StaticConsistency:
    """IoU between each forecast frame and the one before it, moved into its ego frame.

    Only static classes count, only where both frames look, and a voxel agrees if its class does.
    The truth itself scores below 100 (resampling, occlusion), so compare with its own value.
    """

    summed = ("agree", "union")

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.agree = self.union = 0

    def update(self, voxels: Tensor, poses: Tensor) -> None:
        """Count one clip: uint8 `(F, X, Y, Z)`; poses `(F, 4, 4)`, frame to one common frame."""
        poses = poses.double()
        target_to_source = invert(poses[:-1]) @ poses[1:]
        before = warp(voxels[:-1], target_to_source, self.grid, fill=_OUTSIDE)
        after = voxels[1:]
        static = torch.zeros(256, dtype=torch.bool, device=voxels.device)
        static[list(STATIC)] = True
        was, stays = static[before.long()], static[after.long()]
        inside = before != _OUTSIDE
        self.agree += int((was & stays & (before == after)).sum())
        self.union += int(((was | stays) & inside).sum())

    def result(self) -> float:
        """Percent; NaN if no static voxel was seen."""
        return 100 * self.agree / self.union if self.union else float("nan")


class _Beside:
    """A row's consistency beside the truth's own."""

    summed = ("ours", "truth")

    def __init__(self, grid: Grid) -> None:
        self.ours, self.truth = StaticConsistency(grid), StaticConsistency(grid)

    def result(self) -> dict[str, float]:
        return {"forecast": self.ours.result(), "truth": self.truth.result()}


def observe(context: Context) -> Observer:
    """Static voxels of neighbouring forecast frames, laid over each other with the true motion."""

    def feed(state: _Beside, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        future = batch.poses[:, batch.past.shape[1] :]
        for voxels, truth, poses in zip(pred, batch.future, future):
            state.ours.update(voxels, poses)
            state.truth.update(truth, poses)

    return Observer("static_consistency", lambda: _Beside(context.dataset.grid), feed)


CONSISTENCY = Measure(
    "consistency",
    observe,
    {
        "static consistency": ("static_consistency", "forecast"),
        "of the truth": ("static_consistency", "truth"),
    },
    order=3,
)
