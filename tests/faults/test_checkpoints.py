"""Checkpoints whose fields, numbers or bytes are not what a training writes."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from occdistill import checkpoint as ckpt
from occdistill.errors import UserError
from tests.faults.rows import Row
from tests.training import toy

WEIGHTS = {"w": torch.arange(1.0, 13.0).view(3, 4), "b": torch.ones(4)}
NAN, HUGE = torch.tensor([0.0, float("nan")]), torch.zeros(1).expand(10**12)


def saved(**fields):
    """Plants a checkpoint with other fields."""

    def plant(folder):
        content = {"kind": "vae", "model": WEIGHTS, "fingerprints": {}, "meta": {}} | fields
        torch.save(content, folder / "a.pth")  # past the checks of `save`
        return folder / "a.pth"

    return plant


def flipped(part, bit=3):
    """Plants a checkpoint of which one bit is another in a part of the zip."""

    def plant(folder):
        path = saved()(folder)
        with zipfile.ZipFile(path) as archive:
            info = next(i for i in archive.infolist() if i.filename.endswith(part))
            content = archive.read(info)
        whole = bytearray(path.read_bytes())
        whole[whole.index(content) + 1] ^= 1 << bit
        path.write_bytes(whole)
        return path

    return plant


def deflated(folder):
    path = saved(model={"w": torch.zeros(10**6)})(folder)
    with zipfile.ZipFile(path) as archive:
        parts = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def pipe(folder):
    os.mkfifo(folder / "a.pth")
    return folder / "a.pth"


def hidden(folder):
    (folder / "a.pth").mkdir()
    return folder / "a.pth"


def into_net(path):
    net = nn.Linear(2, 1)
    ckpt.load_weights(net, ckpt.weights(ckpt.load(path)), path)


FOREIGN = "is not an occdistill checkpoint"
ROWS = [
    Row("a checkpoint whose fingerprints are a list", saved(fingerprints=["vae"]), ckpt.load,
        f"{FOREIGN} .its 'fingerprints' is no dict"),
    Row("a checkpoint whose fingerprints are numbers", saved(fingerprints={"vae": 3}), ckpt.load,
        "'vae' in its 'fingerprints' is no text"),
    Row("a checkpoint without a model", saved(model=None), ckpt.load, "'model' is no dict of te"),
    Row("a checkpoint of an empty model", saved(model={}), ckpt.load, "'model' is no dict of te"),
    Row("a checkpoint that is a tensor", saved(model=torch.ones(2)), ckpt.load, "'model' is no d"),
    Row("a checkpoint of text for weights", saved(model={"w": "a"}), ckpt.load,
        "'w' in its 'model' is no tensor"),
    Row("a checkpoint of numbers for names", saved(model={1: torch.ones(1)}), ckpt.load,
        "1 in its 'model' is no tensor"),
    Row("a checkpoint of sparse weights", saved(model={"w": torch.eye(3).to_sparse()}), ckpt.load,
        "'w' in its 'model' is no tensor"),
    Row("a checkpoint of weights without numbers",
        saved(model={"w": torch.ones(3, device="meta")}), ckpt.load, "'w' in its 'model' is no te"),
    Row("a checkpoint whose average is text", saved(ema="0.99"), ckpt.load, "'ema' is no dict of"),
    Row("a checkpoint whose average is a number", saved(ema={"w": 1.0}), ckpt.load,
        "'w' in its 'ema' is no tensor"),
    Row("a checkpoint of a number for a kind", saved(kind=3), ckpt.load, "'kind' is no text"),
    Row("a checkpoint whose meta is a list", saved(meta=[1]), ckpt.load, "'meta' is no dict"),
    Row("a checkpoint whose training is text", saved(training="x"), ckpt.load, "'training' is no"),
    Row("a checkpoint that declares a terabyte", saved(model={"w": HUGE}), ckpt.load,
        "'w' in its 'model' declares more numbers than the file has"),
    Row("NaN weights", saved(model={"w": NAN}), ckpt.load, "weights that aren't finite .w.: .*div"),
    Row("infinite weights", saved(model={"w": 1 / torch.zeros(2)}), ckpt.load, "aren't finite .w"),
    Row("NaN averaged weights", saved(ema={"w": NAN}), ckpt.load, "weights that aren't finite .w"),
    Row("complex weights", saved(model={"weight": torch.ones(1, 2) * 1j, "bias": torch.ones(1)}),
        into_net, "weight is torch.complex64, not torch.float32"),
    Row("whole numbers for weights",
        saved(model={"weight": torch.ones(1, 2).int(), "bias": torch.ones(1)}),
        into_net, "weight is torch.int32, not torch.float32"),
    Row("a numpy scalar in a checkpoint", saved(meta={"mIoU": np.float64(1)}), ckpt.load,
        r"holds more than tensors and plain values \(numpy\S*scalar\)"),
    Row("a bit of the weights flipped", flipped("data/0"), ckpt.load,
        "damaged .*data/0 has changed since it was written.: use an earlier one"),
    Row("a bit of the list of tensors flipped", flipped("data.pkl"), ckpt.load,
        "damaged .*data.pkl has changed"),
    Row("a checkpoint that inflates", deflated, ckpt.load, "declares more bytes than it has"),
    Row("a pipe for a checkpoint", pipe, ckpt.load, "cannot be read .it is a pipe or a device"),
    Row("a folder for a checkpoint", hidden, ckpt.load, "cannot be read .it is a directory"),
    Row("no checkpoint", lambda folder: folder / "a.pth", ckpt.load, "does not exist: .*train it"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_checkpoint_is_refused_for_the_right_reason(row, tmp_path, capsys):
    row.check(tmp_path, capsys)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_dropped(prefix, tmp_path):
    content = {f"{prefix}{key}": value for key, value in WEIGHTS.items()}
    state = ckpt.load(saved(model=content, ema=content)(tmp_path))
    assert state["model"].keys() == state["ema"].keys() == WEIGHTS.keys()
    assert torch.equal(state["model"]["w"], WEIGHTS["w"])


def test_a_part_that_is_called_module_keeps_its_name():
    assert list(ckpt.bare({"module.w": 1, "other": 2})) == ["module.w", "other"]


def test_scalars_of_numpy_are_saved_as_numbers(tmp_path):
    metrics = {"mIoU": np.float32(0.5), "runs": [np.int64(3)]}
    ckpt.save(tmp_path / "a.pth", {"kind": "vae", "model": WEIGHTS, "meta": metrics})
    assert ckpt.load(tmp_path / "a.pth")["meta"] == {"mIoU": 0.5, "runs": [3]}


@pytest.mark.parametrize("path", sorted(Path("data/demo-weights").glob("*.pth")), ids=str)
def test_shipped_weights_pass(path):
    last = {"student": "distill", "teacher": "teacher"}  # of whatever they are told
    assert ckpt.load(path)["kind"] == last.get(path.stem.rpartition("_")[2], path.stem)


def test_a_full_disk_is_named_as_what_it_is(tmp_path):
    code = """if True:
        import resource, signal, sys, torch
        from occdistill.checkpoint import save
        from occdistill.errors import run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        run(lambda: save(sys.argv[1], {"kind": "vae", "model": {"w": torch.zeros(1_000_000)}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pth")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "(File too large); nothing was lost" in done.stderr


# Going on with a run.


def test_where_the_newest_file_is_damaged_the_one_before_it_is_used(tmp_path, capsys):
    toy.trainer(tmp_path / "whole", iterations=14).train()
    toy.trainer(tmp_path / "hurt", iterations=14).train()
    newest = tmp_path / "hurt" / "iter_14.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    toy.trainer(tmp_path / "hurt", iterations=14, resume=True).train()
    assert "iter_14.pth is truncated or damaged" in (said := capsys.readouterr().err)
    assert "going on from iter_7.pth" in said
    marks = {
        ckpt.fingerprint(ckpt.load(tmp_path / run / "student.pth")["model"])
        for run in ("whole", "hurt")
    }
    assert len(marks) == 1  # the same steps again
    for path in ckpt.step_files(tmp_path / "hurt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="iter_14.pth is truncated or damaged"):
        toy.trainer(tmp_path / "hurt", iterations=14, resume=True).train()


@pytest.mark.parametrize(
    "changes, asked, key",
    [
        ({"lr": 1e-3}, (), "train_distill.lr is 0.001, and was 0.01"),
        ({"batch_size": 2}, (), "train_distill.batch_size is 2, and was 4"),
        ({"batch_size": 2}, ("train_distill.lr",), "train_distill.batch_size is 2, and was 4"),
        ({"iterations": 9}, (), "train_distill.iterations is 9, and was 7"),
        ({"iterations": 9}, ("train_distill.iterations",), None),
        ({"batch_size": 2, "iterations": 9}, ("train_distill",), None),
        ({"keep": 5, "val_interval": 1, "workers": 0}, (), None),
    ],
)
def test_a_run_goes_on_with_other_settings_only_where_they_are_asked_for(
    changes, asked, key, tmp_path
):
    toy.trainer(tmp_path, iterations=7).train()
    again = toy.trainer(tmp_path, resume=True, asked=asked, **{"iterations": 7, **changes})
    if key is None:
        again.train()
        assert again.iter == again.max_iters
        return
    with pytest.raises(UserError, match=f"{key}.: put them back, or ask for them with --cfg-opt"):
        again.train()


def test_a_batch_of_more_than_there_is_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="a batch of 100000 is more than the .* smaller batch_size"):
        toy.trainer(tmp_path, batch_size=100_000)


@pytest.mark.parametrize("field", ["task", "updaters", "batches", "best"])
def test_a_file_that_lacks_what_a_run_needs_is_a_sentence(field, tmp_path):
    toy.trainer(tmp_path, iterations=7).train()
    content = ckpt.load(tmp_path / "iter_7.pth")
    del content["training"][field]
    ckpt.save(tmp_path / "iter_7.pth", content)
    with pytest.raises(UserError, match=f"iter_7.pth is truncated or no checkpoint .*{field}"):
        toy.trainer(tmp_path, iterations=7, resume=True).train()


@pytest.mark.slow
def test_a_frozen_process_is_not_waited_for_all_day(tmp_path):
    code = """if True:
        import os, signal, sys, time
        from datetime import timedelta
        from occdistill.errors import run
        from occdistill import processes
        processes.PATIENCE = timedelta(seconds=4)

        def main():
            with processes.joined("cpu", "pytorch"):
                with processes.first_rank_first():
                    if os.environ["RANK"] == "0":
                        time.sleep(6)  # caches may take longer
                print("built", flush=True)
                if os.environ["RANK"] == "1":
                    os.kill(os.getpid(), signal.SIGSTOP)
                processes.dist.barrier()

        run(main)
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871", "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i),
                 "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        said, error = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
    assert said == "built\n" and ranks[0].returncode == 2
    assert "another process of this run has stopped or hasn't answered" in error
