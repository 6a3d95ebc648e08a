"""MFD without its auxiliary: the ablation that collapses (MFD, App. C.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, Method, require, surrogate, time_law
from occdistill.flow.path import Draws, TimeLaw, interpolate
from occdistill.flow.solver import average_velocity, equal_steps
from occdistill.types import Step


class NoAuxiliary(Method):
    """The auxiliary's average velocity replaced by the sample's own straight line, `x̂ - e`.

    `L = mean( sg[(x̂ - e) - u_T(x_t, t, r)] · x_t )`, as in score distillation sampling. The mean
    is still pulled to the teacher's, but nothing keeps the spread: it shrinks to a point.

    Args:
        times: law of the interval's ends.
        ode_step: largest Euler step of the teacher's integration, in (0, 1].
        **kwargs: see `Method`.
    """

    cost = 28.0
    collapse = "it has no auxiliary flow to keep its spread, and so collapses for sure: take MFD"

    def __init__(
        self, *args, times: TimeLaw | dict | None = None, ode_step: Step = 0.02, **kwargs
    ) -> None:
        require(0 < ode_step <= 1, "ode_step must lie in (0, 1]", ode_step)
        super().__init__(*args, **kwargs)
        self.times, self.ode_step = time_law(times), ode_step

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """The student's surrogate loss."""
        x_1 = self.generate(batch)
        noise = batch.draws.normal(*self.latent_shape)
        t, r = self.times.intervals(batch.draws)
        x_t = interpolate(x_1, noise, t)
        with torch.no_grad():
            u_T = average_velocity(
                self.guided_teacher, x_t.detach(), t, r, batch.condition, self.ode_step
            )
        gap = (x_1 - noise).detach() - u_T
        return Loss(surrogate(gap, x_t), {"gap": gap.square().mean()})

    def work(self, name: str, draws: Draws) -> Tensor | None:
        """Euler steps of the teacher's integration."""
        for _ in range(2):  # what the student starts from, and the noise
            draws.normal(*self.latent_shape)
        t, r = self.times.intervals(draws)
        return equal_steps(r - t, self.ode_step)
