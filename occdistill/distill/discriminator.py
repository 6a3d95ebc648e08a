"""Discriminators that read the inner features of a velocity network, frozen or trained along.

Features of noised samples at a random time: real and fake differ at every noise level, and a
network that forecasts already knows what matters about a scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.latents.condition import Condition


@dataclass(frozen=True)
class Tap:
    """Where features are taken.

    Attributes:
        module: name of the submodule whose output is read, as in `get_submodule`.
        channels: of that output.
        channels_last: whether a map is `(frames, H, W, C)` rather than `(frames, C, H, W)`.
    """

    module: str
    channels: int
    channels_last: bool = False

    def volume(self, features: Tensor, batch: int) -> Tensor:
        """The module's output, frames folded into the batch, as `(B, C, frames, H, W)`."""
        if self.channels_last:
            features = features.permute(0, 3, 1, 2)
        return features.unflatten(0, (batch, -1)).transpose(1, 2)


def bottleneck(network: nn.Module) -> Tap:
    """The last block of a known network's coarsest level.

    Raises:
        ValueError: for a network it doesn't know; pass the method its `taps` then.
    """
    if hasattr(network, "middle"):  # SpaceTimeUNet
        return Tap(f"middle.{len(network.middle) - 1}", network.horizon.shape[1])
    if hasattr(network, "middle2"):  # OccFMTransition
        return Tap("middle2", network.middle2.conv2.out_channels, channels_last=True)
    raise ValueError(f"where to tap {type(network).__name__} isn't known: give the method taps=")


@contextmanager
def tapped(network: nn.Module, taps: Sequence[Tap]) -> Iterator[list[Tensor]]:
    """Inside, outputs of the tapped modules are collected in the order of their calls."""
    outputs: list[Tensor] = []
    handles = [
        network.get_submodule(tap.module).register_forward_hook(
            lambda _module, _args, output: outputs.append(output)
        )
        for tap in taps
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Head(nn.Module):
    """Two strided 3-D convolutions and a 1×1×1 one: a logit for every patch of every frame.

    Maps smaller than 4 × 4 are padded with zeros to that size, the least that two strides leave a
    patch of.

    Args:
        channels: of the features.
        width: of the hidden maps.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside in (channels, width):
            layers += [
                nn.Conv3d(inside, width, (3, 4, 4), stride=(1, 2, 2), padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv3d(width, 1, 1))

    def forward(self, volume: Tensor) -> Tensor:
        """`(B, C, frames, H, W)` to `(B, patches)`, `patches = frames ⌊H / 4⌋ ⌊W / 4⌋`, at least
        one for each frame.
        """
        down, right = (max(0, 4 - size) for size in volume.shape[-2:])
        return self.layers(F.pad(volume, (0, right, 0, down))).flatten(1)


class Discriminator(nn.Module):
    """A velocity network to read from, and a head for each place that it is read at.

    Called as a module it is the velocity network itself.

    Args:
        flow: velocity network.
        taps: where features are taken; default: its bottleneck.
        heads: `(B, C, frames, H, W)` to `(B, logits)`, one per tap; default: `Head`.
        source: the network whose features are read; default: `flow`. Not a submodule, so that
            a frozen one is neither trained nor saved here.
    """

    def __init__(
        self,
        flow: nn.Module,
        taps: Sequence[Tap] | None = None,
        heads: Sequence[nn.Module] | None = None,
        source: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.taps = tuple(taps or [bottleneck(flow if source is None else source)])
        self.flow = flow
        self.heads = nn.ModuleList(heads or [Head(tap.channels) for tap in self.taps])
        self._source = (source,)  # in a tuple: not registered

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The flow's velocity."""
        return self.flow(x_t, t, condition)

    def logits(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """How real `x_t (B, F, C, H, W)` at times `t (B,)` looks, `(B, logits)`."""
        source = self._source[0] or self
        reader = self.flow if source is self else source
        with tapped(reader, self.taps) as outputs:
            source(x_t, t, condition)
        volumes = (tap.volume(x, len(x_t)) for tap, x in zip(self.taps, outputs))
        return torch.cat([head(volume) for head, volume in zip(self.heads, volumes)], dim=1)


def discriminator_loss(
    real: Tensor, fake: Tensor, kind: Literal["logistic", "hinge"] = "logistic"
) -> Tensor:
    """What the discriminator minimises, from logits of any shape."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: Literal["logistic", "hinge"] = "logistic") -> Tensor:
    """What the generator minimises: to look real."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()
