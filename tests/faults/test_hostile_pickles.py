"""Pickles made by hand to reach memory, code or more room than there is.

Each is imported as a user would, in a process of its own: a fault could end it.
"""

import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from occdistill.errors import UserError
from occdistill.occfm.caches import infos_columns, read_infos, read_latents
from occdistill.occfm.pickles import read

ROOT = Path(__file__).parents[2]
IMPORT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from occdistill.errors import run
from occdistill.occfm.caches import read_infos, read_latents
def main():
    for path in sys.argv[1:]:
        for read in (read_latents, read_infos):
            try:
                run(lambda: read(path) and None)
            except SystemExit as stop:
                print(stop.code)
main()
"""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def call(name: str, *arguments: bytes) -> bytes:
    module, name = name.rsplit(".", 1)
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def kind(code: str, order="|", flags=0, size=-1) -> bytes:
    """A dtype, with its state."""
    state = tuple_of(number(3), text(order), b"NNN", number(size), number(-1), number(flags))
    return call("numpy.dtype", text(code), b"\x89\x88") + state + b"b"


def array(dtype: bytes, content: bytes, shape=(1,)) -> bytes:
    blank = call(
        "numpy._core.multiarray._reconstruct",
        b"cnumpy\nndarray\n", tuple_of(number(0)), raw(b"b"),
    )  # fmt: skip
    shape = tuple_of(*map(number, shape))
    return blank + tuple_of(number(1), shape, dtype, b"\x89", raw(content)) + b"b"


POINTER = struct.pack("<Q", 0x4141414141414141)
F4 = kind("f4", "<")
BUFFER = "numpy._core.numeric._frombuffer"
SCALAR = "numpy._core.multiarray.scalar"
# fault: (the pickle without its head, sentence)
ROWS = {
    "an object array of pointers, its flag cleared": (
        array(kind("O8", flags=0), POINTER), "build numpy.dtype of 'O8'"),
    "the same from a buffer": (
        call(BUFFER, raw(POINTER), kind("O8"), tuple_of(number(1)), text("C")), "dtype of 'O8'"),
    "the same as a scalar": (call(SCALAR, kind("O8"), raw(POINTER)), "dtype of 'O8'"),
    "a dtype with an object field in its state": (
        array(call("numpy.dtype", text("V8"), b"\x89\x88"), POINTER), "dtype of 'V8'"),
    "fields put into a plain dtype": (
        call("numpy.dtype", text("f8"), b"\x89\x88")
        + tuple_of(number(3), text("<"), b"N", tuple_of(text("a")), b"}", b"NNN") + b"b",
        "dtype with fields"),
    "a dtype of a list": (call("numpy.dtype", b"](" + text("O") + b"e"), r"dtype of \['O'\]"),
    "a width that the state makes larger": (
        array(kind("f4", "<", size=1 << 20), b"\0" * 3), r"an array \(1,\) of 3 bytes"),
    "fewer bytes than numbers": (array(F4, b"\0" * 8, (1 << 30,)), "of 8 bytes"),
    "a negative shape": (array(F4, b"", (-1,)), r"shape \(-1,\)"),
    "ndarray called by its name": (
        call("numpy.ndarray", tuple_of(number(4)), text("O")), "numpy.ndarray"),
    "ndarray made by NEWOBJ": (
        b"cnumpy\nndarray\n" + tuple_of(tuple_of(number(4)), text("O")) + b"\x81", "a class"),
    "an array filled twice": (
        array(F4, b"\0" * 4) + tuple_of(number(1), tuple_of(number(1)), F4, b"\x89", raw(b"\0" * 4))
        + b"b", "a ndarray with a state"),
    "a state for a function": (b"cnumpy\ndtype\n}" + text("__defaults__") + b"Nsb", "with a state"),
    "an array over another's memory": (
        call(BUFFER, array(F4, b"\0" * 4), F4, tuple_of(number(1)), text("C")),
        "anything but plain numbers"),
    "items put into an array": (array(F4, b"\0" * 4) + number(0) + number(1) + b"s", "items of"),
    "bytearray(8 << 30)": (call("builtins.bytearray", b"\x8a\x05" + (8 << 30).to_bytes(5, "little")),
        "bytes of a int"),
    "bytes(8 << 30)": (call("builtins.bytes", b"\x8a\x05" + (8 << 30).to_bytes(5, "little")),
        "bytes of a int"),
    "a bytearray longer than the file": (b"\x96" + struct.pack("<Q", 8 << 30), "cut off"),
    "bytes longer than the file": (b"\x8e" + struct.pack("<Q", 8 << 30), "cut off"),
    "a frame longer than the file": (b"\x95" + struct.pack("<Q", 8 << 30), "cut off"),
    "a key nested a million deep": (b"})" + b"\x85" * 10**6 + b"Ns", "a tuple as a key"),
    "a member nested a million deep": (b"\x8f()" + b"\x85" * 10**6 + b"\x90", "a tuple as a key"),
    "a place in the memo four billion on": (b"Nr\xff\xff\xff\xff", "no list of keyframes"),
    "os.system": (call("posix.system", text("exit 1")), "posix.system"),
    "an object in a persistent store": (text("a") + b"Q", "a class"),
    "an extension": (b"\x82\x01", "a class"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the imports say to each, all of them in one process that must outlive them."""
    folder = tmp_path_factory.mktemp("pickles")
    paths = [folder / f"{i}.pkl" for i in range(len(ROWS))]
    for path, (body, _) in zip(paths, ROWS.values()):
        path.write_bytes(b"\x80\x05" + body + b".")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *map(str, paths)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    codes, lines = done.stdout.split(), done.stderr.splitlines()
    assert done.returncode == 0, (done.returncode, len(codes), done.stderr[-2000:])
    return {fault: (codes[2 * i : 2 * i + 2], lines[2 * i]) for i, fault in enumerate(ROWS)}


@pytest.mark.parametrize("fault", ROWS)
def test_a_hostile_pickle_is_refused(fault, outcomes):
    import re

    codes, line = outcomes[fault]
    assert codes == ["2", "2"]
    assert line.startswith("error: ") and re.search(ROWS[fault][1], line), line


def load(tmp_path, body: bytes):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x05" + body + b".")
    return read(path)


def test_what_the_hand_made_parts_mean_when_they_are_honest(tmp_path):
    content = np.array([1.5, -2.0], "<f4").tobytes()
    found = load(tmp_path, array(F4, content, (2,)))
    assert type(found) is np.ndarray and found.dtype == np.float32 and found.tolist() == [1.5, -2.0]
    swapped = array(kind("f4", ">"), np.array([1.5, -2.0], ">f4").tobytes(), (2, 1))
    assert load(tmp_path, swapped).tolist() == [[1.5], [-2.0]]
    assert load(tmp_path, call(SCALAR, F4, raw(content[:4]))) == 1.5
    assert load(tmp_path, array(kind("b1"), b"\x02\0", (2,))).view(np.uint8).tolist() == [1, 0]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_array_that_is_referred_to_twice_is_one(tmp_path, protocol):
    values = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([values, values, np.array([True, False])], protocol))
    first, second, flags = read(path)
    assert first is second and np.array_equal(first, values)
    assert first.dtype == pickle.loads(path.read_bytes())[0].dtype  # numpy may swap to native
    assert flags.tolist() == [True, False]


def frame(**change):
    good = {"x_sampled": np.zeros((1, 4, 64, 64), np.float32), "gt_path": [["gts/s/t/labels.npz"]],
            "gt_trajs": [[0.0, 1.0]]}  # fmt: skip
    return good | change


def nested(levels: int):
    """Ten lists of ten lists of …"""
    value = [0.0]
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "content, sentence",
    [
        ([frame(x_sampled=nested(12))], "neither an array nor a short list"),
        ([frame(x_sampled=nested(4) * 1000)], "neither an array nor a short list"),
        ([frame()] * 100_000, "would unfold to 7 GB"),
    ],
)
def test_latents_that_unfold(tmp_path, content, sentence):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=sentence):
        read_latents(path)


@pytest.mark.parametrize(
    "frames, sentence",
    [
        (7, "no list of keyframes"),
        ([], "no list of keyframes"),
        ([{"token": ["a"], "gt_ego_fut_trajs": [0.0, 1.0]}], "a list as token"),
        ([{"token": "a", "gt_ego_fut_trajs": []}], "IndexError"),
        ([{"token": "a", "gt_ego_fut_trajs": [0.0, "x"]}], "short list of numbers"),
        ([{"token": "a", "gt_ego_fut_trajs": nested(12)}], "short list of numbers"),
    ],
)
def test_infos_of_other_kinds(tmp_path, frames, sentence):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"infos": {"scene-0001": frames}}))
    with pytest.raises(UserError, match=sentence):
        read_infos(path)


def test_infos_of_unequal_length_make_no_table(tmp_path):
    frames = [{"token": "a", "gt_ego_fut_trajs": np.zeros((n, 2), np.float32)} for n in (6, 5)]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"infos": {"scene-0001": frames}}))
    with pytest.raises(UserError, match="gt_ego_fut_trajs differ in length"):
        infos_columns(read_infos(path))
