"""The one way to write a file, whole or not at all, and the one way to read one safely.

Text is UTF-8 everywhere, and no archive that is read may hold pickled objects: those run code.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import numpy as np

from occdistill.errors import UserError, out_of_memory
from occdistill.untrusted import open_file, reading, reason
from occdistill.untrusted import read_json as read_json  # noqa: PLC0414 - also from here

ARRAY_BYTES = 8 << 30  # of an npz that is read whole: OccFM's training latents have 4.5 GB
_SPACE = "free some space or choose another place"


@contextmanager
def atomic(path: str | Path, what: str = "", advice: str = _SPACE) -> Iterator[Path]:
    """Where to write what shall be `path` once the block has ended well: the old file or the new.

    The bytes go to a folder `.<name>.*.tmp` beside it, reach the disk, and only then take the name.
    The folder of `path` is made.

    Args:
        path: the file to make or replace.
        what: what kind of file it is, for the error.
        advice: what to do when it can't be written.

    Yields:
        A path with the name of `path`, in a folder of its own, for one file.

    Raises:
        UserError: the disk is full or not writable; an old file is untouched, nothing else is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(".tmp", f".{path.name}.", path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            _sync(part)
            os.replace(part, path)
            _sync(path.parent)
    except OSError as error:
        if out_of_memory(error):
            raise
        kept = "the previous file is intact" if path.is_file() else "nothing was lost"
        named = f"{what} {path}" if what else path
        raise UserError(f"cannot write {named} ({reason(error)}); {kept}: {advice}") from error


def check_folder(folder: str | Path) -> Path:
    """Make a folder for results and try to write to it: before the work, not after.

    Raises:
        UserError: it can't be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(b"a block, so that a full disk is noticed".ljust(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): {_SPACE}") from error
    return folder


def check_place(path: str | Path) -> Path:
    """The path of a file for results, its folder tried as by `check_folder`."""
    check_folder(Path(path).parent)
    return Path(path)


def user_cache() -> Path | None:
    """This user's folder for what can be made again; None for one who has no home."""
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "occdistill"
    try:
        return Path.home() / ".cache" / "occdistill"
    except RuntimeError:
        return None


def remove_unfinished(folder: str | Path) -> None:
    """Remove what writers that were killed have left in a folder that nobody else writes to."""
    for left in Path(folder).glob(".*.tmp"):
        shutil.rmtree(left)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file; errors as `atomic`."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON and a newline; errors as `atomic`."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Write an npz of plain arrays; errors as `atomic`."""
    with atomic(path) as part, open(part, "wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def read_npz(
    path: str | Path,
    names: Sequence[str] = (),
    what: str = "npz file",
    advice: str = "write it again",
    check: Callable[[tuple[int, ...], np.dtype], str | None] = lambda shape, dtype: None,
) -> dict[str, np.ndarray]:
    """Read the arrays of an npz that are named, or all of them.

    Args:
        path, names: the file, and the arrays wanted.
        what, advice: as for `reading`.
        check: of the shape and dtype that an array declares, what is wrong; asked before any array
            is read.

    Raises:
        UserError: as `reading`; an array isn't there, isn't as large as it declares, fails `check`,
            or all of them together are larger than `ARRAY_BYTES`.
    """
    with (
        reading(path, what, advice),
        open_file(path) as file,
        np.lib.npyio.NpzFile(file, allow_pickle=False) as archive,
    ):
        if missing := [name for name in names if name not in archive.files]:
            raise UserError(f"{path} holds no array named {missing[0]!r}; {advice}")
        wanted, total = names or archive.files, 0
        for name in wanted:
            shape, dtype, size = declared_in(archive, name)
            total += size
            if problem := check(shape, dtype):
                raise UserError(f"{name} of {path} {problem}; {advice}")
        if total > ARRAY_BYTES:
            raise UserError(f"{path} would unpack to {total / 1e9:.1f} GB; {advice}")
        return {name: archive[name] for name in wanted}


def declared_in(archive: np.lib.npyio.NpzFile, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """`declared` for an array of an npz, of which only the header is unpacked."""
    members = archive.zip.namelist()
    info = archive.zip.getinfo(name if name in members else f"{name}.npy")
    with archive.zip.open(info) as file:
        return declared(file, info.file_size)


def declared(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and bytes of the values that an npy file declares, without reading them.

    Args:
        file: at the beginning of the npy; it is left behind the header.
        size: bytes of the whole npy.

    Raises:
        ValueError: it is no npy, holds objects, or has not as many bytes as it declares.
    """
    first = np.lib.format.read_magic(file) == (1, 0)
    header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    needed, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if needed != found:
        raise ValueError(f"it declares {dtype} {shape} but has {found} bytes")
    return shape, dtype, needed
