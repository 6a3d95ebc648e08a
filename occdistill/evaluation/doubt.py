"""What several futures say, as tables of the report: probabilities, the rule, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES, MOVABLE
from occdistill.evaluation.intervals import margin
from occdistill.flow.guidance import evaluations


class Table(NamedTuple):
    """A title, what a reader must know, and the table."""

    title: str
    about: str
    header: Sequence[str]
    body: Sequence[Sequence[Any]]


def tables(rows: Sequence[dict]) -> list[Table]:
    """Those that the rows of `report.json` have numbers for, each row once."""
    scored = [r for r in rows if (r.get("measures") or {}).get("probability")]
    if not scored:
        return []
    return [_skills(scored), _horizons(scored), _classes(scored), *_costs(scored)]


def _of(row: dict, *keys: str) -> Any:
    found: Any = row["measures"]
    for key in keys:
        found = (found or {}).get(key)
    return found


def leave_one_out(scenes: dict[str, Sequence[float]]) -> np.ndarray:
    """Brier skill over all scenes but one, percent, `(S,)`, from `[error, the rule's error]`."""
    errors = np.array([scenes[name] for name in sorted(scenes)], np.float64)
    own, rule = (errors.sum(0) - errors).T
    return 100 * (1 - np.divide(own, rule, out=np.full(len(rule), np.nan), where=rule > 0))


def pooled(scenes: dict[str, Sequence[float]]) -> float:
    """Brier skill over all scenes and horizons, percent."""
    own, rule = np.sum([*scenes.values()], 0)
    return 100 * (1 - own / rule) if rule > 0 else float("nan")


def _within(value: float, without: np.ndarray, sign: str = "") -> str:
    half = margin(without)
    text = "–" if np.isnan(value) else f"{value:{sign}.2f}"
    return text if half is None else f"{text} ± {half:.2f}"


def _skills(rows: Sequence[dict]) -> Table:
    """Skill with its interval, and the paired difference to the first row."""
    first, parts = rows[0], ("all", "movable", "moving")
    body = []
    for row in rows:
        line = [row["model"], row["nfe"], _of(row, "probability", "reference")]
        for part in parts:
            own, other = (_of(r, "probability", "scenes", part) for r in (row, first))
            line.append(_within(pooled(own), leave_one_out(own)))
            same = _of(row, "probability", "reference") == _of(first, "probability", "reference")
            if row is first or not same:
                line.append(None)
            else:
                gap = leave_one_out(own) - leave_one_out(other)
                line.append(_within(pooled(own) - pooled(other), gap, "+"))
        line += [_best(row, "mIoU"), _best(row, "movable")]
        line += [_of(row, "samples", "diversity", "avg@all"), _beside_teacher(row, rows)]
        body.append(line)
    k, by = _of(first, "probability", "k"), _of(first, "probability", "moving_by")
    about = (
        f"{k} futures a clip. Brier skill over the rule that carries objects on, percent, with a 95 % "
        "interval over scenes, for whether a voxel is filled, whether something movable fills it, "
        f"and the same within 1 m of where something faster than 0.5 m/s is or will be (by {by}); Δ "
        f"is to {first['model']}@{first['nfe']}, paired. A row without a network has one future. "
        "Best-of-k is avg@all."
    )
    header = ["model", "NFE", "the rule"]
    header += [h for part in parts for h in (f"skill, {part}", f"Δ {part}")]
    header += ["best-of-k mIoU", "movable", "diversity", "of the teacher's"]
    return Table("As probabilities", about, header, body)


def _best(row: dict, metric: str) -> float | None:
    return _of(row, "samples", "best_of_k", metric, "avg@all")


def _beside_teacher(row: dict, rows: Sequence[dict]) -> str | None:
    """Diversity as a share of what the teacher with the most evaluations has."""
    teachers = [r for r in rows if r["model"] == "teacher" and _of(r, "samples")]
    own = _of(row, "samples", "diversity", "avg@all")
    if not teachers or own is None:
        return None
    most = _of(max(teachers, key=lambda r: r["nfe"]), "samples", "diversity", "avg@all")
    return f"{100 * own / most:.0f} %" if most else None


def _horizons(rows: Sequence[dict]) -> Table:
    names = list(_of(rows[0], "probability", "reliability"))
    lines = {
        "Brier": ("probability", "all", "brier"),
        "Brier skill": ("probability", "all", "brier_skill"),
        "Brier skill, movable": ("probability", "movable", "brier_skill"),
        "Brier skill, moving": ("probability", "moving", "brier_skill"),
        "Brier, calibrated": ("probability", "all", "brier_calibrated"),
        "log loss": ("probability", "all", "log_loss"),
        "ECE": ("probability", "all", "ece"),
        "ECE, calibrated": ("probability", "all", "ece_calibrated"),
        "coverage of 90 % sets": ("conformal", "coverage"),
        "best-of-k mIoU": ("samples", "best_of_k", "mIoU"),
        "diversity": ("samples", "diversity"),
        "Fréchet": ("latent", "horizons"),
    }
    body = []
    for row in rows:
        for title, path in lines.items():
            values = _of(row, *path)
            if values:
                body.append([row["model"], row["nfe"], title, *(values.get(n) for n in names)])
    fitted = {_of(r, "probability", "fitted_on") for r in rows} - {None}
    about = (
        "Percent; log loss of (n + 1) / (k + 2) in hundredths of a nat a voxel. The calibration "
        "error (ECE) is over the voxels that truth or forecast fill."
    )
    if fitted:
        chances = ", ".join(
            f"{r['model']}{'' if r['nfe'] is None else '@' + str(r['nfe'])} {chance:.3f}"
            for r in rows
            if (chance := _of(r, "probability", "chance")) is not None
        )
        about += (
            " Calibrated: air outside the newest frame's grid is filled with a chance that was "
            f"fitted on {fitted.pop()}: {chances}."
        )
    return Table(
        "Probabilities, horizon by horizon", about, ["model", "NFE", "score", *names], body
    )


def _classes(rows: Sequence[dict]) -> Table:
    """Per movable class, how far each row is ahead of the rule."""
    body = []
    for row in rows:
        for where in ("all", "moving"):
            skills = _of(row, "probability", "skill_per_class")
            values = [skills[CLASS_NAMES[c]][where] for c in MOVABLE]
            body.append([row["model"], row["nfe"], where, *values])
    about = (
        "Brier skill in whether a voxel holds the class, percent, all horizons together: above 0 "
        "the row beats the rule that carries objects on. `moving`: where something moves."
    )
    names = [CLASS_NAMES[c].replace("_", " ") for c in MOVABLE]
    return Table("Against the rule, class by class", about, ["model", "NFE", "where", *names], body)


def _costs(rows: Sequence[dict]) -> list[Table]:
    """Quality against evaluations and milliseconds, for 1, 2, 4, … futures of each model."""
    body = []
    for row in rows:
        best, latency = _of(row, "samples", "best_by_k"), row.get("latency_ms") or {}
        if row["nfe"] is None or best is None:
            continue
        passes = row["nfe"] * evaluations(row["guidance"])
        for k, scores in _of(row, "probability", "by_k").items():
            line = [
                row["model"],
                row["nfe"],
                int(k),
                int(k) * passes,
                _milliseconds(latency, int(k)),
            ]
            line += [scores[name] for name in ("all", "movable", "moving", "log_loss")]
            body.append([*line, best[k]])
    about = (
        "Network evaluations for k futures (a guided one is two), and milliseconds: the past encoded "
        "once, then k times the median of generating and decoding one future of one clip. Quality is "
        "of the first k futures; Brier skill of all horizons together, percent."
    )
    header = ["model", "NFE", "k", "evaluations", "ms", "Brier skill", "movable", "moving"]
    header += ["log loss", "best-of-k mIoU"]
    return [Table("What futures cost", about, header, body)] if body else []


def _milliseconds(latency: dict, k: int) -> float | None:
    if not latency:
        return None
    whole, future = (latency[scope]["p50"] for scope in ("end_to_end", "generate_decode"))
    return whole + (k - 1) * future
