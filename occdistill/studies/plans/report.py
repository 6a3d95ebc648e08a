"""The study: train, judge, and tell in which order the methods stand."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from occdistill.data.plans import constant_turn, constant_velocity, places
from occdistill.distill import methods
from occdistill.evaluation.measures.plans import MODES, mode_shares
from occdistill.store import write_text
from occdistill.studies.plans.runs import BEFORE, EVERYWHERE, UNFIT, Budget, Runs
from occdistill.studies.plans.scores import SAMPLES, SHOWN, futures, judge, summary
from occdistill.studies.plans.windows import FUTURE, Plans
from occdistill.studies.result import Result, canvas

QUICK = Budget(
    towns=1, checks=1, windows=50, teacher=20, updates=2, seeds=2, fewer=2, rates=(3e-4,)
)


def study(
    quick: bool = False,
    seed: int = 0,
    real: str | Path | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
) -> Result:
    """Every method from one teacher.

    Args:
        quick: seconds instead of an hour or so on one free core.
        seed: of towns, teacher and students.
        real: folder of recorded scenes that are scored on instead of other towns.
        out: folder that keeps what was trained; None for none.
        jobs: processes that train.

    Raises:
        UserError: there are no recorded scenes.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) if out is None or quick else Path(out)
        budget = Budget(**{**asdict(QUICK if quick else Budget()), "seed": seed})
        names = ["MFD", "Regression"] if quick else [n for n in methods() if n not in UNFIT]
        recorded = None if real is None else Plans.recorded(real)
        _train(folder, budget, names, jobs)
        runs = Runs(folder, budget, names)
        result = _report(runs, runs.test() if recorded is None else {EVERYWHERE: recorded})
        if out is not None:
            write_text(Path(out) / f"table{'' if real is None else '-real'}.md", page(result))
        return result


def _train(folder: Path, budget: Budget, names: list[str], jobs: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_work, args=(folder, budget, names)) for _ in range(jobs - 1)]
    for process in others:
        process.start()
    _work(folder, budget, names)
    for process in others:
        process.join()


def _work(folder: Path, budget: Budget, names: list[str]) -> None:
    Runs(folder, budget, names).train_all()


def _report(runs: Runs, test: dict[str, Plans]) -> Result:
    """Scores of the rules, the teacher at 10, 2 and 1 steps, and each method's students."""
    reference = {kind: futures(runs.teacher, data, 10, use=SHOWN) for kind, data in test.items()}
    rows: dict[str, dict[str, list]] = {kind: {} for kind in test}

    def add(name: str, forecast: Callable[[Plans], Tensor]) -> None:
        for kind, data in test.items():
            one = judge(forecast(data), data, reference[kind])
            rows[kind].setdefault(name, []).append(one)

    for name, rule in (("constant velocity", constant_velocity), ("constant turn", constant_turn)):
        add(name, lambda data, rule=rule: places(rule(data.past, FUTURE))[:, None])
    for nfe in (10, 2, 1):
        for seed in range(runs.budget.fewer):
            add(f"teacher@{nfe}", partial(_sampled, runs.teacher, nfe, seed))
    costs: dict[str, dict[str, float]] = {}
    for name, seed in runs.budget.runs(runs.names):
        if (found := runs.found(name, seed)) is None:
            costs.setdefault(name, {})["diverged"] = costs.get(name, {}).get("diverged", 0) + 1
            continue
        student, cost = found
        add(name, partial(_sampled, student, 1, seed))
        costs.setdefault(name, {}).update(cost)
    tables = {kind: summary(found) for kind, found in rows.items()}
    kind = BEFORE if BEFORE in tables else EVERYWHERE
    order = sorted(tables[kind], key=lambda name: tables[kind][name]["energy"][0])
    rivals = [name for name in order if name in runs.names and name != "MFD"]
    figure = _figure(runs, test[kind], tables, order, rivals[-1])
    settings = {**asdict(runs.budget), "samples": SAMPLES}
    settings["windows"] = {kind: len(data) for kind, data in test.items()}
    said = ", ".join(
        f"{name} {100 * tables[kind][name]['missed'][0]:.0f} % / {tables[kind][name]['energy'][0]:.2f}"
        for name in order
    )
    caption = (
        f"{len(runs.train)} windows of {runs.budget.towns} towns to train on, {len(test[kind])} of "
        f"{len(test[kind].town.unique())} others to score on; {runs.budget.updates} updates, "
        f"{runs.budget.seeds} or {runs.budget.fewer} seeds, {SAMPLES} plans a window. Misses of the "
        f"best plan beyond 2 m at 3 s, and energy score in metres, {kind}, best first: {said}."
    )
    values = {"tables": tables, "order": order, "costs": costs, "rows": rows}
    return Result("Table 1 on plans", caption, figure, values, settings)


def _sampled(field: nn.Module, nfe: int, seed: int, data: Plans) -> Tensor:
    return futures(field, data, nfe, seed)


def verdict(table: Mapping[str, Mapping], score: str) -> dict[str, list[str]]:
    """Rows by whether the interval of MFD minus them lies below 0, above it, or holds it."""
    sides: dict[str, list[str]] = {"below": [], "above": [], "open": []}
    for name, row in table.items():
        if "MFD minus this" in row:
            value, half = row["MFD minus this"][score]
            sides["below" if value + half < 0 else "above" if value - half > 0 else "open"] += [
                name
            ]
    return sides


def page(result: Result) -> str:
    """The tables as a page."""
    parts = [f"# {result.title}", result.caption]
    costs, titles = result.values["costs"], {"missed": "missed, %", "kept": "kept, %"}
    keys = ("minADE", "minFDE", "missed", "energy", "distance", "kept", "miscalibration")
    for kind, table in result.values["tables"].items():
        count = result.settings["windows"][kind]
        head = ["forecast", *(titles.get(key, key) for key in keys)]
        head += ["MFD minus this: energy", "distance", "kept, %", "rate", "evaluations", "s"]
        lines = [head, ["---"] * len(head)]
        for name in sorted(table, key=lambda name: table[name]["energy"][0]):
            row, gap = table[name], table[name].get("MFD minus this", {})
            cost = costs.get(name, {})
            lines.append(
                [name]
                + [_cell(key, row[key]) for key in keys]
                + [_cell(key, gap.get(key), "+") for key in ("energy", "distance", "kept")]
                + [f"{cost[key]:.3g}" if key in cost else "–" for key in _COSTS]
            )
        parts += [f"## {kind.capitalize()} ({count} windows)"]
        parts += ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
        for score in ("energy", "distance", "kept"):
            sides = verdict(table, score)
            told = "; ".join(f"{side} 0: {', '.join(n)}" for side, n in sides.items() if n)
            parts.append(f"MFD minus the others in {score}, by the intervals: {told}.")
    return "\n\n".join(parts) + "\n"


_COSTS = ("rate", "evaluations", "seconds")


def _cell(key: str, value: tuple[float, float] | None, sign: str = "") -> str:
    if value is None:
        return "–"
    scale, digits = (100, 1) if key in ("missed", "kept") else (1, 3)
    return f"{scale * value[0]:{sign}.{digits}f} ± {scale * value[1]:.{digits}f}"


def _figure(runs: Runs, test: Plans, tables: Mapping, order: list[str], weakest: str):
    """Energy and modes kept of every row, and a junction from above with four fans of plans."""
    figure, axes = canvas(4, 2, 4.0)
    for axis in axes[0, 2:]:
        axis.set_axis_off()
    for axis, key in zip(axes[0], ("energy", "kept")):
        for shift, (kind, table) in zip((-0.15, 0.15), tables.items()):
            means, halves = zip(*(table[name][key] for name in order))
            at = [i + shift for i in range(len(order))]
            axis.errorbar(means, at, xerr=halves, fmt="o", markersize=3, label=kind)
        axis.set_yticks(range(len(order)), order if key == "energy" else [], fontsize=5)
        axis.set_xlabel({"energy": "energy score, m", "kept": "minor modes kept"}[key])
        axis.legend(fontsize=6)
    one = test[_most_open(runs, test).repeat(4)]  # four times 16 plans
    fans = {
        "teacher, 10 steps": futures(runs.teacher, one, 10),
        "teacher, 1 step": futures(runs.teacher, one, 1),
        "MFD, 1 step": _first(runs, "MFD", one),
        f"{weakest}, 1 step": _first(runs, weakest, one),
    }
    for axis, (name, fan) in zip(axes[1], fans.items()):
        if fan is None:
            axis.set_title(f"{name}: diverged", fontsize=8)
            continue
        x, y, _ = fan.flatten(0, 1).unbind(-1)
        axis.plot(-y.T, x.T, color="#0072b2", alpha=0.35, linewidth=0.8)
        true = one.true[0]
        axis.plot(-true[:, 1], true[:, 0], color="k", linewidth=2, label="what was driven")
        axis.set_aspect("equal", "datalim")
        axis.set_title(name, fontsize=8)
        axis.legend(fontsize=6)
    return figure


def _first(runs: Runs, name: str, one: Plans) -> Tensor | None:
    found = runs.found(name, 0)
    return None if found is None else futures(found[0], one, 1)


def _most_open(runs: Runs, test: Plans) -> Tensor:
    """The window `(1,)` where the teacher's least common of left, straight on and right is most
    common.
    """
    shares = mode_shares(futures(runs.teacher, test, 10), test.past[:, -1, :2].norm(dim=-1))
    ways = shares[:, [MODES.index(mode) for mode in ("left", "straight", "right")]]
    return ways.amin(1).argmax()[None]
