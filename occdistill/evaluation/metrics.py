"""From counts to IoU: per horizon, per class, averaged, with every convention spelled out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES, FREE

AVERAGES = {"avg@1,2,3s": ("1.0s", "2.0s", "3.0s"), "avg@all": None}


@dataclass(frozen=True)
class Rules:
    """How counts become one number.

    Attributes:
        classes: ids whose IoU is averaged to mIoU; 0..16 is the field's choice ("others" counts,
            free doesn't).
        absent: value of a class that never occurs in the targets at that horizon. `nan`: not
            averaged, and listed by name; `one`: 1.0 whatever was predicted (OccWorld family);
            `union`: 0 if it was predicted, not averaged if neither occurs.
        zero: `drop` leaves a class out of the mean if its IoU is exactly 0 (I²-World family).
        decimals: round the percentages before averaging over horizons, and after.
    """

    classes: tuple[int, ...] = tuple(range(FREE))
    absent: Literal["nan", "one", "union"] = "nan"
    zero: Literal["keep", "drop"] = "keep"
    decimals: int | None = None


def horizon_names(frames: int, rate: float = 2.0) -> list[str]:
    """Names of F future frames at `rate` Hz: `0.5s`, `1.0s`, …"""
    return [f"{(i + 1) / rate:.1f}s" for i in range(frames)]


def tally(confusion: np.ndarray) -> np.ndarray:
    """Hits, true and predicted voxels: `(..., C, C)` to int64 `(..., 3, C)`.

    All that any IoU needs, 6 times smaller than the matrix: this is what is kept per clip.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-1), confusion.sum(-2)], axis=-2).astype(np.int64)


def occupied(tally: np.ndarray) -> np.ndarray:
    """The counts of free against anything else: `(..., 3, C)` to those of occupied, `(..., 3)`."""
    hits, true, predicted = (tally[..., i, :] for i in range(3))
    total = true.sum(-1)
    return np.stack(
        [
            total - true[..., FREE] - predicted[..., FREE] + hits[..., FREE],
            total - true[..., FREE],
            total - predicted[..., FREE],
        ],
        axis=-1,
    )


def iou(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray, absent: str = "nan"):
    """`hits / (true + predicted - hits)` in [0, 1], float64, with `Rules.absent` applied."""
    union = np.asarray(true + predicted - hits, np.float64)
    ratio = np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)
    if absent == "union":
        return ratio
    return np.where(np.asarray(true) == 0, 1.0 if absent == "one" else np.nan, ratio)


def nanmean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of what isn't NaN; NaN, silently, where nothing is left."""
    valid = ~np.isnan(values)
    count = valid.sum(axis)
    total = np.where(valid, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def class_iou(tally: np.ndarray, rules: Rules = Rules()) -> np.ndarray:
    """IoU of each class in `rules.classes`, `(..., 3, C)` to `(..., len(classes))` in [0, 1]."""
    return iou(*(tally[..., i, list(rules.classes)] for i in range(3)), rules.absent)


def mean_iou(tally: np.ndarray, rules: Rules = Rules()) -> np.ndarray:
    """mIoU under `rules`, `(..., 3, C)` to `(...)` in [0, 1]."""
    values = class_iou(tally, rules)
    if rules.zero == "drop":
        values = np.where(values == 0, np.nan, values)
    return nanmean(values, -1)


def binary_iou(tally: np.ndarray, rules: Rules = Rules()) -> np.ndarray:
    """IoU of occupied against free, `(..., 3, C)` to `(...)` in [0, 1]."""
    counts = occupied(tally)
    return iou(*(counts[..., i] for i in range(3)), rules.absent)


def _per_horizon(values: np.ndarray, names: list[str], rules: Rules, mean) -> dict[str, float]:
    percent = 100 * np.asarray(values, np.float64)
    if rules.decimals is not None:
        percent = percent.round(rules.decimals)
    result = dict(zip(names, percent.tolist()))
    for average, members in AVERAGES.items():
        members = members or names
        known = all(name in result for name in members)
        value = float(mean(np.array([result[n] for n in members]))) if known else float("nan")
        result[average] = value if rules.decimals is None else round(value, rules.decimals)
    return result


def score(tally: np.ndarray, rules: Rules = Rules(), rate: float = 2.0) -> dict:
    """All percentages of one row.

    Args:
        tally: int64 `(F, 3, C)`, summed over the clips that count.
        rules: conventions.
        rate: keyframes a second.

    Returns:
        `IoU` and `mIoU`: horizon or average name to percent; `per_class`: class name to the same;
        `absent`: horizon to the names of classes without a true voxel. A per-class average is over
        the horizons where the class occurs. `avg@1,2,3s` is NaN if a horizon is missing.
    """
    names = horizon_names(len(tally), rate)
    per_class = class_iou(tally, rules)
    missing = tally[:, 1, list(rules.classes)] == 0
    return {
        "IoU": _per_horizon(binary_iou(tally, rules), names, rules, np.mean),
        "mIoU": _per_horizon(mean_iou(tally, rules), names, rules, np.mean),
        "per_class": {
            CLASS_NAMES[c]: _per_horizon(per_class[:, i], names, rules, nanmean)
            for i, c in enumerate(rules.classes)
        },
        "absent": {
            name: [CLASS_NAMES[c] for c, gone in zip(rules.classes, row) if gone]
            for name, row in zip(names, missing)
        },
    }
