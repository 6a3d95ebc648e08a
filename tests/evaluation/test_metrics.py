import math

import numpy as np
import pytest

from occdistill.evaluation.confusion import confusion
from occdistill.evaluation.metrics import (
    Rules,
    binary_iou,
    class_iou,
    horizon_names,
    mean_iou,
    nanmean,
    score,
    tally,
)


def hand_made():
    """2 frames of 8 voxels: cars (4), road (11), free."""
    target = np.array([[4, 4, 4, 11, 11, 17, 17, 17]] * 2, np.uint8)
    pred = np.array([[4, 4, 11, 11, 17, 17, 4, 17], [4, 4, 4, 11, 11, 17, 17, 17]], np.uint8)
    return tally(confusion(pred, target))


def test_iou_by_hand():
    counts = hand_made()
    iou = class_iou(counts)
    assert iou[0, 4] == pytest.approx(2 / 4)  # 2 hits, 3 true, 3 predicted
    assert iou[0, 11] == pytest.approx(1 / 3)
    assert iou[1, 4] == iou[1, 11] == 1
    assert np.isnan(iou[:, [0, 1, 16]]).all()
    assert mean_iou(counts) == pytest.approx([(1 / 2 + 1 / 3) / 2, 1])
    assert binary_iou(counts) == pytest.approx([4 / 6, 1])


def test_absent_and_zero_rules_by_hand():
    target = np.array([[4, 4, 11, 17]], np.uint8)
    pred = np.array([[4, 4, 7, 7]], np.uint8)  # road missed, pedestrian invented
    counts = tally(confusion(pred, target))
    assert mean_iou(counts) == pytest.approx([1 / 2])
    assert mean_iou(counts, Rules(absent="one")) == pytest.approx([(1 + 0 + 15) / 17])
    assert mean_iou(counts, Rules(absent="union")) == pytest.approx([1 / 3])
    assert mean_iou(counts, Rules(absent="union", zero="drop")) == pytest.approx([1])


def test_averages_absent_names_and_rounding():
    counts = np.repeat(hand_made()[:1], 6, axis=0)
    result = score(counts)
    assert (
        list(result["mIoU"])[:6]
        == horizon_names(6)
        == ["0.5s", "1.0s", "1.5s", "2.0s", "2.5s", "3.0s"]
    )
    assert result["mIoU"]["avg@1,2,3s"] == pytest.approx(100 * 5 / 12)
    assert "car" not in result["absent"]["1.0s"] and "bicycle" in result["absent"]["1.0s"]
    assert len(result["per_class"]) == 17
    assert math.isnan(result["per_class"]["bus"]["avg@all"])
    assert result["per_class"]["driveable_surface"]["avg@all"] == pytest.approx(100 / 3)
    assert score(counts, Rules(decimals=2))["mIoU"]["0.5s"] == 41.67


def test_the_two_averages_differ_as_their_names_say():
    counts = np.repeat(hand_made(), 3, axis=0)[[0, 3, 0, 3, 0, 3]]  # bad, good, bad, good, …
    result = score(counts)["IoU"]
    assert result["avg@1,2,3s"] == pytest.approx(100)
    assert result["avg@all"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_a_short_horizon_has_no_three_second_average():
    result = score(hand_made())
    assert math.isnan(result["mIoU"]["avg@1,2,3s"])
    assert not math.isnan(result["mIoU"]["avg@all"])


def test_nanmean_is_silent_on_nothing():
    assert math.isnan(nanmean(np.array([np.nan])))
    np.testing.assert_allclose(nanmean(np.array([[1, np.nan], [3, 5]]), 0), [2, 5])
