from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occdistill.evaluation.measures.latent import (
    FeatureSet,
    LatentStatistics,
    frechet_distance,
    manifold_scores,
)


def test_frechet_of_two_normals_in_closed_form():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    mean = np.array([1.0, -2.0, 0.5])
    expected = (mean**2).sum() + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    assert frechet_distance(mean, a, np.zeros(3), b) == pytest.approx(expected)


def test_frechet_does_not_depend_on_the_axes_and_is_zero_on_itself():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    root_a, root_b = rng.normal(size=(2, 4, 4))
    a, b, mean = root_a @ root_a.T, root_b @ root_b.T, rng.normal(size=4)
    plain = frechet_distance(mean, a, np.zeros(4), b)
    turned = frechet_distance(
        rotation @ mean, rotation @ a @ rotation.T, np.zeros(4), rotation @ b @ rotation.T
    )
    assert turned == pytest.approx(plain)
    assert frechet_distance(mean, a, mean, a) == pytest.approx(0, abs=1e-9)


def test_running_moments_and_thinning():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(1000, 5)) + 7
    running = FeatureSet(keep=100)
    for part in np.array_split(features, 13):
        running.update(part)
    mean, cov = running.moments()
    np.testing.assert_allclose(mean, features.mean(0))
    np.testing.assert_allclose(cov, np.cov(features.T))
    assert 50 <= len(running.kept) <= 100
    np.testing.assert_allclose(running.kept, features[:: running.stride], rtol=1e-6)


def test_neighbourhoods_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])  # balls of radius 1 around each
    fake = np.array([[0.5], [0.6], [10.0], [10.5]])  # two inside, two far outside
    got = manifold_scores(real, fake, k=1)
    assert got["precision"] == 0.5
    assert got["density"] == pytest.approx((2 + 2) / (1 * 4))
    assert got["coverage"] == 0.5
    assert got["recall"] == 0  # balls of the fakes: 0.1 around the first two


def test_a_copy_of_reality_is_precise_and_covers_it():
    real = np.random.default_rng(2).normal(size=(50, 3))
    got = manifold_scores(real, real)
    assert got["precision"] == got["recall"] == got["coverage"] == 1
    collapsed = manifold_scores(real, np.repeat(real[:1], 50, 0) + 1e-9)
    assert collapsed["precision"] == 1 and collapsed["recall"] < 0.1  # one mode, no diversity


def test_statistics_of_a_codec(clips):
    def encode(voxels):
        return (voxels != 17).float().mean(-1)[:, None]  # one channel: how full a column is

    codec = SimpleNamespace(encode=encode)
    same, other = (LatentStatistics(codec, "abc", pool=2, keep=50) for _ in range(2))
    for i in range(len(clips)):
        future = clips[i]["future"]
        truth = same.features(future)
        assert truth.shape == (6, 4)
        same.update(truth, truth)
        other.update(other.features(torch.full_like(future, 17)), truth)
    result = same.result()
    assert result["extractor"] == "abc"
    assert result["frame"]["frechet"] == pytest.approx(0, abs=1e-9)
    assert result["frame"]["count"] == 6 * len(clips) and result["clip"]["dim"] == 24
    assert other.result()["frame"]["frechet"] > 0.01
    assert other.result()["frame"]["precision"] == 0
