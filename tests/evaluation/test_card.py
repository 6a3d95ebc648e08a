import json

import numpy as np
import pytest

from occdistill.evaluation.card import (
    drawn,
    escape,
    latex,
    per_class,
    reliability,
    reliability_curve,
    write_card,
)
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.measures.base import Context
from occdistill.evaluation.measures.probability import PROBABILITY
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.report import describe_dataset, make_report
from occdistill.evaluation.rows import Row, copy_last_row, ego_warp_row


@pytest.fixture
def report(clips):
    rows = [copy_last_row(6), ego_warp_row(clips.grid, 6)]
    protocols = [PROTOCOLS["occdistill"], PROTOCOLS["uniscene-average"]]
    records = evaluate(rows, clips, protocols=protocols, progress=False)
    return make_report(records, describe_dataset(clips, "v1.0-test", "val"))


def test_the_card_is_complete(report, tmp_path):
    paths = write_card(tmp_path, report)
    assert [p.name for p in paths] == [
        "results.json", "results.md", "results.tex", "per_horizon.png", "per_class.png",
    ]  # fmt: skip
    assert all(p.stat().st_size > 500 for p in paths)
    results = json.loads(paths[0].read_text())
    assert len(results["rows"]) == 4 and "per_class" not in results["rows"][0]
    assert results["rows"][0]["mIoU"] == report["rows"][0]["mIoU"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths[3:])


def test_the_card_has_reliability_diagrams_where_futures_were_drawn(clips, tmp_path):
    def draw(batch, sample=0):
        return batch.future.roll(sample, dims=2)

    rows = [Row("a", draw, 1, draw=draw), copy_last_row(6)]
    observer = PROBABILITY.observe(Context(clips, None, 3))
    records = evaluate(rows, clips, measures=[observer], progress=False, indices=[0, 1])
    paths = write_card(tmp_path, make_report(records, None))
    assert paths[-1].name == "reliability.png"
    assert paths[-1].read_bytes().startswith(b"\x89PNG")
    (axis, *_) = reliability(records[:1]).axes
    curve = axis.lines[1]
    table = np.array(records[0]["measures"]["probability"]["reliability"]["1.0s"])
    there = table.sum(1) > 0
    assert there.sum() > 2 and curve.get_xdata() == pytest.approx((np.arange(4) / 3)[there])
    assert curve.get_ydata() == pytest.approx((table[:, 1] / table.sum(1).clip(1))[there])
    said, seen, voxels = reliability_curve([[6, 2], [0, 0], [1, 3]])
    assert (said.tolist(), seen.tolist(), voxels.tolist()) == ([0, 1], [0.25, 0.75], [8, 4])


def test_latex_rows_have_as_many_cells_as_columns(report):
    rows = [r for r in report["rows"] if r["protocol"] == "occdistill"]
    text = latex(rows, report["published"])
    body = [line.split(" % ")[0] for line in text.splitlines() if "&" in line]
    assert {line.replace("\\&", "").count("&") for line in body} == {12}
    assert len(body) == 1 + 2 + len(report["published"])
    assert text.count("{") == text.count("}")
    assert "uniscene-average; UniScene" in text  # each published row names its protocol and source


def test_published_averages_stand_in_their_own_column(report):
    rows = [r for r in report["rows"] if r["protocol"] == "occdistill"]
    lines = {line.split(" & ")[0]: line for line in latex(rows, report["published"]).splitlines()}
    cells = lines["UniScene"].split(" % ")[0].replace(" \\\\", "").split(" & ")
    assert cells[6:8] == ["--", "31.76"]  # avg@all, not avg@1,2,3s
    cells = lines["DOME"].split(" & ")
    assert cells[6:8] == ["27.10", "--"]


def test_escape():
    assert escape("a_b & 5 % †") == "a\\_b \\& 5 \\% $\\dagger$"


def row(model, nfe=None, conditioning="gt", miou=10.0):
    return {"model": model, "nfe": nfe, "conditioning": conditioning, "mIoU": {"avg@1,2,3s": miou}}


def test_figures_show_the_strongest_fair_rules():
    models = [row("teacher", n) for n in (10, 5, 2, 1)] + [row("student", 1)]
    rules = [row("copy-last", miou=20.0, conditioning="none"), row("ego-warp", miou=50.0)]
    rules += [row("ego-warp, objects carried", miou=58.0), row("ceiling", conditioning="truth")]
    names = [(r["model"], r["nfe"]) for r in drawn(models + rules)]
    assert names == [
        ("teacher", 10), ("teacher", 5), ("teacher", 2), ("teacher", 1), ("student", 1),
        ("ego-warp", None), ("ego-warp, objects carried", None),
    ]  # fmt: skip
    blind = [row("student", 1, "none")]
    assert [r["model"] for r in drawn(blind + rules)] == ["student", "copy-last"]
    assert [r["model"] for r in drawn(rules[:2])] == ["copy-last", "ego-warp"]


def test_classes_without_truth_are_called_absent(report):
    rows = [r for r in report["rows"] if r["protocol"] == "occdistill"]
    figure = per_class(rows)
    names = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    absent = {name.removesuffix(" (absent)") for name in names if name.endswith("(absent)")}
    empty = {c for c, v in rows[0]["per_class"].items() if v["avg@1,2,3s"] != v["avg@1,2,3s"]}
    empty |= {c for c, v in rows[0]["per_class"].items() if v["avg@1,2,3s"] is None}
    assert absent == empty and len(names) == 17
