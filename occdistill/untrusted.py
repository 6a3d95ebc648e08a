"""Reading what anybody may have written: names of other files, JSON, and the errors that it makes.

Only the standard library: the doctor asks the same questions where no package is installed.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def reading(path: str | Path, what: str, advice: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises in the block into a sentence.

    Args:
        path: the file that is read.
        what: what it should be, such as "label file".
        advice: what to do about it.

    Raises:
        UserError: naming all three.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; {advice}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); {advice}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is; {advice}") from error
    except Exception as error:  # damaged files raise many kinds
        raise UserError(f"{path} is truncated or no {what} ({reason(error)}); {advice}") from error


def reason(error: Exception) -> str:
    """Why reading or writing has failed, in a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]


def read_json(
    path: str | Path,
    what: str = "JSON file",
    advice: str = "write it again",
    kind: type | tuple[type, ...] = object,
) -> Any:
    """Read a JSON file that holds a `kind`, such as dict; errors as `reading`."""
    with reading(path, what, advice):
        return load_json(path, kind)


def each_record(path: str | Path, skip: Callable[[str], bool] = lambda text: False) -> Iterator:
    """The values of a JSON list in a file of any size, one after the other.

    Args:
        path: of a file in UTF-8, UTF-16 or UTF-32.
        skip: asked for the text of a flat record, whether it can be passed over unparsed: tables
            hold millions of records of which few are wanted.

    Raises:
        OSError: as `open_file`.
        ValueError: it is no list, a value is no JSON or nested too deep, or the list has no end.
    """
    with open_file(path) as file:
        start = file.read(4)
        file.seek(0)
        decode = codecs.getincrementaldecoder(json.detect_encoding(start))().decode
        text, place, ended = decode(file.read(_CHUNK)), 0, False
        place = _pass(text, place, "[", "it holds no list")
        first = True
        while True:
            try:
                found, place = _next_record(text, place, first, skip)
            except ValueError as error:  # also where a record goes on in the next chunk
                if ended or len(text) - place > _RECORD:
                    raise ValueError(f"it is cut off or no JSON: {error}") from error
                more = file.read(_CHUNK)
                ended = not more
                text, place = text[place:] + decode(more, ended), 0
                continue
            if found is _END:
                return
            if found is not _PASSED:
                yield found
            first = False


_CHUNK, _RECORD = 1 << 24, 1 << 26  # bytes read at a time; characters of a record at most
_SPACE = re.compile(r"[ \t\n\r]*")
_END, _PASSED = object(), object()


def _pass(text: str, place: int, mark: str, wrong: str) -> int:
    """The place behind `mark` and the white space around it."""
    place = _SPACE.match(text, place).end()
    if text[place : place + 1] != mark:
        raise ValueError(wrong)
    return _SPACE.match(text, place + 1).end()


def _next_record(
    text: str, place: int, first: bool, skip: Callable[[str], bool]
) -> tuple[Any, int]:
    """The value that begins at `place`, or what stands for none, and the place behind it."""
    place = _SPACE.match(text, place).end()
    if text[place : place + 1] == "]":
        return _END, place
    if not first:
        place = _pass(text, place, ",", "no comma between records")
    end = text.find("}", place) + 1
    flat = text[place:end]
    # One "{", no list, no escape and only whole strings: this "}" ends the record.
    if (
        flat.count("{") == 1
        and flat[0] == "{"
        and "[" not in flat
        and "\\" not in flat
        and flat.count('"') % 2 == 0
        and skip(flat)
    ):
        return _PASSED, end
    try:
        return _DECODER.raw_decode(text, place)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


_DECODER = json.JSONDecoder()
