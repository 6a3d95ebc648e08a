"""nuScenes tables, or Occ3D's `annotations.json`, as scenes of keyframes.

Only the tables that are needed are read, and of the two big ones only the LIDAR_TOP keyframes: seconds instead of the minute and the gigabytes that constructing the
devkit's `NuScenes` takes. The official split names come from nuscenes-devkit. What was read is
kept as JSON in `<dataroot>/.occdistill/` (or the user's cache folder) until a table changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.data.chains import follow
from occdistill.data.poses import LIDAR_POSITION, LIDAR_ROTATION, displacements, pose_matrix
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.store import read_json, reading, write_json
from occdistill.untrusted import open_file, proper

_FORMAT = 1
_TABLES = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "lidarseg")
_FETCH = "fetch it again with nuScenes' metadata"
_KEYFRAME = rb'"is_key_frame"\s*:\s*true'
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
            float32 (x right, y forward) in metres; zero at a scene's end.
    """

    token: str
    timestamp: int
    ego_to_global: np.ndarray
    lidar_to_ego: np.ndarray
    labels: str | None
    lidar: str | None
    lidarseg: str | None
    trajectory: np.ndarray

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
    dataroot: str | os.PathLike, version: str = "v1.0-trainval", split: str = "train"
) -> list[Scene]:
    """List the scenes of a split with their keyframes, in the order of the tables.

    Args:
        dataroot: folder that holds `<version>/*.json` (or `annotations.json`) and `gts/`.
        version: nuScenes version, such as v1.0-trainval or v1.0-mini.
        split: a name in `<dataroot>/splits.json` if that file is there ({name: [scene, …]}), else
            one of train, val, test, mini_train, mini_val.

    Raises:
        UserError: when the data root, tables or split are missing or broken, or a scene is empty.
    """
    root = Path(dataroot)
    if not root.is_dir():
        raise UserError(
            f"no data root at {root.absolute()}; make the embedded world with `{MAKE_WORLD}`,"
            " or see the README's nuScenes section"
        )
    index = _cached_index(root, version)
    names = _split(split, index["splits"], root)
    records = [scene for scene in index["scenes"] if scene["name"] in names]
    if not records:
        raise UserError(
            f"none of the {len(names)} scenes of split {split!r} is in {root / version};"
            " choose a split that belongs to this version"
        )
    if len(records) < len(names):
        _log.warning("%s: %d of %d scenes are there", split, len(records), len(names))
    return [_scene(root, record) for record in records]


def _scene(root: Path, record: dict) -> Scene:
    frames = record["frames"]
    if not frames:
        raise UserError(
            f"scene {record['name']} in {root} has no keyframes; fetch the tables again,"
            " or leave the scene out of the split"
        )
    _check_names(root, record)
    try:
        ego = np.array([frame["ego"] for frame in frames], np.float64).reshape(-1, 7)
        mounting = np.array([frame["mounting"] for frame in frames], np.float64).reshape(-1, 7)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"scene {record['name']} in {root} has a pose that isn't three and four numbers "
            f"({error}); fetch the tables again"
        ) from error
    ego_to_global = pose_matrix(ego[:, :3], ego[:, 3:])
    lidar_to_ego = pose_matrix(mounting[:, :3], mounting[:, 3:])
    steps = _steps(ego_to_global @ lidar_to_ego)
    folder = f"gts/{record['name']}"
    labelled = set(os.listdir(root / folder)) if (root / folder).is_dir() else ()
    keyframes = [
        Keyframe(
            token=frame["token"],
            timestamp=frame["timestamp"],
            ego_to_global=ego_to_global[i],
            lidar_to_ego=lidar_to_ego[i],
            labels=f"{folder}/{frame['token']}/labels.npz" if frame["token"] in labelled else None,
            lidar=frame["lidar"],
            lidarseg=frame["lidarseg"],
            trajectory=steps[i],
        )
        for i, frame in enumerate(frames)
    ]
    return Scene(record["name"], record["token"], keyframes)


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


def _official_splits() -> dict[str, list[str]]:
    from nuscenes.utils import splits  # slow: the devkit imports all it has

    names = ("train", "val", "test", "mini_train", "mini_val")
    return {name: list(getattr(splits, name)) for name in names}


def _cached_index(root: Path, version: str) -> dict:
    """All scenes and the official splits as JSON values, from the cache if no table changed."""
    folder, annotations = root / version, root / "annotations.json"
    build: Callable[[Path], dict]
    if folder.is_dir():
        build, source = _index_tables, folder
        files = [p for name in _TABLES if (p := folder / f"{name}.json").is_file()]
    elif annotations.is_file():
        build, source = _index_annotations, annotations
        files = [annotations]
    else:
        raise UserError(
            f"no nuScenes tables at {folder.absolute()} and no annotations.json beside them; make"
            f" the embedded world with `{MAKE_WORLD}`, or see the README's nuScenes section"
        )
    own_splits = root / "splits.json"
    if own_splits.is_file():
        files.append(own_splits)
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    fingerprint = hashlib.sha256(repr((_FORMAT, version, stats)).encode()).hexdigest()

    for cache in _cache_paths(root, version):
        with suppress(UserError), reading(cache, "index", "it is built again"):
            index = json.loads(cache.read_bytes())
            if index["fingerprint"] == fingerprint:
                return index
    index = build(source)
    if own_splits.is_file():
        index["splits"] = _own_splits(own_splits)
    else:
        index["splits"] = {**_official_splits(), **index.get("splits", {})}
    index["fingerprint"] = fingerprint
    for cache in _cache_paths(root, version):
        with suppress(UserError):  # read-only or full: the next start reads the tables again
            write_json(cache, index, indent=None)
            break
    return index


def _cache_paths(root: Path, version: str) -> tuple[Path, Path]:
    """Beside the data, else in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "occdistill"
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return root / ".occdistill" / f"index-{version}.json", user / f"index-{version}-{place}.json"


def _index_tables(folder: Path) -> dict:
    """Read `<version>/*.json`."""
    lidarseg = folder / "lidarseg.json"  # a download of its own
    try:
        lidars = {
            sensor["token"]
            for sensor in _table(folder / "sensor.json")
            if sensor["channel"] == "LIDAR_TOP"
        }
        mountings = {
            mounting["token"]: mounting["translation"] + mounting["rotation"]
            for mounting in _table(folder / "calibrated_sensor.json")
            if mounting["sensor_token"] in lidars
        }
        clouds = {
            cloud["sample_token"]: cloud
            for cloud in wanted_records(
                folder / "sample_data.json", "calibrated_sensor_token", mountings, _KEYFRAME
            )
        }
        needed = {cloud["ego_pose_token"] for cloud in clouds.values()}
        egos = {
            ego["token"]: ego["translation"] + ego["rotation"]
            for ego in wanted_records(folder / "ego_pose.json", "token", needed)
        }
        samples = {sample["token"]: sample for sample in _table(folder / "sample.json")}
        point_labels = {
            record["sample_data_token"]: record["filename"]
            for record in (_table(lidarseg) if lidarseg.is_file() else ())
        }

        taken: dict[str, str] = {}

        def frames(scene: dict) -> Iterator[dict]:
            tokens, problem = follow(scene, samples, taken)
            if problem:
                raise UserError(
                    f"scene {scene['name']} in {folder} {problem}; fetch the tables again"
                )
            for token in tokens:
                cloud = clouds[token]
                yield {
                    "token": token,
                    "timestamp": samples[token]["timestamp"],
                    "ego": egos[cloud["ego_pose_token"]],
                    "mounting": mountings[cloud["calibrated_sensor_token"]],
                    "lidar": cloud["filename"],
                    "lidarseg": point_labels.get(cloud["token"]),
                }

        scenes = [
            {
                "name": scene["name"],
                "token": scene["token"],
                "frames": list(frames(scene)),
            }
            for scene in _table(folder / "scene.json")
        ]
    except KeyError as error:
        raise UserError(
            f"the tables in {folder} do not fit together ({error.args[0]!r} is missing);"
            " fetch them again"
        ) from error
    except (TypeError, AttributeError) as error:  # a list for an object, a number for text
        raise UserError(
            f"the tables in {folder} hold a record of another kind ({error}); fetch them again"
        ) from error
    return {"scenes": scenes}


def _index_annotations(path: Path) -> dict:
    """Read Occ3D's own list of scenes; it has no LiDAR files and no mounting of the sensor."""
    content = _table(path, dict)
    mounting = [*LIDAR_POSITION, *LIDAR_ROTATION]  # which the file does not say
    try:
        scenes = [
            {
                "name": name,
                "token": name,
                "frames": [
                    {
                        "token": token,
                        "timestamp": int(frame["timestamp"]),
                        "ego": frame["ego_pose"]["translation"] + frame["ego_pose"]["rotation"],
                        "mounting": mounting,
                        "lidar": None,
                        "lidarseg": None,
                    }
                    for token, frame in sorted(
                        frames.items(), key=lambda item: int(item[1]["timestamp"])
                    )
                ],
            }
            for name, frames in content["scene_infos"].items()
        ]
        own = {"train": content["train_split"], "val": content["val_split"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not Occ3D's annotations.json ({error!r}); fetch it again"
        ) from error
    return {"scenes": scenes, "splits": own}


def _table(path: Path, kind: type = list) -> Any:
    return read_json(path, "table", _FETCH, kind)


def _own_splits(path: Path) -> dict[str, list[str]]:
    splits = _table(path, dict)
    if not all(isinstance(n, list) and all(isinstance(x, str) for x in n) for n in splits.values()):
        raise UserError(f"{path} holds something else than lists of scenes; write it again")
    return splits


def wanted_records(
    path: Path, key: str, wanted: Iterable[str], must: bytes = b""
) -> Iterator[dict]:
    """Records of a flat table whose `key` is wanted and that match `must`, parsing only those.

    sample_data and ego_pose hold 2.6 million records each in v1.0-trainval, of which one in 75
    is a LIDAR_TOP keyframe's.
    """
    wanted = {value.encode() for value in wanted}
    value, must = re.compile(rb'"%s"\s*:\s*"([^"]*)"' % key.encode()), re.compile(must)
    with (
        reading(path, "table", _FETCH),
        open_file(path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        for match in value.finditer(text):
            if match[1] in wanted:
                end = text.find(b"}", match.end()) + 1
                record = text[text.rfind(b"{", 0, match.start()) : end]
                if must.search(record):
                    yield json.loads(record)
