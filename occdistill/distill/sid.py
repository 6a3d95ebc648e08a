"""Score identity distillation (SiD, arXiv 2404.04057) and flow generator matching (FGM, 2410.19310).

Both minimise `E || v_T - v_student ||²` over re-noised student samples with the gradient that
accounts for the auxiliary's dependence on the student, which the plain square leaves out (there, a
mean error has no gradient at all and a narrow student is made narrower). With
`d = v_T(x_t, t) - v_A(x_t, t)` and `w = x̂ - e`, nothing detached:

    L = 2 E c(t) [ d · (v_T - w) - alpha ||d||² ]

alpha = 1/2 is FGM and unbiased; SiD prefers 1 to 1.2, right in direction, biased in scale. The
gradient runs through teacher and auxiliary to the sample.

Times: the source draws t uniformly over the noisier 80 % of its time, never from the last fifth
before the data. Here t is logit-normal, as in the other methods; the source's law is
`times=dict(law="uniform_within", low=0.0, high=0.8)`.

Cost of a student update: 3 (student) + 6 (guided teacher) + 3 (auxiliary) evaluations; of an
auxiliary update: 1 + 3. Memory: three networks' graphs at once.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from occdistill.distill.base import Batch, DistributionMatching, Loss, require
from occdistill.distill.losses import per_sample
from occdistill.flow.path import denoise, interpolate
from occdistill.types import Count


class SiD(DistributionMatching):
    """The loss above.

    Args:
        alpha: see above (paper: 1 to 1.2).
        weight: `velocity` sets c = 1; `denoiser` is the source's, differences of clean predictions
            over the distance to the teacher's: `c = (1 - t)² / mean |x̂ - D_T|`.
        ratio: auxiliary updates before each student update (source: 1).
        **kwargs: see `DistributionMatching`.
    """

    cost = 12.0

    def __init__(
        self,
        *args,
        alpha: float = 1.0,
        weight: Literal["velocity", "denoiser"] = "denoiser",
        ratio: Count = 1,
        **kwargs,
    ) -> None:
        if weight not in ("velocity", "denoiser"):
            raise ValueError(f"weight {weight!r} is neither 'velocity' nor 'denoiser'")
        require(math.isfinite(alpha), "alpha must be a finite number", alpha)
        super().__init__(*args, ratio=ratio, **kwargs)
        moves = kwargs.get("auxiliary_base", "teacher")  # the loss's gradient runs through it
        require(moves == "teacher", "auxiliary_base must be 'teacher' for this loss", moves)
        self.alpha, self.weight = alpha, weight

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """The loss; `gap` is `E || v_A - v_T ||²`."""
        x_1 = self.generate(batch)
        noise = batch.draws.normal(*self.latent_shape)
        t = self.times.times(batch.draws)
        x_t = interpolate(x_1, noise, t)
        v_T = self.guided_teacher(x_t, t, batch.condition)
        v_A = self.nets["auxiliary"](x_t, t, batch.condition)
        d = v_T - v_A
        inner = per_sample(d * (v_T - (x_1 - noise)) - self.alpha * d.square())
        if self.weight == "denoiser":
            with torch.no_grad():
                error = per_sample((x_1 - denoise(x_t, v_T, t)).abs())
            inner = inner * (1 - t) ** 2 / error.clamp_min(1e-5)
        return Loss(2 * inner.mean(), {"gap": d.detach().square().mean()})
