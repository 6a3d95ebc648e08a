"""All keyframes of a split in one memory-mapped file: reading one takes microseconds."""

from __future__ import annotations

import os
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


class VoxelCache(Dataset):
    """Keyframes of a `ClipDataset`'s scenes on its grid, one after the other; built on first use.

    Compressed label files take 10 ms each to read; training and encoding read each of them many
    times.

    Args:
        dataset: whose scenes, grid and reader.
        folder: under which caches lie; each has the dataset's fingerprint in its name.
        kind: `labels`, or `past`: what a clip is given to see, which is the same unless the
            dataset's past is from LiDAR.

    Attributes:
        voxels: uint8 `(N, X, Y, Z)`.
        fingerprint: the dataset's.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        folder: str | Path,
        kind: Literal["labels", "past"] = "labels",
    ) -> None:
        if dataset.reader.past_from == "occ3d":
            kind = "labels"
        self.fingerprint = dataset.fingerprint
        lengths = [len(scene.keyframes) for scene in dataset.scenes]
        self.first = np.concatenate([[0], np.cumsum(lengths)])  # row of each scene's first keyframe
        path = Path(folder) / f"voxels-{kind}-{dataset.fingerprint[:12]}"
        depends = {"data": dataset.fingerprint, "grid": list(dataset.grid.shape), "kind": kind}
        if not path.exists():
            places = [(s, k) for s, length in enumerate(lengths) for k in range(length)]

            def read(place: tuple[int, int]) -> np.ndarray:
                scene, frame = dataset.scenes[place[0]], place[1]
                if kind == "labels":
                    return dataset.reader.labels(scene.keyframes[frame])[0]
                if scene.keyframes[frame].fault:  # of no clip
                    return np.full(dataset.grid.shape, FREE, np.uint8)
                return dataset.reader.past(scene, frame, frame + 1)[0]

            with ThreadPoolExecutor(os.cpu_count()) as pool:

                def fill(arrays, start: int, stop: int) -> None:
                    for row, voxels in zip(range(start, stop), pool.map(read, places[start:stop])):
                        arrays["voxels"][row] = voxels

                shape = (len(places), *dataset.grid.shape)
                build_arrays(
                    path,
                    depends,
                    {"voxels": (shape, np.uint8)},
                    fill,
                    len(places),
                    chunk=64,
                    title=f"reading {kind}",
                )
        self.voxels = open_arrays(path, depends)["voxels"]

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """One keyframe: voxels uint8 `(X, Y, Z)`, index."""
        return {"voxels": torch.from_numpy(self.voxels[index].copy()), "index": index}

    def rows(self, scene: int, start: int, stop: int) -> slice:
        """Rows of the keyframes start … stop - 1 of a scene."""
        return slice(self.first[scene] + start, self.first[scene] + stop)
