"""One of the paper's studies: a picture, its numbers and what they show.

    python tools/study.py NAME [NAME …] [--out DIR] [--seed N] [--quick] [--real DIR] [--jobs N]

Writes DIR/NAME.png and DIR/NAME.json and prints the caption. `all` runs them all: twenty
minutes on one core, `plans` an hour more; it goes on from what it left in DIR/plans.
"""

import argparse
import time
from pathlib import Path

from occdistill.errors import Parser, UserError, run
from occdistill.store import check_folder
from occdistill.studies import STUDIES, run_study


def main() -> None:
    """Run the studies that were asked for."""
    names = "\n".join(f"  {name:20} {what}" for name, what in STUDIES.items())
    parser = Parser(
        description=f"{__doc__.splitlines()[0]}\n\nstudies:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=[*STUDIES, "all"], metavar="NAME")
    parser.add_argument("--out", type=check_folder, default=Path("work_dirs/studies"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds, for tests; not a result")
    parser.add_argument("--real", type=Path, metavar="DIR", help="plans: score on recorded scenes")
    parser.add_argument("--jobs", type=int, default=1, help="plans: processes that train")
    args = parser.parse_args()
    if args.real and args.names != ["plans"]:
        raise UserError("--real is for the study `plans` alone: name no other beside it")
    plans = {"real": args.real, "out": args.out / "plans", "jobs": args.jobs}
    for name in STUDIES if "all" in args.names else args.names:
        start = time.perf_counter()
        finding = run_study(name, args.quick, args.seed, **plans if name == "plans" else {})
        finding.settings |= {"seconds": time.perf_counter() - start, "quick": args.quick}
        picture, record = finding.save(args.out, f"{name}-real" if args.real else name)
        print(f"{finding.title}\n  {finding.caption}\n  {picture}, {record}", flush=True)


if __name__ == "__main__":
    run(main)
