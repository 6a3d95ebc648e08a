"""What rows have in common, computed once: objects carried on, and the past's latents.

Objects are followed on the CPU, 150 ms for a clip at full size, so a loader's workers do that ahead
of the networks. A keyframe lies in the past of as many clips as that has frames, and is encoded for
the first of them.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import Grid
from occdistill.evaluation.baselines import ego_warp


@dataclass(frozen=True)
class Carried:
    """The newest frame from each future place, its objects moved on: one clip's, in a loader.

    Args:
        grid: of the voxels.
        future: frames F.
        extrapolated: see `baselines.ego_warp`.
    """

    grid: Grid
    future: int
    extrapolated: bool = False

    @property
    def key(self) -> tuple:
        """Of the result among what a batch's rows share, see `ClipBatch.rule`."""
        return ("rule", self.extrapolated, True)

    def __call__(self, past: Tensor, poses: Tensor) -> Tensor:
        """uint8 `(F, X, Y, Z)` from past `(P, X, Y, Z)` and poses `(P + F, 4, 4)`."""
        options = (self.future, self.grid, self.extrapolated)
        return ego_warp(past[None], poses[None], *options, carry=True)[0]


class ForRows(Dataset):
    """Clips as rows want them: with the names of their past keyframes, and what is carried on under
    its key.

    Args:
        clips: the data set; keyframes have no names where it isn't `alike`, see `Disturbed`.
        needed: of all rows; what several need is made once.
    """

    def __init__(self, clips: ClipDataset, needed: Iterable[Carried]) -> None:
        self.clips, self.needed = clips, tuple(dict.fromkeys(needed))
        self._own = (
            zlib.crc32(clips.fingerprint.encode()) << 24
        )  # no two data sets have the same names

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        """One clip; `frames` are the names, int64 `(P,)`."""
        item, rows = self.clips[index], self.clips.rows(index)[0]
        if getattr(self.clips, "alike", True):
            item["frames"] = self._own + torch.arange(rows.start, rows.stop)
        return item | {one.key: one(item["past"], item["poses"]) for one in self.needed}


class PastLatents:
    """Latents of the past that rows with the same encoder share, for as long as clips follow each
    other.

    Args:
        keep: keyframes kept, those that were asked for last.
    """

    def __init__(self, keep: int = 256) -> None:
        self.keep = keep
        self._known: OrderedDict[int, Tensor] = OrderedDict()

    def of(self, encode: Callable[[Tensor], Tensor], past: Tensor, frames: Tensor) -> Tensor:
        """Scaled latents `(B, P, C, H, W)`, each keyframe encoded by itself as a stream does it.

        Args:
            encode: voxels `(1, X, Y, Z)` to latents; always the same function.
            past: uint8 `(B, P, X, Y, Z)`.
            frames: names of these keyframes, int64 `(B, P)`.
        """
        found = []
        for name, voxels in zip(frames.flatten().tolist(), past.flatten(0, 1)):
            if name not in self._known:
                self._known[name] = encode(voxels[None])[0]
            self._known.move_to_end(name)
            found.append(self._known[name])
        while len(self._known) > self.keep:
            self._known.popitem(last=False)
        return torch.stack(found).unflatten(0, past.shape[:2])
