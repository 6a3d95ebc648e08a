"""Reading the field's pickles without running what is in them.

A pickle is a program: it may call anything Python can import, and rebuild arrays around raw memory.
`read` follows its opcodes in Python. A name stands for nothing but one of the constructors below,
which check every argument and build arrays of plain numbers or text themselves; opcodes that could
reach a class, an attribute or another program are refused, and so are keys that are no scalars.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from occdistill.errors import UserError
from occdistill.untrusted import open_file

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")
_TEXT = re.compile(r"[SU][1-9]\d{0,4}")
_DIMENSIONS = 32


class _Refused(Exception):
    """A name, an opcode or an argument that isn't admitted."""


class _Name(NamedTuple):
    """What a pickle gets for a global's name: a label, which can be called by `REDUCE` alone."""

    module: str
    name: str


class _Kind:
    """Stands for a dtype: of plain numbers or of text of a fixed width, and nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        plain = isinstance(code, str) and (_NUMBERS.fullmatch(code) or _TEXT.fullmatch(code))
        if not plain:
            raise _Refused(f"numpy.dtype of {code!r:.40}")
        self.dtype = np.dtype(code)

    def set(self, state: Any) -> None:
        """Take over the byte order; a plain dtype's state holds nothing else that matters."""
        order = state[1] if isinstance(state, tuple) and 2 < len(state) < 9 else None
        if order not in ("<", ">", "|", "=") or any(x is not None for x in state[2:5]):
            raise _Refused("numpy.dtype with fields, a shape or an unknown byte order")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


def _array(shape: Any, kind: Any, raw: Any, order: str) -> np.ndarray:
    """An array around bytes that are just as many as it needs."""
    if type(kind) is not _Kind or type(raw) not in (bytes, bytearray):
        raise _Refused("an array of anything but plain numbers or text")
    shape = shape if isinstance(shape, tuple) else (shape,)
    if len(shape) > _DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise _Refused(f"an array of shape {shape!r:.60}")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise _Refused(f"an array {shape!r:.60} of {len(raw)} bytes")
    values = np.frombuffer(raw, kind.dtype) if raw else np.zeros(0, kind.dtype)
    if kind.dtype == bool:  # only 0 and 1 are booleans
        values = values.view(np.uint8) != 0
    return values.reshape(shape, order=order)


def _blank(kind: Any, *_: Any) -> np.ndarray:
    """`_reconstruct`: an empty array that `BUILD` fills."""
    if kind != _Name("numpy", "ndarray"):
        raise _Refused(f"an array of type {kind!r:.60}")
    return np.zeros(0, np.int8)


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if order not in ("C", "F"):
        raise _Refused(f"an array in order {order!r:.20}")
    return _array(shape, kind, raw, order)


def _scalar(kind: Any, raw: Any) -> np.generic:
    return _array((1,), kind, raw, "C")[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """How old pickles spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding!r:.40}")
    return text.encode("latin1")


def _bytes(content: Any = b"", encoding: Any = "latin-1") -> bytes:
    """bytes or bytearray, of bytes or text, but never of a length: that would be memory for free."""
    if isinstance(content, str) and encoding == "latin-1":
        return content.encode("latin1")
    if type(content) not in (bytes, bytearray):
        raise _Refused(f"bytes of a {type(content).__name__}")
    return bytes(content)


def _set(members: Any = ()) -> frozenset:
    if type(members) not in (list, tuple):
        raise _Refused(f"a set of a {type(members).__name__}")
    return frozenset(map(_key, members))


def _mapping(pairs: Any = ()) -> dict:
    if type(pairs) not in (list, tuple) or any(len(pair) != 2 for pair in pairs):
        raise _Refused("a dict of anything but pairs")
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    """A dict's key or a set's member; hashing one that is nested deep would end the process."""
    if key is not None and type(key) not in (str, bytes, int, float, bool):
        raise _Refused(f"a {type(key).__name__} as a key")
    return key


ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): lambda *_: _refuse("numpy.ndarray"),
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _mapping,
}
for _module in ("builtins", "__builtin__"):  # the second is what old protocols say
    ADMITTED |= {(_module, name): _bytes for name in ("bytes", "bytearray")}
    ADMITTED |= {(_module, "frozenset"): _set, (_module, "set"): lambda *given: set(_set(*given))}
for _core in ("numpy.core", "numpy._core"):  # where numpy 1 and numpy 2 keep them
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _blank
    ADMITTED[f"{_core}.multiarray", "scalar"] = _scalar
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


def _refuse(what: str) -> Any:
    raise _Refused(what)


class _File:
    """A file that never makes room for more than it holds."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise EOFError
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()


class _Plain(pickle._Unpickler):
    """The standard library's unpickler in Python, with fewer opcodes and stricter ones."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)
    for _code in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID),
        *(pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER),
        pickle.READONLY_BUFFER,
    ):
        dispatch[_code[0]] = lambda self: _refuse("a class")

    def __init__(self, file: _File) -> None:
        super().__init__(file)
        self.blank: dict[int, np.ndarray] = {}  # arrays that wait for their content, by identity

    def find_class(self, module: str, name: str) -> _Name:
        """Look a global up; the only way in which a pickle gets hold of a function."""
        if (module, name) not in ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _Name(module, name)

    def load_reduce(self) -> None:
        """Call one of `ADMITTED`."""
        arguments, name = self.stack.pop(), self.stack[-1]
        if type(name) is not _Name or type(arguments) is not tuple:
            raise _Refused(f"a {type(name).__name__}")
        self.stack[-1] = made = ADMITTED[name](*arguments)
        if name.name == "_reconstruct":
            self.blank[id(made)] = made

    def load_build(self) -> None:
        """Fill an array, once, or tell a dtype its byte order; nothing else has a state."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Kind:
            target.set(state)
        elif self.blank.pop(id(target), None) is not None and type(state) is tuple:
            _, shape, kind, fortran, raw = state
            values = _array(shape, kind, raw, "F" if fortran else "C")
            held = raw if type(raw) is bytes and values.dtype != bool else values.tobytes("A")
            # in place, since the pickle may refer to the array again; numpy checks the length anew
            target.__setstate__((1, values.shape, values.dtype, bool(fortran), held))
        else:
            raise _Refused(f"a {type(target).__name__} with a state")

    def load_bytearray8(self) -> None:
        """Bytes as many as the file has."""
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(count))

    def load_setitem(self) -> None:
        """One item of a dict."""
        value, key, target = self.stack.pop(), self.stack.pop(), self.stack[-1]
        _of(dict, target)[_key(key)] = value

    def load_setitems(self) -> None:
        """Items of a dict."""
        items = self.pop_mark()
        _of(dict, self.stack[-1]).update(zip(map(_key, items[::2]), items[1::2]))

    def load_dict(self) -> None:
        """A dict of the items since the mark."""
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2])))

    def load_append(self) -> None:
        """One more item of a list."""
        value = self.stack.pop()
        _of(list, self.stack[-1]).append(value)

    def load_appends(self) -> None:
        """More items of a list."""
        items = self.pop_mark()
        _of(list, self.stack[-1]).extend(items)

    def load_additems(self) -> None:
        """More members of a set."""
        items = self.pop_mark()
        _of(set, self.stack[-1]).update(map(_key, items))

    def load_frozenset(self) -> None:
        """A frozen set of the items since the mark."""
        self.append(frozenset(map(_key, self.pop_mark())))

    for _code, _method in (
        (pickle.REDUCE, load_reduce), (pickle.BUILD, load_build),
        (pickle.BYTEARRAY8, load_bytearray8), (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems), (pickle.DICT, load_dict), (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends), (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
    ):  # fmt: skip
        dispatch[_code[0]] = _method


def _of(kind: type, target: Any) -> Any:
    if type(target) is not kind:
        raise _Refused(f"items of a {type(target).__name__}")
    return target


def read(path: str | Path) -> Any:
    """Unpickle arrays of numbers or text, and plain containers.

    Args:
        path: a file written by `pickle.dump`.

    Raises:
        UserError: if the file is missing or truncated, is no pickle, or asks for anything but
            arrays and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file at {path}: check the path")
    with open_file(path) as file:
        start = file.read(64)
        file.seek(0)
        refuse_lookalikes(path, start)
        if start[:1] != b"\x80":
            raise UserError(f"{path} is not a pickle: give the .pkl file as it was published")
        try:
            return _Plain(_File(file, path.stat().st_size)).load()
        except _Refused as error:
            raise UserError(
                f"{path} wants to call or build {error}, which no list of arrays needs: it may be "
                "hostile and is not read; use a file from its authors"
            ) from error
        except Exception as error:  # damaged bytes reach the constructors as any kind of nonsense
            cut = isinstance(error, (EOFError, struct.error)) or "exhausted" in str(error)
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
