"""The straight path between noise and data, and the laws its times are drawn from.

Time runs from noise to data everywhere: `t = 0` is noise, `t = 1` is data,
`x_t = (1 - t) x_0 + t x_1`, and the velocity is `v = x_1 - x_0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from occdistill.seeds import Key, normal, stream, uniform


def expand(t: Tensor, like: Tensor) -> Tensor:
    """View `t (B,)` so that it broadcasts over `like (B, ...)`."""
    return t.reshape(-1, *[1] * (like.dim() - 1))


def interpolate(x_1: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """`x_t = t x_1 + (1 - t) x_0` with one time per sample, `t (B,)`."""
    t = expand(t, x_1)
    return t * x_1 + (1 - t) * x_0


def denoise(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Clean prediction `D = E[x_1 | x_t] = x_t + (1 - t) v`."""
    return x_t + (1 - expand(t, x_t)) * v


def score(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Score of the marginal at time t, `(t v - x_t) / (1 - t)`; t < 1."""
    t = expand(t, x_t)
    return (t * v - x_t) / (1 - t)


class Draws:
    """Random numbers with one stream per sample, so they don't depend on how a batch is split.

    A sample draws the same noise whether it is computed alone, in a batch, on another rank or on
    another device (the streams live on the CPU), which makes resumed and distributed runs exact.

    Args:
        keys: what names a sample's stream, an integer or a tuple of them, see `occdistill.seeds`.
        device: where the drawn tensors go.
    """

    def __init__(self, keys: Sequence[Key], device: torch.device | str = "cpu") -> None:
        self.streams = [stream(*(key if isinstance(key, tuple) else (key,))) for key in keys]
        self.device = device

    def __len__(self) -> int:
        return len(self.streams)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal `(B, *shape)`."""
        return self._numbers(normal, shape).to(self.device, non_blocking=True)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), `(B, *shape)`."""
        return self._numbers(uniform, shape).to(self.device, non_blocking=True)

    def _numbers(self, law: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        """`(B, *shape)` of a law, on the CPU."""
        return torch.stack([law(stream, *shape) for stream in self.streams])


Law = Literal["logit_normal", "uniform", "uniform_within"]


@dataclass(frozen=True)
class TimeLaw:
    """How times are drawn.

    OccFM and MFD draw logit-normal times with mean 0 and standard deviation 1. A law with mean m
    in the papers that put noise at t = 1 has mean -m here.

    Args:
        law: `logit_normal`: `sigmoid(N(mean, std))`, clipped to [low, high]; `uniform`: on [0, 1],
            clipped to [low, high]; `uniform_within`: on [low, high], with no mass at its ends.
        mean, std: of the logit; the uniform laws don't use them.
        low, high: smallest and largest time, `0 <= low <= high <= 1`.

    Raises:
        ValueError: for an unknown law, or numbers that are not as stated.
    """

    law: Law = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    low: float = 1e-3
    high: float = 1.0 - 1e-3

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ValueError(f"time law {self.law!r} is not one of {', '.join(get_args(Law))}")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"times need 0 <= low <= high <= 1, not low={self.low!r}, high={self.high!r}"
            )
        if not (math.isfinite(self.mean) and 0 <= self.std < math.inf):
            raise ValueError(
                f"times need a finite mean and std >= 0, not mean={self.mean!r}, std={self.std!r}"
            )

    def _draw(self, draws: Draws, count: int) -> Tensor:
        if self.law == "uniform":
            t = draws.uniform(count)
        elif self.law == "uniform_within":
            t = self.low + (self.high - self.low) * draws.uniform(count)
        else:
            t = torch.sigmoid(self.mean + self.std * draws.normal(count))
        return t.clamp(self.low, self.high)

    def times(self, draws: Draws) -> Tensor:
        """One time per sample, `(B,)`."""
        return self._draw(draws, 1)[:, 0]

    def intervals(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """A sorted pair per sample: start `t (B,)` (noisier) and end `r (B,)`, t <= r."""
        t, r = self._draw(draws, 2).sort(dim=1).values.unbind(1)
        return t, r
