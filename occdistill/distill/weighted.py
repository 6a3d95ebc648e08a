"""Weights for rows of the MeanFlow family: velocity first, small gaps before large ones (UAIMF).

A wrapper: `class WeightedX(Weighted, X)` weighs the samples of any row X of the family,

    L = E[ 1{r = t} a(t) L_v + 1{r > t} b(r - t) L_u ]                        (arXiv 2511.19065)
    b(gap) = 1 - s + l s (1 - gap),   s = 1 - (step / steps)^k,   l = 1 / E[1 - gap]

so small gaps weigh more at first, all the same after `steps`, and b's mean stays 1. For the
velocity samples there are two devices, each from a paper of its own:

    min-SNR     a(t) = min(t², snr (1 - t)²), divided by its mean: the clean prediction's weight
                min(SNR, snr), SNR = t² / (1 - t)², for a velocity                 (arXiv 2303.09556)
    difficulty  the lowest `1/n, 2/n, …` of the start's law alone, opened in n equal parts of
                `steps`; noisier starts are the easier task                        (arXiv 2403.10348)

The source opens the next part when the loss stops falling; a schedule is a function of the step, so
that a resumed run, or one on several ranks, goes on exactly. It recommends difficulty for large
networks and min-SNR for small ones.

Cost: that of the row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from occdistill.distill.base import require
from occdistill.distill.flow_map import IntervalRegression
from occdistill.distill.meanflow import MeanFlow
from occdistill.flow.path import Draws
from occdistill.types import Count

Function = Callable[[Tensor], Tensor]


class Easier:
    """Draws whose smaller one of a pair comes from the lowest `share` of its own law.

    Args:
        draws: the batch's.
        share: in (0, 1].
    """

    def __init__(self, draws: Draws | Grid, share: float) -> None:
        self.draws, self.share = draws, share

    def normal(self, count: int) -> Tensor:
        """Standard normal `(B, count)`."""
        return self._lower(self.draws.normal(count), torch.special.ndtr, torch.special.ndtri)

    def uniform(self, count: int) -> Tensor:
        """Uniform on [0, 1), `(B, count)`."""
        return self._lower(self.draws.uniform(count), Tensor.clone, Tensor.clone)

    def _lower(self, x: Tensor, chance: Function, quantile: Function) -> Tensor:
        if self.share == 1 or x.shape[1] != 2:
            return x
        small, large = x.sort(dim=1).values.unbind(1)
        below = 1 - (1 - chance(small.double())) ** 2  # chance that one of two is smaller
        p = 1 - (1 - self.share * below).sqrt()
        return torch.stack([quantile(p).to(x.dtype), large], dim=1)


class Grid:
    """Every pair of `count` quantiles, in place of random draws: expectations by quadrature."""

    def __init__(self, count: int = 200) -> None:
        p = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        self.pairs = torch.cartesian_prod(p, p)

    def uniform(self, count: int) -> Tensor:
        """`(pairs, 2)`."""
        return self.pairs

    def normal(self, count: int) -> Tensor:
        """`(pairs, 2)`."""
        return torch.special.ndtri(self.pairs)


class Weighted(IntervalRegression):
    """The weights above, for the row that follows it among a class's bases.

    Args:
        steps: length of the curriculum in updates, 1 or more.
        exponent: k, above 0 (source: 1).
        snr: bound of the min-SNR weight, above 0 (source: 5); None for a = 1.
        parts: n of the difficulty curriculum, 1 or more; 1 for none.
        **kwargs: see the row.
    """

    def __init__(
        self,
        *args,
        steps: Count = 10_000,
        exponent: float = 1.0,
        snr: float | None = 5.0,
        parts: Count = 1,
        **kwargs,
    ) -> None:
        require(type(steps) is int and steps >= 1, "steps must be a whole number above 0", steps)
        require(exponent > 0, "exponent must be above 0", exponent)
        require(snr is None or snr > 0, "snr must be None or above 0", snr)
        require(type(parts) is int and parts >= 1, "parts must be a whole number above 0", parts)
        super().__init__(*args, **kwargs)
        self.steps, self.exponent, self.snr, self.parts = steps, exponent, snr, parts
        self.shares = [part / parts for part in range(1, parts + 1)]
        self.gap_scale = [1 / self._mean(lambda t, r: 1 - (r - t), share) for share in self.shares]
        self.velocity_scale = [1 / self._mean(self._min_snr, share) for share in self.shares]

    def _mean(self, f: Callable[[Tensor, Tensor], Tensor], share: float) -> float:
        return f(*self.times.intervals(Easier(Grid(), share))).mean().item()

    def _min_snr(self, t: Tensor, r: Tensor) -> Tensor:
        if self.snr is None:
            return torch.ones_like(t)
        return torch.minimum(t**2, self.snr * (1 - t) ** 2)

    def part(self, step: int) -> int:
        """How many parts of the difficulty curriculum are open, less one."""
        return min(step * self.parts // self.steps, self.parts - 1)

    def intervals(self, draws: Draws, step: int) -> tuple[Tensor, Tensor]:
        """The row's, with starts from the open parts."""
        return super().intervals(Easier(draws, self.shares[self.part(step)]), step)

    def distance(self, residual: Tensor, t: Tensor, r: Tensor, step: int) -> Tensor:
        """The row's, weighted."""
        part = self.part(step)
        s = 1 - min(1.0, step / self.steps) ** self.exponent
        gap = 1 - s + self.gap_scale[part] * s * (1 - (r - t))
        velocity = self.velocity_scale[part] * self._min_snr(t, r)
        return torch.where(r > t, gap, velocity) * super().distance(residual, t, r, step)


class WeightedMeanFlow(Weighted, MeanFlow):
    """MeanFlow with progressive weights."""
