"""Training a sparse encoder of LiDAR against the frozen VAE's latents of dense labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from occdistill.build.builders import build_codec, build_lidar_encoder
from occdistill.build.settings import LidarEncoderSettings
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import Grid
from occdistill.data.poses import invert
from occdistill.data.resample import warp
from occdistill.data.voxel_cache import VoxelCache
from occdistill.distill.base import Loss, Task
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.latents.cache import mirrored
from occdistill.processes import first_rank_first
from occdistill.training.job import Ingredients, Job
from occdistill.training.validation import evenly, reconstruction


class LidarFrames(Dataset):
    """Keyframes as merged LiDAR and as dense labels, and where the ego goes from there.

    Args:
        clips: with their past from LiDAR; all keyframes of their scenes are used.
        folder: under which the voxel caches lie.
        ahead: how many keyframes to look ahead.
    """

    def __init__(self, clips: ClipDataset, folder: str | Path, ahead: int = 0) -> None:
        self.lidar = VoxelCache(clips, folder, "past")
        self.labels = VoxelCache(clips, folder)
        self.ahead, self.scenes = ahead, clips.scenes
        self.places = [(s, k) for s, x in enumerate(clips.scenes) for k in range(len(x.keyframes))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """One keyframe.

        Returns:
            lidar, labels uint8 `(X, Y, Z)`; poses float32 `(ahead + 1, 4, 4)`, from the ego frame
            of the keyframe k keyframes later (the scene's last where it ends) to this one's; index.
        """
        scene, first = self.places[index]
        frames = self.scenes[scene].keyframes[first : first + self.ahead + 1]
        later = np.stack([frame.ego_to_global for frame in frames])
        poses = invert(later[0]) @ later
        poses = np.concatenate([poses, poses[-1:].repeat(self.ahead + 1 - len(poses), axis=0)])
        return {
            "lidar": self.lidar[index]["voxels"],
            "labels": self.labels[index]["voxels"],
            "poses": torch.from_numpy(poses.astype(np.float32)),
            "index": index,
        }


@dataclass
class LidarBatch:
    """LiDAR and labels, uint8 `(B, X, Y, Z)`, and the VAE's scaled latents of the labels."""

    lidar: Tensor
    labels: Tensor
    latents: Tensor


def seen_from_later(
    vae: nn.Module, grid: Grid, plain: float = 0.25
) -> Callable[[Mapping[str, Tensor], Draws], LidarBatch]:
    """What `LidarFrames` become as batches: a condition's past frames and its aligned ones.

    A forecast encodes past frames as they are, and again as they look from where the ego will be.
    So a share `plain` of the keyframes stays, the others are warped into the ego frame of one of
    the keyframes to come; half of them are mirrored. The target is what the VAE makes of the labels
    after the same moves.

    Args:
        vae: frozen.
        grid: of the voxels.
        plain: share that isn't warped.
    """

    @torch.no_grad()
    def batch(items: Mapping[str, Tensor], draws: Draws) -> LidarBatch:
        ahead = items["poses"].shape[1] - 1
        chance, place, flip = draws.uniform(3).unbind(1)
        later = torch.where(chance < plain, 0, (1 + place * ahead).long().clamp_max(ahead))
        pose = items["poses"][torch.arange(len(later)), later]
        moved = [warp(items[name], pose, grid) for name in ("lidar", "labels")]
        flip = (flip < 0.5)[:, None, None, None]
        lidar, labels = (torch.where(flip, mirrored(x), x) for x in moved)
        return LidarBatch(lidar, labels, vae.encode(labels).mean * vae.scale)

    return batch


class LidarEncoding(Task):
    """Squared error of scaled latents, and cross-entropy of what the frozen decoder makes of them.

    Args:
        encoder: see `occdistill.autoencoder.sparse`.
        vae: frozen; not part of the task's state.
        settings: `cross_entropy_weight`.
        class_weights: of the cross-entropy, one per class; default equal.
    """

    def __init__(
        self,
        encoder: nn.Module,
        vae: nn.Module,
        settings: LidarEncoderSettings,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__({"lidar_encoder": encoder}, vae)
        self.cross_entropy_weight = settings.cross_entropy_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def lidar_encoder_loss(self, batch: LidarBatch, step: int) -> Loss:
        """Of one batch of keyframes."""
        z = self.nets["lidar_encoder"](batch.lidar)
        total = (z * self.teacher.scale - batch.latents).square().mean()
        logs = {"latent": total.detach()}
        if self.cross_entropy_weight:
            entropy = F.cross_entropy(
                self.teacher.logits(z).flatten(0, -2), batch.labels.flatten().long(),
                self.class_weights,
            )  # fmt: skip
            logs["cross_entropy"] = entropy.detach()
            total = total + self.cross_entropy_weight * entropy
        return Loss(total, logs)


class LidarScore:
    """IoU and mIoU in percent of streets decoded from LiDAR, against their dense labels.

    Args:
        clips: the newest past frame of `count` of these.
        vae: the frozen autoencoder.
        count: how many frames.
        batch_size: frames at a time.
    """

    def __init__(
        self, clips: ClipDataset, vae: nn.Module, count: int = 64, batch_size: int = 16
    ) -> None:
        self.clips, self.vae, self.count, self.batch_size = clips, vae, count, batch_size

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """LiDAR and labels, uint8 `(N, X, Y, Z)` each; read on rank 0, which alone validates."""
        clips, chosen, made = self.clips, evenly(len(self.clips), self.count), []
        for start in range(0, len(chosen), self.batch_size):
            lidar, labels = [], []
            for i in chosen[start : start + self.batch_size]:
                scene, first = clips.clips[i]
                scene, newest = clips.scenes[scene], first + clips.past - 1
                lidar.append(clips.reader.past(scene, newest, newest + 1)[0])
                labels.append(clips.reader.labels(scene.keyframes[newest])[0])
            made.append(tuple(torch.from_numpy(np.stack(x)) for x in (lidar, labels)))
        return made

    @cached_property
    def dense(self) -> dict[str, float]:
        """Of the labels through the VAE: the ceiling."""
        return self._of(self._mean, 1)

    @cached_property
    def plain(self) -> dict[str, float]:
        """Of the LiDAR through the VAE: what there is to gain."""
        return self._of(self._mean, 0)

    def _mean(self, voxels: Tensor) -> Tensor:
        return self.vae.encode(voxels).mean

    def _of(self, encode: Callable[[Tensor], Tensor], which: int) -> dict[str, float]:
        device = next(self.vae.parameters()).device
        batches = ((batch[which], batch[1]) for batch in self.batches)
        return reconstruction(encode, self.vae.decode, batches, device)

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """With one encoder; and mIoU with the VAE's own on labels and on LiDAR."""
        own = {"mIoU_labels": self.dense["mIoU"], "mIoU_vae": self.plain["mIoU"]}
        return self._of(encoder, 0) | own


def prepare(job: Job) -> Ingredients:
    """The config's LiDAR encoder, on the keyframes of the training split."""
    config, settings = job.config, job.settings
    if config.data.get("past_from") != "lidar":
        raise UserError(
            f'{config.filename} reads labels: set data.past_from="lidar" to train on LiDAR'
        )
    vae, vae_fingerprint = job.frozen_vae()
    encoder = build_lidar_encoder(config, vae, weights=False)
    encoder.latent_scale.fill_(vae.scale)
    clips, codec = job.clips("train"), build_codec(config, vae)
    ahead = codec.future + max(codec.align) if codec.align else 0
    with first_rank_first():
        frames = LidarFrames(clips, job.cache, ahead)
    _, weights = job.class_sample(frames.labels)
    task = LidarEncoding(encoder, vae, settings, weights.to(job.device))
    batches = seen_from_later(vae, clips.grid, settings.plain)
    validate = LidarScore(job.clips("val"), vae, settings.val_clips)
    fingerprints = {"vae": vae_fingerprint, "data": clips.fingerprint[:12]}
    return Ingredients(task, frames, batches, validate, fingerprints)
