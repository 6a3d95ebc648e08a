"""What the flow-map methods share: a student that is told where its step ends."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, Loss, Method, require, time_law
from occdistill.distill.losses import adaptive
from occdistill.flow.derivatives import Derivative
from occdistill.flow.networks.base import DECOUPLED, SplitNetwork, VelocityNetwork
from occdistill.flow.parts import INNER, Transitions, silent
from occdistill.flow.path import Draws, TimeLaw, interpolate
from occdistill.latents.condition import Condition


def two_time(network: VelocityNetwork) -> VelocityNetwork:
    """A copy of a velocity network that also takes the end time r of a step.

    The end enters through a second clock on `r - t`, added to the first one. Its last layer starts
    at zero, so the copy's average velocity to any r is the original's velocity.
    """
    network = copy.deepcopy(network)
    if not network.two_time:
        network.end_clock = silent(network.clock)
    return network


def with_outer(network: SplitNetwork) -> SplitNetwork:
    """A copy with an end clock that can be told of an outer point, a state and its time.

    They enter by a convolution and a third clock that start at zero.
    """
    network = two_time(network)
    network.outer_clock = silent(network.clock)
    network.outer_in = silent(nn.Conv2d(network.channels, network.entrance, 3, padding=1))
    return network


def made_for(network: VelocityNetwork, weights: Mapping[str, Tensor]) -> VelocityNetwork:
    """The network as it must be to hold these weights: with what its method added to it."""
    if DECOUPLED in weights:
        return decoupled(network)
    if INNER in weights:
        return Transitions(network)
    if any(key.startswith("outer_clock.") for key in weights):
        return with_outer(network)
    has_one = any(key.startswith("end_clock.") for key in weights)
    return two_time(network) if has_one else network


def decoupled(network: VelocityNetwork) -> VelocityNetwork:
    """A copy of a velocity network that is told the end r of a step by its own clock.

    The encoder's clock goes on showing t, the decoder's shows r. Nothing is added, and where r = t
    the copy is the original.

    Raises:
        ValueError: if the network has an end clock.
    """
    if network.end_clock is not None:
        raise ValueError("a network with an end clock can't be decoupled: take its teacher")
    network = copy.deepcopy(network)
    network.register_buffer(DECOUPLED, torch.ones(()))
    return network


def true_futures(batch: Batch) -> Tensor:
    """The batch's data `x_1 (B, F, C, H, W)`.

    Raises:
        ValueError: if the batch has none.
    """
    if batch.x_1 is None:
        raise ValueError("this method needs the true future latents of its clips, batch.x_1")
    return batch.x_1


def noised_data(batch: Batch, t: Tensor) -> Tensor:
    """`x_t = t x_1 + (1 - t) x_0`, `(B, F, C, H, W)`, of the batch's true futures and fresh noise.

    Raises:
        ValueError: if the batch has no data.
    """
    x_1 = true_futures(batch)
    return interpolate(x_1, batch.draws.normal(*x_1.shape[1:]), t)


class FlowMap(Method):
    """Methods whose student is an average velocity `u(x_t, t, r)` for any t <= r.

    Args:
        derivative: how time derivatives of the student are taken, a `Derivative` or its arguments.
        student: default: the teacher with an end clock, see `two_time`.
        **kwargs: see `Method`.
    """

    futures = "yes"

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        derivative: Derivative | dict | None = None,
        student: nn.Module | None = None,
        **kwargs,
    ) -> None:
        student = two_time(teacher) if student is None else student
        super().__init__(teacher, *args, student=student, **kwargs)
        self.derivative = (
            derivative if isinstance(derivative, Derivative) else Derivative(**(derivative or {}))
        )

    def total_derivative(
        self, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition, v: Tensor
    ) -> Tensor:
        """`Dt u` of the student, without gradients, moving with v."""
        self._count_tangent(x_t)
        return self.derivative.total(self.nets["student"], x_t, t, r, condition, v)

    def end_derivative(self, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition) -> Tensor:
        """`Dr u` of the student, without gradients."""
        self._count_tangent(x_t)
        return self.derivative.end(self.nets["student"], x_t, t, r, condition)

    def value_and_end_derivative(
        self, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """`u` and `Dr u` of the student, both with gradients."""
        self._count_tangent(x_t)
        return self.derivative.value_and_end(self.nets["student"], x_t, t, r, condition)

    def mixed_derivative(
        self, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`Dt u`, `Dr u` and `Dt Dr u` of the student, without gradients, moving with v."""
        self._count_tangent(x_t, 3)
        return self.derivative.mixed(self.nets["student"], x_t, t, r, condition, v)

    def _count_tangent(self, x_t: Tensor, count: int = 1) -> None:
        """A tangent costs at least one more evaluation than the call that the hooks see."""
        if self.derivative.kind == "jvp":
            self.spend(count * len(x_t))


class IntervalRegression(FlowMap):
    """The MeanFlow family: regression on an identity of average velocities at random intervals.

    A subclass says what must vanish, `residuals`; this class draws the intervals and weighs.

    Args:
        times: law of the interval's ends; default logit-normal with mean 0.4 (MeanFlow: -0.4 in a
            time that runs the other way).
        instantaneous: fraction of samples with r = t, which learn the velocity itself.
        power: of the adaptive weight `1 / (||.||² + 0.01)^power`; 0 is the plain square.
        **kwargs: see `FlowMap`.

    Attributes:
        latest: start of an interval, for rows that divide by what is left of the way.
    """

    latest: ClassVar[float] = 1.0

    def __init__(
        self,
        *args,
        times: TimeLaw | dict | None = None,
        instantaneous: float = 0.5,
        power: float = 1.0,
        **kwargs,
    ) -> None:
        require(0 <= instantaneous <= 1, "instantaneous must lie in [0, 1]", instantaneous)
        require(power >= 0, "power must not be negative", power)
        super().__init__(*args, **kwargs)
        self.times = time_law(times, mean=0.4)
        self.instantaneous, self.power = instantaneous, power

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared residual of the last identity."""
        t, r = self.intervals(batch.draws, step)
        x_t = noised_data(batch, t)
        found = self.residuals(x_t, t, r, batch, step)
        loss = sum(share * self.distance(rest, t, r, step).mean() for share, rest in found)
        return Loss(loss, {"gap": found[-1][1].detach().square().mean()})

    def intervals(self, draws: Draws, step: int) -> tuple[Tensor, Tensor]:
        """Start and end times, `(B,)` each, `t <= r`."""
        t, r = self.times.intervals(draws)
        r = torch.where(draws.uniform(1)[:, 0] < self.instantaneous, t, r)
        start = t.clamp_max(self.latest)
        return start, torch.where(r > t, r, start)

    @abstractmethod
    def residuals(
        self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch, step: int
    ) -> list[tuple[float, Tensor]]:
        """Weights and what must vanish, the shape of x_t each, with the student's gradients."""

    def distance(self, residual: Tensor, t: Tensor, r: Tensor, step: int) -> Tensor:
        """Each sample's weighted square, `(B,)`."""
        return adaptive(residual.square().flatten(1).sum(1), self.power)
