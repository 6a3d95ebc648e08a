"""Light parts: distilled from a VAE, then used in its place."""

import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.autoencoder.light import Light, LightDecoder, LightEncoder, Lightened, fold
from occdistill.autoencoder.vae import VAE
from occdistill.build.builders import build_network, build_vae
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.build.settings import LightSettings
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.training.light import (
    LightTraining,
    logit_moments,
    operations,
    pixel_logits,
    statement,
)
from occdistill.training.train import train
from occdistill.training.vae import VoxelBatch

CONFIG = """
from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=2, future=2, crop=12.8, coarsen=4,
)
vae = dict(
    type=VAE, grid_shape=(16, 16, 4), channels=4, embedding=2, width=(8, 16), blocks=(1, 1),
    decoder_width=16,
)
light_decoder = dict(type=LightDecoder, width=(4, 8), blocks=(0, 1))
light_encoder = dict(type=LightEncoder, width=(4, 8), blocks=(0, 1), embedding=2)
network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 4, 4), past=2, future=2, align=1, trajectory=4, width=16,
    blocks=(1, 1), heads=2,
)
conditioning = dict(kind="gt", align=(0,))
guidance = 2.0
sampler = dict(steps=2, shift=3.0)
vae_checkpoint = {out!r} + "/vae.pth"
light_checkpoint = {out!r} + "/light.pth"
train_light = dict(
    iterations=4, batch_size=4, lr=1e-3, ema=0.9, noise=0.3, class_balance=0.25, mirror=True,
    lovasz_voxels=512, val_clips=2, val_interval=2, checkpoint_interval=2,
)
advice = dict(vae="train the VAE", light="train the light parts")
work_dir = {out!r} + "/work"
"""


def run(config, **options):
    return train(load_config(config), "light", **options)


@pytest.fixture(scope="module")
def trained(tiny_world, tmp_path_factory):
    """The config after its light parts were distilled from a random VAE."""
    out = tmp_path_factory.mktemp("light")
    path = out / "tiny.py"
    path.write_text(CONFIG.format(world=str(tiny_world), out=str(out)))
    torch.manual_seed(0)
    vae = build_vae(load_config(path), weights=False)
    ckpt.save(out / "vae.pth", {"kind": "vae", "model": vae.state_dict()})
    run(path)
    return path


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_the_job_leaves_both_parts_beside_what_they_were_made_from(trained):
    state = ckpt.load(trained.parent / "light.pth", "light")
    vae = ckpt.load(trained.parent / "vae.pth")["model"]
    assert state["fingerprints"]["vae"] == ckpt.fingerprint(vae)
    assert {key.split(".")[0] for key in state["model"]} == {"decoder", "encoder"}
    assert {"mIoU", "mIoU_full", "mIoU_decoder", "mIoU_encoder"} <= state["meta"]["metrics"].keys()
    done = run(trained, resume=True)  # nothing is left to do but to say what was gained
    models = Models(load_config(trained))
    said = statement(operations(models.vae, models.light), done.metrics)
    assert "light decoder: " in said and "GFLOP for 6 frames" in said


def test_an_interrupted_run_ends_with_the_same_weights(trained, tmp_path):
    with pytest.raises(RuntimeError, match="killed"), pytest.MonkeyPatch.context() as patch:
        loss = LightTraining.light_loss

        def dies(self, batch, step):
            if step == 3:
                raise RuntimeError("killed")
            return loss(self, batch, step)

        patch.setattr(LightTraining, "light_loss", dies)
        run(trained, work_dir=tmp_path)
    assert [file.name for file in ckpt.step_files(tmp_path)] == ["iter_2.pth"]
    run(trained, work_dir=tmp_path, resume=True)
    whole = ckpt.load(trained.parent / "work" / "light" / "light.pth")["model"]
    assert same(ckpt.load(tmp_path / "light.pth")["model"], whole)


def test_a_forecaster_takes_the_parts_that_are_asked_for(trained, tmp_path):
    config = load_config(trained)
    models = Models(config)
    assert models.codec().vae is models.vae
    codec = models.codec(decoder="light")
    assert isinstance(codec.vae, Lightened) and codec.vae.encoder is None
    assert models.codec(encoder="light").vae.decoder is None
    student = tmp_path / "student.pth"
    weights = build_network(config).state_dict()
    marks = {"vae": models.vae_mark}
    ckpt.save(student, {"kind": "distill", "model": weights, "fingerprints": marks})
    forecaster = models.forecaster(student, decoder="light", encoder="light")
    past, poses = (
        torch.full((1, 2, 16, 16, 4), 17, dtype=torch.uint8),
        torch.eye(4).repeat(1, 4, 1, 1),
    )
    assert forecaster(past, poses).shape == (1, 2, 16, 16, 4)


def test_what_does_not_belong_together_is_refused(trained, tmp_path):
    config = load_config(trained)
    other = ckpt.load(trained.parent / "vae.pth")
    other["model"]["latent_scale"] += 1
    ckpt.save(tmp_path / "vae.pth", other)
    swapped = load_config(trained, {"vae_checkpoint": str(tmp_path / "vae.pth")})
    with pytest.raises(UserError, match="distilled from VAE .* not from .*: train the light parts"):
        Models(swapped).codec(decoder="light")
    missing = load_config(trained, {"light_checkpoint": str(tmp_path / "no.pth")})
    with pytest.raises(UserError, match="no light weights at .*no.pth; train the light parts"):
        Models(missing).codec(decoder="light")
    with pytest.raises(UserError, match="full or light, not small"):
        Models(config).codec(decoder="small")
    with pytest.raises(UserError, match="light_decoder.widht; did you mean light_decoder.width"):
        load_config(trained, {"light_decoder.widht": (4,)})
    config.pop("light_decoder"), config.pop("light_encoder")
    with pytest.raises(UserError, match="no light parts: add light_decoder"):
        Models(config).codec(decoder="light")


def street(count):
    torch.manual_seed(1)
    voxels = torch.full((count, 16, 16, 4), 17, dtype=torch.uint8)
    voxels[..., 0] = 11
    for one in voxels:
        x, y = torch.randint(0, 12, (2,))
        one[x : x + 4, y : y + 4, 1:3] = 4
    return voxels


def test_distilling_brings_the_parts_closer_to_the_full_ones():
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(8, 16), blocks=(1, 1), decoder_width=16)
    shapes = dict(latent_shape=vae.latent_shape, grid_shape=vae.grid_shape)
    light = Light(
        LightDecoder(**shapes, width=(8, 16), blocks=(0, 1)),
        LightEncoder(**shapes, width=(8, 16), blocks=(0, 1)),
    )
    voxels = street(8)
    settings = LightSettings(iterations=40, batch_size=8, noise=0.2, lovasz_weight=0.0)
    task = LightTraining(vae, light, voxels, settings)

    def disagreement():
        z = vae.encode(voxels).mean
        return float((light.decoder.decode(z) != vae.decode(z)).float().mean())

    before, logs = disagreement(), []
    optimiser = torch.optim.Adam(light.parameters(), lr=1e-2)
    for step in range(40):
        optimiser.zero_grad()
        loss = task.losses("light", VoxelBatch(voxels, Draws(range(8 * step, 8 * step + 8))), step)
        loss.total.backward()
        optimiser.step()
        logs.append(loss.logs)
    assert disagreement() < 0.9 * before  # a random VAE decodes to noise, which is hard to learn
    assert set(logs[0]) == {"divergence", "lovasz", "features", "latent"}
    for part in ("divergence", "features", "latent"):
        assert logs[-1][part] < 0.8 * logs[0][part]
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_the_statement_says_what_is_gained_and_lost():
    score = {"mIoU_full": 94.0, "mIoU_decoder": 93.8}
    said = statement({"decoder": (393_000_000_000, 46_000_000_000)}, score)
    assert "393 -> 46 GFLOP for 6 frames (8.5x fewer)" in said and "(0.20 lost)" in said


def test_a_head_as_wide_as_the_logits_vary_starts_as_the_frozen_one():
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(8, 16), blocks=(1, 1), decoder_width=16)
    decoder = LightDecoder(vae.latent_shape, vae.grid_shape, width=(16, 8), blocks=(0, 0))
    voxels = street(6)
    mean, covariance = logit_moments(vae, decoder, voxels, batch_size=4)
    components = decoder.start_from(mean, covariance)
    z = vae.encode(voxels).mean
    logits = pixel_logits(vae, decoder, z)
    features = (logits.flatten(1) - mean.float()) @ components  # 16 channels made the logits
    torch.testing.assert_close(features.std(0), torch.ones(16), rtol=0.05, atol=0.05)
    torch.testing.assert_close(decoder.classes(features), logits, rtol=1e-3, atol=1e-3)
    folded = fold(vae.decode(z))
    assert torch.equal(decoder.unfold(folded), vae.decode(z))
    assert torch.equal(folded.flatten(0, 2).long(), logits.argmax(1))
