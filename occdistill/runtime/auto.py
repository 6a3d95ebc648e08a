"""What is fastest on the machine at hand, by measuring for a second.

Machines differ: one multiplies bfloat16 matrices twice as fast as float32 ones, another half as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from occdistill.errors import UserError
from occdistill.runtime import backends, roofline
from occdistill.runtime.bench import street
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.latency import side_by_side

AUTO = "auto"
SECONDS = 1.0
DTYPES = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}
GAIN = 1.1  # a lower precision that isn't this much faster isn't worth its rounding


class Choice(NamedTuple):
    """What was chosen, and why in words."""

    value: torch.dtype | str
    why: str


def dtype(device: str | torch.device) -> Choice:
    """Float32, or the lower precision in which matrix products are fastest."""
    known = DTYPES.get(torch.device(device).type, (torch.float32,))
    share = SECONDS / len(known)
    rates = {one: roofline.products(device, one, share, side=1024) for one in known}
    best = max(rates, key=rates.get)
    if rates[best] < GAIN * rates[torch.float32]:
        best = torch.float32
    shown = ", ".join(f"{_name(one)} {rate:.0f}" for one, rate in rates.items())
    return Choice(best, f"{_name(best)} (GFLOP/s of matrix products: {shown})")


def _name(one: torch.dtype) -> str:
    return str(one).removeprefix("torch.")


def backend(make: Callable[[str], Forecaster], past: int, seconds: float = SECONDS) -> Choice:
    """The back end with the quickest forecasts, of those that have nothing to prepare first.

    Kernels and files of `aot` and `onnx` count where they lie in the user's cache, from an earlier run
    of this forecaster with that back end. Where one forecast of `eager` takes longer than there is to
    measure, it is taken.

    Args:
        make: the forecaster with a back end.
        past: frames that it is given.
        seconds: to measure for, about.
    """
    eager = make("eager")
    clip = street(past, eager.codec.future, eager.codec.vae.grid_shape)
    took = _milliseconds({"eager": eager}, clip)["eager"] / 1e3
    if took > seconds:
        return Choice("eager", f"eager (a forecast takes {took:.1f} s, too long to try others)")
    ready, once = {"eager": eager}, took
    for name in backends.BACKENDS:
        if name in ("eager", "compile"):
            continue
        try:
            with backends.nothing_prepared():
                forecaster = make(name)
                once += _milliseconds({name: forecaster}, clip)[name] / 1e3
        except (UserError, backends.NotReadyError):
            continue
        ready[name] = forecaster
    ms = _milliseconds(ready, clip, int(np.clip(seconds / once, 1, 20)))
    best = min(ms, key=ms.get)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in ms.items())
    return Choice(best, f"{best} (ms a forecast: {shown})")


def _milliseconds(
    forecasters: Mapping[str, Forecaster], clip: tuple[torch.Tensor, ...], repeats: int = 1
) -> dict[str, float]:
    """The median of a live step of each, after one that isn't clocked."""
    times = side_by_side(forecasters, *clip, repeats=repeats, warmup=1)
    return {name: scopes["end_to_end"]["p50_ms"] for name, scopes in times.items()}
