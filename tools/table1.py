"""Every distillation method on equal terms: train, score, compare.

    python tools/table1.py configs/table1/demo.py [--jobs 2]
    python tools/table1.py configs/table1/demo.py --report      # from what is finished
    python tools/table1.py configs/table1/demo.py --search      # learning rates, on other clips
    python tools/table1.py configs/table1/demo.py --draw 12     # one clip, forecast by every row

One process per row and seed; finished ones are skipped and broken ones continued, so the command
may be stopped and repeated at any time. Writes table.json, table.md, horizons.png and training.png
to the config's work_dir, after every run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from occdistill.errors import UserError, run
from occdistill.store import write_json
from occdistill.studies.table1.plan import BUDGETS, Plan, load_plan, search_plan
from occdistill.studies.table1.report import search_page, search_results, write
from occdistill.studies.table1.runs import (
    finished,
    inputs,
    prepare,
    run_one,
    signature,
    updates_of,
)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("config", help="a file in configs/table1/")
    add("--out", type=Path, help="default: the config's work_dir")
    add("--rows", nargs="+", metavar="ROW", help="train these only")
    add("--seeds", nargs="+", type=int, help="train these only")
    add("--budget", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    add("--jobs", type=int, default=1, help="processes at a time; they share the cores")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--report", action="store_true", help="train nothing")
    add("--search", action="store_true", help="search the learning rates instead")
    add("--draw", type=int, metavar="CLIP", help="draw a validation clip instead")
    add("--style", choices=("3d", "bev"), default="3d", help="of --draw")
    add("--worker", nargs=3, metavar=("BUDGET", "ROW", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Train what is missing and write the table."""
    args = parse()
    plan = load_plan(args.config, args.out)
    if args.search:
        table, plan = plan, search_plan(plan)
        args.budget = ["updates"]
    if args.worker:
        budget, row, seed = args.worker
        if row == "references":
            prepare(plan, args.device)
        else:
            run_one(plan, budget, row, int(seed), args.device)
        return
    if args.draw is not None:
        draw_clip(plan, args)
        return
    if not args.report:
        train(plan, args)
    if args.search:
        result = search_results(table)
        if not result:
            raise UserError(
                f"no run in {plan.work_dir} is finished: search first, without --report"
            )
        write_json(Path(plan.work_dir) / "search.json", result)
        print(search_page(result))
    elif write(plan, command()) is None:
        raise UserError(
            f"no run in {plan.work_dir} is finished: train some first, without --report"
        )
    else:
        print((Path(plan.work_dir) / "table.md").read_text())


def command() -> str:
    """How this was called, for the page."""
    return f"python tools/table1.py {shlex.join(sys.argv[1:])}"


def draw_clip(plan: Plan, args: argparse.Namespace) -> None:
    """Draw one clip for each budget that has finished runs."""
    from occdistill.studies.table1.forecasts import draw  # Open3D

    path = Path(plan.work_dir) / f"clip{args.draw}.png"
    names = draw(plan, args.draw, path, args.budget[0], args.style, device=args.device)
    print(f"{path}: {', '.join(names)}")


def train(plan: Plan, args: argparse.Namespace) -> None:
    """Run what isn't finished, `--jobs` processes at a time."""
    unknown = set(args.rows or ()) - plan.rows.keys()
    if unknown:
        raise UserError(f"no row {min(unknown)!r}; there are {', '.join(plan.rows)}")
    wait([start(args, ["references", "references", "0"], Path(plan.work_dir) / "references.txt")])
    made_of = inputs(plan)
    for budget in args.budget:
        todo = [
            (key, seed)
            for key, seed in plan.runs(budget)
            if key in (args.rows or plan.rows)
            and seed in (args.seeds or plan.seeds)
            and not finished(
                plan.folder(budget, key, seed),
                signature(plan, made_of, key, updates_of(plan, budget, key), seed),
            )
        ]
        running: list = []
        for number, (key, seed) in enumerate(todo):
            log = plan.folder(budget, key, seed) / "log.txt"
            print(f"[{number + 1}/{len(todo)}] {budget}: {key}, seed {seed} ({log})", flush=True)
            running.append(start(args, [budget, key, str(seed)], log))
            while len(running) >= args.jobs:
                running = wait(running, all_=False)
                if not args.search:
                    write(plan, command())
        wait(running)


def start(args: argparse.Namespace, work: list[str], log: Path) -> tuple[subprocess.Popen, Path]:
    """A worker in a process of its own, with its share of the cores."""
    cores = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // args.jobs)
    call = [sys.executable, __file__, args.config, "--device", args.device, "--worker", *work]
    call += ["--search"] if args.search else []
    call += ["--out", str(args.out)] if args.out else []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
        process = subprocess.Popen(
            call, stdout=file, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL
        )
    return process, log


def wait(running: list, all_: bool = True) -> list:
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
                last = log.read_text().strip().splitlines()[-1:]
                raise UserError(
                    f"a run stopped with code {process.returncode}; its log, {log}, ends with: "
                    f"{(last or ['(empty)'])[0]}"
                )
        running = [(p, log) for p, log in running if p.poll() is None]
        if done and not all_:
            break
        time.sleep(0.2)
    return running


if __name__ == "__main__":
    run(main)
