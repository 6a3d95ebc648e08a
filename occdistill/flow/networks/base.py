"""What a velocity network offers, in code, so that nobody has to guess."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from occdistill.latents.condition import Condition

DECOUPLED = "decoder_sees_end"


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


@dataclass(frozen=True)
class Features:
    """What a network's trunk, the part up to its coarsest level, hands to its head.

    Attributes:
        deep: the coarsest level's features.
        skips: what the head joins with them.
        told: what the head needs besides, the network's own business.
    """

    deep: Tensor
    skips: tuple[Tensor, ...]
    told: tuple[Any, ...]

    def float(self) -> Features:
        """In float32, for what is computed without autocast."""

        def widen(x: Any) -> Any:
            return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

        return Features(
            self.deep.float(),
            tuple(skip.float() for skip in self.skips),
            tuple(widen(x) for x in self.told),
        )


class VelocityNetwork(nn.Module, ABC):
    """A network that gives the velocity of a flow, and with an end clock the average velocity.

    A network with a trunk and a head (`splits`) is their composition; the head can then be called
    several times for one trunk, with something more to tell it.

    Attributes:
        takes: which entries of a `Condition` it reads, and how many frames (past, aligned per
            future frame) or steps (trajectory) of each.
        clock: embeds the time t; its last linear layer is the last one in it.
        end_clock: the same for the rest r - t of a step, added to the clock; None: the network
            knows t alone.
        without_effect: submodules that it may have beyond others of its kind, and which begin
            without effect: weights that lack them can be gone on from.
    """

    without_effect: tuple[str, ...] = ()
    takes: Mapping[str, int]
    clock: nn.Module
    end_clock: nn.Module | None
    splits = False

    @property
    def two_time(self) -> bool:
        """Whether it also takes the end time r of a step."""
        return self.end_clock is not None or self.decoupled

    @property
    def decoupled(self) -> bool:
        """Whether its decoder's clock shows r where its encoder's shows t, see `flow_map.decoupled`.

        A mark among the weights says so, that checkpoints may tell.
        """
        return DECOUPLED in self._buffers

    @property
    @abstractmethod
    def taps(self) -> tuple[Tap, ...]:
        """Where discriminators read its features: the last block of its coarsest level."""

    @property
    def levels(self) -> tuple[Tap, ...]:
        """The last block of every level: on the way down, the coarsest, back up; default `taps`."""
        return self.taps

    @abstractmethod
    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None
    ) -> Tensor:
        """Velocity at `x_t (B, F, C, H, W)` and times `t (B,)`, of the shape of `x_t`.

        Given the end times `r (B,)`, a network of two times gives the average velocity from t to r.
        """


class SplitNetwork(VelocityNetwork):
    """A velocity network in two parts, which may also be told of an outer point of its flow.

    Attributes:
        channels: of a latent frame.
        entrance: channels of the map that latent frames enter as.
        fusion: channels of the finest map that the head joins.
        head_parts: submodules that the head alone uses.
        outer_clock, outer_in: for the time and the state of the outer point, added where the
            network's own enter, see `flow_map.with_outer`; None: it is told of none.
    """

    splits = True
    channels: int
    entrance: int
    fusion: int
    head_parts: tuple[str, ...]
    outer_clock: nn.Module | None
    outer_in: nn.Module | None

    @abstractmethod
    def trunk(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        r: Tensor | None = None,
        outer: tuple[Tensor, Tensor] | None = None,
    ) -> Features:
        """All up to the coarsest level; arguments as of a call.

        Args:
            x_t, t, condition, r: see there.
            outer: a point `(B, F, C, H, W)` and its time `(B,)`; at time 0 the point has no effect.
        """

    @abstractmethod
    def head(
        self, features: Features, embedding: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """From a trunk's features to velocities `(B, F, C, H, W)`.

        Args:
            features: of the trunk.
            embedding: added to what the head's blocks know of time, `(B, E)`.
            added: to the future frames of the finest map, `(B * F, fusion, H, W)`.
        """

    @abstractmethod
    def told_time(self, clock: nn.Module, t: Tensor) -> Tensor:
        """What a copy of the network's clock makes of times `(B,)`, `(B, E)`."""

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        r: Tensor | None = None,
        outer: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The head on the trunk; arguments as of `trunk`."""
        return self.head(self.trunk(x_t, t, condition, r, outer))


def takes_end(field: object) -> bool:
    """Whether a velocity field, a network or any other callable, is told where a step ends."""
    return isinstance(field, VelocityNetwork) and field.two_time
