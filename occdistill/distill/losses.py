"""Distances and weights that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor

# How the gradient of an f-divergence `E_p f(q / p)`, q the student's law and p the real one, weighs
# the gradient of `log q / p` at a student sample: `f''(q / p) q / p`, by l = log p / q
DIVERGENCES = {
    "reverse_kl": torch.ones_like,  # KL(q || p), mode-seeking
    "forward_kl": torch.exp,  # KL(p || q), mode-covering
    "jensen_shannon": torch.sigmoid,  # twice JS
    "jeffreys": lambda l: 1 + l.exp(),  # KL(q || p) + KL(p || q)
}


def per_sample(x: Tensor) -> Tensor:
    """Mean over everything but the batch, `(B, ...)` to `(B,)`."""
    return x.flatten(1).mean(1)


def pseudo_huber(square: Tensor, c: float) -> Tensor:
    """`sqrt(square + c²) - c`: quadratic below c, linear above, so that outliers don't rule."""
    return (square + c**2).sqrt() - c


def adaptive(square: Tensor, power: float = 1.0, epsilon: float = 0.01) -> Tensor:
    """`square / sg(square + epsilon)^power`, MeanFlow's weight; power 0 leaves it as it is."""
    return square / (square.detach() + epsilon) ** power
