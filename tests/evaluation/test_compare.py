import json

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from occdistill.errors import UserError
from occdistill.evaluation.compare import (
    Run,
    average,
    compare,
    comparison_page,
    leave_one_out,
    load_run,
    margin,
)
from occdistill.evaluation.counts import Counts, Window
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.protocols import DEFAULT, PROTOCOLS
from occdistill.evaluation.report import describe_dataset, make_report, write_report
from occdistill.evaluation.rows import Row, copy_last_row


def noisy(name, share):
    def predict(batch):
        g = torch.Generator().manual_seed(int(batch.index[0]))
        keep = torch.rand(batch.future.shape, generator=g) < share
        return torch.where(keep, batch.future, 17).to(torch.uint8)

    return Row(name, predict, nfe=1)


@pytest.fixture
def reports(make_clips, tmp_path):
    data = make_clips([12, 13, 14, 12, 15, 12])
    for folder, share in (("a", 0.8), ("b", 0.9)):
        rows = [noisy("student", share), copy_last_row(6)]
        records = evaluate(
            rows, data, out=tmp_path / folder / "counts", progress=False, batch_size=1
        )
        report = make_report(records, describe_dataset(data, "v", "val"))
        write_report(tmp_path / folder, report)
    return tmp_path / "a" / "report.json", tmp_path / "b" / "report.json"


def test_a_clear_difference_is_found_and_none_where_there_is_none(reports):
    a, b = reports
    runs = [load_run(str(a)), load_run(str(b)), load_run(f"{a}:student@1")]
    first, better, same = compare(runs, DEFAULT)
    assert first["name"] == "a:student@1" and first["scenes"] == 6
    low, high = better["mIoU"]["difference_interval"]
    assert 0 < low <= better["mIoU"]["difference"] <= high
    assert same["mIoU"]["difference_interval"] == [0, 0]
    # pairing: both runs suffer from the same scenes, so their difference is known better
    alone = first["mIoU"]["interval"]
    assert high - low < alone[1] - alone[0]
    report = json.loads(b.read_text())
    assert better["mIoU"]["value"] == pytest.approx(report["rows"][0]["mIoU"]["avg@1,2,3s"])
    assert better["IoU"]["value"] == pytest.approx(report["rows"][0]["IoU"]["avg@1,2,3s"])
    page = comparison_page([first, better, same], DEFAULT)
    assert page.count("\n|") == 5 and "6 scenes" in page and "is a hint" in page
    many = [{**entry, "scenes": 150} for entry in (first, better)]
    assert "150 scenes" in comparison_page(many, DEFAULT) and "hint" not in comparison_page(
        many, DEFAULT
    )
    with pytest.raises(UserError, match="a confidence of 95 is none"):
        compare(runs, DEFAULT, 95)


def test_the_margin_of_a_mean_is_student_s():
    values = np.array([1.0, 2.0, 3.0, 6.0])  # mean 3, sample variance 14 / 3
    without = (values.sum() - values) / 3
    error = np.sqrt(14 / 3 / 4)
    assert margin(without) == pytest.approx(3.182446 * error)  # t of three degrees of freedom
    assert margin(without, 0.8) == pytest.approx(1.637744 * error)
    assert margin(np.array([3.0, 1.0])) == pytest.approx(12.706205)  # √(1/2 · 2)
    assert margin(without[:1]) is None
    assert margin(np.array([1.0, np.nan, 2.0])) is None


def test_the_margin_with_seeds_is_welchs():
    without = np.array([1.0, 2.0, 3.0])  # v = 2/3 · 2 = 4/3, 2 degrees of freedom
    assert margin(without, seeds=[[5.0]]) == margin(without)  # one training says nothing
    # w = 8 / 2 = 4 with 1, and 3 / 3 = 1 with 2: their sum 19/3 has 361/9 / (8/9 + 16 + 1/2)
    found = margin(without, seeds=[[1.0, 5.0], [0.0, 0.0, 3.0]])
    freedom = (361 / 9) / (8 / 9 + 16 + 1 / 2)
    assert found == pytest.approx(student_t.ppf(0.975, freedom) * np.sqrt(19 / 3))
    assert margin(np.full(3, 1.0), seeds=[[2.0, 2.0]]) == 0


def test_leaving_a_scene_out_recomputes_scores_from_counts():
    rng = np.random.default_rng(0)
    true = rng.integers(50, 100, (2, 5, 6, 18))
    predicted = rng.integers(50, 100, true.shape)
    hits = rng.integers(0, 50, true.shape)
    tallies = np.stack([hits, true, predicted], axis=-2)
    protocol = PROTOCOLS["uniscene-average"]
    got = leave_one_out(tallies, "mIoU", protocol)
    assert got.shape == (2, 5)
    for run in range(2):
        for scene in range(5):
            rest = sum(tallies[run, s] for s in range(5) if s != scene)
            assert got[run, scene] == pytest.approx(average(rest, "mIoU", protocol))


def made(name, pairs, scenes):
    """A run of scenes of one clip; `pairs`: hits and size of class 4 per scene, 0 elsewhere."""
    windows = [Window(f"s{i}/t", f"s{i}", 4, 20) for i in range(scenes)]
    counts = Counts(windows, 6)
    for i, (hits, size) in enumerate(pairs):
        target = np.full((6, 100), 17, np.uint8)
        target[:, :size] = 4
        pred = target.copy()
        pred[:, hits:size] = 17
        target[:, -20:], pred[:, -20:] = 11, 11  # a class that is always right
        counts.update(i, "all", pred, target)
    return Run(name, {}, counts)


def test_values_are_rounded_as_the_protocol_rounds_and_intervals_stay_two_sided():
    # Two classes: one always right, and one with 1 hit of 90 voxels in a, 6 of 90 in b.
    runs = [made("a", [(1, 30), (0, 30), (0, 30)], 3), made("b", [(2, 30), (3, 30), (1, 30)], 3)]
    result = compare(runs, PROTOCOLS["i2world"])
    assert result[0]["mIoU"]["value"] == 50.56  # (100 + 100 / 90) / 2 = 50.5555…
    assert result[1]["mIoU"]["value"] == 53.33  # (100 + 600 / 90) / 2 = 53.3333…
    assert result[1]["mIoU"]["difference"] == 2.77  # of the rounded; unrounded it is 2.7777…
    exact = compare(runs, DEFAULT)
    assert exact[0]["mIoU"]["value"] == pytest.approx(50 + 50 / 90)
    # without its one hit the class leaves the mean: 100 instead of 50 + 50/60, and an interval
    # around 50.56 that goes as far down as up
    low, high = result[0]["mIoU"]["interval"]
    assert high > 100 and (low + high) / 2 == pytest.approx(50.56)
    assert "few scenes flatter it" in comparison_page(result, PROTOCOLS["i2world"])
    assert "flatter" not in comparison_page(exact, DEFAULT)


def test_one_scene_has_no_interval():
    runs = [made("a", [(10, 30)], 1), made("b", [(20, 30)], 1)]
    result = compare(runs, DEFAULT)
    assert result[1]["IoU"]["interval"] is None and result[1]["IoU"]["difference_interval"] is None
    page = comparison_page(result, DEFAULT)
    assert "no intervals" in page and "| b | 83.33 | 80.00 | +16.67 | +20.00 |" in page


def test_different_clips_and_unknown_rows_are_sentences(reports, make_clips, tmp_path):
    a, _ = reports
    with pytest.raises(UserError, match="no row 'teacher@10'; it has student@1, copy-last"):
        load_run(f"{a}:teacher@10")
    with pytest.raises(UserError, match=r"no report.json"):
        load_run(str(tmp_path / "nowhere.json"))
    other = make_clips([12, 13])
    records = evaluate([copy_last_row(6)], other, out=tmp_path / "c" / "counts", progress=False)
    write_report(tmp_path / "c", make_report(records, describe_dataset(other, "v", "val")))
    with pytest.raises(UserError, match="different clips"):
        compare([load_run(str(a)), load_run(str(tmp_path / "c" / "report.json"))], DEFAULT)
