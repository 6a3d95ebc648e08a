"""Terminal velocity matching (TVM, arXiv 2511.19797): the end of a step must move as the teacher.

With the displacement `f(x_t, t, r) = (r - t) u(x_t, t, r)`, moving the end r moves x_t + f with the
velocity there, and an empty step is the velocity itself:

    L = || ∂f/∂r - sg v_T(x_t + sg f, r) ||² + || u(x_r', r', r') - sg v_T(x_r', r') ||²
    ∂f/∂r = u + (r - t) Dr u

The gradient runs through the derivative, which is where TVM and AYF's LMD differ: that one has the
same residual and moves u alone. The source learns from data and an average of the student; here the
teacher says both velocities, with its guidance, so its scale isn't an input and the source's factor
`1 / guidance²` is left out.

Times: the gap is `d = sigmoid(N(gap_mean, gap_std))`, the end r logit-normal given that r >= d, and
t = r - d; r' is drawn apart from them. Needs data for x_t, no auxiliary.

Cost of an update: 9 (forward mode and back through it; 3 · 3 with differences, whose three calls
are ordinary ones) + 4 (guided teacher, twice) + 3 (empty step) evaluations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, require, time_law
from occdistill.distill.flow_map import FlowMap, noised_data
from occdistill.flow.path import Draws, TimeLaw, expand


class TerminalVelocity(FlowMap):
    """The loss above.

    Args:
        gap_mean, gap_std: of the logit of a step's length.
        end_mean, end_std: of the logit of its end, before it is cut off below the length.
        times: law of r'; default logit-normal with mean 0.4 (source: -0.4 in a time that runs the
            other way, as the end's).
        empty_weight: of the second term, 0 or more; 0 leaves it out.
        **kwargs: see `FlowMap`.
    """

    cost, derivative_of = 16.0, "end, and back through it"

    def __init__(
        self,
        *args,
        gap_mean: float = -0.8,
        gap_std: float = 1.0,
        end_mean: float = 0.4,
        end_std: float = 1.0,
        times: TimeLaw | dict | None = None,
        empty_weight: float = 1.0,
        **kwargs,
    ) -> None:
        require(math.isfinite(gap_mean), "gap_mean must be a finite number", gap_mean)
        require(0 < gap_std < math.inf, "gap_std must be above 0", gap_std)
        require(math.isfinite(end_mean), "end_mean must be a finite number", end_mean)
        require(0 < end_std < math.inf, "end_std must be above 0", end_std)
        require(empty_weight >= 0, "empty_weight must not be negative", empty_weight)
        super().__init__(*args, **kwargs)
        self.gap_mean, self.gap_std = gap_mean, gap_std
        self.end_mean, self.end_std = end_mean, end_std
        self.times, self.empty_weight = time_law(times, mean=0.4), empty_weight

    def intervals(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Start and end times, `(B,)` each."""
        logit = self.gap_mean + self.gap_std * draws.normal(1)[:, 0].double()
        chance = draws.uniform(1)[:, 0]
        below = torch.special.ndtr((logit - self.end_mean) / self.end_std)  # of an end before d
        quantile = torch.special.ndtri((below + (1 - below) * chance).clamp(1e-12, 1 - 1e-12))
        gap, r = torch.sigmoid(logit), torch.sigmoid(self.end_mean + self.end_std * quantile)
        r = torch.maximum(r, gap).to(chance.dtype)
        return (r - gap.to(chance.dtype)).clamp_min(0), r

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean square of the first term."""
        t, r = self.intervals(batch.draws)
        x_t = noised_data(batch, t)
        length = expand(r - t, x_t)
        u, d_r = self.value_and_end_derivative(x_t, t, r, batch.condition)
        with torch.no_grad():
            v_T = self.guided_teacher(x_t + length * u, r, batch.condition)
        terminal = (u + length * d_r - v_T).square().mean()
        loss = terminal
        if self.empty_weight:
            loss = loss + self.empty_weight * self.empty_step(batch)
        return Loss(loss, {"gap": terminal.detach()})

    def empty_step(self, batch: Batch) -> Tensor:
        """`E || u(x_r, r, r) - v_T(x_r, r) ||²` at r and noise of its own."""
        r = self.times.times(batch.draws)
        x_r = noised_data(batch, r)
        with torch.no_grad():
            v_T = self.guided_teacher(x_r, r, batch.condition)
        u = self.nets["student"](x_r, r, batch.condition, r=r)
        return (u - v_T).square().mean()
