"""A conditional flow in two dimensions, small enough to train in seconds and to look at.

Data: a ring of eight narrow Gaussians. The condition says which half of the ring (above or below
the x axis) a sample lies in, so that guidance has something to do. A point is a latent of one frame
and two channels, `(B, 1, 2, 1, 1)`; methods, losses and solvers are those of the real thing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from occdistill.build.settings import TeacherSettings
from occdistill.distill.base import Batch, Task, frozen, take_step
from occdistill.flow.guidance import Guided
from occdistill.flow.solver import sample
from occdistill.latents.condition import Condition
from occdistill.seeds import number, torch_generator
from occdistill.training.teacher import FlowMatching
from occdistill.training.updates import Updater

SHAPE = (1, 2, 1, 1)
RADIUS, SPREAD, MODES = 2.0, 0.15, 8
_ANGLES = 2 * math.pi * (torch.arange(MODES) + 0.5) / MODES
CENTRES = RADIUS * torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1)  # (8, 2), upper half first


# what a study draws numbers for: equal seeds must not give one the numbers of another
TRAINING, TEACHER, TEACHER_SAMPLES, STUDENT_SAMPLES, LOSSES, FIELD = range(6)


class SharedDraws:
    """Random numbers for a whole batch from one generator; same calls as `Draws`, but fast."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator

    def __len__(self) -> int:
        return self.count

    def normal(self, *shape: int) -> Tensor:
        """Standard normal `(B, *shape)`."""
        return torch.randn(self.count, *shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), `(B, *shape)`."""
        return torch.rand(self.count, *shape, generator=self.generator)


def make_batch(count: int, generator: torch.Generator) -> Batch:
    """`count` points of the ring with their conditions."""
    mode = torch.randint(MODES, (count,), generator=generator)
    points = CENTRES[mode] + SPREAD * torch.randn(count, 2, generator=generator)
    half = torch.where(mode < MODES // 2, 1.0, -1.0)
    return Batch(
        Condition(half.view(count, 1, 1, 1, 1)),
        SharedDraws(count, generator),
        points.view(count, *SHAPE),
    )


class ToyField(nn.Module):
    """Velocity from position, half and time: three hidden layers of `width`."""

    def __init__(self, width: int = 128, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies = frequencies
        sizes = [2 + 1 + 2 * frequencies, width, width, width]
        layers: list[nn.Module] = []
        for inside, outside in zip(sizes, sizes[1:]):
            layers += [nn.Linear(inside, outside), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity at `x_t (B, 1, 2, 1, 1)`, `t (B,)`."""
        phase = t[:, None] * torch.logspace(0, 1.3, self.frequencies)
        inputs = [x_t.flatten(1), condition.past.flatten(1), phase.cos(), phase.sin()]
        return self.layers(torch.cat(inputs, dim=1)).view_as(x_t)


def fit(
    task: Task,
    steps: int,
    batch_size: int = 256,
    lr: float | dict[str, float] = 1e-3,
    seed: int = 0,
    use: int = TRAINING,
    observe: Callable[[str, dict[str, float]], None] | None = None,
    draw: Callable[[int, torch.Generator], Batch] = make_batch,
) -> Task:
    """Train a method or task on the ring with Adam, its plan step by step.

    Args:
        task: a method, or what else trains on the ring's points.
        steps: how many plans.
        batch_size: points of one update.
        lr: learning rate, or one per net.
        seed: of data and noise.
        use: what for, one of the uses above.
        observe: called with the net's name and the scalars of every update.
        draw: makes a batch, of other data than the ring.
    """
    generator = torch_generator(seed, use)
    rates = lr if isinstance(lr, dict) else dict.fromkeys(task.nets, lr)
    updaters = {
        name: Updater(net, rates[name], warmup=0, clip=0.0) for name, net in task.nets.items()
    }
    batches = iter(lambda: draw(batch_size, generator), None)
    for step in range(steps):
        for name, scalars in take_step(task, batches, updaters, step):
            if observe is not None:
                observe(name, {key: float(value) for key, value in scalars.items()})
    return task


@lru_cache(maxsize=4)
def _trained(steps: int, seed: int) -> nn.Module:
    torch.manual_seed(number(seed))
    settings = TeacherSettings(iterations=steps, batch_size=256, condition_dropout=0.2)
    task = FlowMatching(ToyField(), settings)
    return frozen(fit(task, steps, seed=seed, use=TEACHER).nets["teacher"])


def teacher(quick: bool = False, seed: int = 0) -> nn.Module:
    """A trained teacher, a fresh copy at each call; trained once per process."""
    return copy.deepcopy(_trained(200 if quick else 6000, seed))


LEARNING_RATES = {"student": 3e-4, "auxiliary": 1e-3}


def _queries(count: int, seed: int, use: int, upper: bool) -> Batch:
    batch = make_batch(count, torch_generator(seed, use))
    if upper:
        batch.condition = Condition(torch.ones_like(batch.condition.past))
    return batch


def teacher_samples(
    field: nn.Module, count: int, guidance: float, seed: int = 0, upper: bool = False
) -> Tensor:
    """Points `(count, 2)` of the teacher's 50-step sampler; `upper`: of that half alone."""
    batch = _queries(count, seed, TEACHER_SAMPLES, upper)
    with torch.no_grad():
        guided = Guided(field, guidance)
        return sample(guided, batch.draws.normal(*SHAPE), batch.condition, 50).flatten(1)


def student_samples(method: nn.Module, count: int, seed: int = 0, upper: bool = False) -> Tensor:
    """Points `(count, 2)` of a method's one-step student; `upper`: of that half alone."""
    batch = _queries(count, seed, STUDENT_SAMPLES, upper)
    return method.sample(batch.condition, batch.draws.normal(*SHAPE)).flatten(1)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """`2 E|a - b| - E|a - a'| - E|b - b'|` of two point sets `(N, 2)`; 0 for equal laws."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def modes_found(points: Tensor, share: float = 0.02) -> int:
    """Modes with at least `share` of the points `(N, 2)` within four standard deviations."""
    near = torch.cdist(points, CENTRES) < 4 * SPREAD
    return int((near.float().mean(0) >= share).sum())
