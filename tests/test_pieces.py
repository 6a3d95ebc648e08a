"""Arrays that several processes build together."""

import os
import sys

import numpy as np
import pytest

from occdistill import pieces
from occdistill.arrays import open_arrays
from occdistill.pieces import build_together
from occdistill.processes import joined
from tests.ranks import together

SQUARES = {"squares": ((26,), np.int64)}


def build(folder, stop_at=None):
    """Build in chunks of 2; notes who made which, and rank 1 ends before it makes `stop_at`."""
    rank = os.environ.get("RANK", "0")

    def make(start, stop):
        if start == stop_at and rank == "1":
            sys.exit(3)
        (folder.parent / f"made-{start}-by-{rank}").touch()
        return {"squares": np.arange(start, stop) ** 2}

    build_together(folder, {"a": 1}, SQUARES, make, 26, 2, "squares")
    assert open_arrays(folder, {"a": 1})["squares"].tolist() == [i * i for i in range(26)]


def made(folder):
    """First item of every chunk made so far, and by whom; forgotten then."""
    found = {}
    for note in folder.glob("made-*"):
        _, start, _, rank = note.name.split("-")
        found[int(start)] = int(rank)
        note.unlink()
    return found


def in_group(folder, stop_at=None):
    with joined("cpu", "pytorch"):
        build(folder, stop_at)


def test_two_processes_take_turns_and_each_sees_the_whole(tmp_path):
    assert together(lambda: in_group(tmp_path / "s")) == [0, 0]
    assert made(tmp_path) == {start: start // 2 % 2 for start in range(0, 26, 2)}
    assert os.listdir(tmp_path) == ["s"]
    build(tmp_path / "s")  # it is there
    assert not made(tmp_path)


def test_what_one_leaves_undone_another_makes(tmp_path, monkeypatch):
    bars = []

    class Bar(pieces.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append((self.total, []))

        def update(self, n=1):
            bars[-1][1].append(n)
            super().update(n)

    monkeypatch.setattr(pieces, "tqdm", Bar)
    assert together(lambda: in_group(tmp_path / "s", 22))[1] == 3
    before = made(tmp_path)
    assert 22 not in before and {2, 6, 10, 14, 18} <= before.keys()
    assert not (tmp_path / "s").exists()
    build(tmp_path / "s")  # alone
    after = made(tmp_path)
    assert 22 in after and not {2, 6, 10, 14, 18} & after.keys()
    # its bar counts what was there, and then what it makes itself, chunk after chunk
    (total, moves), *_ = bars
    assert total == sum(moves) == 26 and moves.count(2) >= len(after)
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("depends", [{"a": 2}, {"a": 1}])
def test_only_pieces_of_the_same_are_taken(tmp_path, depends):
    first = tmp_path / "s.pieces" / "00000000"
    build_together(
        first, {**depends, "items": [0, 2]}, {"squares": ((2,), np.int64)},
        lambda *_: {"squares": np.array([0, 1])}, 2, 2, "",
    )  # fmt: skip
    build(tmp_path / "s")
    assert (0 in made(tmp_path)) == (depends == {"a": 2})
