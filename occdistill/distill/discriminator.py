"""Discriminators that read the inner features of a velocity network, frozen or trained along.

Features of noised samples at a random time: real and fake differ at every noise level, and a
network that forecasts already knows what matters about a scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.flow.networks.base import Tap, VelocityNetwork
from occdistill.latents.condition import Condition


def taps_of(network: nn.Module) -> tuple[Tap, ...]:
    """Where the network says that its features are to be read.

    Raises:
        TypeError: it doesn't say; pass the method its `taps` then.
    """
    if not isinstance(network, VelocityNetwork):
        kind = type(network).__name__
        raise TypeError(f"where to tap {kind} isn't known: give the method taps=")
    return network.taps


def levels_of(network: nn.Module) -> tuple[Tap, ...]:
    """Where every level of the network ends, as it says.

    Raises:
        TypeError: as `taps_of`.
    """
    taps_of(network)
    return network.levels


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
        flow: velocity network; None for heads alone, which read the source.
        taps: where features are taken; default: where it says.
        heads: `(B, C, frames, H, W)` to `(B, logits)`, one per tap; default: `Head`.
        source: the network whose features are read; default: `flow`. Not a submodule, so that
            a frozen one is neither trained nor saved here.
    """

    def __init__(
        self,
        flow: nn.Module | None,
        taps: Sequence[Tap] | None = None,
        heads: Sequence[nn.Module] | None = None,
        source: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.taps = tuple(taps or taps_of(flow if source is None else source))
        self.flow = flow
        self.heads = nn.ModuleList(heads or [Head(tap.channels) for tap in self.taps])
        self._source = (source,)  # in a tuple: not registered

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The flow's velocity."""
        return self.flow(x_t, t, condition)

    def logits(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """How real `x_t (B, F, C, H, W)` at times `t (B,)` looks, `(B, logits)`."""
        return self.read(self.volumes(x_t, t, condition))

    def volumes(self, x_t: Tensor, t: Tensor, condition: Condition) -> list[Tensor]:
        """The features, `(B, C, frames, H, W)` for each tap."""
        source = self._source[0] or self
        reader = self.flow if source is self else source
        with tapped(reader, self.taps) as outputs:
            source(x_t, t, condition)
        return [tap.volume(x, len(x_t)) for tap, x in zip(self.taps, outputs)]

    def read(self, volumes: Sequence[Tensor]) -> Tensor:
        """Logits of features, `(B, logits)`."""
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
