"""Training the autoencoder on single keyframes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from occdistill.autoencoder.losses import kl_divergence, reconstruction_losses
from occdistill.autoencoder.vae import Gaussian
from occdistill.build.builders import build_vae
from occdistill.build.settings import VaeSettings
from occdistill.data.clips import ClipDataset
from occdistill.distill.base import Loss, Task
from occdistill.flow.path import Draws
from occdistill.training.job import Ingredients, Job
from occdistill.training.validation import newest_frames, reconstruction


@dataclass
class VoxelBatch:
    """Voxels uint8 `(B, X, Y, Z)` and their random streams."""

    voxels: Tensor
    draws: Draws


def voxel_batch(items: Mapping[str, Tensor], draws: Draws) -> VoxelBatch:
    """A batch of keyframes, see `occdistill.latents.cache.VoxelCache`, for the VAE."""
    return VoxelBatch(items["voxels"], draws)


class VaeTraining(Task):
    """Cross-entropy, Lovász-softmax and the latents' KL divergence (the field's usual mix).

    Args:
        vae: see `occdistill.autoencoder.vae`.
        settings: weights of the terms.
        class_weights: of the cross-entropy, one per class; default equal.
    """

    whole_batch = True  # Lovász sorts all voxels of a batch

    def __init__(
        self, vae: nn.Module, settings: VaeSettings, class_weights: Tensor | None = None
    ) -> None:
        super().__init__({"vae": vae})
        self.settings = settings
        self.register_buffer("class_weights", class_weights, persistent=False)

    def vae_loss(self, batch: VoxelBatch, step: int) -> Loss:
        """Of one batch of keyframes."""
        vae, settings = self.nets["vae"], self.settings
        posterior: Gaussian = vae.encode(batch.voxels)
        z = posterior.mean + posterior.std * batch.draws.normal(*posterior.mean.shape[1:])
        parts = reconstruction_losses(
            vae.logits(z), batch.voxels, settings.lovasz_voxels, self.class_weights
        )
        parts["kl"] = kl_divergence(posterior)
        total = (
            parts["cross_entropy"]
            + settings.lovasz_weight * parts["lovasz"]
            + settings.kl_weight * parts["kl"]
        )
        return Loss(total, {key: value.detach() for key, value in parts.items()})


@torch.no_grad()
def latent_std(vae: nn.Module, voxels: Tensor, batch_size: int = 16) -> float:
    """Standard deviation of a VAE's posterior means over `voxels (N, X, Y, Z)`, on any device."""
    device = next(vae.parameters()).device
    means = [vae.encode(part.to(device)).mean for part in voxels.split(batch_size)]
    return float(torch.cat(means).std())


class ReconstructionScore:
    """IoU and mIoU in percent of a VAE's reconstructions; fits its latent scale on the way.

    The frames are read when they are first needed, which is on rank 0 alone.

    Args:
        clips: the newest past frame of `count` of these is reconstructed.
        trained: the VAE that is being trained. It and the one that is validated (which may be its
            moving average) get the scale one over the latents' standard deviation, where they
            have a `latent_scale` buffer.
        scale_sample: training voxels `(N, X, Y, Z)` on which the scale is fitted.
        count: how many frames.
        batch_size: frames at a time.
    """

    def __init__(
        self,
        clips: ClipDataset,
        trained: nn.Module,
        scale_sample: Tensor,
        count: int = 64,
        batch_size: int = 16,
    ) -> None:
        self.clips, self.count = clips, count
        self.trained, self.scale_sample, self.batch_size = trained, scale_sample, batch_size

    @cached_property
    def voxels(self) -> Tensor:
        """Labels uint8 `(N, X, Y, Z)`."""
        return newest_frames(self.clips, self.count)

    def __call__(self, vae: nn.Module) -> dict[str, float]:
        """Of one VAE."""
        if hasattr(vae, "latent_scale"):
            scale = 1 / latent_std(vae, self.scale_sample, self.batch_size)
            for net in (vae, self.trained):
                net.latent_scale.fill_(scale)
        device = next(vae.parameters()).device
        batches = ((part, part) for part in self.voxels.split(self.batch_size))
        result = reconstruction(lambda x: vae.encode(x).mean, vae.decode, batches, device)
        return result | {"latent_scale": vae.scale}


def prepare(job: Job) -> Ingredients:
    """The config's VAE; its latent scale is fitted at each validation, on training frames."""
    clips = job.clips("train")
    frames = job.keyframes(clips)
    sample, weights = job.class_sample(frames)
    vae = build_vae(job.config, weights=False)
    task = VaeTraining(vae, job.settings, weights.to(job.device))
    validate = ReconstructionScore(job.clips("val"), vae, sample, job.settings.val_clips)
    return Ingredients(task, frames, voxel_batch, validate, {"data": clips.fingerprint[:12]})
