"""Reflow (rectified flow, arXiv 2209.03003): straight paths between a noise and where it ended.

    x̂ = ODE_T(z),   L = || N(t x̂ + (1 - t) z, t) - (x̂ - z) ||²,   z the noise that x̂ came from

ODE_T is the guided teacher's sampler. The pairs are coupled as the teacher couples them, so the new
flow has hardly crossing paths, nearly straight ones, and one Euler step goes most of the way. The
pairs are made on the fly, a fresh one for every clip of a batch. Needs conditions only; to go on
from its student to the last steps, see `regression.py`.

Cost of an update: 3 (student) + 2 per sampler step (guided teacher).
"""

from __future__ import annotations

import torch

from occdistill.distill.base import Batch, Loss, Method, require, time_law
from occdistill.flow.path import TimeLaw, interpolate
from occdistill.flow.solver import sample
from occdistill.types import Count, Positive


class Reflow(Method):
    """Flow matching on pairs of noise and teacher sample.

    Args:
        steps: Euler steps of the teacher's sampler, 1 or more.
        shift: of its time grid, see `shifted_grid`; above 0.
        times: law of t; default uniform on [0, 1] (source).
        **kwargs: see `Method`.
    """

    cost = 23.0

    def __init__(
        self,
        *args,
        steps: Count = 10,
        shift: Positive = 3.0,
        times: TimeLaw | dict | None = None,
        **kwargs,
    ) -> None:
        require(type(steps) is int and steps >= 1, "steps must be a whole number above 0", steps)
        require(shift > 0, "shift must be above 0", shift)
        super().__init__(*args, **kwargs)
        self.steps, self.shift = steps, shift
        self.times = time_law(times, law="uniform", low=0.0, high=1.0)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the loss."""
        z = batch.draws.normal(*self.latent_shape)
        with torch.no_grad():
            x_1 = sample(self.guided_teacher, z, batch.condition, self.steps, self.shift)
        t = self.times.times(batch.draws)
        v = self.nets["student"](interpolate(x_1, z, t), t, batch.condition)
        loss = (v - (x_1 - z)).square().mean()
        return Loss(loss, {"gap": loss.detach()})
