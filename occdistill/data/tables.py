"""A data set's own lists of scenes, read and checked: nuScenes' tables or Occ3D's annotations.json.

Only the standard library: the doctor reads and checks with these same functions, also where no
package is installed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from occdistill.data.chains import follow
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.untrusted import each_record, read_json, reading

NEEDED = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")
_FETCH = "fetch it again with nuScenes' metadata"
_MOUNTING = {"translation": [0.94, 0.0, 1.84], "rotation": [0.5**0.5, 0.0, 0.0, -(0.5**0.5)]}
_KEYFRAME = re.compile(r'"is_key_frame"\s*:\s*true')
_STAMP = re.compile(r"(\d{10,})\D*$")
# how many microseconds one of a unit has
_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}
KEYFRAME_STEP = (0.25, 1.0)  # seconds between keyframes, of which there are two a second

Report = Callable[[str], Any]


def stop(sentence: str) -> None:
    """What loading does about a fault."""
    raise UserError(sentence)


def version_folders(root: Path) -> list[Path]:
    """Folders of tables below a data root: v1.0-trainval, Lyft's v1.01-train, …"""
    return sorted(
        folder
        for folder in root.glob("v[0-9]*")
        if folder.is_dir() and any((folder / f"{name}.json").exists() for name in NEEDED)
    )


def blob_folders(root: Path) -> list[Path]:
    """Folders that nuScenes' file blobs were unpacked into, instead of into the data root."""
    return sorted(
        folder
        for folder in root.glob("*blob*")
        if folder.is_dir() and ((folder / "samples").is_dir() or (folder / "sweeps").is_dir())
    )


def source_of(root: Path, version: str) -> Path:
    """The folder of tables, or the annotations.json, that says which scenes there are.

    Raises:
        UserError: there is neither.
    """
    folder, annotations = root / version, root / "annotations.json"
    missing = [name for name in NEEDED if not (folder / f"{name}.json").is_file()]
    if not missing:
        return folder
    if len(missing) < len(NEEDED):
        raise UserError(f"no table at {folder / missing[0]}.json; {_FETCH}")
    if annotations.is_file():
        return annotations
    there = ", ".join(found.name for found in version_folders(root))
    hint = (
        f"choose a version that is there ({there})" if there else "see the README's nuScenes part"
    )
    raise UserError(
        f"no nuScenes tables at {folder.absolute()} and no annotations.json beside them; {hint}, or"
        f" make the embedded world with `{MAKE_WORLD}`"
    )


def index_tables(folder: Path, fault: Report = stop) -> dict:
    """Read `<version>/*.json`.

    Args:
        folder: of the tables.
        fault: takes the sentence about a scene that is wrong; that scene then ends before it.

    Returns:
        `scenes`, each with name, token and frames; of a frame token, timestamp (microseconds, None
        if it is no number), ego and mounting ({translation, rotation} as they stand there), lidar,
        lidarseg, and `fault`, what the tables alone say against it, or None.

    Raises:
        UserError: a table is missing, broken or of another structure, or names what isn't there.
    """
    try:
        scenes = list(_scenes(folder, fault))
    except KeyError as error:
        raise UserError(
            f"the tables in {folder} do not fit together ({error.args[0]!r} is missing);"
            " fetch them again"
        ) from error
    except (TypeError, AttributeError) as error:  # a list for an object, a number for text
        raise UserError(
            f"the tables in {folder} hold a record of another kind ({error}); fetch them again"
        ) from error
    _to_microseconds(scenes, folder / "sample.json")
    return {"scenes": scenes}


def _scenes(folder: Path, fault: Report) -> Iterator[dict]:
    lidars = {s["token"] for s in _table(folder / "sensor.json") if s["channel"] == "LIDAR_TOP"}
    mountings = {
        mounting["token"]: {key: mounting[key] for key in _MOUNTING}
        for mounting in _table(folder / "calibrated_sensor.json")
        if mounting["sensor_token"] in lidars
    }
    sweeps = wanted_records(
        folder / "sample_data.json", "calibrated_sensor_token", mountings, _KEYFRAME
    )
    clouds = {cloud["sample_token"]: cloud for cloud in sweeps if cloud["is_key_frame"] is True}
    needed = {cloud["ego_pose_token"] for cloud in clouds.values()}
    egos = {
        ego["token"]: {key: ego[key] for key in _MOUNTING}
        for ego in wanted_records(folder / "ego_pose.json", "token", needed)
    }
    samples = {sample["token"]: sample for sample in _table(folder / "sample.json")}
    lidarseg = folder / "lidarseg.json"  # a download of its own
    point_labels = {
        record["sample_data_token"]: record["filename"]
        for record in (_table(lidarseg) if lidarseg.is_file() else ())
    }
    taken: dict[str, str] = {}
    for scene in _table(folder / "scene.json"):
        name = scene["name"]
        if not isinstance(name, str):
            raise TypeError(f"a scene's name is {name!r:.60}")
        tokens, problem = follow(scene, samples, taken)
        if problem:
            fault(f"scene {name} in {folder} {problem}; fetch the tables again")
        frames = []
        for token in tokens:
            cloud = clouds.get(token)
            ego = None if cloud is None else egos.get(cloud["ego_pose_token"])
            if ego is None:
                lost = (
                    f"has no LIDAR_TOP sweep in {folder / 'sample_data.json'}"
                    if cloud is None
                    else f"names an ego_pose_token that {folder / 'ego_pose.json'} doesn't have"
                )
                fault(f"keyframe {token} of scene {name} {lost}; fetch the tables again")
                break
            frames.append(
                {
                    "token": token,
                    "timestamp": samples[token]["timestamp"],
                    "ego": ego,
                    "mounting": mountings[cloud["calibrated_sensor_token"]],
                    "lidar": cloud["filename"],
                    "lidarseg": point_labels.get(cloud["token"]),
                    "fault": None,
                }
            )
        _compare_stamps(frames)
        yield {"name": name, "token": scene["token"], "frames": frames}


def _compare_stamps(frames: list[dict]) -> None:
    """Sweeps are named after their times in nuScenes: in the order of the keyframes."""
    before = -1
    for frame in frames:
        found = _STAMP.search(frame["lidar"]) if isinstance(frame["lidar"], str) else None
        stamp = int(found[1]) if found else before + 1
        if stamp <= before:
            frame["fault"] = "the time in the name of its sweep isn't after the one before it"
        before = stamp


def index_annotations(path: Path) -> dict:
    """Read Occ3D's own list of scenes; it has no LiDAR files and no mounting of the sensor.

    Returns:
        As `index_tables`, and `splits`.

    Raises:
        UserError: it is missing, broken or of another structure.
    """
    content = read_json(path, "table", _FETCH, dict)
    try:
        scenes = [
            {
                "name": name,
                "token": name,
                "frames": [
                    {
                        "token": token,
                        "timestamp": frame["timestamp"],
                        "ego": {key: frame["ego_pose"][key] for key in _MOUNTING},
                        "mounting": _MOUNTING,  # which the file does not say
                        "lidar": None,
                        "lidarseg": None,
                        "fault": None,
                    }
                    for token, frame in frames.items()
                ],
            }
            for name, frames in content["scene_infos"].items()
        ]
        # none of the test split has labels: some files list no such scenes, some an empty split
        splits = {name: content.get(f"{name}_split", []) for name in ("train", "val", "test")}
        if "train_split" not in content and "val_split" not in content:
            raise KeyError("train_split")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not Occ3D's annotations.json ({error!r}); fetch it again"
        ) from error
    splits = {name: names for name, names in splits.items() if names or name != "test"}
    check_splits(splits, path)
    _to_microseconds(scenes, path)
    for scene in scenes:
        scene["frames"].sort(key=lambda frame: frame["timestamp"] or 0)
    return {"scenes": scenes, "splits": splits}


def read_splits(path: Path) -> dict[str, list[str]]:
    """A data set's own splits.json: lists of scenes by name."""
    splits = read_json(path, "list of splits", "write it again", dict)
    check_splits(splits, path)
    return splits


def check_splits(splits: Mapping[str, Any], path: Path) -> None:
    """Refuse what isn't lists of scenes by name, and scenes both trained and scored on."""
    if not all(isinstance(n, list) and all(isinstance(x, str) for x in n) for n in splits.values()):
        raise UserError(f"{path} holds something else than lists of scenes; write it again")
    if both := sorted(set(splits.get("train", ())) & set(splits.get("val", ()))):
        raise UserError(
            f"{path} puts scene {both[0]} into train and into val: scores on it would mean nothing;"
            " write it again"
        )


def _to_microseconds(scenes: list[dict], path: Path) -> None:
    """Bring all timestamps to whole microseconds, whatever unit they are in.

    Raises:
        UserError: keyframes that are half a second apart in no unit.
    """
    for frame in (frame for scene in scenes for frame in scene["frames"]):
        frame["timestamp"] = _number(frame["timestamp"])
        if frame["timestamp"] is None:
            frame["fault"] = "its timestamp is no number"
    times = ([f["timestamp"] for f in scene["frames"]] for scene in scenes)
    factor = _UNITS[unit_of(times, KEYFRAME_STEP, str(path))]
    for frame in (frame for scene in scenes for frame in scene["frames"]):
        if frame["timestamp"] is not None:
            frame["timestamp"] = round(frame["timestamp"] * factor)


def _number(value: Any) -> int | float | None:
    """A finite number, also one that is written as text."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().isdecimal() else float(value)
        except ValueError:
            return None
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good and abs(value) < 1e20 else None


def unit_of(times: Iterable[Iterable[float | None]], apart: tuple[float, float], where: str) -> str:
    """The unit that a clock counts in, from how far apart its times are.

    Args:
        times: of several drives.
        apart: how many seconds lie between two, at least and at most; the one is less than a
            thousandth of the other.
        where: they were found, for the error.

    Returns:
        A key of `_UNITS`; microseconds where there are no two times.

    Raises:
        UserError: they are so far apart in no unit.
    """
    steps = []
    for drive in times:
        known = sorted(time for time in drive if time is not None)
        steps += [b - a for a, b in zip(known, known[1:]) if b > a]
    if not steps:
        return "microseconds"
    step = statistics.median(steps)
    for unit, factor in _UNITS.items():
        if apart[0] <= step * factor / 1e6 <= apart[1]:
            return unit
    raise UserError(
        f"the times in {where} are {step:g} apart, which is {apart[0]:g} to {apart[1]:g} s neither"
        " in seconds nor in milli-, micro- or nanoseconds; correct them, or take every so many"
    )


def seconds_of(unit: str) -> float:
    """Seconds in one of a unit that `unit_of` names."""
    return _UNITS[unit] / 1e6


def _table(path: Path) -> Any:
    return read_json(path, "table", _FETCH, list)


def wanted_records(
    path: Path, key: str, wanted: Iterable[str], must: re.Pattern | None = None
) -> Iterator[dict]:
    """Records of a table whose `key` is wanted, and whose text has a match of `must` if flat.

    sample_data and ego_pose hold 2.6 million records each in v1.0-trainval, of which one in 75
    is a LIDAR_TOP keyframe's.
    """
    wanted, value = set(wanted), re.compile(rf'"{key}"\s*:\s*"([^"]*)"')

    def skip(text: str) -> bool:
        found = value.search(text)
        unwanted = found is not None and found[1] not in wanted
        return unwanted or (must is not None and not must.search(text))

    with reading(path, "table", _FETCH):
        for record in each_record(path, skip):
            if record[key] in wanted:
                yield record
