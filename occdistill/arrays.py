"""Folders of memory-mapped arrays that know what they were made from.

`meta.json` holds what they depend on; they are opened only for the same. They are built in
`<folder>.part`, from which an interrupted build goes on, and renamed when all are whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from occdistill.errors import UserError
from occdistill.store import read_json, reading, write_json
from occdistill.untrusted import inside, open_file

Arrays = dict[str, np.memmap]
_BLOCKS, _BLOCK_BYTES = 1024, 1 << 20


def open_arrays(folder: str | Path, depends: Mapping[str, object]) -> Arrays:
    """Map finished arrays for reading.

    Args:
        folder: where they are.
        depends: what they must have been made from; JSON values by name.

    Raises:
        UserError: if they were made from something else (naming what), or are damaged.
    """
    folder = Path(folder)
    remedy = f"delete {folder} to have it built again"
    meta = folder / "meta.json"
    with reading(meta, "list of a cache's arrays", remedy):
        content = read_json(meta, "list of a cache's arrays", remedy, dict)
        found, arrays = dict(content["depends"]), dict(content["arrays"])
    wanted = json.loads(json.dumps(dict(depends)))
    differ = [
        f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}"
        for key in sorted(wanted.keys() | found.keys())
        if found.get(key) != wanted.get(key)
    ]
    if differ:
        raise UserError(
            f"the cache {folder} was made from something else ({'; '.join(differ)}): {remedy}, "
            "or choose another cache_dir"
        )
    mapped = {}
    for name, checksum in arrays.items():
        path = inside(folder, f"{name}.npy", meta)
        with reading(path, "array of a cache", remedy), open_file(path):
            mapped[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            whole = _checksum(path) == checksum
        if not whole:
            raise UserError(f"{path} has changed since it was built: {remedy}")
    return mapped


def build_arrays(
    folder: str | Path,
    depends: Mapping[str, object],
    arrays: Mapping[str, tuple[tuple[int, ...], type]],
    fill: Callable[[Arrays, int, int], None],
    items: int,
    chunk: int,
    title: str,
) -> None:
    """Make arrays, or go on where a build was interrupted.

    Args:
        folder: where they will be.
        depends: what the arrays are made from; JSON values by name.
        arrays: shape and dtype by name.
        fill: `fill(arrays, start, stop)` writes what belongs to items start … stop - 1.
        items: how many items there are.
        chunk: items per call of `fill`.
        title: of the progress bar.

    Raises:
        UserError: if the disk is full, or another process is building the same.
    """
    folder = Path(folder)
    part = folder.with_name(f"{folder.name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        with open(part / "lock", "w") as lock:
            _lock(lock, part)
            mapped, done = _resume(part, depends, arrays)
            bar = tqdm(total=items, initial=done, desc=title, unit="", mininterval=0.5)
            for start in range(done, items, chunk):
                stop = min(items, start + chunk)
                fill(mapped, start, stop)
                for array in mapped.values():
                    array.flush()
                write_json(part / "progress.json", {"depends": dict(depends), "done": stop})
                bar.update(stop - start)
            bar.close()
            mapped.clear()
            checksums = {name: _checksum(part / f"{name}.npy") for name in arrays}
            write_json(part / "meta.json", {"depends": dict(depends), "arrays": checksums})
            (part / "progress.json").unlink()
            (part / "lock").unlink()
            os.rename(part, folder)
    except OSError as error:
        raise UserError(
            f"cannot build the cache {folder} ({error.strerror or error}): free some space or "
            "choose another cache_dir; what is done so far is kept"
        ) from error


def _lock(file, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is building {part}: wait for it to end") from error


def _resume(part: Path, depends: Mapping, arrays: Mapping) -> tuple[Arrays, int]:
    """Arrays to write to and how many items they already hold."""
    try:
        progress = read_json(part / "progress.json")
        if progress["depends"] == json.loads(json.dumps(dict(depends))):
            mapped = {name: np.load(part / f"{name}.npy", mmap_mode="r+") for name in arrays}
            return mapped, progress["done"]
    except (UserError, OSError, ValueError, KeyError, EOFError):
        pass  # nothing usable: start again
    mapped = {}
    for name, (shape, dtype) in arrays.items():
        path = part / f"{name}.npy"
        path.unlink(missing_ok=True)
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if needed > shutil.disk_usage(part).free:  # a full disk would kill the process later
            raise OSError(28, f"No space left on device for {needed / 1e9:.1f} GB")
        mapped[name] = open_memmap(path, "w+", dtype, shape)
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return mapped, 0


def _checksum(path: Path) -> str:
    """Of the size and of all of a file, or, where that is over a gigabyte and would take minutes,
    of that much of it in blocks spread evenly.
    """
    size = path.stat().st_size
    crc = zlib.crc32(str(size).encode())
    blocks = min(_BLOCKS, -(-size // _BLOCK_BYTES))
    with open(path, "rb") as file:
        for start in np.linspace(0, max(0, size - _BLOCK_BYTES), blocks).astype(np.int64):
            file.seek(int(start))
            crc = zlib.crc32(file.read(_BLOCK_BYTES), crc)
    return f"{crc:08x}"
