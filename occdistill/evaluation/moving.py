"""The moving part of a data set's clips, for scores of what moves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill.data import moving
from occdistill.data.clips import ClipDataset
from occdistill.data.moving import Boxes
from occdistill.data.poses import invert
from occdistill.evaluation.rows import ClipBatch


class Movers:
    """Finds it: from the boxes of the data set's tables, else from tracks in its labels.

    Args:
        dataset: of the clips.

    Attributes:
        source: `boxes` or `tracks`.
    """

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset
        version = getattr(dataset, "version", None)
        self.boxes = version and moving.boxes_of_tables(
            dataset.reader.root, version, dataset.scenes
        )
        self.source = "tracks" if self.boxes is None else "boxes"

    def __call__(self, batch: ClipBatch) -> Tensor:
        """Where something moves, bool `(B, F, X, Y, Z)` on the CPU; found once per batch."""
        if "moving" not in batch.shared:
            batch.shared["moving"] = torch.from_numpy(
                np.stack([self._clip(batch, b) for b in range(len(batch.index))])
            )
        return batch.shared["moving"]

    def _clip(self, batch: ClipBatch, b: int) -> np.ndarray:
        past, poses = batch.past.shape[1], batch.poses[b].cpu().double().numpy()
        if self.boxes is not None:
            frames = self.dataset.frames(int(batch.index[b]))[past - 1 :]
            boxes = [
                self.boxes[frame.token].seen_from(invert(frame.ego_to_global)) for frame in frames
            ]
            return moving.swept(boxes, poses[past - 1 :], self.dataset.grid)
        voxels = torch.cat([batch.past[b], batch.future[b]]).cpu().numpy()
        boxes = [self._tracked(voxels, poses, i) for i in range(past - 1, len(voxels))]
        return moving.swept(boxes, poses[past - 1 :], self.dataset.grid)

    def _tracked(self, voxels: np.ndarray, poses: np.ndarray, i: int) -> Boxes:
        i = max(i, 2)  # of fewer than three past frames, the third is the first that has tracks
        to_newest = invert(poses[i]) @ poses[i - 2 : i + 1]
        return moving.boxes_of_tracks(voxels[i - 2 : i + 1], to_newest, self.dataset.grid)
