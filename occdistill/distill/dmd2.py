"""Distribution matching distillation 2 (DMD2, arXiv 2405.14867) for flows.

The difference of clean predictions, normalised per sample, plus a GAN term that lets true futures
correct the teacher:

    g   = (D_A - D_T)(x_t, t) / mean |x̂ - D_T|,   D_A - D_T = (1 - t) (v_A - v_T)
    L_S = mean( sg[g] · x̂ ) + w_G softplus( -h(x̂ noised) )
    L_A = flow matching + w_D [ softplus(-h(x_1 noised)) + softplus(h(x̂ noised)) ]

The logits h come from heads on the auxiliary's features, whose trunk they train along (the paper),
or on the frozen teacher's (FastGen). The heads step with the auxiliary. Needs data.

Cost of a student update: 4 (student, guided teacher, auxiliary: no gradient) + 3 (features, with
gradient) + 2 (student's backward) evaluations; of an auxiliary update: 1 + 3 + 6.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, DistributionMatching, Loss, require, surrogate, time_law
from occdistill.distill.discriminator import (
    Discriminator,
    Tap,
    discriminator_loss,
    generator_loss,
)
from occdistill.distill.flow_map import noised_data
from occdistill.distill.losses import per_sample
from occdistill.flow.path import TimeLaw, denoise, expand, interpolate
from occdistill.latents.condition import Condition
from occdistill.types import Count


class DMD2(DistributionMatching):
    """The losses above.

    Args:
        teacher: velocity network.
        disc_on: whose features the heads read, `auxiliary` or `teacher`.
        gan: `logistic` or `hinge`.
        generator_weight: w_G (paper: 3e-3 on ImageNet, 1e-3 and 5e-3 on text-to-image models).
        discriminator_weight: w_D (paper: 1e-2 on ImageNet).
        ratio: auxiliary updates before each student update (paper: 5 or 10).
        times: changes to the student's re-noising times, uniform, clipped to [0.02, 0.98].
        auxiliary_times: law of the auxiliary's flow-matching times; default logit-normal.
        gan_times: changes to the discriminator's times, uniform.
        taps, heads: see `Discriminator`.
        **kwargs: see `DistributionMatching`.
    """

    cost, other_cost, futures, discriminator = 9.0, 10.0, "yes", "auxiliary or teacher"

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        disc_on: Literal["auxiliary", "teacher"] = "auxiliary",
        gan: Literal["logistic", "hinge"] = "logistic",
        generator_weight: float = 3e-3,
        discriminator_weight: float = 1e-2,
        ratio: Count = 5,
        times: TimeLaw | dict | None = None,
        auxiliary_times: TimeLaw | dict | None = None,
        gan_times: TimeLaw | dict | None = None,
        auxiliary: nn.Module | None = None,
        taps: Sequence[Tap] | None = None,
        heads: Sequence[nn.Module] | None = None,
        **kwargs,
    ) -> None:
        for value, known in ((disc_on, ("auxiliary", "teacher")), (gan, ("logistic", "hinge"))):
            if value not in known:
                raise ValueError(f"{value!r} is neither {known[0]!r} nor {known[1]!r}")
        require(generator_weight >= 0, "generator_weight must not be negative", generator_weight)
        require(
            discriminator_weight >= 0,
            "discriminator_weight must not be negative",
            discriminator_weight,
        )
        flow = copy.deepcopy(teacher) if auxiliary is None else auxiliary
        source = teacher if disc_on == "teacher" else None
        super().__init__(
            teacher,
            *args,
            ratio=ratio,
            times=time_law(times, law="uniform", low=0.02, high=0.98),
            auxiliary_times=auxiliary_times or {},
            auxiliary=Discriminator(flow.requires_grad_(True), taps, heads, source),
            **kwargs,
        )
        self.gan = gan
        self.gan_times = time_law(gan_times, law="uniform")
        self.generator_weight, self.discriminator_weight = generator_weight, discriminator_weight

    def auxiliary_loss(self, batch: Batch, step: int) -> Loss:
        """Flow matching on student samples, and telling them from true futures."""
        fake = self.student_sample(batch)
        loss = self.flow_matching(fake, batch)
        t = torch.cat([self.gan_times.times(batch.draws) for _ in range(2)])
        real_t = noised_data(batch, t[: len(fake)])
        fake_t = self.renoise(fake, t[len(fake) :], batch)
        both = Condition.cat([batch.condition, batch.condition])
        logits = self.nets["auxiliary"].logits(torch.cat([real_t, fake_t]), t, both)
        real, fake = logits.chunk(2)
        gan = discriminator_loss(real, fake, self.gan)
        right = torch.cat([real > 0, fake < 0]).float().mean()
        logs = {**loss.logs, "discriminator": gan.detach(), "discriminator_right": right}
        return Loss(loss.total + self.discriminator_weight * gan, logs)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Distribution matching and the GAN term."""
        x_1 = self.generate(batch)
        matching, gan = self.matching(x_1, batch), self.adversarial(x_1, batch)
        logs = {**matching.logs, "generator": gan.detach()}
        return Loss(matching.total + self.generator_weight * gan, logs)

    def matching(self, x_1: Tensor, batch: Batch) -> Loss:
        """`mean( sg[g] · x̂ )`; `gap` is `E || v_A - v_T ||²`."""
        t = self.times.times(batch.draws)
        with torch.no_grad():
            x_t = self.renoise(x_1, t, batch)
            v_T = self.guided_teacher(x_t, t, batch.condition)
            v_A = self.nets["auxiliary"](x_t, t, batch.condition)
            error = per_sample((x_1 - denoise(x_t, v_T, t)).abs())
            weight = torch.nan_to_num((1 - t) / error, posinf=0.0) * self.emphasis(x_t, t, batch)
        gap = v_A - v_T
        loss = surrogate(expand(weight, x_1) * gap, x_1)
        return Loss(loss, {"gap": gap.square().mean()})

    def emphasis(self, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor | float:
        """A factor for each clip's matching gradient, `(B,)`; 1."""
        return 1.0

    def adversarial(self, x_1: Tensor, batch: Batch) -> Tensor:
        """How fake the noised student sample looks, with gradients to it."""
        t = self.gan_times.times(batch.draws)
        x_t = self.renoise(x_1, t, batch)
        return generator_loss(self.nets["auxiliary"].logits(x_t, t, batch.condition), self.gan)

    def renoise(self, x_1: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """`t x̂ + (1 - t) e` with fresh noise."""
        return interpolate(x_1, batch.draws.normal(*self.latent_shape), t)
