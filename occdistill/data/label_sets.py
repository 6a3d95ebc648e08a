"""Other people's occupancy labels of nuScenes, on the Occ3D grid.

Every set was densified in its own way, so a score against one of these is not comparable with a
score against native Occ3D labels, whatever the class names say: `NOT_COMPARABLE` goes beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from occdistill.data.clips import ClipDataset, FrameReader
from occdistill.data.occ3d import FREE, OCC3D, Grid, merge_blocks
from occdistill.data.poses import invert
from occdistill.data.resample import nearest, voxel_map
from occdistill.data.scenes import Scene
from occdistill.errors import UserError
from occdistill.store import ARRAY_BYTES, declared, read_npz, reading
from occdistill.untrusted import inside, open_file

NOT_COMPARABLE = "not comparable with native Occ3D labels"


class KnownLabels(NamedTuple):
    """One keyframe: Occ3D class ids, and 1 where the set knows; uint8 (200, 200, 16)."""

    semantics: np.ndarray
    known: np.ndarray


class LabelSet(Protocol):
    """A set of labels on disk.

    Attributes:
        name: what users call it.
        coarse: its classes can't be told apart as Occ3D's 17; `load` refuses.
    """

    name: str
    coarse: bool

    def path(self, root: Path, scene: Scene, index: int) -> Path:
        """The file of keyframe `index`."""
        ...

    def load(self, root: Path, scene: Scene, index: int) -> KnownLabels:
        """The labels of keyframe `index` in its ego frame, on the Occ3D grid."""
        ...


# ids of OpenOcc v2 in the order of its file format, as Occ3D ids
_OPENOCC = np.array([4, 10, 9, 3, 5, 2, 6, 7, 8, 1, 11, 12, 13, 14, 15, 16, FREE], np.uint8)


@dataclass(frozen=True)
class OpenOcc:
    """OpenOcc v2 (OccNet): the Occ3D grid with 16 classes in another order and no `others`."""

    name: str = "openocc"
    coarse: bool = False

    def path(self, root: Path, scene: Scene, index: int) -> Path:
        """`openocc_v2/<scene>/<token>/labels.npz`."""
        name = f"openocc_v2/{scene.name}/{scene.keyframes[index].token}/labels.npz"
        return inside(root, name, f"scene {scene.name}")

    def load(self, root: Path, scene: Scene, index: int) -> KnownLabels:
        """Remapped ids; everything counts as known."""
        path = self.path(root, scene, index)
        ids = _dense(path, "semantics", len(_OPENOCC))
        return KnownLabels(_OPENOCC[ids], np.ones(ids.shape, np.uint8))


@dataclass(frozen=True)
class UniOcc:
    """UniOcc: the Occ3D grid with 10 coarse classes. Readable, but no truth for 17-class scores.

    Args:
        folder: the set, such as NuScenes-via-Occ3D-2Hz-val.
    """

    folder: str = "NuScenes-via-Occ3D-2Hz-val"
    name: str = "uniocc"
    coarse: bool = True

    def path(self, root: Path, scene: Scene, index: int) -> Path:
        """`<set>/<scene>/<index>.npz`; index 0 is the first keyframe."""
        return inside(root, f"{self.folder}/{scene.name}/{index}.npz", f"scene {scene.name}")

    def load(self, root: Path, scene: Scene, index: int) -> KnownLabels:
        """Refused, whatever is there."""
        raise UserError(
            f"{self.path(root, scene, index)} holds UniOcc's 10 coarse classes, "
            "which can't be scored as Occ3D's 17; use Occ3D's own labels (gts)"
        )


@dataclass(frozen=True)
class SparseLidar:
    """Occupied voxels listed one by one in the LiDAR frame: OpenOccupancy and SurroundOcc.

    Ids 1..16 are Occ3D's; what isn't listed is free, 0 and 255 are noise (unknown).

    Args:
        name: `openoccupancy` or `surroundocc`.
        grid: of the files, in the LiDAR frame.
        columns: where x, y, z and the class stand in a row of the file.
    """

    name: str
    grid: Grid
    columns: tuple[int, int, int, int]
    coarse: bool = False

    def path(self, root: Path, scene: Scene, index: int) -> Path:
        """The file of a keyframe, named after its LiDAR sweep."""
        frame = scene.keyframes[index]
        if self.name == "openoccupancy":  # named by the sweep's token, which its point labels carry
            token = _need(frame.lidarseg, "point labels (lidarseg.json)", self.name)
            token = Path(token).name.removesuffix("_lidarseg.bin")
            name = f"scene_{scene.token}/occupancy/{token}.npy"
            return inside(root, name, f"scene {scene.name}")
        sweep = _need(frame.lidar, "sweep (sample_data.json)", self.name)
        name = f"nuscenes_occ/samples/{Path(sweep).name}.npy"
        return inside(root, name, f"scene {scene.name}")

    def load(self, root: Path, scene: Scene, index: int) -> KnownLabels:
        """Regridded to the keyframe's ego frame; unknown outside the file's grid and at noise."""
        path = self.path(root, scene, index)
        voxels = _sparse(path, self.grid, self.columns)
        return regrid(voxels, self.grid, scene.keyframes[index].lidar_to_ego)


OPENOCCUPANCY = SparseLidar(
    "openoccupancy", Grid((512, 512, 40), 0.2, (-51.2, -51.2, -5.0)), (2, 1, 0, 3)
)
SURROUNDOCC = SparseLidar(
    "surroundocc", Grid((200, 200, 16), 0.5, (-50.0, -50.0, -5.0)), (0, 1, 2, 3)
)
LABEL_SETS: dict[str, LabelSet] = {
    s.name: s for s in (OpenOcc(), UniOcc(), OPENOCCUPANCY, SURROUNDOCC)
}
UNKNOWN = 255


def _need(value: str | None, what: str, name: str) -> str:
    if value is None:
        raise UserError(
            f"{name} names its files after LiDAR sweeps, and this data root lists no {what}; "
            "fetch the nuScenes tables beside annotations.json"
        )
    return value


_ADVICE = "check --labels and its folder, or fetch the file again"


def _dense(path: Path, key: str, classes: int) -> np.ndarray:
    """A dense array of ids below `classes` on the Occ3D grid."""

    def check(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
        if shape != OCC3D.shape:
            return f"has shape {shape}, expected {OCC3D.shape}"
        return None if dtype.kind in "iub" else f"is {dtype}, expected whole numbers"

    ids = read_npz(path, (key,), "label file", _ADVICE, check)[key]
    if ids.min() < 0 or ids.max() >= classes:
        raise UserError(f"{path}: {key} holds {ids.max()}, expected ids 0..{classes - 1}")
    return ids.astype(np.uint8)


def _sparse(path: Path, grid: Grid, columns: Sequence[int]) -> np.ndarray:
    """A dense grid from rows (N, 4); 17 = free, 255 = noise."""
    with reading(path, "label file", _ADVICE), open_file(path, ARRAY_BYTES) as file:
        declared(file, path.stat().st_size)
        file.seek(0)
        rows = np.lib.format.read_array(file, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise UserError(f"{path} has shape {rows.shape}, expected (N, 4): three indices, a class")
    rows = rows[:, list(columns)].astype(np.int64)
    place, ids = rows[:, :3], rows[:, 3]
    if len(rows) and (place.min() < 0 or (place >= grid.shape).any()):
        raise UserError(f"{path} lists voxels outside its grid of {grid.shape}")
    if len(rows) and not ((ids >= 0) & ((ids < FREE) | (ids == UNKNOWN))).all():
        raise UserError(f"{path} holds class {ids.max()}, expected 0..16 or 255")
    voxels = np.full(grid.shape, FREE, np.uint8)
    voxels[tuple(place.T)] = np.where(ids == 0, UNKNOWN, ids)
    return voxels


def regrid(
    voxels: np.ndarray, grid: Grid, frame_to_ego: np.ndarray, target: Grid = OCC3D
) -> KnownLabels:
    """Labels on another grid and in another frame, by nearest neighbour.

    A target voxel larger than the given ones looks at several places, and the most important class
    among them names it (`COARSEN_PRIORITY`), so that poles and people aren't lost between.

    Args:
        voxels: Occ3D ids, or 255 where nothing is known, uint8 of `grid`'s shape.
        grid: of `voxels`, in the frame they come in.
        frame_to_ego: rigid transform (4, 4).
        target: wanted grid, in the ego frame.
    """
    if voxels.shape != grid.shape:
        raise ValueError(f"voxels {voxels.shape} don't lie on a grid of {grid.shape}")
    k = max(1, round(target.voxel_size / grid.voxel_size))
    fine = Grid(tuple(k * n for n in target.shape), target.voxel_size / k, target.origin)
    scale, offset = voxel_map(invert(np.asarray(frame_to_ego, np.float64)), grid, fine)
    seen = np.full(fine.shape, UNKNOWN, np.uint8)
    # a hair's breadth keeps borders that fall on centres from flickering
    nearest(np.ascontiguousarray(voxels), scale, offset + 1e-9, np.zeros(3, int), seen)
    known = seen != UNKNOWN
    semantics = merge_blocks(np.where(known, seen, np.uint8(FREE))[None], k)[0]
    x, y, z = target.shape
    count = known.reshape(x, k, y, k, z, k).sum((1, 3, 5))
    return KnownLabels(semantics, (2 * count > k**3).view(np.uint8))


class LabelSetReader(FrameReader):
    """Reads a `LabelSet` where a `FrameReader` reads Occ3D's own labels.

    Args:
        reader: of the data set whose scenes are read; its grid transform stays.
        labels, root: the set and the folder it lies in.
        scenes: the data set's scenes.
    """

    def __init__(
        self, reader: FrameReader, labels: LabelSet, root: str | os.PathLike, scenes: list[Scene]
    ) -> None:
        super().__init__(
            reader.root, reader.transform, reader.past_from, reader.merge, reader.layout,
            reader.own_car,
        )  # fmt: skip
        self.label_set, self.labels_root = labels, Path(root)
        self._place = {
            frame.token: (scene, i) for scene in scenes for i, frame in enumerate(scene.keyframes)
        }

    def labels(self, frame, masks: bool = False) -> tuple[np.ndarray, ...]:
        """The set's labels on the data set's grid; where it knows stands for both masks."""
        semantics, known = self.label_set.load(self.labels_root, *self._place[frame.token])
        voxels = self.transform(semantics)
        if not masks:
            return (voxels,)
        known = self.transform.mask(known)
        return voxels, known, known


def with_labels(dataset: ClipDataset, labels: LabelSet, root: str | os.PathLike) -> ClipDataset:
    """Let a data set read its labels from such a set; its fingerprint says so.

    Raises:
        UserError: if the set's classes are too coarse to be scored.
    """
    if labels.coarse:
        labels.load(Path(root), dataset.scenes[0], 0)  # refuses, in its own words
    dataset.reader = LabelSetReader(dataset.reader, labels, root, dataset.scenes)
    dataset.fingerprint = f"{labels.name}-{dataset.fingerprint}"
    return dataset
