import gc
import logging
import resource
import threading
from pathlib import Path

import numpy as np
import pytest

from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.live import (
    Histogram,
    LiveRunner,
    PacedQueue,
    Queue,
    SystemClock,
    threaded,
)
from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import RollingForecaster
from tests.runtime.fakes import ToNewest, codec, street


class FakeClock:
    """Time that passes only when somebody waits or works."""

    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


def packets(count, rate=2.0):
    voxels = street(1)[0]
    for i in range(count):
        yield Packet(voxels, np.eye(4), i / rate, name=str(i))


def runner(source, clock, rate=2.0, capacity=2, work=lambda: 0.0, past=3, **options):
    """A live loop whose model takes `work()` seconds a forecast."""

    class Busy(ToNewest):
        def forward(self, x_t, t, condition):
            clock.sleep(work())
            return super().forward(x_t, t, condition)

    stream = RollingForecaster(Forecaster(codec(), Busy()), past)
    return LiveRunner(stream, PacedQueue(source, rate, capacity, clock), **options)


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def adds_up(report):
    frames = dict(report["frames"])
    return frames.pop("arrived") == sum(frames.values())


def test_a_fast_model_answers_every_frame_in_time():
    clock = FakeClock()
    report = runner(packets(20), clock, work=lambda: 0.1).run()
    assert report["frames"] == {
        "arrived": 20, "dropped": 0, "bad": 0, "filling": 2, "forecasts": 18, "waiting": 0,
    }  # fmt: skip
    assert report["missed"] == 0
    assert report["seconds"] == pytest.approx(19 / 2 + 0.1)
    assert report["stages"]["generate"]["p50_ms"] == pytest.approx(100, rel=0.03)
    assert report["stages"]["total"]["max_ms"] == pytest.approx(100)


def test_a_slow_model_drops_the_oldest_and_every_forecast_is_late():
    clock, seen = FakeClock(), []
    live = runner(
        packets(40), clock, capacity=1, work=lambda: 1.25, past=1,
        listener=lambda packet, future: seen.append(int(packet.name)),
    )  # fmt: skip
    report = live.run()
    assert adds_up(report)
    # each forecast takes 2.5 frame times: of the frames that came meanwhile the newest is next
    assert seen[:5] == [0, 2, 5, 7, 10]
    assert report["missed"] == report["frames"]["forecasts"] == len(seen)
    assert report["frames"]["dropped"] == 40 - len(seen)
    assert report["deepest_queue"] == 1


def test_bad_frames_are_skipped_and_the_window_is_kept():
    clock = FakeClock()

    def broken():
        raise OSError("the disk is gone")

    def source():
        for i, packet in enumerate(packets(8)):
            yield Packet(broken, np.eye(4), packet.time, name="5") if i == 5 else packet

    report = runner(source(), clock).run()
    assert report["frames"]["bad"] == 1
    assert report["frames"]["filling"] == 2  # at the start only: frame 6 is answered at once
    assert report["frames"]["forecasts"] == 5
    assert report["bad_frames"] == ["5: OSError: the disk is gone"]


def test_stop_finishes_the_frame_at_hand():
    clock = FakeClock()
    live = runner(packets(1000), clock, past=1, listener=lambda *_: live.stop())
    report = live.run()
    assert report["frames"]["forecasts"] == 1
    assert adds_up(report)


def test_a_source_may_run_in_a_thread_of_its_own():
    def source():
        yield from packets(5)
        raise RuntimeError("sensor unplugged")

    queue = threaded(source(), capacity=10, clock=SystemClock())
    report = LiveRunner(RollingForecaster(Forecaster(codec(), ToNewest()), 1), queue).run()
    assert report["frames"]["forecasts"] == 5


def test_a_callback_may_put_while_the_loop_takes():
    queue = Queue(100, FakeClock())

    def callback():
        for packet in packets(50):
            queue.put(packet)
        queue.close()

    thread = threading.Thread(target=callback)
    thread.start()
    report = LiveRunner(RollingForecaster(Forecaster(codec(), ToNewest()), 1), queue).run()
    thread.join()
    assert report["frames"]["forecasts"] == 50


def test_preparing_a_source_is_off_the_clock():
    clock = FakeClock()

    def source():
        for i, packet in enumerate(packets(10)):
            if i == 5:
                clock.sleep(30.0)  # builds the next town
            yield packet

    report = runner(source(), clock, capacity=1, past=1).run()
    assert report["frames"]["dropped"] == report["missed"] == 0
    assert report["frames"]["forecasts"] == 10


def test_histogram_percentiles_are_within_a_bin():
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.add(1e-3 * milliseconds)
    for q in (50, 90, 99):
        assert histogram.percentile(q) == pytest.approx(1e-3 * q, rel=0.03)
    assert histogram.summary()["mean_ms"] == pytest.approx(50.5)
    assert np.isnan(Histogram().percentile(50))


def test_soak(caplog):
    """10,000 frames, 1 % of them corrupt in seven ways, and random stalls: nothing leaks."""
    caplog.set_level(logging.ERROR, "occdistill.runtime.live")  # pytest would keep the warnings
    clock, rng = FakeClock(), np.random.default_rng(0)
    good = street(1)[0]
    wrong_class = good.clone()
    wrong_class[0, 0, 0] = 200
    nowhere = np.full((4, 4), np.nan)

    def unreadable():
        raise OSError("truncated")

    corrupt = [
        (unreadable, np.eye(4), 0), (good[:4], np.eye(4), 0), (good.float(), np.eye(4), 0),
        (wrong_class, np.eye(4), 0), (good, nowhere, 0), (good, np.eye(3), 0),
        (good, np.eye(4), -100),
    ]  # fmt: skip
    planted = set(rng.choice(10_000, 100, replace=False).tolist())
    sizes = []

    def source():
        for i in range(10_000):
            voxels, pose, delay = corrupt[i % 7] if i in planted else (good, np.eye(4), 0)
            yield Packet(voxels, pose, 0.05 * i + delay, name=str(i))
            if i in (2_000, 9_999):
                gc.collect()
                sizes.append((len(gc.get_objects()), resident_megabytes()))

    def work():
        return 0.02 if rng.random() > 0.02 else rng.exponential(0.5)

    answered, late = [], 0

    def listener(packet, _):
        nonlocal late
        answered.append(int(packet.name))
        late += clock.now() - (100.0 + 0.05 * answered[-1]) > 0.1 + 1e-9

    live = runner(
        source(), clock, rate=20.0, capacity=4, work=work, deadline=0.1, past=3, listener=listener
    )
    report = live.run()
    frames = report["frames"]
    assert frames["arrived"] == 10_000 and adds_up(report) and frames["waiting"] == 0
    assert frames["forecasts"] == len(answered) == report["stages"]["total"]["count"]
    assert report["missed"] == late > 100
    assert frames["dropped"] > 100
    # a corrupt frame is skipped, unless it was dropped unread
    assert 50 < frames["bad"] <= 100 <= frames["bad"] + frames["dropped"]
    assert not planted & set(answered)
    assert len(live.rolling.frames) <= 1 + 3.5 * 0.5 / 0.05
    assert len(live.tally.reasons) == 20
    (objects, megabytes), (objects_later, megabytes_later) = sizes  # after 2,000 and after 10,000
    assert objects_later - objects < 500
    assert megabytes_later - megabytes < 8
