"""Improved MeanFlow (iMF, arXiv 2512.02012): MeanFlow's identity read as a regression on v.

MeanFlow's target holds the student. Solved for the velocity, the identity gives a prediction of v,
and what is regressed on no longer depends on the student:

    V = u(x_t, t, r) - (r - t) sg[Dt u],   Dt along the student's own velocity sg u(x_t, t, t)
    L = || V - v ||² + || u(x_t, t, t) - v ||²,   each adaptively weighted

v is the guided teacher's velocity, or with `velocity="data"` the source's `x_1 - x_0`. To move
along v itself would make V a function of its own target; with the teacher's v, which isn't random,
`tangent="teacher"` allows it, and the first term is then MeanFlow.

Without a teacher the student guides itself: with u_c, u_0 its own velocities with and without the
condition, detached, v = x_1 - x_0 + (1 - 1/w) (u_c - u_0), whose fixed point is w v_c + (1 - w) v_0.
The source also feeds w to the network; ours have no input for it, so w is the method's `guidance`.

Cost of an update: 2 (guided teacher) + 2.5 (derivative) + 3 + 3 (student, twice) evaluations.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from occdistill.distill.base import Batch, require
from occdistill.distill.flow_map import IntervalRegression
from occdistill.flow.path import expand


class ImprovedMeanFlow(IntervalRegression):
    """Regression of the velocity that the student's average velocity implies.

    Args:
        velocity: whose is regressed on, the `teacher`'s or the `data`'s.
        tangent: along whose velocity Dt moves, the `student`'s or the `teacher`'s.
        instantaneous_weight: of the second term, 0 or more.
        **kwargs: see `IntervalRegression`.
    """

    cost, derivative_of = 10.5, "start"

    def __init__(
        self,
        *args,
        velocity: Literal["teacher", "data"] = "teacher",
        tangent: Literal["student", "teacher"] = "student",
        instantaneous_weight: float = 1.0,
        **kwargs,
    ) -> None:
        require(velocity in ("teacher", "data"), "velocity must be 'teacher' or 'data'", velocity)
        require(
            tangent in ("student", "teacher"), "tangent must be 'student' or 'teacher'", tangent
        )
        weight = instantaneous_weight
        require(weight >= 0, "instantaneous_weight must not be negative", weight)
        super().__init__(*args, **kwargs)
        self.velocity, self.tangent, self.instantaneous_weight = velocity, tangent, weight
        require(
            velocity == "teacher" or self.guided_teacher.scale > 0,
            "guidance must be above 0 with the data's velocity",
            self.guided_teacher.scale,
        )

    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Of the instantaneous velocity and of the one that the average implies."""
        student, condition = self.nets["student"], batch.condition
        now = student(x_t, t, condition, r=t)
        with torch.no_grad():
            target = self.target(now.detach(), x_t, t, batch)
            along = now.detach()
            if self.tangent == "teacher":
                along = self.guided_teacher(x_t, t, condition)
            d_t = self.total_derivative(x_t, t, r, condition, along)
        implied = student(x_t, t, condition, r=r) - expand(r - t, x_t) * d_t
        return [(self.instantaneous_weight, now - target), (1.0, implied - target)]

    def target(self, now: Tensor, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """The velocity regressed on, given the student's own one, the shape of x_t."""
        if self.velocity == "teacher":
            return self.guided_teacher(x_t, t, batch.condition)
        straight = (batch.x_1 - x_t) / expand(1 - t, x_t)  # x_1 - x_0
        free = self.nets["student"](x_t, t, batch.condition.null(), r=t)
        return straight + (1 - 1 / self.guided_teacher.scale) * (now - free)
