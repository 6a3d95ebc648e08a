"""The table from its finished runs: means, spreads, paired differences, costs, pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from occdistill.errors import UserError
from occdistill.evaluation.compare import (
    METRICS,
    Run,
    average,
    leave_one_out,
    reservations,
    scene_tallies,
    with_interval,
)
from occdistill.evaluation.counts import Counts, slug
from occdistill.evaluation.metrics import horizon_names
from occdistill.evaluation.protocols import DEFAULT
from occdistill.evaluation.published import PUBLISHED
from occdistill.evaluation.report import cell, environment, git_commit, plain, table
from occdistill.store import atomic, write_json, write_text
from occdistill.studies.result import canvas
from occdistill.studies.table1 import scores
from occdistill.studies.table1.plan import BUDGETS, Plan
from occdistill.studies.table1.runs import diverged, finished, finished_runs, scored_in
from occdistill.studies.table1.search import search_page, search_results

AVERAGE = DEFAULT.average
STUDENT = slug("student@1")
Runs = Sequence[tuple[Path, Mapping]]


def gather(plan: Plan) -> dict[str, Any]:
    """Everything that the finished runs say, in JSON's types."""
    return plain(
        {
            "base": plan.base,
            "updates": plan.updates,
            "title": plan.title,
            "samples": plan.samples,
            "reference": plan.reference,
            "protocol": DEFAULT.name,
            "average": AVERAGE,
            "date": time.strftime("%Y-%m-%d"),
            "git_commit": git_commit(),
            "environment": environment(),
            **_scored(plan),
            "also": {test: _scored(plan, test) for test in plan.also},
            "search": search_results(plan),
            "diverged": {
                row.title: next(iter(causes.values()))
                for key, row in plan.rows.items()
                if (causes := diverged(plan, key))
            },
            "published": [vars(p) for p in PUBLISHED if p.source.startswith("MFD,")],
        }
    )


def _scored(plan: Plan, test: str = "") -> dict[str, Any]:
    """`references` and `budgets`, as scored on one test set."""
    found_in = {
        budget: {key: finished_runs(plan, budget, key, test) for key in plan.rows}
        for budget in BUDGETS
    }
    references = finished(scored_in(Path(plan.work_dir) / "references", test))
    records = [
        run for runs in found_in.values() for found in runs.values() for _, run in found.values()
    ]
    _one_origin(plan, records + ([references] if references else []))
    budgets = {}
    for budget, runs in found_in.items():
        if not any(runs[key] for key in runs if budget == "updates" or key != plan.reference):
            continue
        budgets[budget] = {
            key: _row(plan, key, found, runs[plan.reference])
            for key, found in runs.items()
            if found
        }
    baselines = references["rows"] if references else {}
    return {"references": {n: _reference(row) for n, row in baselines.items()}, "budgets": budgets}


def _reference(row: Mapping) -> dict[str, Any]:
    """A teacher's or baseline's scores; its intervals are over scenes."""
    found = {name: scores.over_seeds([row["measures"]], name) for name in scores.SCORES}
    rule = row["measures"]["probability"]["reference"]
    return {**{metric: row[metric] for metric in METRICS}, **found, "rule": rule}


def _one_origin(plan: Plan, records: Sequence[Mapping]) -> None:
    """Refuse to put runs of different teachers, autoencoders or worlds into one table."""
    if any(record.get("made_of") != records[0].get("made_of") for record in records):
        raise UserError(
            f"{plan.work_dir} mixes runs of different networks or clips (made_of in their "
            "run.json): move the older ones away, or choose another --out"
        )


def _row(plan: Plan, key: str, runs: dict, reference: dict) -> dict[str, Any]:
    records = [run for _, run in runs.values()]
    result: dict[str, Any] = {
        "title": plan.rows[key].title,
        "seeds": list(runs),
        "updates": records[0]["updates"],
        "evaluations_per_update": _mean(records, "evaluations") / records[0]["updates"],
        "evaluations": _mean(records, "evaluations"),
        "passes_per_update": _passes(records),
        "cost_of_an_update": records[0]["cost"],
        "settings": records[0]["settings"],
    }
    for metric in METRICS:
        per_run = [run["scores"][metric] for run in records]
        result[metric] = {name: _seeds([s[name] for s in per_run]) for name in per_run[0]}
    for name in scores.SCORES:
        result[name] = scores.over_seeds([run["scores"]["measures"] for run in records], name)
    if tuple(plan.steps) != (1,):
        result["trained_for"] = records[0]["trained_for"]
        result["by_steps"] = {
            steps: {
                metric: _seeds([r["by_steps"][steps][metric][AVERAGE] for r in records])
                for metric in METRICS
            }
            for steps in records[0]["by_steps"]
        }
    if key != plan.reference and reference:
        both = ([*row.values()] for row in (reference, runs))
        result["reference_minus_this"] = difference(*both)
    return result


def _mean(records: Sequence[Mapping], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def _passes(records: Sequence[Mapping]) -> float:
    """Of a student update, in F: of the network over a batch; NaN where a record doesn't say."""
    per_run = [
        run.get("passes", float("nan")) / run["updates"] / run["settings"]["batch_size"]
        for run in records
    ]
    return float(np.mean(per_run))


def _seeds(values: Sequence[float]) -> dict[str, Any]:
    return scores.around(np.array(values), None)


def _tallied(folders: Sequence[Path], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """An average of each run, `(R,)`, and the same without each scene, `(R, S)`."""
    runs = [Run(str(f), {}, Counts.load(f / "counts" / STUDENT)[0]) for f in folders]
    tallies = scene_tallies(runs, DEFAULT)
    total = average(tallies.sum(1), metric, DEFAULT)
    return total, leave_one_out(tallies, metric, DEFAULT)


def difference(ours: Runs, theirs: Runs) -> dict[str, Any]:
    """Difference between two rows, each averaged over its seeds, with intervals over scenes and
    seeds.

    Args:
        ours: folders and records of one row's runs, as in `runs.finished_runs`.
        theirs: those of the other.

    Returns:
        `scenes`, and per metric and score `value` (ours minus theirs, in points) and its 95 %
        `interval`, None over a single scene.
    """
    folders = [[folder for folder, _ in row] for row in (ours, theirs)]
    # loaded together: that refuses rows of other clips
    tallied = {metric: _tallied([*folders[0], *folders[1]], metric) for metric in METRICS}
    first, result = len(ours), {"scenes": tallied["mIoU"][1].shape[1]}
    for metric, (values, without) in tallied.items():
        both = (values[:first], without[:first]), (values[first:], without[first:])
        result[metric] = scores.difference(*both)
    measured = [[run["scores"]["measures"] for _, run in row] for row in (ours, theirs)]
    for name in scores.SCORES:
        result[name] = scores.gap(*measured, name)
    return result


# ------------------------------------------------------------------ pages and pictures

_TITLES = {
    "updates": "Equal student updates",
    "evaluations": "Equal network evaluations spent on training",
}
_CALLED = {"skill": "Brier skill"}
_HEADER = [
    "method", "seeds", f"mIoU {AVERAGE}", "mIoU 1 s", "2 s", "3 s", f"IoU {AVERAGE}",
    "{reference} − this, mIoU [95 %]", "updates",
]  # fmt: skip
_COST = (
    "What training cost. Evaluations are forward passes per clip, a derivative's tangent counted as "
    "one, backward passes not counted. Seconds and memory are of one student update with its "
    "auxiliary updates, without validation, beside the other processes of `--jobs`. F is a forward "
    "pass over the batch, a backward pass two of them, or one where only adapters are trained. "
    "Weights are those of all networks, gradients those of the largest net that is trained."
)
_STEPS = (
    f"mIoU ± deviation / IoU, {AVERAGE}. Flow maps are told where a step ends, consistency students "
    "are noised again after each evaluation, others take Euler steps on the sampler's grid."
)
_COST_HEADER = [
    "method", "lr", "updates", "evaluations per update", "evaluations", "F per update",
    "s per update", "MiB", "of it weights", "gradients", "optimisers",
]  # fmt: skip


def table_page(content: Mapping[str, Any], command: str) -> str:
    """The report as a page."""
    machine = content["environment"]
    about = (
        f"`{command}`, {content['date']}, commit {content['git_commit']}. One teacher "
        f"(`{content['base']}`); students use one evaluation, unguided, with the last weights of "
        f"training. Percent, protocol `{content['protocol']}`. Mean ± standard deviation over seeds. "
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}."
    )
    parts = [f"# {content['title']}", about]
    parts += _scored_parts(content)
    for test, found in content["also"].items():
        parts += _scored_parts({**content, **found}, f", on {test}")
    for budget, rows in content["budgets"].items():
        parts += [f"## What training cost: {_TITLES[budget].lower()}", _COST, _cost_table(rows)]
    if content["diverged"]:
        causes = [f"{title}: {cause}." for title, cause in content["diverged"].items()]
        parts += ["## Diverged, and so not scored", *causes]
    parts += [
        "![mIoU by horizon](horizons.png)",
        "![validation mIoU and each method's gap in training](training.png)",
    ]
    if content["search"]:
        parts += ["## The learning rates", search_page(content["search"])]
    about = (
        f"{content['published'][0]['source']}: other data, network and budget; average of 1, 2 and "
        "3 s. Not comparable with the numbers above, only with each other."
    )
    published = [[p["model"], p["nfe"], p["miou"][3], p["iou"][3]] for p in content["published"]]
    parts += ["## Published (Occ3D-nuScenes, not reproduced here)", about]
    parts += [table(["method", "NFE", "mIoU", "IoU"], published)]
    return "\n\n".join(parts) + "\n"


def _scored_parts(content: Mapping[str, Any], where: str = "") -> list[str]:
    """What one test set says."""
    parts = []
    if content["references"]:
        parts += [f"## What the students are measured against{where}", _reference_table(content)]
    for budget, rows in content["budgets"].items():
        title = _TITLES[budget] + where
        parts += [f"## {title}", _score_table(content, rows), _verdict(content, rows)]
        parts += [f"### {title}: as probabilities", _probability_about(content)]
        parts += [_probability_table(content, rows), _verdict(content, rows, "skill")]
        if any("by_steps" in row for row in rows.values()):
            parts += [f"### {title}: with more evaluations", _STEPS, _steps_table(rows)]
    return parts


def _probability_about(content: Mapping) -> str:
    rules = sorted({row["rule"] for row in content["references"].values()})
    return (
        f"{content['samples']} futures a clip, all horizons together. Brier skill is over the rule "
        f"that knows what the row knows ({'; '.join(rules)}), percent; log loss in hundredths of a "
        "nat a voxel; ECE in percent, before any calibration; Fréchet distance of the frames' latents "
        "to true ones. Intervals of 95 % take scenes and training seeds (those of a teacher or a "
        "rule: scenes); differences are paired over scenes."
    )


def _probability_table(content: Mapping, rows: Mapping) -> str:
    """Rows by falling Brier skill, below the teachers and the rules."""
    names, compared = list(scores.SCORES), ("skill", "log loss", "best-of-k mIoU")
    shown = {name: r for name, r in content["references"].items() if name != "VAE ceiling"}
    teachers = [r for name, r in shown.items() if name.startswith("teacher")]
    most = teachers[0]["diversity"]["mean"] if teachers else None  # with the most evaluations
    title = rows[content["reference"]]["title"] if content["reference"] in rows else "reference"
    ordered = sorted(rows.values(), key=lambda row: -(row["skill"]["mean"] or 0))
    body = []
    for name, row in [*shown.items(), *((row["title"], row) for row in ordered)]:
        own, gap = row["diversity"]["mean"], row.get("reference_minus_this", {})
        line = [name, len(row.get("seeds", [])) or None]
        line += [_interval(row[n]["mean"], row[n]["interval"]) for n in names]
        line.append(f"{100 * own / most:.0f} %" if most and own is not None else None)
        line += [_interval(**gap[n], sign="+") if n in gap else None for n in compared]
        body.append(line)
    header = ["method", "seeds", *names, "diversity, of the teacher's"]
    return table([*header, *(f"{title} − this, {n}" for n in compared)], body)


def _interval(value: float | None, interval: Sequence[float] | None, sign: str = "") -> str | None:
    return None if value is None or np.isnan(value) else with_interval(value, interval, sign)


def _reference_table(content: Mapping) -> str:
    names = ("1.0s", "2.0s", "3.0s")
    body = [
        [name, s["mIoU"][AVERAGE], *(s["mIoU"].get(n) for n in names), s["IoU"][AVERAGE]]
        for name, s in content["references"].items()
    ]
    header = ["forecast", f"mIoU {AVERAGE}", "mIoU 1 s", "2 s", "3 s", f"IoU {AVERAGE}"]
    return table(header, body)


def _score_table(content: Mapping, rows: Mapping) -> str:
    title = rows[content["reference"]]["title"] if content["reference"] in rows else "reference"
    body = []
    for row in sorted(rows.values(), key=lambda row: -row["mIoU"][AVERAGE]["mean"]):
        line = [row["title"], len(row["seeds"]), _with_spread(row["mIoU"][AVERAGE])]
        line += [row["mIoU"].get(name, {}).get("mean") for name in ("1.0s", "2.0s", "3.0s")]
        line += [_with_spread(row["IoU"][AVERAGE])]
        gap = row.get("reference_minus_this", {}).get("mIoU")
        line.append(with_interval(gap["value"], gap["interval"], "+") if gap else None)
        body.append([*line, row["updates"]])
    return table([h.format(reference=title) for h in _HEADER], body)


def _steps_table(rows: Mapping) -> str:
    """mIoU / IoU of the students by their evaluations per forecast."""
    steps = list(next(iter(rows.values()))["by_steps"])
    body = [
        [row["title"], row["trained_for"]]
        + [
            f"{_with_spread(found['mIoU'])} / {cell(found['IoU']['mean'])}"
            for found in row["by_steps"].values()
        ]
        for row in rows.values()
    ]
    return table(["method", "trained for", *(f"NFE {n}" for n in steps)], body)


def _with_spread(value: Mapping) -> str:
    return f"{cell(value['mean'])} ± {cell(value['spread'])}"


def _verdict(content: Mapping, rows: Mapping, score: str = "mIoU") -> str:
    """Which differences the intervals tell from 0, and how far that goes."""
    if content["reference"] not in rows:
        return "No run of the reference row is finished."
    title = rows[content["reference"]]["title"]
    above, below, open_ = [], [], []
    gaps = {r["title"]: g for r in rows.values() if (g := r.get("reference_minus_this"))}
    for name, gap in gaps.items():
        low, high = gap[score]["interval"] or (0, 0)
        (above if low > 0 else below if high < 0 else open_).append(name)
    if not gaps:
        return f"No run of another row is finished: nothing to compare {title} with."
    said = [
        f"{what} {', '.join(names)}"
        for what, names in (
            (f"{title} is above", above),
            (f"{title} is below", below),
            ("undecided against", open_),
        )
        if names
    ]
    scenes = max(gap["scenes"] for gap in gaps.values())
    return (
        f"By the intervals of {_CALLED.get(score, score)}: {'; '.join(said)}. "
        f"{reservations(scenes, seeds=True)} Of {len(gaps)} such intervals one or another misses by "
        "chance more easily than a single one."
    )


def _cost_table(rows: Mapping) -> str:
    body = []
    for row in rows.values():
        lr, spent = row["settings"]["lr"], row["cost_of_an_update"]
        rates = lr if isinstance(lr, Mapping) else {"": lr}
        held = spent.get("memory", {})
        body.append(
            [
                row["title"],
                ", ".join(f"{net} {rate:g}".strip() for net, rate in rates.items()),
                row["updates"],
                f"{row['evaluations_per_update']:,.0f}",
                f"{row['evaluations']:,.0f}",
                row["passes_per_update"],
                spent["seconds"],
                f"{spent['peak_mb']:,.0f}",
                *(held.get(name) for name in ("weights", "gradients", "optimisers")),
            ]
        )
    return table(_COST_HEADER, body)


# six colours that people with any eyesight tell apart (Okabe and Ito, without black and yellow),
# no greys: the baselines have them
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_REFERENCES = {
    "teacher@10": "--", "teacher@1": ":", "ego-warp": "-.",
    "ego-warp, objects carried": (0, (3, 1, 1, 1, 1, 1)),
}  # fmt: skip
_LINES = (("-", "o"), ((0, (5, 2)), "s"), ((0, (1, 1)), "^"), ((0, (5, 1, 1, 1)), "D"))


def _styles(titles: Mapping[str, str], reference: str) -> dict[str, dict]:
    """How each row is drawn, in every picture: the reference thick and black, every other row by a
    colour, a line and a mark of its own.
    """
    looks = [(c, line, mark) for line, mark in _LINES for c in _COLOURS]
    styles = {
        key: {
            "color": colour, "linestyle": line, "marker": mark, "markersize": 4, "linewidth": 1.2,
            "label": titles[key],
        }
        for key, (colour, line, mark) in zip((k for k in titles if k != reference), cycle(looks))
    }  # fmt: skip
    if reference in titles:
        bold = {"color": "k", "linewidth": 2.5, "marker": "o", "markersize": 4}
        styles[reference] = {**bold, "label": titles[reference]}
    return styles


def horizon_figure(content: Mapping) -> Figure:
    """mIoU over the horizon, per budget, above or below the guided teacher's."""
    budgets, references = content["budgets"], content["references"]
    teacher = references.get("teacher@10", {}).get("mIoU", {})
    titles = {key: row["title"] for rows in budgets.values() for key, row in rows.items()}
    styles = _styles(titles, content["reference"])
    figure, axes = canvas(max(1, len(budgets)), size=4.2)
    axes = np.atleast_1d(axes)

    def draw(axis, scores: Mapping[str, float], **style) -> None:
        above = {name: score - teacher.get(name, 0.0) for name, score in scores.items()}
        axis.plot(*_horizons(above), **style)

    for axis, (budget, rows) in zip(axes, budgets.items()):
        for name, line in _REFERENCES.items():
            if name in references:
                style = {"color": "grey", "linestyle": line, "label": name}
                draw(axis, references[name]["mIoU"], **style)
        for key, row in rows.items():
            means = {name: value["mean"] for name, value in row["mIoU"].items()}
            draw(axis, means, **styles[key])
        axis.set_title(_TITLES[budget], fontsize=10)
        axis.set_xlabel("seconds ahead")
    axes[0].set_ylabel("mIoU minus teacher@10's, points" if teacher else "mIoU, %")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right")
    return figure


def _horizons(scores: Mapping[str, float]) -> tuple[list[float], list[float]]:
    names = [name for name in horizon_names(len(scores)) if name in scores]
    return [float(name[:-1]) for name in names], [scores[name] for name in names]


def training_figure(plan: Plan) -> Figure:
    """Curves of training (MFD, Fig. 6): validation mIoU, and each method's own gap."""
    figure, axes = canvas(2, size=4.2)
    styles = _styles({key: row.title for key, row in plan.rows.items()}, plan.reference)
    handles = {}
    for key in plan.rows:
        for _, (folder, _record) in list(finished_runs(plan, "updates", key).items())[:1]:
            for axis, name in zip(axes, ("val/mIoU", "student/gap")):
                steps, values = curve(folder, name)
                if steps:
                    (handles[key],) = axis.plot(steps, values, markevery=0.15, **styles[key])
    axes[0].set_ylabel("validation mIoU, % (a few clips)")
    axes[1].set_ylabel("its own gap, each method's another")
    axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("student updates")
    figure.legend(handles=list(handles.values()), fontsize=7, loc="outside right")
    return figure


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one curve of a run, over all its restarts."""
    points: dict[int, float] = {}
    for path in sorted(folder.rglob("scalars.json")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if name in entry:
                points[entry["step"]] = entry[name]
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def write(plan: Plan, command: str) -> dict[str, Any] | None:
    """Write table.json, table.md, horizons.png and training.png; None if no run is finished."""
    content = gather(plan)
    if not content["budgets"]:
        return None
    folder = Path(plan.work_dir)
    write_json(folder / "table.json", content)
    write_text(folder / "table.md", table_page(content, command))
    pictures = {"horizons.png": horizon_figure(content), "training.png": training_figure(plan)}
    for name, figure in pictures.items():
        with atomic(folder / name) as part:
            figure.savefig(part, dpi=130)
    return content
