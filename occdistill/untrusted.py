"""What a file may say that anybody may have written: names of other files, and JSON.

Only the standard library: the doctor asks the same questions where no package is installed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from occdistill.errors import UserError

JSON_BYTES = 1 << 30  # Occ3D's annotations.json, the largest that is read whole, has 0.2 GB


def improper(name: Any) -> str | None:
    """Why `name` cannot stand for something below a folder, judged by the text alone, or None."""
    if not isinstance(name, str):
        return "it is no text"
    if "\0" in name:
        return "it holds a NUL"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "no file can have this name"
    if os.path.isabs(name):
        return "it is an absolute path"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts:
        return "it names nothing"
    return "it leads upwards" if ".." in parts else None


def outside(folder: str | Path, name: Any) -> str | None:
    """Why `folder`/`name` is not below `folder`, by its text or by a link on the way, or None.

    What lies directly in the folder may be a link to anywhere: people keep `samples` on another
    disk. A link further down that leaves comes with the data, and isn't followed.
    """
    if reason := improper(name):
        return reason
    folder = Path(folder)
    real = os.path.realpath(folder / name)
    top = next(part for part in name.split("/") if part not in ("", "."))
    homes = [os.path.realpath(folder)]
    if (folder / top).is_dir():
        homes.append(os.path.realpath(folder / top))
    if any(real.startswith(home.rstrip("/") + "/") or real == home for home in homes):
        return None
    return f"it is a link to {real}"


def inside(folder: str | Path, name: Any, source: str | Path) -> Path:
    """The path of what a file calls `name`, which is to lie below `folder`.

    Args:
        folder: where everything that the file names belongs.
        name: from the file.
        source: the file, or what else to look at, for the error.

    Raises:
        UserError: the name is no text or empty, absolute, leads upwards, or is a link that leaves.
    """
    if reason := outside(folder, name):
        raise UserError(_sentence(folder, name, source, reason))
    return Path(folder) / name


def proper(name: Any, folder: str | Path, source: str | Path) -> str:
    """`name` itself, checked as by `inside` but for links, without touching the disk."""
    if reason := improper(name):
        raise UserError(_sentence(folder, name, source, reason))
    return name


def _sentence(folder: str | Path, name: Any, source: str | Path, reason: str) -> str:
    shown = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
    return (
        f"{source} names {shown[:200]}, which is not in {folder} ({reason}), so it is not touched; "
        "use the files as their authors published them, or correct the name"
    )


def open_file(path: str | Path, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading: no pipe, which might never end, and no device.

    Raises:
        OSError: it is another kind of thing, or has more than `limit` bytes.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {found.st_size / 1e9:.1f} GB", str(path))
    return open(path, "rb")


def load_json(path: str | Path, kind: type | tuple[type, ...] = object) -> Any:
    """Parse a JSON file.

    Args:
        path: the file, of at most `JSON_BYTES`.
        kind: what it must hold: dict, list, …

    Raises:
        OSError: as `open_file`.
        ValueError: it is no JSON, is nested too deep, or holds something else.
    """
    with open_file(path, JSON_BYTES) as file:
        try:
            content = json.load(file)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
    if isinstance(content, kind):
        return content
    wanted = {dict: "an object", list: "a list"}.get(kind, "another thing")
    raise ValueError(f"it holds a {type(content).__name__}, not {wanted}")
