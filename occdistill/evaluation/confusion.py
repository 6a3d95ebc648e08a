"""Counting: exact int64 confusion matrices of voxel grids, fast enough to keep up with inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occdistill.compiled import njit
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.errors import UserError
from occdistill.store import read_npz, write_npz

Voxels = np.ndarray | Tensor

_WAYS = (
    4  # separate tables for neighbouring voxels: equal labels in a row don't wait for each other
)
_SIDE = 32  # table side, a power of two above 18: ids 18..31 land inside and are found afterwards


@njit(cache=True, nogil=True)
def _count_words(pred, target, quiet, tables):
    """Histogram of (target, pred) byte pairs from 8-voxel words; returns the OR of all ids.

    Most of a street is air: a word that is all `quiet` in both grids is one comparison.
    """
    seen = np.uint64(0)
    skipped = 0
    for i in range(pred.size):
        p, t = pred[i], target[i]
        if p == quiet and t == quiet:
            skipped += 1
            continue
        seen |= p | t
        for way in range(8):
            tables[way % _WAYS, t & np.uint64(31), p & np.uint64(31)] += 1
            p >>= np.uint64(8)
            t >>= np.uint64(8)
    return seen, skipped


@njit(cache=True, nogil=True)
def _count_masked(pred, target, mask, tables):
    """Histogram where `mask` is non-zero; returns the OR of all counted ids.

    Without a branch: a voxel outside the mask goes to the second half of its table, uncounted.
    """
    seen = np.uint8(0)
    for i in range(pred.size):
        out = np.uint8(mask[i] == 0)
        keep = np.uint8(out - np.uint8(1))  # 255 inside, 0 outside
        seen |= (pred[i] | target[i]) & keep
        row = (target[i] & np.uint8(31)) | (out << np.uint8(5))
        tables[i % _WAYS, row, pred[i] & np.uint8(31)] += 1
    return seen


def _frame_table(
    pred: np.ndarray, target: np.ndarray, mask: np.ndarray | None, classes: int
) -> np.ndarray:
    """`(classes, classes)` counts of one flat frame."""
    tables = np.zeros((_WAYS, 2 * _SIDE, _SIDE), np.int64)
    if mask is not None:
        seen = int(_count_masked(pred, target, mask, tables))
        table = tables.sum(0)[:_SIDE]
    else:
        whole = pred.size // 8 * 8
        quiet = np.full(8, classes - 1, np.uint8).view(np.uint64)[0]
        words, skipped = _count_words(
            pred[:whole].view(np.uint64), target[:whole].view(np.uint64), quiet, tables
        )
        tail = _count_masked(
            pred[whole:], target[whole:], np.ones(pred.size - whole, np.uint8), tables
        )
        table = tables.sum(0)[:_SIDE]
        table[classes - 1, classes - 1] += 8 * skipped
        seen = int(tail) | int(np.bitwise_or.reduce(np.array([words]).view(np.uint8)))
    if seen >= _SIDE or table[classes:].any() or table[:, classes:].any():
        raise UserError(
            f"a grid holds a class id above {classes - 1} (Occ3D order, free = {classes - 1}); "
            "check the label order and the fill value of the file it came from"
        )
    return table[:classes, :classes]


def confusion(
    pred: Voxels, target: Voxels, mask: Voxels | None = None, classes: int = NUM_CLASSES
) -> np.ndarray:
    """Confusion matrices of one clip, one per frame.

    Args:
        pred: uint8 ids `(F, ...)`, any voxel shape; numpy, or torch on any device.
        target: same shape.
        mask: same shape; only voxels where it is non-zero count. None: all.
        classes: number of ids; the last one is free space.

    Returns:
        int64 `(F, classes, classes)`; row = true class, column = predicted class.

    Raises:
        UserError: if the shapes differ or an id is not below `classes`.
    """
    for name, other in (("target", target), ("mask", mask)):
        if other is not None and tuple(other.shape) != tuple(pred.shape):
            raise UserError(
                f"prediction {tuple(pred.shape)} and {name} {tuple(other.shape)} differ in shape; "
                "score a prediction on the grid and horizon that it was made for"
            )
    if isinstance(pred, Tensor) and pred.is_cuda:
        return _confusion_on_device(pred, target, mask, classes)
    frames = pred.shape[0]
    flat = [None if x is None else _flat_bytes(x, frames) for x in (pred, target, mask)]
    result = np.zeros((frames, classes, classes), np.int64)
    for f in range(frames):
        result[f] = _frame_table(*(None if x is None else x[f] for x in flat), classes)
    return result


def _flat_bytes(x: Voxels, frames: int) -> np.ndarray:
    """A contiguous uint8 view `(F, voxels)`, copying only what isn't one already."""
    x = x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if x.dtype != np.uint8:
        if x.size and (x.min() < 0 or x.max() > 255):
            raise UserError("a grid holds class ids outside 0..255; expected uint8 ids 0..17")
        x = x.astype(np.uint8)
    return np.ascontiguousarray(x).reshape(frames, -1)


def _confusion_on_device(
    pred: Tensor, target: Voxels, mask: Voxels | None, classes: int
) -> np.ndarray:
    frames = pred.shape[0]
    target = torch.as_tensor(target, device=pred.device).reshape(frames, -1).long()
    pred = pred.reshape(frames, -1).long()
    if int(torch.maximum(pred.max(), target.max())) >= classes:
        raise UserError(f"a grid holds a class id above {classes - 1} (Occ3D order)")
    offset = torch.arange(frames, device=pred.device)[:, None] * classes**2
    index = offset + target * classes + pred
    if mask is not None:
        index = index[torch.as_tensor(mask, device=pred.device).reshape(frames, -1).bool()]
    counts = torch.bincount(index.flatten(), minlength=frames * classes**2)
    return counts.view(frames, classes, classes).cpu().numpy()


class Confusion:
    """A sum of confusion matrices over clips: constant memory, exact, mergeable.

    Attributes:
        counts: int64 `(F, classes, classes)`, row = true class, column = predicted class.
        clips: number of clips counted.
    """

    summed = ("counts", "clips")

    def __init__(self, frames: int, classes: int = NUM_CLASSES) -> None:
        self.counts = np.zeros((frames, classes, classes), np.int64)
        self.clips = 0

    def update(self, pred: Voxels, target: Voxels, mask: Voxels | None = None) -> np.ndarray:
        """Count one clip `(F, X, Y, Z)` and return its own matrices; see `confusion`."""
        if pred.shape[0] != len(self.counts):
            raise UserError(f"a clip of {pred.shape[0]} frames where {len(self.counts)} are scored")
        clip = confusion(pred, target, mask, self.counts.shape[-1])
        self.counts += clip
        self.clips += 1
        return clip

    def save(self, path: str | Path) -> None:
        """Write `counts` and `clips` as npz."""
        write_npz(path, {"counts": self.counts, "clips": self.clips})

    @classmethod
    def load(cls, path: str | Path) -> Confusion:
        """Read what `save` wrote.

        Raises:
            UserError: if the file isn't such a file.
        """
        what = "file of confusion matrices"
        data = read_npz(path, ("counts", "clips"), what, "run the scoring again")
        counts, clips = data["counts"], data["clips"]
        whole = counts.dtype.kind in "iu" and clips.dtype.kind in "iu"
        shape = (len(counts) if counts.ndim else 0, NUM_CLASSES, NUM_CLASSES)
        if not whole or counts.shape != shape or clips.shape or counts.min(initial=0) < 0:
            raise UserError(
                f"{path} holds {counts.dtype} {counts.shape} and {clips.dtype} {clips.shape}, which "
                "are no confusion matrices; run the scoring again"
            )
        result = cls(len(counts))
        result.counts, result.clips = counts.astype(np.int64), int(clips)
        return result
