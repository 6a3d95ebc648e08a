"""Motion from nuScenes' tables: ego poses and annotations, and the streets of the map expansion."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from occdistill.data.scenes import Keyframe, read_scene
from occdistill.data.tables import index_tables, version_folders, wanted_records
from occdistill.errors import UserError
from occdistill.untrusted import proper, read_json
from occdistill.world.motion import Motion, Streets

_FETCH = "fetch nuScenes' metadata and map expansion again"
_AROUND = 100.0
"""Metres around the ego car's way whose streets are kept."""
_LAYERS = ("drivable_area", "carpark_area")


def tables_in(source: Path) -> Path | None:
    """The folder of tables that a source is or has, if it has any.

    Raises:
        UserError: it has several.
    """
    if (source / "scene.json").is_file():
        return source
    folders = version_folders(source)
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise UserError(f"{source} has tables of several versions ({names}); name one's folder")
    return folders[0] if folders else None


def read_tables(folder: Path) -> list[Motion]:
    """Every scene of the tables, at its keyframes.

    Of the files of a data root only the tables are read, and, where they are,
    `maps/expansion/<location>.json`. Keyframes that loading would refuse end a scene's motion; of
    what lies between such, the longest part is taken.

    Args:
        folder: of the tables, in a data root.

    Raises:
        UserError: a table or map is missing, broken or of another structure.
    """
    scenes = [read_scene(folder.parent, record) for record in index_tables(folder)["scenes"]]
    try:
        boxes = _boxes(folder)
        places = _locations(folder)
        return [
            _motion(scene.name, scene.keyframes, boxes, folder.parent, places[scene.token])
            for scene in scenes
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"the tables in {folder} do not fit together or hold a record of another kind"
            f" ({error!r:.80}); {_FETCH}"
        ) from error


def _boxes(folder: Path) -> dict[str, list[tuple]]:
    """Sample token to its boxes: instance, category, (x, y, yaw), (l, w, h)."""
    categories = {c["token"]: c["name"] for c in _table(folder / "category.json")}
    kinds = {
        i["token"]: str(categories[i["category_token"]]) for i in _table(folder / "instance.json")
    }
    found = defaultdict(list)
    samples = {sample["token"] for sample in _table(folder / "sample.json")}
    for record in wanted_records(folder / "sample_annotation.json", "sample_token", samples):
        x, y, _ = map(float, record["translation"])
        w, i, j, k = map(float, record["rotation"])
        yaw = np.arctan2(2 * (w * k + i * j), 1 - 2 * (j * j + k * k))
        width, length, height = map(float, record["size"])
        instance = record["instance_token"]
        box = (instance, kinds[instance], (x, y, yaw), (length, width, height))
        found[record["sample_token"]].append(box)
    return found


def _motion(
    name: str, keyframes: list[Keyframe], boxes: dict[str, list], root: Path, place: str
) -> Motion:
    first, last, notes = _longest_part(name, keyframes)
    keyframes = keyframes[first:last]
    poses = np.stack([frame.ego_to_global for frame in keyframes])
    yaw = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    ego = np.column_stack([poses[:, :2, 3], yaw])
    time = 1e-6 * np.array([frame.timestamp - keyframes[0].timestamp for frame in keyframes])
    seen = [(k, box) for k, frame in enumerate(keyframes) for box in boxes.get(frame.token, ())]
    numbers = {instance: n for n, instance in enumerate(dict.fromkeys(box[0] for _, box in seen))}
    pose = np.zeros((len(numbers), len(keyframes), 3))
    valid, size = np.zeros(pose.shape[:2], bool), np.zeros((len(numbers), 3))
    category = np.full(len(numbers), "", "U64")
    for k, (instance, kind, where, extent) in seen:
        n = numbers[instance]
        pose[n, k], size[n], category[n] = where, extent, kind
        valid[n, k] = np.isfinite(where).all()
    streets = _city(root, proper(place, root, root))
    if streets is None:
        streets = Streets([], [])
        notes.append(f"no map expansion of {place}; its streets are where something drove")
    motion = Motion(name, time, ego, pose, valid, size, category, streets, notes)
    return replace(motion, streets=_near(streets, ego))


def _longest_part(name: str, keyframes: list[Keyframe]) -> tuple[int, int, list[str]]:
    """The longest run of keyframes without faults, and what was wrong with others."""
    faults = [k for k, frame in enumerate(keyframes) if frame.fault]
    runs = zip([-1, *faults], [*faults, len(keyframes)])
    first, last = max(((a + 1, b) for a, b in runs), key=lambda run: run[1] - run[0])
    if last - first < 2:
        raise UserError(f"scene {name} has no two good keyframes in a row; {_FETCH}")
    notes = [f"keyframe {k}: {keyframes[k].fault}" for k in faults]
    if faults:
        notes.append(f"{len(keyframes) - (last - first)} of {len(keyframes)} keyframes left out")
    return first, last, notes


def _locations(folder: Path) -> dict[str, str]:
    """Scene token to the city its map is of."""
    logs = {log["token"]: log["location"] for log in _table(folder / "log.json")}
    return {scene["token"]: logs[scene["log_token"]] for scene in _table(folder / "scene.json")}


@cache
def _city(root: Path, place: str) -> Streets | None:
    """Driveable polygons of a city, with their holes; None where there is no map of it."""
    path = root / "maps" / "expansion" / f"{place}.json"
    if not path.is_file():
        return None
    content = read_json(path, "map expansion", _FETCH, dict)
    try:
        nodes = {node["token"]: (float(node["x"]), float(node["y"])) for node in content["node"]}
        polygons = {
            polygon["token"]: [
                np.array([nodes[token] for token in ring])
                for ring in (
                    polygon["exterior_node_tokens"],
                    *(hole["node_tokens"] for hole in polygon["holes"]),
                )
                if len(ring) > 2
            ]
            for polygon in content["polygon"]
        }
        tokens = [
            token
            for layer in _LAYERS
            for record in content.get(layer, ())
            for token in record.get("polygon_tokens") or [record["polygon_token"]]
        ]
        return Streets([polygons[token] for token in tokens if polygons[token]], [])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no map expansion of nuScenes ({error!r:.80}); {_FETCH}"
        ) from error


def _near(streets: Streets, ego: np.ndarray) -> Streets:
    low, high = ego[:, :2].min(0) - _AROUND, ego[:, :2].max(0) + _AROUND

    def reaches(line: np.ndarray) -> bool:
        return bool((line.max(0) > low).all() and (line.min(0) < high).all())

    areas = [[ring for ring in rings if reaches(ring)] for rings in streets.areas]
    return Streets([rings for rings in areas if rings], [x for x in streets.lanes if reaches(x)])


def _table(path: Path) -> list:
    return read_json(path, "table", _FETCH, list)
