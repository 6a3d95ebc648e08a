"""Deep checks of single files. Each returns what is wrong in a few words, or None.

Nothing but the standard library: the doctor must work where numpy doesn't.
"""

from __future__ import annotations

import ast
import zipfile
import zlib
from array import array
from pathlib import Path
from typing import Any

from occdistill.untrusted import improper, load_json, open_file

GRID = (200, 200, 16)
CLASSES = 18
POINT_BYTES = 20  # x, y, z, intensity, ring as float32
_HEADER = 10_000  # bytes that hold any npy header
RAW_LABELS = 32  # nuScenes-lidarseg ids


def npy_header(data: bytes) -> tuple[str, tuple[int, ...], int]:
    """Dtype string, shape and offset of the values of an npy file's bytes.

    Raises:
        ValueError: if it is no npy file.
    """
    if data[:6] != b"\x93NUMPY":
        raise ValueError("no npy array")
    wide = data[6] >= 2
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    header = ast.literal_eval(data[start : start + length].decode("latin1"))
    return header["descr"], tuple(header["shape"]), start + length


def check_labels(path: Path) -> str | None:
    """An Occ3D `labels.npz`: three uint8 arrays of the full grid, ids 0..17, masks 0 or 1."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            for name, top in (("semantics", CLASSES), ("mask_lidar", 2), ("mask_camera", 2)):
                if f"{name}.npy" not in archive.namelist():
                    return f"holds no array {name!r}"
                info = archive.getinfo(f"{name}.npy")
                with archive.open(info) as member:
                    data = member.read(_HEADER)
                    kind, shape, start = npy_header(data)
                    if info.file_size - start == GRID[0] * GRID[1] * GRID[2]:
                        data += member.read()  # checks the CRC too
                if shape != GRID:
                    return f"{name} has shape {shape}, expected {GRID}"
                if kind not in ("|u1", "|b1"):
                    return f"{name} is {kind}, expected uint8"
                values = data[start:]
                if len(values) != GRID[0] * GRID[1] * GRID[2]:
                    return f"{name} has not as many bytes as it declares"
                if (highest := max(values)) >= top:
                    what = "class id" if name == "semantics" else "value"
                    return f"{name} holds {what} {highest}, expected 0..{top - 1}"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return f"is truncated or damaged ({error or type(error).__name__})"
    except (ValueError, SyntaxError, KeyError, NotImplementedError) as error:
        return f"is no labels.npz ({error})"
    return None


def check_cloud(path: Path, deep: bool = True) -> str | None:
    """A `.pcd.bin` sweep: whole points, at least one, all coordinates finite."""
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    if size % POINT_BYTES:
        return f"has {size} bytes, not a multiple of {POINT_BYTES} (5 float32 per point)"
    if deep:
        values = array("f", path.read_bytes())
        for axis in range(3):
            if any(v - v != 0 for v in values[axis::5]):  # NaN or infinite
                return "holds NaN or infinite coordinates"
    return None


def check_point_labels(path: Path, cloud: Path | None, deep: bool = True) -> str | None:
    """A `_lidarseg.bin`: one byte per point of its cloud, raw ids 0..31."""
    size = path.stat().st_size
    if cloud is not None and cloud.exists() and size != cloud.stat().st_size // POINT_BYTES:
        return f"labels {size} points, its cloud has {cloud.stat().st_size // POINT_BYTES}"
    if deep and size and (highest := max(path.read_bytes())) >= RAW_LABELS:
        return f"holds raw label {highest}, expected 0..{RAW_LABELS - 1}"
    return None


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


def check_arrays(folder: Path) -> str | None:
    """A cache folder: a readable `meta.json`, and each array as long as its header says."""
    meta, problem = parse_json(folder / "meta.json", dict)
    if problem:
        return f"meta.json {problem}"
    arrays = meta.get("arrays", {})
    if not isinstance(arrays, dict):
        return "meta.json lists no arrays"
    for name in arrays:
        if reason := improper(f"{name}.npy"):
            return f"meta.json names {name!r}, which is not in {folder} ({reason})"
        path = folder / f"{name}.npy"
        try:
            with open_file(path) as file:
                kind, shape, start = npy_header(file.read(4096))
        except (OSError, ValueError, SyntaxError) as error:
            return f"{name}.npy can't be read ({error})"
        size = int(kind[2:])
        for n in shape:
            size *= n
        if path.stat().st_size != start + size:
            return f"{name}.npy is cut off"
    return None
