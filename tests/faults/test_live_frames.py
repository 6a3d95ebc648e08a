"""Whatever a source hands over is used, or counted as bad with its reason; no good frame is lost."""

import gc
import logging
import os
import re
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from occdistill.data.poses import is_rigid
from occdistill.errors import UserError
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.live import LiveRunner, PacedQueue, SystemClock
from occdistill.runtime.live_page import failure, live_page
from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import PER_SLOT, RollingForecaster
from tests.runtime.fakes import ClassesAsLatents, ToNewest, codec, drive, street
from tests.runtime.test_live import FakeClock, adds_up, resident_megabytes

VOXELS, POSES = street(1)[0], drive(10_100, speed=0.5)
EVERY = 0.05  # seconds between frames


def frame(i, **changes):
    """A good frame, or what is wrong with one that comes half-way to the next."""
    plan = POSES[i + 10 : i + 41 : 10]
    good = Packet(VOXELS, POSES[i], EVERY * i, plan, name=str(i))
    if not changes:
        return good
    return replace(good, **{"time": EVERY * (i + 0.5), "name": f"{i} and a half", **changes})


def fails():
    raise OSError("the disk is gone")


def matrix(change):
    pose = np.eye(4)
    change(pose)
    return pose


NOWHERE = np.full((4, 4), np.nan)
WRONG_CLASS = VOXELS.clone()
WRONG_CLASS[0, 0, 0] = 200
STRETCHED = np.diag([1.02, 1, 1, 1])
MIRRORED = np.diag([-1.0, 1, 1, 1])
SHEARED = matrix(lambda pose: pose.__setitem__((3, 0), 0.5))
BAD = {
    "voxels": [
        None, "text", 3, VOXELS.numpy(), VOXELS.float(), VOXELS[:4], VOXELS[None], WRONG_CLASS,
        VOXELS.tolist(), fails, lambda: None, lambda: 1 / 0, lambda one: one,
        torch.zeros(0, dtype=torch.uint8),
    ],
    "ego_to_global": [
        None, "text", 7.0, NOWHERE, np.eye(3), STRETCHED, MIRRORED, SHEARED, 2 * np.eye(4),
        np.zeros((4, 4)), [[1, 2], [3]], np.eye(4) * 1j, np.full((4, 4), "1"), {"x": 0},
        np.full((4, 4), 1e300),
    ],
    "lidar_to_ego": [None, NOWHERE, STRETCHED, "text", np.eye(3)],
    "time": [None, float("nan"), float("inf"), -float("inf"), "noon", True, [0.0], 1j],
    "plan": [None, POSES[:1], np.full((4, 4, 4), np.nan), "text", [[1]], {"a": 1}, 2 * POSES[:4]],
}  # fmt: skip
HOSTILE = [(key, value) for key, values in BAD.items() for value in values]
# later than the newest frame, or elsewhere: only the next frames show that it was wrong
JUMPS = [("time", 1e9), ("time", 3600.0), ("time", 1.6e18), ("elsewhere", 1e5), ("time", 50.0)]
LATE = [("time", -3600.0), ("time", -EVERY), ("time", 0.0)]


def hostile(i, key, value):
    """Frame i of a kind of `HOSTILE`, `JUMPS` or `LATE`."""
    if key == "elsewhere":
        return frame(i, ego_to_global=matrix(lambda pose: pose.__setitem__((0, 3), value)))
    moved = (key, value) in JUMPS + LATE
    return frame(i, **{key: EVERY * i + value if moved else value})


def live(source, clock=None, past=3, field=None, vae=None, **options):
    base = codec(conditioning="gt")
    if vae is not None:
        base.vae = vae
    stream = RollingForecaster(Forecaster(base, field or ToNewest()), past)
    return LiveRunner(stream, PacedQueue(source, 20.0, 4, clock or FakeClock()), **options)


def answered(packets, past=1, **options):
    seen = []
    runner = live(
        iter(packets), past=past, listener=lambda packet, _: seen.append(packet.name), **options
    )
    report = runner.run()
    assert adds_up(report)
    return seen, report, runner


@pytest.mark.parametrize(
    "key, value", HOSTILE, ids=[f"{k}-{n}" for k in BAD for n in range(len(BAD[k]))]
)
def test_a_frame_of_any_kind_is_counted_with_its_reason(key, value):
    seen, report, _ = answered([frame(0), hostile(0, key, value), frame(1)])
    assert seen == ["0", "1"] and report["frames"]["bad"] == 1
    (reason,) = report["bad_frames"]
    assert reason.startswith("0 and a half: ") and len(reason) > 25 and "\n" not in reason


@pytest.mark.parametrize("packet", [None, "text", 3, (VOXELS, np.eye(4)), object()])
def test_what_is_no_packet_is_counted_too(packet):
    seen, report, _ = answered([frame(0), packet, frame(1)])
    assert seen == ["0", "1"] and report["frames"]["bad"] == 1


def test_a_model_that_needs_no_plan_looks_at_none():
    stream = RollingForecaster(Forecaster(codec(conditioning="hist"), ToNewest()), past=1)
    stream.push(VOXELS, np.eye(4))
    assert torch.equal(stream.forecast("text"), stream.forecast(None))


# Time and place.

FILLED = 16  # frames until there is one for each of three slots, half a second apart


@pytest.mark.parametrize("kind", JUMPS + LATE)
@pytest.mark.parametrize("times", [1, 2])
def test_one_wrong_time_or_place_costs_no_good_frame(kind, times):
    packets = [frame(i) for i in range(60)]
    wrong = hostile(39, *kind)
    step = 0.01 * (kind != ("time", 0.0))  # so that a second one follows the first
    packets[40:40] = [replace(wrong, time=wrong.time + k * step) for k in range(times)]
    seen, report, runner = answered(packets, past=3)
    assert [int(name) for name in seen] == list(range(FILLED - 1, 60))
    assert report["frames"]["bad"] + report["frames"]["filling"] == FILLED - 1 + times
    assert report["frames"]["bad"] >= (kind in LATE)
    assert len(runner.rolling.frames) == 36  # the window, as if nothing had been


@pytest.mark.parametrize("jump, bad", [(-3600.0, 1), (-2.0, 1), (1e6, 0), (60.0, 0)])
def test_a_clock_that_is_set_makes_the_window_begin_anew(jump, bad):
    packets = [frame(i) for i in range(50)]
    packets += [replace(frame(i), time=EVERY * i + jump) for i in range(50, 120)]
    seen, report, _ = answered(packets, past=3)
    again = 50 + bad + FILLED - 1
    assert [int(n) for n in seen] == [*range(FILLED - 1, 50), *range(again, 120)]
    assert report["jumps"] == 1 and report["frames"]["bad"] == bad
    assert "1 times a frame didn't follow" in live_page({**report, "device": "", "source": "x",
                                                         "rate": 20.0})  # fmt: skip


def test_a_map_that_is_set_makes_the_window_begin_anew():
    far = matrix(lambda pose: pose.__setitem__((1, 3), 900.0))
    packets = [frame(i) for i in range(50)]
    packets += [replace(frame(i), ego_to_global=far @ POSES[i]) for i in range(50, 120)]
    seen, report, _ = answered(packets, past=3)
    assert [int(n) for n in seen] == [*range(FILLED - 1, 50), *range(50 + FILLED - 1, 120)]
    assert report["jumps"] == 1 and report["frames"]["bad"] == 0


@pytest.mark.parametrize("factor, sentence", [(1e9, "30 of 30 .*in seconds"), (1e-6, "fill")])
def test_times_in_other_units_are_named_as_what_they_are(factor, sentence):
    packets = [replace(frame(i), time=EVERY * i * factor) for i in range(30)]
    seen, report, _ = answered(packets, past=3)
    assert not seen
    if factor > 1:
        sentence = sentence.replace("30 of", "29 of")  # all but the first
    assert re.search(sentence, failure({**report, "source": "x"}))


def test_the_window_is_bounded_whatever_the_units():
    packets = [replace(frame(0), time=1e-6 * i, name=str(i)) for i in range(PER_SLOT + 50)]
    seen, report, runner = answered(packets, past=1)
    assert len(runner.rolling.frames) == len(seen) == PER_SLOT
    assert report["frames"]["bad"] == 50 and "must be in seconds" in report["bad_frames"][0]


# Errors of others.


class Failing(ToNewest):
    """A model whose n-th evaluation goes wrong in its own way."""

    def __init__(self, wrong, at=2):
        super().__init__()
        self.wrong, self.at = wrong, at

    def forward(self, x_t, t, condition):
        result = super().forward(x_t, t, condition)
        return self.wrong(result) if len(self.evaluations) == self.at else result


def out_of_memory(_):
    raise MemoryError


def broken(_):
    raise RuntimeError("CUDA error: an illegal\nmemory access")


@pytest.mark.parametrize(
    "wrong, reason",
    [
        (broken, "RuntimeError: CUDA error: an illegal memory access"),
        (out_of_memory, "MemoryError"),
        (lambda result: result * float("nan"), "the model's latents aren't finite"),
        (lambda result: result / 0, "the model's latents aren't finite"),
    ],
)
def test_an_error_of_the_model_costs_one_frame(wrong, reason):
    seen, report, _ = answered([frame(i) for i in range(5)], field=Failing(wrong))
    assert seen == ["0", "2", "3", "4"] and report["frames"]["bad"] == 1
    assert report["bad_frames"][0].startswith(f"1: {reason}")


def test_what_is_no_forecast_is_not_scored_either():
    model = Forecaster(codec(), Failing(lambda result: result * float("nan"), at=1))
    past, poses = VOXELS.expand(1, 2, *VOXELS.shape), torch.eye(4).expand(1, 4, 4, 4)
    with pytest.raises(UserError, match="latents aren't finite in float32: use"):
        model(past, poses)
    assert model(past, poses).shape[1] == 2


class Unsound(ClassesAsLatents):
    """Encodes to NaN, or decodes to a class that there isn't, once."""

    def __init__(self, part):
        super().__init__()
        self.part, self.times = part, 0

    def encode(self, voxels):
        self.times += self.part == "encode"
        result = super().encode(voxels)
        if self.part == "encode" and self.times == 2:
            result.mean.fill_(float("nan"))
        return result

    def decode(self, z):
        self.times += self.part == "decode"
        return super().decode(z) + (100 if self.part == "decode" and self.times == 2 else 0)


@pytest.mark.parametrize("part, reason", [("encode", "encoder's latents"), ("decode", "class 1")])
def test_what_is_no_forecast_is_not_handed_on(part, reason):
    packets = [frame(i) for i in range(4)]
    base = codec(conditioning="gt")
    base.vae = Unsound(part)
    runner = LiveRunner(
        RollingForecaster(Forecaster(base, ToNewest()), 1),
        PacedQueue(iter(packets), 20.0, 4, FakeClock()),
    )
    report = runner.run()
    assert (report["frames"]["bad"], report["frames"]["forecasts"]) == (1, 3)
    assert reason in report["bad_frames"][0]


def test_a_listener_that_fails_is_counted_and_the_loop_goes_on():
    def deaf(packet, _):
        if packet.name != "2":
            raise ConnectionError("nobody there")

    report = live((frame(i) for i in range(5)), past=1, listener=deaf).run()
    assert report["frames"]["forecasts"] == 5 and report["unheard"] == 4
    assert failure({**report, "source": "x"}) is None
    nobody = live((frame(i) for i in range(5)), past=1, listener=lambda *_: 1 / 0).run()
    assert "failed at each of them" in failure({**nobody, "source": "x"})


def test_a_source_that_fails_leaves_a_report_that_is_no_success():
    def source():
        yield from map(frame, range(5))
        raise RuntimeError("sensor unplugged")

    report = live(source(), past=1).run()
    assert report["frames"]["forecasts"] == 5
    assert report["source_failed"] == "RuntimeError: sensor unplugged"
    assert failure({**report, "source": "lidar"}) == (
        "lidar failed after 5 frames: RuntimeError: sensor unplugged"
    )


def test_a_source_that_cannot_begin_is_a_sentence():
    def source():
        raise UserError("no sweeps")
        yield

    with pytest.raises(UserError, match="no sweeps"):
        live(source()).run()


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("silent", [True, False])
def test_a_signal_ends_the_run_at_once_with_its_report(number, silent):
    def source():
        yield from map(frame, range(3 if silent else 10_000))
        time.sleep(60)

    runner = live(source(), clock=SystemClock(), past=1)
    before = signal.signal(number, runner.interrupt)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    began = time.perf_counter()
    timer.start()
    try:
        report = runner.run()
    finally:
        timer.join()
        signal.signal(number, before)
    assert time.perf_counter() - began < 20
    assert adds_up(report) and report["frames"]["forecasts"] >= 2
    if silent:
        assert report["frames"]["arrived"] == 3


def test_a_second_signal_does_not_wait_for_the_frame_at_hand():
    runner = live(iter([frame(0)]))
    runner.interrupt()
    with pytest.raises(KeyboardInterrupt):
        runner.interrupt()


# All of it at once.


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_frames_among_good_ones(count, caplog):
    """5 % of the frames are hostile, of all kinds, also two in a row: none lost that was good."""
    caplog.set_level(logging.CRITICAL, "occdistill.runtime.live")  # pytest would keep the warnings
    rng = np.random.default_rng(0)
    kinds = [*HOSTILE, *JUMPS, *LATE, ("packet", None), ("packet", "text")]
    planted, sizes = [], []

    def source():
        for i in range(count):
            yield frame(i)
            if i == count // 5 or i == count - 1:
                gc.collect()
                sizes.append((len(gc.get_objects()), resident_megabytes()))
            while i > FILLED and rng.random() < 0.05:
                planted.append(kinds[rng.integers(len(kinds))])
                key, value = planted[-1]
                yield value if key == "packet" else hostile(i, key, value)

    good = []

    def listener(packet, future):
        assert future.dtype == torch.uint8 and int(future.max()) < 18
        if "half" not in packet.name:
            good.append(int(packet.name))

    runner = live(source(), listener=listener)
    report = runner.run()
    frames = report["frames"]
    assert good == list(range(FILLED - 1, count))
    assert adds_up(report) and frames["arrived"] == count + len(planted)
    assert frames["dropped"] == report["unheard"] == 0 and report["source_failed"] is None
    expected = sum(kind not in JUMPS for kind in planted)  # those may be taken in, and left again
    assert expected * 0.95 <= frames["bad"] <= len(planted)
    assert frames["bad"] + frames["filling"] == len(planted) + FILLED - 1
    assert report["jumps"] > 0 and len(planted) > 0.03 * count
    assert len(runner.rolling.frames) <= 37 and len(runner.tally.reasons) <= 20
    (objects, megabytes), (objects_later, megabytes_later) = sizes
    assert objects_later - objects < 1500 and megabytes_later - megabytes < 8


def test_rigid_is_rigid():
    good = np.stack([np.eye(4), *POSES[:2], matrix(lambda p: p.__setitem__((0, 3), 1e7))])
    assert is_rigid(good).all()
    assert not is_rigid(np.stack([NOWHERE, STRETCHED, MIRRORED, SHEARED, 0 * np.eye(4)])).any()
    turned = np.eye(4)
    turned[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    assert is_rigid(turned) and is_rigid(turned.astype(np.float32))
    turned[0, 0] = 0.61
    assert not is_rigid(turned)
