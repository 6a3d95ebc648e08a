"""The measures, hooked into an evaluation: what each takes from a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import Grid
from occdistill.evaluation.counts import slug
from occdistill.evaluation.measures.consistency import StaticConsistency
from occdistill.evaluation.measures.latent import LatentStatistics
from occdistill.evaluation.measures.ray_iou import (
    Distance,
    RayIoU,
    drive_origins,
    lidar_directions,
)
from occdistill.evaluation.measures.samples import SampleSpread
from occdistill.evaluation.predictions import Manifest, save_prediction
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.latents.codec import Codec


class Observer:
    """One measure over all rows: a state per row, fed with every prediction.

    Args:
        name: entry in a row's `measures`.
        make: makes the empty state of a row.
        feed: `(state, row, batch, prediction)`; adds a batch.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        feed: Callable[[Any, Row, ClipBatch, Tensor], None],
    ) -> None:
        self.name, self.make, self.feed = name, make, feed
        self.states: dict[str, Any] = {}

    def __call__(self, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        """Add a batch of one row."""
        if row.name not in self.states:
            self.states[row.name] = self.make()
        self.feed(self.states[row.name], row, batch, pred)

    def result(self, row: Row) -> Any:
        """What was measured of a row, or None if it doesn't apply to it."""
        state = self.states.get(row.name)
        return None if state is None else state.result()


def ray_iou(
    dataset: ClipDataset, origins: int = 8, azimuths: int = 360, distance: Distance = "exit"
) -> Observer:
    """RayIoU from up to `origins` LiDAR positions along the scene's whole drive.

    Args:
        dataset: of the clips; its scenes' poses are used, also beyond the clip.
        origins: places per frame.
        azimuths: rays around.
        distance: `exit` as SparseOcc, or `entry`: to where a ray leaves or enters what it hits.
    """
    directions = lidar_directions(azimuths)

    @lru_cache(maxsize=1)  # the clips of a scene follow one another
    def along(scene: int) -> list[np.ndarray]:
        poses = np.stack([frame.ego_to_global for frame in dataset.scenes[scene].keyframes])
        return drive_origins(poses, dataset.grid, origins)

    def make() -> RayIoU:
        return RayIoU(dataset.future, dataset.grid, directions=directions, distance=distance)

    def feed(state: RayIoU, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        for i, voxels, truth in zip(batch.index.tolist(), _host(pred), _host(batch.future)):
            scene, start = dataset.clips[i]
            first = start + dataset.past
            state.update(voxels, truth, along(scene)[first : first + dataset.future])

    return Observer("ray_iou" if distance == "exit" else "ray_iou_entry", make, feed)


class _Consistency:
    """A row's consistency beside the truth's own."""

    def __init__(self, grid: Grid) -> None:
        self.ours, self.truth = StaticConsistency(grid), StaticConsistency(grid)

    def result(self) -> dict[str, float]:
        return {"forecast": self.ours.result(), "truth": self.truth.result()}


def consistency(grid: Grid) -> Observer:
    """Static voxels of neighbouring forecast frames, laid over each other with the true motion."""

    def feed(state: _Consistency, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        future = batch.poses[:, batch.past.shape[1] :]
        for voxels, truth, poses in zip(pred, batch.future, future):
            state.ours.update(voxels, poses)
            state.truth.update(truth, poses)

    return Observer("static_consistency", lambda: _Consistency(grid), feed)


def latent(codec: Codec, fingerprint: str, pool: int = 4) -> Observer:
    """Fréchet distance and neighbourhood measures in the latent space of `codec`."""

    def feed(state: LatentStatistics, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        key = ("latent features", id(codec))
        if key not in batch.shared:  # the truth's features are the same for every row
            batch.shared[key] = [state.features(truth) for truth in batch.future]
        for voxels, real in zip(pred, batch.shared[key]):
            state.update(state.features(voxels), real)

    return Observer("latent", lambda: LatentStatistics(codec, fingerprint, pool), feed)


def samples(frames: int, count: int) -> Observer:
    """Best-of-k, diversity and calibration of the rows that can draw several futures."""

    def feed(state: SampleSpread, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        if row.draw is None:
            return
        futures = torch.stack([pred, *(row.draw(batch, s) for s in range(1, count))], 1)
        for voxels, truth in zip(_host(futures), _host(batch.future)):
            state.update(voxels, truth)

    return _OnlyDrawn("samples", lambda: SampleSpread(frames, count), feed)


def save_predictions(folder: Path, dataset: ClipDataset, rows: Sequence[Row], **grid) -> Observer:
    """Writes every row's forecasts to `folder/<row>`, as `tools/score.py` reads them.

    Args:
        folder: where to.
        dataset: names the clips.
        rows: described in the folders' manifests.
        **grid: `crop` and `coarsen` of the voxels.
    """
    for row in rows:
        facts = {k: row.facts.get(k) for k in ("checkpoint", "dtype")}
        manifest = Manifest(row.model, row.nfe, row.guidance, row.conditioning, **facts, **grid)
        manifest.save(folder / slug(row.name))

    def feed(state: None, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        for i, voxels in zip(batch.index.tolist(), _host(pred)):
            save_prediction(folder / slug(row.name), dataset.clip_id(i), voxels)

    return Observer("predictions", lambda: None, feed)


class _OnlyDrawn(Observer):
    def result(self, row: Row) -> Any:
        return None if row.draw is None else super().result(row)


def _host(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()


def results(observers: Sequence[Observer], row: Row) -> dict[str, Any]:
    """The `measures` entry of a row."""
    found = {observer.name: observer.result(row) for observer in observers}
    return {name: value for name, value in found.items() if value is not None}
