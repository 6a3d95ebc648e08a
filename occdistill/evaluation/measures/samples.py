"""Several futures of one clip: the best of them, how much they differ, and whether doubt is honest.

A one-step student can keep its mIoU and lose its diversity; mIoU alone doesn't show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from occdistill.compiled import njit
from occdistill.data.occ3d import FREE
from occdistill.evaluation.confusion import Confusion, confusion
from occdistill.evaluation.measures.base import Context, Measure, Observer
from occdistill.evaluation.metrics import mean_iou, nanmean, score, tally
from occdistill.evaluation.rows import ClipBatch, Row

BINS = 10


@njit(cache=True, nogil=True)
def _vote(samples, target, free, occupancy, doubt, pairs):
    """Per voxel: how many samples see something, the vote's entropy, pairwise agreement."""
    count, bins = samples.shape[0], doubt.shape[0]
    votes = np.zeros(256, np.int64)
    most = np.log(count) if count > 1 else 1.0
    for i in range(samples.shape[1]):
        quiet = target[i] == free
        for s in range(count):
            quiet &= samples[s, i] == free
        if quiet:  # the usual voxel: everybody agrees on air
            occupancy[0, 0] += 1
            doubt[0, 0] += 1
            continue
        for s in range(count):
            votes[samples[s, i]] += 1
        filled = count - votes[free]
        occupancy[filled, 1 if target[i] != free else 0] += 1
        # pairs where at least one sees something, and of those the ones that agree
        pairs[0] += count * (count - 1) // 2 - votes[free] * (votes[free] - 1) // 2
        entropy, best, winner = 0.0, 0, 0
        for s in range(count):
            label = samples[s, i]
            n = votes[label]
            if n == 0:
                continue  # counted already
            share = n / count
            entropy -= share * np.log(share)
            if label != free:
                pairs[1] += n * (n - 1) // 2
            if n > best or (n == best and label < winner):
                best, winner = n, label
            votes[label] = 0
        b = min(int(entropy / most * bins), bins - 1)
        doubt[b, 1 if winner != target[i] else 0] += 1


class SampleSpread:
    """Best-of-k, diversity and calibration of k samples per clip.

    Args:
        frames: future frames F.
        samples: k.
    """

    summed = ("best", "every", "occupancy", "doubt", "pairs")

    def __init__(self, frames: int, samples: int) -> None:
        self.best, self.every = Confusion(frames), Confusion(frames)
        self.occupancy = np.zeros((frames, samples + 1, 2), np.int64)  # votes × truly occupied
        self.doubt = np.zeros((frames, BINS, 2), np.int64)  # entropy bin × majority is wrong
        self.pairs = np.zeros((frames, 2), np.int64)  # pairs of samples: seen, agreeing

    def update(self, samples: np.ndarray, target: np.ndarray) -> None:
        """Count one clip: uint8 `(k, F, X, Y, Z)` and `(F, X, Y, Z)`."""
        clips = [confusion(sample, target) for sample in samples]
        quality = [float(nanmean(mean_iou(tally(c)))) for c in clips]
        self.best.counts += clips[int(np.nanargmax(quality)) if np.isfinite(quality).any() else 0]
        self.every.counts += sum(clips)
        for f in range(target.shape[0]):
            _vote(
                np.ascontiguousarray(samples[:, f]).reshape(len(samples), -1),
                np.ascontiguousarray(target[f]).reshape(-1),
                np.uint8(FREE),
                self.occupancy[f],
                self.doubt[f],
                self.pairs[f],
            )

    def result(self) -> dict:
        """What the samples show.

        - `best_of_k`, `mean_of_k`: `IoU` and `mIoU` per horizon in percent, of the sample closest
          to the truth per clip (an oracle's choice) and of all samples.
        - `diversity`: percent per horizon; of the pairs of samples of which at least one sees
          something in a voxel, the share that differ there. 0: all samples are the same.
        - `calibration`: `ece` of the occupancy probability over voxels that any sample fills
          (percent), `entropy_auroc`: chance that a voxel the majority gets wrong has more doubt
          than one it gets right, and both tables, summed over horizons.
        """
        best, every = (score(tally(c.counts)) for c in (self.best, self.every))
        occupancy, doubt = self.occupancy.sum(0), self.doubt.sum(0)
        seen, agree = self.pairs.T
        differ = np.divide(seen - agree, seen, out=np.full(len(seen), np.nan), where=seen > 0)
        names = list(best["IoU"])[: len(seen)]
        return {
            "k": len(occupancy) - 1,
            "best_of_k": {k: best[k] for k in ("IoU", "mIoU")},
            "mean_of_k": {k: every[k] for k in ("IoU", "mIoU")},
            "diversity": {
                **dict(zip(names, (100 * differ).tolist())),
                "avg@all": 100 * float(differ.mean()),
            },
            "calibration": {
                "ece": 100 * expected_calibration_error(occupancy),
                "entropy_auroc": auroc(doubt),
                "occupied_by_votes": occupancy.tolist(),
                "wrong_by_entropy": doubt.tolist(),
            },
        }


def expected_calibration_error(votes: np.ndarray) -> float:
    """Mean gap between predicted and true occupancy over voxels with at least one vote, 0 to 1.

    Args:
        votes: counts `(k + 1, 2)`: row n holds voxels that n of k samples fill; columns: truly
            free, truly occupied.
    """
    voted = votes[1:].astype(np.float64)
    total = voted.sum(1)
    if not total.any():
        return float("nan")
    probability = np.arange(1, len(votes)) / (len(votes) - 1)
    gap = np.abs(voted[:, 1] - probability * total)
    return float(gap.sum() / total.sum())


def auroc(bins: np.ndarray) -> float:
    """Chance that a random wrong voxel lies in a higher bin than a right one; ties count half.

    Args:
        bins: counts `(B, 2)`, rising doubt; columns: right, wrong.
    """
    right, wrong = bins.T.astype(np.float64)
    if not right.sum() or not wrong.sum():
        return float("nan")
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum() / (right.sum() * wrong.sum()))


class _OnlyDrawn(Observer):
    def result(self, row: Row) -> Any:
        return None if row.draw is None else super().result(row)


def observe(context: Context) -> Observer:
    """Best-of-k, diversity and calibration of the rows that can draw several futures."""
    frames, count = context.dataset.future, context.samples

    def feed(state: SampleSpread, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        if row.draw is None:
            return
        futures = torch.stack([pred, *(row.draw(batch, s) for s in range(1, count))], 1)
        for voxels, truth in zip(futures.cpu().numpy(), batch.future.cpu().numpy()):
            state.update(voxels, truth)

    return _OnlyDrawn("samples", lambda: SampleSpread(frames, count), feed)


SAMPLES = Measure(
    "samples",
    observe,
    {
        "best-of-k mIoU": ("samples", "best_of_k", "mIoU", "avg@1,2,3s"),
        "diversity": ("samples", "diversity", "avg@all"),
        "calibration error": ("samples", "calibration", "ece"),
    },
    order=5,
)
