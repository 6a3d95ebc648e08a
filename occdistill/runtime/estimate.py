"""What forecasts take on this machine: said before they begin, and shown while they run.

Operations are counted on networks without numbers, so that it takes no time at any size.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from tqdm import tqdm

from occdistill.autoencoder.sparse import SparseEncoder
from occdistill.flow.guidance import evaluations
from occdistill.flow.solver import step_velocity
from occdistill.latents.condition import Condition
from occdistill.runtime import roofline
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.machine import device_name

QUICK = 2e11  # operations that every machine does within seconds: nothing is said of them


@dataclass(frozen=True)
class Operations:
    """Additions and multiplications of a forecaster's networks as they are written, for one clip.

    Attributes:
        encode: of one frame.
        encode_aligned: of one that is encoded for the future ones.
        evaluate: of the velocity; of both branches where it is guided.
        decode: of one frame.
        aligned: frames that are encoded for the future ones besides the past.
        nfe: evaluations of a forecast.
        future: frames that are decoded.
    """

    encode: int
    encode_aligned: int
    evaluate: int
    decode: int
    aligned: int
    nfe: int
    future: int

    def past(self, frames: int, conditions: int = 1) -> int:
        """Of conditions of one past, which has so many frames yet to be encoded."""
        return frames * self.encode + conditions * self.aligned * self.encode_aligned

    def futures(self, samples: int = 1) -> int:
        """Of so many futures from a condition."""
        return samples * (self.nfe * self.evaluate + self.future * self.decode)


@lru_cache(16)
def operations(forecaster: Forecaster, past: int) -> Operations:
    """What a forecaster's stages do with so many past frames; sparse encoders, whose work depends on
    what they see, count for nothing.
    """
    codec = forecaster.codec
    vae, field = (copy.deepcopy(net).to("meta") for net in (codec.vae, forecaster.field))
    aligned = codec.future * len(codec.align)
    z = torch.empty(1, past + codec.future, *vae.latent_shape, device="meta")
    shown = codec.visible_trajectory(torch.empty(1, past + codec.future, 2, device="meta"), past)
    seen = None
    if aligned:
        channels, *map_ = vae.latent_shape
        shape = (1, codec.future, len(codec.align) * channels, *map_)
        seen = torch.empty(shape, device="meta")
    condition = Condition(z[:, :past], seen, shown)
    voxels = torch.empty(1, *vae.grid_shape, dtype=torch.uint8, device="meta")
    aligner = copy.deepcopy(codec.aligner).to("meta") if aligned else vae

    def encode(autoencoder: nn.Module) -> int:
        sparse = any(isinstance(module, SparseEncoder) for module in autoencoder.modules())
        return 0 if sparse else _count(lambda: autoencoder.encode(voxels))

    return Operations(
        encode(vae),
        encode(aligner),
        evaluations(forecaster.guidance)
        * _count(lambda: step_velocity(field, z[:, past:], 0.0, 1.0, condition)),
        _count(lambda: vae.decode(z[:, 0])),
        aligned,
        forecaster.nfe,
        codec.future,
    )


def _count(function) -> int:
    return roofline.work_of(function).flops


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def least(what: str, flops: int, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Seconds of so many operations at the rate of a quick matrix product, and that in words."""
    ceiling = roofline.ceiling(device, dtype, seconds=0.2)
    seconds = 1e-9 * flops / ceiling.gflops
    return seconds, (
        f"{what}: {1e-12 * flops:.3g} TFLOP, {duration(seconds)} if all of it ran as fast as a matrix"
        f" product does on this machine now ({ceiling.gflops:.0f} GFLOP/s, {device_name(device)})"
    )


class Progress:
    """A bar over operations, moved by stages.

    Args:
        total: operations; 0 for no bar.
        title: of the bar.
    """

    def __init__(self, total: int, title: str) -> None:
        shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} GFLOP [{elapsed}<{remaining}]"
        self.bar = tqdm(
            total=1e-9 * total, desc=title, bar_format=shape, file=sys.stderr, disable=not total
        )

    def of(self, forecaster: Forecaster, work: Operations) -> Forecaster:
        """The forecaster, whose stages move the bar."""

        def done(stage: str, items: int) -> None:
            ahead = 1e-9 * items * getattr(work, stage)
            if self.bar.total and self.bar.n + ahead > 1.001 * self.bar.total:
                self.bar.reset()  # the next forecast of a stream
            self.bar.update(ahead)

        return forecaster.watched(done)


@contextmanager
def announced(
    forecasters: Iterable[tuple[Forecaster, int]], past: int, planned: bool = False
) -> Iterator[list[Forecaster]]:
    """Inside, forecasters that share an encoder move one bar, after it was said what they take.

    Args:
        forecasters: and how many futures each makes of the one clip.
        past: its frames, encoded once for all.
        planned: whether each future has a plan, and with it a condition, of its own.
    """
    pairs = [(one, count, operations(one, past)) for one, count in forecasters]
    (first, _, work), *_ = pairs
    conditions = sum(count for _, count, _ in pairs) if planned else 1
    total = work.past(past, conditions) + sum(each.futures(count) for _, count, each in pairs)
    if total < QUICK:
        yield [one for one, _, _ in pairs]
        return
    steps = sum(count * each.nfe for _, count, each in pairs)
    frames = past + conditions * work.aligned
    what = f"{frames} frames to encode, {steps} evaluations of the network"
    print(least(what, total, first.device, first.dtype)[1], file=sys.stderr)
    progress = Progress(total, "forecasting")
    with progress.bar:
        yield [progress.of(one, each) for one, _, each in pairs]


def live(forecaster: Forecaster, past: int, interval: float) -> Forecaster:
    """A stream's forecaster, which shows its progress within a frame where one takes long; says so.

    Args:
        forecaster: of the stream.
        past: its slots.
        interval: seconds between two frames.
    """
    work = operations(forecaster, past)
    total = work.past(1) + work.futures()
    if total < QUICK:
        return forecaster
    seconds, said = least("a forecast", total, forecaster.device, forecaster.dtype)
    late = f"; frames come every {interval:.2g} s, so most will be dropped" * (seconds > interval)
    print(said + late, file=sys.stderr)
    return Progress(total, "this frame").of(forecaster, work)
