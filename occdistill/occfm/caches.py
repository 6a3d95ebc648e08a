"""OccFM's cached latents and the field's info files, read safely and kept as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from occdistill.errors import UserError
from occdistill.occfm.pickles import read

Infos = dict[str, list[dict[str, np.ndarray | str]]]


def read_latents(path: str | Path) -> dict[str, np.ndarray]:
    """Read a pickle of cached latents, one dict per keyframe.

    Args:
        path: `nus_sem_occ_{training,validation}.pkl`; it is held in memory once (4.5 GB for the
            training part).

    Returns:
        latents float32 `(N, C, H, W)`, drawn from the posterior, unscaled; trajectory float32
        `(N, 2)`, the step to the next keyframe in metres; scene and token `(N,)`, str.

    Raises:
        UserError: for anything but such a list.
    """
    frames = read(path)
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} holds no list of keyframes: give a latent cache of OccFM's")
    columns: dict[str, list] = {"latents": [], "trajectory": [], "scene": [], "token": []}
    shape = None
    for i, frame in enumerate(frames):
        try:
            latent = np.asarray(frame["x_sampled"], np.float32)[0]
            step = np.asarray(frame["gt_trajs"], np.float32).reshape(-1, 2)[0]
            scene, token = frame["gt_path"][0][0].replace("\\", "/").split("/")[-3:-1]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"entry {i} of {path} is not a keyframe's latent, path and trajectory "
                f"({type(error).__name__} {error}): give a latent cache of OccFM's"
            ) from error
        shape = latent.shape if shape is None else shape
        if latent.shape != shape or len(shape) != 3 or not np.isfinite(latent).all():
            raise UserError(
                f"entry {i} of {path} has latents of shape {latent.shape} with "
                f"{np.isnan(latent).sum()} NaN, where {shape} was expected: download it again"
            )
        for name, value in zip(columns, (latent, step, scene, token)):
            columns[name].append(value)
        frames[i] = None  # the array lives on in its column
    return {name: np.array(values) for name, values in columns.items()}


def read_infos(path: str | Path) -> Infos:
    """Read a `nuscenes_infos_*_temporal_v3_scene.pkl`.

    Returns:
        Per scene name, in order of time: token; gt_ego_fut_trajs float32 `(steps, 2)`, whose first
        row is the step to the next keyframe in the LiDAR frame; gt_ego_fut_masks and pose_mode
        where the file has them.

    Raises:
        UserError: for anything but such a file.
    """
    content = read(path)
    scenes = content.get("infos") if isinstance(content, Mapping) else None
    if not isinstance(scenes, Mapping) or not scenes:
        raise UserError(f"{path} has no scenes under 'infos': give a *_temporal_v3_scene.pkl")
    infos: Infos = {}
    for name, frames in scenes.items():
        infos[str(name)] = []
        for i, frame in enumerate(frames):
            try:
                steps = np.asarray(frame["gt_ego_fut_trajs"], np.float32).reshape(-1, 2)
                kept = {"token": str(frame["token"]), "gt_ego_fut_trajs": steps}
                for extra in ("gt_ego_fut_masks", "pose_mode"):
                    if extra in frame:
                        kept[extra] = np.asarray(frame[extra], np.float32).reshape(-1)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"keyframe {i} of {name} in {path} has no usable token and gt_ego_fut_trajs "
                    f"({type(error).__name__} {error}): give a *_temporal_v3_scene.pkl"
                ) from error
            infos[str(name)].append(kept)
    return infos


def compare_infos(theirs: Infos, ours: Infos) -> dict[str, float]:
    """How two sets of infos differ.

    Returns:
        scenes, keyframes: how many both have; missing: keyframes of ours that theirs lacks;
        largest: the largest difference, in metres, of a keyframe's step to the next.
    """
    steps = {f["token"]: f["gt_ego_fut_trajs"][0] for frames in theirs.values() for f in frames}
    own = {f["token"]: f["gt_ego_fut_trajs"][0] for frames in ours.values() for f in frames}
    both = steps.keys() & own.keys()
    gaps = [float(np.abs(steps[token] - own[token]).max()) for token in both]
    return {
        "scenes": len(theirs.keys() & ours.keys()),
        "keyframes": len(both),
        "missing": len(own.keys() - steps.keys()),
        "largest": max(gaps, default=float("nan")),
    }


def infos_columns(infos: Infos) -> dict[str, np.ndarray]:
    """Infos as arrays with one row per keyframe, and how many rows each scene has."""
    frames = [frame for scene in infos.values() for frame in scene]
    shared = set.intersection(*(set(frame) for frame in frames))
    return {
        "scene": np.array(list(infos)),
        "count": np.array([len(scene) for scene in infos.values()]),
        **{name: np.array([frame[name] for frame in frames]) for name in sorted(shared)},
    }
