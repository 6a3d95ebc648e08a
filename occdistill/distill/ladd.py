"""Latent adversarial diffusion distillation (LADD, arXiv 2403.12015) for flows.

A GAN alone, in latents. The discriminator is the frozen teacher with a head at every level, shown
real and fake futures noised to a random time: much noise asks for the right layout, little noise
for the right detail. The real side is the guided teacher's own samples (synthetic data), so that
no true futures are needed and guidance is distilled along.

    L_S = -mean h(x̂_t, t),   x̂_t = t x̂ + (1 - t) e
    L_h = mean relu(1 - h(t' x_T + (1 - t') e', t')) + mean relu(1 + h(x̂_t, t))

or the logistic losses (FastGen); optional approximated R1, see `Adversarial`.

Cost of a student update: 3 (student) + 2 (features, with gradient) evaluations; of a discriminator
update: 2 per sampler step (guided teacher) + 1 (student) + 2 (features).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from occdistill.distill.adversarial import Adversarial
from occdistill.distill.base import time_law
from occdistill.distill.discriminator import Discriminator, levels_of
from occdistill.flow.networks.base import Tap
from occdistill.flow.path import TimeLaw


class LADD(Adversarial):
    """The losses above.

    Args:
        gan: `hinge` or `logistic`.
        gan_times: changes to the discriminator's times, logit-normal with mean -1: towards noise.
        real: `teacher` samples or `data`.
        **kwargs: see `Adversarial`; by default a head at every level.
    """

    cost, other_cost, discriminator = 5.0, 23.0, "teacher"
    futures = "no, the teacher's samples (or yes)"

    def __init__(
        self,
        *args,
        gan: Literal["logistic", "hinge"] = "hinge",
        gan_times: TimeLaw | dict | None = None,
        real: Literal["data", "teacher"] = "teacher",
        **kwargs,
    ) -> None:
        super().__init__(
            *args, gan=gan, gan_times=time_law(gan_times, mean=-1.0), real=real, **kwargs
        )

    @staticmethod
    def make_discriminator(
        teacher: nn.Module, taps: Sequence[Tap] | None, heads: Sequence[nn.Module] | None
    ) -> Discriminator:
        """Heads on the frozen teacher."""
        return Discriminator(None, taps or levels_of(teacher), heads, source=teacher)
