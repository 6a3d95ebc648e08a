"""Instantaneous velocity matching: MFD in the limit of an empty interval, r = t (MFD, Thm 4.1)."""

from __future__ import annotations

import torch

from occdistill.distill.base import Batch, DistributionMatching, Loss
from occdistill.flow.path import interpolate


class VelocityMatching(DistributionMatching):
    """`L = mean( sg[v_A - v_T](x_t, t) · x_t )`: separates velocity space from interval averaging.

    Args:
        **kwargs: see `DistributionMatching`.
    """

    cost = 6.0

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Surrogate loss; `gap` is `E || v_A - v_T ||²`."""
        x_1 = self.generate(batch)
        t = self.times.times(batch.draws)
        x_t = interpolate(x_1, batch.draws.normal(*self.latent_shape), t)
        with torch.no_grad():
            start = x_t.detach()
            v_T = self.guided_teacher(start, t, batch.condition)
            v_A = self.nets["auxiliary"](start, t, batch.condition)
        return self.matching_loss(x_t, v_A - v_T)
