"""FreeFlow (arXiv 2511.19428): a flow map from noise, without data.

The student is asked at the noise alone, `f(z, d) = z + d u(z, 0, d)`. It predicts where the teacher's
trajectory goes, and its samples are corrected as a distribution, against an auxiliary flow v_A:

    prediction   g = u + d Dr u - v_T(f, d),   L_p = || u - sg[u - g] ||² / sg(mean g² + 0.01)^power
    correction   x̂ = f(z, 1),   x_q = q x̂ + (1 - q) e,   e fresh
                 L_c = l mean( sg[v_A - v_T](x_q, q) · u(z, 0, 1) ),
                 l = strength E|g| / E|v_A - v_T|
    L = share L_p + (1 - share) L_c

Prediction alone adds its errors up as d grows, correction alone loses modes. L_p is AYF's LMD pinned
to the noise, L_c velocity matching with the weight 1 instead of q; l keeps the two in proportion.
Near the noise, q < `guided_from`, the correction's teacher isn't guided. q must come close to 0. The
source splits a batch by `share`; here every sample takes both, so that small batches have both.
Needs conditions only.

Cost of a student update: 2.5 (derivative) + 3 + 2 (guided teacher) for L_p, 3 + 1 + 3 for L_c; of an
auxiliary update: 1 + 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.distill.base import Batch, DistributionMatching, Loss, require, surrogate, time_law
from occdistill.distill.flow_map import FlowMap
from occdistill.distill.losses import adaptive, per_sample
from occdistill.flow.path import TimeLaw, expand, interpolate


class FreeFlow(FlowMap, DistributionMatching):
    """The loss above.

    Args:
        ends: law of d; default uniform on [0, 1].
        times: law of q; default logit-normal with mean -0.8 (source: 0.8 in a time that runs the
            other way), down to 0.
        share: of the prediction, in [0, 1] (source: 0.75).
        strength: of the correction, 0 or more (source: 0.3 to 3).
        power: of the prediction's adaptive weight, 0 or more.
        guided_from: see above, in [0, 1].
        ratio: auxiliary updates before each student update (source: 1).
        **kwargs: see `FlowMap` and `DistributionMatching`.
    """

    cost, futures, derivative_of = 14.5, "–", "end"
    whole_batch = True  # l is a ratio of means

    def __init__(
        self,
        *args,
        ends: TimeLaw | dict | None = None,
        times: TimeLaw | dict | None = None,
        share: float = 0.75,
        strength: float = 1.0,
        power: float = 1.0,
        guided_from: float = 0.3,
        ratio: int = 1,
        **kwargs,
    ) -> None:
        require(0 <= share <= 1, "share must lie in [0, 1]", share)
        require(strength >= 0, "strength must not be negative", strength)
        require(power >= 0, "power must not be negative", power)
        require(0 <= guided_from <= 1, "guided_from must lie in [0, 1]", guided_from)
        times = time_law(times, mean=-0.8, low=0.0)
        kwargs.setdefault("auxiliary_times", {})
        super().__init__(*args, ratio=ratio, times=times, **kwargs)
        require(self.steps == 1, "FreeFlow corrects one step: steps must be 1", self.steps)
        self.ends = time_law(ends, law="uniform", low=0.0, high=1.0)
        self.share, self.strength, self.power = share, strength, power
        self.guided_from = guided_from

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its logs are `error`, the mean of g², and `gap`, `E || v_A - v_T ||²`."""
        prediction, error = self.prediction(batch)
        velocity, gap = self.correction(batch)
        size, other = (per_sample(x.square()).sqrt().mean() for x in (error, gap))
        scale = self.strength * size / other.clamp_min(1e-6)
        loss = self.share * prediction + (1 - self.share) * scale * surrogate(gap, velocity)
        return Loss(loss, {"error": error.square().mean(), "gap": gap.square().mean()})

    def prediction(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_p and, detached, g."""
        z, condition = batch.draws.normal(*self.latent_shape), batch.condition
        d = self.ends.times(batch.draws)
        u, length, zero = self.average(z, d, batch), expand(d, z), torch.zeros_like(d)
        with torch.no_grad():
            v_T = self.guided_teacher(z + length * u, d, condition)
            target = v_T - length * self.end_derivative(z, zero, d, condition)
        g = u - target
        return adaptive(per_sample(g.square()), self.power).mean(), g.detach()

    def correction(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`u(z, 0, 1)` and, without gradients, the fields' difference at its re-noised sample."""
        z = batch.draws.normal(*self.latent_shape)
        u = self.average(z, z.new_ones(len(z)), batch)
        noise = batch.draws.normal(*self.latent_shape)
        q = self.times.times(batch.draws)
        with torch.no_grad():
            x_q = interpolate(z + u, noise, q)
            free, guided = (f(x_q, q, batch.condition) for f in (self.teacher, self.guided_teacher))
            v_T = torch.where(expand(q >= self.guided_from, x_q), guided, free)
            gap = self.nets["auxiliary"](x_q, q, batch.condition) - v_T
        return u, gap

    def average(self, z: Tensor, d: Tensor, batch: Batch) -> Tensor:
        """`u(z, 0, d)`, the shape of z."""
        return self.nets["student"](z, torch.zeros_like(d), batch.condition, r=d)
