import json

import numpy as np
import pytest
import torch

from occdistill.errors import UserError
from occdistill.evaluation.compare import average, bootstrap, compare, load_run, markdown
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
    first, better, same = compare(runs, DEFAULT, draws=200)
    assert first["name"] == "a:student@1" and first["scenes"] == 6
    low, high = better["mIoU"]["difference_interval"]
    assert 0 < low <= better["mIoU"]["difference"] <= high
    assert better["mIoU"]["better"] == 1
    assert same["mIoU"]["difference_interval"] == [0, 0] and same["mIoU"]["better"] == 0.5
    report = json.loads(b.read_text())
    assert better["mIoU"]["value"] == pytest.approx(report["rows"][0]["mIoU"]["avg@1,2,3s"])
    assert better["IoU"]["value"] == pytest.approx(report["rows"][0]["IoU"]["avg@1,2,3s"])
    page = markdown([first, better, same], DEFAULT)
    assert page.count("\n|") == 5 and "6 scenes" in page


def test_resampling_recomputes_scores_from_counts():
    rng = np.random.default_rng(0)
    true = rng.integers(50, 100, (1, 5, 6, 18))
    predicted = rng.integers(50, 100, true.shape)
    hits = rng.integers(0, 50, true.shape)
    tallies = np.stack([hits, true, predicted], axis=-2)
    got = bootstrap(tallies, "mIoU", PROTOCOLS["uniscene-average"], draws=300, seed=1)[0]
    weights = np.random.default_rng(1).multinomial(5, np.full(5, 0.2), 300)
    for draw in (0, 255, 256, 299):
        total = sum(w * tallies[0, s] for s, w in enumerate(weights[draw]))
        assert got[draw] == pytest.approx(average(total, "mIoU", PROTOCOLS["uniscene-average"]))


def test_one_scene_has_no_spread():
    tallies = np.full((2, 1, 6, 3, 18), 10)
    draws = bootstrap(tallies, "IoU", DEFAULT, draws=50)
    assert np.ptp(draws) == 0


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
