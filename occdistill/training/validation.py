"""Scores while training, on a fixed sample of the validation clips with fixed noise.

They show whether a run goes well; what is reported is measured by `tools/test.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE
from occdistill.evaluation.confusion import Confusion
from occdistill.evaluation.metrics import score, tally
from occdistill.flow.solver import VelocityField
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition
from occdistill.runtime.forecaster import Forecaster
from occdistill.seeds import torch_generator


def evenly(length: int, count: int) -> list[int]:
    """At most `count` of the indices of `length` items, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def scores(confusion: Confusion) -> dict[str, float]:
    """mIoU and IoU in percent, averaged over horizons."""
    result = score(tally(confusion.counts))
    return {name: result[name]["avg@all"] for name in ("mIoU", "IoU")}


def newest_frames(clips: ClipDataset, count: int) -> Tensor:
    """Labels of the newest past frame of at most `count` clips, uint8 `(N, X, Y, Z)`."""
    frames = [clips.frames(i)[clips.past - 1] for i in evenly(len(clips), count)]
    return torch.from_numpy(np.stack([clips.reader.labels(f)[0] for f in frames]))


@torch.no_grad()
def reconstruction(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
) -> dict[str, float]:
    """Scores of decoded latents.

    Args:
        encode: voxels `(N, X, Y, Z)` to latents.
        decode: and back to voxels.
        batches: what is encoded, and the truth, uint8 `(N, X, Y, Z)` each.
        device: where the networks are.
    """
    confusion = Confusion(1)
    for voxels, labels in batches:
        for one, truth in zip(decode(encode(voxels.to(device))).cpu(), labels):
            confusion.update(one[None], truth[None])
    return scores(confusion)


class SampleSpread:
    """In how many percent of the filled voxels two samples of a clip differ, beside the teacher's.

    A student that forgets that there are several futures may keep its mIoU; this shows it.

    Args:
        score: whose clips and settings are used, the first few clips of it.
        teacher: velocity field.
        sampler: of the teacher, see `ForecastScore`.
        seed: of the noise.
    """

    def __init__(
        self, score: ForecastScore, teacher: VelocityField, sampler: Mapping, seed: int = 1
    ) -> None:
        self.score, self.teacher, self.sampler, self.seed = score, teacher, dict(sampler), seed
        self.condition = score.batches[0][0].index(slice(0, 4))

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """`spread` of a student and `teacher_spread`."""
        return {"spread": self.of(net, self.score.sampler), "teacher_spread": self.of_teacher}

    @cached_property
    def of_teacher(self) -> float:
        """The teacher's, computed once."""
        return self.of(self.teacher, self.sampler)

    def of(self, field: VelocityField, sampler: Mapping) -> float:
        """Of any field: the share of voxels that differ among those that either sample fills."""
        device = self.score.device
        forecaster = Forecaster(self.score.codec, field, device=device, **sampler)
        generator = torch_generator(self.seed)
        one, other = forecaster.futures(self.condition.to(device), 2, generator).unbind(1)
        filled = ((one != FREE) | (other != FREE)).sum()
        return 100 * float((one != other).sum() / filled.clamp_min(1))


class ForecastScore:
    """IoU and mIoU in percent, averaged over horizons, of forecasts with a velocity network.

    The clips are encoded when they are first needed, which is on rank 0 alone, a frame of each clip
    of a batch at a time: a batch's whole past would take 15 GB at full size.

    Args:
        clips: validation clips.
        codec: with the frozen VAE, on the device where the networks are.
        count: how many clips.
        sampler: `nfe`, `guidance`, `shift` and `temperature` of the `Forecaster`.
        batch_size: clips at a time.
        seed: of the noise.
    """

    def __init__(
        self,
        clips: ClipDataset,
        codec: Codec,
        count: int = 64,
        sampler: Mapping | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        self.codec, self.sampler, self.seed = codec, dict(sampler or {}), seed
        self.device = next(codec.vae.parameters()).device
        self.clips, self.count, self.batch_size = clips, count, batch_size

    @cached_property
    def batches(self) -> list[tuple[Condition, Tensor]]:
        """Conditions, on the CPU, and true futures."""
        made = []
        encoder = self._forecaster(nn.Identity())
        chosen = evenly(len(self.clips), self.count)
        for start in range(0, len(chosen), self.batch_size):
            items = [self.clips[i] for i in chosen[start : start + self.batch_size]]
            past, poses, trajectory, future = (
                torch.stack([item[key] for item in items])
                for key in ("past", "poses", "trajectory", "future")
            )
            latents = encoder.frames(past)
            condition = encoder.condition(past, poses, trajectory, latents)
            made.append((condition.to("cpu"), future))
        return made

    def _forecaster(self, net: nn.Module) -> Forecaster:
        return Forecaster(self.codec, net, device=self.device, **self.sampler)

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Of one network."""
        forecaster = self._forecaster(net)
        generator = torch_generator(self.seed)
        confusion = Confusion(self.codec.future)
        for condition, future in self.batches:
            forecast = forecaster.futures(condition.to(self.device), generator=generator).cpu()
            for one, truth in zip(forecast, future):
                confusion.update(one, truth)
        return scores(confusion)
