"""OccFM's cached latents and the field's info files, read safely and kept as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.errors import UserError
from occdistill.occfm.pickles import read

_GROWTH, _SMALL = 4, 1 << 20  # float16 latents grow twofold when read
_LISTED = 1 << 20  # numbers that may come as lists
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
    room = _GROWTH * Path(path).stat().st_size + _SMALL
    columns: dict[str, list] = {"latents": [], "trajectory": [], "scene": [], "token": []}
    shape = None
    for i, frame in enumerate(frames):
        try:
            latent = _numbers(frame["x_sampled"])[0]
            step = _numbers(frame["gt_trajs"]).reshape(-1, 2)[0]
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
        if len(frames) * latent.nbytes > room:  # one array, referred to again and again
            raise UserError(
                f"{path} would unfold to {len(frames) * latent.nbytes / 1e9:.0f} GB of latents, far "
                "more than it has: it may be hostile; use a file from its authors"
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
        if not isinstance(frames, list) or not frames:
            raise UserError(
                f"scene {name} of {path} has no list of keyframes: give a *_temporal_v3_scene.pkl"
            )
        infos[str(name)] = []
        for i, frame in enumerate(frames):
            try:
                steps = _numbers(frame["gt_ego_fut_trajs"]).reshape(-1, 2)
                token, _ = frame["token"], steps[0]
                if not isinstance(token, str):
                    raise TypeError(f"a {type(token).__name__} as token")
                kept = {"token": token, "gt_ego_fut_trajs": steps}
                for extra in ("gt_ego_fut_masks", "pose_mode"):
                    if extra in frame:
                        kept[extra] = _numbers(frame[extra]).reshape(-1)
            except (KeyError, IndexError, TypeError, ValueError) as error:
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
    for name in sorted(shared - {"token"}):
        if len({frame[name].shape for frame in frames}) > 1:
            raise UserError(
                f"the keyframes' {name} differ in length, so they make no table: give a "
                "*_temporal_v3_scene.pkl of one kind"
            )
    return {
        "scene": np.array(list(infos)),
        "count": np.array([len(scene) for scene in infos.values()]),
        **{name: np.array([frame[name] for frame in frames]) for name in sorted(shared)},
    }


def _numbers(value: Any) -> np.ndarray:
    """Float32 of an array, or of lists of a few numbers as older files have them.

    Raises:
        TypeError, ValueError: it is something else, or too much: lists may hold each other.
    """
    if not isinstance(value, (np.ndarray, np.number)):
        _count(value, _LISTED)
    return np.asarray(value, np.float32)


def _count(value: Any, room: int, depth: int = 0) -> int:
    """Numbers left of `room` after those in nested lists."""
    if isinstance(value, (int, float, np.number)) and room > 0:
        return room - 1
    if not isinstance(value, (list, tuple)) or depth > 4 or room <= 0:
        raise TypeError("neither an array nor a short list of numbers")
    for part in value:
        room = _count(part, room, depth + 1)
    return room
