"""Where randomness comes from: one independent stream for each key of integers.

A key says what is drawn, such as (seed, clip, sample). numpy's `SeedSequence` mixes it into 128
bits, so no two keys share a stream in practice. torch's own CPU generator keeps the low 32 bits of
a seed and drops the rest: seeds computed by shifting repeat, and of 80,000 hashed ones two are
likely to be equal. Noise that is compared between clips is therefore drawn by numpy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill.errors import UserError

Key = int | tuple[int, ...]


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    parts = [int(part) for part in key]
    if min(parts) < 0:
        raise UserError(f"a seed is an integer from 0 on, not {min(parts)}")
    # as text: of numbers in a row, SeedSequence takes (1,) and (1, 0), or (2**32,) and (0, 1), for one
    return np.random.SeedSequence(int.from_bytes(repr(parts).encode(), "big"))


def stream(*key: int) -> np.random.Generator:
    """The stream of a key.

    Args:
        *key: integers from 0 on, of any size.

    Raises:
        UserError: if one is negative.
    """
    return np.random.Generator(np.random.PCG64(_sequence(key)))


def normal(generator: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal float32, on the CPU."""
    return torch.from_numpy(generator.standard_normal(shape, np.float32))


def uniform(generator: np.random.Generator, *shape: int) -> Tensor:
    """Uniform on [0, 1), float32, on the CPU."""
    return torch.from_numpy(generator.random(shape, np.float32))


def number(*key: int) -> int:
    """A key as one integer of 32 bits, for what takes nothing else: `torch.manual_seed`."""
    return int(_sequence(key).generate_state(1)[0])


def torch_generator(*key: int) -> torch.Generator:
    """A CPU generator of torch for a key, where a run needs a handful of long streams."""
    return torch.Generator().manual_seed(number(*key))
