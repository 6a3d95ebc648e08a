"""Every preset against a second implementation, written from the papers' described rules."""

from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill.errors import UserError
from occdistill.evaluation.evaluate import count, score_counts, views_for
from occdistill.evaluation.measures.base import Observer
from occdistill.evaluation.protocols import PROTOCOLS, get_protocol
from occdistill.evaluation.rows import Row, copy_last_row, ego_warp_row

COUNTS = {
    "occworld": 4219,
    "occfm": 4369,
    "i2world": 4519,
    "geniedrive": 4669,
    "occdistill": 4669,
    "dome": 150,
    "come-visible": 150,
    "uniscene-average": 4969,
}
HORIZONS = range(6)


def val_like_lengths():
    """150 scenes of 38 to 42 keyframes, 6,019 together, as in nuScenes' validation split."""
    lengths = np.random.default_rng(0).integers(38, 43, 150)
    while lengths.sum() != 6019:
        i = np.random.default_rng(lengths.sum()).integers(150)
        lengths[i] = np.clip(lengths[i] + np.sign(6019 - lengths.sum()), 38, 42)
    return lengths.tolist()


def test_the_validation_split_has_150_scenes():
    splits = pytest.importorskip("nuscenes.utils.splits")
    assert len(splits.create_splits_scenes()["val"]) == 150


@pytest.mark.parametrize("name", PROTOCOLS)
def test_clip_counts_follow_from_scene_lengths(name):
    protocol = PROTOCOLS[name]
    assert protocol.count(val_like_lengths()) == COUNTS[name] == protocol.clips


# ------------------------------------------------- windows, as each code base enumerates them


def starts_occworld(n):  # range(scene length - return_len - offset), 5 past + 6 future, offset 1
    return {start + 4 for start in range(n - 11 - 1)}


def starts_occfm(n):  # twelve consecutive frames, the sixth is the newest
    return {i + 5 for i in range(n) if i + 11 < n}


def starts_i2world(n):  # a current frame with four before and six after it
    return {k for k in range(n) if k - 4 >= 0 and k + 6 < n}


def starts_geniedrive(n):
    return {k for k in range(n) if k - 3 >= 0 and k + 6 < n}


def starts_first(n):  # the first ten frames
    return {3} if n >= 10 else set()


def starts_uniscene(n):
    return {k for k in range(n) if k - 1 >= 0 and k + 6 < n}


STARTS = {
    "occdistill": starts_geniedrive,
    "occworld": starts_occworld,
    "occfm": starts_occfm,
    "dome": starts_first,
    "come-visible": starts_first,
    "i2world": starts_i2world,
    "geniedrive": starts_geniedrive,
    "uniscene-average": starts_uniscene,
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("length", [1, 8, 9, 10, 11, 12, 13, 40])
def test_windows_are_those_of_the_code_base(name, length):
    assert set(PROTOCOLS[name].windows(length)) == STARTS[name](length)


# ------------------------------------------------------------- scores, one plain loop per rule


def stepwise_counters(preds, targets, absent_value):
    """OccWorld family: three counters per horizon and class over all clips, then a division."""
    miou, iou = [], []
    for t in HORIZONS:
        values = []
        for c in range(17):
            seen = sum(int((y[t] == c).sum()) for y in targets)
            positive = sum(int((p[t] == c).sum()) for p in preds)
            correct = sum(int(((p[t] == c) & (y[t] == c)).sum()) for p, y in zip(preds, targets))
            if seen == 0:
                values.append(absent_value)
            else:
                values.append(correct / (seen + positive - correct))
        miou.append(100 * np.nanmean(values))
        seen = sum(int((y[t] != 17).sum()) for y in targets)
        positive = sum(int((p[t] != 17).sum()) for p in preds)
        correct = sum(int(((p[t] != 17) & (y[t] != 17)).sum()) for p, y in zip(preds, targets))
        iou.append(100 * correct / (seen + positive - correct) if seen else 100 * absent_value)
    return miou, iou


def histogram_without_zeros(preds, targets):
    """I²-World family: 18-class histogram, IoU 0 becomes NaN, mean of the rest, two decimals."""
    miou, iou = [], []
    for t in HORIZONS:
        p = np.concatenate([p[t].ravel() for p in preds]).astype(int)
        y = np.concatenate([y[t].ravel() for y in targets]).astype(int)
        hist = np.bincount(18 * y + p, minlength=324).reshape(18, 18)
        with np.errstate(all="ignore"):
            values = np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))
        values[values == 0] = np.nan
        miou.append(round(100 * np.nanmean(values[:17]), 2))
        hits, any_of = ((p != 17) & (y != 17)).sum(), ((p != 17) | (y != 17)).sum()
        iou.append(round(100 * hits / any_of, 2))
    return miou, iou


def reference(name, preds, targets, cameras):
    """Per-horizon mIoU and IoU, and the paper's average of the first."""
    if name == "come-visible":
        preds = [np.where(m == 1, p, 17) for p, m in zip(preds, cameras)]
        targets = [np.where(m == 1, y, 17) for y, m in zip(targets, cameras)]
    if name in ("i2world", "geniedrive"):
        miou, iou = histogram_without_zeros(preds, targets)
        return miou, iou, round(np.mean([miou[1], miou[3], miou[5]]), 2)
    family = name in ("occworld", "occfm", "dome", "come-visible")
    miou, iou = stepwise_counters(preds, targets, 1.0 if family else np.nan)
    six = name == "uniscene-average"
    return miou, iou, np.mean(miou if six else [miou[1], miou[3], miou[5]])


def random_row(shape, rare):
    """Predictions that leave classes out, invent others and hit some."""

    def predict(batch):
        g = torch.Generator().manual_seed(int(batch.index[0]))
        guess = torch.randint(0, 18, batch.future.shape, generator=g).to(torch.uint8)
        keep = torch.rand(batch.future.shape, generator=g) < 0.6
        guess = torch.where(keep, batch.future, guess)
        return torch.where(guess == rare, 17, guess).to(torch.uint8)

    return Row("random", predict)


@pytest.fixture(scope="module")
def scored(make_clips):
    """Three rows on two data sets, counted once, beside everything that was predicted."""
    protocols = list(PROTOCOLS.values())
    result = []
    for past, lengths in ((2, [14, 16, 13]), (2, [9, 12])):
        data = make_clips(lengths, past=past, seed=past + len(lengths))
        for voxels in data.voxels:
            voxels[voxels == 9] = 17  # no trailer anywhere
        rows = [random_row(data.grid.shape, rare=2), copy_last_row(6), ego_warp_row(data.grid, 6)]
        counted = count(rows, data, views=views_for(protocols), progress=False, batch_size=3)
        kept = {row.name: [] for row in rows}

        def keep(_state, row, _batch, pred, kept=kept):
            kept[row.name].extend(pred.numpy().copy())

        kept_all = Observer("kept", lambda: None, keep)
        count(rows, data, progress=False, batch_size=3, observers=[kept_all])
        result.append((data, rows, counted, kept))
    return result


@pytest.mark.parametrize("name", PROTOCOLS)
def test_presets_equal_the_second_implementation(name, scored):
    for data, rows, counted, kept in scored:
        chosen = [
            i
            for i, (scene, start) in enumerate(data.clips)
            if start + data.past - 1 in STARTS[name](len(data.scenes[scene].keyframes))
        ]
        if not chosen:
            with pytest.raises(UserError, match=name):
                score_counts(counted[0], PROTOCOLS[name])
            continue
        for row, counts in zip(rows, counted):
            items = [data[i] for i in chosen]
            miou, iou, headline = reference(
                name,
                [kept[row.name][i] for i in chosen],
                [item["future"].numpy() for item in items],
                [item["mask_camera"].numpy() for item in items],
            )
            got = score_counts(counts, PROTOCOLS[name])
            assert got["clips"] == len(chosen)
            np.testing.assert_allclose(list(got["mIoU"].values())[:6], miou, rtol=0, atol=1e-9)
            np.testing.assert_allclose(list(got["IoU"].values())[:6], iou, rtol=0, atol=1e-9)
            assert got["headline"]["mIoU"] == pytest.approx(headline, abs=1e-9)


def test_the_rules_alone_move_a_number(scored):
    _, _, counted, _ = scored[0]
    numbers = {n: score_counts(counted[0], p)["headline"]["mIoU"] for n, p in PROTOCOLS.items()}
    assert numbers["occfm"] > numbers["occdistill"]  # absent classes score 1
    assert len({round(v, 6) for v in numbers.values()}) > 5


def test_blanking_scores_like_masking(clips):
    rows = [copy_last_row(6)]
    (counts,) = count(rows, clips, views=("camera", "blank-camera"), progress=False)
    camera, blank = counts.total("camera"), counts.total("blank-camera")
    np.testing.assert_array_equal(camera[..., :17], blank[..., :17])
    assert (blank[..., 17] > camera[..., 17]).all()


def test_partial_coverage_is_told(make_clips):
    data = make_clips([14, 15], past=6)
    (counts,) = count([copy_last_row(6)], data, progress=False)
    result = score_counts(counts, get_protocol("geniedrive"))
    assert result["clips"] == 3 + 4 and result["clips_expected"] == 5 + 6


def test_unknown_protocol():
    with pytest.raises(UserError, match="known: occdistill"):
        get_protocol("kitti")


def test_the_guide_lists_every_preset_with_its_clips():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name, protocol in PROTOCOLS.items():
        (line,) = [text for text in page.splitlines() if text.startswith(f"| `{name}`")]
        assert f"{protocol.clips:,}" in line
