"""TF32 is off unless it is asked for, and whoever runs says which."""

from types import SimpleNamespace

import pytest
import torch

from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.runtime import backends, roofline
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.machine import tf32
from tests.runtime.fakes import ToNewest, codec


def switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_pytorch_starts():
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield
    assert switches() == (False, True)  # whatever ran has put them back


@pytest.mark.parametrize("allowed", [False, True])
def test_it_is_switched_inside_and_put_back_whatever_happens(allowed):
    with pytest.raises(KeyError), tf32(allowed):
        assert switches() == (allowed, allowed)
        with tf32(not allowed):
            assert switches() == (not allowed, not allowed)
        assert switches() == (allowed, allowed)
        raise KeyError


class OnGpu(torch.nn.Module):
    """A stage that says it runs there, and what the switches are while it does."""

    device_type = "cuda"

    def forward(self, x):
        return switches()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_stage_on_a_gpu_runs_with_what_its_forecaster_allows(allowed):
    assert backends.build("eager", OnGpu(), allowed)(None) == (allowed, allowed)
    assert backends.build("eager", OnGpu())(None) == (False, False)
    stage = OnGpu()
    stage.device_type = "cpu"
    assert backends.build("eager", stage, allowed) is stage


def test_a_forecaster_on_a_cpu_has_none():
    assert not Forecaster(codec(), ToNewest(), allow_tf32=True).tf32


def test_the_config_allows_it_and_an_exact_row_does_not(monkeypatch):
    given = []

    def forecaster(*_, allow_tf32, **options):
        given.append(allow_tf32)
        made = SimpleNamespace(with_parts=lambda *_: made, with_nfe=lambda _: made)
        return made

    monkeypatch.setattr("occdistill.build.models.Forecaster", forecaster)
    for allowed in ({}, {"allow_tf32": True}):
        models = Models(load_config("configs/demo.py", allowed), ("vae", "teacher"))
        models.forecaster()
        models.forecaster(allow_tf32=False)
    assert given == [False, True, False]  # the first config's two are the same


def test_the_ceiling_of_float32_is_without_it(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out: seen.append(switches()))
    roofline.ceiling("cpu", seconds=0.0)
    assert set(seen) == {(False, False)}
