"""Adversarial diffusion distillation (ADD, arXiv 2311.17042) for flows, in latents.

A GAN with true futures as the real side, and an anchor: the student's sample, noised, must be what
the guided teacher makes of it.

    x̂   = x_s + (1 - s) N(x_s, s),   x_s = s x_1 + (1 - s) e',   s one of the student's times
    L_S = -mean h(x̂) + w_T E c(t) || x̂ - sg D_T(x_t, t) ||²,   x_t = t x̂ + (1 - t) e
    L_h = mean relu(1 - h(x_1)) + mean relu(1 + h(x̂)) + w_R ||grad_features h(x_1)||²

`x̂ - D_T = (1 - t) [(x̂ - e) - v_T]`: the anchor is score distillation, which alone pulls the spread
to a point (`NoAuxiliary`); the GAN term is what keeps it. The norm of the anchor is a mean over
elements. The source's discriminator reads a frozen vision model of the clean image; here the heads
read the frozen teacher, shown the clean future at t = 1. R1 is exact, with respect to the features
that the heads get (as in the source), averaged over clips. Needs data.

Cost of a student update: 3 (student) + 2 (guided teacher) + 2 (features, with gradient) evaluations;
of a discriminator update: 1 + 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from occdistill.distill.adversarial import Adversarial
from occdistill.distill.base import Batch, Loss, require, time_law
from occdistill.distill.discriminator import Discriminator, levels_of
from occdistill.distill.flow_map import noised_data
from occdistill.distill.losses import per_sample
from occdistill.flow.networks.base import Tap
from occdistill.flow.path import TimeLaw, denoise, interpolate

WEIGHTS = {"flat": torch.ones_like, "signal": torch.square}  # c(t): 1, or the data's weight t, t²


class ADD(Adversarial):
    """The losses above.

    Args:
        starts: the times s at which the student is trained, in [0, 1); (0,) for one step from
            noise.
        anchor_weight: w_T >= 0.
        anchor: c(t), `flat` (1) or `signal` (t²).
        times: law of the anchor's t.
        gan_times: law of the time at which the discriminator sees futures; 1, where they are clean.
        r1_weight: w_R.
        **kwargs: see `Adversarial`; by default a head at every level, and hinge.
    """

    cost, other_cost, futures, discriminator = 7.0, 4.0, "yes", "teacher"
    stochastic = True

    def __init__(
        self,
        *args,
        starts: Sequence[float] = (0.0,),
        anchor_weight: float = 2.5,
        anchor: Literal["flat", "signal"] = "flat",
        times: TimeLaw | dict | None = None,
        gan: Literal["logistic", "hinge"] = "hinge",
        gan_times: TimeLaw | dict | None = None,
        r1_weight: float = 1e-5,
        **kwargs,
    ) -> None:
        fits = bool(starts) and all(0 <= s < 1 for s in starts)
        require(fits, "starts must be one or more times in [0, 1)", starts)
        require(anchor in WEIGHTS, f"anchor must be one of {', '.join(WEIGHTS)}", anchor)
        require(anchor_weight >= 0, "anchor_weight must not be negative", anchor_weight)
        clean = time_law(gan_times, law="uniform", low=1.0, high=1.0)
        super().__init__(*args, gan=gan, gan_times=clean, r1_weight=r1_weight, **kwargs)
        self.starts, self.anchor_weight = tuple(starts), anchor_weight
        self.anchor, self.times = WEIGHTS[anchor], time_law(times)

    @staticmethod
    def make_discriminator(
        teacher: nn.Module, taps: Sequence[Tap] | None, heads: Sequence[nn.Module] | None
    ) -> Discriminator:
        """Heads on the frozen teacher."""
        return Discriminator(None, taps or levels_of(teacher), heads, source=teacher)

    def generate(self, batch: Batch) -> Tensor:
        """The student's `x̂`, from noise or from a noised future, by its own time s."""
        if self.starts == (0.0,):
            return super().generate(batch)
        which = (batch.draws.uniform(1)[:, 0] * len(self.starts)).long()
        s = torch.tensor(self.starts, device=which.device)[which]
        x_s = noised_data(batch, s)
        return denoise(x_s, self.nets["student"](x_s, s, batch.condition), s)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Look real and stay with the teacher; `gap` is the anchor."""
        x_1 = self.generate(batch)
        gan, anchor = self.adversarial(x_1, batch), self.distillation(x_1, batch)
        logs = {"generator": gan.detach(), "gap": anchor.detach()}
        return Loss(gan + self.anchor_weight * anchor, logs)

    def distillation(self, x_1: Tensor, batch: Batch) -> Tensor:
        """The anchor, `E c(t) || x̂ - sg D_T ||²`, of student samples `x_1 (B, F, C, H, W)`."""
        t = self.times.times(batch.draws)
        with torch.no_grad():
            x_t = interpolate(x_1, batch.draws.normal(*self.latent_shape), t)
            target = denoise(x_t, self.guided_teacher(x_t, t, batch.condition), t)
        return (self.anchor(t) * per_sample((x_1 - target).square())).mean()

    def penalty(self, h: Tensor, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """Exact R1 at the features of what is shown, `E || grad h ||²`."""
        net = self.nets["discriminator"]
        with torch.no_grad():
            volumes = net.volumes(x, t, batch.condition)
        volumes = [volume.requires_grad_(True) for volume in volumes]
        gradients = torch.autograd.grad(net.read(volumes).sum(), volumes, create_graph=True)
        return sum(g.square().flatten(1).sum(1) for g in gradients).mean()
