"""A clip of a street made on the fly, or of a data set, to a page; and a live run to one."""

import json
import re
import urllib.request

import pytest

from occdistill.errors import UserError
from tests.tool import call


def payload(path):
    return json.loads(re.search(r'application/json">(.*?)</script>', path.read_text())[1])


def test_a_street_made_on_the_fly_needs_no_data(monkeypatch, capsys, tmp_path):
    out = tmp_path / "f.html"
    call(monkeypatch, "forecast", "synthetic", "--nfe", 1, "--clip", 3, "--out", out)
    assert "town 0, frame 6, 6 panels" in capsys.readouterr().out  # the newest of frames 3 to 6
    sent = payload(out)
    assert [p["name"] for p in sent["panels"]] == [
        "truth", "teacher, 1 step", "student, 1 step", "error: teacher, 1 step",
        "error: student, 1 step", "no model: ego-warp, objects carried",
    ]  # fmt: skip
    assert sent["times"][0] == -1.5 and sent["times"][-1] == 3.0 and sent["shape"] == [48, 48, 8]
    notes = sent["panels"][1]["notes"]
    assert notes[:4] == [""] * 4 and all(
        re.match(r"mIoU \d+\.\d, IoU \d+\.\d", n) for n in notes[4:]
    )
    assert sent["status"] == "where the ego really goes is known"


def test_a_data_set_and_what_is_known_of_the_motion(monkeypatch, tmp_path, tiny_world):
    found = {}
    for plan in ("recorded", "constant"):
        out = tmp_path / f"{plan}.html"
        call(monkeypatch, "forecast", tiny_world, "--nfe", 1, "--plan", plan, "--out", out)
        found[plan] = payload(out)
    one, other = found["recorded"], found["constant"]
    assert one["title"].startswith("scene-") and one["title"] == other["title"]
    assert other["status"] == "the ego is taken to go on as it does"
    assert one["volumes"][:10] == other["volumes"][:10]  # past and truth
    assert one["volumes"][10:16] != other["volumes"][10:16]


def test_what_cannot_be_done_is_said(monkeypatch, tmp_path):
    out = ("--out", tmp_path / "f.html")
    with pytest.raises(UserError, match="--out FILE.html"):
        call(monkeypatch, "forecast", "synthetic", "--out", tmp_path / "f.gif")
    with pytest.raises(UserError, match="no clip 31; the drive has clips 0 to 30"):
        call(monkeypatch, "forecast", "synthetic", "--nfe", 1, "--clip", 31, *out)
    with pytest.raises(UserError, match="nothing to forecast with"):
        call(monkeypatch, "forecast", "synthetic", "--config", "configs/demo.py", "--nfe", *out)
    with pytest.raises(UserError, match="--save needs --lidar"):
        call(monkeypatch, "forecast", "synthetic", "--save", tmp_path, *out)


def test_a_live_run_is_watched(monkeypatch, capsys, tmp_path, tiny_world):
    from occdistill.visualization.live_view import LiveView

    seen = []
    shown = LiveView.__call__

    def listen(view, runner, future):
        going_on = shown(view, runner, future)
        with urllib.request.urlopen(f"{view.address}newest?after={len(seen) - 1}") as reply:
            seen.append(json.load(reply))
        return going_on

    monkeypatch.setattr(LiveView, "__call__", listen)
    call(
        monkeypatch, "realtime", "configs/demo.py", "data/demo-weights/teacher.pth", "--view", 0,
        "--rate", 4, "--frames", 6, "--deadline", 60000, "--queue", 6, "--out", tmp_path,
        "--cfg-options", f"data.dataroot={tiny_world}",
    )  # fmt: skip
    assert re.search(r"watch it at http://127\.0\.0\.1:\d+/", capsys.readouterr().out)
    assert [page["number"] for page in seen] == list(range(len(seen))) and len(seen) > 1
    assert seen[-1]["status"].startswith(f"{len(seen)} forecasts, p50 ")
