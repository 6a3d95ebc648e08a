"""Counts that no scoring wrote, and live LiDAR of which one sweep can't be read."""

import errno
import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from occdistill.data.occ3d import NUM_CLASSES
from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, Window
from occdistill.runtime.sources import _read
from tests.faults.rows import Row

C = NUM_CLASSES


def counted(folder):
    windows = [Window(f"s/{i}", "s", i, 9) for i in range(3)]
    counts = Counts(windows, 2, folder=folder / "row")
    clip = np.zeros((2, 2, 2, 1), np.uint8)
    for i in range(3):
        counts.update(i, "all", clip, clip)
    counts.save({"model": "m"})
    return folder / "row"


def record(**changes):
    def plant(folder):
        path = counted(folder) / "row.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path.parent

    return plant


def arrays(name, write):
    def plant(folder):
        path = counted(folder) / name
        path.unlink()
        write(path)
        return path.parent

    return plant


def npz(**content):
    right = {"counts": np.zeros((2, C, C), np.int64), "clips": np.array(3)}
    return arrays("all.npz", lambda path: np.savez(path, **{**right, **content}))


DAMAGED, NONE = "is truncated or no finished counts", "are no confusion matrices; run the scoring"
ROWS = [
    Row("counts without windows", record(windows=[]), Counts.load, DAMAGED),
    Row("counts whose windows are numbers", record(windows=[1, 2, 3]), Counts.load, DAMAGED),
    Row("counts whose windows lack a length", record(windows=[["a", "b", 1]] * 3), Counts.load,
        DAMAGED),
    Row("counts of windows without names", record(windows=[[1, 2, 3, 4]] * 3), Counts.load,
        "a window isn't two names and two numbers"),
    Row("counts of text for frames", record(frames="six"), Counts.load, DAMAGED),
    Row("counts of a negative number of frames", record(frames=-1), Counts.load, DAMAGED),
    Row("counts of more windows", record(windows=[["s/1", "s", 1, 9]] * 4), Counts.load,
        "all.npy is uint32 .3, 2, 3, 18."),
    Row("counts whose facts are text", record(facts="none"), Counts.load, DAMAGED),
    Row("counts of floats", npz(counts=np.zeros((2, C, C))), Counts.load, NONE),
    Row("counts of other classes", npz(counts=np.zeros((2, 3, 3), int)), Counts.load, NONE),
    Row("counts of one number", npz(counts=np.array(3)), Counts.load, NONE),
    Row("counts below zero", npz(counts=np.full((2, C, C), -1)), Counts.load, NONE),
    Row("counts of other frames", npz(counts=np.zeros((4, C, C), int)), Counts.load,
        "all.npz counts 4 frames"),
    Row("counts of several numbers of clips", npz(clips=np.array([3, 3])), Counts.load, NONE),
    Row("counts that are no zip", arrays("all.npz", lambda p: p.write_bytes(b"PK")), Counts.load,
        "truncated or no file of confusion"),
    Row("tallies that are a pipe", arrays("all.npy", os.mkfifo), Counts.load, "it is a pipe"),
    Row("tallies of floats", arrays("all.npy", lambda p: np.save(p, np.zeros((3, 2, 3, C)))),
        Counts.load, "all.npy is float64"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_counts_are_refused_for_the_right_reason(row, tmp_path, capsys):
    row.check(tmp_path, capsys)


def test_counts_as_they_were_written_are_read(tmp_path):
    counts, facts = Counts.load(counted(tmp_path))
    assert facts == {"model": "m"} and counts.total("all").sum() == 3 * 2 * 4 * 3


def test_counts_that_are_begun_anew_are_not_finished(tmp_path):
    folder = counted(tmp_path)
    Counts([Window("s/0", "s", 0, 9)], 2, folder=folder)  # and then it was killed
    with pytest.raises(UserError, match="no finished counts at .*row.json; run the scoring again"):
        Counts.load(folder)


def test_a_full_disk_is_told_before_anything_is_counted(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Counts([Window("s/0", "s", 0, 9)], 2, folder=tmp_path / "new")


@dataclass(frozen=True)
class Drive:
    keyframes: list


class Reader:
    """Merges the numbers of keyframes; some can't be read."""

    merge = 3

    def __init__(self, broken, past_from="lidar"):
        self.broken, self.past_from = broken, past_from

    def sweeps(self, scene, start, stop):
        names = scene.keyframes[start:stop]
        if self.broken & set(names):
            raise UserError(f"{names} can't be read")
        return names

    def past(self, scene, start, stop):
        return np.array([[sum(self.sweeps(scene, max(0, stop - self.merge), stop))]])


@pytest.mark.parametrize(
    "broken, index, merged", [(set(), 4, 7 + 8 + 9), ({8}, 4, 7 + 9), ({7, 8}, 4, 9), ({5}, 1, 6)]
)
def test_a_broken_sweep_is_left_out_of_the_frames_after_it(broken, index, merged):
    assert _read(Reader(broken), Drive([5, 6, 7, 8, 9]), index) == merged


def test_a_broken_sweep_that_is_the_newest_is_told():
    for reader in (Reader({9}), Reader({8}, "occ3d")):
        with pytest.raises(UserError, match="can't be read"):
            _read(reader, Drive([5, 6, 7, 8, 9]), 4)
