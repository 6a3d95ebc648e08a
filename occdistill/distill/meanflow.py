"""MeanFlow as distillation (arXiv 2505.13447, with the teacher's velocity in place of the data's).

The average velocity obeys `u = v(x_t, t) + (r - t) Dt u`, Dt along the trajectory. The student is
regressed on the right-hand side, its own derivative included:

    L = || u(x_t, t, r) - sg[ v_T(x_t, t) + (r - t) Dt u ] ||²,  adaptively weighted

The source learns from `x_1 - x_0`, whose mean is v; a teacher removes that target's variance and
brings its guidance along. Needs data for x_t, no auxiliary.

Cost of an update: 2 (guided teacher) + 2.5 (derivative) + 3 (student) evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.distill.base import Batch, require
from occdistill.distill.flow_map import IntervalRegression
from occdistill.flow.path import expand


class MeanFlow(IntervalRegression):
    """Regression on the MeanFlow identity.

    Args:
        tangent_warmup: steps over which `Dt u` is faded in; 0 for none.
        **kwargs: see `IntervalRegression`.
    """

    cost, derivative_of = 7.5, "start"

    def __init__(self, *args, tangent_warmup: int = 0, **kwargs) -> None:
        require(tangent_warmup >= 0, "tangent_warmup must not be negative", tangent_warmup)
        super().__init__(*args, **kwargs)
        self.tangent_warmup = tangent_warmup

    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Of the identity."""
        target = self.target(x_t, t, r, batch, step)
        return [(1.0, self.nets["student"](x_t, t, batch.condition, r=r) - target)]

    @torch.no_grad()
    def target(self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int) -> Tensor:
        """The identity's right-hand side, the shape of x_t."""
        v_T = self.guided_teacher(x_t, t, batch.condition)
        d_t = self.total_derivative(x_t, t, r, batch.condition, v_T)
        fade = min(1.0, step / self.tangent_warmup) if self.tangent_warmup else 1.0
        return v_T + fade * expand(r - t, x_t) * d_t
