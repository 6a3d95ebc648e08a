"""Score anybody's predictions, or count files of an earlier run, under any protocols.

    python tools/score.py PREDICTIONS --dataset data/nuscenes --protocol occworld dome
    python tools/score.py WORK_DIR/counts --protocol occworld i2world

PREDICTIONS holds `<scene>/<token>.npz` or numbered npz files (`occdistill/evaluation/predictions.py`
describes both); no model code or weights are needed. A folder of counts needs no data either.
"""

import argparse
from pathlib import Path

import _options as common

from occdistill.data.clips import ClipDataset
from occdistill.data.label_sets import LABEL_SETS, NOT_COMPARABLE, with_labels
from occdistill.data.occ3d import GridTransform
from occdistill.errors import UserError, run
from occdistill.evaluation.card import publish
from occdistill.evaluation.evaluate import views_for
from occdistill.evaluation.predictions import Manifest
from occdistill.evaluation.protocols import get_protocol
from occdistill.evaluation.report import describe_dataset, git_commit
from occdistill.evaluation.rescore import holds_counts, rescore, score_predictions
from occdistill.evaluation.views import needs_masks


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("predictions", type=Path)
    add("--dataset", type=Path, help="data root with gts/ and tables or annotations.json")
    add("--version", default="v1.0-trainval")
    add("--split", default="val")
    add("--name", help="what to call the predictions in the table")
    add("--conditioning", help="what the model knew of the future motion: none, hist+1, pred, gt")
    add("--future", type=int, default=6, help="frames predicted")
    add("--crop", type=float, help="predictions cover |x|, |y| below this many metres")
    add("--coarsen", type=int, help="predictions merge this many voxels along each axis")
    add("--labels", choices=list(LABEL_SETS), help="score against these labels, not Occ3D's own")
    add("--labels-root", type=Path, help="where they lie; default: the data set's folder")
    common.add_skip(add)
    add("--copy-last", action="store_true", help="add the copy-last row")
    add("--device", default="cpu", help="where grids are counted")
    common.add_scoring(add)
    return parser.parse_args()


def truth(args: argparse.Namespace, manifest: Manifest, masks: bool) -> ClipDataset:
    """The clips that predictions are compared with."""
    if args.dataset is None:
        raise UserError("scoring predictions needs --dataset with the true occupancy")
    dataset = ClipDataset(
        args.dataset, args.version, args.split,
        past=1,  # the newest past frame alone: every protocol's windows, nothing read in vain
        future=args.future,
        transform=GridTransform(args.crop or manifest.crop, args.coarsen or manifest.coarsen),
        masks=masks,
        skip_bad_frames=args.skip_bad_frames,
    )  # fmt: skip
    if not args.labels:
        return dataset
    return with_labels(dataset, LABEL_SETS[args.labels], args.labels_root or args.dataset)


def main() -> None:
    """Score, write the report, print it."""
    args = parse()
    folder, protocols = args.predictions, [get_protocol(name) for name in args.protocol]
    if not folder.is_dir():
        raise UserError(f"no folder of predictions or counts at {folder}")
    if holds_counts(folder):
        out = args.out or folder.parent / "rescored"
        records, about = rescore(folder, protocols), None
    else:
        out = args.out or folder.parent / f"{folder.name}-scores"
        manifest = Manifest.load(folder)
        masks = any(needs_masks(v) for v in views_for(protocols, args.view))
        dataset = truth(args, manifest, masks)
        labels = {"labels": f"{args.labels}, {NOT_COMPARABLE}"} if args.labels else {}
        records = score_predictions(
            folder, manifest, dataset, protocols, name=args.name, conditioning=args.conditioning,
            copy_last=args.copy_last, views=args.view, common={"git_commit": git_commit(), **labels},
            device=args.device, workers=args.workers, out=out / "counts",
        )  # fmt: skip
        about = describe_dataset(dataset, args.version, args.split)
    print(publish(out, records, about, args.device))


if __name__ == "__main__":
    run(main)
