"""Is A better than B, or were the scenes kind? Intervals over scenes, paired.

Clips of one scene share buildings, traffic and weather, so a scene is what counts as one
observation. Each is left out in turn, in all runs alike, and the scores are recomputed from the
summed counts of the others, as they are on the whole set: how much they move is the jackknife's
standard error (Tukey, 1958), and Student's t with one degree of freedom less than scenes makes an
interval of it. `benchmarks/interval_coverage.py` measures how often such intervals hold the truth,
beside bootstrap intervals, which are too narrow for a dozen scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, slug
from occdistill.evaluation.intervals import margin
from occdistill.evaluation.metrics import binary_iou, horizon_names, mean_iou, score
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.report import table
from occdistill.store import read_json, reading

METRICS = {"mIoU": mean_iou, "IoU": binary_iou}
FEW = 30  # scenes, below which intervals miss more often than their name says


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
    advice = "give one that tools/test.py or tools/score.py wrote"
    with reading(path, "report.json", advice):
        names = [_row_name(row) for row in read_json(path, "report.json", advice, dict)["rows"]]
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


def leave_one_out(tallies: np.ndarray, metric: str, protocol: Protocol) -> np.ndarray:
    """Averages over all scenes but one, `(R, S, F, 3, C)` to `(R, S)`."""
    return average(tallies.sum(1, keepdims=True) - tallies, metric, protocol)


def compare(
    runs: Sequence[Run], protocol: Protocol, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Each run's averages with intervals, and its paired difference to the first run.

    Args:
        runs: scored on the same clips; the first is the reference.
        protocol: its average, windows and rounding are used.
        confidence: nominal coverage of the intervals, in (0, 1).

    Returns:
        Per run: `name`, `scenes`, and per metric `value`, `interval` (low, high), `difference` and
        `difference_interval`, in percent and points; an interval is None where `margin` is.

    Raises:
        UserError: if the runs can't be compared (`scene_tallies`), or for a `confidence` outside
            (0, 1).
    """
    if not 0 < confidence < 1:
        raise UserError(f"a confidence of {confidence} is none: choose between 0 and 1, as 0.95")
    tallies = scene_tallies(runs, protocol)
    scores = [score(total, protocol.rules) for total in tallies.sum(1)]
    result = [{"name": run.name, "scenes": tallies.shape[1]} for run in runs]

    def around(value: float, without: np.ndarray) -> list[float] | None:
        half = margin(without, confidence)
        return None if half is None else [value - half, value + half]

    for metric in METRICS:
        without = leave_one_out(tallies, metric, protocol)
        reference = scores[0][metric][protocol.average]
        for entry, own, rest in zip(result, scores, without):
            value = own[metric][protocol.average]
            gap = value - reference
            if protocol.rules.decimals is not None:
                gap = round(gap, protocol.rules.decimals)
            entry[metric] = {
                "value": value,
                "interval": around(value, rest),
                "difference": gap,
                "difference_interval": around(gap, rest - without[0]),
            }
    return result


def reservations(scenes: int, seeds: bool = False) -> str:
    """What an interval over this many scenes, or scenes and training `seeds`, does and doesn't say,
    as sentences.
    """
    if scenes < 2:
        return "One scene says nothing about others: there are no intervals."
    about = (
        f"Intervals are over {scenes} scenes and each row's seeds: where the number would settle with "
        "many more of both; other places aren't in them."
        if seeds
        else f"Intervals are over {scenes} scenes: where the number would settle with many more "
        "scenes of the same kind and the same weights; other training seeds and other places aren't "
        "in them."
    )
    if scenes < FEW:
        about += (
            " So few scenes leave out rare classes, and a difference whose interval leaves out 0 "
            "is a hint that other scenes may not bear out."
        )
    return about


def comparison_page(
    result: Sequence[dict[str, Any]], protocol: Protocol, confidence: float = 0.95
) -> str:
    """The comparison as a table; the first run is the reference."""
    span = f"{100 * confidence:g} %"
    header = ["run", *(f"{m} {protocol.average} [{span}]" for m in METRICS)]
    header += [f"Δ {m} to the first [{span}]" for m in METRICS]
    body = []
    for entry in result:
        line = [entry["name"]]
        line += [with_interval(entry[m]["value"], entry[m]["interval"]) for m in METRICS]
        if entry is result[0]:
            line += ["–"] * len(METRICS)
        else:
            line += [
                with_interval(entry[m]["difference"], entry[m]["difference_interval"], "+")
                for m in METRICS
            ]
        body.append(line)
    about = f"Protocol `{protocol.name}`. {reservations(result[0]['scenes'])}"
    if protocol.rules.zero == "drop":
        about += (
            " A class at exactly 0 leaves this protocol's mean: more scenes, in which such a class "
            "has its first hits, lower the mIoU, so few scenes flatter it."
        )
    return f"{about}\n\n{table(header, body)}\n"


def with_interval(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    """`58.20 [57.10, 59.30]`, or the value alone; `sign="+"` shows plus signs."""
    if interval is None:
        return f"{value:{sign}.2f}"
    low, high = interval
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
