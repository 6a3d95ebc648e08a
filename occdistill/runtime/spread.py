"""Several futures of a clip as what an engineer plans with: how likely, and how sure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from occdistill.data.occ3d import FREE, NUM_CLASSES


class Spread(NamedTuple):
    """Per voxel, float32 `(B, F, X, Y, Z)`.

    Attributes:
        occupancy: share of the samples in which the voxel isn't free, 0 to 1.
        entropy: of the samples' classes, in nats: 0 where all agree, log k at most.
    """

    occupancy: Tensor
    entropy: Tensor


def spread(futures: Tensor) -> Spread:
    """Occupancy and entropy of k samples, uint8 `(B, k, F, X, Y, Z)`."""
    count = futures.shape[1]
    entropy = torch.zeros(futures[:, 0].shape, device=futures.device)
    for label in range(NUM_CLASSES):
        share = (futures == label).sum(1, dtype=torch.float32) / count
        entropy -= torch.xlogy(share, share)
    occupied = (futures != FREE).sum(1, dtype=torch.float32)
    return Spread(occupied / count, entropy.clamp_min_(0))
