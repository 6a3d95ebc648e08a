"""What every back end must keep: all of `BACKENDS`, without another list."""

import pytest
import torch

from occdistill.errors import UserError
from occdistill.runtime.backends import BACKENDS
from occdistill.runtime.forecaster import Forecaster, disagreement
from tests.runtime.fakes import ToNewest, codec, street

QUICK = ("plain", "eager", "cuda-graphs")  # the others compile, a minute and more


@pytest.mark.parametrize(
    "backend", [b if b in QUICK else pytest.param(b, marks=pytest.mark.slow) for b in BACKENDS]
)
def test_a_back_end_forecasts_as_the_plain_one_or_is_refused_in_a_sentence(
    backend, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        ours = Forecaster(codec(), ToNewest(), backend=backend)
    except UserError as error:
        assert backend in str(error) and "--backend" in str(error)
        return
    plain = Forecaster(codec(), ToNewest(), backend="plain")
    past, poses = street(3)[None], torch.eye(4).repeat(1, 3, 1, 1)
    trajectory = torch.zeros(1, 2, 2)
    assert disagreement(ours, plain, past, poses, trajectory) == 0
    noise = plain.noise(len(past), torch.Generator().manual_seed(0))
    found = ours.generate(ours.condition(past, poses, trajectory), noise)
    expected = plain.generate(plain.condition(past, poses, trajectory), noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
