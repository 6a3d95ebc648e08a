"""Score a checkpoint, its teacher and the baselines on the validation split.

    python tools/test.py CONFIG [CHECKPOINT] [--nfe 1 2 4 8] [--protocol occdistill occfm …]
    torchrun --nproc_per_node=8 tools/test.py CONFIG CHECKPOINT --launcher pytorch

Writes `report.json`, `report.md` and the counts that tools/score.py reads to `--out`.
"""

import argparse
from pathlib import Path

import _options as common

from occdistill.build import scoring
from occdistill.build.builders import build_dataset, some_clips
from occdistill.build.lineup import STEPS
from occdistill.build.models import Models
from occdistill.build.pretrained import planner_for
from occdistill.errors import run
from occdistill.evaluation.card import publish
from occdistill.evaluation.disturb import DISTURBANCES, Disturbed
from occdistill.evaluation.evaluate import evaluate, views_for
from occdistill.evaluation.measures import measures
from occdistill.evaluation.protocols import get_protocol
from occdistill.evaluation.report import describe_dataset, git_commit
from occdistill.evaluation.views import needs_masks
from occdistill.processes import joined


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    common.add_config(add)
    add("checkpoint", nargs="?", help="a distilled student or a teacher; default: the teacher only")
    some = dict(type=common.positive, nargs="+")
    add("--nfe", help="evaluations for CHECKPOINT (a student's own; teacher 10 5 2 1)", **some)
    add("--teacher-nfe", default=list(STEPS), **some)
    add("--guidance", type=float, help="guidance of CHECKPOINT; default: none for a student")
    add("--plan", metavar="PLANNER", help="plans sampled by this; default: the config's")
    add("--rows", nargs="+", choices=scoring.ROWS, default=list(scoring.ROWS))
    add("--measure", nargs="+", choices=list(measures()), default=[], help="measures beyond mIoU")
    add(
        "--samples", type=common.positive, metavar="K", help="score K futures a clip as probability"
    )
    add("--calibrate", type=common.positive, metavar="N", help="first, on N training clips")
    add(
        "--disturb", nargs="+", choices=list(DISTURBANCES), default=[], help="score these pasts too"
    )
    add("--save-predictions", type=Path, metavar="DIR", help="write npz that tools/score.py reads")
    add("--name", help="what to call CHECKPOINT in the table")
    add("--limit-clips", type=common.positive, help="this many clips, spread evenly over the split")
    add("--batch-size", type=common.positive, default=4)
    add("--seed", type=int, default=0)
    add("--repeats", type=int, default=10, help="timed forecasts per row; 0: no timing")
    add("--resume", action="store_true", help="go on with the clips that a stopped run counted")
    common.add_forecaster(add, several=True)
    common.add_scoring(add)
    return parser.parse_args()


def main() -> None:
    """Score, alone or with other processes."""
    args = parse()
    with joined(args.device, args.launcher) as device:
        args.device = str(device)
        score(args)


def score(args: argparse.Namespace) -> None:
    """Score, write the report, print it."""
    config = common.read_config(args)
    out = common.out_folder(args, config)
    protocols = [get_protocol(name) for name in args.protocol]
    masks = any(needs_masks(v) for v in views_for(protocols, args.view))
    dataset, models = build_dataset(config, "val", masks), Models(config)
    disturbed = [Disturbed(dataset, name, args.seed) for name in args.disturb]
    rows = scoring.build_rows(
        args.rows, models, dataset, args.checkpoint, teacher_nfe=args.teacher_nfe, nfe=args.nfe,
        guidance=args.guidance, name=args.name, planner=planner_for(config, args.plan, args.device), **common.forecaster_options(args),
    )  # fmt: skip
    how = dict(batch_size=args.batch_size, device=args.device, seed=args.seed, workers=args.workers)
    chances, fitted_on = scoring.fit_chances(rows, models, args.calibrate, args.samples, **how)
    observers = scoring.build_measures(
        args.measure, models, dataset, rows, samples=args.samples, chances=chances,
        fitted_on=fitted_on, predictions=args.save_predictions, device=args.device,
    )  # fmt: skip
    how.update(indices=some_clips(dataset, args.limit_clips), resume=args.resume)
    records = evaluate(
        rows, dataset, measures=observers, protocols=protocols, views=args.view,
        repeats=args.repeats, common=dict(git_commit=git_commit(), batch_size=args.batch_size),
        out=out / "counts", **how,
    )  # fmt: skip
    where = (protocols[0], out / "disturbed")
    scoring.score_disturbed(records, rows, disturbed, *where, args.samples, **how)
    if records:  # the first process has them
        about = describe_dataset(dataset, config.data.version, config.data.val_split)
        print(publish(out, records, about, args.device))


if __name__ == "__main__":
    run(main)
