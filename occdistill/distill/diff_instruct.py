"""Diff-Instruct, also known as variational score distillation, for flows (arXiv 2305.18455)."""

from __future__ import annotations

from typing import Literal

import torch

from occdistill.distill.base import Batch, DistributionMatching, Loss
from occdistill.flow.path import interpolate

WEIGHTS = {
    # exact gradient of KL(student_t || teacher_t): t (s_A - s_T) = t² / (1 - t) (v_A - v_T)
    "score": lambda t: t**2 / (1 - t),
    # difference of clean predictions D_A - D_T = (1 - t) (v_A - v_T): the official EDM code, DMD
    "x1": lambda t: 1 - t,
    # velocity difference with the chain rule's t: equals `VelocityMatching`
    "velocity": lambda t: t,
}


class DiffInstruct(DistributionMatching):
    """`L = mean( w(t) sg[v_A - v_T](x_t, t) · x̂ )` with one of three weights w.

    Args:
        weight: `x1` (the original implementation), `score` (the exact KL gradient, whose weight
            grows without bound towards data) or `velocity`.
        **kwargs: see `DistributionMatching`; times default to logit-normal within [0.02, 0.98].
    """

    def __init__(
        self, *args, weight: Literal["score", "x1", "velocity"] = "x1", times=None, **kwargs
    ) -> None:
        if weight not in WEIGHTS:
            raise ValueError(f"weight {weight!r} is not one of {', '.join(WEIGHTS)}")
        kwargs.setdefault("auxiliary_times", {})
        super().__init__(*args, times=times or dict(low=0.02, high=0.98), **kwargs)
        self.weight = WEIGHTS[weight]

    def student_loss(self, batch: Batch) -> Loss:
        """Surrogate loss on the clean sample; `gap` is `E || v_A - v_T ||²`."""
        x_1 = self.generate(batch)
        t = self.times.times(batch.draws)
        x_t = interpolate(x_1.detach(), batch.draws.normal(*self.latent_shape), t)
        with torch.no_grad():
            v_T = self.guided_teacher(x_t, t, batch.condition)
            v_A = self.nets["auxiliary"](x_t, t, batch.condition)
        return self.matching_loss(x_1, v_A - v_T, self.weight(t))
