"""Distances and weights that several methods share."""

from __future__ import annotations

from torch import Tensor


def per_sample(x: Tensor) -> Tensor:
    """Mean over everything but the batch, `(B, ...)` to `(B,)`."""
    return x.flatten(1).mean(1)


def pseudo_huber(square: Tensor, c: float) -> Tensor:
    """`sqrt(square + c²) - c`: quadratic below c, linear above, so that outliers don't rule."""
    return (square + c**2).sqrt() - c


def adaptive(square: Tensor, power: float = 1.0, epsilon: float = 0.01) -> Tensor:
    """`square / sg(square + epsilon)^power`, MeanFlow's weight; power 0 leaves it as it is."""
    return square / (square.detach() + epsilon) ** power
