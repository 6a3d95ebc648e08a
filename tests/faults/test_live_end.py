"""A live run without a forecast says why, and isn't a success."""

import pytest

from occdistill.runtime.live_page import failure


def report(forecasts=0, bad=0, filling=0, arrived=None, reasons=(), **more):
    arrived = forecasts + bad + filling if arrived is None else arrived
    frames = {"arrived": arrived, "bad": bad, "filling": filling, "forecasts": forecasts}
    known = {"jumps": 0, "unheard": 0, "source_failed": None, **more}
    return {"frames": frames, "bad_frames": list(reasons), "source": "lidar", **known}


CUT = [f"s/{i}: UserError: /d/{i}.bin has {i} bytes, not a multiple of 20" for i in (7, 8, 9)]
NAN = ["s/1: the pose is not finite", "s/2: the pose is not finite"]
ROWS = [
    (report(bad=5, reasons=NAN + CUT), r"5 of 5 frames were bad, most often so: s/7: .*7\.bin"),
    (report(bad=5, reasons=CUT[:1] + NAN), "5 of 5 .* so: s/1: the pose is not finite"),
    (report(bad=1, filling=2, reasons=NAN[:1]), "1 of 3 frames were bad, .* not finite"),
    (report(filling=12), "12 frames didn't fill the window of past frames"),
    (report(), "lidar sent no frame"),
]


@pytest.mark.parametrize("found, sentence", ROWS)
def test_no_forecast_is_a_failure_with_the_commonest_reason(found, sentence):
    import re

    assert re.match(f"no forecast was made: .*{sentence}", failure(found))


def test_one_forecast_is_a_success():
    assert failure(report(forecasts=1, bad=4, reasons=NAN)) is None
