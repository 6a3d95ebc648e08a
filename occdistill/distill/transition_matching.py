"""Transition matching distillation (TMD, arXiv 2601.09881) for flows: a trunk once, a head n times.

The student's velocity is drawn by an inner flow of its head alone, see `Transitions`. Stage 1, until
`stage` updates: the inner flow becomes a flow map, from noise e to an outer velocity y at x_t,

    y_a = (1 - a) e + a y
    L = || w(y_a, a, b) - sg[ (y - e) + (b - a) Da w ] ||²,   Da along y - e, adaptively weighted

y is the data's, x_1 - x_0 (a law, given x_t), or the guided teacher's velocity (a point). Stage 2:
the losses of `DMD2` on the student's samples, with gradients through all n inner steps.

The published note writes the inner velocity as the head's output less e, the noise that a sample
started from. That is the flow's average velocity only where y is a point; with `(ŷ - y_a) / (1 - a)`
it is for any law, and both agree at a = 0. Needs data.

Cost of a student update in stage 1: 3 + 1 + 1 (head again, for its derivative); in stage 2 that of
DMD2 + 1.5 (n - 1), and 0.5 (n - 1) for an auxiliary update, where the head is half of the network.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, Loss, require, time_law
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.flow_map import true_futures
from occdistill.distill.losses import adaptive
from occdistill.flow.derivatives import Derivative
from occdistill.flow.parts import LATEST, Transitions
from occdistill.flow.path import Draws, TimeLaw, expand, interpolate


class TransitionMatching(DMD2):
    """The losses above.

    Args:
        teacher: velocity network with a trunk and a head.
        *args: see `DMD2`.
        inner_steps: n, 1 or more.
        stage: updates of stage 1, 0 or more.
        target: what y is, `data` or `teacher`.
        outer_times: law of t in stage 1; logit-normal by default.
        inner_times: law of a and b; logit-normal with mean 0.4 (MeanFlow).
        instantaneous: fraction of samples with b = a, in [0, 1] (source: three quarters).
        power: of the adaptive weight, 0 or more.
        derivative: how Da is taken, a `Derivative` or its arguments.
        student: default: `Transitions` of the teacher.
        **kwargs: see `DMD2`.
    """

    cost, other_cost, derivative_of = 10.5, 10.5, "inner start, in stage 1"

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        inner_steps: int = 2,
        stage: int = 1000,
        target: Literal["data", "teacher"] = "data",
        outer_times: TimeLaw | dict | None = None,
        inner_times: TimeLaw | dict | None = None,
        instantaneous: float = 0.75,
        power: float = 1.0,
        derivative: Derivative | dict | None = None,
        student: nn.Module | None = None,
        **kwargs,
    ) -> None:
        whole = type(inner_steps) is int and inner_steps >= 1
        require(whole, "inner_steps must be a whole number, 1 or more", inner_steps)
        require(type(stage) is int and stage >= 0, "stage must be a whole number from 0 on", stage)
        require(target in ("data", "teacher"), "target must be 'data' or 'teacher'", target)
        require(0 <= instantaneous <= 1, "instantaneous must lie in [0, 1]", instantaneous)
        require(power >= 0, "power must not be negative", power)
        student = Transitions(teacher, inner_steps) if student is None else student
        super().__init__(teacher, *args, student=student, **kwargs)
        self.stage, self.target, self.power = stage, target, power
        self.outer_times, self.inner_times = time_law(outer_times), time_law(inner_times, mean=0.4)
        self.instantaneous = instantaneous
        given = isinstance(derivative, Derivative)
        self.derivative = derivative if given else Derivative(**(derivative or {}))
        require(not self.derivative.chunk, "derivative.chunk must be 0", self.derivative.chunk)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Of the stage; in stage 1 `gap` is the mean squared residual."""
        if step >= self.stage:
            return super().student_loss(batch, step)
        residual = self.transition(batch)
        loss = adaptive(residual.square().flatten(1).sum(1), self.power).mean()
        return Loss(loss, {"gap": residual.detach().square().mean()})

    def inner_interval(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """a and b, `(B,)` each."""
        a, b = self.inner_times.intervals(draws)
        a = a.clamp_max(LATEST)
        return a, torch.where(draws.uniform(1)[:, 0] < self.instantaneous, a, b)

    def transition(self, batch: Batch) -> Tensor:
        """Stage 1's residual, `(B, F, C, H, W)`."""
        student, condition, draws = self.nets["student"], batch.condition, batch.draws
        x_1, t = true_futures(batch), self.outer_times.times(draws)
        x_0, e = draws.normal(*self.latent_shape), draws.normal(*self.latent_shape)
        x_t = interpolate(x_1, x_0, t)
        with torch.no_grad():
            y = x_1 - x_0 if self.target == "data" else self.guided_teacher(x_t, t, condition)
        a, b = self.inner_interval(draws)
        y_a = interpolate(y, e, a)
        features = student.trunk(x_t, t, condition)
        wide = features.float()
        self.spend(len(t), backward=2)  # no call that a hook sees
        self.spend(len(t))  # the head's derivative

        def inner(y: Tensor, a: Tensor, _condition: object, r: Tensor) -> Tensor:
            return student.inner_average(wide, y, a, r)

        d_a = self.derivative.total(inner, y_a, a, b, condition, y - e)
        w = student.inner_average(features, y_a, a, b)
        return w - (y - e) - expand(b - a, w) * d_a
