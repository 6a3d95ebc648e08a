"""Our networks against outputs of the original ones. The whole comparison is marked slow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill.occfm import golden as rule
from occdistill.occfm.golden import PARTS, compare_part, compared, occupancy

GOLDEN = Path(__file__).with_name("golden_seed0.npz")


def test_rule_draws_the_documented_numbers():
    first = rule.weight(0, "embedding.class_embeds.weight", (18, 8))
    assert np.allclose(first.flatten()[:3], [-0.5990087, -0.8546905, 1.3989477])
    assert float(first.double().sum()) == pytest.approx(-5.50451, abs=1e-5)
    gamma = rule.weight(0, "transition_model.init_temporal_attn.fn.norm.gamma", (1, 64, 1, 1, 1))
    assert float(gamma.double().sum()) == pytest.approx(65.69293, abs=1e-5)
    bias = rule.weight(0, "encoder.net_blocks.0.blocks.0.attn.q_bias", (128,))
    assert np.allclose(bias[:3], [0.0080820, -0.0129762, 0.0242666])
    latent = rule.normal(0, "latent", 2, 12, 16, 50, 50)
    assert float(latent.double().sum()) == pytest.approx(657.32216, abs=1e-4)


def test_rule_draws_the_golden_grids(golden):
    grids = np.stack([occupancy(0, 0), occupancy(0, 1)])
    assert np.array_equal(np.bincount(grids.ravel(), minlength=18), golden["occ_hist"])


@torch.no_grad()
def test_autoencoder_on_one_frame(golden, vae):
    posterior = vae.encode(torch.from_numpy(occupancy(0, 0))[None])
    assert compared("enc_mu", posterior.mean.numpy(), golden["enc_mu"][:1]).passed
    assert compared("enc_sigma", posterior.std.numpy(), golden["enc_sigma"][:1]).passed
    z = rule.normal(0, "z", 2, 16, 50, 50)[:1]
    features = vae.features(z)
    logits = features[:, 3::11, 5::11] @ vae.embedding.classes.weight.T
    assert compared("dec_logits_sub", logits.numpy(), golden["dec_logits_sub"][:1]).passed


@torch.no_grad()
def test_transition_on_one_window(golden, transition):
    x, t, drive = rule.window(0, "cpu")
    v = transition.velocity(x[:1], t[:1], drive[:1])[..., 2::5, 1::5]
    assert compared("trans_traj_sub", v.numpy(), golden["trans_traj_sub"][:1]).passed


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_array(part, golden):
    rows = compare_part(part, 0, golden)
    assert [row for row in rows if not row.passed] == []
    assert len(rows) == {"vae": 12, "transition": 3, "future": 2, "sampler": 5}[part]


def test_a_wrong_array_does_not_pass():
    golden = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    assert compared("x", golden + np.float32(1e-5), golden).passed
    assert not compared("x", golden + np.float32(1e-4), golden).passed  # rms
    spike = golden.copy()
    spike[0, 0] += 3e-4
    assert not compared("x", spike, golden).passed
    assert not compared("x", golden[:3], golden).passed


def test_classes_may_differ_in_one_voxel_of_ten_thousand():
    classes = np.zeros(20_000, np.uint8)
    other = classes.copy()
    other[:2] = 1
    assert compared("classes", other, classes).passed
    other[:3] = 1
    assert not compared("classes", other, classes).passed


def test_tool_exits_with_one_sentence(tmp_path):
    tool = Path(__file__).parents[2] / "tools" / "check_occfm.py"
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    for path, sentence in (
        ("b.npz", "no golden file at b.npz"),
        ("a.npz", "truncated or no golden file"),
    ):
        command = [sys.executable, tool, "--golden", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 2
        assert sentence in done.stderr and done.stderr.count("\n") == 1
