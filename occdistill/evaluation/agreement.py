"""Does a faster way of running the same weights still forecast the same?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from occdistill.evaluation.confusion import confusion
from occdistill.evaluation.metrics import score, tally
from occdistill.runtime.forecaster import Forecaster, same_noise


class Agreement(NamedTuple):
    """How a forecaster differs from a reference, from the same noise.

    Attributes:
        clips: how many were forecast.
        differ: share of voxels with another class, 0 to 1.
        iou: its IoU minus the reference's, percentage points, mean over horizons.
        miou: likewise of the mIoU.
    """

    clips: int
    differ: float
    iou: float
    miou: float

    def __str__(self) -> str:
        return (
            f"{100 * self.differ:.4f} % of voxels differ, IoU {self.iou:+.3f}, mIoU"
            f" {self.miou:+.3f} over {self.clips} clips"
        )


def agreement(reference: Forecaster, other: Forecaster, items: Iterable[Mapping]) -> Agreement:
    """Compare two forecasters on items of a `ClipDataset`."""
    counts, differ, clips = [0, 0], 0.0, 0
    for item in items:
        known = [item[key][None] for key in ("past", "poses", "trajectory")]
        forecasts = same_noise((reference, other), *known, seed=clips)
        for i, forecast in enumerate(forecasts):
            counts[i] = counts[i] + confusion(forecast[0].numpy(), item["future"].numpy())
        differ += float((forecasts[0] != forecasts[1]).float().mean())
        clips += 1
    theirs, ours = (score(tally(table)) for table in counts)
    gain = {name: ours[name]["avg@all"] - theirs[name]["avg@all"] for name in ("IoU", "mIoU")}
    return Agreement(clips, differ / clips, gain["IoU"], gain["mIoU"])
