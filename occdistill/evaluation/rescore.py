"""Scores without a model: of anybody's predictions, and of an earlier run's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from occdistill.data.clips import ClipDataset
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.evaluate import score_counts
from occdistill.evaluation.predictions import Manifest, check_input, read_prediction
from occdistill.evaluation.protocols import Protocol
from occdistill.evaluation.rows import Batch, Row


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

    def predict(batch: Batch) -> torch.Tensor:
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
