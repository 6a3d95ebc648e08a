"""The training tools from config to weights, on the small world and with tiny networks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from occdistill import checkpoint as ckpt
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.distill.consistency import Consistency
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.mfd import MFD
from occdistill.errors import UserError
from occdistill.training.distill import load_with_method
from occdistill.training.job import cache_folder
from occdistill.training.train import train
from occdistill.training.validation import SampleSpread
from tests.training.curves import curve, points

REPO = Path(__file__).parents[2]
CONFIG = """
from occdistill.autoencoder.vae import VAE
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=2, future=2, crop=12.8, coarsen=4,
)
vae = dict(
    type=VAE, grid_shape=(16, 16, 4), channels=4, embedding=2, width=(8, 8), blocks=(1, 1),
    decoder_width=8,
)
network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 4, 4), past=2, future=2, align=1, trajectory=4, width=16,
    blocks=(1, 1), heads=2,
)
conditioning = dict(kind="gt", align=(0,))
guidance = 2.0
sampler = dict(steps=2, shift=3.0)
method = dict(type=NoAuxiliary, ode_step=0.5)
vae_checkpoint = {out!r} + "/weights/vae.pth"
teacher_checkpoint = {out!r} + "/weights/teacher.pth"
train_vae = dict(iterations=3, batch_size=4, lr=1e-3, ema=0.9, val_clips=2, val_interval=2)
train_teacher = dict(iterations=3, batch_size=4, ema=0.9, mirror=True, val_clips=2)
train_distill = dict(iterations=2, batch_size=2, val_clips=2)
advice = dict(data="make a world", vae="train the VAE", teacher="train the teacher")
work_dir = {out!r} + "/work"
"""


def run(config, part, changes=None, method=None, **options):
    config = load_with_method(config, method and method.__name__, changes)
    return train(config, part, asked=changes or (), **options)


def tool(name, *arguments, launcher=()):
    """One of the tools as a user starts it."""
    return subprocess.run(
        [sys.executable, *launcher, f"tools/{name}.py", *map(str, arguments)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def config(tiny_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    path = out / "tiny.py"
    path.write_text(CONFIG.format(world=str(tiny_world), out=str(out)))
    return path


@pytest.fixture(scope="module")
def trained(config):
    """The config after its VAE and its teacher were trained."""
    run(config, "vae")
    run(config, "teacher")
    return config


def test_each_job_leaves_what_the_next_one_needs(trained):
    weights, work = trained.parent / "weights", trained.parent / "work"
    vae, teacher = (ckpt.load(weights / f"{kind}.pth", kind) for kind in ("vae", "teacher"))
    assert teacher["fingerprints"]["vae"] == ckpt.fingerprint(vae["model"])
    assert vae["model"]["latent_scale"] != 1.0 and "iterations=3" in vae["config_text"]
    run(trained, "distill", seed=5)
    student = ckpt.load(work / "noauxiliary" / "student.pth", "distill")
    assert student["fingerprints"]["teacher"] == ckpt.fingerprint(teacher["model"])
    assert student["meta"]["seed"] == 5 and student["model"].keys() == teacher["model"].keys()
    assert {"mIoU", "IoU", "spread", "teacher_spread"} <= student["meta"]["metrics"].keys()
    assert (student["meta"]["steps"], student["meta"]["renoise"]) == (1, False)
    assert list(work.glob("noauxiliary/*/vis_data/events.out.tfevents.*"))


def test_train_mfd_trains_mfd_whatever_the_config_says(trained):
    folder = trained.parent / "mfd"
    run(trained, "distill", {"train_distill.iterations": 1}, MFD, work_dir=folder)
    state = ckpt.step_files(folder)[-1]
    assert set(ckpt.load(state)["training"]["updaters"]) == {"student", "auxiliary"}


def test_train_mfd_under_torchrun_draws_the_curve_of_one_process(trained, tmp_path):
    config = tmp_path / "mfd.py"
    config.write_text(
        trained.read_text()
        + "from occdistill.distill.mfd import MFD\n"
        + "method = dict(type=MFD, ratio=2, ode_step=0.2)\n"
        + "train_distill.update(iterations=3, batch_size=4, lr=1e-3, warmup=1, log_interval=1)\n"
    )
    run(config, "distill", method=MFD, work_dir=tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    options = ("--device", "cpu", "--launcher", "pytorch")
    options += ("--cfg-options", f"cache_dir={tmp_path}/cache")  # two processes encode the clips
    done = tool("train_mfd", config, "--work-dir", tmp_path / "two", *options, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    for key in ("student/loss", "student/gap", "auxiliary/loss", "student/grad_norm", "nfe"):
        one, two = (curve(tmp_path / name, key) for name in ("one", "two"))
        assert one == pytest.approx(two, rel=1e-3, abs=1e-6) and len(one) == points(key, 3)
    caches = tmp_path / "cache", cache_folder(load_config(config))
    made = [path.relative_to(caches[0]) for path in caches[0].glob("latents-*/*.npy")]
    assert {path.stem for path in made} == {"past", "trajectory", "aligned", "moving"}
    for path in made:
        one, two = (np.load(cache / path).astype(float) for cache in caches)
        np.testing.assert_allclose(one, two, atol=2e-3, rtol=2e-3)  # float16, other thread counts
    assert not list((tmp_path / "cache").rglob("*.pieces"))
    start, one, two = (
        torch.nn.utils.parameters_to_vector(ckpt.load(file)["model"].values())
        for file in (
            trained.parent / "weights" / "teacher.pth",
            tmp_path / "one" / "student.pth",
            tmp_path / "two" / "student.pth",
        )
    )
    assert (one - two).norm() < 1e-3 * (one - start).norm()


def test_a_student_goes_on_from_another_and_keeps_how_it_is_sampled(trained, tmp_path):
    options = {"method.steps": 2, "method.ratio": 1, "train_distill.iterations": 1}
    first = run(trained, "distill", options, DiffInstruct, work_dir=tmp_path / "first").weights
    assert Models(load_config(trained)).forecaster(first).nfe == 2
    options = {"student_checkpoint": str(first), "train_distill.iterations": 1}
    second = run(trained, "distill", options, Consistency, work_dir=tmp_path / "second").weights
    forecaster = Models(load_config(trained)).forecaster(second)
    assert forecaster.nfe == 1 and forecaster.renoise and forecaster.with_nfe(4).renoise
    start, one, two = (
        torch.nn.utils.parameters_to_vector(ckpt.load(file)["model"].values())
        for file in (trained.parent / "weights" / "teacher.pth", first, second)
    )
    assert 0 < (two - one).norm() < (two - start).norm()
    assert "first student" in ckpt.load(second)["fingerprints"]
    with pytest.raises(UserError, match="no student weights at nowhere.pth"):
        run(trained, "distill", {"student_checkpoint": "nowhere.pth"}, work_dir=tmp_path / "third")


def test_a_collapse_is_told_with_its_cause_and_ends_the_run_if_asked(
    trained, tmp_path, capsys, monkeypatch
):
    spreads = iter([1.0, 2.0, 2.0, 7.0, 7.0])  # the teacher's is 10
    monkeypatch.setattr(
        SampleSpread, "__call__", lambda *_: {"spread": next(spreads), "teacher_spread": 10.0}
    )
    options = {
        "train_distill.stop_on_collapse": True,
        "train_distill.iterations": 4,
        "train_distill.val_interval": 1,
    }
    run(trained, "distill", options, work_dir=tmp_path)
    told = [line for line in capsys.readouterr().err.splitlines() if "samples differ" in line]
    assert len(told) == 2 and "Stopped" in told[1] and "Stopped" not in told[0]
    assert "after 2 steps: the student's samples differ in 2.00 % of the filled" in told[1]
    assert "it has no auxiliary flow" in told[1]
    assert [file.name for file in ckpt.step_files(tmp_path)] == ["iter_2.pth"]
    assert (tmp_path / "student.pth").is_file()
    run(trained, "distill", options, work_dir=tmp_path, resume=True)  # 7 is more than half of 10
    assert ckpt.step_files(tmp_path)[-1].name == "iter_4.pth"
    assert "samples differ" not in capsys.readouterr().err
    assert curve(tmp_path, "val/spread") == [1.0, 2.0, 2.0, 7.0, 7.0]


class Steps(Hook):
    """Notes after which steps it is called, and whether the curves exist by then."""

    told: ClassVar[list] = []

    def __init__(self, name):
        self.name = name

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        curves = list(Path(runner.work_dir).glob("*/vis_data/scalars.json"))
        self.told.append((self.name, runner.iter, runner.max_iters, len(curves)))
        assert "student/loss" in outputs


def test_hooks_and_back_ends_for_curves_come_from_the_config(trained, tmp_path):
    config, board = tmp_path / "hooked.py", tmp_path / "board"
    config.write_text(
        trained.read_text()
        + "from tests.training.test_jobs import Steps\n"
        + "custom_hooks = [dict(type=Steps, name='late', priority='LOWEST'), dict(type=Steps, name='early')]\n"
        + f"vis_backends = [dict(type='TensorboardVisBackend', save_dir={str(board)!r})]\n"
    )
    Steps.told.clear()
    run(config, "distill", work_dir=tmp_path / "a", hooks=[Steps("handed in")])
    order = ("early", "handed in", "late")
    assert [(name, step) for name, step, *_ in Steps.told] == [
        (n, i) for i in (1, 2) for n in order
    ]
    assert {(steps, curves) for *_, steps, curves in Steps.told} == {(2, 1)}
    assert list(board.glob("events.out.tfevents.*")) and not list(tmp_path.glob("a/*/*/events.*"))
    assert len(curve(tmp_path / "a", "student/loss")) == points("student/loss", 1)
    run(trained, "distill", {"vis_backends": []}, work_dir=tmp_path / "b")
    assert curve(tmp_path / "b", "nfe") and not list(tmp_path.glob("b/*/*/events.*"))


@pytest.mark.parametrize("key", ["custom_hooks", "vis_backends"])
def test_a_hook_or_back_end_that_does_not_exist_is_named(trained, tmp_path, key):
    with pytest.raises(UserError, match="Nowhere"):
        run(trained, "distill", {key: [dict(type="Nowhere")]}, work_dir=tmp_path)


def test_a_run_is_neither_overwritten_nor_repeated(trained):
    file = trained.parent / "work" / "vae" / "vae.pth"
    before = ckpt.load(file)
    with pytest.raises(UserError, match="already holds a run .iter_3.pth.*--resume"):
        run(trained, "vae")
    run(trained, "vae", resume=True)  # finished: nothing is left to do
    after = ckpt.load(file)
    assert ckpt.fingerprint(before["model"]) == ckpt.fingerprint(after["model"])
    other = run(trained, "vae", work_dir=trained.parent / "other", seed=9)
    assert "was there before and is kept" in other.note
    kept = ckpt.load(trained.parent / "weights" / "vae.pth")
    assert ckpt.fingerprint(before["model"]) == ckpt.fingerprint(kept["model"])


def test_the_best_weights_are_handed_over_where_the_config_wants_them(trained, tmp_path):
    work = tmp_path / "vae"
    shutil.copytree(trained.parent / "work" / "vae", work)
    best = ckpt.load(work / "best.pth")
    best["model"]["latent_scale"] += 1  # the last ones may be the best ones as well
    ckpt.save(work / "best.pth", best)
    found = {}
    for which in ("last", "best"):
        place = tmp_path / f"{which}.pth"
        changes = {"train_vae.hand_over": which, "vae_checkpoint": str(place)}
        run(trained, "vae", changes, resume=True, work_dir=work)
        found[which] = ckpt.load(place)["model"]["latent_scale"]
    assert found["best"] == best["model"]["latent_scale"]
    assert found["last"] == ckpt.load(work / "vae.pth")["model"]["latent_scale"] != found["best"]
    with pytest.raises(UserError, match="hand_over is 'first'.*last.*best"):
        run(trained, "vae", {"train_vae.hand_over": "first"}, work_dir=tmp_path / "new")


def test_what_does_not_belong_together_is_refused(trained, tmp_path):
    other = ckpt.load(trained.parent / "weights" / "vae.pth")
    other["model"]["latent_scale"] += 1
    ckpt.save(tmp_path / "vae.pth", other)
    swap = {"vae_checkpoint": f"{tmp_path}/vae.pth"}
    with pytest.raises(UserError, match="was trained on the latents of VAE .*train the teacher"):
        run(trained, "distill", swap, work_dir=tmp_path / "w")
    with pytest.raises(UserError, match="another architecture"):
        run(trained, "teacher", {"vae.channels": 6}, work_dir=tmp_path / "w")


def test_too_little_memory_while_training_is_told_what_helps(config, tmp_path):
    class Full(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(UserError, match="too little memory .*train_vae.batch_size.*--resume"):
        run(config, "vae", work_dir=tmp_path, hooks=[Full()])


def test_what_is_computed_once_lies_with_the_data(config, tmp_path, monkeypatch):
    root = Path(load_config(config).data.dataroot)
    changes = {"work_dir": str(tmp_path)}
    assert cache_folder(load_config(config, changes)) == root / ".occdistill" / "cache"
    asked = []
    monkeypatch.setattr("os.access", lambda path, how: asked.append(path))
    assert cache_folder(load_config(config, changes)) == tmp_path / "cache"
    assert asked[0] in (root / ".occdistill", root)
    elsewhere = {"data.dataroot": str(tmp_path), **changes}
    assert cache_folder(load_config(config, elsewhere)) == tmp_path / "cache"
    assert asked[1:] == [tmp_path]  # where the folder would be made
    wanted = {"cache_dir": str(tmp_path / "mine"), **changes}
    assert cache_folder(load_config(config, wanted)) == tmp_path / "mine"


def test_what_is_missing_is_named_with_the_command_that_brings_it(config, tmp_path):
    missing = {"vae_checkpoint": f"{tmp_path}/no.pth"}
    with pytest.raises(UserError, match=r"no vae weights at .*no.pth; train the VAE"):
        run(config, "teacher", missing, work_dir=tmp_path)
    nowhere = {"data.dataroot": f"{tmp_path}/nowhere"}
    with pytest.raises(UserError, match=r"no data at .*nowhere; make a world"):
        run(config, "vae", nowhere, work_dir=tmp_path)
    with pytest.raises(UserError, match="needs torchrun"):
        run(config, "vae", work_dir=tmp_path, launcher="pytorch")
    with pytest.raises(UserError, match="tiny.py has no train_light: .*add"):
        run(config, "light", work_dir=tmp_path)
    with pytest.raises(
        UserError, match=r"has no train_vae: make .*train_vae.py configs/demo_train.py"
    ):
        train(load_config("configs/demo.py"), "vae", work_dir=tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU for --device cuda"):
            run(config, "vae", device="cuda")


def test_tools_exit_with_one_sentence(config, tmp_path):
    missing = ("--cfg-options", f"vae_checkpoint={tmp_path}/no.pth")
    done = tool("train_mfd", config, "--work-dir", tmp_path, *missing)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no vae weights at") and done.stderr.count("\n") == 1
