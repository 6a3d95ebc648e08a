"""Several futures of one clip: the best of them, how much they differ, and what doubt finds.

A one-step student can keep its mIoU and lose its diversity; mIoU alone doesn't show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from occdistill.compiled import njit
from occdistill.data.occ3d import FREE, MOVABLE
from occdistill.evaluation.confusion import Confusion, confusion
from occdistill.evaluation.measures.base import Context, Measure, Observer, fewer, futures, scene_of
from occdistill.evaluation.metrics import Rules, mean_iou, nanmean, score, tally
from occdistill.evaluation.rows import ClipBatch, Row

BINS = 10


@njit(cache=True, nogil=True)
def _vote(samples, target, free, doubt, pairs):
    """Per voxel: the vote's entropy, pairwise agreement."""
    count, bins = samples.shape[0], doubt.shape[0]
    votes = np.zeros(256, np.int64)
    most = np.log(count) if count > 1 else 1.0
    for i in range(samples.shape[1]):
        quiet = target[i] == free
        for s in range(count):
            quiet &= samples[s, i] == free
        if quiet:  # the usual voxel: everybody agrees on air
            doubt[0, 0] += 1
            continue
        for s in range(count):
            votes[samples[s, i]] += 1
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
    """Best-of-k, diversity and doubt of k samples per clip.

    Args:
        frames: future frames F.
        samples: k.
    """

    summed = ("best", "every", "best_in", "pairs_in", "doubt", "pairs")

    def __init__(self, frames: int, samples: int) -> None:
        self.best = {k: Confusion(frames) for k in fewer(samples)}  # of the first k
        self.every = Confusion(frames)
        self.best_in: dict[str, np.ndarray] = {}  # by scene, the tally of the best of k
        self.pairs_in: dict[str, np.ndarray] = {}
        self.doubt = np.zeros((frames, BINS, 2), np.int64)  # entropy bin × majority is wrong
        self.pairs = np.zeros((frames, 2), np.int64)  # pairs of samples: seen, agreeing

    def update(self, samples: np.ndarray, target: np.ndarray, scene: str = "") -> None:
        """Count one clip of a scene: uint8 `(k, F, X, Y, Z)` and `(F, X, Y, Z)`."""
        clips = [confusion(sample, target) for sample in samples]
        quality = [float(nanmean(mean_iou(tally(c)))) for c in clips]
        for k, best in self.best.items():
            first = quality[:k]
            chosen = clips[int(np.nanargmax(first)) if np.isfinite(first).any() else 0]
            best.counts += chosen
        self.every.counts += sum(clips)
        pairs = self.pairs.copy()
        for f in range(target.shape[0]):
            _vote(
                np.ascontiguousarray(samples[:, f]).reshape(len(samples), -1),
                np.ascontiguousarray(target[f]).reshape(-1),
                np.uint8(FREE),
                self.doubt[f],
                self.pairs[f],
            )
        self.best_in[scene] = self.best_in.get(scene, 0) + tally(chosen)
        self.pairs_in[scene] = self.pairs_in.get(scene, 0) + self.pairs - pairs

    def result(self) -> dict:
        """What the samples show.

        - `best_of_k`, `mean_of_k`: `IoU` and `mIoU` per horizon in percent, of the sample closest
          to the truth per clip (an oracle's choice, by mIoU) and of all samples; `movable` is the
          mIoU of the classes that can move.
        - `best_by_k`: mIoU, averaged over all horizons, of the best of the first 1, 2, 4, … .
        - `diversity`: percent per horizon; of the pairs of samples of which at least one sees
          something in a voxel, the share that differ there. 0: all samples are the same.
        - `entropy_auroc`: chance that a voxel the majority gets wrong has more doubt than one it
          gets right; `wrong_by_entropy`: its table, summed over horizons.
        - `without`: `best_of_k` (mIoU) and `diversity`, averaged over all horizons, without each
          scene: what intervals are made of.
        """
        k, doubt = max(self.best), self.doubt.sum(0)
        best, differ = tally(self.best[k].counts), _differ(self.pairs)
        without = {
            "best_of_k": {
                s: 100 * float(mean_iou(best - own).mean()) for s, own in self.best_in.items()
            },
            "diversity": {
                s: 100 * float(_differ(self.pairs - own).mean()) for s, own in self.pairs_in.items()
            },
        }
        every = _scores(self.every)
        names = list(every["IoU"])[: len(differ)]
        return {
            "k": k,
            "best_of_k": _scores(self.best[k]),
            "mean_of_k": every,
            "best_by_k": {str(k): _scores(c)["mIoU"]["avg@all"] for k, c in self.best.items()},
            "diversity": {
                **dict(zip(names, (100 * differ).tolist())),
                "avg@all": 100 * float(differ.mean()),
            },
            "entropy_auroc": auroc(doubt),
            "wrong_by_entropy": doubt.tolist(),
            "without": without,
        }


def _differ(pairs: np.ndarray) -> np.ndarray:
    """Share of pairs that differ, of `(F, 2)` seen and agreeing ones, `(F,)`."""
    seen, agree = pairs.T
    return np.divide(seen - agree, seen, out=np.full(len(seen), np.nan), where=seen > 0)


def _scores(counted: Confusion) -> dict[str, dict[str, float]]:
    tallies = tally(counted.counts)
    whole, movable = score(tallies), score(tallies, Rules(classes=MOVABLE))
    return {"IoU": whole["IoU"], "mIoU": whole["mIoU"], "movable": movable["mIoU"]}


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
    """Best-of-k, diversity and doubt of the rows that can draw several futures."""
    dataset, count = context.dataset, context.samples

    def feed(state: SampleSpread, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        if row.draw is None:
            return
        drawn = futures(row, batch, pred, count)
        parts = zip(batch.index.tolist(), drawn.cpu().numpy(), batch.future.cpu().numpy())
        for index, voxels, truth in parts:
            state.update(voxels, truth, scene_of(dataset, index))

    return _OnlyDrawn("samples", lambda: SampleSpread(dataset.future, count), feed)


SAMPLES = Measure(
    "samples",
    observe,
    {
        "best-of-k mIoU": ("samples", "best_of_k", "mIoU", "avg@1,2,3s"),
        "diversity": ("samples", "diversity", "avg@all"),
        "doubt finds errors": ("samples", "entropy_auroc"),
    },
    order=5,
)
