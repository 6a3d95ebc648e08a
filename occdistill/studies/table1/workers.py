"""A table's runs in processes of their own, several at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from occdistill.errors import UserError
from occdistill.store import check_folder
from occdistill.studies.table1.plan import Plan
from occdistill.studies.table1.runs import complete, diverged, inputs, signature, updates_of

Worker = tuple[subprocess.Popen, Path]


def train(
    plan: Plan,
    command: Sequence[str],
    budgets: Sequence[str],
    *,
    rows: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    jobs: int = 1,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Run what isn't finished.

    Args:
        plan: the table.
        command: what starts a worker, to which its budget, row and seed are added.
        budgets: of the runs.
        rows: these only.
        seeds: these only.
        jobs: processes at a time; they share the cores.
        after: called when one is done.

    Raises:
        UserError: no such row, no place for results, or a run that failed.
    """
    unknown = set(rows or ()) - plan.rows.keys()
    if unknown:
        raise UserError(f"no row {min(unknown)!r}; there are {', '.join(plan.rows)}")
    check_folder(plan.work_dir)
    cores = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    call = ("references", "references", "0")
    _wait([_start([*command, *call], cores, Path(plan.work_dir) / "references.txt")])
    made_of = {test: inputs(plan, test) for test in ("", *plan.also)}

    def finished(budget: str, key: str, seed: int) -> bool:
        updates = updates_of(plan, budget, key)
        marks = {t: signature(plan, made, key, updates, seed) for t, made in made_of.items()}
        return complete(plan.folder(budget, key, seed), marks)

    for budget in budgets:
        todo = [
            (key, seed)
            for key, seed in plan.runs(budget)
            if key in (rows or plan.rows)
            and (budget == "updates" or not diverged(plan, key))
            and (not seeds or seed in seeds)
            and not finished(budget, key, seed)
        ]
        running: list[Worker] = []
        for number, (key, seed) in enumerate(todo):
            log = plan.folder(budget, key, seed) / "log.txt"
            print(f"[{number + 1}/{len(todo)}] {budget}: {key}, seed {seed} ({log})", flush=True)
            running.append(_start([*command, budget, key, str(seed)], cores, log))
            while len(running) >= jobs:
                running = _wait(running, all_=False)
                after()
        _wait(running)


def _start(command: Sequence[str], cores: str, log: Path) -> Worker:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": cores},
        )  # fmt: skip
    return process, log


def _wait(running: list[Worker], all_: bool = True) -> list[Worker]:
    """Wait for one worker, or for all; returns those still running.

    Raises:
        UserError: if one failed; the others are left to finish first.
    """
    while running:
        done = [(p, log) for p, log in running if p.poll() is not None]
        for process, log in done:
            if process.returncode:
                for other, _ in running:
                    other.wait()
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise UserError(
                    f"a run stopped with code {process.returncode}; its log, {log}, ends with: "
                    f"{(last or ['(empty)'])[0]}"
                )
        running = [(p, log) for p, log in running if p.poll() is None]
        if done and not all_:
            break
        time.sleep(0.2)
    return running
