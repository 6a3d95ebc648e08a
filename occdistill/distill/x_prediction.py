"""Clean prediction with a loss on decoded occupancy: pixel MeanFlow's two ideas, in latents.

Pixel MeanFlow (pMF) lets the network predict the clean sample, and adds a perceptual loss on it.
Voxels are classes, so the flow stays in latents and the second loss goes through the frozen decoder:

    x̂_1 = x_t + (1 - t) u(x_t, t, r)
    V   = u - (r - t) sg[Dt u],   Dt along v_T
    L   = || V - v_T ||² + w_D 1{t > t_D} [ cross-entropy + Lovász ](decoder(x̂_1), decoded x_1)

each term adaptively weighted, the second clip by clip with power 1. For a network that predicts
velocities the change of variables costs nothing and starts as the teacher. pMF divides by
`max(1 - t, 0.05)`; here no start is later than 0.95, so that the two never differ. Without the
second term it is MeanFlow. The labels are the decoder's own classes for the true latents, which is
all that cached clips hold of their voxels. Needs data and a decoder.

Cost of an update: 2 (guided teacher) + 2.5 (derivative) + 3 (student) evaluations, and the decoder.
Source: the code of pMF, Lyy-iiis/pMF.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occdistill.autoencoder.losses import reconstruction_losses
from occdistill.distill.base import Batch, Loss, frozen, require
from occdistill.distill.flow_map import noised_data
from occdistill.distill.losses import adaptive
from occdistill.distill.meanflow import MeanFlow
from occdistill.flow.path import denoise

LATEST = 0.95  # start of an interval


class XPrediction(MeanFlow):
    """The loss above.

    Args:
        *args: see `MeanFlow`.
        decoder: autoencoder with `logits(z)`, `decode(z)` and `scale`, see `VAE`; frozen in place.
        decoded_weight: w_D >= 0.
        clear_from: t_D in [0, 0.95), the time after which x̂_1 is clear enough to be decoded.
        **kwargs: see `MeanFlow`.
    """

    futures, latest = "yes, and the decoder", LATEST

    def __init__(
        self,
        *args,
        decoder: nn.Module | None = None,
        decoded_weight: float = 1.0,
        clear_from: float = 0.5,
        **kwargs,
    ) -> None:
        require(decoder is not None, "decoder must be the autoencoder of the latents", decoder)
        require(decoded_weight >= 0, "decoded_weight must not be negative", decoded_weight)
        require(0 <= clear_from < LATEST, f"clear_from must lie in [0, {LATEST})", clear_from)
        super().__init__(*args, **kwargs)
        self.decoder = frozen(decoder)
        self.decoded_weight, self.clear_from = decoded_weight, clear_from

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Both terms; `gap` is the mean squared residual of the first, `decoded` the plain second."""
        t, r = self.intervals(batch.draws, step)
        x_t = noised_data(batch, t)
        target = self.target(x_t, t, r, batch, step)
        u = self.nets["student"](x_t, t, batch.condition, r=r)
        loss = self.distance(u - target, t, r, step).mean()
        logs = {"gap": (u - target).detach().square().mean()}
        clear = (t > self.clear_from).nonzero()[:, 0]
        if not self.decoded_weight or not len(clear):
            return Loss(loss, logs)
        decoded = self.decoded(denoise(x_t, u, t)[clear], batch.x_1[clear])
        logs["decoded"] = decoded.detach().mean()
        return Loss(loss + self.decoded_weight * adaptive(decoded).sum() / len(t), logs)

    def decoded(self, found: Tensor, true: Tensor) -> Tensor:
        """Cross-entropy and Lovász of clips `(N, F, C, H, W)` against what is true, `(N,)`."""
        losses = []
        for z, truth in zip(found / self.decoder.scale, true / self.decoder.scale):
            parts = reconstruction_losses(self.decoder.logits(z), self.decoder.decode(truth))
            losses.append(parts["cross_entropy"] + parts["lovasz"])
        return torch.stack(losses)
