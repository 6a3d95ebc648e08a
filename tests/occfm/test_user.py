"""A user's first day on a CPU, from a published file to a picture, with the tools as commands.

`make full-size` plays it at 200×200×16 with OccFM's networks, whose weights are drawn by the golden
files' rule: about 40 TFLOP. Nothing is claimed of what is forecast, but that each command ends well,
leaves what the next one needs, and takes no more than its minutes on two idle cores. Those are held
against CPU time, which other people's programs on the machine don't lengthen so much.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from occdistill import checkpoint as ckpt
from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.build.builders import build_network, build_vae
from occdistill.build.config import load_config
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.occfm.golden import fill
from occdistill.world import VERSION, make_world
from tests.occfm.published import published_file

ROOT = Path(__file__).parents[2]
CORES = 2
SMALL = """
from mmengine.config import read_base
from occdistill.autoencoder.vae import VAE

with read_base():
    from .nus import *

data.update(crop=12.8, coarsen=4)
vae = dict(
    type=VAE, grid_shape=(16, 16, 4), channels=4, embedding=2, width=(8, 8), blocks=(1, 1),
    decoder_width=8,
)
network.update(latent_shape=(4, 4, 4), width=8)
"""
# updates of a clip each, with as few Euler steps as there can be
SHORT = (
    "method.ratio=1", "method.ode_step=0.5", "sampler.steps=2", "train_distill.iterations=200",
    "train_distill.batch_size=1", "train_distill.checkpoint_interval=1",
    "train_distill.val_interval=100", "train_distill.val_clips=1",
)  # fmt: skip


class User:
    """Runs tools in a folder, with a limit of minutes on two idle cores for each."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config = folder, config
        world, place = folder / "world", {"vae_checkpoint": "vae", "teacher_checkpoint": "teacher"}
        make_world(world, scenes=1, val_scenes=1, seed=3, keyframes=15, workers=1)
        options = {"data.dataroot": world, "data.version": VERSION, "work_dir": folder / "work"}
        options |= {key: folder / "weights" / f"{name}.pth" for key, name in place.items()}
        given = (f"{key}={value}" for key, value in options.items())
        self.options = ["--device", "cpu", "--cfg-options", *given, *SHORT]
        self.student = folder / "work" / "mfd" / "student.pth"

    def start(self, tool: str, *arguments) -> subprocess.Popen:
        """A tool as a command of its own; its output goes to the terminal, or to pytest."""
        command = [sys.executable, ROOT / "tools" / f"{tool}.py", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
        return subprocess.Popen([str(part) for part in command], cwd=self.folder, env=environment)

    def run(self, minutes: float, tool: str, *arguments) -> None:
        """A tool to its end."""

        def ends_well() -> None:
            assert self.start(tool, *arguments).wait() == 0

        self.within(minutes, tool, ends_well)

    def with_config(
        self, minutes: float, tool: str, *arguments, more: tuple[str, ...] = ()
    ) -> None:
        """One that takes the config, with `more` changes to it."""
        self.run(minutes, tool, self.config, *arguments, *self.options, *more)

    def within(self, minutes: float, what: str, function) -> None:
        """Call it, and hold it to its limit."""
        before, started = _cpu_seconds(), time.monotonic()
        function()
        used, passed = _cpu_seconds() - before, time.monotonic() - started
        print(
            f"{what}: {used / 60:.1f} CPU minutes, {passed / 60:.1f} on the clock; {minutes} allowed"
        )
        assert used < 60 * CORES * minutes

    def killed_after_an_update(self) -> None:
        """A training that is killed as soon as there is a file to go on from."""
        training = self.start("train_mfd", self.config, *self.options)
        while not ckpt.step_files(self.student.parent):
            assert training.poll() is None
            time.sleep(0.05)
        training.send_signal(signal.SIGKILL)
        assert training.wait() == -signal.SIGKILL and not self.student.exists()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plays(user: User) -> None:
    """All that follows the weights."""
    work = user.folder / "work"
    user.within(6, "train_mfd, which encodes, until it is killed", user.killed_after_an_update)
    before = ckpt.load(ckpt.step_files(user.student.parent)[-1])
    last = before["meta"]["step"] + 1
    user.with_config(6, "train_mfd", "--resume", more=(f"train_distill.iterations={last}",))
    after = ckpt.load(user.student.parent / f"iter_{last}.pth")
    moved = (not torch.equal(before["model"][key], after["model"][key]) for key in after["model"])
    assert any(moved) and after["meta"]["nfe"] > before["meta"]["nfe"] > 0

    clip = ("--limit-clips", 1, "--repeats", 0)
    protocols = ("occdistill", "occfm", "i2world")
    rows = ("--rows", "student", "ego-warp-carried", "ceiling", "--protocol", *protocols)
    user.with_config(4, "test", user.student, *rows, *clip)
    report = json.loads((work / "report.json").read_text())["rows"]
    assert [row["protocol"] for row in report[::3]] == list(protocols)
    assert all(0 <= row["mIoU"]["avg@all"] <= 100 and row["clips"] == 1 for row in report)

    once = ("--nfe", 1, "--repeats", 1, "--warmup", 0, "--check", 0)
    user.with_config(4, "benchmark", user.student, *once)
    timed = json.loads((work / "benchmark.json").read_text())["rows"]
    assert {row["model"] for row in timed} == {"teacher", "student"}

    # six frames fill the past, the sixth and two more are forecast from
    live = ("--rate", 0.2, "--frames", 8, "--queue", 8)
    user.with_config(5, "realtime", user.student, *live)
    assert json.loads((work / "realtime.json").read_text())["frames"]["forecasts"] == 3

    picture = user.folder / "forecast.png"
    drawn = ("--nfe", "--style", "bev", "--out", picture)
    user.with_config(3, "visualize", user.student, *drawn)
    assert min(Image.open(picture).size) > 200


@pytest.mark.slow
def test_a_first_day_at_full_size(tmp_path):
    user = User(tmp_path, ROOT / "configs" / "nus.py")
    networks = (OccFMVAE(), OccFMTransition(trajectory_length=12))
    file = published_file(tmp_path / "published.ckpt", *(fill(net, 0) for net in networks))
    weights = ("weights", file, "--weights", "plain", "--out", tmp_path / "weights")
    user.run(1, "import_occfm", *weights)
    plays(user)


@pytest.mark.slow
def test_a_first_day_in_small(tmp_path):
    """The same commands on networks of the same kind that take seconds."""
    path = Path(shutil.copytree(ROOT / "configs", tmp_path / "configs")) / "small.py"
    path.write_text(SMALL)
    user, config = User(tmp_path, path), load_config(path)
    torch.manual_seed(0)
    nets = {"vae": build_vae(config, weights=False), "teacher": build_network(config)}
    for kind, net in nets.items():
        content = {"kind": kind, "model": net.state_dict(), "fingerprints": {}}
        ckpt.save(tmp_path / "weights" / f"{kind}.pth", content)
    plays(user)
