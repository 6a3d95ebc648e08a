"""Keeping temporaries in the cache of a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Apply `function` to tensors, on a CPU in slices of `rows` along their first dimension.

    A linear layer over 40,000 tokens writes tens of megabytes that the next operation reads once;
    in slices they never leave the cache, which nearly doubles the speed. `function` must treat rows
    independently and keep their number. On a GPU, when gradients are recorded and under a compiler
    it is called once on everything.
    """
    x = tensors[0]
    whole = x.shape[0] <= rows or x.device.type != "cpu" or torch.compiler.is_compiling()
    if whole or torch.is_grad_enabled():
        return function(*tensors)
    return torch.cat([function(*part) for part in zip(*(t.split(rows) for t in tensors))])
