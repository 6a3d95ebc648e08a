import itertools
import math

import numpy as np
import pytest

from occdistill.evaluation.measures.samples import (
    SampleSpread,
    auroc,
)


def line(*ids):
    return np.array(ids, np.uint8).reshape(1, -1, 1, 1)


def spread(samples, target):
    measure = SampleSpread(1, len(samples))
    measure.update(np.stack(samples), target)
    return measure


def test_equal_samples_have_no_diversity_and_no_doubt():
    target = line(4, 4, 11, 17)
    result = spread([target, target, target], target).result()
    assert result["diversity"]["0.5s"] == 0
    assert result["best_of_k"]["mIoU"]["0.5s"] == result["mean_of_k"]["mIoU"]["0.5s"] == 100
    assert math.isnan(result["entropy_auroc"]) and result["wrong_by_entropy"][0] == [4, 0]


def test_best_of_k_and_mean_of_k_by_hand():
    target = line(4, 4, 17, 17)
    result = spread([line(4, 17, 17, 17), target, line(17, 17, 17, 17)], target).result()
    assert result["best_of_k"]["IoU"]["0.5s"] == 100
    assert result["mean_of_k"]["IoU"]["0.5s"] == pytest.approx(100 * 3 / 6)


def test_the_best_sample_is_chosen_clip_by_clip():
    measure = SampleSpread(1, 2)
    good, bad = line(4, 17), line(17, 4)
    measure.update(np.stack([good, bad]), good)
    measure.update(np.stack([bad, good]), good)
    assert measure.result()["best_of_k"]["mIoU"]["0.5s"] == 100


def test_the_best_of_the_first_few():
    target = line(4, 4, 17, 17)
    result = spread([line(4, 17, 17, 17), target, target], target).result()
    assert result["best_by_k"] == pytest.approx({"1": 50, "2": 100, "3": 100})
    assert result["best_of_k"]["movable"]["0.5s"] == 100


def test_diversity_by_hand():
    # voxel 1: car, car, free → pairs seen 3, agreeing 1; voxel 2: road, car, free → 3 and 0
    # voxel 3: free everywhere → 0 and 0; voxel 4: free, free, car → 2 and 0
    samples = [line(4, 11, 17, 17), line(4, 4, 17, 17), line(17, 17, 17, 4)]
    measure = spread(samples, line(4, 4, 17, 17))
    assert measure.pairs.tolist() == [[8, 1]]
    assert measure.result()["diversity"]["0.5s"] == pytest.approx(100 * 7 / 8)


def test_votes_against_a_plain_loop(make_street):
    rng = np.random.default_rng(0)
    samples = np.stack([make_street(rng, 2) for _ in range(4)])
    target = make_street(rng, 2)
    measure = SampleSpread(2, 4)
    measure.update(samples, target)
    for f in range(2):
        votes = samples[:, f].reshape(4, -1).T
        truth = target[f].ravel()
        wrong, pairs = np.zeros((10, 2)), np.zeros(2)
        for labels, y in zip(votes, truth):
            ids, n = np.unique(labels, return_counts=True)
            share = n / 4
            entropy = -(share * np.log(share)).sum() / np.log(4)
            b = min(int(entropy * 10 + 1e-12), 9)
            wrong[b, int(ids[n.argmax()] != y)] += 1
            for a, c in itertools.combinations(labels, 2):
                pairs += [a != 17 or c != 17, a == c != 17]
        np.testing.assert_array_equal(measure.pairs[f], pairs)
        np.testing.assert_array_equal(measure.doubt[f].sum(0), wrong.sum(0))
        np.testing.assert_array_equal(measure.doubt[f], wrong)


def test_auroc_by_hand():
    assert auroc(np.array([[10, 0], [0, 5]])) == 1
    assert auroc(np.array([[5, 5], [5, 5]])) == 0.5
    assert auroc(np.array([[1, 0], [1, 1], [0, 1]])) == pytest.approx((1.5 + 2) / 4)
    assert math.isnan(auroc(np.array([[3, 0]])))
