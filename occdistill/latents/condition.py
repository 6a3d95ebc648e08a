"""What a velocity field is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Condition:
    """The known part of a clip, in scaled latents.

    Attributes:
        past: latents of the past frames, `(B, P, C, H, W)`.
        aligned: past voxels warped into each future ego frame and encoded, `(B, F, K*C, H, W)`,
            the newest past frame first; None for networks that align by themselves.
        trajectory: displacement from each frame to the next in metres, `(B, L, 2)`, or None.
    """

    past: Tensor
    aligned: Tensor | None = None
    trajectory: Tensor | None = None

    def _map(self, function) -> Condition:
        return Condition(
            *(
                None if x is None else function(x)
                for x in (self.past, self.aligned, self.trajectory)
            )
        )

    @property
    def batch_size(self) -> int:
        """Number of clips."""
        return self.past.shape[0]

    def null(self) -> Condition:
        """What guidance contrasts with: frames zeroed, trajectory kept (OccFM's own choice)."""
        aligned = None if self.aligned is None else torch.zeros_like(self.aligned)
        return Condition(torch.zeros_like(self.past), aligned, self.trajectory)

    def dropped(self, keep: Tensor) -> Condition:
        """Null the samples where `keep (B,)` is False: condition dropout in training."""

        def mask(x: Tensor) -> Tensor:
            return x * keep.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))

        aligned = None if self.aligned is None else mask(self.aligned)
        return Condition(mask(self.past), aligned, self.trajectory)

    def to(self, *args, **kwargs) -> Condition:
        """Move or cast every tensor."""
        return self._map(lambda x: x.to(*args, **kwargs))

    def index(self, which: Tensor | slice) -> Condition:
        """Select samples along the batch."""
        return self._map(lambda x: x[which])

    def repeat(self, count: int) -> Condition:
        """Each clip `count` times in a row, for several samples of one clip."""
        return self._map(lambda x: x.repeat_interleave(count, 0))

    @staticmethod
    def of(items: Mapping[str, Tensor]) -> Condition:
        """The condition of a batch of cached clips, see `latents.cache.LatentClips`."""
        return Condition(items["past"], items.get("aligned"), items.get("trajectory"))

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Join along the batch."""

        def join(name: str) -> Tensor | None:
            parts = [getattr(c, name) for c in conditions]
            return None if parts[0] is None else torch.cat(parts)

        return Condition(join("past"), join("aligned"), join("trajectory"))
