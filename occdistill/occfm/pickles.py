"""Reading the field's pickles without running what is in them.

A pickle is a program: it may call anything Python can import. `read` admits numpy arrays and plain
containers and refuses everything else by name, before anything is called.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from occdistill.errors import UserError

try:  # where numpy 2 keeps what numpy 1 called numpy.core
    from numpy._core import multiarray, numeric
except ImportError:
    from numpy.core import multiarray, numeric


def _latin1(text: str, encoding: str) -> bytes:
    """How old pickles spell bytes."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


# Constructors of arrays, array scalars, bytes and containers. None of them runs code or opens files.
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
}
for _module in ("builtins", "__builtin__"):  # the second is what old protocols say
    for _type in (set, frozenset, bytes, bytearray):
        ADMITTED[_module, _type.__name__] = _type
for _core in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = multiarray._reconstruct
    ADMITTED[f"{_core}.multiarray", "scalar"] = multiarray.scalar
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = numeric._frombuffer


class _Refused(Exception):
    """A name that isn't admitted."""


class _Plain(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` only."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up; the only way in which a pickle gets hold of a function."""
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def read(path: str | Path) -> Any:
    """Unpickle arrays and plain containers.

    Args:
        path: a file written by `pickle.dump`.

    Raises:
        UserError: if the file is missing or truncated, is no pickle, or asks for anything but
            arrays and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file at {path}: check the path")
    with open(path, "rb") as file:
        start = file.read(64)
        file.seek(0)
        refuse_lookalikes(path, start)
        if start[:1] != b"\x80":
            raise UserError(f"{path} is not a pickle: give the .pkl file as it was published")
        try:
            return _Plain(io.BufferedReader(file, 1 << 20)).load()
        except _Refused as error:
            raise UserError(
                f"{path} wants to call {error}, which no list of arrays needs: it may be hostile "
                "and is not read; use a file from its authors"
            ) from error
        except Exception as error:  # damaged bytes reach the constructors as any kind of nonsense
            cut = isinstance(error, EOFError) or "truncated" in str(error)
            what = "cut off" if cut else f"damaged ({type(error).__name__})"
            raise UserError(f"{path} is {what}: download it again") from error


def refuse_lookalikes(path: Path, start: bytes) -> None:
    """Refuse what a failed download leaves under the right name: a web page, a pointer, nothing."""
    text = start.lstrip().lower()
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if text.startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not the file it is named after: download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`")
