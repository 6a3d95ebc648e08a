"""A light network: made of a student's channels, regressed on its samples, finished by MFD."""

import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.build.builders import build_network, build_vae
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.distill.mfd import MFD
from occdistill.distill.regression import Regression
from occdistill.training.distill import load_with_method
from occdistill.training.train import train
from tests.training.curves import curve
from tests.training.test_jobs import CONFIG

LIGHT = """
light_network = dict(network, width=8)
light_network_checkpoint = {out!r} + "/mfd/student.pth"
student_checkpoint = None
"""


@pytest.fixture(scope="module")
def folder(tiny_world, tmp_path_factory):
    """A config, and weights of its VAE, teacher and student that nobody has trained."""
    out = tmp_path_factory.mktemp("light-network")
    path = out / "tiny.py"
    path.write_text((CONFIG + LIGHT).format(world=str(tiny_world), out=str(out)))
    config = load_config(path)
    torch.manual_seed(0)
    vae = build_vae(config, weights=False)
    marks = {"vae": ckpt.fingerprint(vae.state_dict())}
    (out / "weights").mkdir()
    ckpt.save(out / "weights" / "vae.pth", {"kind": "vae", "model": vae.state_dict()})
    for name, kind in (("teacher", "teacher"), ("student", "distill")):
        network = build_network(config)
        for layer in (network.conv_out, *(b.conv2 for b in network.middle if hasattr(b, "conv2"))):
            torch.nn.init.normal_(layer.weight, std=0.1)
        state = {"kind": kind, "model": network.state_dict(), "fingerprints": marks}
        ckpt.save(out / "weights" / f"{name}.pth", state)
    return out


def run(folder, method, name, iterations=1, **changes):
    settings = dict(iterations=iterations, batch_size=8, lr=3e-3, warmup=1, log_interval=1)
    options = {f"train_distill.{key}": value for key, value in settings.items()}
    options |= changes
    config = load_with_method(folder / "tiny.py", method.__name__, options)
    return train(config, "distill", work_dir=folder / name, asked=options)


def test_from_the_students_samples_to_mfd_to_a_row_of_its_own(folder):
    student = folder / "weights" / "student.pth"
    first = {"student_network": "light", "method.steps": 1, "guidance": 1.0, "sampler.steps": 1}
    run(folder, Regression, "regression", 25, teacher_checkpoint=str(student), **first)
    gaps = curve(folder / "regression", "student/gap")
    assert gaps[-1] < 0.7 * gaps[0]  # it learns what one step of the student gives
    made = ckpt.load(folder / "regression" / "student.pth", "distill")
    assert made["model"]["conv_out.weight"].shape[1] == 8
    teacher = ckpt.fingerprint(ckpt.load(student)["model"])
    assert made["fingerprints"]["teacher"] == teacher

    more = {"method.ratio": 1, "method.ode_step": 0.5}
    regressed = str(folder / "regression" / "student.pth")
    run(folder, MFD, "mfd", student_checkpoint=regressed, **more)
    finished = ckpt.load(folder / "mfd" / "student.pth", "distill")
    assert finished["fingerprints"]["first student"] == ckpt.fingerprint(made["model"])
    assert finished["model"].keys() == made["model"].keys()  # MFD's student is the light network
    change = finished["model"]["conv_out.weight"] - made["model"]["conv_out.weight"]
    assert 0 < change.abs().max() < 0.01  # from where the regression left it

    models = Models(load_config(folder / "tiny.py"))
    entries = lineup(models, student, (), networks=("full", "light"))
    assert [e.name for e in entries] == ["student@1", "student, light network@1"]
