"""Sets of classes that hold the truth as often as they say: split conformal prediction.

Vovk et al. (2005), Sadinle et al. (2019). A voxel's set holds every class with at least τ of the K
votes. Of n voxels of other scenes, τ is the largest number with

    #{true class has at least τ votes} >= ⌈(n + 1) (1 - α)⌉,

and where scenes are alike, sets on new ones miss the truth in at most α of the voxels, however wrong
the forecast. Votes are whole numbers, so the sets may hold it more often. Voxels of one scene depend
on each other: what is promised is for the mean over many scenes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from occdistill.data.occ3d import FREE, NUM_CLASSES
from occdistill.evaluation.measures.base import Context, Measure, Observer, futures, scene_of
from occdistill.evaluation.metrics import horizon_names
from occdistill.evaluation.rows import ClipBatch, Row

MISS = 0.1  # α


def threshold(hits: np.ndarray, miss: float = MISS) -> int:
    """τ, from calibration voxels counted by the votes of their true class, `(K + 1,)`."""
    at_least = hits[::-1].cumsum()[::-1]  # voxels whose true class has n votes or more
    wanted = math.ceil((hits.sum() + 1) * (1 - miss))
    enough = np.flatnonzero(at_least >= wanted)
    return int(enough[-1]) if len(enough) else 0


class Conformal:
    """Votes of the true class, and how many classes have how many votes, by scene.

    Only voxels that some future fills are counted: known without the truth, and not the air that
    nobody doubts.

    Args:
        frames: future frames F.
        count: futures per clip, K.
    """

    summed = ("scenes",)

    def __init__(self, frames: int, count: int) -> None:
        self.frames, self.count = frames, count
        self.scenes: dict[str, np.ndarray] = {}

    def update(self, scene: str, samples: np.ndarray, truth: np.ndarray) -> None:
        """Count one clip: uint8 `(K, F, ...)` and `(F, ...)`."""
        found = np.zeros((2, self.frames, self.count + 1), np.int64)
        for f in range(self.frames):
            here = (samples[:, f] != FREE).any(0)
            seen, true = samples[:, f][:, here], truth[f][here]
            votes = np.stack([(seen == c).sum(0) for c in range(NUM_CLASSES)])
            hits = np.take_along_axis(votes, true[None].astype(np.int64), 0)
            for part, values in zip(found, (hits, votes)):
                part[f] = np.bincount(values.ravel(), minlength=self.count + 1)
        self.scenes[scene] = self.scenes.get(scene, 0) + found

    def result(self) -> dict[str, Any] | None:
        """Every second scene calibrates the others, and the other way round; None for one scene.

        - `coverage`: percent of voxels whose set holds the true class, per horizon; at least
          `nominal` is promised.
        - `size`: classes in a set, on average, per horizon; 1 is sure.
        """
        counts = np.stack([self.scenes[name] for name in sorted(self.scenes)])
        if len(counts) < 2:
            return None
        halves = [counts[0::2].sum(0), counts[1::2].sum(0)]
        held, members, voxels = (np.zeros(self.frames) for _ in range(3))
        for (hits, sizes), (calibration, _) in zip(halves, halves[::-1]):
            for f in range(self.frames):
                tau = threshold(calibration[f])
                held[f] += hits[f, tau:].sum()
                members[f] += sizes[f, tau:].sum()
                voxels[f] += hits[f].sum()

        def share(total: np.ndarray, factor: float) -> dict[str, float]:
            per = np.divide(total, voxels, out=np.full(self.frames, np.nan), where=voxels > 0)
            names = horizon_names(self.frames)
            return {**dict(zip(names, (factor * per).tolist())), "avg@all": factor * per.mean()}

        return {
            "nominal": 100 * (1 - MISS), "coverage": share(held, 100.0), "size": share(members, 1.0)
        }  # fmt: skip


def observe(context: Context) -> Observer:
    """Sets from the futures of every row; a row that draws none has its one forecast K times."""
    dataset, count = context.dataset, context.samples

    def feed(state: Conformal, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        samples, truth = futures(row, batch, pred, count), batch.future.cpu().numpy()
        for b, index in enumerate(batch.index.tolist()):
            scene = scene_of(dataset, index)
            state.update(scene, samples[b].cpu().numpy(), truth[b])

    return Observer("conformal", lambda: Conformal(dataset.future, count), feed)


CONFORMAL = Measure(
    "conformal",
    observe,
    {
        "90 % sets hold the truth": ("conformal", "coverage", "avg@all"),
        "classes in a set": ("conformal", "size", "avg@all"),
    },
    order=7,
)
