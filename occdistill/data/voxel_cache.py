"""Keyframes one after the other: from their files, or from one memory-mapped file of all."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.arrays import build_arrays, open_arrays
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE
from occdistill.data.scenes import Scene

Kind = Literal["labels", "past"]
Read = Callable[[int, int], np.ndarray]


class VoxelCache(Dataset):
    """Keyframes of a `ClipDataset`'s scenes on its grid, in the order of its `places`; built on
    first use.

    Compressed label files take 10 ms each to read; training reads each of them many times, from
    here in microseconds.

    Args:
        dataset: whose scenes, grid and reader.
        folder: under which caches lie; each has the dataset's fingerprint in its name.
        kind: `labels`, or `past`: what a clip is given to see, which is the same unless the
            dataset's past is from LiDAR.

    Attributes:
        voxels: uint8 `(N, X, Y, Z)`.
        fingerprint: the dataset's.
    """

    def __init__(self, dataset: ClipDataset, folder: str | Path, kind: Kind = "labels") -> None:
        kind = _kind(dataset, kind)
        self.fingerprint = dataset.fingerprint
        path = _place(dataset, folder, kind)
        depends = {"data": dataset.fingerprint, "grid": list(dataset.grid.shape), "kind": kind}
        if not path.exists():
            read, count = from_files(dataset, kind), len(dataset.places)

            def fill(arrays, start: int, stop: int) -> None:
                arrays["voxels"][start:stop] = read(start, stop)

            arrays = {"voxels": ((count, *dataset.grid.shape), np.uint8)}
            build_arrays(path, depends, arrays, fill, count, _threads(), f"reading {kind}")
        self.voxels = open_arrays(path, depends)["voxels"]

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """One keyframe: voxels uint8 `(X, Y, Z)`, index."""
        return {"voxels": torch.from_numpy(self.voxels[index].copy()), "index": index}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Keyframes `start` … `stop - 1`, uint8 `(stop - start, X, Y, Z)`."""
        return self.voxels[start:stop].copy()


def keyframes(dataset: ClipDataset, folder: str | Path, kind: Kind = "labels") -> Read:
    """What reads keyframes `start` … `stop - 1`, for those who need each of them once: from their
    cache where there is one, else from their files.
    """
    if _place(dataset, folder, _kind(dataset, kind)).exists():
        return VoxelCache(dataset, folder, kind).read
    return from_files(dataset, _kind(dataset, kind))


def from_files(dataset: ClipDataset, kind: Kind) -> Read:
    """What reads keyframes `start` … `stop - 1` from their files, several at a time."""

    def one(place: tuple[Scene, int]) -> np.ndarray:
        scene, frame = place
        if kind == "labels":
            return dataset.reader.labels(scene.keyframes[frame])[0]
        if scene.keyframes[frame].fault:  # of no clip
            return np.full(dataset.grid.shape, FREE, np.uint8)
        return dataset.reader.past(scene, frame, frame + 1)[0]

    pool = ThreadPoolExecutor(_threads())
    return lambda start, stop: np.stack([*pool.map(one, dataset.places[start:stop])])


def _threads() -> int:
    return os.cpu_count() or 1


def _kind(dataset: ClipDataset, kind: Kind) -> Kind:
    return "labels" if dataset.reader.past_from == "occ3d" else kind


def _place(dataset: ClipDataset, folder: str | Path, kind: Kind) -> Path:
    return Path(folder) / f"voxels-{kind}-{dataset.fingerprint[:12]}"
