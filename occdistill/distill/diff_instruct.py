"""Diff-Instruct, also known as variational score distillation, for flows (arXiv 2305.18455)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from occdistill.distill.base import Batch, DistributionMatching, Loss, require, time_law
from occdistill.flow.path import TimeLaw, interpolate

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

    The other two weights have rows of their own, `DiffInstructScore` and `DiffInstructVelocity`.

    Args:
        weight: `x1` (the original implementation), `score` (the exact KL gradient, whose weight
            grows without bound towards data, so that it needs times below 1) or `velocity`.
        times: changes to the student's re-noising times, logit-normal within [0.02, 0.98].
        auxiliary_times: law of the auxiliary's times; default logit-normal, not clipped as above.
        **kwargs: see `DistributionMatching`.
    """

    cost = 6.0

    def __init__(
        self,
        *args,
        weight: Literal["score", "x1", "velocity"] = "x1",
        times: TimeLaw | dict | None = None,
        auxiliary_times: TimeLaw | dict | None = None,
        **kwargs,
    ) -> None:
        if weight not in WEIGHTS:
            raise ValueError(f"weight {weight!r} is not one of {', '.join(WEIGHTS)}")
        times = time_law(times, low=0.02, high=0.98)
        below_one = bool(torch.tensor(times.high) < 1)  # in the precision that times are drawn in
        require(below_one or weight != "score", "weight='score' needs times.high < 1", times.high)
        super().__init__(*args, times=times, auxiliary_times=auxiliary_times or {}, **kwargs)
        self.weight = WEIGHTS[weight]

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Surrogate loss on the clean sample; `gap` is `E || v_A - v_T ||²`."""
        x_1 = self.generate(batch)
        t = self.times.times(batch.draws)
        x_t = interpolate(x_1.detach(), batch.draws.normal(*self.latent_shape), t)
        with torch.no_grad():
            v_T = self.guided_teacher(x_t, t, batch.condition)
            v_A = self.nets["auxiliary"](x_t, t, batch.condition)
        return self.matching_loss(x_1, v_A - v_T, self.weight(t))


class DiffInstructScore(DiffInstruct):
    """Diff-Instruct with the exact KL gradient, w = t² / (1 - t)."""

    fixed: ClassVar = {"weight": "score"}

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **self.fixed, **kwargs)


class DiffInstructVelocity(DiffInstruct):
    """Diff-Instruct with velocity differences, w = t."""

    fixed: ClassVar = {"weight": "velocity"}

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **self.fixed, **kwargs)
