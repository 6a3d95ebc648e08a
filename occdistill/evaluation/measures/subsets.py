"""mIoU of parts: movable and static classes, changed voxels, what sensors saw. From counts alone."""

from __future__ import annotations

import numpy as np

from occdistill.data.occ3d import FREE, MOVABLE
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.metrics import Rules, score

STATIC = tuple(c for c in range(FREE) if c not in MOVABLE)
CLASS_SUBSETS = {
    "movable": MOVABLE,
    "static": STATIC,
    "without_others": tuple(range(1, FREE)),
}
COLUMNS = {  # of the page, as `Measure.columns`
    "movable mIoU": ("movable", "mIoU", "avg@1,2,3s"),
    "static mIoU": ("static", "mIoU", "avg@1,2,3s"),
    "changed mIoU": ("changed", "mIoU", "avg@1,2,3s"),
    "camera-visible mIoU": ("camera", "mIoU", "avg@1,2,3s"),
    "LiDAR-visible mIoU": ("lidar", "mIoU", "avg@1,2,3s"),
}


def subset_scores(counts: Counts, chosen: np.ndarray | None = None) -> dict[str, dict]:
    """mIoU per horizon of class subsets, and mIoU and IoU of voxel subsets.

    Args:
        counts: of one row; voxel subsets are those that were counted as views. `changed` are the
            voxels whose true class isn't that of the newest past frame in the same place: what
            copying can't get right. It asks only about the change that did happen.
        chosen: clips to use, `(N,)` bool; default all.

    Returns:
        Subset name to `mIoU` (and `IoU`), each horizon or average name to percent.
    """
    result = {
        name: {"mIoU": score(counts.total("all", chosen), Rules(classes=classes))["mIoU"]}
        for name, classes in CLASS_SUBSETS.items()
    }
    for view in counts.tallies:
        if view != "all":
            scores = score(counts.total(view, chosen))
            result[view] = {"mIoU": scores["mIoU"], "IoU": scores["IoU"]}
    return result
