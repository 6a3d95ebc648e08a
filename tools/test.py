"""Score a checkpoint, its teacher and the baselines on the validation split.

    python tools/test.py CONFIG [CHECKPOINT] [--nfe 1] [--protocol occdistill occfm …]

Writes `report.json`, `report.md` and the counts that every score is recomputed from
(`python tools/score.py --counts OUT/counts --protocol …`) to `--out`.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmengine.config import DictAction

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_codec,
    build_dataset,
    build_forecaster,
    build_grid,
    build_vae,
    load_checkpoint,
)
from occdistill.build.config import PARTS, load_config
from occdistill.build.lineup import positive
from occdistill.errors import UserError, run
from occdistill.evaluation.card import write_card
from occdistill.evaluation.evaluate import evaluate, views_for
from occdistill.evaluation.lidar import from_labels_row, lidar_ceiling_row
from occdistill.evaluation.measures import observers
from occdistill.evaluation.protocols import PROTOCOLS, get_protocol
from occdistill.evaluation.report import (
    describe_dataset,
    git_commit,
    make_report,
    markdown,
    write_report,
)
from occdistill.evaluation.rows import (
    Row,
    ceiling_row,
    copy_last_row,
    ego_warp_row,
    forecast_row,
)
from occdistill.evaluation.views import VIEWS, needs_masks

MEASURES = ("ray-iou", "ray-iou-entry", "consistency", "latent", "samples")
ROWS = (
    "teacher", "student", "copy-last", "ego-warp", "ego-warp-carried", "ego-warp-extrapolated",
    "ego-warp-extrapolated-carried", "ceiling",
)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("config")
    add("checkpoint", nargs="?", help="a distilled student or a teacher; default: the teacher only")
    add(
        "--nfe",
        type=positive,
        nargs="+",
        help="evaluations for CHECKPOINT (student 1; teacher 10 5 2 1)",
    )
    add("--teacher-nfe", type=positive, nargs="+", default=[10, 5, 2, 1])
    add("--guidance", type=float, help="guidance of CHECKPOINT; default: none for a student")
    add("--decoder", nargs="+", choices=PARTS[:2], default=["full"], help="rows for each of these")
    add("--encoder", nargs="+", choices=PARTS, default=["full"], help="likewise")
    add("--protocol", nargs="+", default=["occdistill"], metavar="NAME", help=", ".join(PROTOCOLS))
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--view", nargs="+", choices=VIEWS, default=[], help="count these voxels too")
    add("--measure", nargs="+", choices=MEASURES, default=[], help="measures beyond mIoU")
    add("--samples", type=positive, default=4, help="futures per clip for --measure samples")
    add("--save-predictions", type=Path, metavar="DIR", help="write npz that tools/score.py reads")
    add("--name", help="what to call CHECKPOINT in the table")
    add("--limit-clips", type=positive, help="this many clips, spread evenly over the split")
    add("--batch-size", type=positive, default=4)
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("--backend", default="eager")
    add("--repeats", type=int, default=10, help="timed forecasts per row; 0: no timing")
    add("--workers", type=int, default=0)
    add("--out", type=Path, help="default: the config's work_dir")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")
    return parser.parse_args()


def with_parts(name: str, decoder: str, encoder: str) -> str:
    """A row's name that also says which parts of the autoencoder are not the full ones."""
    parts = (("decoder", decoder), ("encoder", encoder))
    return ", ".join([name, *(f"{which} {part}" for part, which in parts if which != "full")])


def model_rows(args: argparse.Namespace, config, vae_mark: str) -> list[Row]:
    """Teacher and checkpoint at their numbers of evaluations, with each decoder and encoder."""
    options = dict(device=args.device, dtype=getattr(torch, args.dtype), backend=args.backend)
    rows = []

    def add(name: str, path: str | None, state: dict, steps: list[int], guidance: float | None):
        mark = checkpoints.fingerprint(checkpoints.weights(state))
        facts = dict(checkpoint=mark, vae=vae_mark, cache=state["fingerprints"].get("data"))
        for decoder, encoder in product(args.decoder, args.encoder):
            parts = dict(decoder=decoder, encoder=encoder)
            full_name = with_parts(name, **parts)
            for nfe in steps:
                forecaster = build_forecaster(config, path, nfe, guidance, **parts, **options)
                share = ("past", encoder)
                rows.append(forecast_row(full_name, forecaster, share=share, **parts, **facts))

    if "teacher" in args.rows:
        state = load_checkpoint(config, "teacher_checkpoint")
        add("teacher", None, state, args.teacher_nfe, config.guidance)
    if args.checkpoint and "student" in args.rows:
        state = checkpoints.load(args.checkpoint)
        student = state["kind"] == "distill"
        steps = args.nfe or ([1] if student else [10, 5, 2, 1])
        guidance = args.guidance if student or args.guidance else config.guidance
        name = args.name or ("student" if student else "checkpoint")
        add(name, args.checkpoint, state, steps, guidance)
    return rows


def all_rows(args: argparse.Namespace, config, dataset) -> list[Row]:
    """Every row asked for that this config's conditioning allows; where the past is LiDAR, also
    what its labels would have given.
    """
    rows = []
    if {"teacher", "student", "ceiling"} & set(args.rows):
        vae = build_vae(config)
        vae_mark = checkpoints.fingerprint(vae.state_dict())
        rows += model_rows(args, config, vae_mark)
        if dataset.reader.past_from == "lidar":
            full = [row for row in rows if row.facts["encoder"] == "full"]
            rows += [from_labels_row(row, dataset) for row in full]
    if "copy-last" in args.rows:
        rows.append(copy_last_row(config.data.future))
    rows += ego_warp_rows(args, config)
    if "ceiling" in args.rows:
        rows += ceiling_rows(args, config, vae, vae_mark, dataset)
    if not rows:
        raise UserError(
            f"nothing to score: of --rows {' '.join(args.rows)} this config and checkpoint have "
            "none"
        )
    return rows


def ego_warp_rows(args: argparse.Namespace, config) -> list[Row]:
    """With true poses where the models are given them too, and with objects carried where there
    are the three past frames that it takes.
    """
    grid, rows = build_grid(config), []
    for extrapolated, carry in product((False, True), repeat=2):
        name = "ego-warp" + "-extrapolated" * extrapolated + "-carried" * carry
        given = extrapolated or config.conditioning.kind == "gt"
        if name in args.rows and given and (not carry or config.data.past >= 3):
            rows.append(ego_warp_row(grid, config.data.future, extrapolated, carry))
    return rows


def ceiling_rows(args: argparse.Namespace, config, vae, vae_mark: str, dataset) -> list[Row]:
    """The full autoencoder's, and what each of the light parts asked for leaves of it; where the
    past is LiDAR, also what each makes of LiDAR.
    """
    rows = []
    lidar = dataset.reader.past_from == "lidar"
    for parts in dict.fromkeys([("full", "full"), *product(args.decoder, args.encoder)]):
        decoder, encoder = parts
        codec = build_codec(config, vae, decoder, encoder)
        codec.vae.to(args.device)
        facts = dict(decoder=decoder, encoder=encoder, vae=vae_mark, dtype="float32")
        made = [] if encoder == "lidar" else [ceiling_row(codec, **facts)]  # it knows no labels
        made += [lidar_ceiling_row(codec, dataset, **facts)] if lidar else []
        for row in made:
            row.model = with_parts(row.model, decoder, encoder)
        rows += made
    return [*rows, lidar_ceiling_row(None, dataset)] if lidar else rows


def measures(args: argparse.Namespace, config, dataset, rows: list[Row]) -> list:
    """The observers asked for."""
    grid, frames = dataset.grid, dataset.future
    result = []
    for name, distance in (("ray-iou", "exit"), ("ray-iou-entry", "entry")):
        if name in args.measure:
            result.append(observers.ray_iou(dataset, distance=distance))
    if "consistency" in args.measure:
        result.append(observers.consistency(grid))
    if "latent" in args.measure:
        codec = build_codec(config, build_vae(config).to(args.device))
        result.append(observers.latent(codec, checkpoints.fingerprint(codec.vae.state_dict())))
    if "samples" in args.measure:
        result.append(observers.samples(frames, args.samples))
    if args.save_predictions:
        part = dict(crop=config.data.get("crop"), coarsen=config.data.get("coarsen", 1))
        result.append(observers.save_predictions(args.save_predictions, dataset, rows, **part))
    return result


def main() -> None:
    """Score, write the report, print it."""
    args = parse()
    config = load_config(args.config, args.cfg_options)
    protocols = [get_protocol(name) for name in args.protocol]
    masks = any(needs_masks(v) for v in views_for(protocols, args.view))
    dataset = build_dataset(config, "val", masks)
    indices = None
    if args.limit_clips and args.limit_clips < len(dataset):
        indices = np.linspace(0, len(dataset) - 1, args.limit_clips).round().astype(int).tolist()
    out = args.out or Path(config.work_dir)
    rows = all_rows(args, config, dataset)
    records = evaluate(
        rows,
        dataset,
        measures=measures(args, config, dataset, rows),
        protocols=protocols,
        views=args.view,
        repeats=args.repeats,
        common=dict(git_commit=git_commit(), batch_size=args.batch_size),
        indices=indices,
        batch_size=args.batch_size,
        device=args.device,
        seed=args.seed,
        workers=args.workers,
        out=out / "counts",
    )
    report = make_report(
        records, describe_dataset(dataset, config.data.version, config.data.val_split), args.device
    )
    paths = write_report(out, report)
    print(markdown({**report, "published": []}))
    print("written:", *paths, *write_card(out / "card", report))


if __name__ == "__main__":
    run(main)
