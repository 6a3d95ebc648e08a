"""Align Your Flow (AYF, arXiv 2506.14603): continuous-time flow-map distillation, two objectives.

With the flow map `f(x_t, t, r) = x_t + (r - t) u(x_t, t, r)`, the teacher's solution is constant

    EMD  in the start:  df/dt = 0  along the teacher's trajectory    (Eulerian)
    LMD  in the end:    ∂f/∂r = v_T(f, r)                            (Lagrangian)

The residual g of either, as an error of u, is normalised and regressed away:

    EMD  g = u - v_T(x_t, t) - k (r - t) Dt u,   k rising from 0 to 0.99
    LMD  g = u + (r - t) Dr u - v_T(x_r, r),     x_r = sg f(x_t, t, r)
    L = || u - sg[u - g / (|g| + c)] ||²

The paper prefers EMD: LMD over-smooths in high dimension. Needs data for x_t, no auxiliary; the
autoguided teacher and the adversarial fine-tuning of the paper are left out.

Cost of an update: 2 (guided teacher) + 2.5 (derivative) + 3 (student) evaluations.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, require
from occdistill.distill.flow_map import FlowMap, noised_data
from occdistill.distill.losses import per_sample
from occdistill.flow.path import Draws, expand
from occdistill.latents.condition import Condition
from occdistill.types import Whole


class AYF(FlowMap):
    """Normalised-tangent regression towards the teacher's flow map.

    Args:
        objective: `emd` or `lmd`.
        gap_mean, gap_std: the interval's length is `r - t = sigmoid(N(gap_mean, gap_std))`, its
            place uniform in what is left; gap_std >= 0.
        tangent_warmup: steps over which k rises to `tangent_max`; 0 starts there (EMD only).
        tangent_max: largest k, in [0, 1]; below 1 it keeps a little of plain velocity regression.
        c: root-mean-square of g around which normalisation sets in, above 0.
        **kwargs: see `FlowMap`.
    """

    cost, derivative_of = 7.5, "start (EMD) or end (LMD)"

    def __init__(
        self,
        *args,
        objective: Literal["emd", "lmd"] = "emd",
        gap_mean: float = -0.8,
        gap_std: float = 1.6,
        tangent_warmup: Whole = 2000,
        tangent_max: float = 0.99,
        c: float = 0.1,
        **kwargs,
    ) -> None:
        if objective not in ("emd", "lmd"):
            raise ValueError(f"objective {objective!r} is neither 'emd' nor 'lmd'")
        require(gap_std >= 0, "gap_std must not be negative", gap_std)
        require(tangent_warmup >= 0, "tangent_warmup must not be negative", tangent_warmup)
        require(0 <= tangent_max <= 1, "tangent_max must lie in [0, 1]", tangent_max)
        require(c > 0, "c must be above 0", c)
        super().__init__(*args, **kwargs)
        self.residual = self.eulerian if objective == "emd" else self.lagrangian
        self.gap_mean, self.gap_std = gap_mean, gap_std
        self.tangent_warmup, self.tangent_max, self.c = tangent_warmup, tangent_max, c

    def intervals(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Start and end times, `(B,)` each."""
        gap = torch.sigmoid(self.gap_mean + self.gap_std * draws.normal(1)[:, 0])
        t = (1 - gap) * draws.uniform(1)[:, 0]
        return t, (t + gap).clamp_max(1.0)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is `E g²` before normalisation."""
        t, r = self.intervals(batch.draws)
        x_t = noised_data(batch, t)
        u = self.nets["student"](x_t, t, batch.condition, r=r)
        with torch.no_grad():
            k = self.tangent_max
            if self.tangent_warmup:
                k = min(k, step / self.tangent_warmup)
            g = self.residual(u.detach(), x_t, t, r, batch.condition, k)
            square = per_sample(g.square())
            target = u - g / expand(square.sqrt() + self.c, g)
        return Loss((u - target).square().mean(), {"gap": square.mean()})

    def eulerian(
        self, u: Tensor, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition, k: float = 1.0
    ) -> Tensor:
        """`-df/dt` along the teacher's trajectory, for k = 1."""
        v_T = self.guided_teacher(x_t, t, condition)
        d_t = self.total_derivative(x_t, t, r, condition, v_T)
        return u - v_T - k * expand(r - t, u) * d_t

    def lagrangian(
        self, u: Tensor, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition, k: float = 1.0
    ) -> Tensor:
        """`∂f/∂r - v_T(f, r)`; k isn't used."""
        gap = expand(r - t, u)
        d_r = self.end_derivative(x_t, t, r, condition)
        return u + gap * d_r - self.guided_teacher(x_t + gap * u, r, condition)
