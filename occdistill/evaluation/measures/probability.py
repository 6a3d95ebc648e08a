"""Several futures as a probability: proper scores, calibration, and skill over the rule.

The share of the futures that hold something in a voxel is a probability. Brier's score and the log
loss are best, on average, for who says what he believes: the mean of all futures doesn't win, and
neither does the likeliest. The rule is the ego-warp with objects carried on at constant velocity,
knowing of the future ego motion what the row knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from occdistill.data.occ3d import CLASS_NAMES, FREE
from occdistill.data.poses import extrapolate
from occdistill.evaluation import unseen, votes
from occdistill.evaluation.measures.base import Context, Measure, Observer, fewer, futures, scene_of
from occdistill.evaluation.metrics import horizon_names, nanmean
from occdistill.evaluation.moving import Movers
from occdistill.evaluation.rows import ClipBatch, Row, rule_name

# what is scored: title to the voxels that count (0 all, 1 where something moves) and the event
PARTS = {"all": (0, 0), "movable": (0, 1), "moving": (1, 1)}


class Probability:
    """Tables of votes by scene, of the forecast and of the rule; of fewer futures, their sum; and
    the table of `unseen`, which calibrates.

    Args:
        frames: future frames F.
        count: futures per clip, K.
    """

    summed = ("forecast", "reference", "fewer", "unseen", "clips")

    def __init__(self, frames: int, count: int) -> None:
        self.frames, self.count, self.clips = frames, count, 0
        self.forecast: dict[str, np.ndarray] = {}
        self.reference: dict[str, np.ndarray] = {}
        self.fewer = {k: 0 for k in fewer(count)}
        self.unseen = np.zeros((frames, count + 1, count + 1, 2), np.int64)

    def update(
        self,
        scene: str,
        samples: np.ndarray,
        reference: np.ndarray,
        truth: np.ndarray,
        moving: np.ndarray,
        outside: np.ndarray,
    ) -> None:
        """Count one clip.

        Args:
            scene: its name.
            samples: uint8 `(K, F, X, Y, Z)`.
            reference: the rule's forecast, uint8 `(F, X, Y, Z)`.
            truth: uint8 `(F, X, Y, Z)`.
            moving: voxels where something moves, bool `(F, X, Y, Z)`.
            outside: for each future, or for all, voxels that the newest frame's grid doesn't hold,
                bool `(K or 1, F, X, Y, Z)`.
        """
        for k in self.fewer:
            table = votes.tables(samples[:k], truth, moving)
            self.fewer[k] = self.fewer[k] + table[:, :2]
        rule = votes.tables(reference[None], truth, moving)
        for sums, own in ((self.forecast, table), (self.reference, rule)):
            sums[scene] = sums[scene] + own if scene in sums else own
        self.unseen = self.unseen + unseen.table(samples, outside, truth)
        self.clips += 1

    def chance(self) -> float:
        """λ of `unseen`, fitted on what was counted: for other clips."""
        return unseen.fit(self.unseen.sum(0))

    def result(self, chance: float | None = None) -> dict[str, Any]:
        """Scores in percent, but for the log loss, which is in hundredths of a nat a voxel.

        Args:
            chance: λ of `unseen`, fitted on other clips; None: there is none.

        Returns:
            What follows, and `k`, `clips` and `chance`.

        - `all`, `movable`, `moving`: whether a voxel is filled; whether something movable fills it;
          the same where something moves. Each has per horizon `brier`, `brier_skill` over the rule,
          `log_loss`, `ece` of n / K; `all` has with a chance `brier_calibrated`, `ece_calibrated`.
        - `skill_per_class`: Brier skill over the rule in whether a voxel has that class, all
          horizons together, everywhere (`all`) and where something moves (`moving`).
        - `by_k`: `brier_skill` per part and `log_loss`, of the first 1, 2, 4, … of the futures.
        - `reliability`: per horizon, voxels by votes (row) and outcome (column).
        - `scenes`: per part and scene, `[error, the rule's error]`, the sum of (p - y)² over all
          voxels and horizons: what intervals of differences are made of.
        - `without`: `log_loss` and `ece` of `all`, averaged over horizons, without each scene.
        """
        forecast, rule = (sum(sums.values()) for sums in (self.forecast, self.reference))
        result: dict[str, Any] = {"k": self.count, "clips": self.clips, "chance": chance}
        for part, where in PARTS.items():
            result[part] = self._scores(forecast[where], rule[where])
        if chance is not None:
            calibrated = dict(brier=unseen.brier, ece=unseen.calibration_error)
            for name, score in calibrated.items():
                result["all"][f"{name}_calibrated"] = self._named(score(self.unseen, chance))
        classes = {
            CLASS_NAMES[c]: [_pooled_skill(forecast[r, 2 + c], rule[r, 2 + c]) for r in (0, 1)]
            for c in range(FREE)
        }
        result["skill_per_class"] = {
            name: {"all": everywhere, "moving": there}
            for name, (everywhere, there) in classes.items()
        }
        result["by_k"] = {
            str(k): {
                **{part: _pooled_skill(table[w], rule[w]) for part, w in PARTS.items()},
                "log_loss": 100 * float(votes.log_loss(table[0, 0].sum(0))),
            }
            for k, table in self.fewer.items()
        }
        names = horizon_names(self.frames)
        result["reliability"] = dict(zip(names, forecast[0, 0].tolist()))
        result["scenes"] = {
            part: {s: [_error(self.forecast[s][w]), _error(self.reference[s][w])] for s in self.forecast}
            for part, w in PARTS.items()
        }  # fmt: skip
        rest = {s: (forecast - own)[0, 0] for s, own in self.forecast.items()}
        result["without"] = {
            name: {s: 100 * float(nanmean(loss(table))) for s, table in rest.items()}
            for name, loss in (("log_loss", votes.log_loss), ("ece", votes.calibration_error))
        }
        return result

    def _scores(self, table: np.ndarray, rule: np.ndarray) -> dict[str, dict[str, float]]:
        own, other = votes.brier(table), votes.brier(rule)
        scores = {
            "brier": own,
            "brier_skill": votes.skill(own, other),
            "log_loss": votes.log_loss(table),
            "ece": votes.calibration_error(table),
        }
        return {name: self._named(values) for name, values in scores.items()}

    def _named(self, values: np.ndarray) -> dict[str, float]:
        """Percent by horizon, and their mean."""
        names = horizon_names(self.frames)
        return {
            **dict(zip(names, (100 * values).tolist())),
            "avg@all": 100 * float(nanmean(values)),
        }


def _error(table: np.ndarray) -> float:
    """The sum of (p - y)² over a table's voxels."""
    table = table.sum(0)
    return float(votes.brier(table) * table.sum()) if table.any() else 0.0


def _pooled_skill(table: np.ndarray, rule: np.ndarray) -> float:
    """Brier skill in percent, all horizons together; NaN where the rule makes no error."""
    return 100 * float(votes.skill(votes.brier(table.sum(0)), votes.brier(rule.sum(0))))


class _Beside(Observer):
    """Says of each row what it was compared with, and calibrates it."""

    def __init__(self, context: Context) -> None:
        super().__init__("probability", self._make, self._feed)
        self.context, self.dataset, self.count = context, context.dataset, context.samples
        self.movers, self.carry = Movers(context.dataset), context.dataset.past >= 3

    def _make(self) -> Probability:
        return Probability(self.dataset.future, self.count)

    def _feed(self, state: Probability, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        rule = batch.rule(self.dataset.grid, self.dataset.future, _blind(row), self.carry)
        rule, truth = rule.cpu().numpy(), batch.future.cpu().numpy()
        samples, moving = futures(row, batch, pred, self.count), self.movers(batch).numpy()
        outside = self._outside(row, batch).cpu().numpy()
        for b, index in enumerate(batch.index.tolist()):
            scene = scene_of(self.dataset, index)
            state.update(scene, samples[b].cpu().numpy(), rule[b], truth[b], moving[b], outside[b])

    def _outside(self, row: Row, batch: ClipBatch) -> Tensor:
        """Of each future if each has a plan of its own, else of all, `(B, K or 1, F, X, Y, Z)`."""
        past = batch.past.shape[1]
        if row.plan is not None:
            ways = [row.plan(batch, s) for s in range(self.count if row.draw else 1)]
        elif _blind(row):
            ways = [extrapolate(batch.poses[:, :past], self.dataset.future)]
        else:
            ways = [batch.poses[:, past:]]
        return torch.stack([unseen.outside(way, self.dataset.grid) for way in ways], 1)

    def result(self, row: Row) -> dict[str, Any] | None:
        state = self.states.get(row.name)
        if state is None:
            return None
        chance = self.context.chances.get(row.name)
        return {
            **state.result(chance),
            "reference": rule_name(_blind(row), self.carry),
            "moving_by": self.movers.source,
            "fitted_on": self.context.fitted_on if chance is not None else None,
        }


def _blind(row: Row) -> bool:
    """Whether the rule must not know the future ego motion either."""
    return row.conditioning not in ("gt", "truth")


def observe(context: Context) -> Observer:
    """Counts every row's futures; a row that draws none has its one forecast K times."""
    return _Beside(context)


PROBABILITY = Measure(
    "probability",
    observe,
    {
        "Brier": ("probability", "all", "brier", "avg@all"),
        "Brier skill": ("probability", "all", "brier_skill", "avg@all"),
        "Brier skill, movable": ("probability", "movable", "brier_skill", "avg@all"),
        "Brier skill, moving": ("probability", "moving", "brier_skill", "avg@all"),
        "log loss": ("probability", "all", "log_loss", "avg@all"),
        "calibration error": ("probability", "all", "ece", "avg@all"),
        "calibrated": ("probability", "all", "ece_calibrated", "avg@all"),
    },
    order=6,
)
