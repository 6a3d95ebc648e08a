"""What an evaluation is made of: the rows and measures that a config and a checkpoint allow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from occdistill.build.builders import build_dataset, build_grid, some_clips
from occdistill.build.lineup import STEPS, lineup, with_parts
from occdistill.build.models import Models
from occdistill.data.clips import ClipDataset
from occdistill.errors import UserError
from occdistill.evaluation.disturb import Disturbed, add_kept
from occdistill.evaluation.evaluate import count, evaluate
from occdistill.evaluation.lidar import from_labels_row, lidar_ceiling_row
from occdistill.evaluation.measures import measures
from occdistill.evaluation.measures.base import Context, Observer
from occdistill.evaluation.measures.probability import PROBABILITY
from occdistill.evaluation.predictions import save_predictions
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.rows import (
    Row,
    ceiling_row,
    copy_last_row,
    ego_warp_row,
    forecast_row,
    planned_row,
)
from occdistill.evaluation.shared import PastLatents
from occdistill.latents.codec import Codec
from occdistill.runtime.planner import Planner

ROWS = (
    "teacher", "student", "planned", "copy-last", "ego-warp", "ego-warp-carried", "ego-warp-extrapolated",
    "ego-warp-extrapolated-carried", "ceiling",
)  # fmt: skip
OF_SAMPLES = ("samples", "probability", "conformal", "plans")  # the measures of several futures
FUTURES = 4  # per clip, where nobody says how many


def build_rows(
    wanted: Collection[str],
    models: Models,
    dataset: ClipDataset,
    checkpoint: str | Path | None = None,
    *,
    teacher_nfe: Sequence[int] = STEPS,
    decoders: Sequence[str] = ("full",),
    encoders: Sequence[str] = ("full",),
    networks: Sequence[str] = ("full",),
    device: str = "cpu",
    planner: Planner | None = None,
    **options: Any,
) -> list[Row]:
    """Every row asked for that the config's conditioning allows; where the past is LiDAR, also
    what its labels would have given.

    Args:
        wanted: of `ROWS`.
        models: of the config.
        dataset: of the clips.
        checkpoint: of the `student` row; None: there is none.
        teacher_nfe: see `lineup`.
        decoders: see there.
        encoders: see there.
        networks: see there.
        device: where the networks run.
        planner: of the `planned` rows, the checkpoint's with plans sampled by it; None: none.
        **options: others of `lineup`.

    Raises:
        UserError: there is none of them.
    """
    parts, lidar = dict(decoders=decoders, encoders=encoders), dataset.reader.past_from == "lidar"
    student, networks = (checkpoint, networks) if "student" in wanted else (None, ())
    teacher_nfe = teacher_nfe if "teacher" in wanted else ()
    entries = lineup(
        models, student, teacher_nfe, networks=networks, device=device, **parts, **options
    )
    past, rows = {entry.encoder: PastLatents() for entry in entries}, []
    for entry in entries:
        about = dict(
            share=past[entry.encoder], decoder=entry.decoder, encoder=entry.encoder,
            checkpoint=entry.checkpoint, vae=models.vae_mark, cache=entry.cache,
        )  # fmt: skip
        rows.append(forecast_row(entry.title, entry.forecaster, **about))
        if planner and entry.model != "teacher" and "planned" in wanted:
            rows.append(planned_row(entry.title, entry.forecaster, planner, **about))
    if lidar:
        rows += [from_labels_row(r, dataset) for r in rows if r.facts["encoder"] == "full"]
    if "copy-last" in wanted:
        rows.append(copy_last_row(dataset.future))
    rows += _ego_warp_rows(wanted, models)
    if "ceiling" in wanted:
        rows += _ceiling_rows(models, dataset, device, **parts)
    if not rows:
        raise UserError(
            f"nothing to score: of --rows {' '.join(wanted)} this config and checkpoint have none"
        )
    return rows


def _ego_warp_rows(wanted: Collection[str], models: Models) -> list[Row]:
    """With true poses where the models are given them too, and with objects carried where there
    are the three past frames that it takes.
    """
    config, rows = models.config, []
    for extrapolated, carry in product((False, True), repeat=2):
        name = "ego-warp" + "-extrapolated" * extrapolated + "-carried" * carry
        given = extrapolated or config.conditioning.kind == "gt"
        if name in wanted and given and (not carry or config.data.past >= 3):
            rows.append(ego_warp_row(build_grid(config), config.data.future, extrapolated, carry))
    return rows


def _ceiling_rows(
    models: Models,
    dataset: ClipDataset,
    device: str,
    decoders: Sequence[str],
    encoders: Sequence[str],
) -> list[Row]:
    """The full autoencoder's, and what each of the light parts asked for leaves of it; where the
    past is LiDAR, also what each makes of LiDAR.
    """
    rows = []
    lidar = dataset.reader.past_from == "lidar"
    for decoder, encoder in dict.fromkeys([("full", "full"), *product(decoders, encoders)]):
        codec = models.codec(decoder, encoder)
        codec.vae.to(device)
        facts = dict(decoder=decoder, encoder=encoder, vae=models.vae_mark, dtype="float32", tf32=False)
        made = [] if encoder == "lidar" else [ceiling_row(codec, **facts)]  # it knows no labels
        made += [lidar_ceiling_row(codec, dataset, **facts)] if lidar else []
        for row in made:
            row.model = with_parts(row.model, decoder, encoder)
        rows += made
    return [*rows, lidar_ceiling_row(None, dataset)] if lidar else rows


def build_measures(
    wanted: Collection[str],
    models: Models,
    dataset: ClipDataset,
    rows: Sequence[Row],
    *,
    samples: int | None = None,
    chances: dict[str, float] | None = None,
    fitted_on: str | None = None,
    predictions: Path | None = None,
    device: str = "cpu",
) -> list[Observer]:
    """The observers asked for.

    Args:
        wanted: of `measures()`.
        models: of the config.
        dataset: of the clips.
        rows: that are observed.
        samples: futures per clip; a number asks for `OF_SAMPLES` too, None is `FUTURES`.
        chances: by row, from `fit_chances`.
        fitted_on: its second answer.
        predictions: folder to write every forecast to; None: none is written.
        device: where the networks are.
    """

    def extractor() -> tuple[Codec, str]:
        codec = models.codec()
        codec.vae.to(device)
        return codec, models.vae_mark

    wanted = wanted if samples is None else {*wanted, *OF_SAMPLES}
    context = Context(dataset, extractor, samples or FUTURES, chances or {}, fitted_on)
    made = [measure.observe(context) for name, measure in measures().items() if name in wanted]
    if predictions is not None:
        data = models.config.data
        grid = dict(crop=data.get("crop"), coarsen=data.get("coarsen", 1))
        made.append(save_predictions(predictions, dataset, rows, **grid))
    return made


def fit_chances(
    rows: Sequence[Row],
    models: Models,
    clips: int | None,
    samples: int | None = None,
    **options: Any,
) -> tuple[dict[str, float], str | None]:
    """What each row's probabilities are calibrated with, fitted on the training scenes.

    Args:
        rows: that are scored; those that know the truth, and those that read their past from the
            scored data set, have none.
        models: of the config, which names the training scenes.
        clips: how many are used, spread evenly over them; None: nothing is fitted.
        samples: futures per clip.
        **options: of `evaluate.count`.

    Returns:
        Row name to λ of `evaluation.unseen`, and which clips these were.
    """
    if clips is None:
        return {}, None
    config = models.config
    dataset = build_dataset(config, "train")
    own = [row for row in rows if not _by_itself(row)]
    observer = PROBABILITY.observe(Context(dataset, lambda: None, samples or FUTURES))
    chosen = some_clips(dataset, clips)
    count(own, dataset, indices=chosen, observers=[observer], **options)
    chances = {row.name: observer.states[row.name].chance() for row in own}
    used = len(dataset) if chosen is None else len(chosen)
    return chances, f"{used} clips of {config.data.train_split} in {config.data.dataroot}"


def score_disturbed(
    records: Sequence[dict],
    rows: Sequence[Row],
    disturbed: Sequence[Disturbed],
    protocol: Protocol,
    out: Path,
    samples: int | None = None,
    **options: Any,
) -> None:
    """Score rows once more for each disturbance; their records' `measures` get `disturbed`.

    Args:
        records: of `evaluate`; none in other processes than the first.
        rows: what was scored; those that know the truth, or read the data set by themselves, aren't
            disturbed.
        disturbed: the data set, as each disturbance leaves it.
        protocol: which of the records are compared.
        out: folder of one sub-folder of counts per disturbance.
        samples: futures per clip; None: no probabilities are scored.
        **options: of `count`.
    """
    own = [row for row in rows if not _by_itself(row)]
    for changed in disturbed:
        context = Context(changed, lambda: None, samples or FUTURES)
        observers = [PROBABILITY.observe(context)] if samples else []
        where = dict(protocols=[protocol], out=out / changed.name)
        after = evaluate(own, changed, measures=observers, **where, **options)
        add_kept(records, changed.name, after)


def _by_itself(row: Row) -> bool:
    """Whether a row looks at the data set, and not only at the past that it's given."""
    return row.conditioning == "truth" or row.own_past
