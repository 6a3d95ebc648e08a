"""Inductive moment matching (IMM, arXiv 2503.07565): samples that jumped from two starts look alike.

From t, and from q a little later on the same straight path, jump to the same end r, t < q <= r:

    y = x_t + (r - t) u(x_t, t, r),   y' = sg[ x_q + (r - q) u(x_q, q, r) ]
    L = w(t) [ mean k(y_i, y_j) + mean k(y'_i, y'_j) - 2 mean k(y_i, y'_j) ]
    k(a, b) = exp(-max(|a - b|, 1e-8) / (width (1 - t) D)),   D the number of elements

over groups of particles that share t, q, r and here also the condition. Distributions are compared,
not points, by their mean distance in a feature space: no auxiliary, no discriminator. With one
particle it is consistency training; with M of them the optimum is too narrow by a bias of 1/M, from
the pairs of a particle with itself. The source's weight and step, n = (1 - t) / t:

    w(t) = sigmoid(bias - l) t^power / (t (1 - t) (t² + (1 - t)²)),   l = 2 log(t / (1 - t))
    n(q) = n(t) - n_max / 2^halvings,   t uniform where n <= n_max,   r uniform on [t, 1]

`ends="data"` gives the particles of a clip its one true future, unguided; `teacher` gives each one a
sample of the guided teacher.

Cost of an update with M particles: 3 M + M (student) evaluations; for `teacher` also 2 M per step of
its sampler.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, require
from occdistill.distill.flow_map import FlowMap
from occdistill.flow.path import Draws, expand, interpolate
from occdistill.flow.solver import sample
from occdistill.latents.condition import Condition
from occdistill.types import Count

LAST = 1 - 1e-3  # the latest start: a kernel at t = 1 has no width


class MomentMatching(FlowMap):
    """The loss above.

    Args:
        particles: M, 1 or more.
        ends: where the particles' paths end.
        steps: of the teacher's sampler for `ends="teacher"`, 1 or more.
        n_max: largest n at a start, above 0.
        halvings: see above, 0 or more; more of them bring q closer to t.
        bias, power: of the weight w.
        width: of the kernel, above 0.
        **kwargs: see `FlowMap`.
    """

    cost = 16.0

    def __init__(
        self,
        *args,
        particles: Count = 4,
        ends: Literal["data", "teacher"] = "data",
        steps: Count = 10,
        n_max: float = 160.0,
        halvings: float = 12.0,
        bias: float = 5.0,
        power: float = 1.0,
        width: float = 1.0,
        **kwargs,
    ) -> None:
        whole = type(particles) is int and particles >= 1
        require(whole, "particles must be a whole number above 0", particles)
        require(ends in ("data", "teacher"), "ends must be 'data' or 'teacher'", ends)
        require(type(steps) is int and steps >= 1, "steps must be a whole number above 0", steps)
        require(0 < n_max < math.inf, "n_max must be above 0", n_max)
        require(halvings >= 0, "halvings must not be negative", halvings)
        require(math.isfinite(bias), "bias must be a finite number", bias)
        require(math.isfinite(power), "power must be a finite number", power)
        require(width > 0, "width must be above 0", width)
        super().__init__(*args, **kwargs)
        self.particles, self.ends, self.steps = particles, ends, steps
        self.n_max, self.halvings = n_max, halvings
        self.bias, self.power, self.width = bias, power, width

    def times(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Both starts and the end, `(B,)` each, `t < q <= r`, unless t = r."""
        first = 1 / (1 + self.n_max)
        start, rest = draws.uniform(2).unbind(1)
        t = first + (LAST - first) * start
        r = t + (1 - t) * rest
        n = ((1 - t) / t - self.n_max / 2**self.halvings).clamp_min(0)
        return t, torch.minimum(1 / (1 + n), r), r

    def weight(self, t: Tensor) -> Tensor:
        """w, the shape of t."""
        snr = 2 * torch.log(t / (1 - t))
        likelihood = torch.sigmoid(self.bias - snr) / (t * (1 - t))
        return likelihood * t**self.power / (t**2 + (1 - t) ** 2)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the unweighted discrepancy."""
        t, q, r = self.times(batch.draws)
        condition = batch.condition.repeat(self.particles)
        x_0 = batch.draws.normal(self.particles, *self.latent_shape).flatten(0, 1)
        x_1 = self.data(batch, condition)
        t_, q_, r_ = (x.repeat_interleave(self.particles) for x in (t, q, r))
        y = self.jump(interpolate(x_1, x_0, t_), t_, r_, condition)
        with torch.no_grad():
            later = self.jump(interpolate(x_1, x_0, q_), q_, r_, condition)
        y, later = (x.unflatten(0, (-1, self.particles)).flatten(2) for x in (y, later))
        gap = self.kernel(y, y, t) + self.kernel(later, later, t) - 2 * self.kernel(y, later, t)
        return Loss((self.weight(t) * gap).mean(), {"gap": gap.detach().mean()})

    def data(self, batch: Batch, condition: Condition) -> Tensor:
        """Where the particles' paths end, `(B M, F, C, H, W)`."""
        if self.ends == "data":
            if batch.x_1 is None:
                raise ValueError(
                    "ends='data' needs the true future latents of its clips, batch.x_1"
                )
            return batch.x_1.repeat_interleave(self.particles, 0)
        noise = batch.draws.normal(self.particles, *self.latent_shape).flatten(0, 1)
        with torch.no_grad():
            return sample(self.guided_teacher, noise, condition, self.steps)

    def jump(self, x: Tensor, t: Tensor, r: Tensor, condition: Condition) -> Tensor:
        """The student's flow map from t to r, the shape of x."""
        return x + expand(r - t, x) * self.nets["student"](x, t, condition, r=r)

    def kernel(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Mean of k over all pairs of each group, `(B, M, D)` twice to `(B,)`."""
        distance = torch.cdist(a, b)
        scale = self.width * (1 - t) * a.shape[-1]
        return (-distance.clamp_min(1e-8) / expand(scale, distance)).exp().mean((1, 2))
