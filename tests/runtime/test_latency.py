import subprocess
import sys

import pytest
import torch

from occdistill.runtime import latency
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.machine import device_name
from tests.runtime.fakes import ClassesAsLatents, ToNewest, codec, drive, street

ENCODE, GENERATE, DECODE = 0.002, 0.004, 0.008


class Clock:
    """A `time` whose hands only move when a fake network works."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def slow(monkeypatch):
    """A forecaster whose every stage takes exactly what the constants say."""
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)

    class SlowVAE(ClassesAsLatents):
        def encode(self, voxels):
            clock.now += ENCODE
            return super().encode(voxels)

        def decode(self, z):
            clock.now += DECODE
            return super().decode(z)

    class SlowField(ToNewest):
        def forward(self, x_t, t, condition):
            clock.now += GENERATE * len(self.evaluations or [0])  # slower every time
            return super().forward(x_t, t, condition)

    base = codec()
    base.vae = SlowVAE()
    return Forecaster(base, SlowField())


def clip(batch=1):
    poses = torch.from_numpy(drive(5)).float().expand(batch, -1, -1, -1)
    return street(3)[None].expand(batch, -1, -1, -1, -1), poses, torch.zeros(batch, 5, 2)


def test_scopes_hold_what_their_names_say(slow):
    scopes = latency.measure(slow, *clip(), repeats=101, warmup=1)
    assert tuple(scopes) == latency.SCOPES
    for scope, fixed in zip(latency.SCOPES, (ENCODE + DECODE, DECODE, 0)):
        for name, rank in (("p50_ms", 51), ("p90_ms", 91), ("p99_ms", 100)):
            assert scopes[scope][name] == pytest.approx(1e3 * (fixed + rank * GENERATE))


@pytest.mark.parametrize(
    "repeats, known",
    [(9, {"p50_ms"}), (10, {"p50_ms", "p90_ms"}), (100, {"p50_ms", "p90_ms", "p99_ms"})],
)
def test_a_percentile_needs_a_repeat_beyond_it(slow, repeats, known):
    summary = latency.measure(slow, *clip(), repeats=repeats, warmup=0)["generate"]
    names = {"p50_ms", "p90_ms", "p99_ms"}
    assert {name for name in names if summary[name] is not None} == known


def test_only_the_newest_frame_is_encoded_per_step():
    forecaster = Forecaster(base := codec(), ToNewest())
    latency.measure(forecaster, *clip(), repeats=4, warmup=2)
    assert base.vae.encoded == 6  # one a step


def test_rates_count_clips_and_future_frames(slow):
    rate = latency.measure(slow, *clip(batch=3), repeats=1, warmup=0)["generate_decode"]
    assert rate["clips_per_s"] == pytest.approx(3 / (GENERATE + DECODE))
    assert rate["frames_per_s"] == pytest.approx(6 / (GENERATE + DECODE))


def test_forecasters_take_turns():
    order = []

    class Noted(ToNewest):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x_t, t, condition):
            order.append(self.name)
            return super().forward(x_t, t, condition)

    forecasters = {name: Forecaster(codec(), Noted(name)) for name in "ab"}
    assert set(latency.side_by_side(forecasters, *clip(), repeats=2, warmup=1)) == {"a", "b"}
    assert order == ["a", "b"] * 3


# In a process of its own: memory that earlier tests gave back to the allocator but not to the
# system would hide the allocation.
PEAK = """
import torch
from occdistill.runtime import latency
cpu = torch.device("cpu")
latency.reset_peak(cpu)
before = latency.peak_mb(cpu)
held = torch.ones(32 * 2**20)  # 128 MiB
del held
print(latency.peak_mb(cpu) - before)
"""


def test_peak_memory_sees_an_allocation_that_is_gone_again():
    found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(found.stdout) >= 100


def test_a_cpu_has_a_name_with_its_threads():
    assert device_name("cpu").endswith(" threads")
