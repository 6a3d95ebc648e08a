"""Where the host may wait for the GPU. A wait keeps it from running ahead, so each has its reason.

`test_forecasts.py` has the stages encode, velocity and decode, in which nothing may wait.
"""

import importlib

import pytest
import torch

from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.stream import RollingForecaster
from tests.pretended.test_forecasts import FUTURE, PAST, clip, models, small
from tests.pretended.test_training import run
from tests.runtime.fakes import drive

ALLOWED = {
    "flow/path.py:Draws.normal": "noise is drawn on the CPU, the same for every device",
    "flow/path.py:Draws.uniform": "noise is drawn on the CPU, the same for every device",
    "flow/solver.py:average_velocity": "the length of the intervals says how often a net is run",
    "training/trainer.py:Trainer.__init__": "nets are moved to the GPU once",
    "training/trainer.py:Trainer._batch": "the first losses' few clips come without a loader",
    "training/updates.py:Updater.step": "an update that overflowed in float16 is none",
    "training/updates.py:Updater.state_dict": "a file to resume from, at an interval",
    "training/hooks.py:Curves._write": "the curves, at an interval",
    "checkpoint.py:save": "a file to resume from, at an interval",
    "data/objects.py:carry_objects": "objects are looked for on the CPU",
    "data/resample.py:voxel_map": "where the grid begins: three numbers, once for all frames",
    "latents/codec.py:Codec.aligned_voxels": "which frames are aligned: a number or two",
    "runtime/forecaster.py:Forecaster.futures": "latents that aren't finite are no class 0",
    "runtime/stream.py:RollingForecaster._drawn": "a plan is a few poses, which the host puts together",
    "runtime/stream.py:RollingForecaster.push": "a frame that can't be used is refused now",
}


def seen(waits):
    return {f"{place} ({what})" for what, place in waits if place not in ALLOWED}


@pytest.fixture
def waits(gpu):
    if gpu.waits is None:
        pytest.skip("on a real GPU the stages are watched, in test_forecasts.py")
    gpu.waits.clear()
    return gpu.waits


@pytest.mark.parametrize("place", ALLOWED)
def test_what_may_wait_exists_and_says_why(place):
    file, _, name = place.partition(":")
    found = importlib.import_module(f"occdistill.{file.removesuffix('.py').replace('/', '.')}")
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found) and len(ALLOWED[place]) > 20


def test_a_training_waits_nowhere_else(waits, tmp_path):
    run(tmp_path, amp=True, accumulate=2)
    assert not seen(waits)


def test_a_forecast_and_a_stream_wait_nowhere_else(waits):
    forecaster = Forecaster(*models(small), nfe=2, guidance=2.0, device="cuda")
    past, poses, trajectory = clip(forecaster.grid.shape)
    waits.clear()
    forecaster(past, poses, trajectory=trajectory, generator=torch.Generator())
    stream = RollingForecaster(forecaster, PAST)
    where = drive(PAST + FUTURE + 1, 0.8)
    for i, voxels in enumerate(past[0]):
        stream.push(voxels, where[i])
    stream.forecast(where[PAST:])
    assert not seen(waits)
