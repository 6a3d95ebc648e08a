"""Folders of memory-mapped arrays that know what they were made from.

`meta.json` holds what they depend on; they are opened only for the same. They are built in
`<folder>.part`, from which an interrupted build goes on after what is there has been checked, and
renamed when all are whole. A second process that needs the same waits for the first. A build loses
a second of work at most when it is interrupted, and the piece that it was about to make.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from occdistill.errors import UserError, out_of_memory
from occdistill.store import read_json, reading, write_json
from occdistill.untrusted import inside, open_file

Arrays = dict[str, np.memmap]
_BLOCKS, _BLOCK_BYTES = 1024, 1 << 20
SAVE_EVERY = 1.0  # seconds of a build
_log = logging.getLogger(__name__)


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

    While another process builds the same, this one says so and waits; if that one makes them, there
    is nothing left to do, and if it ends before, this one goes on from there.

    Args:
        folder: where they will be.
        depends: what the arrays are made from; JSON values by name.
        arrays: shape, of which the first side is `items`, and dtype by name.
        fill: `fill(arrays, start, stop)` writes what belongs to items start … stop - 1.
        items: how many items there are.
        chunk: items per call of `fill`, which the progress bar counts one call at a time.
        title: of the progress bar; none is shown without.

    Raises:
        UserError: if the disk is full.
    """
    folder = Path(folder)
    part = folder.with_name(f"{folder.name}.part")
    try:
        lock = _lock(part, folder)
        if lock is None:
            return
        with lock:
            mapped, marks = _resume(part, depends, arrays, items)
            done = marks[-1][0] if marks else 0
            bar = tqdm(
                total=items, initial=done, desc=title, unit="", mininterval=0.5, disable=not title
            )
            due = time.monotonic() + SAVE_EVERY
            for start in range(done, items, chunk):
                stop = min(items, start + chunk)
                fill(mapped, start, stop)
                bar.update(stop - start)
                if stop == items or time.monotonic() >= due:
                    for array in mapped.values():
                        array.flush()
                    marks.append((stop, _mark(mapped, done, stop)))
                    progress = {"depends": dict(depends), "marks": marks}
                    write_json(part / "progress.json", progress, indent=None)
                    done, due = stop, time.monotonic() + SAVE_EVERY
            bar.close()
            mapped.clear()
            checksums = {name: _checksum(part / f"{name}.npy") for name in arrays}
            write_json(part / "meta.json", {"depends": dict(depends), "arrays": checksums})
            (part / "progress.json").unlink(missing_ok=True)
            (part / "lock").unlink()
            os.rename(part, folder)
    except OSError as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"cannot build the cache {folder} ({error.strerror or error}): free some space or "
            "choose another cache_dir; what is done so far is kept"
        ) from error


def _lock(part: Path, folder: Path) -> IO | None:
    """The lock of a build, or None where another process has made `folder` meanwhile."""
    told = False
    while not folder.exists():
        part.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(part / "lock", "a")  # noqa: SIM115 - the caller holds it
        except FileNotFoundError:  # renamed in between
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                _log.warning("waiting for another process that is building %s", folder)
            told = True
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists() and _same(lock.fileno(), part / "lock"):
            return lock
        lock.close()
    with suppress(OSError):  # a folder that this loop made after the other's was renamed
        (part / "lock").unlink()
        part.rmdir()
    return None


def _same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _mark(arrays: Arrays, start: int, stop: int) -> int:
    """A checksum of items start … stop - 1 of all arrays."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name][start:stop]).view(np.uint8), crc)
    return crc


def _resume(
    part: Path, depends: Mapping, arrays: Mapping, items: int
) -> tuple[Arrays, list[tuple[int, int]]]:
    """Arrays to write to, and the pieces that they already hold, whole: the item after each, and
    its mark.
    """
    try:
        progress = read_json(part / "progress.json", kind=dict)
        if progress["depends"] == json.loads(json.dumps(dict(depends))):
            mapped = {name: _mapped(part / f"{name}.npy", *arrays[name]) for name in arrays}
            whole: list[tuple[int, int]] = []
            start = 0
            for stop, mark in progress["marks"]:
                if not start < stop <= items or _mark(mapped, start, stop) != mark:
                    _log.warning("%s is damaged from item %d on, and made again", part, start)
                    break
                whole.append((stop, mark))
                start = stop
            return mapped, whole
    except (UserError, OSError, ValueError, KeyError, TypeError, EOFError):
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
    return mapped, []


def _mapped(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    array = np.load(path, mmap_mode="r+")
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(f"{path} is of another build")
    return array


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
