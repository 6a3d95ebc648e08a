"""AlphaFlow (arXiv 2510.20771): from trajectory flow matching to MeanFlow, by a curriculum.

One step along the trajectory, then the student for the rest of the way:

    q = t + a (r - t),   x_q = x_t + (q - t) v_T(x_t, t)
    L = 1/a || u(x_t, t, r) - sg[ a v_T(x_t, t) + (1 - a) u(x_q, q, r) ] ||²

a = alpha = 1 regresses on the velocity, 1/2 is a shortcut model's half step, and the gradient tends
to MeanFlow's as a goes to 0, where its derivative takes over. The adaptive weight is MeanFlow's for
the residual over a, `1 / (||.||² / a² + 0.01)^power`: with power 1 that is the source's
`a ||.||² / sg(||.||² + a² 0.01)`. Samples with r = t always learn the velocity itself.

Curriculum: a(k) = 1 - sigmoid(sharpness (p - 1/2)), p from 0 to 1 between two steps; within 0.005 of
either end it is that end, so derivatives are taken near the end alone.

Cost of an update: 2 (guided teacher) + 1 (target) + 3 (student) evaluations; at a = 0 MeanFlow's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from occdistill.distill.base import Batch, require
from occdistill.distill.flow_map import IntervalRegression
from occdistill.distill.losses import adaptive
from occdistill.flow.path import expand


class AlphaFlow(IntervalRegression):
    """The loss above, a by curriculum or fixed.

    Args:
        alpha: fixed a in [0, 1]; None for the curriculum.
        curriculum: steps between which a falls from 1 to 0, the first at least 0 and below the second.
        sharpness: of the fall, above 0 (source: 25).
        clip: largest absolute value of a target's element, above 0 (source: 4 with guidance, for
            latents of unit variance); infinity for none.
        instantaneous: fraction of samples with r = t (source: a quarter to a half).
        **kwargs: see `IntervalRegression`.
    """

    cost, derivative_of = 6.0, "start, late in the curriculum"

    def __init__(
        self,
        *args,
        alpha: float | None = None,
        curriculum: tuple[int, int] = (0, 10_000),
        sharpness: float = 25.0,
        clip: float = math.inf,
        instantaneous: float = 0.25,
        **kwargs,
    ) -> None:
        require(alpha is None or 0 <= alpha <= 1, "alpha must be None or lie in [0, 1]", alpha)
        fits = len(curriculum) == 2 and 0 <= curriculum[0] < curriculum[1]
        require(fits, "curriculum must be two steps, 0 or more and rising", curriculum)
        require(sharpness > 0, "sharpness must be above 0", sharpness)
        require(clip > 0, "clip must be above 0", clip)
        super().__init__(*args, instantaneous=instantaneous, **kwargs)
        self.fixed, self.curriculum = alpha, tuple(curriculum)
        self.sharpness, self.clip = sharpness, clip

    def alpha(self, step: int) -> float:
        """a at a step."""
        if self.fixed is not None:
            return self.fixed
        first, last = self.curriculum
        progress = (min(max(step, first), last) - first) / (last - first)
        a = 1 / (1 + math.exp(self.sharpness * (progress - 0.5)))
        return 0.0 if a < 0.005 else 1.0 if a > 0.995 else a

    def alphas(self, t: Tensor, r: Tensor, step: int) -> Tensor:
        """a of each sample, `(B,)`: 1 where there is no interval."""
        return torch.where(r > t, self.alpha(step), 1.0).to(t.dtype)

    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Of the student's average velocity; over a, unless a is 0."""
        student, condition = self.nets["student"], batch.condition
        with torch.no_grad():
            v_T = self.guided_teacher(x_t, t, condition)
            if self.alpha(step) == 0:
                d_t = self.total_derivative(x_t, t, r, condition, v_T)
                target = v_T + expand(r - t, x_t) * d_t
            else:
                a = expand(self.alphas(t, r, step), x_t)
                q = t + self.alphas(t, r, step) * (r - t)
                x_q = x_t + expand(q - t, x_t) * v_T
                target = a * v_T + (1 - a) * student(x_q, q, condition, r=r)
            target = target.clamp(-self.clip, self.clip)
        return [(1.0, student(x_t, t, condition, r=r) - target)]

    def distance(self, residual: Tensor, t: Tensor, r: Tensor, step: int) -> Tensor:
        """`||.||² / a`, adaptively weighted."""
        a = self.alphas(t, r, step) if self.alpha(step) else torch.ones_like(t)
        return a * adaptive((residual / expand(a, residual)).square().flatten(1).sum(1), self.power)
