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

from occdistill.distill.base import Batch, Loss, require, time_law
from occdistill.distill.flow_map import FlowMap, noised_data
from occdistill.distill.losses import adaptive
from occdistill.flow.path import TimeLaw, expand


class MeanFlow(FlowMap):
    """Regression on the MeanFlow identity.

    Args:
        times: changes to the law of the interval's ends, logit-normal with mean 0.4 (source: -0.4
            in a time that runs the other way).
        instantaneous: fraction of samples with r = t, which learn the velocity itself, in [0, 1].
        tangent_warmup: steps over which `Dt u` is faded in; 0 for none.
        power: of the adaptive weight `1 / (||.||² + 0.01)^power`, not negative; 0 is the plain
            square.
        **kwargs: see `FlowMap`.
    """

    def __init__(
        self,
        *args,
        times: TimeLaw | dict | None = None,
        instantaneous: float = 0.5,
        tangent_warmup: int = 0,
        power: float = 1.0,
        **kwargs,
    ) -> None:
        require(0 <= instantaneous <= 1, "instantaneous must lie in [0, 1]", instantaneous)
        require(tangent_warmup >= 0, "tangent_warmup must not be negative", tangent_warmup)
        require(power >= 0, "power must not be negative", power)
        super().__init__(*args, **kwargs)
        self.times = time_law(times, mean=0.4)
        self.instantaneous, self.tangent_warmup = instantaneous, tangent_warmup
        self.power = power

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared residual of the identity."""
        condition, draws = batch.condition, batch.draws
        t, r = self.times.intervals(draws)
        r = torch.where(draws.uniform(1)[:, 0] < self.instantaneous, t, r)
        x_t = noised_data(batch, t)
        with torch.no_grad():
            v_T = self.guided_teacher(x_t, t, condition)
            d_t = self.total_derivative(x_t, t, r, condition, v_T)
            fade = min(1.0, step / self.tangent_warmup) if self.tangent_warmup else 1.0
            target = v_T + fade * expand(r - t, x_t) * d_t
        residual = self.nets["student"](x_t, t, condition, r=r) - target
        square = residual.square().flatten(1).sum(1)
        loss = adaptive(square, self.power).mean()
        return Loss(loss, {"gap": residual.detach().square().mean()})
