"""A measure is found by its file alone, and stands where it stood."""

import sys

import pytest

from occdistill.build.scoring import build_measures
from occdistill.evaluation import measures as package
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.measures import measures
from occdistill.evaluation.report import make_report, markdown, measure_columns
from occdistill.evaluation.rows import Row, copy_last_row
from tests.tool import load

NAMES = ["ray-iou", "ray-iou-entry", "consistency", "latent", "samples", "probability", "conformal"]
NAMES += ["plans"]

FILLED = """
from occdistill.evaluation.measures.base import Measure, Observer


class Filled:
    seen = full = 0

    def result(self):
        return {"share": 100 * self.full / self.seen}


def observe(context):
    def feed(state, row, batch, pred):
        state.full += int((pred != 17).sum())
        state.seen += pred.numel()

    return Observer("filled_voxels", Filled, feed)


FILLED = Measure("filled", observe, {"filled voxels": ("filled_voxels", "share")})
"""


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A file beside the others."""
    (tmp_path / "filled.py").write_text(FILLED)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield
    sys.modules.pop(f"{package.__name__}.filled", None)
    vars(package).pop("filled", None)


def test_all_are_found_in_the_order_of_report_json():
    assert list(measures()) == NAMES
    assert all(name == measure.name for name, measure in measures().items())


def test_the_page_keeps_its_columns():
    assert list(measure_columns()) == [
        "movable mIoU", "static mIoU", "changed mIoU", "camera-visible mIoU", "LiDAR-visible mIoU",
        "RayIoU", "RayIoU, entry", "static consistency", "of the truth",
        "90 % sets hold the truth", "classes in a set", "best-of-k mIoU", "diversity",
        "doubt finds errors", "Fréchet, frames", "Fréchet, clips", "precision",
        "recall", "coverage", "plans: minADE, m", "plans: minFDE, m", "plans: missed",
        "plans: energy, m", "plans: miscalibration", "Brier", "Brier skill", "Brier skill, movable", "Brier skill, moving",
        "log loss", "calibration error", "calibrated",
    ]  # fmt: skip


def test_a_new_file_can_be_asked_for_and_shows_in_the_report(filled, clips, monkeypatch):
    assert list(measures()) == [*NAMES, "filled"]
    monkeypatch.setattr(sys, "argv", ["test.py", "config.py", "--measure", "filled", "consistency"])
    asked = load("test").parse().measure

    copied = copy_last_row(6)
    rows = [copied, Row("nothing", lambda batch: copied.predict(batch).fill_(17))]
    made = build_measures(asked, None, clips, rows)
    assert [observer.name for observer in made] == ["static_consistency", "filled_voxels"]
    records = evaluate(rows, clips, measures=made, indices=[0], progress=False)
    newest = clips[0]["past"][-1]
    share = 100 * float((newest != 17).float().mean())
    assert records[0]["measures"]["filled_voxels"]["share"] == pytest.approx(share)

    page = markdown(make_report(records, None)).partition("## Beyond mIoU")[2]
    head, _, first, second = [line.split(" | ") for line in page.splitlines() if "|" in line][:4]
    place = head.index("filled voxels")
    assert (first[place], second[place]) == (f"{share:.2f}", "0.00")


def test_without_its_file_it_is_unknown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["test.py", "config.py", "--measure", "filled"])
    with pytest.raises(SystemExit):
        load("test").parse()
    assert "invalid choice: 'filled'" in capsys.readouterr().err
