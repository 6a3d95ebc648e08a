"""Is A better than B, or were the scenes kind? Paired bootstrap over scenes.

Clips of one scene share buildings, traffic and weather, so scenes are what is drawn anew (Efron and
Tibshirani, 1993), the same draw for every run. Scores are recomputed from summed counts of each
draw, as they are on the whole set; a mean of per-scene scores would be another number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, slug
from occdistill.evaluation.metrics import binary_iou, horizon_names, mean_iou
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.report import table

METRICS = {"mIoU": mean_iou, "IoU": binary_iou}


@dataclass
class Run:
    """One row of one report: `name`, its facts, and its counts."""

    name: str
    facts: dict[str, Any]
    counts: Counts


def load_run(spec: str) -> Run:
    """A run from `report.json[:row]`; without a row, the student's, or the first forecaster's.

    Raises:
        UserError: no such report, row or counts.
    """
    path, _, wanted = spec.rpartition(":") if ".json:" in spec else (spec, "", "")
    folder = Path(path).parent / "counts"
    try:
        report = json.loads(Path(path).read_text())
        names = [_row_name(row) for row in report["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no report.json of tools/test.py or tools/score.py ({error})"
        ) from error
    names = list(dict.fromkeys(names))
    if not wanted:
        students = [name for name in names if name.startswith("student")]
        models = [name for name in names if "@" in name]
        wanted = (students or models or names)[0]
    if wanted not in names:
        raise UserError(f"{path} has no row {wanted!r}; it has {', '.join(names)}")
    counts, facts = Counts.load(folder / slug(wanted))
    return Run(f"{Path(path).resolve().parent.name}:{wanted}", facts, counts)


def _row_name(row: dict) -> str:
    return row["model"] if row["nfe"] is None else f"{row['model']}@{row['nfe']}"


def scene_tallies(runs: Sequence[Run], protocol: Protocol) -> np.ndarray:
    """Counts per run and scene, int64 `(R, S, F, 3, C)`, of the windows that all runs share.

    Raises:
        UserError: if they share none, or one lacks windows that another has.
    """
    ids = [{w.id for w in r.counts.windows if w.newest in protocol.windows(w.length)} for r in runs]
    for run, own in zip(runs, ids):
        if own != ids[0]:
            few = len(own ^ ids[0])
            raise UserError(
                f"{run.name} and {runs[0].name} were scored on different clips ({few} differ "
                f"under {protocol.name!r}): score both on the same data and windows"
            )
    if not ids[0]:
        raise UserError(f"no clip of these runs is a window of protocol {protocol.name!r}")
    per_run = []
    for run in runs:
        chosen = np.array([w.id in ids[0] for w in run.counts.windows])
        scenes = run.counts.by_scene(protocol.view, chosen)
        per_run.append(np.stack([scenes[name] for name in sorted(scenes)]))
    return np.stack(per_run)


def average(tally: np.ndarray, metric: str, protocol: Protocol) -> np.ndarray:
    """The protocol's average in percent, `(..., F, 3, C)` to `(...)`."""
    values = 100 * METRICS[metric](tally, protocol.rules)
    if protocol.average == "avg@all":
        return values.mean(-1)
    names = horizon_names(values.shape[-1])
    return values[..., [names.index(h) for h in ("1.0s", "2.0s", "3.0s")]].mean(-1)


def bootstrap(
    tallies: np.ndarray, metric: str, protocol: Protocol, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """Averages of resampled sets of scenes, `(R, S, F, 3, C)` to `(R, draws)`, paired by column."""
    runs, scenes = tallies.shape[:2]
    weights = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), draws)
    flat = tallies.reshape(runs, scenes, -1)
    result = np.empty((runs, draws))
    for start in range(0, draws, 256):
        part = weights[start : start + 256]
        summed = np.stack([part @ run for run in flat]).reshape(runs, -1, *tallies.shape[2:])
        result[:, start : start + 256] = average(summed, metric, protocol)
    return result


def compare(
    runs: Sequence[Run],
    protocol: Protocol,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict]:
    """Each run's averages with intervals, and its paired difference to the first run.

    Returns:
        Per run: `name`, and per metric `value`, `interval`, `difference`, `difference_interval`
        and `better` (share of draws in which it beats the first run; ties count half).
    """
    tallies = scene_tallies(runs, protocol)
    tail = 100 * (1 - confidence) / 2
    result = [{"name": run.name, "scenes": tallies.shape[1]} for run in runs]
    for metric in METRICS:
        values = average(tallies.sum(1), metric, protocol)
        draws_of = bootstrap(tallies, metric, protocol, draws, seed)
        for i, entry in enumerate(result):
            gap = draws_of[i] - draws_of[0]
            entry[metric] = {
                "value": float(values[i]),
                "interval": np.percentile(draws_of[i], [tail, 100 - tail]).tolist(),
                "difference": float(values[i] - values[0]),
                "difference_interval": np.percentile(gap, [tail, 100 - tail]).tolist(),
                "better": float((gap > 0).mean() + (gap == 0).mean() / 2),
            }
    return result


def markdown(result: list[dict], protocol: Protocol, confidence: float = 0.95) -> str:
    """The comparison as a table; the first run is the reference."""
    span = f"{100 * confidence:g} %"
    header = ["run", *(f"{m} {protocol.average} [{span}]" for m in METRICS)]
    header += [f"Δ {m} to the first [{span}]" for m in METRICS]
    body = []
    for entry in result:
        line = [entry["name"]]
        line += [_with_interval(entry[m]["value"], entry[m]["interval"]) for m in METRICS]
        if entry is result[0]:
            line += ["–"] * len(METRICS)
        else:
            line += [
                _with_interval(entry[m]["difference"], entry[m]["difference_interval"], "+")
                for m in METRICS
            ]
        body.append(line)
    about = (
        f"Protocol `{protocol.name}`, paired bootstrap over {result[0]['scenes']} scenes. "
        "An interval of differences without 0 is a difference that other scenes would show too."
    )
    return f"{about}\n\n{table(header, body)}\n"


def _with_interval(value: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
