"""Scores of votes against numbers worked out by hand."""

import numpy as np
import pytest

from occdistill.evaluation import votes


def test_tables_against_a_plain_loop(make_street):
    rng = np.random.default_rng(0)
    samples = np.stack([make_street(rng, 2) for _ in range(4)])
    truth, region = make_street(rng, 2), rng.random((2, 16, 16, 4)) < 0.3
    found = votes.tables(samples, truth, region)
    movable = (2, 3, 4, 5, 6, 7, 9, 10)
    events = [tuple(range(17)), movable, *((c,) for c in range(17))]
    for e, classes in enumerate(events):
        n, came = np.isin(samples, classes).sum(0), np.isin(truth, classes)
        for f in range(2):
            for r, part in enumerate((np.ones_like(region[f]), region[f])):
                wanted = [
                    [int(((n[f] == k) & (came[f] == y) & part).sum()) for y in (False, True)]
                    for k in range(5)
                ]
                assert found[r, e, f].tolist() == wanted


# of two futures: 6 voxels without a vote, 1 of them filled; 4 with one, 3 filled; 2 with two
TABLE = np.array([[5, 1], [1, 3], [0, 2]])


def test_brier_skill_and_log_loss_by_hand():
    assert votes.brier(TABLE) == pytest.approx((1 * 1 + 4 * 0.25) / 12)
    assert votes.skill(np.float64(0.1), np.float64(0.4)) == pytest.approx(0.75)
    assert votes.skill(np.float64(0.4), np.float64(0.1)) == pytest.approx(-3)
    assert np.isnan(votes.skill(np.float64(0.0), np.float64(0.0)))
    loss = 5 * np.log(4 / 3) + np.log(4) + 4 * np.log(2) + 2 * np.log(4 / 3)  # p = 1/4, 1/2, 3/4
    assert votes.log_loss(TABLE) == pytest.approx(loss / 12)
    assert np.isnan(votes.brier(np.zeros((3, 2), int)))


def test_laplace_is_never_sure():
    np.testing.assert_allclose(votes.laplace(2), [0.25, 0.5, 0.75])


def test_calibration_error_by_hand():
    # gaps |1 - 0|, |3 - 2|, |2 - 2|; 12 voxels less 5 of air that nobody fills
    assert votes.calibration_error(TABLE) == pytest.approx(2 / 7)


def test_who_means_what_he_says_has_no_calibration_error():
    assert votes.calibration_error(np.array([[90, 0], [5, 5], [0, 90]])) == pytest.approx(0)
