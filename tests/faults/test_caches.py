"""Caches that are damaged half-way or wanted twice, and a world whose maker is stopped."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from occdistill.arrays import build_arrays, open_arrays

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def every_piece_is_saved(monkeypatch):
    monkeypatch.setattr("occdistill.arrays.SAVE_EVERY", 0)


SQUARES = {"squares": ((10,), np.int64)}


def fill(arrays, start, stop):
    arrays["squares"][start:stop] = np.arange(start, stop) ** 2


def build(folder, fill=fill, depends=1):
    build_arrays(folder, {"a": depends}, SQUARES, fill, 10, 2, "squares")


def interrupted(folder, at=6):
    def stop(arrays, start, end):
        if start == at:
            raise KeyboardInterrupt
        fill(arrays, start, end)

    with pytest.raises(KeyboardInterrupt):
        build(folder, stop)
    return folder.with_name(f"{folder.name}.part")


@pytest.mark.parametrize("place, again", [(-8 * 8 + 3, [2, 4, 6, 8]), (-8 * 2, [6, 8])])
def test_a_damaged_half_of_a_build_is_made_again(tmp_path, place, again):
    """Item 2 belongs to the second chunk; item 8 hasn't been made yet."""
    path = interrupted(tmp_path / "s") / "squares.npy"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    starts = []

    def watched(arrays, start, stop):
        starts.append(start)
        fill(arrays, start, stop)

    build(tmp_path / "s", watched)
    assert starts == again
    assert open_arrays(tmp_path / "s", {"a": 1})["squares"].tolist() == [i * i for i in range(10)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda part: (part / "progress.json").write_text("{"),
        lambda part: (part / "progress.json").write_text("[]"),
        lambda part: (part / "squares.npy").write_bytes(b""),
        lambda part: np.save(part / "squares.npy", np.zeros(3)),
        lambda part: np.save(part / "squares.npy", np.zeros(10, np.int32)),
    ],
)
def test_a_half_that_is_none_is_started_again(tmp_path, spoil):
    spoil(interrupted(tmp_path / "s"))
    build(tmp_path / "s")
    assert open_arrays(tmp_path / "s", {"a": 1})["squares"].tolist() == [i * i for i in range(10)]


BUILD = """
    import sys, time, logging
    import numpy as np
    from occdistill import arrays
    from occdistill.arrays import build_arrays

    arrays.SAVE_EVERY = 0

    def fill(arrays, start, stop):
        print("chunk", start, flush=True)
        if sys.stdin.readline() != "on\\n":
            sys.exit(3)
        arrays["squares"][start:stop] = np.arange(start, stop) ** 2

    build_arrays(sys.argv[1], {"a": 1}, {"squares": ((10,), np.int64)}, fill, 10, 5, "squares")
"""


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_second_process_waits_and_says_so(tmp_path, caplog, ends_well):
    folder = tmp_path / "s"
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(folder)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as first:
        assert first.stdout.readline() == "chunk 0\n"
        starts = []

        def watched(arrays, start, stop):
            starts.append(start)
            fill(arrays, start, stop)

        def second():
            build_arrays(folder, {"a": 1}, SQUARES, watched, 10, 5, "squares")

        waiting = threading.Thread(target=second)
        waiting.start()
        limit = time.monotonic() + 20
        while "waiting for another process that is building" not in caplog.text:
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert waiting.is_alive() and not starts
        first.communicate("on\non\n" if ends_well else "on\nstop\n")
    waiting.join(20)
    assert first.returncode == (0 if ends_well else 3)
    assert starts == ([] if ends_well else [5])
    assert open_arrays(folder, {"a": 1})["squares"].tolist() == [i * i for i in range(10)]
    assert os.listdir(tmp_path) == ["s"]


WORLD = """
    import os, sys, time
    from pathlib import Path

    from occdistill.world import world

    def work(folder, tick):
        Path(folder, str(os.getpid())).touch()
        time.sleep(60)

    if __name__ == "__main__":
        world._in_others(work, [sys.argv[1:]] * 3, 2, print)
"""


def alive(pid):
    try:  # a zombie has ended
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "stop", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=str
)
def test_workers_end_with_the_process_that_started_them(tmp_path, stop):
    script, folder = tmp_path / "make.py", tmp_path / "at-work"
    folder.mkdir()
    script.write_text(textwrap.dedent(WORLD))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as maker:
        limit = time.monotonic() + 60
        while len(workers := [int(name) for name in os.listdir(folder)]) < 2:
            assert time.monotonic() < limit and maker.poll() is None
            time.sleep(0.05)
        assert all(map(alive, workers))
        maker.send_signal(stop)
        assert maker.wait() == -stop
    limit = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < limit, "workers go on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "change, again",
    [
        (lambda marks: marks, [6, 9]),  # pieces of another size go on where the others ended
        (lambda marks: [crc for _, crc in marks], [0, 3, 6, 9]),  # as older versions wrote them
        (lambda marks: [[12, 0]], [0, 3, 6, 9]),
        (lambda marks: [marks[0], marks[0]], [2, 5, 8]),
    ],
)
def test_progress_of_other_pieces(tmp_path, change, again):
    part, starts = interrupted(tmp_path / "s"), []
    progress = json.loads((part / "progress.json").read_text())
    progress["marks"] = change(progress["marks"])
    (part / "progress.json").write_text(json.dumps(progress))

    def watched(arrays, start, stop):
        starts.append(start)
        fill(arrays, start, stop)

    build_arrays(tmp_path / "s", {"a": 1}, SQUARES, watched, 10, 3, "squares")
    assert starts == again
    assert open_arrays(tmp_path / "s", {"a": 1})["squares"].tolist() == [i * i for i in range(10)]
