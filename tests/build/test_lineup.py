"""The line-up of a config: who is in it, and that nothing is loaded or compiled twice."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_light,
    build_light_network,
    build_network,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.errors import UserError
from occdistill.runtime import backends

CONFIG = """
from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot="nowhere", version="none", train_split="train", val_split="val", past=2, future=2,
    crop=12.8, coarsen=4,
)
vae = dict(type=VAE, grid_shape=(16, 16, 4), channels=4, width=(8,), blocks=(0,), decoder_width=8)
network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 8, 8), past=2, future=2, align=1, trajectory=4, width=16,
    blocks=(1, 1),
)
conditioning = dict(kind="gt", align=(0,))
guidance = 2.0
vae_checkpoint = {folder!r} + "/vae.pth"
teacher_checkpoint = {folder!r} + "/teacher.pth"
light_decoder = dict(type=LightDecoder, width=(8,), blocks=(1,))
light_encoder = dict(type=LightEncoder, width=(8,), blocks=(1,))
light_checkpoint = {folder!r} + "/light.pth"
light_network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 8, 8), past=2, future=2, align=1, trajectory=4, width=8,
    blocks=(1, 1),
)
light_network_checkpoint = {folder!r} + "/light_network.pth"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lineup")
    (folder / "config.py").write_text(CONFIG.format(folder=str(folder)))
    config = load_config(folder / "config.py")
    torch.manual_seed(0)
    vae = build_vae(config, weights=False)
    marks = {"vae": checkpoints.fingerprint(vae.state_dict()), "data": "0123456789ab"}
    light = build_light(config, vae, weights=False)
    nets = {"vae": vae, "light": light, "teacher": build_network(config)}
    students = {"student": build_network(config), "light_network": build_light_network(config)}
    for name, net in {**nets, **students}.items():
        kind = "distill" if name in students else name
        state = {"kind": kind, "model": net.state_dict(), "fingerprints": marks}
        checkpoints.save(folder / f"{name}.pth", state)
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Files as they are loaded, and stages as they are compiled: at their first call."""
    loads, compiled = Counter(), Counter()
    load, build = checkpoints.load, backends.build

    def watched_load(path, *arguments, **options):
        loads[Path(path).stem] += 1
        return load(path, *arguments, **options)

    def watched_build(backend, stage, *rest):
        function, made = build(backend, stage, *rest), []

        def run(*tensors):
            if not made:
                made.append(True)
                compiled[type(stage).__name__, stage.dtype, backend] += 1
            return function(*tensors)

        return run

    monkeypatch.setattr(checkpoints, "load", watched_load)
    monkeypatch.setattr(backends, "build", watched_build)
    return loads, compiled


def forecast(entries):
    past = torch.full((1, 2, 16, 16, 4), 17, dtype=torch.uint8)
    past[..., :3, :, 1] = 11
    poses = torch.eye(4).repeat(1, 4, 1, 1)
    return {
        entry.name: entry.forecaster(past, poses, generator=torch.Generator().manual_seed(0))
        for entry in entries
    }


def test_every_network_is_loaded_once_and_every_kernel_compiled_once(folder, counted):
    loads, compiled = counted
    both = ("full", "light")
    entries = lineup(
        Models(load_config(folder / "config.py")), folder / "student.pth", (10, 2, 1), (1, 2),
        decoders=both, encoders=both,
    )  # fmt: skip
    assert len(forecast(entries)) == len(entries) == (3 + 2) * 4
    assert loads == dict.fromkeys(("vae", "light", "teacher", "student"), 1)
    once = dict.fromkeys(("Encode", "Decode", "Velocity"), 2)  # full and light; teacher and student
    assert compiled == {(name, torch.float32, "eager"): times for name, times in once.items()}


def test_the_light_network_is_a_student_of_its_own(folder, counted):
    loads, compiled = counted
    models, both = Models(load_config(folder / "config.py")), ("full", "light")
    entries = lineup(models, folder / "student.pth", (1,), (1, 2), networks=both)
    names = ["teacher@1", "student@1", "student@2"]
    assert list(forecast(entries)) == [
        *names, "student, light network@1", "student, light network@2",
    ]  # fmt: skip
    assert loads["light_network"] == 1 and compiled["Velocity", torch.float32, "eager"] == 3
    assert len({entry.checkpoint for entry in entries}) == 3
    (alone,) = lineup(models, folder / "student.pth", (), networks=("light",))
    assert models.network(models.light_network).conv_out.in_channels == 8
    assert (alone.network, alone.forecaster.guidance) == ("light", None)
    # named as a checkpoint, its weights say which of the two networks they are
    (named,) = lineup(models, folder / "light_network.pth", ())
    assert torch.equal(*(forecast([e])[e.name] for e in (named, alone)))


def test_a_light_network_that_is_not_there_is_told(folder):
    config = load_config(folder / "config.py", {"advice.light_network": "distil one"})
    config.light_network_checkpoint = str(folder / "none.pth")
    with pytest.raises(UserError, match="no light_network weights at .*none.pth; distil one"):
        lineup(Models(config), None, (), networks=("light",))
    config.light_network_checkpoint = str(folder / "teacher.pth")
    with pytest.raises(UserError, match="holds a teacher, not a distill"):
        lineup(Models(config), None, (), networks=("light",))
    config.pop("light_network")
    with pytest.raises(UserError, match="no light network: add light_network=dict"):
        lineup(Models(config), None, (), networks=("light",))


def test_another_back_end_or_precision_shares_weights_but_no_kernel(folder, counted):
    loads, compiled = counted
    models = Models(load_config(folder / "config.py"))
    for options in ({}, {"backend": "plain"}, {"dtype": torch.bfloat16}):
        forecast(lineup(models, folder / "student.pth", (), **options))
    assert loads["student"] == loads["vae"] == 1
    assert compiled["Velocity", torch.float32, "eager"] == 1
    assert compiled["Velocity", torch.float32, "plain"] == 1
    assert compiled["Velocity", torch.bfloat16, "eager"] == 1


def test_shared_forecasters_forecast_as_those_made_alone(folder):
    config, both = load_config(folder / "config.py"), ("full", "light")
    shared = lineup(
        Models(config), folder / "student.pth", (2, 1), decoders=both, encoders=both
    )  # fmt: skip
    together = forecast(shared)
    for entry in shared:
        only = dict(decoders=[entry.decoder], encoders=[entry.encoder])
        if entry.model == "teacher":
            alone = lineup(Models(config), None, (entry.forecaster.nfe,), **only)
        else:
            alone = lineup(Models(config), folder / "student.pth", (), **only)
        assert torch.equal(forecast(alone)[entry.name], together[entry.name])
    parts = {entry.name: together[entry.name] for entry in shared if entry.model == "student"}
    assert len(parts) == 4
    assert len({tuple(x.flatten().tolist()) for x in parts.values()}) > 1  # they do swap


def test_who_is_in_a_line_up(folder):
    models = Models(load_config(folder / "config.py"))
    entries = lineup(models, folder / "student.pth", (10, 1), decoders=["light"])
    assert [e.name for e in entries] == [
        "teacher, light decoder@10", "teacher, light decoder@1", "student, light decoder@1",
    ]  # fmt: skip
    assert [e.forecaster.guidance for e in entries] == [2.0, 2.0, None]
    assert entries[2].cache == "0123456789ab" and entries[2].checkpoint != entries[0].checkpoint
    again = lineup(models, folder / "teacher.pth", ())
    assert [e.name for e in again] == [f"checkpoint@{nfe}" for nfe in (10, 5, 2, 1)]
    assert {e.forecaster.guidance for e in again} == {2.0}
    (other,) = lineup(models, folder / "student.pth", (), (3,), guidance=1.5, name="mine")
    assert (other.name, other.forecaster.guidance) == ("mine@3", 1.5)


def test_what_a_line_up_refuses(folder):
    models = Models(load_config(folder / "config.py"))
    with pytest.raises(
        UserError, match="vae.pth holds a vae, not a teacher or a distilled student"
    ):
        lineup(models, folder / "vae.pth", ())
    with pytest.raises(UserError, match="the encoder is full or light or lidar, not lite"):
        lineup(models, None, (1,), encoders=["lite"])
    with pytest.raises(UserError, match="no LiDAR encoder"):
        lineup(models, None, (1,), encoders=["lidar"])


def test_fresh_networks_need_no_files(folder):
    gone = {f"{name}_checkpoint": "nowhere.pth" for name in ("vae", "teacher", "light")}
    models = Models.of_what_is_there(load_config(folder / "config.py", gone))
    assert models.forecaster(None, 2, 2.0, "light", "light").nfe == 2
    there = Models.of_what_is_there(load_config(folder / "config.py"))
    saved = checkpoints.load(folder / "light.pth")["model"]
    assert all(torch.equal(saved[key], x) for key, x in there.light.state_dict().items())
    half = load_config(folder / "config.py", {"light_checkpoint": "nowhere.pth"})
    assert Models.of_what_is_there(half).fresh == {"light"}
