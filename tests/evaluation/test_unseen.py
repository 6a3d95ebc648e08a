"""What the newest frame doesn't hold, against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from occdistill.data.occ3d import FREE, Grid
from occdistill.evaluation import unseen, votes

GRID = Grid((6, 4, 2), 0.5, (-1.5, -1.0, 0.0))


def ahead(metres):
    pose = torch.eye(4)
    pose[0, 3] = metres
    return pose


def test_who_drives_on_meets_what_lay_ahead_of_the_grid():
    found = unseen.outside(torch.stack([ahead(0.0), ahead(1.0), ahead(-0.5), ahead(9.0)]), GRID)
    columns = found[:, :, 0, 0].int().tolist()
    assert columns == [[0] * 6, [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [1] * 6]
    assert (found == found[:, :, :1, :1]).all() and found.shape == (4, 6, 4, 2)
    assert unseen.outside(ahead(1.0)[None, None], GRID).shape == (1, 1, 6, 4, 2)


# of two futures: filled by both, by one, by one, by none, by none; truth fills all but the fourth
SAMPLES = np.array([[[4, 4, FREE, FREE, FREE]], [[4, FREE, 4, FREE, FREE]]], np.uint8)
TRUTH = np.array([[4, 11, 4, FREE, 4]], np.uint8)
# what lies outside differs between the futures: m is 0, 1, 0, 2, 1
OUTSIDE = np.array([[[1, 1, 0, 1, 1]], [[1, 1, 1, 1, 0]]], bool)


def test_a_table_counts_votes_and_air_outside():
    found = unseen.table(SAMPLES, OUTSIDE, TRUTH)
    assert found.shape == (1, 3, 3, 2) and found.sum() == 5
    for n, m, came in ((2, 0, 1), (1, 1, 1), (1, 0, 1), (0, 2, 0), (0, 1, 1)):
        assert found[0, n, m, came] == 1
    alike = unseen.table(SAMPLES, OUTSIDE[:1], TRUTH)  # one plan for both: m is 0, 1, 0, 2, 2
    assert alike[0, 0, 2].tolist() == [1, 1] and alike[0, 1, 1, 1] == 1


def test_scores_by_hand():
    found = unseen.table(SAMPLES, OUTSIDE, TRUTH)[0]
    # p is 1, 0.7, 0.5, 0.4 and 0.2: one level of a half holds all but the first and the last
    assert unseen.brier(found, 0.4) == pytest.approx((0.3**2 + 0.5**2 + 0.4**2 + 0.8**2) / 5)
    gap = abs(0.3 + 0.5 - 0.4) + 0.8
    assert unseen.calibration_error(found, 0.4) == pytest.approx(gap / 4)
    # λ = Σ (y - n/K) m/K / Σ (m/K)²: excesses 1/2, 0 and 1 with m/K of 1/2, 1 and 1/2
    assert unseen.fit(found) == pytest.approx((0.25 + 0 + 0.5) / (0.25 + 1 + 0.25))
    least = unseen.brier(found, unseen.fit(found))
    assert least < min(unseen.brier(found, unseen.fit(found) + d) for d in (-0.02, 0.02))


def test_without_a_chance_votes_speak():
    rng = np.random.default_rng(0)
    samples = rng.choice(np.array([4, FREE], np.uint8), (5, 3, 400))
    truth, outside = (
        rng.choice(np.array([7, FREE], np.uint8), (3, 400)),
        rng.random((5, 3, 400)) < 0.3,
    )
    found, plain = unseen.table(samples, outside, truth), np.zeros((3, 6, 2), np.int64)
    for f in range(3):
        np.add.at(plain[f], ((samples[:, f] != FREE).sum(0), (truth[f] != FREE).astype(int)), 1)
    assert (found.sum(2) == plain).all()
    for ours, theirs in (
        (unseen.brier, votes.brier),
        (unseen.calibration_error, votes.calibration_error),
    ):
        np.testing.assert_allclose(ours(found, 0.0), theirs(plain))


def test_the_chance_is_found_again_and_leaves_no_error():
    voxels = np.zeros((9, 9))
    n, m = np.ogrid[:9, :9]
    voxels[n + m <= 8] = 1e6
    p = unseen.probability(8, 0.06)
    assert (p[n + m <= 8] <= 1).all()
    found = np.stack([voxels * (1 - p), voxels * p], -1)
    assert unseen.fit(found) == pytest.approx(0.06)
    assert unseen.calibration_error(found, 0.06) == pytest.approx(0, abs=1e-9)
    assert unseen.calibration_error(found, 0.0) > 0.01


def test_a_chance_is_one():
    nothing_outside, empty = np.zeros((3, 3, 2), int), np.zeros((3, 3, 2), int)
    nothing_outside[0, 0] = [5, 5]
    assert unseen.fit(nothing_outside) == 0.0 and np.isnan(unseen.calibration_error(empty, 0.1))
    too_many = empty.copy()
    too_many[1, 1] = [8, 1]  # half of the votes, and a ninth came true
    assert unseen.fit(too_many) == 0.0
    too_many[1, 1] = [0, 9]
    assert unseen.fit(too_many) == pytest.approx(1.0)
