"""Which voxels of a clip count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occdistill.data.occ3d import FREE
from occdistill.errors import UserError
from occdistill.evaluation.confusion import Voxels

VIEWS = ("all", "camera", "lidar", "camera+lidar", "blank-camera", "changed")
_MASKS = {
    "camera": ("mask_camera",),
    "lidar": ("mask_lidar",),
    "camera+lidar": ("mask_camera", "mask_lidar"),
    "blank-camera": ("mask_camera",),
}


@dataclass
class Clip:
    """What a view may look at, all uint8 and on one device.

    Attributes:
        future: true voxels `(F, X, Y, Z)`.
        newest: the newest past frame `(X, Y, Z)`.
        mask_lidar: voxels a LiDAR ray crossed or hit, `(F, X, Y, Z)`, or None.
        mask_camera: voxels a camera saw, or None.
    """

    future: Voxels
    newest: Voxels
    mask_lidar: Voxels | None = None
    mask_camera: Voxels | None = None


def needs_masks(view: str) -> bool:
    """Whether the view asks for the label files' visibility masks."""
    return view in _MASKS


def look(view: str, pred: Voxels, clip: Clip) -> tuple[Voxels, Voxels, Voxels | None]:
    """`(prediction, target, mask)` to be counted under a view.

    - `all`: every voxel, as forecasting papers do, although unobserved voxels are guesses.
    - `camera`, `lidar`, `camera+lidar`: voxels that these sensors saw in the future frame.
    - `blank-camera`: both sides set to free outside the camera mask (COME); scores equal those of
      `camera`, counts of free don't.
    - `changed`: voxels whose true class isn't that of the newest past frame in the same place.
    """
    if view == "all":
        return pred, clip.future, None
    if view == "changed":
        return pred, clip.future, clip.future != clip.newest[None]
    if view not in _MASKS:
        raise UserError(f"unknown view {view!r}; known: {', '.join(VIEWS)}")
    mask = None
    for name in _MASKS[view]:
        part = getattr(clip, name)
        if part is None:
            raise UserError(f"the view {view!r} needs {name}, which this data set doesn't have")
        mask = part != 0 if mask is None else mask & (part != 0)
    if view == "blank-camera":
        return _blank(pred, mask), _blank(clip.future, mask), None
    return pred, clip.future, mask


def _blank(voxels: Voxels, mask: Voxels) -> Voxels:
    if isinstance(voxels, np.ndarray):
        return np.where(mask, voxels, np.uint8(FREE))
    return voxels.masked_fill(~mask.to(voxels.device), FREE)
