"""Score anybody's predictions, or count files of an earlier run, under any protocols.

    python tools/score.py PREDICTIONS --dataset data/nuscenes --protocol occworld dome
    python tools/score.py WORK_DIR/counts --protocol occworld i2world

PREDICTIONS holds `<scene>/<token>.npz` or numbered npz files (`occdistill/evaluation/predictions.py`
describes both); no model code or weights are needed. A folder of counts needs no data either.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from occdistill.data.clips import ClipDataset
from occdistill.data.label_sets import LABEL_SETS, NOT_COMPARABLE, with_labels
from occdistill.data.occ3d import GridTransform
from occdistill.errors import UserError, run
from occdistill.evaluation.card import write_card
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.evaluate import evaluate, score_counts, views_for, windows_of
from occdistill.evaluation.predictions import (
    Manifest,
    check_input,
    find_predictions,
    read_prediction,
)
from occdistill.evaluation.protocols import PROTOCOLS, get_protocol
from occdistill.evaluation.report import (
    describe_dataset,
    git_commit,
    make_report,
    markdown,
    write_report,
)
from occdistill.evaluation.rows import Batch, Row, copy_last_row
from occdistill.evaluation.views import VIEWS, needs_masks


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("predictions", type=Path)
    add("--dataset", type=Path, help="data root with gts/ and tables or annotations.json")
    add("--version", default="v1.0-trainval")
    add("--split", default="val")
    add("--protocol", nargs="+", default=["occdistill"], metavar="NAME", help=", ".join(PROTOCOLS))
    add("--view", nargs="+", choices=VIEWS, default=[], help="count these voxels too")
    add("--name", help="what to call the predictions in the table")
    add("--conditioning", help="what the model knew of the future motion: none, hist+1, pred, gt")
    add("--future", type=int, default=6, help="frames predicted")
    add("--crop", type=float, help="predictions cover |x|, |y| below this many metres")
    add("--coarsen", type=int, help="predictions merge this many voxels along each axis")
    add("--labels", choices=list(LABEL_SETS), help="score against these labels, not Occ3D's own")
    add("--labels-root", type=Path, help="where they lie; default: the data set's folder")
    add("--copy-last", action="store_true", help="add the copy-last row")
    add("--device", default="cpu", help="where grids are counted")
    add("--workers", type=int, default=0)
    add("--out", type=Path, help="report and counts go here; default: beside the predictions")
    return parser.parse_args()


def prediction_row(args: argparse.Namespace, manifest: Manifest, dataset, files) -> Row:
    """A row that reads its forecasts from files."""

    def predict(batch: Batch) -> torch.Tensor:
        clips = []
        for b, i in enumerate(batch.index.tolist()):
            check_input(files[i], batch.past[b, -1].cpu().numpy())
            clips.append(read_prediction(files[i], dataset.future, dataset.grid.shape)[0])
        return torch.from_numpy(np.stack(clips)).to(batch.past.device)

    facts = dict(checkpoint=manifest.checkpoint, dtype=manifest.dtype, seed=manifest.seed)
    return Row(
        args.name or manifest.model or args.predictions.name,
        predict,
        manifest.nfe,
        manifest.guidance,
        args.conditioning or manifest.conditioning,
        facts,
    )


def score_predictions(args: argparse.Namespace, protocols: list) -> tuple[list[dict], dict]:
    """Rows and the data set's description."""
    if args.dataset is None:
        raise UserError("scoring predictions needs --dataset with the true occupancy")
    manifest = Manifest.load(args.predictions)
    grid = GridTransform(args.crop or manifest.crop, args.coarsen or manifest.coarsen)
    masks = any(needs_masks(v) for v in views_for(protocols, args.view))
    dataset = ClipDataset(
        args.dataset,
        args.version,
        args.split,
        past=1,  # the newest past frame alone: every protocol's windows, nothing read in vain
        future=args.future,
        transform=grid,
        masks=masks,
    )
    common = {"git_commit": git_commit()}
    if args.labels:
        dataset = with_labels(dataset, LABEL_SETS[args.labels], args.labels_root or args.dataset)
        common["labels"] = f"{args.labels}, {NOT_COMPARABLE}"
    files = find_predictions(args.predictions, windows_of(dataset), protocols)
    rows = [prediction_row(args, manifest, dataset, files)]
    if args.copy_last:
        rows.append(copy_last_row(args.future))
    records = evaluate(
        rows,
        dataset,
        protocols=protocols,
        views=args.view,
        common=common,
        indices=sorted(files),
        device=args.device,
        workers=args.workers,
        out=args.out / "counts",
    )
    return records, describe_dataset(dataset, args.version, args.split)


def score_folder_of_counts(folder: Path, protocols: list) -> list[dict]:
    """Rows of an earlier run, scored anew."""
    loaded = [Counts.load(path.parent) for path in sorted(folder.glob("*/row.json"))]
    return [
        {**facts, **score_counts(counts, protocol)}
        for protocol in protocols
        for counts, facts in loaded
    ]


def main() -> None:
    """Score, write the report, print it."""
    args = parse()
    protocols = [get_protocol(name) for name in args.protocol]
    if not args.predictions.is_dir():
        raise UserError(f"no folder of predictions or counts at {args.predictions}")
    if any(args.predictions.glob("*/row.json")):
        args.out = args.out or args.predictions.parent / "rescored"
        records, dataset = score_folder_of_counts(args.predictions, protocols), None
    else:
        args.out = args.out or args.predictions.parent / f"{args.predictions.name}-scores"
        records, dataset = score_predictions(args, protocols)
    report = make_report(records, dataset, args.device)
    paths = write_report(args.out, report)
    print(markdown({**report, "published": []}))
    print("written:", *paths, *write_card(args.out / "card", report))


if __name__ == "__main__":
    run(main)
