import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occdistill.data.occ3d import FREE, Grid
from occdistill.errors import UserError
from occdistill.visualization.page import Panel
from occdistill.visualization.rerun_scene import RerunScene, follow, load_rerun, record

GRID = Grid((6, 6, 4), 1.0, (-3.0, -3.0, 0.0))


def frames(count):
    voxels = np.full((count, *GRID.shape), FREE, np.uint8)
    voxels[..., 0] = 11
    return voxels


def test_without_rerun_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match="pip install rerun-sdk"):
        load_rerun()


def test_another_file_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(UserError, match="f.html is no Rerun recording"):
        RerunScene(["truth"], GRID, "clip", tmp_path / "f.html")


def test_a_recording_holds_every_panel_of_classes(tmp_path):
    pytest.importorskip("rerun", reason="no Rerun: pip install rerun-sdk", exc_type=ImportError)
    truth, past = frames(6), frames(4)
    panels = [Panel("truth", truth), Panel("p", np.ones(truth.shape), "probability")]
    record(panels, GRID, past, "clip", tmp_path / "one.rrd")
    record([*panels, Panel("b", truth)], GRID, past, "clip", tmp_path / "two.rrd")
    one, two = ((tmp_path / f"{name}.rrd").stat().st_size for name in ("one", "two"))
    assert one > 10_000 and two > one + 5000


def test_a_live_run_is_recorded_on_the_sensors_clock(tmp_path):
    pytest.importorskip("rerun", reason="no Rerun: pip install rerun-sdk", exc_type=ImportError)
    listen = follow(GRID, tmp_path / "live.rrd")
    for second in range(3):
        newest = SimpleNamespace(voxels=torch.from_numpy(frames(1)[0]), time=float(second))
        runner = SimpleNamespace(rolling=SimpleNamespace(frames=[newest]))
        assert listen(runner, torch.from_numpy(frames(6))) is True
    listen.close()
    assert (tmp_path / "live.rrd").stat().st_size > 10_000
