"""Training the teacher: a velocity field on the latents of encoded clips."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill import checkpoint as ckpt
from occdistill.build.builders import (
    aligner_mark,
    build_aligner,
    build_codec,
    conditioning_mark,
    construct,
    sampler_options,
    sampler_steps,
    started_network,
)
from occdistill.build.settings import TeacherSettings
from occdistill.distill.base import Batch, Loss, Task, time_law
from occdistill.errors import UserError
from occdistill.flow.path import Draws, interpolate
from occdistill.latents.condition import Condition
from occdistill.training.job import Ingredients, Job
from occdistill.training.validation import ForecastScore


def latent_batch(items: Mapping[str, Tensor], draws: Draws) -> Batch:
    """A batch of cached clips, see `occdistill.latents.cache.LatentClips`, for flows and methods."""
    return Batch(Condition.of(items), draws, items["future"], items.get("moving"))


class FlowMatching(Task):
    """Conditional flow matching with condition dropout, for the teacher (OccFM's recipe).

    `L = E || v(x_t, t, c) - (x_1 - x_0) ||²`; with probability `condition_dropout` the past and
    aligned latents of a sample are zeroed, its trajectory is kept.

    Most of a street stands still, and what moves fills few cells. A weight that depends on the
    condition alone leaves the best velocity as it is and makes a small network attend to them.

    Args:
        net: velocity network.
        settings: `condition_dropout`, `times` and `moving_weight`, which needs `Batch.moving`
            unless it is 1.
    """

    def __init__(self, net: nn.Module, settings: TeacherSettings) -> None:
        super().__init__({"teacher": net})
        self.settings, self.times = settings, time_law(settings.times)

    def teacher_loss(self, batch: Batch, step: int) -> Loss:
        """Of one batch of clips."""
        x_1, draws = batch.x_1, batch.draws
        x_0 = draws.normal(*x_1.shape[1:])
        t = self.times.times(draws)
        keep = draws.uniform(1)[:, 0] >= self.settings.condition_dropout
        v = self.nets["teacher"](interpolate(x_1, x_0, t), t, batch.condition.dropped(keep))
        errors = (v - (x_1 - x_0)).square()
        logs = {"error": errors.mean().detach()}
        weight = self.settings.moving_weight
        if weight != 1.0:
            reached = _reached(batch.moving * keep.to(x_1.dtype)[:, None, None, None])
            errors = errors * (1 + (weight - 1) * reached[:, :, None])
        return Loss(errors.mean(), logs)


def _reached(moving: Tensor) -> Tensor:
    """Cells at most one cell from a moving one in the first two future frames, one more in each
    next two; `(B, F, H, W)`, 1 or 0.
    """
    frames = moving.unbind(1)
    radius = [1 + i // 2 for i in range(len(frames))]
    grown = [F.max_pool2d(m, 2 * r + 1, stride=1, padding=r) for r, m in zip(radius, frames)]
    return torch.stack(grown, dim=1)


def prepare(job: Job) -> Ingredients:
    """The config's velocity network, by flow matching."""
    config, settings = job.config, job.settings
    vae, vae_fingerprint = job.frozen_vae()
    aligner = build_aligner(config, vae)
    codec = build_codec(config, vae, aligner)
    if settings.moving_weight != 1.0 and not codec.align:
        raise UserError(
            f"{config.filename}: train_teacher.moving_weight needs conditioning.align, which says "
            "where the past lies in a future frame; leave it out, or align frames"
        )
    clips = job.latents(codec, vae_fingerprint)
    network = started_network(config)
    started = ckpt.fingerprint(network.state_dict()) if config.get("start_checkpoint") else None
    task = construct(FlowMatching, network, settings)
    sampler = dict(
        nfe=sampler_steps(config),
        guidance=config.get("guidance", 2.0),
        **sampler_options(config),
    )
    validate = ForecastScore(job.clips("val"), codec, settings.val_clips, sampler)
    fingerprints = {
        "vae": vae_fingerprint,
        "data": clips.fingerprint,
        "conditioning": conditioning_mark(config),
        **aligner_mark(aligner),
        **({"start": started} if started else {}),
    }
    return Ingredients(task, clips, latent_batch, validate, fingerprints)
