"""Rows that tell what LiDAR costs: the same forecasts from labels, and LiDAR decoded by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occdistill.data.clips import ClipDataset
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.latents.codec import Codec


def from_labels_row(row: Row, dataset: ClipDataset) -> Row:
    """The row of a forecaster that is shown the past's dense labels instead of its LiDAR."""

    def draw(batch: ClipBatch, sample: int = 0) -> Tensor:
        shared = batch.shared.setdefault("from labels", {})
        if "past" not in shared:
            shared["past"] = _labels(dataset, batch)
        names = None if batch.frames is None else -1 - batch.frames  # of other voxels
        known = dict(past=shared["past"], shared=shared, frames=names)
        return row.draw(replace(batch, **known), sample)

    name, own = f"{row.model}, from labels", dict(own_past=True, forecaster=None, needs=())
    return replace(row, model=name, predict=draw, draw=draw, **own)


def lidar_ceiling_row(codec: Codec | None, dataset: ClipDataset, **facts: Any) -> Row:
    """The LiDAR of the future frames, encoded and decoded: what an encoder makes of it.

    Args:
        codec: None for the merged LiDAR voxels as they are.
        dataset: of the clips, with its past from LiDAR.
        **facts: stated in the row.
    """

    def predict(batch: ClipBatch) -> Tensor:
        lidar = batch.shared.get("future lidar")
        if lidar is None:
            lidar = batch.shared["future lidar"] = _future_lidar(dataset, batch)
        if codec is None:
            return lidar
        decoded = codec.decode(codec.encode(lidar.flatten(0, 1)))
        return decoded.unflatten(0, lidar.shape[:2])

    name = "LiDAR as it is" if codec is None else "LiDAR ceiling"
    return Row(name, predict, conditioning="truth", facts=facts)


def _labels(dataset: ClipDataset, batch: ClipBatch) -> Tensor:
    """Dense labels of the past, uint8 `(B, P, X, Y, Z)`."""
    frames = [dataset.frames(int(i))[: dataset.past] for i in batch.index]
    labels = [np.stack([dataset.reader.labels(f)[0] for f in past]) for past in frames]
    return torch.from_numpy(np.stack(labels)).to(batch.past.device)


def _future_lidar(dataset: ClipDataset, batch: ClipBatch) -> Tensor:
    """Merged LiDAR of the future frames, uint8 `(B, F, X, Y, Z)`."""
    grids = []
    for i in batch.index:
        scene, start = dataset.clips[int(i)]
        first = start + dataset.past
        grids.append(dataset.reader.past(dataset.scenes[scene], first, first + dataset.future))
    return torch.from_numpy(np.stack(grids)).to(batch.past.device)
