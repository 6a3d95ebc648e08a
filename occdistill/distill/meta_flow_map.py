"""Meta flow maps (MFM, arXiv 2601.14430): one step to a random clean sample from any noisy one.

Beside its own state y and times a <= b the student is told of an outer point x_t and its time t, and
maps noise to samples of the posterior `p(x_1 | x_t)` along an inner flow, y_a = a x_1 + (1 - a) e:

    L = || u(y_a, a, b; x_t, t) - sg[ w + (b - a) Da u ] ||²,   Da along w, adaptively weighted

w is the inner flow's velocity. Two noisy views of one clean sample, y at a and x_t at t, are as good
as a single less noisy one, so that the teacher gives w exactly, guidance included (GLASS):

    l = t² / (1 - t)² + a² / (1 - a)²,   s = sqrt(l) / (1 + sqrt(l))
    x_s = s / l [ t x_t / (1 - t)² + a y / (1 - a)² ]
    D = x_s + (1 - s) v_T(x_s, s),   w = (D - y) / (1 - a)

x_t is told times t: at t = 0 it says nothing, and the student is an ordinary flow map, which is how
forecasts are made. Needs data for both noised states, of one future; starts are at most 0.98.

Cost of an update: 2 (guided teacher) + 2.5 (derivative) + 3 (student) evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, require, time_law
from occdistill.distill.flow_map import IntervalRegression, noised_data, with_outer
from occdistill.flow.path import TimeLaw, denoise, expand
from occdistill.latents.condition import Condition

LATEST = 0.98  # of t and of a


class MetaFlowMap(IntervalRegression):
    """The loss above.

    Args:
        teacher: velocity network.
        *args: see `IntervalRegression`.
        outer_times: law of t; logit-normal by default, to 0.98.
        student: default: the teacher told of an end and of an outer point, see `with_outer`.
        **kwargs: see `IntervalRegression`; its times are those of the inner flow.
    """

    cost, derivative_of, latest = 7.5, "inner start", LATEST

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        outer_times: TimeLaw | dict | None = None,
        student: nn.Module | None = None,
        **kwargs,
    ) -> None:
        student = with_outer(teacher) if student is None else student
        super().__init__(teacher, *args, student=student, **kwargs)
        self.outer_times = time_law(outer_times, high=LATEST)
        require(self.outer_times.high < 1, "outer_times.high must be below 1", outer_times)
        require(not self.derivative.chunk, "derivative.chunk must be 0", self.derivative.chunk)

    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Of the inner flow's identity; y, a and b are called x_t, t and r."""
        y, a, b, condition = x_t, t, r, batch.condition
        time = self.outer_times.times(batch.draws)
        outer = (noised_data(batch, time), time)

        def told(y: Tensor, a: Tensor, condition: Condition, r: Tensor) -> Tensor:
            return self.nets["student"](y, a, condition, r=r, outer=outer)

        with torch.no_grad():
            w = self.inner_velocity(y, a, *outer, condition)
            self._count_tangent(y)
            d_a = self.derivative.total(told, y, a, b, condition, w)
        return [(1.0, told(y, a, condition, b) - w - expand(b - a, y) * d_a)]

    def inner_velocity(
        self, y: Tensor, a: Tensor, x_t: Tensor, t: Tensor, condition: Condition
    ) -> Tensor:
        """w of the guided teacher, the shape of y."""
        one, other = (t / (1 - t)) ** 2, (a / (1 - a)) ** 2
        both = one + other
        s = both.sqrt() / (1 + both.sqrt())
        views = expand(t / (1 - t) ** 2, y) * x_t + expand(a / (1 - a) ** 2, y) * y
        x_s = expand(s / both, y) * views
        clean = denoise(x_s, self.guided_teacher(x_s, s, condition), s)
        return (clean - y) / expand(1 - a, y)

    @torch.no_grad()
    def posterior(self, x_t: Tensor, t: Tensor, condition: Condition, noise: Tensor) -> Tensor:
        """A sample of `p(x_1 | x_t)` in one evaluation; noise and result like `x_t`, `t (B,)`."""
        start, end = torch.zeros_like(t), torch.ones_like(t)
        return noise + self.nets["student"](noise, start, condition, r=end, outer=(x_t, t))
