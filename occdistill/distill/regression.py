"""Direct regression on the teacher's samples: the lowest bar, also called knowledge distillation.

    L = ½ || G(z) - ODE_T(z) ||²,   G(z) = z + N(z, 0),   both from the same noise z

ODE_T is the guided teacher's own sampler. Where the future is uncertain, neighbouring z lead to
different ends, and the student averages them. Needs conditions only; the pairs are made on the fly.

Cost of an update: 3 (student) + 2 per sampler step (guided teacher).
"""

from __future__ import annotations

import torch

from occdistill.distill.base import Batch, Loss, Method, require
from occdistill.flow.solver import sample
from occdistill.types import Count, Positive


class Regression(Method):
    """Regression of the one-step student on pairs of noise and teacher sample.

    Args:
        steps: Euler steps of the teacher's sampler, 1 or more.
        shift: of its time grid, see `shifted_grid`; above 0.
        **kwargs: see `Method`.
    """

    cost = 23.0

    def __init__(self, *args, steps: Count = 10, shift: Positive = 3.0, **kwargs) -> None:
        require(type(steps) is int and steps >= 1, "steps must be a whole number above 0", steps)
        require(shift > 0, "shift must be above 0", shift)
        super().__init__(*args, **kwargs)
        self.steps, self.shift = steps, shift

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared error."""
        z = batch.draws.normal(*self.latent_shape)
        with torch.no_grad():
            target = sample(self.guided_teacher, z, batch.condition, self.steps, self.shift)
        square = (self.one_step(z, batch.condition) - target).square().mean()
        return Loss(square / 2, {"gap": square.detach()})
