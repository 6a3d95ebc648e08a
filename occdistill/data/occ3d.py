"""The Occ3D-nuScenes grid, its 18 classes, and `labels.npz` files.

A voxel grid is a uint8 array indexed (x, y, z) in the ego frame of its keyframe (x forward,
y left, z up), holding class ids 0…17, where 17 is free space (Tian et al., Occ3D, 2023).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from occdistill.errors import UserError
from occdistill.store import read_npz
from occdistill.types import Count, Positive

CLASS_NAMES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)
NUM_CLASSES = len(CLASS_NAMES)
FREE = 17
MOVABLE = (2, 3, 4, 5, 6, 7, 9, 10)

PALETTE = np.array(
    [
        (0, 0, 0),
        (255, 120, 50),
        (255, 192, 203),
        (255, 255, 0),
        (0, 150, 245),
        (0, 255, 255),
        (255, 127, 0),
        (255, 0, 0),
        (255, 240, 150),
        (135, 60, 0),
        (160, 32, 240),
        (255, 0, 255),
        (139, 137, 137),
        (75, 0, 75),
        (150, 240, 80),
        (230, 230, 250),
        (0, 175, 0),
        (255, 255, 255),
    ],
    dtype=np.uint8,
)

# Which class names a coarse voxel: small road users and cones would vanish under a majority
# vote, then other vehicles, then standing things, then ground, the road last.
COARSEN_PRIORITY = (7, 2, 6, 8, 4, 5, 3, 10, 9, 1, 0, 15, 16, 13, 12, 14, 11, 17)


@dataclass(frozen=True)
class Grid:
    """A box of cubic voxels in the ego frame.

    Args:
        shape: number of voxels (X, Y, Z).
        voxel_size: edge of a voxel in metres.
        origin: low corner (x, y, z) in metres.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    origin: tuple[float, float, float]

    @property
    def upper(self) -> tuple[float, float, float]:
        """High corner (x, y, z) in metres."""
        return tuple(o + n * self.voxel_size for o, n in zip(self.origin, self.shape))

    def crop(self, half_extent_m: float) -> Grid:
        """Keep |x|, |y| < `half_extent_m` metres; the cut must fall on voxel borders."""
        low = [self._index(-half_extent_m, axis) for axis in (0, 1)]
        high = [self._index(half_extent_m, axis) for axis in (0, 1)]
        if not all(0 <= a < b <= n for a, b, n in zip(low, high, self.shape)):
            raise UserError(
                f"a crop of ±{half_extent_m} m does not fit into a grid that ends at"
                f" {self.upper[0]:g} m; choose a smaller crop"
            )
        shape = (high[0] - low[0], high[1] - low[1], self.shape[2])
        return Grid(shape, self.voxel_size, (-half_extent_m, -half_extent_m, self.origin[2]))

    def coarsen(self, k: int) -> Grid:
        """Merge k×k×k voxels into one; every side must be a multiple of k."""
        if k < 1 or any(n % k for n in self.shape):
            raise UserError(
                f"a grid of {self.shape} voxels cannot be coarsened by {k};"
                " choose a factor that divides all three sides"
            )
        return Grid(tuple(n // k for n in self.shape), self.voxel_size * k, self.origin)

    def _index(self, metres: float, axis: int) -> int:
        """Voxel border at a coordinate."""
        border = (metres - self.origin[axis]) / self.voxel_size
        if abs(border - round(border)) > 1e-3:
            raise UserError(
                f"a crop of ±{abs(metres)} m cuts through voxels of {self.voxel_size} m;"
                " choose a crop that falls on voxel borders"
            )
        return round(border)


OCC3D = Grid(shape=(200, 200, 16), voxel_size=0.4, origin=(-40.0, -40.0, -1.0))


@dataclass(frozen=True)
class GridTransform:
    """Crop the Occ3D grid, then merge k³ blocks, so that small models read the same files.

    A merged voxel takes the most important class among its occupied voxels
    (`COARSEN_PRIORITY`), or is free when fewer than `min_fill` of them are occupied.

    Args:
        crop: half extent in x and y, metres; None keeps everything.
        coarsen: voxels merged along each axis.
        min_fill: occupied voxels that a block needs to count as occupied.
    """

    crop: Positive | None = None
    coarsen: Count = 1
    min_fill: Count = 1

    @cached_property
    def grid(self) -> Grid:
        """The grid of the result."""
        grid = OCC3D if self.crop is None else OCC3D.crop(self.crop)
        return grid.coarsen(self.coarsen)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Class ids uint8 (…, 200, 200, 16) → uint8 (…, X, Y, Z)."""
        blocks = self._cropped(labels)
        if blocks.size and blocks.max() >= NUM_CLASSES:
            raise ValueError(f"class id {blocks.max()} is not one of 0…{NUM_CLASSES - 1}")
        if self.coarsen == 1:
            return np.ascontiguousarray(blocks)
        out = merge_blocks(blocks, self.coarsen, self.min_fill)
        return out.reshape(*labels.shape[:-3], *self.grid.shape)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Visibility mask (…, 200, 200, 16) → uint8 (…, X, Y, Z): 1 where any voxel is seen."""
        k, (x, y, z) = self.coarsen, self.grid.shape
        blocks = self._cropped(mask)
        if k == 1:
            return np.ascontiguousarray(blocks != 0).view(np.uint8)
        seen = (blocks != 0).reshape(-1, x, k, y, k, z, k).any(axis=(2, 4, 6))
        return seen.view(np.uint8).reshape(*mask.shape[:-3], x, y, z)

    def _cropped(self, array: np.ndarray) -> np.ndarray:
        """The kept part; leading axes are flattened into one when blocks are to be merged."""
        if array.shape[-3:] != OCC3D.shape:
            raise ValueError(f"expected (…, {OCC3D.shape}) voxels, got {array.shape}")
        x, y, _ = self.grid.shape
        x, y = x * self.coarsen, y * self.coarsen
        i, j = (OCC3D.shape[0] - x) // 2, (OCC3D.shape[1] - y) // 2
        kept = array[..., i : i + x, j : j + y, :]
        return kept if self.coarsen == 1 else kept.reshape(-1, x, y, OCC3D.shape[2])


def merge_blocks(voxels: np.ndarray, k: int, min_fill: int = 1) -> np.ndarray:
    """Class ids uint8 (N, kX, kY, kZ) → uint8 (N, X, Y, Z); see `GridTransform`."""
    n, *shape = voxels.shape
    out = np.empty((n, *(side // k for side in shape)), np.uint8)
    _coarsen(voxels, k, min_fill, RANK, _PRIORITY, out)
    return out


_PRIORITY = np.array(COARSEN_PRIORITY, np.uint8)
# Of each class, the smaller the more important.
RANK = np.argsort(_PRIORITY).astype(np.uint8)


@numba.njit(cache=True, nogil=True)
def _coarsen(blocks, k, min_fill, rank, priority, out):
    count, nx, ny, nz = out.shape
    free = len(priority) - 1
    best = np.empty(nz, np.uint8)
    filled = np.empty(nz, np.int64)
    for n in range(count):
        for x in range(nx):
            for y in range(ny):
                best[:] = free
                filled[:] = 0
                for i in range(x * k, x * k + k):
                    for j in range(y * k, y * k + k):
                        for z in range(nz):
                            for m in range(z * k, z * k + k):
                                r = rank[blocks[n, i, j, m]]
                                filled[z] += r != free
                                best[z] = min(best[z], r)
                for z in range(nz):
                    out[n, x, y, z] = priority[best[z] if filled[z] >= min_fill else free]


class Labels(NamedTuple):
    """One keyframe of Occ3D: class ids and visibility masks, each uint8 (200, 200, 16)."""

    semantics: np.ndarray
    mask_lidar: np.ndarray
    mask_camera: np.ndarray


def load_labels(path: str | os.PathLike) -> Labels:
    """Read a `labels.npz`; a `UserError` names the file and what is wrong with it."""
    return Labels(*_load_arrays(Path(path), Labels._fields))


def load_semantics(path: str | os.PathLike) -> np.ndarray:
    """Read only the class ids of a `labels.npz`: uint8 (200, 200, 16)."""
    return _load_arrays(Path(path), ("semantics",))[0]


def save_labels(
    path: str | os.PathLike,
    semantics: np.ndarray,
    mask_lidar: np.ndarray,
    mask_camera: np.ndarray,
) -> None:
    """Write a `labels.npz` as Occ3D has it; the folder is made, the same input, same bytes."""
    labels = Labels(semantics, mask_lidar, mask_camera)
    for name, array in labels._asdict().items():
        if problem := _problem(name, array):
            raise ValueError(f"{name} {problem}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **labels._asdict())


def _load_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    advice = "copy it again from the Occ3D-nuScenes download (gts), or make the world again"
    arrays = list(read_npz(path, names, "label file", advice, _misfit).values())
    for name, array in zip(names, arrays):
        if problem := _problem(name, array):
            raise UserError(f"{name} of {path} {problem}; {advice}")
    return arrays


def _misfit(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """What is wrong with an array before it is read."""
    if shape != OCC3D.shape:
        return f"has shape {shape}, not {OCC3D.shape}"
    return None if dtype == np.uint8 else f"is {dtype}, not uint8"


def _problem(name: str, array: np.ndarray) -> str | None:
    """What is wrong with an array of a label file, if anything."""
    if problem := _misfit(array.shape, array.dtype):
        return problem
    if name == "semantics" and array.max() >= NUM_CLASSES:
        return f"holds class id {array.max()}, beyond {NUM_CLASSES - 1} (free)"
    if name.startswith("mask") and array.max() > 1:
        return f"holds {array.max()}, but a mask is 0 or 1"
    return None
