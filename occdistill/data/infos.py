"""What the field's `nuscenes_infos_*_temporal_v3_scene.pkl` says, rebuilt from the tables.

Those pickles are passed on by links that die, and reading one runs whatever is in it. The fields
that forecasting uses follow from the poses alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from occdistill.data.poses import invert
from occdistill.data.scenes import Scene

# Lateral end offset in metres from which a future counts as a turn.
TURN_OFFSET = 2.0

Infos = dict[str, list[dict]]


def build_infos(scenes: Iterable[Scene], steps: int = 6) -> Infos:
    """List, per scene name and in order of time, what the field reads of each keyframe.

    Returns:
        For each keyframe: token; timestamp (µs); gt_ego_fut_trajs float32 (steps, 2) and
        gt_ego_fut_masks (steps,), see `future_steps`; pose_mode float32 (3,), see `command`;
        ego2global and lidar2ego float64 (4, 4).
    """
    infos = {}
    for scene in scenes:
        frames = scene.keyframes
        future, valid = future_steps(np.stack([f.lidar_to_global for f in frames]), steps)
        infos[scene.name] = [
            {
                "token": frame.token,
                "timestamp": frame.timestamp,
                "gt_ego_fut_trajs": future[i],
                "gt_ego_fut_masks": valid[i],
                "pose_mode": command(future[i]),
                "ego2global": frame.ego_to_global,
                "lidar2ego": frame.lidar_to_ego,
            }
            for i, frame in enumerate(frames)
        ]
    return infos


def future_steps(lidar_to_global: np.ndarray, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Displacements between the next keyframes, all in the LiDAR frame of the present one.

    Args:
        lidar_to_global: LiDAR poses of a scene, (N, 4, 4).
        steps: how far to look ahead.

    Returns:
        displacements: float32 (N, steps, 2), x right and y forward in metres; zero beyond the
            scene's end.
        valid: float32 (N, steps), 1 where the keyframe that the step leads to exists.
    """
    count = len(lidar_to_global)
    ahead = np.arange(count)[:, None] + np.arange(steps + 1)
    positions = lidar_to_global[np.minimum(ahead, count - 1), :3, 3]
    in_present = invert(lidar_to_global)[:, None, :3, :3] @ np.diff(positions, axis=1)[..., None]
    return in_present[..., :2, 0].astype(np.float32), (ahead[:, 1:] < count).astype(np.float32)


def command(displacements: np.ndarray) -> np.ndarray:
    """Driving command float32 (3,), one-hot (right, left, straight), of a future (steps, 2).

    Right or left when the last position is `TURN_OFFSET` or more to that side.
    """
    right = displacements[:, 0].sum()
    turn = 0 if right >= TURN_OFFSET else 1 if right <= -TURN_OFFSET else 2
    return np.eye(3, dtype=np.float32)[turn]
