"""Every distillation method on equal terms: search learning rates, train, score, compare.

    python tools/table1.py configs/table1/demo.py [--jobs 2]
    python tools/table1.py configs/table1/demo.py --also data/recorded:val   # and score there too
    python tools/table1.py configs/table1/demo.py --report      # from what is finished
    python tools/table1.py configs/table1/demo.py --draw 12     # one clip, forecast by every row

One process per row and seed; finished ones are skipped and broken ones continued, so the command
may be stopped and repeated at any time. Writes table.json, table.md, horizons.png and training.png
to the config's work_dir, after every run.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from occdistill.errors import Parser, UserError, run
from occdistill.studies.table1.plan import BUDGETS, Plan, load_plan, search_plan
from occdistill.studies.table1.report import write
from occdistill.studies.table1.runs import prepare, run_one
from occdistill.studies.table1.search import with_rates
from occdistill.studies.table1.workers import train


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("config", nargs="+", help="files in configs/table1/, done one after the other")
    add("--out", type=Path, help="of a single config; default: its work_dir")
    add("--rows", nargs="+", metavar="ROW", help="train these only")
    add("--seeds", nargs="+", type=int, help="train these only")
    add("--budget", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    add("--also", nargs="+", metavar="DATAROOT[:SPLIT]", default=[], help="score on these too")
    add("--jobs", type=int, default=1, help="processes at a time; they share the cores")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--report", action="store_true", help="train nothing")
    add("--draw", type=int, metavar="CLIP", help="draw a validation clip instead")
    add("--style", choices=("3d", "bev"), default="3d", help="of --draw")
    add("--worker", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Search, train what is missing, and write the table."""
    args = parse()
    if args.out and args.config[1:]:
        raise UserError("--out takes the results of a single config: leave it out, or give one")
    for config, plan in {one: load_plan(one, args.out, args.also) for one in args.config}.items():
        make(config, plan, args)


def make(config: str, plan: Plan, args: argparse.Namespace) -> None:
    """One table."""
    if args.worker:
        return work(plan, args)
    if args.draw is not None:
        return draw_clip(plan, args)
    if not args.report:
        if plan.search:
            train(
                search_plan(plan, args.rows),
                worker(config, args, "search"),
                ["updates"],
                jobs=args.jobs,
            )
        train(
            with_rates(plan), worker(config, args, "table"), args.budget, rows=args.rows,
            seeds=args.seeds, jobs=args.jobs, after=lambda: write(plan, command()),
        )  # fmt: skip
    if write(plan, command()) is None:
        raise UserError(
            f"no run in {plan.work_dir} is finished: train some first, without --report"
        )
    print((Path(plan.work_dir) / "table.md").read_text(encoding="utf-8"))


def work(plan: Plan, args: argparse.Namespace) -> None:
    """One run, in a process of its own."""
    stage, budget, row, seed = args.worker
    plan = search_plan(plan) if stage == "search" else with_rates(plan)
    if row == "references":
        prepare(plan, args.device, score=stage == "table")
    else:
        run_one(plan, budget, row, int(seed), args.device)


def command() -> str:
    """How this was called, for the page."""
    return f"python tools/table1.py {shlex.join(sys.argv[1:])}"


def draw_clip(plan: Plan, args: argparse.Namespace) -> None:
    """Draw one clip for each budget that has finished runs."""
    from occdistill.studies.table1.forecasts import draw  # Open3D

    path = Path(plan.work_dir) / f"clip{args.draw}.png"
    names = draw(plan, args.draw, path, args.budget[0], args.style, device=args.device)
    print(f"{path}: {', '.join(names)}")


def worker(config: str, args: argparse.Namespace, stage: str) -> list[str]:
    """What starts a run in a process of its own; its budget, row and seed follow."""
    call = [sys.executable, __file__, config, "--device", args.device]
    call += ["--also", *args.also] if args.also else []
    return [*call, *(["--out", str(args.out)] if args.out else []), "--worker", stage]


if __name__ == "__main__":
    run(main)
