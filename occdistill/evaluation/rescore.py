"""Scores without a model: of anybody's predictions, and of an earlier run's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from occdistill.data.clips import ClipDataset
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.evaluate import evaluate, score_counts, windows_of
from occdistill.evaluation.predictions import (
    Manifest,
    check_input,
    find_predictions,
    read_prediction,
)
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.rows import ClipBatch, Row, copy_last_row


def score_predictions(
    folder: Path,
    manifest: Manifest,
    dataset: ClipDataset,
    protocols: Sequence[Protocol],
    *,
    name: str | None = None,
    conditioning: str | None = None,
    copy_last: bool = False,
    allow_missing: bool = False,
    **options: Any,
) -> list[dict]:
    """Rows of `report.json` for a folder of predictions, in either layout of `predictions`.

    Args:
        folder: of the predictions.
        manifest: what it says about itself.
        dataset: clips with their truth.
        protocols: presets.
        name: for the table; default: the manifest's, or the folder's.
        conditioning: instead of the manifest's.
        copy_last: add that row.
        allow_missing: score the windows that have a prediction; the row says how many.
        **options: others of `evaluate`.
    """
    files = find_predictions(folder, windows_of(dataset), protocols, allow_missing)
    name = name or manifest.model or folder.name
    rows = [prediction_row(manifest, dataset, files, name, conditioning)]
    if copy_last:
        rows.append(copy_last_row(dataset.future))
    return evaluate(rows, dataset, protocols=protocols, indices=sorted(files), **options)


def prediction_row(
    manifest: Manifest,
    dataset: ClipDataset,
    files: Mapping[int, Path],
    name: str,
    conditioning: str | None = None,
) -> Row:
    """A row that reads its forecasts from files.

    Args:
        manifest: what the folder says about itself.
        dataset: of the clips.
        files: of each clip, see `find_predictions`.
        name: for the table.
        conditioning: instead of the manifest's.
    """

    def predict(batch: ClipBatch) -> torch.Tensor:
        clips = []
        for b, i in enumerate(batch.index.tolist()):
            check_input(files[i], batch.past[b, -1].cpu().numpy())
            clips.append(read_prediction(files[i], dataset.future, dataset.grid.shape)[0])
        return torch.from_numpy(np.stack(clips)).to(batch.past.device)

    facts = dict(checkpoint=manifest.checkpoint, dtype=manifest.dtype, seed=manifest.seed)
    conditioning = conditioning or manifest.conditioning
    return Row(name, predict, manifest.nfe, manifest.guidance, conditioning, facts)


def holds_counts(folder: Path) -> bool:
    """Whether it is the `counts/` of an earlier run."""
    return any(folder.glob("*/row.json"))


def rescore(folder: Path, protocols: Sequence[Protocol]) -> list[dict]:
    """Rows of `report.json` from an earlier run's counts."""
    loaded = [Counts.load(path.parent) for path in sorted(folder.glob("*/row.json"))]
    return [
        {**facts, **score_counts(counts, protocol)}
        for protocol in protocols
        for counts, facts in loaded
    ]
