"""Files are whole or not there, whatever happens while they are written or read."""

import os
import stat

import numpy as np
import pytest

from occdistill.errors import UserError
from occdistill.store import (
    atomic,
    read_json,
    read_npz,
    reading,
    remove_unfinished,
    write_json,
    write_npz,
    write_text,
)


def test_what_is_written_is_read_back_as_utf8(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"name": "Müller ±", "values": [1, None]})
    assert read_json(tmp_path / "new" / "a.json") == {"name": "Müller ±", "values": [1, None]}
    write_text(tmp_path / "a.md", "± ×")
    assert (tmp_path / "a.md").read_bytes() == "± ×".encode()
    for compress in (True, False):
        write_npz(tmp_path / "a.npz", {"x": np.arange(3), "y": np.zeros(2)}, compress)
        assert read_npz(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
        assert list(read_npz(tmp_path / "a.npz", ("y",))) == ["y"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("a bug")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises((UserError, RuntimeError)) as caught, atomic(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"cannot write {path} (No space left); the previous")
    else:
        assert caught.value is error


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write .*nothing was lost: free some space"):
        write_json(tmp_path / "file" / "a.json", {})
    assert os.listdir(tmp_path) == ["file"]


def test_files_are_as_readable_as_others(tmp_path):
    write_text(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "b").stat().st_mode
    )


def test_what_a_killed_writer_left_is_removed(tmp_path):
    process = os.fork()
    if process == 0:
        with atomic(tmp_path / "a.txt") as part:
            part.write_text("half")
            os._exit(9)
    os.waitpid(process, 0)
    (tmp_path / "kept.tmp").write_text("")
    assert len(os.listdir(tmp_path)) == 2 and not (tmp_path / "a.txt").exists()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["kept.tmp"]


def test_missing_damaged_and_foreign_files_are_sentences(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=f"no table at {path}; fetch it"):
        read_json(path, "table", "fetch it")
    path.write_text('{"half')
    with pytest.raises(UserError, match=r"a\.json is truncated or no table \(.*\); fetch it"):
        read_json(path, "table", "fetch it")
    with pytest.raises(UserError, match="cannot be read .*directory"):
        read_json(tmp_path)
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.zeros(100)})
    with pytest.raises(UserError, match="no array named 'y'"):
        read_npz(path, ("x", "y"))
    whole = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or no npz file"):
            read_npz(path)
    np.savez(path, x=np.array([{}], dtype=object))  # would run code
    with pytest.raises(UserError, match="truncated or no npz file"):
        read_npz(path)


def test_a_sentence_from_inside_is_kept(tmp_path):
    with pytest.raises(UserError, match="^mine$"), reading(tmp_path, "file", "look"):
        raise UserError("mine")
