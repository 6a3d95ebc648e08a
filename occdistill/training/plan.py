"""Training the planner: a small flow over the ego's next steps, and its students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from occdistill import checkpoint as ckpt
from occdistill.build.builders import (
    build_method,
    build_network,
    conditioning_mark,
    construct,
    load_weights,
    sampler_steps,
)
from occdistill.data.clips import ClipDataset
from occdistill.data.plans import constant_turn, places, steps_between
from occdistill.distill.base import Method
from occdistill.errors import UserError
from occdistill.evaluation.measures.plans import plan_scores
from occdistill.flow.networks.plan import PlanField, motion
from occdistill.flow.solver import sample
from occdistill.seeds import torch_generator
from occdistill.training.job import Ingredients, Job
from occdistill.training.teacher import FlowMatching, latent_batch

SAMPLES = 16


class PlanClips(Dataset):
    """Clips as a flow over plans takes them: what was done, and what then, scaled by the field.

    Args:
        past: steps `(N, P - 1, 3)`.
        plans: steps `(N, F, 3)`.
        field: whose scales are taken.
    """

    def __init__(self, past: Tensor, plans: Tensor, field: PlanField) -> None:
        self.past, self.scaled = past, field.scaled(plans, past)

    def __len__(self) -> int:
        return len(self.past)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """`past`, no frames `(0, 1, 1, 1)`; `trajectory`, the past steps; `future`; `index`."""
        frames = self.past.new_zeros(0, 1, 1, 1)
        return {
            "past": frames, "trajectory": self.past[index], "future": self.scaled[index],
            "index": index,
        }  # fmt: skip


def driven(clips: ClipDataset, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """Past steps `(N, P - 1, 3)` and plans `(N, F, 3)` of all clips; no voxels are read.

    Args:
        clips: of any data set.
        mirror: add every clip's mirror image, left and right exchanged.
    """
    poses = torch.from_numpy(np.stack([clips.motion(i)[0] for i in range(len(clips))]))
    steps = steps_between(poses)
    if mirror:
        steps = torch.cat([steps, steps * steps.new_tensor([1.0, -1.0, -1.0])])
    return steps[:, : clips.past - 1], steps[:, clips.past - 1 :]


class PlanScore:
    """Scores of plans on validation clips, with fixed noise: `net -> {"energy": …, …}`, metres.

    Args:
        clips: to validate on, all of them.
        nfe: evaluations per plan.
        renoise: see `solver.sample`.
    """

    def __init__(self, clips: ClipDataset, nfe: int, renoise: bool = False) -> None:
        self.past, plans = driven(clips)
        self.true, self.nfe, self.renoise = places(plans), nfe, 1.0 if renoise else None

    def __call__(self, net: PlanField) -> dict[str, float]:
        """Of `SAMPLES` plans per clip."""
        past = self.past.repeat_interleave(SAMPLES, 0)
        noise = torch.randn(len(past), net.future, 3, 1, 1, generator=torch_generator(0))
        here = next(net.buffers())
        past, noise = past.to(here), noise.to(here)
        x = sample(net, noise, motion(past), self.nfe, renoise=self.renoise)
        return self.of(places(net.plans(x, past)).cpu().unflatten(0, (-1, SAMPLES)))

    def rule(self) -> dict[str, float]:
        """Of the last step repeated."""
        return self.of(places(constant_turn(self.past, self.true.shape[1]))[:, None])

    def of(self, found: Tensor) -> dict[str, float]:
        """Of places `(N, K, F, 3)`."""
        scores = plan_scores(found, self.true)
        return {name: float(value.mean()) for name, value in scores.items()}


def prepare(job: Job) -> Ingredients:
    """The config's flow over plans, by flow matching."""
    past, plans, clips = _clips(job)
    field = _planner(build_network(job.config))
    field.fit_scales(past, plans)
    task = construct(FlowMatching, field, job.settings)
    steps = sampler_steps(job.config)
    validate = PlanScore(job.clips("val"), steps)
    return Ingredients(
        task, PlanClips(past, plans, field), latent_batch, validate, _marks(job, clips)
    )


def prepare_student(job: Job) -> Ingredients:
    """The config's method around its flow over plans."""
    past, plans, clips = _clips(job)
    net = _planner(build_network(job.config))
    teacher = load_weights(job.config, "plan_checkpoint", net)
    task: Method = build_method(job.config, (teacher.future, 3, 1, 1), teacher)
    validate = PlanScore(job.clips("val"), task.nfe, task.stochastic)
    marks = _marks(job, clips) | {"teacher": ckpt.fingerprint(teacher.state_dict())}
    return Ingredients(task, PlanClips(past, plans, teacher), latent_batch, validate, marks)


def _clips(job: Job) -> tuple[Tensor, Tensor, ClipDataset]:
    clips = job.clips("train")
    return *driven(clips, job.settings.mirror), clips


def _planner(network: nn.Module) -> PlanField:
    if not isinstance(network, PlanField) or network.look is not None:
        raise UserError(
            f"a planner's network is a PlanField of the motion alone, not a "
            f"{type(network).__name__}: take configs/demo_plan.py as an example"
        )
    return network


def _marks(job: Job, clips: ClipDataset) -> Mapping[str, Any]:
    return {"data": clips.fingerprint[:12], "conditioning": conditioning_mark(job.config)}
