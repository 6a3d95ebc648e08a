"""What the trainings have in common: a config, its settings, a device, clips and caches."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from occdistill import checkpoint as ckpt
from occdistill.autoencoder.losses import balanced_weights
from occdistill.build.builders import build_dataset, build_vae
from occdistill.build.config import advice
from occdistill.build.settings import PARTS
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.data.voxel_cache import VoxelCache
from occdistill.distill.base import Task
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.latents.cache import LatentClips
from occdistill.latents.codec import Codec
from occdistill.processes import first_rank_first
from occdistill.seeds import number
from occdistill.training.validation import evenly


def cache_folder(config: Config) -> Path:
    """Where voxels and latents are kept: the config's `cache_dir`; else with the data, so that all
    configs share them; where nobody may write there, in the `work_dir`.
    """
    if config.get("cache_dir"):
        return Path(config.cache_dir)
    beside = Path(config.data.dataroot) / ".occdistill"
    if os.access(beside if beside.exists() else beside.parent, os.W_OK | os.X_OK):
        return beside / "cache"
    return Path(config.get("work_dir") or "work_dirs") / "cache"


@dataclass
class Ingredients:
    """What a `Trainer` is given.

    Attributes:
        task: what is trained.
        dataset: of dicts of tensors.
        make_batch: what the task's losses take, of collated items and their random streams.
        validate: `net -> {"mIoU": ..., ...}`.
        fingerprints: of the data and the frozen weights.
        hooks: that this training has besides those of all.
    """

    task: Task
    dataset: Dataset
    make_batch: Callable[[dict[str, Tensor], Draws], Any]
    validate: Callable[[nn.Module], Mapping[str, float]]
    fingerprints: dict[str, str]
    hooks: Sequence[Hook] = ()


class Job:
    """One training of a config. Seeds torch, so that what is built next is the same each time.

    Args:
        config: from `load_config`.
        part: what is trained; its settings are the config's `train_<part>`.
        device: where.
        seed: instead of the settings'.

    Attributes:
        settings: of the part's class in `PARTS`.
        cache: folder of everything that is computed once.

    Raises:
        UserError: the config doesn't train this part.
    """

    def __init__(
        self, config: Config, part: str, device: torch.device | str = "cpu", seed: int | None = None
    ) -> None:
        key = f"train_{part}"
        given = dict(config.get(key) or {})
        if not given:
            other = advice(config, part)
            known = other if other.startswith("make") else "use a config that trains this part"
            raise UserError(
                f"{config.filename} has no {key}: {known}, or add "
                f"{key}=dict(iterations=…, batch_size=…)"
            )
        if seed is not None:
            given["seed"] = seed
        self.config, self.device = config, torch.device(device)
        self.settings = PARTS[key](**given)
        torch.manual_seed(number(self.settings.seed))
        self.cache = cache_folder(config)

    def clips(self, split: str) -> ClipDataset:
        """The `train` or `val` clips."""
        return build_dataset(self.config, split)

    def frozen_vae(self) -> tuple[nn.Module, str]:
        """The config's VAE on the device, and the fingerprint of its weights."""
        vae = build_vae(self.config).to(self.device)
        return vae, ckpt.fingerprint(vae.state_dict())

    def keyframes(self, clips: ClipDataset) -> ConcatDataset:
        """Every keyframe's labels, and where the past is LiDAR, that too; cached on first use."""
        with first_rank_first():
            caches = [VoxelCache(clips, self.cache)]
            if clips.reader.past_from != "occ3d":
                caches.append(VoxelCache(clips, self.cache, "past"))
        return ConcatDataset(caches)

    def class_sample(self, frames: Dataset) -> tuple[Tensor, Tensor]:
        """Voxels `(N, X, Y, Z)` of keyframes spread over the data, and the class weights that the
        settings' `class_balance` makes of their frequencies, `(classes,)`.
        """
        sample = torch.stack([frames[i]["voxels"] for i in evenly(len(frames), 256)])
        return sample, balanced_weights(sample, NUM_CLASSES, self.settings.class_balance)

    def latents(self, codec: Codec, vae_fingerprint: str) -> LatentClips:
        """The training clips, encoded; encoding them on first use."""
        return LatentClips(
            self.clips("train"),
            codec,
            vae_fingerprint,
            self.cache,
            mirror=self.settings.mirror,
        )
