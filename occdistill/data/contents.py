"""What is in the files of a data set: checksums, remembered until a file is written again.

A cache made from labels that were changed afterwards, if only in place and to the same size, is a
cache of something else.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from occdistill.errors import UserError
from occdistill.store import read_json, write_json
from occdistill.untrusted import open_file

_FORMAT = 1
_THREADS = 8  # they wait for the disk


def cache_places(root: Path, name: str) -> tuple[Path, Path]:
    """Where to keep what was found out about a data root: beside the data, else with the user."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "occdistill"
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return root / ".occdistill" / f"{name}.json", user / f"{name}-{place}.json"


def checksums(root: Path, names: Sequence[str | None]) -> list[str | None]:
    """A checksum of the content of each file, or None where there is none.

    Args:
        root: of the data.
        names: of files below it.
    """
    places = cache_places(root, "contents")
    known: dict[str, list] = {}
    for place in places:
        with suppress(UserError, KeyError):
            found = read_json(place, kind=dict)
            if found["format"] == _FORMAT and isinstance(found["files"], dict):
                known = found["files"]
                break
    states = {name: _state(root / name) for name in names if name is not None}
    unknown = [
        name
        for name, state in states.items()
        if state and not (isinstance(old := known.get(name), list) and old[:-1] == state)
    ]
    if unknown:
        with ThreadPoolExecutor(_THREADS) as pool:
            marks = pool.map(_checksum, (root / name for name in unknown))
        # a file that can't be read is told where it is read
        new = {name: [*states[name], mark] for name, mark in zip(unknown, marks) if mark}
        known = {**known, **new}
        for place in places:
            with suppress(UserError):  # read-only or full: read again next time
                write_json(place, {"format": _FORMAT, "files": known}, indent=None)
                break
    return [known.get(name, ["unreadable"])[-1] if states.get(name) else None for name in names]


def _state(path: Path) -> list[int] | None:
    """Size and times of a file; its content can't change without one of them."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _checksum(path: Path) -> str | None:
    """Of an npz, of the checksums that it holds of its arrays; else of all bytes."""
    try:
        with open_file(path) as file:
            if path.suffix == ".npz":
                with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
                    members = [(x.filename, x.CRC, x.file_size) for x in archive.infolist()]
                    return hashlib.blake2b(repr(members).encode(), digest_size=16).hexdigest()
                file.seek(0)
            return hashlib.file_digest(file, _blake).hexdigest()
    except OSError:
        return None


def _blake() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
