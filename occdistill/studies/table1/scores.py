"""What a table says of rows as probabilities, with intervals that take scenes and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from occdistill.evaluation import doubt
from occdistill.evaluation.intervals import margin

Number = tuple[float, np.ndarray | None]  # a value, and what it is without each scene `(S,)`


def _skill(part: str) -> Callable[[Mapping], Number]:
    def read(measures: Mapping) -> Number:
        scenes = measures["probability"]["scenes"][part]
        return doubt.pooled(scenes), doubt.leave_one_out(scenes)

    return read


def _average(name: str, without: str, *path: str) -> Callable[[Mapping], Number]:
    def read(measures: Mapping) -> Number:
        value, rest = measures[name], measures[name]["without"][without]
        for key in path:
            value = value[key]
        return _number(value), np.array([_number(rest[s]) for s in sorted(rest)])

    return read


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


SCORES: dict[str, Callable[[Mapping], Number]] = {
    "skill": _skill("all"),
    "skill, movable": _skill("movable"),
    "skill, moving": _skill("moving"),
    "log loss": _average("probability", "log_loss", "all", "log_loss", "avg@all"),
    "ECE": _average("probability", "ece", "all", "ece", "avg@all"),
    "best-of-k mIoU": _average("samples", "best_of_k", "best_of_k", "mIoU", "avg@all"),
    "diversity": _average("samples", "diversity", "diversity", "avg@all"),
    "Fréchet": lambda measures: (_number(measures["latent"]["frame"]["frechet"]), None),
}


def of(measures: Mapping[str, Any], name: str) -> Number:
    """One of `SCORES` of what a run measured; NaN where it doesn't apply.

    Args:
        measures: of `run.json`.
        name: of the score.
    """
    try:
        return SCORES[name](measures)
    except KeyError:  # a baseline draws no futures
        return float("nan"), None


def over_seeds(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A row's mean over its runs' measures: `mean`, `spread`, `values`, `interval`."""
    return around(*_stacked(runs, name))


def gap(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], name: str
) -> dict[str, Any]:
    """`value`, a row's mean over seeds minus another's on the same scenes, and its `interval`."""
    return difference(_stacked(ours, name), _stacked(theirs, name))


def _stacked(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray | None]:
    values, without = zip(*(of(run, name) for run in runs))
    known = all(rest is not None for rest in without)
    return np.array(values), np.stack(without) if known else None


def around(values: np.ndarray, without: np.ndarray | None) -> dict[str, Any]:
    """The mean over seeds with its 95 % interval over scenes and seeds.

    Args:
        values: of each seed, `(R,)`.
        without: of each seed, without each scene, `(R, S)`; None: nothing says how far it moves.

    Returns:
        `mean`, `spread` (standard deviation over seeds, NaN for one), `values`, and `interval`,
        None where `intervals.margin` is.
    """
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    half = None if without is None else margin(without.mean(0), seeds=[values])
    interval = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "spread": spread, "values": values.tolist(), "interval": interval}


def difference(
    ours: tuple[np.ndarray, np.ndarray | None], theirs: tuple[np.ndarray, np.ndarray | None]
) -> dict[str, Any]:
    """`value`, our mean over seeds minus theirs, and its `interval`: paired over scenes, not over
    seeds, which are other draws in every row. Arguments as of `around`.
    """
    (a, rest_a), (b, rest_b) = ours, theirs
    value, half = float(a.mean() - b.mean()), None
    if rest_a is not None and rest_b is not None:
        half = margin(rest_a.mean(0) - rest_b.mean(0), seeds=[a, b])
    return {"value": value, "interval": None if half is None else [value - half, value + half]}
