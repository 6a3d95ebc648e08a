"""Mean Flow Distillation (MFD, arXiv 2606.11155): compare average velocities over an interval."""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.distill.base import Batch, DistributionMatching, Loss, require
from occdistill.flow.guidance import Pair
from occdistill.flow.path import Draws, interpolate
from occdistill.flow.solver import SOLVERS, Solver, average_velocity, equal_steps
from occdistill.types import Step


class MFD(DistributionMatching):
    """Move the one-step student along `u_T - u_A`, the gap between two average velocities.

    At a re-noised student sample `x_t = t x̂ + (1 - t) e`, both the guided teacher's and the
    auxiliary's ODEs are integrated from t to r, from the same point; their average velocities give

        L = mean( sg[u_A - u_T] · x_t ),    so  dL/dx̂ = t (u_A - u_T) / numel

    which is the paper's Eq. 17 with the Jacobian `d u / d x_t` replaced by the identity.

    The defaults are the paper's price, 80 evaluations' worth for a student update. A third of it,
    once the ratio has fallen:
    `MFD(ode_step=0.15, solver="midpoint", final_ratio=4, reuse=5)`, see docs/methods.md.

    Args:
        ode_step: largest step h of the two integrations, in (0, 1] (paper: 0.02).
        solver: of the integrations (paper: Euler); midpoint steps of 0.15 are as exact as Euler
            steps of 0.02 for a third of the evaluations (`tools/study.py price`).
        **kwargs: see `DistributionMatching`.
    """

    cost = 40.5  # the integrations take 12.5 steps on average, sorted logit-normal times

    def __init__(self, *args, ode_step: Step = 0.02, solver: Solver = "euler", **kwargs) -> None:
        require(0 < ode_step <= 1, "ode_step must lie in (0, 1]", ode_step)
        require(solver in SOLVERS, f"solver must be one of {', '.join(SOLVERS)}", solver)
        super().__init__(*args, **kwargs)
        self.ode_step, self.solver = ode_step, solver

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Surrogate loss; its log `gap` is the mean-flow distance `E || u_A - u_T ||²` (Fig. 7)."""
        x_1 = self.generate(batch)
        t, r = self.times.intervals(batch.draws)
        x_t = interpolate(x_1, batch.draws.normal(*self.latent_shape), t)
        flows = Pair(self.guided_teacher, self.nets["auxiliary"])
        with torch.no_grad():
            start = torch.stack([x_t, x_t], 1)
            u = average_velocity(flows, start, t, r, batch.condition, self.ode_step, self.solver)
            u_T, u_A = u.unbind(1)
        return self.matching_loss(x_t, u_A - u_T)

    def work(self, name: str, draws: Draws) -> Tensor | None:
        """Steps of a student update's integrations."""
        if name != "student":
            return None
        draws.normal(*self.latent_shape)  # what the student starts from
        t, r = self.times.intervals(draws)
        return equal_steps(r - t, self.ode_step)
