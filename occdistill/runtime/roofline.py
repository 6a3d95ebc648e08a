"""How fast a machine can be, and how much of that a forecast uses.

Operations and bytes are counted from what PyTorch executes, one tensor operation at a time, so they
describe the eager program: a compiled one does the same operations with fewer bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from occdistill.runtime.machine import tf32

aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """What a call executes.

    Attributes:
        flops: additions and multiplications in matrix products, convolutions and attention.
        bytes: read and written by all tensor operations; views are free.
    """

    flops: int
    bytes: int


def work_of(function: Callable[[], object]) -> Work:
    """Count the work of one call."""
    attention = {aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    flops = FlopCounterMode(display=False, custom_mapping=attention)
    with torch.no_grad(), flops, _Bytes() as traffic:
        function()
    return Work(flops.get_total_flops(), traffic.total)


def _attention_flops(query_shape, key_shape, value_shape, *args, **kwargs) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


class _Bytes(TorchDispatchMode):
    """Adds up the sizes of what goes into and comes out of every operation that isn't a view."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        read = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        places = {x.untyped_storage().data_ptr() for x in read}
        made = [x for x in tree_iter(out) if isinstance(x, Tensor)]
        in_place = function._schema.is_mutable
        if in_place or any(x.untyped_storage().data_ptr() not in places for x in made):
            self.total += sum(_size(x) for x in (*read, *made))
        return out


def _size(x: Tensor) -> int:
    """Bytes that a pass over the tensor touches; what an expanded one repeats counts once."""
    distinct = [n for n, stride in zip(x.shape, x.stride()) if stride]
    return math.prod(distinct) * x.element_size() if x.numel() else 0


@dataclass(frozen=True)
class Ceiling:
    """What this machine reached in the plainest of programs.

    Attributes:
        gflops: of a large matrix product, 1e9 operations per second; float32 without TF32.
        gbytes_per_s: read plus written, of copying a tensor larger than every cache.
    """

    gflops: float
    gbytes_per_s: float


def ceiling(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seconds: float = 2.0
) -> Ceiling:
    """Measure both ceilings, the best of as many tries as fit into `seconds` each."""
    device = torch.device(device)
    source = torch.ones(2**26, device=device)  # 256 MiB
    target = torch.empty_like(source)
    copied = _best(lambda: target.copy_(source), device, seconds)
    moved = 2 * source.numel() * source.element_size()
    side = 8192 if device.type == "cuda" else 2048
    return Ceiling(products(device, dtype, seconds, side), 1e-9 * moved / copied)


def products(
    device: str | torch.device, dtype: torch.dtype, seconds: float, side: int = 2048
) -> float:
    """The best rate of matrix products, 1e9 operations per second; float32 without TF32.

    Args:
        device: where.
        dtype: of the matrices.
        seconds: to try for; once at least.
        side: of the matrices.
    """
    device = torch.device(device)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    with tf32(False):
        return 2e-9 * side**3 / _best(lambda: torch.mm(a, b, out=out), device, seconds)


def _best(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    function()
    wait()
    best, end = math.inf, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        function()
        wait()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() >= end:
            return best
