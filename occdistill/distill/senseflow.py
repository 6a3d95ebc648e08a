"""SenseFlow (arXiv 2506.00523): DMD2 made to converge on large flow models, in two ways.

    IDA  implicit distribution alignment: after each student step the auxiliary is drawn towards
         the student, `theta_A <- l theta_A + (1 - l) theta`
    ISG  intra-segment guidance: the student's step from noise to data must agree with a leg of the
         teacher followed by a leg of the student,
             t ~ U(0.05, 0.95),  x_t = z + t v_T(z, 0),  y = x_t + (1 - t) N(x_t, t)
             L_isg = mean( sqrt( (G(z) - sg y)² + c² ) - c )

On top of DMD2 with hinge heads on frozen features. The source reads those off a vision foundation
model; latents have none, so the teacher's stand in. Its GAN term is weighted by the squared noise
level, which would switch it off for a one-step student; here the weight is 1. Its teacher leg draws
a guidance scale from [2, 4]; here it has the teacher's own. Needs data.

Cost of a student update: that of DMD2 + 3; of an auxiliary update: 1 + 3 + 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, require
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.losses import pseudo_huber
from occdistill.flow.path import expand


class SenseFlow(DMD2):
    """DMD2 with IDA and ISG.

    Args:
        ida: l, how much of itself the auxiliary keeps at each student step; 1 switches IDA off.
        isg_weight: of the intra-segment term.
        isg_huber: c of its pseudo-Huber distance, above 0.
        isg_margin: distance of t from 0 and 1, in [0, 0.5].
        **kwargs: see `DMD2`; the defaults differ.
    """

    cost, other_cost, discriminator = 12.0, 6.0, "teacher"

    def __init__(
        self,
        *args,
        ida: float = 0.98,
        isg_weight: float = 0.5,
        isg_huber: float = 1e-3,
        isg_margin: float = 0.05,
        ratio: int = 10,
        disc_on: str = "teacher",
        gan: str = "hinge",
        generator_weight: float = 0.1,
        **kwargs,
    ) -> None:
        require(0 <= ida <= 1, "ida must lie in [0, 1]", ida)
        require(isg_weight >= 0, "isg_weight must not be negative", isg_weight)
        require(isg_huber > 0, "isg_huber must be above 0", isg_huber)
        require(0 <= isg_margin <= 0.5, "isg_margin must lie in [0, 0.5]", isg_margin)
        super().__init__(
            *args,
            ratio=ratio,
            disc_on=disc_on,
            gan=gan,
            generator_weight=generator_weight,
            **kwargs,
        )
        require(self.steps == 1, "ISG splits the only step: steps must be 1", self.steps)
        self.ida, self.isg_weight = ida, isg_weight
        self.isg_huber, self.isg_margin = isg_huber, isg_margin

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """DMD2's losses and ISG, on the same sample."""
        z = batch.draws.normal(*self.latent_shape)
        x_1 = self.one_step(z, batch.condition)
        matching, gan = self.matching(x_1, batch), self.adversarial(x_1, batch)
        isg = self.intra_segment(z, x_1, batch)
        total = matching.total + self.generator_weight * gan + self.isg_weight * isg
        return Loss(total, {**matching.logs, "generator": gan.detach(), "isg": isg.detach()})

    def intra_segment(self, z: Tensor, x_1: Tensor, batch: Batch) -> Tensor:
        """The ISG loss of the student's sample x_1 from noise z."""
        t = batch.draws.uniform(1)[:, 0] * (1 - 2 * self.isg_margin) + self.isg_margin
        with torch.no_grad():
            x_t = z + expand(t, z) * self.guided_teacher(z, torch.zeros_like(t), batch.condition)
            y = x_t + expand(1 - t, z) * self.nets["student"](x_t, t, batch.condition)
        return pseudo_huber((x_1 - y).square(), self.isg_huber).mean()

    @torch.no_grad()
    def after(self, name: str, step: int) -> None:
        """IDA after the student's step."""
        if name == "student":
            auxiliary = list(self.nets["auxiliary"].flow.parameters())
            torch._foreach_lerp_(auxiliary, list(self.nets["student"].parameters()), 1 - self.ida)
