"""How a tool ends when what lies outside the program isn't as it should be."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from tqdm import tqdm

from occdistill import compiled, store
from occdistill.arrays import build_arrays
from occdistill.build.builders import construct
from occdistill.data.contents import cache_places
from occdistill.data.objects import MOST, Objects, velocities
from occdistill.data.occ3d import Grid
from occdistill.errors import UserError, run
from occdistill.evaluation.card import publish
from occdistill.runtime.backends import cache_folder, record
from occdistill.store import atomic, check_folder, user_cache
from tests.faults.rows import Row

REPO = Path(__file__).parents[2]


def fails(error):
    def tool(_):
        raise error

    return tool


def nothing(folder):
    return folder


def _written(path, error):
    with atomic(path):
        raise error


def _built(folder, error):
    build_arrays(folder, {}, {"x": ((1,), np.uint8)}, lambda *_: fails(error)(folder), 1, 1, "")


def _recorded(sentence):
    """As where torch has CUDA: making the graph fails with this sentence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", lambda: None)
        patch.setattr(torch.cuda, "Stream", lambda device: None)
        patch.setattr(torch.cuda, "device", lambda device: fails(RuntimeError(sentence))(device))
        record(SimpleNamespace(network=torch.nn.Identity()), (torch.zeros(1),))


NO_ROOM = OSError(errno.ENOMEM, "Cannot allocate memory")
OUT = OSError(errno.ENOSPC, "No space left on device", "/results/report.json")
ROWS = [
    Row("a full disk", nothing, fails(OUT), "report.json: No space left on device; free some"),
    Row("a file that may not be read", nothing, lambda f: (f / "a" / "b").read_text(),
        "/a/b: No such file or directory; check the path and who may use it"),
    Row("no memory", nothing, fails(MemoryError()), "too little memory .* smaller batch size"),
    Row("no memory for a tensor", nothing, lambda _: torch.empty(1 << 60), "too little memory"),
    Row("no memory on a GPU", nothing, fails(torch.OutOfMemoryError("CUDA out of memory. Tried")),
        "too little memory"),
    Row("no memory for cuDNN", nothing, fails(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
        "too little memory .*--dtype bfloat16"),
    Row("a loader's process that was killed", nothing,
        fails(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
        "too little memory .* workers"),
    Row("no memory while a file is written", nothing, lambda f: _written(f / "a", NO_ROOM),
        "too little memory"),
    Row("no memory while a cache is built", nothing, lambda f: _built(f / "a", NO_ROOM),
        "too little memory"),
    Row("no memory for a network", nothing,
        lambda _: construct(fails(torch.OutOfMemoryError("CUDA out of memory. Tried")), 1),
        "too little memory"),
    Row("no memory for a CUDA graph", nothing, lambda _: _recorded("CUDA out of memory. Tried"),
        "too little memory"),
    Row("a stage that can't be recorded", nothing, lambda _: _recorded("operation not permitted"),
        "Identity can't be recorded as a CUDA graph .operation not permitted.: use --backend comp"),
    Row("Ctrl-C", nothing, fails(KeyboardInterrupt()), "", 130),
    Row("nothing to report on", nothing, lambda f: publish(f, [], None), "nothing was scored"),
    Row("a folder where a file is", lambda f: ((f / "a").touch(), f / "a" / "b")[1], check_folder,
        "cannot write to .*a/b .Not a directory.: free some space or choose"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_tool_ends_with_a_sentence(row, tmp_path, capsys):
    row.check(tmp_path, capsys)


def test_a_fault_of_the_program_keeps_its_traceback():
    for error in (KeyError("a"), RuntimeError("shapes differ"), ValueError("b")):
        with pytest.raises(type(error)):
            run(lambda error=error: fails(error)(None))


def test_a_sentence_is_not_glued_to_a_progress_bar(capsys):
    def main():
        for _ in tqdm(range(3)):
            raise UserError("stopped here")

    with pytest.raises(SystemExit):
        run(main)
    assert "\nerror: stopped here\n" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_fault():
    code = """if True:
        from occdistill.errors import run
        run(lambda: [print("x" * 1000, flush=True) for _ in range(1000)] and None)
    """
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141


# A container's user, who has no home and owns nothing.


def test_loops_are_compiled_where_nothing_can_be_cached(monkeypatch):
    def refuse(_):
        raise RuntimeError("cannot cache function 'f': no locator available for file 'a.py'")

    monkeypatch.setattr(numba.core.dispatcher.Dispatcher, "enable_caching", refuse)
    with pytest.raises(RuntimeError):
        numba.njit(cache=True)(lambda x: x + 1)
    assert compiled.njit(cache=True)(lambda x: x + 1)(2) == 3


def test_without_a_home_there_is_no_cache_and_no_fault(monkeypatch, tmp_path):
    def lost():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(store.Path, "home", lost)
    assert user_cache() is None
    assert len(cache_places(tmp_path, "index-v1.0")) == 1
    with pytest.raises(UserError, match="no home folder .*XDG_CACHE_HOME.*eager"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "occdistill"
    assert len(cache_places(tmp_path, "index-v1.0")) == 2 and cache_folder().is_dir()


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    assert check_folder(tmp_path / "new" / "place") == tmp_path / "new" / "place"
    assert list((tmp_path / "new" / "place").iterdir()) == []


def test_a_frame_of_noise_has_no_objects_to_follow():
    """Every column its own object: the search is cubic in them."""
    count, grid = 40, Grid((40, 40, 1), 1.0, (0.0, 0.0, 0.0))

    def frame(shift, some):
        labels = np.zeros(grid.shape, np.int32)
        ids = np.arange(1, some + 1)
        where = (ids * 2 + shift) % count, (ids * 2) // count % count
        labels[*where, 0] = ids
        centres = np.stack([*where, np.zeros(some)], 1) + 0.5
        return Objects(labels, np.full(some, 4), np.ones(some, int), centres)

    poses = np.tile(np.eye(4), (3, 1, 1))
    assert velocities([frame(k, 1) for k in range(3)], poses, grid).tolist() == [[1.0, 0.0]]
    crowd = [frame(k, MOST + 1) for k in range(3)]
    assert not velocities(crowd, poses, grid).any()
