"""Pickles of arrays and containers are read; one that would run something is refused unread."""

import collections
import os
import pickle
import struct

import numpy as np
import pytest

from occdistill.errors import UserError
from occdistill.occfm.pickles import read


def dump(path, value, protocol=pickle.HIGHEST_PROTOCOL):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_containers_come_back(tmp_path, protocol):
    value = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.ones((2, 3))),
        "text": np.array(["a", "bc"]),
        "scalar": np.float64(0.5),
        "ordered": collections.OrderedDict(a=1),
        "plain": [1, 2.0, "x", None, True, (1, 2), {3}, b"bytes"],
    }
    found = read(dump(tmp_path / "a.pkl", value, protocol))
    assert found.keys() == value.keys()
    for name in ("array", "fortran", "text"):
        assert np.array_equal(found[name], value[name]) and found[name].dtype == value[name].dtype
    assert found["scalar"] == 0.5 and found["ordered"] == value["ordered"]
    assert found["plain"] == value["plain"]


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_either_numpy_are_read(tmp_path, core):
    own = np.zeros(0).__reduce__()[0].__module__.rsplit(".", 1)[0]
    text = pickle.dumps(np.arange(3.0), protocol=2)
    path = tmp_path / "a.pkl"
    path.write_bytes(text.replace(f"c{own}.".encode(), f"c{core}.".encode()))
    assert np.array_equal(read(path), [0.0, 1.0, 2.0])


class Runs:
    """Calls a function with an argument when unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, exec, eval, open, getattr, __import__, np.load])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    arguments = (str(trace), "w") if function is open else (argument,)
    hostile = dump(tmp_path / "a.pkl", {"infos": Runs(function, *arguments)}, protocol)
    with pytest.raises(UserError, match="may be hostile and is not read"):
        read(hostile)
    assert not trace.exists()


def test_an_admitted_module_does_not_admit_its_other_names(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02cnumpy\nfromfile\nU\x05a.txt\x85R.")
    with pytest.raises(UserError, match="numpy.fromfile"):
        read(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.")
    with pytest.raises(UserError, match="_codecs.encode"):
        read(path)


@pytest.mark.parametrize("cut", [2, 100, 2000])
def test_half_a_download(tmp_path, cut):
    path = dump(tmp_path / "a.pkl", [np.arange(1000.0)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="cut off: download it again"):
        read(path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>quota exceeded", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 something else", "is not a pickle"),
        (b"\x80\x04" + struct.pack("<q", -3), "damaged"),
    ],
)
def test_other_files(tmp_path, content, sentence):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read(path)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no file at"):
        read(tmp_path / "a.pkl")
