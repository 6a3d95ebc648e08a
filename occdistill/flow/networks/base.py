"""What a velocity network offers, in code, so that nobody has to guess."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

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


class VelocityNetwork(nn.Module, ABC):
    """A network that gives the velocity of a flow, and with an end clock the average velocity.

    Attributes:
        takes: which entries of a `Condition` it reads, and how many frames (past, aligned per
            future frame) or steps (trajectory) of each.
        clock: embeds the time t; its last linear layer is the last one in it.
        end_clock: the same for the rest r - t of a step, added to the clock; None: the network
            knows t alone.
    """

    takes: Mapping[str, int]
    clock: nn.Module
    end_clock: nn.Module | None

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


def takes_end(field: object) -> bool:
    """Whether a velocity field, a network or any other callable, is told where a step ends."""
    return isinstance(field, VelocityNetwork) and field.two_time
