"""The table from its finished runs: means, spreads, paired differences, costs, pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import reduce
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
    margin,
    reservations,
    scene_tallies,
    with_interval,
)
from occdistill.evaluation.counts import Counts, slug
from occdistill.evaluation.measures import measures
from occdistill.evaluation.metrics import horizon_names
from occdistill.evaluation.protocols import DEFAULT
from occdistill.evaluation.published import PUBLISHED
from occdistill.evaluation.report import cell, environment, git_commit, plain, table
from occdistill.store import atomic, write_json, write_text
from occdistill.studies.result import canvas
from occdistill.studies.table1.plan import BUDGETS, Plan, search_plan
from occdistill.studies.table1.runs import diverged, finished

AVERAGE = DEFAULT.average
STUDENT = slug("student@1")


def finished_runs(plan: Plan, budget: str, key: str) -> dict[int, tuple[Path, dict]]:
    """Finished runs of a row by seed: folder and record; the reference's serve both budgets."""
    source = "updates" if key == plan.reference else budget
    folders = {seed: plan.folder(source, key, seed) for seed in plan.seeds}
    found = {s: (folder, run) for s, folder in folders.items() if (run := finished(folder))}
    return {s: (folder, run) for s, (folder, run) in found.items() if "diverged" not in run}


def gather(plan: Plan) -> dict[str, Any]:
    """Everything that the finished runs say, in JSON's types."""
    found_in = {
        budget: {key: finished_runs(plan, budget, key) for key in plan.rows} for budget in BUDGETS
    }
    references = finished(Path(plan.work_dir) / "references")
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
    search = search_results(plan) if plan.search else {}
    return plain(
        {
            "title": plan.title,
            "base": plan.base,
            "updates": plan.updates,
            "seeds": plan.seeds,
            "reference": plan.reference,
            "protocol": DEFAULT.name,
            "average": AVERAGE,
            "samples": plan.samples,
            "date": time.strftime("%Y-%m-%d"),
            "git_commit": git_commit(),
            "environment": environment(),
            "references": references["rows"] if references else {},
            "budgets": budgets,
            "search": search,
            "diverged": {
                row.title: next(iter(causes.values()))
                for key, row in plan.rows.items()
                if (causes := diverged(plan, key))
            },
            "published": [vars(p) for p in PUBLISHED if p.source.startswith("MFD,")],
        }
    )


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
        "measures": _measured(records),
    }
    for metric in METRICS:
        per_run = [run["scores"][metric] for run in records]
        result[metric] = {
            name: _mean_and_spread([scores[name] for scores in per_run]) for name in per_run[0]
        }
    if tuple(plan.steps) != (1,):
        result["trained_for"] = records[0]["trained_for"]
        result["by_steps"] = {
            steps: {
                metric: _mean_and_spread([r["by_steps"][steps][metric][AVERAGE] for r in records])
                for metric in METRICS
            }
            for steps in records[0]["by_steps"]
        }
    if key != plan.reference and reference:
        theirs = {seed: run for seed, (_, run) in reference.items() if seed in runs}
        of_reference = _measured([*theirs.values()])
        result["measures_minus_reference"] = {
            title: over_seeds(np.subtract(ours["values"], of_reference[title]["values"]))
            for title, ours in _measured([runs[seed][1] for seed in theirs]).items()
            if title in of_reference
        }
        result["reference_minus_this"] = difference(
            [folder for folder, _ in reference.values()],
            [folder for folder, _ in runs.values()],
        )
    return result


def _mean(records: Sequence[Mapping], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def _passes(records: Sequence[Mapping]) -> float:
    """Of a student update, in F: of the network over a batch; NaN where a record doesn't say."""
    return float(
        np.mean(
            [
                run.get("passes", float("nan")) / run["updates"] / run["settings"]["batch_size"]
                for run in records
            ]
        )
    )


def _measured(records: Sequence[Mapping]) -> dict[str, dict[str, Any]]:
    """The columns of further measures that every one of the runs has, by title."""
    found = {}
    for title, path in [c for m in measures().values() for c in m.columns.items()]:
        values = [reduce(_entry, path, run["scores"].get("measures")) for run in records]
        if values and None not in values:
            found[title] = _mean_and_spread(values)
    return found


def _entry(found: Mapping | None, key: str) -> Any:
    return found.get(key) if isinstance(found, Mapping) else None


def over_seeds(gaps: np.ndarray) -> dict[str, Any]:
    """Mean of the differences between two rows' runs of one seed, and its 95 % interval.

    Args:
        gaps: one for each seed.

    Returns:
        `value`, and `interval`, None for a single seed.
    """
    half = margin((gaps.sum() - gaps) / max(1, len(gaps) - 1))
    value = float(gaps.mean())
    return {"value": value, "interval": None if half is None else [value - half, value + half]}


def _mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds and their standard deviation (of a sample); NaN for a single seed."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "spread": spread, "values": list(values)}


def difference(ours: Sequence[Path], theirs: Sequence[Path]) -> dict[str, Any]:
    """Difference between two rows, each averaged over its seeds, with its interval over scenes.

    Args:
        ours: run folders of one row.
        theirs: run folders of the other.

    Returns:
        `scenes`, and per metric `value` (ours minus theirs, in points) and its 95 % `interval`,
        None over a single scene.
    """
    runs = [Run(str(f), {}, Counts.load(f / "counts" / STUDENT)[0]) for f in [*ours, *theirs]]
    tallies = scene_tallies(runs, DEFAULT)

    def gap(averages: np.ndarray) -> np.ndarray:
        return averages[: len(ours)].mean(0) - averages[len(ours) :].mean(0)

    result: dict[str, Any] = {"scenes": tallies.shape[1]}
    for metric in METRICS:
        value = float(gap(average(tallies.sum(1), metric, DEFAULT)))
        half = margin(gap(leave_one_out(tallies, metric, DEFAULT)))
        interval = None if half is None else [value - half, value + half]
        result[metric] = {"value": value, "interval": interval}
    return result


# ------------------------------------------------------------------ pages and pictures

_TITLES = {
    "updates": "Equal student updates",
    "evaluations": "Equal network evaluations spent on training",
}
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
_MEASURES = (
    "Beyond mIoU, {samples} futures per clip: mean ± deviation over seeds, and the mean difference "
    "to the reference's run of the same seed with its 95 % interval over seeds."
)


def table_page(content: Mapping[str, Any], command: str) -> str:
    """The report as a page."""
    machine = content["environment"]
    about = (
        f"`{command}`, {content['date']}, commit {content['git_commit']}. One teacher "
        f"(`{content['base']}`), seeds {', '.join(map(str, content['seeds']))}; students use one "
        f"evaluation, unguided, with the last weights of training. Percent, protocol "
        f"`{content['protocol']}`. Mean ± standard deviation over seeds. "
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}."
    )
    parts = [f"# {content['title']}", about]
    if content["references"]:
        parts += ["## What the students are measured against", _reference_table(content)]
    for budget, rows in content["budgets"].items():
        parts += [f"## {_TITLES[budget]}", _score_table(content, rows), _verdict(content, rows)]
        if any("by_steps" in row for row in rows.values()):
            parts += [f"### {_TITLES[budget]}: with more evaluations", _STEPS, _steps_table(rows)]
        if any(row["measures"] for row in rows.values()):
            parts += [_MEASURES.format(samples=content["samples"]), _measure_table(rows)]
        parts += [_COST, _cost_table(rows)]
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


def _verdict(content: Mapping, rows: Mapping) -> str:
    """Which differences the intervals tell from 0, and how far that goes."""
    if content["reference"] not in rows:
        return "No run of the reference row is finished."
    title = rows[content["reference"]]["title"]
    above, below, open_ = [], [], []
    gaps = {r["title"]: g for r in rows.values() if (g := r.get("reference_minus_this"))}
    for name, gap in gaps.items():
        low, high = gap["mIoU"]["interval"] or (0, 0)
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
        f"By the intervals: {'; '.join(said)}. {reservations(scenes)} Of {len(gaps)} such intervals "
        "one or another misses by chance more easily than a single one."
    )


def _measure_table(rows: Mapping) -> str:
    """Further measures by row."""
    titles = list(dict.fromkeys(title for row in rows.values() for title in row["measures"]))
    body = []
    for row in rows.values():
        line = [row["title"]]
        for title in titles:
            found = row["measures"].get(title)
            gap = row.get("measures_minus_reference", {}).get(title)
            line.append("–" if found is None else _precise(found) + (_gap(gap) if gap else ""))
        body.append(line)
    return table(["method", *titles], body)


def _precise(value: Mapping) -> str:
    mean, spread = value["mean"], value["spread"]
    return f"{mean:.4f}" if spread is None or np.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def _gap(gap: Mapping) -> str:
    ends = "" if gap["interval"] is None else " [{:+.4f}, {:+.4f}]".format(*gap["interval"])
    return f", {gap['value']:+.4f}{ends}"


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


def search_results(plan: Plan) -> dict[str, Any]:
    """The finished runs of a plan's learning-rate search.

    Returns:
        `updates`, `seed`, `options`, and per row `title`, `mIoU` (by learning rate) and `best`;
        empty if nothing is finished.
    """
    searched = search_plan(plan)
    rows = {}
    for key, row in plan.rows.items():
        scores = {
            f"{lr:g}": record["scores"]["mIoU"][AVERAGE]
            for lr in plan.search["lr"]
            for _, record in finished_runs(searched, "updates", f"{key}-lr{lr:g}").values()
        }
        if scores:
            rows[key] = {"title": row.title, "mIoU": scores, "best": max(scores, key=scores.get)}
    about = {
        "updates": searched.updates,
        "seed": searched.seeds[0],
        "options": plan.search["options"],
    }
    return {**about, "rows": rows} if rows else {}


def search_page(search: Mapping[str, Any]) -> str:
    """The search as a paragraph and a table."""
    rates = list(dict.fromkeys(lr for row in search["rows"].values() for lr in row["mIoU"]))
    where = ", ".join(f"{key} = {value}" for key, value in search["options"].items())
    body = [
        [row["title"], *(row["mIoU"].get(lr) for lr in rates), row["best"]]
        for row in search["rows"].values()
    ]
    return (
        f"The only thing tuned, alike for every row: mIoU {AVERAGE} after {search['updates']} "
        f"updates, seed {search['seed']}, validation clips of another world ({where}).\n\n"
        + table(["method", *(f"lr {lr}" for lr in rates), "best"], body)
    )
