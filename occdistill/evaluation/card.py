"""The results card: what goes into a paper, a README or a slide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES, FREE
from occdistill.errors import UserError
from occdistill.evaluation.metrics import horizon_names
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.report import FACTS, SHOWN, cell, make_report, markdown, write_report
from occdistill.store import atomic, write_text

CURVES, RULES = 7, 2  # rows drawn at most; of them, rules without a network
AVERAGE = "avg@1,2,3s"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def write_card(folder: str | Path, report: dict) -> list[Path]:
    """Write `results.json`, `.md`, `.tex`, and, with matplotlib, PNGs: per horizon, per class, and
    of rows with several futures the reliability diagrams.

    Args:
        folder: where to.
        report: of `report.make_report`; figures and the LaTeX table show its first protocol.

    Returns:
        What was written.
    """
    folder = Path(folder)
    first = report["rows"][0]["protocol"]
    rows = [row for row in report["rows"] if row["protocol"] == first]
    texts = {
        "results.json": json.dumps(compact(report), indent=1) + "\n",
        "results.md": markdown(report),
        "results.tex": latex(rows, report["published"]),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    figures = {}
    if find_spec("matplotlib"):  # tables don't need it
        figures = {"per_horizon.png": per_horizon(rows), "per_class.png": per_class(rows)}
        if said := [row for row in rows if row["nfe"] is not None and _tables(row)]:
            figures["reliability.png"] = reliability(said)
    for name, figure in figures.items():
        with atomic(folder / name) as part:
            figure.savefig(part, dpi=150, bbox_inches="tight")
    return [folder / name for name in (*texts, *figures)]


def publish(
    folder: str | Path, records: Sequence[dict], dataset: dict[str, Any] | None, device: str = "cpu"
) -> str:
    """Write the report of an evaluation, and its card to `card/`.

    Args:
        folder: where to.
        records: rows of `evaluate`.
        dataset: of `report.describe_dataset`; None for scores from counts.
        device: that it ran on.

    Returns:
        The report as a page, and what was written.

    Raises:
        UserError: there are no rows.
    """
    if not records:
        raise UserError("nothing was scored: there are no rows or counts to report on")
    report = make_report(records, dataset, device)
    written = [*write_report(folder, report), *write_card(Path(folder) / "card", report)]
    return f"{markdown({**report, 'published': []})}\nwritten: {' '.join(map(str, written))}"


def compact(report: dict) -> dict:
    """The numbers of the tables alone: no per-class values, no latencies."""
    keys = ("model", "nfe", "guidance", "conditioning", "protocol", "clips", "clips_expected")
    rows = [
        {**{k: row.get(k) for k in (*keys, "fps", *FACTS)}, "mIoU": row["mIoU"], "IoU": row["IoU"]}
        for row in report["rows"]
    ]
    return {**report, "rows": rows}


def latex(rows: Sequence[dict], published: Sequence[dict] = ()) -> str:
    """A booktabs table: ours, then published rows under their own heading with their protocols."""
    protocol = PROTOCOLS[rows[0]["protocol"]]
    columns = [f"{m} {h}" for m in ("mIoU", "IoU") for h in SHOWN]
    width = 3 + len(columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% protocol {protocol.name}: {protocol.source}",
        f"\\begin{{tabular}}{{lll{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["Model", "NFE", "Ego motion", *map(escape, columns)]) + " \\\\",
        "\\midrule",
    ]
    for row in rows:
        values = [cell(row[m].get(h)) for m in ("mIoU", "IoU") for h in SHOWN]
        lines.append(_line([row["model"], cell(row["nfe"]), row["conditioning"], *values]))
    if published:
        heading = "\\emph{Published, on Occ3D-nuScenes; not reproduced, protocols differ}"
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{{heading}}} \\\\"]
    for p in published:
        lines.append(_published_line(p) + f" % {p['protocol']}; {p['source']}; {p['remark']}")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _published_line(p: dict) -> str:
    values: list[Any] = []
    for four in (p["miou"], p["iou"]):
        average = (
            [four[3], None] if PROTOCOLS[p["protocol"]].average != "avg@all" else [None, four[3]]
        )
        values += [*four[:3], *average]
    return _line([p["model"], cell(p["nfe"]), p["conditioning"], *map(cell, values)])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(escape(c) for c in cells) + " \\\\"


def escape(text: str) -> str:
    """Text for LaTeX."""
    for char in "&%$#_{}":
        text = text.replace(char, "\\" + char)
    return text.replace("†", "$\\dagger$").replace("–", "--").replace("²", "$^2$")


def drawn(rows: Sequence[dict]) -> list[dict]:
    """Those of a protocol's rows that a figure shows, `CURVES` at most, in their order.

    The strongest rules without a network are among them, `RULES` at most, of those that know no
    more of the future than the models do: beside a weak rule every model looks well.
    """
    models = [row for row in rows if row["nfe"] is not None]
    fair = {"none", *(row["conditioning"] for row in models or rows)}
    rules = [row for row in rows if row["nfe"] is None and row["conditioning"] in fair]
    best = sorted(rules, key=lambda row: -np.nan_to_num(_nan(row["mIoU"].get(AVERAGE))))[:RULES]
    chosen = [*models[: CURVES - len(best)], *best]
    return [row for row in rows if any(row is one for one in chosen)]


def label(row: dict) -> str:
    """A row's name in a figure."""
    return row["model"] if row["nfe"] is None else f"{row['model']}, NFE {row['nfe']}"


def per_horizon(rows: Sequence[dict]):
    """mIoU and IoU against seconds, one curve per row: a matplotlib Figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, ("mIoU", "IoU")):
        for row, colour in zip(drawn(rows), _COLOURS):
            names = [h for h in horizon_names(99) if h in row[metric]]
            values = [_nan(row[metric][h]) for h in names]
            seconds = [float(h[:-1]) for h in names]
            axis.plot(seconds, values, "o-", color=colour, label=label(row), markersize=3.5)
        axis.set(xlabel="seconds ahead", ylabel=f"{metric} (%)", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def per_class(rows: Sequence[dict], average: str = AVERAGE):
    """IoU per class, one bar per row: a matplotlib Figure. Classes without a bar are absent."""
    from matplotlib.figure import Figure

    rows = drawn(rows)
    if all(_nan(v[average]) != _nan(v[average]) for r in rows for v in r["per_class"].values()):
        average = "avg@all"
    figure = Figure(figsize=(10, 3.6))
    axis = figure.subplots()
    width = 0.85 / len(rows)
    for i, (row, colour) in enumerate(zip(rows, _COLOURS)):
        values = [_nan(row["per_class"].get(c, {}).get(average)) for c in CLASS_NAMES[:FREE]]
        places = [c + (i - (len(rows) - 1) / 2) * width for c in range(FREE)]
        axis.bar(places, values, width, color=colour, label=label(row))
    axis.set(ylabel=f"IoU (%), {average}", xlim=(-0.6, FREE - 0.4))
    there = [
        any(_nan(r["per_class"].get(c, {}).get(average)) >= 0 for r in rows) for c in CLASS_NAMES
    ]
    names = [f"{c}{'' if yes else ' (absent)'}" for c, yes in zip(CLASS_NAMES[:FREE], there)]
    axis.set_xticks(range(FREE), names, rotation=40, ha="right", fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _tables(row: dict) -> dict[str, list]:
    """A row's voxels by votes and outcome, by horizon; empty where no futures were drawn."""
    probability = (row.get("measures") or {}).get("probability") or {}
    return probability.get("reliability", {})


def reliability(rows: Sequence[dict]):
    """How often voxels are filled against how likely that was said to be, at 1, 2 and 3 s: a
    matplotlib Figure. On the diagonal a forecast means what it says. A point is a number of votes,
    its area the share of the voxels that have it, but for those without any.
    """
    from matplotlib.figure import Figure

    names = list(_tables(rows[0]))
    chosen = [name for name in ("1.0s", "2.0s", "3.0s") if name in names] or names[-1:]
    figure = Figure(figsize=(3.2 * len(chosen), 3.4))
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, chosen):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        for row, colour in zip(rows[:CURVES], _COLOURS):
            said, seen, voxels = reliability_curve(_tables(row)[name])
            gap = _nan(row["measures"]["probability"]["all"]["ece"].get(name))
            axis.plot(said, seen, color=colour, linewidth=1, label=label(row))
            area = 120 * np.where(said > 0, voxels, 0) / max(voxels[said > 0].sum(), 1)
            axis.scatter(said, seen, s=area, color=colour)
            place = 0.95 - 0.07 * rows.index(row)
            axis.text(0.03, place, f"ECE {gap:.1f} %", color=colour, fontsize=7, va="top")
        axis.set(xlabel="share of the futures that fill a voxel", title=f"{name[:-1]} s ahead")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("how often it is filled")
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def reliability_curve(table: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of voxels by votes and outcome `(K + 1, 2)`: what was said, how often it came true, and how
    many voxels, where there are any.
    """
    counts = np.asarray(table, np.float64)
    voxels, said = counts.sum(1), np.arange(len(counts)) / (len(counts) - 1)
    there = voxels > 0
    return said[there], counts[there, 1] / voxels[there], voxels[there]


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
