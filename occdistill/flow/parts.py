"""Networks made of the parts of another: its trunk alone, its trunk once and its head often, or every
so many of its channels.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from occdistill.flow.networks.base import Features, SplitNetwork, Tap, VelocityNetwork
from occdistill.flow.path import expand
from occdistill.flow.solver import fresh_draws
from occdistill.latents.condition import Condition

INNER = "inner_steps"
LATEST = 0.95  # inner time, after which the way to ŷ would be divided by too little


def silent(module: nn.Module) -> nn.Module:
    """A copy whose last linear layer is zero: added to something, it changes nothing at first."""
    module = copy.deepcopy(module)
    last = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return module


@torch.no_grad()
def start_from(narrow: nn.Module, wide: nn.Module) -> tuple[str, ...]:
    """Let a narrower network of the same layout start as a part of a wider one's channels.

    Along every axis of every parameter those are taken that lie evenly spread: of 4 channels the
    first and third, say. What is joined, cut into chunks or split into heads stays so, since each
    piece of an axis is thinned alike. A sum over fewer inputs is scaled up to its old size, as if
    those that are gone were like their neighbours.

    Args:
        narrow: is written to.
        wide: has a parameter of the same name and number of axes for each that is taken.

    Returns:
        Names of `narrow`'s parameters that `wide` has nothing for; they stay as they were drawn.
    """
    known, left = dict(wide.named_parameters()), []
    for name, own in narrow.named_parameters():
        value = known.get(name)
        if (
            value is None
            or value.dim() != own.dim()
            or any(map(int.__lt__, value.shape, own.shape))
        ):
            left.append(name)
            continue
        for axis, (had, has) in enumerate(zip(value.shape, own.shape)):
            value = value.index_select(axis, torch.arange(has, device=value.device) * had // has)
        layer = narrow.get_submodule(name.rpartition(".")[0])
        if own.dim() > 1 and isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            inputs = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
            value = value * (known[name].shape[inputs] / own.shape[inputs])
        own.copy_(value)
    return tuple(left)


class Trunk(VelocityNetwork):
    """The trunk of a copy of a network, for those who read its features; no velocity comes of it.

    Args:
        network: is copied without its head.
    """

    end_clock = None

    def __init__(self, network: SplitNetwork) -> None:
        super().__init__()
        self.network, self.takes = copy.deepcopy(network), network.takes
        for part in network.head_parts:
            delattr(self.network, part)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The network's."""
        return tuple(replace(tap, module=f"network.{tap.module}") for tap in self.network.taps)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None
    ) -> Tensor:
        """The coarsest level's features."""
        return self.network.trunk(x_t, t, condition, r).deep


class Transitions(VelocityNetwork):
    """A velocity drawn at random by a flow of its own (transition matching, arXiv 2601.09881).

    The inner flow goes from noise, y_0 = e at inner time 0, to a velocity y_1 of the outer flow. The
    trunk sees the outer point once; the head sees y_a besides and says where the inner flow ends,

        y_b = y_a + (b - a) w(y_a, a, b),   w = (ŷ - y_a) / (1 - a),   ŷ = head(trunk; y_a, a, b)

    What the head is told more enters through layers that start at zero, so that at first ŷ is the
    network's velocity, and so is y_1, whatever e.

    Args:
        network: is copied.
        inner_steps: n, of equal length; kept among the weights.
    """

    end_clock = None

    def __init__(self, network: SplitNetwork, inner_steps: int = 2) -> None:
        super().__init__()
        self.network, self.takes = copy.deepcopy(network), network.takes
        self.inner_clock, self.inner_end_clock = silent(network.clock), silent(network.clock)
        self.fusion = silent(nn.Conv2d(network.channels, network.fusion, 3, padding=1))
        self.register_buffer(INNER, torch.tensor(inner_steps))

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The network's."""
        return tuple(replace(tap, module=f"network.{tap.module}") for tap in self.network.taps)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None
    ) -> Tensor:
        """A velocity at `x_t (B, F, C, H, W)`, `t (B,)`; e is a function of x_t."""
        e = fresh_draws(x_t).normal(*x_t.shape[1:]).to(x_t.dtype)
        return self.unroll(self.trunk(x_t, t, condition), e)

    def trunk(self, x_t: Tensor, t: Tensor, condition: Condition) -> Features:
        """Of the network."""
        return self.network.trunk(x_t, t, condition)

    def unroll(self, features: Features, y: Tensor) -> Tensor:
        """The inner flow's end, from its start y."""
        grid = torch.linspace(0, 1, int(self.inner_steps) + 1).tolist()
        for a, b in zip(grid[:-1], grid[1:]):
            times = (y.new_full((len(y),), time) for time in (a, b))
            y = y + (b - a) * self.inner_average(features, y, *times)
        return y

    def inner_average(self, features: Features, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """w from inner times a to b `(B,)`, the shape of y."""
        told = self.network.told_time
        more = told(self.inner_clock, a) + told(self.inner_end_clock, b - a)
        end = self.network.head(features, more, self.fusion(y.flatten(0, 1)))
        return (end - y) / expand(1 - a, y)
