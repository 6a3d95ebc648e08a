"""The learning-rate search of a table: the only thing that is tuned, alike for every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from occdistill.evaluation.report import table
from occdistill.studies.table1 import scores
from occdistill.studies.table1.plan import Plan, search_plan
from occdistill.studies.table1.runs import finished_runs

SCORE = "skill"  # what decides: a proper one


def search_results(plan: Plan) -> dict[str, Any]:
    """The finished runs of a plan's learning-rate search.

    Returns:
        `updates`, `seed`, `options`, and per row `title`, `skill` (by learning rate) and `best`;
        empty if nothing is finished.
    """
    if not plan.search:
        return {}
    searched, rows = search_plan(plan), {}
    for key, row in plan.rows.items():
        found = {
            f"{lr:g}": scores.of(record["scores"]["measures"], SCORE)[0]
            for lr in plan.search["lr"]
            for _, record in finished_runs(searched, "updates", f"{key}-lr{lr:g}").values()
        }
        if found:
            rows[key] = {"title": row.title, SCORE: found, "best": max(found, key=found.get)}
    about = {
        "updates": searched.updates,
        "seed": searched.seeds[0],
        "samples": searched.samples,
        "options": plan.search["options"],
    }
    return {**about, "rows": rows} if rows else {}


def with_rates(plan: Plan) -> Plan:
    """The plan with the learning rates that its search found; rows it doesn't know keep theirs."""
    best = {key: row["best"] for key, row in search_results(plan).get("rows", {}).items()}
    rows = {
        key: replace(row, train={**row.train, "lr": float(best[key])}) if key in best else row
        for key, row in plan.rows.items()
    }
    return replace(plan, rows=rows)


def search_page(search: Mapping[str, Any]) -> str:
    """The search as a paragraph and a table."""
    rates = list(dict.fromkeys(lr for row in search["rows"].values() for lr in row[SCORE]))
    where = ", ".join(f"{key} = {value}" for key, value in search["options"].items())
    body = [
        [row["title"], *(row[SCORE].get(lr) for lr in rates), row["best"]]
        for row in search["rows"].values()
    ]
    return (
        f"The only thing tuned, alike for every row: Brier skill of {search['samples']} futures "
        f"after {search['updates']} updates, as many as in the table, seed {search['seed']}, "
        f"validation clips of another world ({where}).\n\n"
        + table(["method", *(f"lr {lr}" for lr in rates), "best"], body)
    )
