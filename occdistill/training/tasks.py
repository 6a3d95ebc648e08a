"""The two trainings that come before distillation, in the same form as a distillation method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.autoencoder.losses import kl_divergence, reconstruction_losses
from occdistill.autoencoder.vae import Gaussian
from occdistill.distill.base import Batch, Loss, time_law
from occdistill.flow.path import Draws, TimeLaw, interpolate
from occdistill.latents.condition import Condition


def latent_batch(items: Mapping[str, Tensor], draws: Draws) -> Batch:
    """A batch of cached clips, see `occdistill.latents.cache.LatentClips`, for flows and methods."""
    condition = Condition.of(items)
    return Batch(condition, draws, items["future"], items.get("moving"))


@dataclass
class VoxelBatch:
    """Voxels uint8 `(B, X, Y, Z)` and their random streams."""

    voxels: Tensor
    draws: Draws


def voxel_batch(items: Mapping[str, Tensor], draws: Draws) -> VoxelBatch:
    """A batch of keyframes, see `occdistill.latents.cache.VoxelCache`, for the VAE."""
    return VoxelBatch(items["voxels"], draws)


class OneNet(nn.Module):
    """A task with a single net that steps at every step."""

    def __init__(self, name: str, net: nn.Module) -> None:
        super().__init__()
        self.main, self.nets = name, nn.ModuleDict({name: net})

    def plan(self, step: int) -> tuple[str, ...]:
        """The only net."""
        return (self.main,)

    def after(self, name: str, step: int) -> None:
        """Nothing follows an update."""


class VAETraining(OneNet):
    """Cross-entropy, Lovász-softmax and the latents' KL divergence (the field's usual mix).

    Args:
        vae: see `occdistill.autoencoder.vae`.
        kl_weight: of the KL divergence per latent element.
        lovasz_weight: of the Lovász term.
        lovasz_voxels: voxels of a batch on which it is computed; 0 for all.
        class_weights: of the cross-entropy, one per class; default equal.
    """

    def __init__(
        self,
        vae: nn.Module,
        kl_weight: float = 1e-3,
        lovasz_weight: float = 1.0,
        lovasz_voxels: int = 0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__("vae", vae)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.kl_weight, self.lovasz_weight = kl_weight, lovasz_weight
        self.lovasz_voxels = lovasz_voxels

    def losses(self, name: str, batch: VoxelBatch, step: int) -> Loss:
        """Of one batch of keyframes."""
        vae = self.nets["vae"]
        posterior: Gaussian = vae.encode(batch.voxels)
        z = posterior.mean + posterior.std * batch.draws.normal(*posterior.mean.shape[1:])
        parts = reconstruction_losses(
            vae.logits(z), batch.voxels, self.lovasz_voxels, self.class_weights
        )
        parts["kl"] = kl_divergence(posterior)
        total = (
            parts["cross_entropy"]
            + self.lovasz_weight * parts["lovasz"]
            + self.kl_weight * parts["kl"]
        )
        return Loss(total, {key: value.detach() for key, value in parts.items()})


class FlowMatching(OneNet):
    """Conditional flow matching with condition dropout, for the teacher (OccFM's recipe).

    `L = E || v(x_t, t, c) - (x_1 - x_0) ||²`; with probability `condition_dropout` the past and
    aligned latents of a sample are zeroed, its trajectory is kept.

    Most of a street stands still, and what moves fills few cells. A weight that depends on the
    condition alone leaves the best velocity as it is and makes a small network attend to them.

    Args:
        net: velocity network.
        condition_dropout: probability of training the null branch of guidance.
        times: law of t; logit-normal by default.
        moving_weight: of the cells that something on the move may have reached, against 1 for the
            others; needs `Batch.moving` unless it is 1.
    """

    def __init__(
        self,
        net: nn.Module,
        condition_dropout: float = 0.2,
        times: TimeLaw | dict | None = None,
        moving_weight: float = 1.0,
    ) -> None:
        super().__init__("teacher", net)
        self.condition_dropout, self.times = condition_dropout, time_law(times)
        self.moving_weight = moving_weight

    def losses(self, name: str, batch: Batch, step: int) -> Loss:
        """Of one batch of clips."""
        x_1, draws = batch.x_1, batch.draws
        x_0 = draws.normal(*x_1.shape[1:])
        t = self.times.times(draws)
        keep = draws.uniform(1)[:, 0] >= self.condition_dropout
        v = self.nets["teacher"](interpolate(x_1, x_0, t), t, batch.condition.dropped(keep))
        errors = (v - (x_1 - x_0)).square()
        logs = {"error": errors.mean().detach()}
        if self.moving_weight != 1.0:
            reached = _reached(batch.moving * keep.to(x_1.dtype)[:, None, None, None])
            errors = errors * (1 + (self.moving_weight - 1) * reached[:, :, None])
        return Loss(errors.mean(), logs)


def _reached(moving: Tensor) -> Tensor:
    """Cells at most one cell from a moving one in the first two future frames, one more in each
    next two; `(B, F, H, W)`, 1 or 0.
    """
    frames = moving.unbind(1)
    radius = [1 + i // 2 for i in range(len(frames))]
    grown = [F.max_pool2d(m, 2 * r + 1, stride=1, padding=r) for r, m in zip(radius, frames)]
    return torch.stack(grown, dim=1)


@torch.no_grad()
def latent_std(vae: nn.Module, voxels: Tensor, batch_size: int = 16) -> float:
    """Standard deviation of a VAE's posterior means over `voxels (N, X, Y, Z)`, on any device."""
    device = next(vae.parameters()).device
    means = [vae.encode(part.to(device)).mean for part in voxels.split(batch_size)]
    return float(torch.cat(means).std())
