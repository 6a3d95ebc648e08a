"""Checks of single files: the readers' own, asked what they would say.

Where the readers' packages aren't installed, nothing but the standard library is at hand: then only
JSON, checkpoints' archives and pickles' ends are looked at.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from occdistill.errors import UserError
from occdistill.untrusted import load_json, read_json

try:
    from occdistill import arrays
    from occdistill.data import occ3d, scenes, voxelize

    CAN_READ = True
except ImportError:  # the doctor is asked where nothing else runs
    CAN_READ = False


def told(read: Callable[..., Any], *arguments: Any) -> str | None:
    """The sentence with which a reader refuses what it is given, or None."""
    try:
        read(*arguments)
    except UserError as error:
        return str(error)
    return None


def check_labels(path: Path) -> str | None:
    """An Occ3D `labels.npz`."""
    return told(occ3d.load_labels, path)


def check_cloud(path: Path, layout: str = "xyzir") -> str | None:
    """A LiDAR sweep."""
    return told(voxelize.load_points, path, layout)


def check_point_labels(path: Path, cloud: Path, layout: str = "xyzir") -> str | None:
    """A `_lidarseg.bin`: a raw label per point of its cloud."""
    if not cloud.is_file():
        return None  # told of the cloud
    return told(voxelize.load_point_labels, path, cloud.stat().st_size // (4 * len(layout)))


def check_cache(folder: Path) -> str | None:
    """A folder of memory-mapped arrays."""

    def read() -> None:
        meta = read_json(folder / "meta.json", "list of a cache's arrays", _DELETE, dict)
        arrays.open_arrays(folder, meta.get("depends", {}))

    return told(read)


_DELETE = "delete its folder to have it built again"


def bad_frames(root: Path, record: dict) -> str | None:
    """What is wrong with the keyframes of a scene of the index."""

    def read() -> None:
        if sentence := scenes.bad_frames(root, [scenes.read_scene(root, record)]):
            raise UserError(sentence)

    return told(read)


def official_splits() -> dict[str, list[str]]:
    """nuScenes' own splits, where the devkit is installed."""
    try:
        return scenes.official_splits()
    except ImportError:
        return {}


def parse_json(path: Path, kind: type = object) -> tuple[Any, str | None]:
    """The content of a JSON file that holds a `kind`, or None and what is wrong with it."""
    try:
        return load_json(path, kind), None
    except (OSError, ValueError, MemoryError) as error:
        return None, f"isn't valid JSON ({error})"


def check_zip(path: Path) -> str | None:
    """A checkpoint written by torch: a whole zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            return f"is damaged at {bad}" if bad else None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return f"is truncated or no checkpoint ({error})"


def check_pickle(path: Path) -> str | None:
    """Whether a pickle begins and ends like one. It is never loaded: that would run its code."""
    with open(path, "rb") as file:
        first = file.read(1)
        file.seek(-1, 2) if path.stat().st_size else None
        last = file.read(1)
    return None if first == b"\x80" and last == b"." else "is truncated or no pickle"
