"""Distilling a light decoder and encoder from a frozen autoencoder, see `autoencoder.light`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from occdistill.autoencoder.light import Light, LightDecoder, Lightened, fold
from occdistill.autoencoder.losses import lovasz_softmax
from occdistill.build.builders import build_light
from occdistill.build.settings import LightSettings
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.distill.base import Loss, Task, frozen
from occdistill.latents.cache import mirrored
from occdistill.runtime import roofline
from occdistill.training.job import Ingredients, Job
from occdistill.training.vae import VoxelBatch, voxel_batch
from occdistill.training.validation import newest_frames, reconstruction

FRAMES = 6  # decoded per forecast, and what operations are stated for


class LightTraining(Task):
    """Match the frozen decoder's distribution and the frozen encoder's mean.

    Forecast latents are not the encoder's, so the decoder learns on latents with noise of a
    different strength in each sample, where the frozen decoder still says what they decode to:

        decoder: E_w KL(p_full(z') || p_light(z')) + lovasz_weight · Lovász(p_light(z'), voxels)
                 + feature_weight · E (features_light(z') - components of logits_full(z'))²
        encoder: latent_weight · E (scale · (mean_light - mean_full))²

    with z' = mean_full + u e / scale, e ~ N(0, 1), u uniform on [0, noise], and voxels weighted by
    the rarity w of what the frozen decoder sees in them. The light head starts as the principal
    components of the frozen decoder's logits, a pixel's voxels together, and the features before
    it are drawn to these components, scaled to unit variance: the frequent classes leave no room
    for the rare ones otherwise.

    Args:
        vae: the frozen autoencoder.
        light: what is trained.
        sample: voxels `(N, X, Y, Z)` from which the components are taken.
        settings: weights of the terms, `noise` (the largest u), `mirror`.
        class_weights: w, one per class; default equal.
    """

    whole_batch = True  # Lovász sorts all voxels of a batch

    def __init__(
        self,
        vae: nn.Module,
        light: Light,
        sample: Tensor,
        settings: LightSettings,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__({"light": light}, frozen(vae))
        if class_weights is None:
            class_weights = torch.ones(NUM_CLASSES)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.settings = settings
        if light.decoder is not None:
            mean, covariance = logit_moments(vae, light.decoder, sample)
            self.register_buffer("components", light.decoder.start_from(mean, covariance))
            self.register_buffer("mean_logits", mean.to(self.components.dtype))

    def light_loss(self, batch: VoxelBatch, step: int) -> Loss:
        """Of one batch of keyframes."""
        voxels, draws, light = batch.voxels, batch.draws, self.nets["light"]
        flip = draws.uniform(1, 1, 1) < 0.5
        if self.settings.mirror:
            voxels = torch.where(flip, mirrored(voxels), voxels)
        with torch.no_grad():
            mean = self.teacher.encode(voxels).mean
        parts = {}
        if light.decoder is not None:
            strength = self.settings.noise * draws.uniform(1, 1, 1) / self.teacher.scale
            z = mean + strength * draws.normal(*mean.shape[1:])
            parts |= self._decoder_losses(light.decoder, z, voxels)
        if light.encoder is not None:
            error = (light.encoder(voxels) - mean) * self.teacher.scale
            parts["latent"] = error.square().mean()
        weights = {
            "lovasz": self.settings.lovasz_weight,
            "features": self.settings.feature_weight,
            "latent": self.settings.latent_weight,
        }
        total = sum(weights.get(key, 1.0) * value for key, value in parts.items())
        return Loss(total, {key: value.detach() for key, value in parts.items()})

    def _decoder_losses(self, decoder: nn.Module, z: Tensor, voxels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            logits = pixel_logits(self.teacher, decoder, z)
            wanted = (logits.flatten(1) - self.mean_logits) @ self.components
            target = logits.softmax(1)
            weights = (target * self.class_weights[:, None]).sum(1)
            entropy = torch.special.entr(target).sum(1)
        features = decoder.features(z).flatten(0, 2)
        found = decoder.classes(features).float().log_softmax(1)
        divergence = -(target * found).sum(1) - entropy
        labels, some = fold(voxels).flatten(0, 2).long(), slice(None)
        if 0 < self.settings.lovasz_voxels < labels.numel():
            pixels = -(-self.settings.lovasz_voxels // labels.shape[1])
            some = torch.randint(len(labels), (pixels,), device=labels.device)
        probabilities = found[some].exp().movedim(1, -1).flatten(0, 1)
        return {
            "divergence": (weights * divergence).sum() / weights.sum(),
            "lovasz": lovasz_softmax(probabilities, labels[some].flatten()),
            "features": (features.float() - wanted).square().mean(),
        }


def pixel_logits(vae: nn.Module, decoder: LightDecoder, z: Tensor) -> Tensor:
    """The full decoder's logits, centred over the classes, `(N * X / 2 * Y / 2, 18, 4 Z)`."""
    logits = fold(vae.logits(z)).flatten(0, 2).float()
    return logits - logits.mean(1, keepdim=True)


@torch.no_grad()
def logit_moments(
    vae: nn.Module, decoder: LightDecoder, voxels: Tensor, batch_size: int = 4
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of `pixel_logits` over `voxels (N, X, Y, Z)`, on the CPU."""
    device = next(vae.parameters()).device
    count, first, second = 0, 0.0, 0.0
    for part in voxels.split(batch_size):
        logits = pixel_logits(vae, decoder, vae.encode(part.to(device)).mean).flatten(1)
        count += len(logits)
        first = first + logits.sum(0).double().cpu()
        second = second + (logits.T @ logits).double().cpu()
    mean = first / count
    return mean, second / count - mean.outer(mean)


class LightScore:
    """IoU and mIoU in percent of reconstructions with light parts in place of full ones.

    Args:
        clips: the newest past frame of `count` of these is reconstructed.
        vae: the full autoencoder.
        count: how many frames.
        batch_size: frames at a time.
    """

    def __init__(
        self, clips: ClipDataset, vae: nn.Module, count: int = 64, batch_size: int = 16
    ) -> None:
        self.clips, self.vae, self.count, self.batch_size = clips, vae, count, batch_size

    @cached_property
    def voxels(self) -> tuple[Tensor, ...]:
        """Labels in parts, uint8 `(batch_size, X, Y, Z)`; read on rank 0, which alone validates."""
        return newest_frames(self.clips, self.count).split(self.batch_size)

    @cached_property
    def full(self) -> dict[str, float]:
        """Scores of the full autoencoder."""
        return self._reconstruct(self.vae)

    def _reconstruct(self, vae: nn.Module) -> dict[str, float]:
        device = next(self.vae.parameters()).device
        batches = zip(self.voxels, self.voxels)
        return reconstruction(lambda x: vae.encode(x).mean, vae.decode, batches, device)

    def __call__(self, light: Light) -> dict[str, float]:
        """Scores with every light part at once, and mIoU with each alone and with none."""
        result = self._reconstruct(Lightened(self.vae, light.decoder, light.encoder))
        result["mIoU_full"] = self.full["mIoU"]
        for name, part in light.named_children():
            alone = Lightened(self.vae, **{name: part})
            result[f"mIoU_{name}"] = self._reconstruct(alone)["mIoU"]
        return result


def operations(vae: nn.Module, light: Light, frames: int = FRAMES) -> dict[str, tuple[int, int]]:
    """Additions and multiplications of the full and the light part, by part, for `frames` frames.

    Counted on networks without numbers, so that it takes no time at any size.
    """
    vae, light = (copy.deepcopy(net).to("meta") for net in (vae, light))
    z = torch.empty(frames, *vae.latent_shape, device="meta")
    voxels = torch.empty(frames, *vae.grid_shape, dtype=torch.uint8, device="meta")
    calls = {"decoder": lambda net: net.decode(z), "encoder": lambda net: net.encode(voxels)}
    return {
        name: tuple(
            roofline.work_of(partial(calls[name], net)).flops
            for net in (vae, Lightened(vae, **{name: part}))
        )
        for name, part in light.named_children()
    }


def statement(work: Mapping[str, tuple[int, int]], score: Mapping[str, float]) -> str:
    """What the light parts save and cost, a line each."""
    lines = []
    for name, (full, light) in work.items():
        lost = score["mIoU_full"] - score[f"mIoU_{name}"]
        lines.append(
            f"light {name}: {full / 1e9:.3g} -> {light / 1e9:.3g} GFLOP for {FRAMES} frames "
            f"({full / light:.1f}x fewer), reconstruction mIoU {score['mIoU_full']:.2f} -> "
            f"{score[f'mIoU_{name}']:.2f} ({lost:.2f} lost)"
        )
    return "\n".join(lines)


def prepare(job: Job) -> Ingredients:
    """The config's light parts, on single keyframes."""
    vae, vae_fingerprint = job.frozen_vae()
    light = build_light(job.config, vae, weights=False)
    clips = job.clips("train")
    frames = job.keyframes(clips)
    sample, weights = job.class_sample(frames)
    task = LightTraining(vae, light, sample[::4], job.settings, weights)
    validate = LightScore(job.clips("val"), vae, job.settings.val_clips)
    fingerprints = {"vae": vae_fingerprint, "data": clips.fingerprint[:12]}
    return Ingredients(task, frames, voxel_batch, validate, fingerprints)
