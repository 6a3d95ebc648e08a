"""DiffRatio (arXiv 2502.08005) for flows: one log density ratio in place of two scores.

Diff-Instruct's gradient needs the difference of the teacher's and the student's scores, each from
a network with errors of its own. Here one network l learns the logarithm of the ratio of the real
law p_t to the student's q_t, by telling noised real futures from noised student samples, and the
student descends along its gradient:

    L_l = E softplus( -l(real_t, t) ) + E softplus( l(x̂_t, t) ),   optimum l = log p_t / q_t
    L_S = -E sg[h(l)] l(x̂_t, t),   x̂_t = t x̂ + (1 - t) e

h = 1 is the gradient of KL(q_t || p_t), other f-divergences have other h (`losses.DIVERGENCES`).
The teacher is where the two networks start from, and is not in the loss: its features up to the
bottleneck carry l, with a logit for every patch. Real futures are data (the paper's claim) or the
guided teacher's samples (`real="teacher"`), which make a distillation of it.

Cost of a student update: 3 (student) + 1.5 (ratio) evaluations; of a ratio update: 1 + 2 · 1.5.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

from torch import nn

from occdistill.distill.adversarial import Adversarial
from occdistill.distill.base import Batch, Loss, require
from occdistill.distill.discriminator import Discriminator
from occdistill.distill.losses import DIVERGENCES
from occdistill.flow.networks.base import SplitNetwork, Tap
from occdistill.flow.parts import Trunk


class DiffRatio(Adversarial):
    """The losses above.

    Args:
        divergence: which one the student descends: `reverse_kl`, `forward_kl`, `jensen_shannon` or
            `jeffreys`.
        **kwargs: see `Adversarial`; `gan` must stay `logistic`, whose logits are log ratios.
    """

    cost, other_cost, discriminator = 4.5, 4.0, "trained trunk of the teacher"

    def __init__(
        self,
        *args,
        divergence: Literal[
            "reverse_kl", "forward_kl", "jensen_shannon", "jeffreys"
        ] = "reverse_kl",
        **kwargs,
    ) -> None:
        require(divergence in DIVERGENCES, f"divergence: {', '.join(DIVERGENCES)}", divergence)
        super().__init__(*args, **kwargs)
        require(self.gan == "logistic", "a log ratio needs gan='logistic'", self.gan)
        self.weight = DIVERGENCES[divergence]

    @staticmethod
    def make_discriminator(
        teacher: nn.Module, taps: Sequence[Tap] | None, heads: Sequence[nn.Module] | None
    ) -> Discriminator:
        """A network of its own, which starts as the teacher and is read at its bottleneck: the
        trunk is all that it takes, unless features are asked for elsewhere.
        """
        half = isinstance(teacher, SplitNetwork) and not taps
        return Discriminator(Trunk(teacher) if half else copy.deepcopy(teacher), taps, heads)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Descend the divergence; `log_ratio` is the mean of l, whose negative is KL(q_t || p_t)."""
        x_t, t = self.shown(self.generate(batch), batch)
        log_ratio = self.nets["discriminator"].logits(x_t, t, batch.condition)
        loss = -(self.weight(log_ratio.detach()) * log_ratio).mean()
        return Loss(loss, {"log_ratio": log_ratio.detach().mean()})
