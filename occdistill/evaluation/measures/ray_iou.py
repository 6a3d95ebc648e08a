"""RayIoU: is the first thing that a LiDAR ray meets the right class at the right distance?

After SparseOcc (Liu et al., ECCV 2024), with a plain voxel traversal instead of a CUDA extension.
Voxel IoU punishes a thick wall and a thin one differently; a ray sees only its face.
"""

from __future__ import annotations

import numpy as np

from occdistill.data.occ3d import FREE, NUM_CLASSES, Grid
from occdistill.data.raycast import cast_rays
from occdistill.evaluation.metrics import horizon_names, nanmean

THRESHOLDS = (1.0, 2.0, 4.0)  # metres
LIDAR = (0.94, 0.0, 1.84)  # LIDAR_TOP on a nuScenes car, in its ego frame


def lidar_directions(azimuths: int = 360) -> np.ndarray:
    """Unit vectors `(R, 3)`: all around, from 45° down to about 12° up, denser near the horizon.

    Downwards the beams hit flat ground at whole multiples of the sensor's height, as in SparseOcc.
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
    poses: np.ndarray, past: int, grid: Grid, limit: int = 8, lidar=LIDAR
) -> list[np.ndarray]:
    """Where the LiDAR was and will be, seen from each future ego frame.

    Args:
        poses: frame to newest past ego frame, `(P + F, 4, 4)`.
        past: P.
        grid: origins outside it are left out.
        limit: at most so many per frame, evenly spread along the drive.
        lidar: sensor position in the ego frame, metres.

    Returns:
        F arrays `(<= limit, 3)`, metres.
    """
    poses = np.asarray(poses, np.float64)
    sensors = poses @ np.array([*lidar, 1.0])
    low, high = np.array(grid.origin), np.array(grid.upper)
    result = []
    for pose in poses[past:]:
        local = (np.linalg.inv(pose) @ sensors.T).T[:, :3]
        local = local[((local >= low) & (local < high)).all(1)]
        keep = np.unique(np.linspace(0, len(local) - 1, min(limit, len(local))).round().astype(int))
        result.append(local[keep])
    return result


class RayIoU:
    """Counts of rays; only rays that hit something in the truth count.

    Args:
        frames: future frames F.
        grid: of the voxels.
        thresholds: metres; a ray is right if its class is, and its distance within this.
        directions: unit vectors `(R, 3)`.
    """

    def __init__(
        self,
        frames: int,
        grid: Grid,
        thresholds: tuple[float, ...] = THRESHOLDS,
        directions: np.ndarray | None = None,
    ) -> None:
        self.grid, self.thresholds = grid, thresholds
        self.directions = lidar_directions() if directions is None else directions
        self.range = float(np.linalg.norm(np.array(grid.shape)) * grid.voxel_size)
        self.hits = np.zeros((len(thresholds), frames, NUM_CLASSES), np.int64)
        self.true = np.zeros((frames, NUM_CLASSES), np.int64)
        self.predicted = np.zeros((frames, NUM_CLASSES), np.int64)

    def update(self, pred: np.ndarray, target: np.ndarray, origins: list[np.ndarray]) -> None:
        """Count one clip: uint8 `(F, X, Y, Z)` twice, and F arrays of origins `(O, 3)`, metres."""
        for f, points in enumerate(origins):
            for origin in points:
                true, far = self._look(target[f], origin)
                guess, near = self._look(pred[f], origin)
                seen = true != FREE
                true, guess = true[seen], guess[seen]
                with np.errstate(invalid="ignore"):
                    error = np.abs(far[seen] - near[seen])
                self.true[f] += np.bincount(true, minlength=NUM_CLASSES)
                self.predicted[f] += np.bincount(guess, minlength=NUM_CLASSES)
                for i, threshold in enumerate(self.thresholds):
                    right = true[(true == guess) & (error < threshold)]
                    self.hits[i, f] += np.bincount(right, minlength=NUM_CLASSES)

    def _look(self, voxels: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class (free where nothing is hit) and distance of what each ray meets first."""
        voxels = np.ascontiguousarray(voxels)
        index, distance = cast_rays(
            voxels != FREE,
            self.grid.origin,
            self.grid.voxel_size,
            origin,
            self.directions,
            self.range,
        )
        classes = voxels[tuple(index.T)]  # misses index the last voxel, and are set to free
        return np.where(index[:, 0] < 0, FREE, classes), distance

    def result(self) -> dict:
        """Percent per threshold and horizon: mean over the classes that rays met or predicted.

        Keys `1m`, `2m`, `4m` and their mean `RayIoU`; each horizon name or `avg@all` to percent.
        """
        union = self.true + self.predicted - self.hits
        ratio = np.divide(
            self.hits, union, out=np.full(union.shape, np.nan), where=np.asarray(union) > 0
        )
        values = 100 * nanmean(ratio[..., :FREE], -1)
        names = horizon_names(values.shape[1])
        rows = dict(zip((f"{t:g}m" for t in self.thresholds), values))
        rows["RayIoU"] = values.mean(0)
        return {
            name: {**dict(zip(names, row.tolist())), "avg@all": float(row.mean())}
            for name, row in rows.items()
        }
