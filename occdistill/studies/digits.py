"""Handwritten digits that come with scikit-learn, and a flow small enough to train in a minute.

1,797 images of 8×8 grey levels, ten classes; a condition is the class. An image is a latent of one
frame and one channel, `(B, 1, 1, 8, 8)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from occdistill.build.settings import TeacherSettings
from occdistill.distill.base import Batch, frozen
from occdistill.flow.networks.base import Tap, VelocityNetwork
from occdistill.flow.networks.small import TimeEmbedding
from occdistill.latents.condition import Condition
from occdistill.seeds import number, stream
from occdistill.studies import toy
from occdistill.training.teacher import FlowMatching

SHAPE = (1, 1, 8, 8)
HELD_OUT = 500
SPLIT, TEACHER = 100, 101  # what numbers are drawn for, beside toy's


@dataclass
class Digits:
    """Images `(N, 1, 1, 8, 8)` of zero mean and unit variance, and their classes, one-hot.

    Attributes:
        images, classes: of the part.
    """

    images: Tensor
    classes: Tensor

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """`count` of them, drawn with replacement."""
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        draws = toy.SharedDraws(count, generator)
        return Batch(self.condition(chosen), draws, self.images[chosen])

    def condition(self, chosen: Tensor | slice = slice(None)) -> Condition:
        """The classes as conditions, `(B, 1, 10, 1, 1)`."""
        return Condition(self.classes[chosen][:, None, :, None, None])


def digits() -> tuple[Digits, Digits]:
    """What is trained on, and `HELD_OUT` others; the same split at each call."""
    found = load_digits()
    order = torch.from_numpy(stream(SPLIT).permutation(len(found.images)))
    images = torch.from_numpy(found.images.astype(np.float32))[order]
    classes = F.one_hot(torch.from_numpy(found.target)[order].long(), 10).float()
    seen = images[HELD_OUT:]
    images = ((images - seen.mean()) / seen.std()).view(-1, *SHAPE)
    return Digits(images[HELD_OUT:], classes[HELD_OUT:]), Digits(
        images[:HELD_OUT], classes[:HELD_OUT]
    )


class Vector(Tap):
    """Features `(B, C)` as volumes of one voxel."""

    def volume(self, features: Tensor, batch: int) -> Tensor:
        """`(B, C, 1, 1, 1)`."""
        return features[:, :, None, None, None]


class DigitField(VelocityNetwork):
    """Velocity from image, class and time: a residual perceptron.

    Args:
        width: of its layers.
        blocks: how many.
    """

    takes: ClassVar = {}

    def __init__(self, width: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.clock, self.end_clock = TimeEmbedding(width), None
        self.enter, self.label = nn.Linear(64, width), nn.Linear(10, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(blocks)
        )
        self.out = nn.Linear(width, 64)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None
    ) -> Tensor:
        """Velocity at `x_t (B, 1, 1, 8, 8)`, `t (B,)`; average velocity to `r (B,)` if two-time."""
        e = self.clock(t) + self.label(condition.past.flatten(1))
        if self.end_clock is not None and r is not None:
            e = e + self.end_clock(r - t)
        h = self.enter(x_t.flatten(1))
        for block in self.blocks:
            h = h + block(h + e)
        return self.out(h).view_as(x_t)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The last block."""
        last = f"blocks.{len(self.blocks) - 1}"
        return (Vector(last, self.out.in_features),)


def head(width: int = 256) -> nn.Module:
    """A discriminator's head on those features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 1))


def teacher(steps: int, data: Digits, batch_size: int = 128) -> nn.Module:
    """A trained teacher; its rate falls to a hundredth, the class is dropped from a tenth."""
    torch.manual_seed(number(TEACHER))
    settings = TeacherSettings(iterations=steps, batch_size=batch_size, condition_dropout=0.1)
    task = FlowMatching(DigitField(), settings)
    falling = dict(updates=steps, final_lr=1e-5)
    toy.fit(task, steps, batch_size, use=TEACHER, points=data.batch, **falling)
    return frozen(task.nets["teacher"])
