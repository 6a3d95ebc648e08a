"""Consistency distillation for flows (arXiv 2303.01469): the same end from anywhere on a trajectory.

With `f(x_t, t) = x_t + (1 - t) N(x_t, t)`, neighbours on the guided teacher's trajectory must map
to the same clean sample:

    x_t' = x_t + (t' - t) v_T(x_t, t),   t' = min(t + gap, 1)
    L = d( f(x_t, t), sg f(x_t', t') ) / (t' - t),   d pseudo-Huber,   f(x, 1) = x

The Euler step of the teacher leaves a bias of the order of `gap` at the optimum; a small gap gives
a weak signal early on. Needs data for x_t, no auxiliary.

Cost of an update: 3 (student) + 1 (target) + 2 (guided teacher) evaluations.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, Method, frozen, require, time_law
from occdistill.distill.flow_map import noised_data
from occdistill.distill.losses import per_sample, pseudo_huber
from occdistill.flow.path import TimeLaw, denoise, expand
from occdistill.latents.condition import Condition

RESOLUTION = 2.0**-24  # of float32 times just below 1


class Consistency(Method):
    """Consistency distillation with an Euler teacher step.

    Args:
        times: law of t; logit-normal by default.
        gap: `t' - t`, in [1e-5, 1]; float32 times near 1 resolve no finer.
        target_ema: decay of the target network's moving average, in [0, 1); 0 uses the student
            itself.
        huber: c of the pseudo-Huber distance, per element (root mean square), above 0; None: the
            square.
        **kwargs: see `Method`.
    """

    cost, futures, stochastic = 6.0, "yes", True

    def __init__(
        self,
        *args,
        times: TimeLaw | dict | None = None,
        gap: float = 0.02,
        target_ema: float = 0.0,
        huber: float | None = 0.00054,
        **kwargs,
    ) -> None:
        require(1e-5 <= gap <= 1, "gap must lie in [1e-5, 1]", gap)
        require(0 <= target_ema < 1, "target_ema must lie in [0, 1)", target_ema)
        require(huber is None or huber > 0, "huber must be above 0, or None", huber)
        super().__init__(*args, **kwargs)
        self.times, self.gap, self.huber = time_law(times), gap, huber
        self.target_ema = target_ema
        if target_ema:
            self.target = frozen(copy.deepcopy(self.nets["student"]))

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared difference of the two ends."""
        t = self.times.times(batch.draws)
        later = (t + self.gap).clamp_max(1.0)
        x_t = noised_data(batch, t)
        with torch.no_grad():
            v_T = self.guided_teacher(x_t, t, batch.condition)
            x_later = x_t + expand(later - t, x_t) * v_T
            net = self.target if self.target_ema else self.nets["student"]
            target = self.end(net, x_later, later, batch.condition)
        found = self.end(self.nets["student"], x_t, t, batch.condition)
        square = per_sample((found - target).square())
        distance = square if self.huber is None else pseudo_huber(square, self.huber)
        width = (later - t).clamp_min(RESOLUTION)  # at t = 1 both ends are x_t: 0, not 0 / 0
        return Loss((distance / width).mean(), {"gap": square.detach().mean()})

    def end(self, net: torch.nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`f(x_t, t)`, which is x_t itself at t = 1."""
        return denoise(x_t, net(x_t, t, condition), t)

    @torch.no_grad()
    def after(self, name: str, step: int) -> None:
        """Move the target network towards the student."""
        if self.target_ema:
            student = list(self.nets["student"].parameters())
            torch._foreach_lerp_(list(self.target.parameters()), student, 1 - self.target_ema)
