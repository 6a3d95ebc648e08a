"""How long a forecast takes, measured so that nobody can fault it.

Warmed up, synchronised, from labels on the device to labels on the device (no disk, no copy to the
host), in three scopes:

    end_to_end        encode the newest frame (and the warped past, where the model takes it),
                      generate, decode, argmax: a step of a stream, whose older frames are encoded
    generate_decode   what OccFM and MFD count
    generate          what latent-only reports count

Forecasters that are compared take turns, forecast by forecast, so that a machine that slows down
slows all of them down.
"""

from __future__ import annotations

import platform
import re
import resource
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occdistill.runtime.forecaster import Forecaster

SCOPES = ("end_to_end", "generate_decode", "generate")


def measure(
    forecaster: Forecaster,
    past: Tensor,
    poses: Tensor,
    trajectory: Tensor,
    repeats: int = 20,
    warmup: int = 3,
) -> dict[str, dict[str, float]]:
    """Time one forecaster; arguments and result as for `side_by_side`."""
    return side_by_side({"": forecaster}, past, poses, trajectory, repeats, warmup)[""]


def side_by_side(
    forecasters: Mapping[str, Forecaster],
    past: Tensor,
    poses: Tensor,
    trajectory: Tensor,
    repeats: int = 20,
    warmup: int = 3,
) -> dict[str, dict[str, dict[str, float]]]:
    """Time forecasters side by side on the same clips.

    Args:
        forecasters: by name.
        past: uint8 `(B, P, X, Y, Z)`; B = 1 for latency.
        poses: `(B, P + F, 4, 4)`.
        trajectory: `(B, >= L, 2)`.
        repeats: timed forecasts of each.
        warmup: forecasts of each before the clock runs.

    Returns:
        Per name and scope: `clips_per_s` and `frames_per_s` (future frames) over all repeats,
        `p50_ms`, `p90_ms`, `p99_ms` of a forecast, the last two None where no forecast of so few
        lies beyond them, and `peak_mb`: on a GPU what tensors took at
        most, on a CPU the resident set of the whole process at most.
    """
    steps = {name: _Step(f, past, poses, trajectory) for name, f in forecasters.items()}
    times: dict[str, list] = {name: [] for name in steps}
    peak = dict.fromkeys(steps, 0.0)
    for round_ in range(warmup + repeats):
        for name, step in steps.items():
            reset_peak(step.forecaster.device)
            seconds = step()
            if round_ >= warmup:
                times[name].append(seconds)
                peak[name] = max(peak[name], peak_mb(step.forecaster.device))
    return {
        name: {
            scope: {**_summary(column, len(past), forecasters[name]), "peak_mb": peak[name]}
            for scope, column in zip(SCOPES, np.array(rows).T)
        }
        for name, rows in times.items()
    }


def _summary(seconds: np.ndarray, batch: int, forecaster: Forecaster) -> dict[str, float]:
    clips = batch * len(seconds) / seconds.sum()
    return {
        "clips_per_s": float(clips),
        "frames_per_s": float(clips * forecaster.codec.future),
        **{f"p{q}_ms": percentile(seconds, q) for q in (50, 90, 99)},
    }


def percentile(seconds: np.ndarray, q: int) -> float | None:
    """In milliseconds; of one above the median only where at least one repeat lies beyond it."""
    if q > 50 and len(seconds) * (100 - q) < 100:
        return None
    return float(1e3 * np.percentile(seconds, q))


class _Step:
    """One forecast of a stream: only the newest frame still has to be encoded.

    The older frames' latents are noise: their values don't change how long anything takes.
    """

    def __init__(
        self, forecaster: Forecaster, past: Tensor, poses: Tensor, trajectory: Tensor
    ) -> None:
        self.forecaster = forecaster
        self.known = [x.to(forecaster.device) for x in (past, poses, trajectory)]
        shape = (*past[:, :-1].shape[:2], *forecaster.codec.vae.latent_shape)
        self.older = torch.randn(shape, device=forecaster.device)

    def __call__(self) -> tuple[float, float, float]:
        """Seconds per scope."""
        f, (past, poses, trajectory) = self.forecaster, self.known
        noise = f.noise(len(past))
        f.synchronize()
        start = time.perf_counter()
        marks = [_mark(f.device)]
        newest = f.encode(past[:, -1])[:, None]
        latents = torch.cat([self.older, newest], dim=1)
        condition = f.condition(past, poses, trajectory, latents)
        marks.append(_mark(f.device))
        future = f.generate(condition, noise)
        marks.append(_mark(f.device))
        f.decode(future)
        marks.append(_mark(f.device))
        f.synchronize()
        end_to_end = time.perf_counter() - start
        _, encoded, generated, decoded = marks
        return end_to_end, _between(encoded, decoded), _between(encoded, generated)


def _mark(device: torch.device):
    """A point in the device's own time; on a GPU an event, which doesn't make anybody wait."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(a, b) -> float:
    return b - a if isinstance(a, float) else 1e-3 * a.elapsed_time(b)


def reset_peak(device: torch.device) -> None:
    """Forget the highest memory use so far, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak since the process started remains
        pass


def peak_mb(device: torch.device) -> float:
    """Highest memory use since `reset_peak`, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except (OSError, TypeError):
        unit = 2**20 if platform.system() == "Darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
