"""What the adversarial methods share: a student and a discriminator that step in turn.

    discriminator  softplus( -h(real) ) + softplus( h(x̂) ) + w_R mean( (h(real) - h(real + s xi))² )
    student        softplus( -h(x̂) )

or the hinge, see `discriminator_loss`. The last term is the approximated R1 penalty (APT, arXiv
2501.08316): for a small s it is `w_R s² ||grad h||²`, without the second derivatives of R1 itself.
A subclass says what the discriminator is and what it is shown of a future: noised or clean, and
with which time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, Loss, Method, require, time_law
from occdistill.distill.discriminator import (
    Discriminator,
    discriminator_loss,
    generator_loss,
)
from occdistill.distill.flow_map import true_futures
from occdistill.flow.networks.base import Tap
from occdistill.flow.path import TimeLaw, interpolate
from occdistill.flow.solver import sample
from occdistill.latents.condition import Condition
from occdistill.types import Count


class Adversarial(Method):
    """The losses above.

    Args:
        teacher: velocity network.
        *args: see `Method`.
        taps, heads: see `Discriminator`; by default a `Head` wherever the subclass reads.
        gan: `logistic` or `hinge`.
        gan_times: changes to the times that the discriminator is shown; uniform.
        real: what the student must look like, `data` or `teacher`, the guided teacher's samples.
        real_steps: of the teacher's sampler, 1 or more.
        r1_weight: w_R >= 0; 0 leaves the penalty out.
        r1_std: s > 0.
        ratio: discriminator updates before each student update, 1 or more.
        **kwargs: see `Method`.
    """

    futures = "yes, or the teacher's samples"
    collapse = "its discriminator lets a few futures pass: raise method.r1_weight or method.ratio"

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        taps: Sequence[Tap] | None = None,
        heads: Sequence[nn.Module] | None = None,
        gan: Literal["logistic", "hinge"] = "logistic",
        gan_times: TimeLaw | dict | None = None,
        real: Literal["data", "teacher"] = "data",
        real_steps: Count = 10,
        r1_weight: float = 0.0,
        r1_std: float = 0.1,
        ratio: Count = 1,
        **kwargs,
    ) -> None:
        for value, known in ((gan, ("logistic", "hinge")), (real, ("data", "teacher"))):
            require(value in known, f"{known[0]!r} or {known[1]!r}", value)
        for name, value in (("ratio", ratio), ("real_steps", real_steps)):
            whole = type(value) is int and value >= 1
            require(whole, f"{name} must be a whole number, 1 or more", value)
        require(r1_weight >= 0, "r1_weight must not be negative", r1_weight)
        require(r1_std > 0, "r1_std must be above 0", r1_std)
        discriminator = self.make_discriminator(teacher, taps, heads)  # of a teacher without hooks
        super().__init__(teacher, *args, **kwargs)
        self.nets["discriminator"] = discriminator.requires_grad_(True)
        if discriminator.flow is not None:
            self._count_evaluations(discriminator.flow)
        self.gan, self.gan_times = gan, time_law(gan_times, law="uniform")
        self.real, self.real_steps = real, real_steps
        self.r1_weight, self.r1_std, self.ratio = r1_weight, r1_std, ratio

    @staticmethod
    @abstractmethod
    def make_discriminator(
        teacher: nn.Module, taps: Sequence[Tap] | None, heads: Sequence[nn.Module] | None
    ) -> Discriminator:
        """What tells real from fake."""

    def plan(self, step: int) -> tuple[str, ...]:
        """`ratio` discriminator updates, then one student update."""
        return ("discriminator",) * self.ratio + ("student",)

    def discriminator_loss(self, batch: Batch, step: int) -> Loss:
        """Tell real from fake, not too steeply; `discriminator_right` is how often it does."""
        with torch.no_grad():
            x_real, t_real = self.shown(self.real_futures(batch), batch)
            x_fake, t_fake = self.shown(self.generate(batch), batch)
        x, t = torch.cat([x_real, x_fake]), torch.cat([t_real, t_fake])
        both = Condition.cat([batch.condition, batch.condition])
        real, fake = self.nets["discriminator"].logits(x, t, both).chunk(2)
        gan = discriminator_loss(real, fake, self.gan)
        right = torch.cat([real > 0, fake < 0]).float().mean()
        logs = {"discriminator": gan.detach(), "discriminator_right": right}
        if not self.r1_weight:
            return Loss(gan, logs)
        r1 = self.penalty(real, x_real, t_real, batch)
        return Loss(gan + self.r1_weight * r1, {**logs, "r1": r1.detach()})

    def penalty(self, h: Tensor, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """Approximated R1: how much logits `h` change where noise is added to what is shown, x."""
        near = x + self.r1_std * batch.draws.normal(*self.latent_shape)
        return (h - self.nets["discriminator"].logits(near, t, batch.condition)).square().mean()

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Look real."""
        gan = self.adversarial(self.generate(batch), batch)
        return Loss(gan, {"generator": gan.detach()})

    def adversarial(self, x_1: Tensor, batch: Batch) -> Tensor:
        """How fake student samples `x_1 (B, F, C, H, W)` look, with gradients to them."""
        x, t = self.shown(x_1, batch)
        return generator_loss(self.nets["discriminator"].logits(x, t, batch.condition), self.gan)

    def shown(self, x_1: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the discriminator sees of futures `x_1`: noised to a time of its own, `(x_t, t)`."""
        t = self.gan_times.times(batch.draws)
        return interpolate(x_1, batch.draws.normal(*self.latent_shape), t), t

    @torch.no_grad()
    def real_futures(self, batch: Batch) -> Tensor:
        """True futures or the guided teacher's samples, `(B, F, C, H, W)`."""
        if self.real == "data":
            return true_futures(batch)
        noise = batch.draws.normal(*self.latent_shape)
        return sample(self.guided_teacher, noise, batch.condition, self.real_steps)
