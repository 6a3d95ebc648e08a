import errno
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.errors import UserError


def example(value=0.0, kind="teacher"):
    return {"kind": kind, "model": {"w": torch.full((3,), value)}, "meta": {"step": 1}}


def test_round_trip(tmp_path):
    ckpt.save(tmp_path / "new" / "a.pth", example(2.0))
    loaded = ckpt.load(tmp_path / "new" / "a.pth", kind="teacher")
    assert torch.equal(loaded["model"]["w"], torch.full((3,), 2.0)) and loaded["meta"] == {
        "step": 1
    }
    assert os.listdir(tmp_path / "new") == ["a.pth"]  # no temporary file is left


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("enforce fail")]
)
def test_full_disk_keeps_previous_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.pth"
    ckpt.save(path, example(1.0))

    def full(obj, file):
        file.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="previous file is intact") as caught:
        ckpt.save(path, example(2.0))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert ckpt.load(path)["model"]["w"][0] == 1.0
    assert os.listdir(tmp_path) == ["a.pth"]


def test_real_write_limit_exits_with_one_sentence(tmp_path):
    ckpt.save(tmp_path / "a.pth", example(1.0))
    code = """
        import resource, signal, sys, torch
        from occdistill.errors import run
        from occdistill.checkpoint import save
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        run(lambda: save(sys.argv[1], {"kind": "vae", "model": {"w": torch.zeros(100_000)}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.pth")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write checkpoint") and done.stderr.count("\n") == 1
    assert ckpt.load(tmp_path / "a.pth")["model"]["w"][0] == 1.0


def test_missing_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(UserError, match="does not exist"):
        ckpt.load(path)
    ckpt.save(path, example())
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged"):
            ckpt.load(path)
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(UserError, match="damaged"):
        ckpt.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="not an occdistill checkpoint"):
        ckpt.load(path)
    ckpt.save(path, example(kind="vae"))
    with pytest.raises(UserError, match="holds a vae, not a teacher"):
        ckpt.load(path, kind="teacher")


def test_code_in_a_checkpoint_never_runs(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    for write in (
        lambda f: torch.save({"kind": "vae", "model": Evil()}, f),
        lambda f: pickle.dump(Evil(), f),
    ):
        with open(tmp_path / "evil.pth", "wb") as file:
            write(file)
        with pytest.raises(UserError):
            ckpt.load(tmp_path / "evil.pth")
        assert not marker.exists()


def test_other_architecture_is_refused_and_changes_nothing():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = ckpt.fingerprint(net.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1), torch.nn.Linear(1, 1))
    with pytest.raises(
        UserError, match=r"unexpected 2.weight.*0.weight is \(4, 2\), not \(3, 2\)|and \d more"
    ):
        ckpt.load_weights(net, other.state_dict(), "a.pth")
    assert ckpt.fingerprint(net.state_dict()) == before
    ckpt.load_weights(net, {k: v + 1 for k, v in net.state_dict().items()}, "a.pth")
    assert ckpt.fingerprint(net.state_dict()) != before


def test_fingerprint_sees_every_bit_but_not_the_order():
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1, dtype=torch.bfloat16)}
    reference = ckpt.fingerprint(state)
    assert len(reference) == 12 and int(reference, 16) >= 0
    assert ckpt.fingerprint(dict(reversed(state.items()))) == reference
    changed = {**state, "a": state["a"].clone()}
    changed["a"][0, 0] = np.nextafter(np.float32(0), np.float32(1)).item()
    others = [changed, {**state, "a": state["a"].view(3, 2)}, {**state, "a": state["a"].double()}]
    others += [{"a": state["a"], "c": state["b"]}]
    assert len({reference, *map(ckpt.fingerprint, others)}) == 5
    stored = {"a": state["a"].half(), "b": state["b"]}  # numbers that float16 holds
    assert ckpt.fingerprint(stored) == reference


def test_step_files_are_ordered_by_number(tmp_path):
    for name in ("iter_1000.pth", "iter_200.pth", "best.pth", "iter_x.pth", ".iter_7.pth.1.tmp"):
        (tmp_path / name).touch()
    assert [p.name for p in ckpt.step_files(tmp_path)] == ["iter_200.pth", "iter_1000.pth"]


def test_weights_leave_as_safetensors_with_what_they_are(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    state = {"a": torch.arange(6.0).half().view(2, 3), "b": torch.ones(2)}
    fingerprints = {"vae": "0123456789ab"}
    made = {"kind": "vae", "model": state, "fingerprints": fingerprints, "config_text": "x = 1"}
    ckpt.save(tmp_path / "vae.pth", made)
    out = tmp_path / "vae.safetensors"
    assert ckpt.export(tmp_path / "vae.pth", out) == 2
    assert numpy.load_file(out)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    header = out.read_bytes()[8:].partition(b"}}")[0].decode()
    assert '"kind":"vae"' in header and "0123456789ab" in header and "x = 1" in header


def test_without_safetensors_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        ckpt.export(tmp_path / "vae.pth", tmp_path / "out")
