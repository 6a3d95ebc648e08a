"""Training the LiDAR encoder, from config to a forecaster that uses it."""

import importlib.util

import numpy as np
import pytest
import torch

from occdistill import checkpoint as ckpt
from occdistill.autoencoder.vae import VAE
from occdistill.build.builders import build_lidar_encoder, build_vae
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE, Grid, GridTransform
from occdistill.data.poses import invert
from occdistill.data.resample import warp
from occdistill.errors import UserError
from occdistill.flow.path import Draws
from occdistill.training.lidar_encoder import (
    LidarEncoding,
    LidarFrames,
    LidarScore,
    seen_from_later,
)
from occdistill.training.train import train

needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="spconv is not installed"
)
CONFIG = """
from occdistill.autoencoder.sparse import SparseEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.flow.networks.small import SpaceTimeUNet

data = dict(
    dataroot={world!r}, version="v1.0-synthetic", train_split="train", val_split="val",
    past=2, future=2, crop=12.8, coarsen=4, past_from="lidar",
)
vae = dict(
    type=VAE, grid_shape=(16, 16, 4), channels=4, embedding=2, width=(8,), blocks=(1,),
    decoder_width=8,
)
network = dict(
    type=SpaceTimeUNet, latent_shape=(4, 8, 8), past=2, future=2, align=1, trajectory=4, width=16,
    blocks=(1, 1), heads=2,
)
conditioning = dict(kind="gt", align=(1,))
guidance = 2.0
sampler = dict(steps=2, shift=3.0)
vae_checkpoint = {out!r} + "/vae.pth"
teacher_checkpoint = {out!r} + "/teacher.pth"
lidar_encoder = dict(type=SparseEncoder, width=(8, 8), head=(8, 16), blocks=1)
lidar_encoder_checkpoint = {out!r} + "/lidar_encoder.pth"
train_lidar_encoder = dict(
    iterations=40, batch_size=8, lr=1e-2, warmup=2, clip=1.0, ema=0.5, val_clips=2,
    log_interval=1, cross_entropy_weight=0.1, class_balance=0.25,
)
advice = dict(lidar_encoder="train the LiDAR encoder")
work_dir = {out!r} + "/work"
"""


@pytest.fixture(scope="module")
def clips(tiny_world):
    transform = GridTransform(12.8, 4)
    return ClipDataset(
        tiny_world, "v1.0-synthetic", "train", 2, 2, transform=transform, past_from="lidar"
    )


@pytest.fixture(scope="module")
def frames(clips, tmp_path_factory):
    return LidarFrames(clips, tmp_path_factory.mktemp("cache"), ahead=3)


@pytest.fixture(scope="module")
def config(tiny_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    path = out / "tiny.py"
    path.write_text(CONFIG.format(world=str(tiny_world), out=str(out)))
    config = load_config(path)
    torch.manual_seed(0)
    ckpt.save(out / "vae.pth", {"kind": "vae", "model": build_vae(config, False).state_dict()})
    return path


def test_frames_hold_lidar_labels_and_where_the_ego_goes(clips, frames):
    assert len(frames) == sum(len(scene.keyframes) for scene in clips.scenes)
    item, scene = frames[14], clips.scenes[1]  # the third keyframe of the second scene
    assert (item["lidar"].numpy() == clips.reader.past(scene, 2, 3)[0]).all()
    assert (item["labels"].numpy() == clips.reader.labels(scene.keyframes[2])[0]).all()
    assert (item["lidar"] != FREE).sum() < (item["labels"] != FREE).sum()
    to_global = [frame.ego_to_global for frame in scene.keyframes]
    assert np.allclose(item["poses"][3], invert(to_global[2]) @ to_global[5], atol=1e-4)
    last = frames[23]["poses"]  # the scene's last keyframe: it goes nowhere
    assert torch.allclose(last, torch.eye(4), atol=1e-5)


class Identity:
    """A VAE whose latents are the voxels themselves."""

    scale = 2.0

    def encode(self, voxels):
        return VAEMean(voxels.float())


class VAEMean:
    def __init__(self, mean):
        self.mean = mean


def test_half_are_mirrored_and_most_are_seen_from_later(frames):
    grid = GridTransform(12.8, 4).grid
    item = frames[14]
    many = {k: torch.stack([item[k]] * 64) for k in ("lidar", "labels", "poses")}
    batch = seen_from_later(Identity(), grid, plain=0.25)(many, Draws(range(64)))
    assert torch.equal(batch.latents, 2 * batch.labels.float())
    known = {}
    for k, pose in enumerate(item["poses"]):
        seen = [warp(item[name][None], pose[None], grid)[0] for name in ("lidar", "labels")]
        for mirror in (False, True):
            known[k, mirror] = [x.flip(1) if mirror else x for x in seen]
    counts = dict.fromkeys(known, 0)
    for lidar, labels in zip(batch.lidar, batch.labels):
        (which,) = (
            k for k, v in known.items() if torch.equal(lidar, v[0]) and torch.equal(labels, v[1])
        )
        counts[which] += 1
    assert min(counts.values()) >= 2  # each of the eight ways
    assert 6 <= counts[0, False] + counts[0, True] <= 28  # a quarter of 64
    assert 20 <= sum(n for (_, mirror), n in counts.items() if mirror) <= 44


def test_nothing_is_warped_for_models_that_align_by_themselves(frames):
    items = {k: v[None] for k, v in frames[0].items() if k != "index"} | {
        "poses": frames[0]["poses"][None, :1]
    }
    batch = seen_from_later(Identity(), Grid((16, 16, 4), 1.6, (-12.8, -12.8, -1.0)))(
        items, Draws([0])
    )
    ways = [frames[0]["lidar"], frames[0]["lidar"].flip(1)]
    assert any(torch.equal(batch.lidar[0], way) for way in ways)


def test_the_scores_of_the_vae_itself_are_known(clips):
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(8,), blocks=(1,), decoder_width=8).eval()
    score = LidarScore(clips, vae, count=2)
    result = score(lambda voxels: vae.encode(voxels).mean)  # an encoder that is the VAE's
    assert result["mIoU"] == result["mIoU_vae"] == score.plain["mIoU"]
    assert result["mIoU_labels"] == score.dense["mIoU"]


def run(config, changes=None, **options):
    return train(load_config(config, changes), "lidar_encoder", **options)


@needs_spconv
def test_training_learns_and_leaves_what_a_forecaster_needs(config, monkeypatch):
    losses = []
    of_batch = LidarEncoding.lidar_encoder_loss

    def watched(self, batch, step):
        loss = of_batch(self, batch, step)
        losses.append(float(loss.logs["latent"]))
        return loss

    monkeypatch.setattr(LidarEncoding, "lidar_encoder_loss", watched)
    run(config)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    loaded = load_config(config)
    vae = build_vae(loaded)
    saved = ckpt.load(loaded.lidar_encoder_checkpoint, "lidar_encoder")
    assert saved["fingerprints"]["vae"] == ckpt.fingerprint(vae.state_dict())
    encoder = build_lidar_encoder(loaded, vae)
    assert float(encoder.latent_scale) == vae.scale
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(UserError, match="no teacher weights"):  # only that is missing
        Models(loaded).forecaster(encoder="lidar")
    other = build_vae(loaded, weights=False)
    with pytest.raises(UserError, match="distilled from VAE .* train the LiDAR encoder"):
        build_lidar_encoder(loaded, other)


def test_labels_are_no_lidar(config):
    with pytest.raises(UserError, match='set data.past_from="lidar"'):
        run(config, {"data.past_from": "occ3d"}, work_dir="none")


def test_a_config_without_a_lidar_encoder_says_so(config):
    loaded = load_config(config, {"lidar_encoder": None})
    with pytest.raises(UserError, match="no LiDAR encoder: add lidar_encoder"):
        build_lidar_encoder(loaded, build_vae(loaded))
