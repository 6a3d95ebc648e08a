"""Adversarial post-training (APT, arXiv 2501.08316) for flows.

A GAN against true futures that follows another distillation: the source starts from a student of
consistency distillation, which goes in here as `student`. The discriminator is a copy of the
teacher, trained whole, with a head at every level. It is shown clean futures, never noised ones,
together with a time drawn at random, so that it uses what its network knows at every noise level:

    L_S = softplus( -h(x̂, t) )
    L_h = softplus( -h(x_1, t) ) + softplus( h(x̂, t') ) + w_R mean( (h(x_1, t) - h(x_1 + s xi, t))² )

No teacher in the loss, and no guidance: it has to come with the initial student. Needs data.

Cost of a student update: 3 (student) + 3 (discriminator) evaluations; of a discriminator update:
1 + 3 · 3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from occdistill.distill.adversarial import Adversarial
from occdistill.distill.base import Batch
from occdistill.distill.discriminator import Discriminator, levels_of
from occdistill.flow.networks.base import Tap


class APT(Adversarial):
    """The losses above. A config's `student_checkpoint` says where the first student lies.

    Args:
        r1_weight: w_R.
        r1_std: s (source: 0.01 for images, 0.1 for video).
        **kwargs: see `Adversarial`; by default a head at every level.
    """

    cost, other_cost, discriminator = 6.0, 10.0, "trained copy of the teacher"

    def __init__(self, *args, r1_weight: float = 100.0, r1_std: float = 0.1, **kwargs) -> None:
        super().__init__(*args, r1_weight=r1_weight, r1_std=r1_std, **kwargs)

    @staticmethod
    def make_discriminator(
        teacher: nn.Module, taps: Sequence[Tap] | None, heads: Sequence[nn.Module] | None
    ) -> Discriminator:
        """A network of its own, which starts as the teacher."""
        return Discriminator(copy.deepcopy(teacher), taps or levels_of(teacher), heads)

    def shown(self, x_1: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The clean future and a random time."""
        return x_1, self.gan_times.times(batch.draws)
