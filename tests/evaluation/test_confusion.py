import time

import numpy as np
import pytest
import torch

from occdistill.errors import UserError
from occdistill.evaluation.confusion import Confusion, confusion


def reference(pred, target, mask=None):
    out = np.zeros((len(pred), 18, 18), np.int64)
    for f in range(len(pred)):
        keep = np.ones(pred[f].shape, bool) if mask is None else mask[f] != 0
        np.add.at(out[f], (target[f][keep].astype(int), pred[f][keep].astype(int)), 1)
    return out


@pytest.mark.parametrize("shape", [(3, 5, 7, 3), (2, 8, 8, 4), (1, 1, 1, 1), (2, 3, 1, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_a_plain_histogram(shape, masked):
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 18, (2, *shape)).astype(np.uint8)
    mask = rng.integers(0, 2, shape).astype(np.uint8) if masked else None
    np.testing.assert_array_equal(confusion(pred, target, mask), reference(pred, target, mask))


def test_free_words_are_counted_too(make_street):
    rng = np.random.default_rng(1)
    pred, target = make_street(rng, 6), make_street(rng, 6)
    np.testing.assert_array_equal(confusion(pred, target), reference(pred, target))


def test_torch_views_and_wider_integers_count_alike():
    rng = np.random.default_rng(2)
    pred, target = rng.integers(0, 18, (2, 4, 6, 6, 5)).astype(np.uint8)
    expected = reference(pred, target)
    tensors = torch.from_numpy(pred).permute(0, 2, 1, 3), torch.from_numpy(target).mT.mT
    np.testing.assert_array_equal(confusion(tensors[0].permute(0, 2, 1, 3), tensors[1]), expected)
    np.testing.assert_array_equal(confusion(pred.astype(np.int64), target), expected)


@pytest.mark.parametrize("bad", [18, 31, 32, 200, 255])
def test_an_unknown_id_is_refused(bad):
    grid = np.zeros((1, 4, 4, 4), np.uint8)
    for at in (0, 63):
        wrong = grid.copy()
        wrong.flat[at] = bad
        with pytest.raises(UserError, match="class id"):
            confusion(wrong, grid)
        with pytest.raises(UserError, match="class id"):
            confusion(grid, wrong)


def test_an_unknown_id_outside_the_mask_is_nobody_s_business():
    pred = np.zeros((1, 2, 2, 2), np.uint8)
    mask = np.ones_like(pred)
    pred[0, 0, 0, 0], mask[0, 0, 0, 0] = 255, 0
    assert confusion(pred, np.zeros_like(pred), mask).sum() == 7


def test_shapes_that_differ_are_refused():
    with pytest.raises(UserError, match="shape"):
        confusion(np.zeros((1, 2, 2, 2), np.uint8), np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(UserError, match="frames"):
        Confusion(2).update(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.uint8))


def test_sums_survive_the_disk(tmp_path):
    rng = np.random.default_rng(3)
    clips = rng.integers(0, 18, (4, 2, 3, 5, 5, 5)).astype(np.uint8)
    whole = Confusion(3)
    for pred, target in clips:
        whole.update(pred, target)
    whole.save(tmp_path / "c.npz")
    loaded = Confusion.load(tmp_path / "c.npz")
    assert loaded.clips == 4
    np.testing.assert_array_equal(loaded.counts, whole.counts)
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="bad.npz"):
        Confusion.load(tmp_path / "bad.npz")


@pytest.mark.gpu
def test_a_gpu_counts_the_same():
    rng = np.random.default_rng(4)
    pred, target = rng.integers(0, 18, (2, 3, 5, 7, 3)).astype(np.uint8)
    mask = rng.integers(0, 2, pred.shape).astype(np.uint8)
    on_gpu = torch.from_numpy(pred).cuda()
    np.testing.assert_array_equal(confusion(on_gpu, target), reference(pred, target))
    np.testing.assert_array_equal(confusion(on_gpu, target, mask), reference(pred, target, mask))


def test_counting_keeps_up_with_inference():
    """At least 100 clips of 6 × 200 × 200 × 16 a second and core, random grids being the worst."""
    noise = np.random.default_rng(5).integers(0, 18, (2, 6, 200, 200, 16), np.uint8)
    confusion(*noise[:, :, :1])  # compiles
    best = min(_seconds(lambda: confusion(*noise)) for _ in range(5))
    assert 1 / best > 100


def _seconds(function):
    start = time.process_time()  # of this core alone, whatever else the machine does
    function()
    return time.process_time() - start
