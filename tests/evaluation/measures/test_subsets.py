import numpy as np
import pytest
import torch

from occdistill.evaluation.counts import Counts, Window
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.measures import consistency, ray_iou, samples
from occdistill.evaluation.measures.base import Context
from occdistill.evaluation.measures.subsets import subset_scores
from occdistill.evaluation.rows import Row, copy_last_row


def test_subsets_by_hand():
    target = np.array([[4, 4, 11, 11, 0, 17]], np.uint8)
    pred = np.array([[4, 11, 11, 11, 0, 17]], np.uint8)
    counts = Counts([Window("s/0", "s", 0, 9)], 1, ("all", "changed"))
    counts.update(0, "all", pred, target)
    counts.update(0, "changed", pred, target, np.array([[0, 1, 0, 0, 0, 0]], np.uint8))
    got = {name: scores["mIoU"]["0.5s"] for name, scores in subset_scores(counts).items()}
    assert got["movable"] == pytest.approx(50)
    assert got["static"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert got["without_others"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert got["changed"] == 0  # the one changed voxel is wrong


def test_observers_fill_the_rows(clips):
    context = Context(clips, extractor=None, samples=2)
    chosen = [
        ray_iou.observe(context, origins=2, azimuths=12),
        ray_iou.observe(context, "entry", origins=2, azimuths=12),
        consistency.observe(context),
        samples.observe(context),
    ]

    def draw(batch, sample=0):
        return batch.future.roll(sample, dims=2)

    rows = [Row("oracle", draw, conditioning="truth", draw=draw), copy_last_row(6)]
    oracle, copied = evaluate(
        rows, clips, measures=chosen, views=("changed",), progress=False, batch_size=4
    )
    assert oracle["measures"]["ray_iou"]["RayIoU"]["avg@all"] == pytest.approx(100)
    assert copied["measures"]["ray_iou"]["RayIoU"]["avg@all"] < 100
    exits, entries = (copied["measures"][name]["1m"] for name in ("ray_iou", "ray_iou_entry"))
    assert exits["avg@all"] != entries["avg@all"]
    static = oracle["measures"]["static_consistency"]
    assert static["forecast"] == static["truth"]
    assert oracle["measures"]["samples"]["best_of_k"]["mIoU"]["3.0s"] == pytest.approx(100)
    assert oracle["measures"]["samples"]["diversity"]["avg@all"] > 0
    assert "samples" not in copied["measures"]
    assert copied["measures"]["changed"]["mIoU"]["avg@all"] == 0


def test_sample_noise_differs_by_sample_and_clip_only(clips):
    from occdistill.evaluation.rows import ClipBatch

    def batch(*index):
        return ClipBatch(
            torch.zeros(len(index), 1), *[torch.zeros(1)] * 3, torch.tensor(index), seed=3
        )

    first = batch(0, 1).noise((2, 3))
    assert torch.equal(first[1], batch(1).noise((2, 3))[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], batch(0).noise((2, 3), sample=1)[0])
