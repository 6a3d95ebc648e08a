"""What `tools/train_*.py` do: build from a config, train, leave weights in the work directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.config.lazy import LazyObject
from torch import nn
from torch.utils.data import ConcatDataset

from occdistill import checkpoint as ckpt
from occdistill.autoencoder.losses import balanced_weights
from occdistill.build.builders import (
    build_codec,
    build_dataset,
    build_method,
    build_network,
    build_teacher,
    build_vae,
    conditioning_mark,
    construct,
    sampler_options,
)
from occdistill.build.config import advice, load_config
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.data.voxel_cache import VoxelCache
from occdistill.errors import UserError
from occdistill.latents.cache import LatentClips
from occdistill.seeds import number
from occdistill.training.tasks import FlowMatching, VAETraining, latent_batch, voxel_batch
from occdistill.training.trainer import Settings, Trainer
from occdistill.training.validation import ForecastScore, ReconstructionScore, spread


def parse(description: str) -> argparse.Namespace:
    """The command line that all training tools share."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("config", help="a file in configs/")
    add("--work-dir", type=Path, help="default: a folder for this job in the config's work_dir")
    add("--resume", action="store_true", help="go on from the newest checkpoint in the work dir")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--launcher", choices=("none", "pytorch"), default="none", help="pytorch under torchrun")
    add("--seed", type=int, help="of weights, order and noise; default: the config's")
    return parser.parse_args()


class Job:
    """A config, a device and a work directory; what the trainings have in common.

    Args:
        args: from `parse`.
        part: `vae`, `light`, `teacher` or `distill`; its settings are the config's `train_<part>`.
        method: the distillation method, whatever the config says.
    """

    def __init__(self, args: argparse.Namespace, part: str, method: type | None = None) -> None:
        self.args, self.part = args, part
        self.config: Config = load_config(args.config, args.cfg_options)
        if method is not None and method.__name__ != self._method_name():
            # as an import in a config file would be, so that the config can be written out
            self.config.method = dict(type=LazyObject(method.__module__, method.__name__))
        if part == "distill" and not self.config.get("method"):
            raise UserError(f"{args.config} names no method: add method=dict(type=…), such as MFD")
        options = dict(self.config.get(f"train_{part}") or {})
        if not {"iterations", "batch_size"} <= options.keys():
            raise UserError(
                f"{args.config} says no iterations and batch_size in train_{part}: add them, or "
                "use a config that trains this part"
            )
        if args.seed is not None:
            options["seed"] = args.seed
        self.settings = Settings.of(options)
        own = Settings.__dataclass_fields__.keys()
        self.options = {key: value for key, value in options.items() if key not in own}
        self.hand_over = self.option("hand_over", "last")
        if self.hand_over not in ("last", "best"):
            raise UserError(
                f"{args.config}: train_{part}.hand_over is {self.hand_over!r}; it says which weights "
                'the next job gets, "last" or "best" (on validation)'
            )
        self.device = _join(args.device, args.launcher)
        torch.manual_seed(number(self.settings.seed))
        work_dir = Path(self.config.get("work_dir") or "work_dirs")
        self.cache = Path(self.config.get("cache_dir") or work_dir / "cache")
        name = self._method_name().lower() if part == "distill" else part
        self.work_dir = args.work_dir or work_dir / name
        if ckpt.step_files(self.work_dir) and not args.resume:
            raise UserError(
                f"{self.work_dir} already holds a run ({ckpt.step_files(self.work_dir)[-1].name}): "
                "continue it with --resume, or choose another --work-dir"
            )

    def _method_name(self) -> str | None:
        """Name of the config's distillation method."""
        kind = (self.config.get("method") or {}).get("type")
        return getattr(kind, "__name__", str(kind).rsplit(".", 1)[-1])

    def option(self, name: str, default: Any) -> Any:
        """One of the config's `train_*` values that isn't about optimisation."""
        return self.options.get(name, default)

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

    def latents(self, codec, vae_fingerprint: str) -> LatentClips:
        """The training clips, encoded; encoding them on first use."""
        with first_rank_first():
            return LatentClips(
                self.clips("train"),
                codec,
                vae_fingerprint,
                self.cache / "latents-train",
                self.cache,
                mirror=self.option("mirror", False),
            )

    def train(
        self, task: nn.Module, dataset, make_batch, validate, fingerprints: Mapping
    ) -> dict[str, float]:
        """Train to the end and say where the weights are; returns their scores."""
        trainer = Trainer(
            task,
            dataset,
            make_batch,
            self.settings,
            kind=self.part,
            work_dir=self.work_dir,
            cfg=self.config,
            fingerprints=fingerprints,
            validate=validate,
            resume=self.args.resume,
            device=self.device,
            launcher=self.args.launcher,
        )
        trainer.train()
        if trainer.rank == 0:
            best = self.work_dir / "best.pth"  # absent where no validation beat the start
            wanted = self.hand_over == "best" and best.is_file()
            self._hand_over(best if wanted else trainer.weights_file)
        return trainer.metrics

    def _hand_over(self, weights: Path) -> None:
        """Put the weights where the config's next job looks, unless others are there."""
        print(f"weights: {weights}")
        place = self.config.get(f"{self.part}_checkpoint")
        if not place or Path(place).resolve() == weights.resolve():
            return
        state = ckpt.load(weights)
        if Path(place).exists():
            if ckpt.fingerprint(ckpt.load(place)["model"]) == ckpt.fingerprint(state["model"]):
                return
            print(f"{place} was there before and is kept; copy the new weights over it to use them")
        else:
            ckpt.save(place, state)
            print(f"and, where the next job looks: {place}")


def _join(device: str, launcher: str) -> torch.device:
    """The device of this process, which joins the others under torchrun."""
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no GPU for --device {device}: run with --device cpu")
    if launcher == "none":
        return chosen
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch needs torchrun: start with "
            "`torchrun --nproc_per_node=N tools/train_….py … --launcher pytorch`"
        )
    cuda = chosen.type == "cuda"
    if cuda:
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        patience = timedelta(days=1)  # the others wait while the first one builds caches
        dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
    return chosen


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through alone, then the others: for caches that are built on first use."""
    others_wait = dist.is_initialized() and dist.get_world_size() > 1
    if others_wait and dist.get_rank() > 0:
        dist.barrier()
    yield
    if others_wait and dist.get_rank() == 0:
        dist.barrier()


def train_vae(args: argparse.Namespace) -> None:
    """Train the config's VAE on single keyframes.

    The latent scale is fitted at each validation, on training frames.
    """
    job = Job(args, "vae")
    clips = job.clips("train")
    frames = job.keyframes(clips)
    sample = torch.stack([frames[i]["voxels"] for i in spread(len(frames), 256)])
    balance = job.option("class_balance", 0.0)
    task = VAETraining(
        build_vae(job.config, weights=False),
        class_weights=balanced_weights(sample, NUM_CLASSES, balance).to(job.device),
        **{
            k: v
            for k, v in job.options.items()
            if k in ("kl_weight", "lovasz_weight", "lovasz_voxels")
        },
    )
    validate = ReconstructionScore(
        job.clips("val"), task.nets["vae"], sample, job.option("val_clips", 64)
    )
    job.train(task, frames, voxel_batch, validate, {"data": clips.fingerprint[:12]})


def train_teacher(args: argparse.Namespace) -> None:
    """Train the config's velocity network by flow matching on encoded clips."""
    job = Job(args, "teacher")
    vae, vae_fingerprint = job.frozen_vae()
    codec = build_codec(job.config, vae)
    if job.option("moving_weight", 1.0) != 1.0 and not codec.align:
        raise UserError(
            f"{args.config}: train_teacher.moving_weight needs conditioning.align, which says "
            "where the past lies in a future frame; leave it out, or align frames"
        )
    clips = job.latents(codec, vae_fingerprint)
    task = construct(
        FlowMatching,
        build_network(job.config),
        job.option("condition_dropout", 0.2),
        job.option("times", None),
        job.option("moving_weight", 1.0),
    )
    validate = ForecastScore(
        job.clips("val"),
        codec,
        job.option("val_clips", 64),
        dict(
            nfe=(job.config.get("sampler") or {}).get("steps", 10),
            guidance=job.config.get("guidance", 2.0),
            **sampler_options(job.config),
        ),
    )
    fingerprints = {
        "vae": vae_fingerprint,
        "data": clips.fingerprint,
        "conditioning": conditioning_mark(job.config),
    }
    job.train(task, clips, latent_batch, validate, fingerprints)


def train_distill(args: argparse.Namespace, method: type | None = None) -> None:
    """Distil the config's teacher into a one-step student.

    Args:
        args: from `parse`.
        method: the method to use, whatever the config says; where the config says the same, with
            the config's arguments.
    """
    job = Job(args, "distill", method)
    vae, vae_fingerprint = job.frozen_vae()
    codec = build_codec(job.config, vae)
    teacher = build_teacher(job.config)
    trained_on = ckpt.load(job.config.teacher_checkpoint)["fingerprints"].get("vae")
    if trained_on not in (None, vae_fingerprint):
        raise UserError(
            f"the teacher {job.config.teacher_checkpoint} was trained on the latents of VAE "
            f"{trained_on}, not of {job.config.vae_checkpoint} ({vae_fingerprint}): "
            f"{advice(job.config, 'teacher')}"
        )
    clips = job.latents(codec, vae_fingerprint)
    task = build_method(job.config, (job.config.data.future, *vae.latent_shape), teacher)
    validate = ForecastScore(
        job.clips("val"),
        codec,
        job.option("val_clips", 64),
        dict(nfe=1, **sampler_options(job.config)),
    )
    fingerprints = {
        "vae": vae_fingerprint,
        "data": clips.fingerprint,
        "teacher": ckpt.fingerprint(teacher.state_dict()),
        "conditioning": conditioning_mark(job.config),
    }
    job.train(task, clips, latent_batch, validate, fingerprints)
