"""nuScenes tables, or Occ3D's `annotations.json`, as scenes of keyframes.

Only the tables that are needed are read, and of the two big ones only the LIDAR_TOP keyframes: not
the gigabytes that constructing the devkit's `NuScenes` takes. The official split names come from
nuscenes-devkit. What was read is kept as JSON in `<dataroot>/.occdistill/` (or the user's cache
folder) until a table changes. Poses and times are checked here, once, where they enter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occdistill.data.contents import cache_places
from occdistill.data.poses import broken_motion, displacements, read_poses
from occdistill.data.tables import (
    NEEDED,
    index_annotations,
    index_tables,
    read_splits,
    source_of,
)
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.store import reading, write_json
from occdistill.untrusted import proper

_FORMAT = 2
LONGEST_STEP = 1.25  # seconds between keyframes, of which one may be missing, but no more
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """One annotated instant (2 Hz), all of it as LIDAR_TOP saw it.

    Attributes:
        token, timestamp: sample token; microseconds.
        ego_to_global, lidar_to_ego: rigid transforms, float64 (4, 4).
        labels, lidar, lidarseg: paths below the data root: Occ3D labels, point cloud, raw point
            labels; None if absent.
        trajectory: displacement of the LiDAR to the next keyframe in the LiDAR frame of this one,
            float32 (x right, y forward) in metres; zero at a scene's end and before a fault.
        fault: why this keyframe can't be used, or doesn't follow the one before it; nothing is
            merged and no clip is cut across it.
    """

    token: str
    timestamp: int
    ego_to_global: np.ndarray
    lidar_to_ego: np.ndarray
    labels: str | None
    lidar: str | None
    lidarseg: str | None
    trajectory: np.ndarray
    fault: str | None = None

    @property
    def lidar_to_global(self) -> np.ndarray:
        """Rigid transform, float64 (4, 4)."""
        return self.ego_to_global @ self.lidar_to_ego


@dataclass(frozen=True, eq=False)
class Scene:
    """A drive of about 20 s: its keyframes in order of time."""

    name: str
    token: str
    keyframes: list[Keyframe]


def load_index(
    dataroot: str | os.PathLike,
    version: str = "v1.0-trainval",
    split: str = "train",
    skip_bad_frames: bool = False,
) -> list[Scene]:
    """List the scenes of a split with their keyframes, in the order of the tables.

    Args:
        dataroot: folder that holds `<version>/*.json` (or `annotations.json`) and `gts/`.
        version: nuScenes version, such as v1.0-trainval or v1.0-mini.
        split: a name in `<dataroot>/splits.json` if that file is there ({name: [scene, …]}), else
            one of train, val, test, mini_train, mini_val.
        skip_bad_frames: list keyframes with a `fault` too, instead of refusing the split: poses
            that are none, times that run back or leave out more than a second, and what no car
            does between two keyframes.

    Raises:
        UserError: when the data root, tables or split are missing or broken, a scene is empty, or
            keyframes have a fault.
    """
    root = Path(dataroot)
    if not root.is_dir():
        raise UserError(
            f"no data root at {root.absolute()}; make the embedded world with `{MAKE_WORLD}`,"
            " or see the README's nuScenes section"
        )
    index = read_index(root, version)
    names = _split(split, index["splits"], root)
    records = [scene for scene in index["scenes"] if scene["name"] in names]
    if not records:
        raise UserError(
            f"none of the {len(names)} scenes of split {split!r} is in {root / version};"
            " choose a split that belongs to this version"
        )
    if len(records) < len(names):
        _log.warning("%s: %d of %d scenes are there", split, len(records), len(names))
    scenes = [read_scene(root, record) for record in records]
    if not skip_bad_frames and (sentence := bad_frames(root, scenes)):
        raise UserError(sentence)
    return scenes


def bad_frames(root: Path, scenes: list[Scene]) -> str | None:
    """The sentence about the keyframes that can't be used, if there are any."""
    frames = [(scene.name, frame) for scene in scenes for frame in scene.keyframes]
    found = [(name, frame) for name, frame in frames if frame.fault]
    if not found:
        return None
    (name, first), more = found[0], len(found) - 1
    others = f" (and {more} more of {len(frames)} have faults)" if more else ""
    return (
        f"keyframe {first.token} of scene {name} in {root} cannot be used: {first.fault}{others};"
        " correct or fetch the tables again, or add --skip-bad-frames to leave out the clips that"
        " hold such keyframes"
    )


def read_scene(root: Path, record: dict) -> Scene:
    """A scene of the index, its names, poses and times checked.

    Raises:
        UserError: it has no keyframes, or a file of it would not be below the data root.
    """
    frames = record["frames"]
    if not frames:
        raise UserError(
            f"scene {record['name']} in {root} has no keyframes; fetch the tables again,"
            " or leave the scene out of the split"
        )
    _check_names(root, record)
    ego_to_global, of_ego = read_poses([frame["ego"] for frame in frames])
    lidar_to_ego, of_lidar = read_poses([frame["mounting"] for frame in frames])
    faults = [
        frame["fault"] or ego or (lidar and f"of its LiDAR's mounting, {lidar}")
        for frame, ego, lidar in zip(frames, of_ego, of_lidar)
    ]
    held = _last_good([ego is None for ego in of_ego])
    ego_to_global = ego_to_global[held]
    unknown = float("nan")
    times = [unknown if f["timestamp"] is None else 1e-6 * f["timestamp"] for f in frames]
    motion = broken_motion(ego_to_global, np.array(times, np.float64), LONGEST_STEP)
    faults = [fault or moved for fault, moved in zip(faults, motion)]
    steps = _steps(ego_to_global @ lidar_to_ego)
    bad = np.array([fault is not None for fault in faults], bool)
    steps[:-1][bad[:-1] | bad[1:]] = 0
    folder = f"gts/{record['name']}"
    labelled = set(os.listdir(root / folder)) if (root / folder).is_dir() else ()
    keyframes = [
        Keyframe(
            token=frame["token"],
            timestamp=frame["timestamp"] or 0,
            ego_to_global=ego_to_global[i],
            lidar_to_ego=lidar_to_ego[i],
            labels=f"{folder}/{frame['token']}/labels.npz" if frame["token"] in labelled else None,
            lidar=frame["lidar"],
            lidarseg=frame["lidarseg"],
            trajectory=steps[i],
            fault=faults[i],
        )
        for i, frame in enumerate(frames)
    ]
    return Scene(record["name"], record["token"], keyframes)


def _last_good(good: list[bool]) -> np.ndarray:
    """For each place the nearest one before it that is good, or else the first that is."""
    numbers = np.where(good, np.arange(len(good)), -1)
    last = np.maximum.accumulate(numbers)
    return np.where(last < 0, int(np.argmax(good)), last)


def _check_names(root: Path, record: dict) -> None:
    """Refuse names with which a file of this scene would not be below the data root."""
    source = f"scene {record['name']!r} of {root}"
    proper(record["name"], root / "gts", f"a scene of {root}")
    proper(record["token"], root, source)
    for frame in record["frames"]:
        proper(frame["token"], root / "gts", source)
        for name in (frame["lidar"], frame["lidarseg"]):
            if name is not None:
                proper(name, root, source)


def _steps(to_global: np.ndarray) -> np.ndarray:
    """Displacements float32 (N, 2), the last one zero, as in the field's `gt_ego_fut_trajs`."""
    return np.pad(displacements(to_global).astype(np.float32), ((0, 1), (0, 0)))


def _split(split: str, splits: dict[str, list[str]], root: Path) -> set[str]:
    if split not in splits:
        raise UserError(
            f"no split named {split!r} for {root}; choose one of {', '.join(sorted(splits))}"
        )
    return set(splits[split])


def official_splits() -> dict[str, list[str]]:
    """nuScenes' own, from the devkit."""
    from nuscenes.utils import splits  # slow: the devkit imports all it has

    names = ("train", "val", "test", "mini_train", "mini_val")
    return {name: list(getattr(splits, name)) for name in names}


def read_index(root: Path, version: str) -> dict:
    """All scenes and the official splits as JSON values, from the cache if no table changed."""
    source = source_of(root, version)
    if source.is_dir():
        build = index_tables
        names = (*NEEDED, "lidarseg")
        files = [p for name in names if (p := source / f"{name}.json").is_file()]
    else:
        build, files = index_annotations, [source]
    own_splits = root / "splits.json"
    if own_splits.is_file():
        files.append(own_splits)
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    fingerprint = hashlib.sha256(repr((_FORMAT, version, stats)).encode()).hexdigest()

    for cache in cache_places(root, f"index-{version}"):
        with suppress(UserError), reading(cache, "index", "it is built again"):
            index = json.loads(cache.read_bytes())
            if index["fingerprint"] == fingerprint:
                return index
    index = build(source)
    if own_splits.is_file():
        index["splits"] = read_splits(own_splits)
    else:
        index["splits"] = {**official_splits(), **index.get("splits", {})}
    index["fingerprint"] = fingerprint
    for cache in cache_places(root, f"index-{version}"):
        with suppress(UserError):  # read-only or full: the next start reads the tables again
            write_json(cache, index, indent=None)
            break
    return index
