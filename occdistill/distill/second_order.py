"""Second-order MeanFlow and the (alpha, beta) family it belongs to (Zhu's blog post on MeanFlow).

The average velocity u from t to r is tied to the velocities at both ends, Dt along the trajectory
and Dr at the end:

    u = a v(x_t, t) + (1 - a) v(x_r, r) + (r - t) [(a - b/2) Dt u - (1 - a - b/2) Dr u]
        - b/2 (r - t)² Dt Dr u,                  x_r = x_t + (r - t) u

exact for any a = alpha and b = beta. Members: `1, 0` is MeanFlow's backward identity, `0, 0` the
forward one (AYF's LMD, terminal velocity), `1/2, 1` the second-order identity, where both first
derivatives drop out. `1/2, 0` needs both of them and no second one. The student is regressed on the
right-hand side, adaptively weighted; as the author advises, together with MeanFlow:

    L = p || u - sg[first-order target] ||² + (1 - p) || u - sg[target(a, b)] ||²

Second derivatives of a fast clock are huge, so b can rise from 0 and the correction is clipped:
the norm of `b/2 (r - t)² Dt Dr u` is at most `clip` times that of the mixed velocities before it.

Cost of an update: 4 (guided teacher, twice) + 5 (nested derivative) + 3 (student) evaluations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from occdistill.distill.base import Batch, require
from occdistill.distill.flow_map import IntervalRegression
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition
from occdistill.types import Whole


class SecondOrderMeanFlow(IntervalRegression):
    """Regression on a member of the family.

    Args:
        alpha: share of the velocity at the start, in [0, 1].
        beta: weight of the mixed second derivative, in [0, 2].
        first_order: p above, in [0, 1].
        clip: see above; above 0, infinity for no clipping.
        beta_warmup: steps over which beta rises from 0; 0 for none.
        **kwargs: see `IntervalRegression`.
    """

    cost, derivative_of = 12.0, "start, end and mixed"

    def __init__(
        self,
        *args,
        alpha: float = 0.5,
        beta: float = 1.0,
        first_order: float = 0.5,
        clip: float = 1.0,
        beta_warmup: Whole = 0,
        **kwargs,
    ) -> None:
        require(0 <= alpha <= 1, "alpha must lie in [0, 1]", alpha)
        require(0 <= beta <= 2, "beta must lie in [0, 2]", beta)
        require(0 <= first_order <= 1, "first_order must lie in [0, 1]", first_order)
        require(clip > 0, "clip must be above 0", clip)
        require(beta_warmup >= 0, "beta_warmup must not be negative", beta_warmup)
        super().__init__(*args, **kwargs)
        self.alpha, self.beta, self.first_order = alpha, beta, first_order
        self.clip, self.beta_warmup = clip, beta_warmup

    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Of the first-order identity and of the family's member."""
        u = self.nets["student"](x_t, t, batch.condition, r=r)
        with torch.no_grad():
            first, member = self.targets(u, x_t, t, r, batch.condition, step)
        return [(self.first_order, u - first), (1 - self.first_order, u - member)]

    def targets(
        self, u: Tensor, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition, step: int
    ) -> tuple[Tensor, Tensor]:
        """Right-hand sides of MeanFlow's identity and of the member's, the shape of u."""
        a, gap = self.alpha, expand(r - t, u)
        b = self.beta * (min(1.0, step / self.beta_warmup) if self.beta_warmup else 1.0)
        start, end = a - b / 2, 1 - a - b / 2
        v_t = self.guided_teacher(x_t, t, condition)
        d_t = d_r = d_tr = torch.zeros_like(u)
        if b:
            d_t, d_r, d_tr = self.mixed_derivative(x_t, t, r, condition, v_t)
        else:
            if start or self.first_order:
                d_t = self.total_derivative(x_t, t, r, condition, v_t)
            if end:
                d_r = self.end_derivative(x_t, t, r, condition)
        ends = v_t
        if a < 1:
            ends = a * v_t + (1 - a) * self.guided_teacher(x_t + gap * u, r, condition)
        second = self.clipped(b / 2 * gap**2 * d_tr, ends)
        return v_t + gap * d_t, ends + gap * (start * d_t - end * d_r) - second

    def clipped(self, correction: Tensor, velocity: Tensor) -> Tensor:
        """The correction, each sample's norm at most `clip` times that of its velocity."""
        if math.isinf(self.clip):
            return correction
        size, bound = (x.float().flatten(1).norm(dim=1) for x in (correction, velocity))
        return correction * expand(
            (self.clip * bound / size.clamp_min(1e-12)).clamp_max(1), velocity
        )
