"""RayIoU: is the first thing that a LiDAR ray meets the right class at the right distance?

Voxel IoU punishes a thick wall and a thin one differently; a ray sees only its first voxel. The
protocol is SparseOcc's (Liu et al., ECCV 2024), with a plain voxel traversal on the CPU instead of
a CUDA extension. `ray_iou` is all of it for arrays at hand; `RayIoU` counts clip after clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from occdistill.data.occ3d import CLASS_NAMES, FREE, NUM_CLASSES, OCC3D, Grid
from occdistill.data.poses import LIDAR_POSITION, invert
from occdistill.data.raycast import cast_rays
from occdistill.errors import UserError
from occdistill.evaluation.measures.base import Context, Measure, Observer
from occdistill.evaluation.metrics import horizon_names, nanmean

if TYPE_CHECKING:  # arrays at hand need no model code
    from occdistill.evaluation.rows import ClipBatch, Row

Distance = Literal["exit", "entry"]
THRESHOLDS = (1.0, 2.0, 4.0)  # metres
MARGIN = 1.0  # metres; no ray starts nearer to the grid's sides (|x|, |y| < 39 in Occ3D)


def ray_iou(
    prediction: Iterable[np.ndarray],
    truth: Iterable[np.ndarray],
    origins: Iterable[np.ndarray],
    *,
    grid: Grid = OCC3D,
    thresholds: tuple[float, ...] = THRESHOLDS,
    directions: np.ndarray | None = None,
    distance: Distance = "exit",
) -> dict:
    """RayIoU of N predicted grids, by default as SparseOcc counts it.

    Args:
        prediction: N grids of class ids `(X, Y, Z)` in Occ3D's order, 0 to 16 and free = 17: an
            array `(N, X, Y, Z)`, or anything that yields them one by one.
        truth: likewise.
        origins: for each grid where rays start, `(O, 3)`, metres in that grid's ego frame; a
            scene's poses give them by `drive_origins`.
        grid: shape, voxel size and place of the grids; default Occ3D's, 200 × 200 × 16 of 0.4 m.
        thresholds: metres; a ray is right if its class is, and its distance by less than this.
        directions: unit vectors `(R, 3)`; default `lidar_directions()`.
        distance: `exit`, SparseOcc's: a ray is as long as to where it leaves the voxel it hits.
            `entry`: to where it enters it. The two differ by up to a voxel's diagonal.

    Returns:
        `RayIoU`, the mean over thresholds, `1m`, `2m` and `4m` (named after the thresholds), all in
        percent, averaged over the classes that rays met or predicted, over all grids together; and
        `per_class`: class name to the same, NaN for a class that no ray met. Only rays that hit
        something in the truth count.

    Raises:
        UserError: if a grid has another shape or other ids, or their numbers differ.
    """
    measure = RayIoU(1, grid, thresholds, directions, distance)
    for voxels, true, starts in zip_longest(prediction, truth, origins):
        if voxels is None or true is None or starts is None:
            raise UserError(
                "ray_iou got unequal numbers of predictions, truths and sets of origins; it needs "
                "one of each per grid"
            )
        measure.update(np.asarray(voxels)[None], np.asarray(true)[None], [starts])
    ratio = 100 * measure.ratio()[:, 0]
    names = [f"{t:g}m" for t in thresholds]
    mean = nanmean(ratio, -1)
    return {
        "RayIoU": float(mean.mean()),
        **dict(zip(names, mean.tolist())),
        "per_class": {
            CLASS_NAMES[c]: {"RayIoU": float(row.mean()), **dict(zip(names, row.tolist()))}
            for c, row in enumerate(ratio.T)
        },
    }


def lidar_directions(azimuths: int = 360) -> np.ndarray:
    """Unit vectors `(R, 3)`: all around, from 45° down to about 12° up, denser near the horizon.

    Downwards the beams hit flat ground at whole multiples of the sensor's height; from the tenth on
    their angles rise evenly. 39 angles and 360 azimuths are SparseOcc's 14,040 rays.
    """
    pitch = [-np.arctan(1 / (k + 1)) for k in range(10)]
    step = pitch[-1] - pitch[-2]
    while pitch[-1] < 0.21:
        pitch.append(pitch[-1] + step)
    around = np.arange(azimuths) * 2 * np.pi / azimuths
    elevation, azimuth = np.meshgrid(pitch, around, indexing="ij")
    horizontal = np.cos(elevation)
    vectors = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation))
    return np.stack(vectors, axis=-1).reshape(-1, 3)


def drive_origins(
    poses: np.ndarray,
    grid: Grid = OCC3D,
    limit: int = 8,
    lidar: tuple[float, float, float] = LIDAR_POSITION,
) -> list[np.ndarray]:
    """Where the LiDAR was and will be along a drive, seen from each of its frames.

    Args:
        poses: ego to one common frame, `(K, 4, 4)`; SparseOcc takes all keyframes of the scene.
        grid: origins within `MARGIN` of its sides, or beyond them, are left out; those above or
            below it are not.
        limit: at most so many per frame, evenly spread along the drive.
        lidar: sensor position in the ego frame, metres.

    Returns:
        K arrays `(<= limit, 3)`, metres in the ego frame of each frame.
    """
    poses = np.asarray(poses, np.float64)
    sensors = poses @ np.array([*lidar, 1.0])
    low, high = np.array(grid.origin[:2]) + MARGIN, np.array(grid.upper[:2]) - MARGIN
    result = []
    for back in invert(poses):
        local = (sensors @ back.T)[:, :3]
        local = local[((local[:, :2] > low) & (local[:, :2] < high)).all(1)]
        keep = np.linspace(0, len(local) - 1, min(limit, len(local))).round().astype(int)
        result.append(local[keep])
    return result


class RayIoU:
    """Counts of rays; only rays that hit something in the truth count.

    Args:
        frames: frames F of a clip, counted apart.
        grid: of the voxels.
        thresholds: metres, as in `ray_iou`.
        directions: unit vectors `(R, 3)`; default `lidar_directions()`.
        distance: as in `ray_iou`.

    Raises:
        UserError: for a `distance` that isn't `exit` or `entry`.
    """

    summed = ("hits", "true", "predicted")

    def __init__(
        self,
        frames: int,
        grid: Grid,
        thresholds: tuple[float, ...] = THRESHOLDS,
        directions: np.ndarray | None = None,
        distance: Distance = "exit",
    ) -> None:
        if distance not in ("exit", "entry"):
            raise UserError(f"RayIoU's distance is 'exit' or 'entry', not {distance!r}")
        self.grid, self.thresholds, self.distance = grid, thresholds, distance
        self.directions = lidar_directions() if directions is None else directions
        self.hits = np.zeros((len(thresholds), frames, NUM_CLASSES), np.int64)
        self.true = np.zeros((frames, NUM_CLASSES), np.int64)
        self.predicted = np.zeros((frames, NUM_CLASSES), np.int64)

    def update(self, pred: np.ndarray, target: np.ndarray, origins: list[np.ndarray]) -> None:
        """Count one clip: ids `(F, X, Y, Z)` twice, and F arrays of origins `(O, 3)`, metres."""
        pred, target = self._checked("prediction", pred), self._checked("truth", target)
        for f, points in enumerate(origins):
            for origin in np.reshape(points, (-1, 3)):
                true, far = self._look(target[f], origin)
                guess, near = self._look(pred[f], origin)
                seen = true != FREE
                true, guess = true[seen], guess[seen]
                error = np.abs(far[seen] - near[seen])
                self.true[f] += np.bincount(true, minlength=NUM_CLASSES)
                self.predicted[f] += np.bincount(guess, minlength=NUM_CLASSES)
                for i, threshold in enumerate(self.thresholds):
                    right = true[(true == guess) & (error < threshold)]
                    self.hits[i, f] += np.bincount(right, minlength=NUM_CLASSES)

    def _checked(self, what: str, voxels: np.ndarray) -> np.ndarray:
        if voxels.shape != (len(self.true), *self.grid.shape):
            raise UserError(
                f"RayIoU got a {what} of shape {voxels.shape[1:]} for a grid of {self.grid.shape}; "
                "cast rays through the grid that it was made for"
            )
        if voxels.min() < 0 or voxels.max() > FREE:
            raise UserError(
                f"RayIoU got a {what} with class ids outside 0..{FREE} (Occ3D order, free = {FREE})"
            )
        return np.ascontiguousarray(voxels, np.uint8)

    def _look(self, voxels: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class (free where nothing is hit) and distance of what each ray meets first."""
        index, distance = cast_rays(
            voxels != FREE,
            self.grid.origin,
            self.grid.voxel_size,
            origin,
            self.directions,
            to=self.distance,
        )
        classes = voxels[tuple(index.T)]  # misses index the last voxel, and are set to free
        return np.where(index[:, 0] < 0, FREE, classes), distance

    def ratio(self) -> np.ndarray:
        """IoU in [0, 1] of each threshold, frame and class but free, `(T, F, 17)`; NaN if unmet."""
        union = self.true + self.predicted - self.hits
        ratio = np.divide(self.hits, union, out=np.full(union.shape, np.nan), where=union > 0)
        return ratio[..., :FREE]

    def result(self) -> dict:
        """Percent per threshold and horizon: mean over the classes that rays met or predicted.

        Keys `1m`, `2m`, `4m` and their mean `RayIoU`; each horizon name or `avg@all` to percent.
        """
        values = 100 * nanmean(self.ratio(), -1)
        names = horizon_names(values.shape[1])
        rows = dict(zip((f"{t:g}m" for t in self.thresholds), values))
        rows["RayIoU"] = values.mean(0)
        return {
            name: {**dict(zip(names, row.tolist())), "avg@all": float(row.mean())}
            for name, row in rows.items()
        }


def observe(
    context: Context, distance: Distance = "exit", origins: int = 8, azimuths: int = 360
) -> Observer:
    """RayIoU from up to `origins` LiDAR positions along the scene's whole drive, also beyond the
    clip, with `azimuths` rays around.
    """
    dataset, directions = context.dataset, lidar_directions(azimuths)

    @lru_cache(maxsize=1)  # the clips of a scene follow one another
    def along(scene: int) -> list[np.ndarray]:
        poses = np.stack([frame.ego_to_global for frame in dataset.scenes[scene].keyframes])
        return drive_origins(poses, dataset.grid, origins)

    def make() -> RayIoU:
        return RayIoU(dataset.future, dataset.grid, directions=directions, distance=distance)

    def feed(state: RayIoU, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        clips = zip(batch.index.tolist(), pred.cpu().numpy(), batch.future.cpu().numpy())
        for i, voxels, truth in clips:
            scene, start = dataset.clips[i]
            first = start + dataset.past
            state.update(voxels, truth, along(scene)[first : first + dataset.future])

    return Observer("ray_iou" if distance == "exit" else "ray_iou_entry", make, feed)


EXIT = Measure("ray-iou", observe, {"RayIoU": ("ray_iou", "RayIoU", "avg@all")}, order=1)
ENTRY = Measure(
    "ray-iou-entry",
    partial(observe, distance="entry"),
    {"RayIoU, entry": ("ray_iou_entry", "RayIoU", "avg@all")},
    order=2,
)
