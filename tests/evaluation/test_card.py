import json

import pytest

from occdistill.evaluation.card import escape, latex, write_card
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.report import describe_dataset, make_report
from occdistill.evaluation.rows import copy_last_row, ego_warp_row


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
