"""f-distill (arXiv 2502.15681) for flows: DMD2 that descends any f-divergence.

DMD2's matching gradient is that of KL(q_t || p_t). Other f-divergences weigh it, clip by clip, by a
function of the density ratio at the re-noised sample, which the discriminator's logit l ~ log p_t /
q_t gives for free:

    g_f = h(l) / mean h(l) · g,   l = mean logit of x_t at t   (`losses.DIVERGENCES`)

Clips that the student makes too rarely (a large ratio) count more, so that modes aren't dropped.
Dividing by the batch's mean keeps the gradient's size; no clip counts for more than the batch. A
clip has many logits, one for each patch, and the ratio of their mean is used. Needs data.

Cost of a student update: that of DMD2 + 1 (features at x_t); of an auxiliary update: DMD2's.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from occdistill.distill.base import Batch, require
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.losses import DIVERGENCES, per_sample


class FDistill(DMD2):
    """DMD2 with the weights above.

    Args:
        divergence: `jensen_shannon`, `forward_kl`, `jeffreys`, or `reverse_kl`, which is DMD2.
        **kwargs: see `DMD2`; `gan` must stay `logistic`, whose logits are log ratios.
    """

    cost = 10.0
    whole_batch = True  # the weights' mean

    def __init__(
        self,
        *args,
        divergence: Literal[
            "jensen_shannon", "forward_kl", "jeffreys", "reverse_kl"
        ] = "jensen_shannon",
        **kwargs,
    ) -> None:
        require(divergence in DIVERGENCES, f"divergence: {', '.join(DIVERGENCES)}", divergence)
        super().__init__(*args, **kwargs)
        require(self.gan == "logistic", "a log ratio needs gan='logistic'", self.gan)
        self.divergence = DIVERGENCES[divergence]

    def emphasis(self, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """`h(l) / mean h(l)`, `(B,)`."""
        logits = self.nets["auxiliary"].logits(x_t, t, batch.condition)
        weight = self.divergence(per_sample(logits))
        return weight / weight.mean()
