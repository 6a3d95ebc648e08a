"""A network told where the past lies in each future frame, from weights that weren't: to a student."""

import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.build.builders import (
    build_dataset,
    build_light,
    build_network,
    build_vae,
    started_network,
)
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.errors import UserError
from occdistill.training.job import cache_folder
from occdistill.training.train import train

CONFIG = """
from occdistill.autoencoder.light import LightEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.distill.mfd import MFD
from occdistill.flow.networks.occfm import OccFMTransition

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=3, future=2, crop=12.8, coarsen=4,
)
vae = dict(
    type=VAE, grid_shape=(16, 16, 4), channels=4, embedding=2, width=(8, 8), blocks=(1, 1),
    decoder_width=8,
)
light_encoder = dict(type=LightEncoder, width=(8, 8), blocks=(0, 1))
network = dict(
    type=OccFMTransition, latent_shape=(4, 4, 4), past=3, future=2, trajectory_length=5, width=8,
    align=1,
)
conditioning = dict(kind="gt", align=(0,), carry=True, aligned_by="light")
guidance = 2.0
sampler = dict(steps=2, shift=3.0)
method = dict(type=MFD, ratio=1, ode_step=0.5)
vae_checkpoint = {out!r} + "/vae.pth"
light_checkpoint = {out!r} + "/light.pth"
start_checkpoint = {out!r} + "/published.pth"
teacher_checkpoint = {out!r} + "/teacher.pth"
train_teacher = dict(iterations=2, batch_size=2, val_clips=1, lr=1e-2, warmup=1, moving_weight=5.0)
train_distill = dict(iterations=1, batch_size=2, val_clips=1)
work_dir = {out!r} + "/work"
"""
PLAIN = {
    "network.align": 0, "conditioning.align": (), "conditioning.carry": False,
    "conditioning.aligned_by": "full",
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny_world, tmp_path_factory):
    """What a user has before: autoencoder, light encoder, a teacher that takes no aligned frames."""
    out = tmp_path_factory.mktemp("aligned")
    path = out / "aligned.py"
    path.write_text(CONFIG.format(world=str(tiny_world), out=str(out)))
    config = load_config(path)
    torch.manual_seed(0)
    vae = build_vae(config, weights=False)
    vae.latent_scale.fill_(2.0)
    mark = {"vae": ckpt.fingerprint(vae.state_dict())}
    nets = {
        "vae": ("vae", vae),
        "light": ("light", build_light(config, vae, weights=False)),
        "published": ("teacher", build_network(load_config(path, PLAIN))),
    }
    for name, (kind, net) in nets.items():
        content = {"kind": kind, "model": net.state_dict(), "fingerprints": mark}
        ckpt.save(out / f"{name}.pth", content)
    return path


def forecast(models, **options):
    forecaster = models.forecaster(nfe=2, guidance=2.0, **options)
    clip = build_dataset(models.config, "val")[0]
    past, poses, drive = (clip[key][None] for key in ("past", "poses", "trajectory"))
    condition = forecaster.condition(past, poses, drive)
    noise = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return forecaster, condition, forecaster.generate(condition, noise)


def test_before_training_it_forecasts_what_the_published_one_does(config):
    published = str(config.parent / "published.pth")
    plain = Models(load_config(config, {**PLAIN, "teacher_checkpoint": published}))
    aligned = Models(load_config(config))
    aligned._networks["None"] = started_network(aligned.config).eval()
    (_, before, expected), (_, condition, found) = forecast(plain), forecast(aligned)
    assert torch.equal(found, expected) and condition.aligned.abs().max() > 0
    assert torch.equal(condition.past, before.past) and before.aligned is None


@pytest.mark.parametrize("backend", ["plain", "eager"])
def test_aligned_frames_are_the_light_encoders(config, backend):
    models = Models(load_config(config))
    models._networks["None"] = started_network(models.config).eval()
    _, condition, _ = forecast(models, backend=backend)
    clip = build_dataset(models.config, "val")[0]
    seen = models.codec().aligned_voxels(clip["past"][None], clip["poses"][None])[0, :, 0]
    with torch.no_grad():
        light, full = models.light.encoder(seen) * 2.0, models.vae.encode(seen).mean * 2.0
    torch.testing.assert_close(condition.aligned[0], light, rtol=1e-4, atol=1e-5)
    known = (clip[key][None] for key in ("past", "poses", "trajectory"))
    torch.testing.assert_close(models.codec().condition(*known).aligned[0], light)
    assert not torch.allclose(condition.aligned[0], full, atol=0.01)


def test_from_published_weights_to_a_teacher_and_a_student(config, tmp_path):
    loaded = load_config(config)
    teacher = ckpt.load(train(loaded, "teacher").weights)
    light = ckpt.fingerprint(Models(loaded).light.encoder.state_dict())
    assert teacher["fingerprints"]["aligner"] == light and "start" in teacher["fingerprints"]
    said = teacher["fingerprints"]["conditioning"]
    assert said == "3 past frames, gt, aligned 0, objects carried, by the light encoder"
    assert teacher["model"]["aligned_in.weight"].any()
    started = ckpt.load(config.parent / "published.pth")["model"]
    moved = (teacher["model"]["enter.weight"] - started["enter.weight"]).abs().max()
    assert 0 < moved < 0.1
    student = train(loaded, "distill").weights
    assert ckpt.load(student)["fingerprints"]["aligner"] == light
    assert Models(loaded).forecaster(student).nfe == 1

    other = ckpt.load(config.parent / "light.pth")
    other["model"]["encoder.classes.weight"] += 1
    ckpt.save(tmp_path / "light.pth", other)
    swapped = load_config(config, {"light_checkpoint": str(tmp_path / "light.pth")})
    with pytest.raises(UserError, match="student.pth was trained on aligned frames of light enc"):
        Models(swapped).forecaster(student)
    with pytest.raises(UserError, match="teacher.pth was trained on aligned frames of light enc"):
        train(swapped, "distill", work_dir=tmp_path)

    def caches(kind):
        return set(cache_folder(loaded).glob(f"latents-{kind}-*"))

    frames, clips = caches("frames"), caches("clips")
    fresh = ckpt.load(train(swapped, "teacher", work_dir=tmp_path).weights)
    assert fresh["fingerprints"]["aligner"] != light
    assert caches("frames") == frames and caches("clips") > clips  # its own, of the same frames


def test_what_it_cannot_start_from_is_a_sentence(config, tmp_path):
    missing = load_config(config, {"start_checkpoint": "no.pth", "advice": {"start": "import it"}})
    with pytest.raises(UserError, match="no start weights at no.pth; import it"):
        started_network(missing)
    state = ckpt.load(config.parent / "published.pth")
    ckpt.save(tmp_path / "a.pth", {**state, "fingerprints": {"vae": "0" * 12}})
    with pytest.raises(UserError, match="a.pth was trained on the latents of VAE 0000"):
        started_network(load_config(config, {"start_checkpoint": f"{tmp_path}/a.pth"}))
    del state["model"]["out.bias"]
    ckpt.save(tmp_path / "b.pth", state)
    with pytest.raises(UserError, match="b.pth .*no out.bias"):
        started_network(load_config(config, {"start_checkpoint": f"{tmp_path}/b.pth"}))
    none = load_config(config, {"light_encoder": None})
    with pytest.raises(UserError, match="no light parts|needs a light encoder"):
        Models(none).codec()
