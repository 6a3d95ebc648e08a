"""Full-size networks on the whole path, and what their distillation needs."""

from pathlib import Path

import pytest
import torch

from occdistill.build.builders import build_dataset
from occdistill.build.config import load_config
from occdistill.build.models import Models
from occdistill.occfm.memory import PeakBytes, live_bytes
from tests.tool import call

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_from_a_published_file_to_a_forecast(tmp_path, tiny_world, future_file, monkeypatch):
    arguments = ["weights", future_file, "--weights", "plain", "--out", tmp_path]
    call(monkeypatch, "import_occfm", *arguments)
    config = load_config(
        ROOT / "configs/nus.py",
        {
            "vae_checkpoint": str(tmp_path / "vae.pth"),
            "teacher_checkpoint": str(tmp_path / "teacher.pth"),
            "data.dataroot": str(tiny_world),
            "data.version": "v1.0-synthetic",
        },
    )
    clip = build_dataset(config, "val")[0]
    forecaster = Models(config).forecaster(nfe=2, guidance=2.0)
    past, poses, trajectory = (clip[key][None] for key in ("past", "poses", "trajectory"))
    generator = torch.Generator().manual_seed(0)
    future = forecaster(past, poses, trajectory=trajectory, generator=generator)
    assert future.shape == (1, 6, 200, 200, 16) and future.dtype == torch.uint8
    assert int(future.max()) < 18 and len(future.unique()) > 5
    shifted = trajectory + torch.tensor([0.0, 5.0])
    generator.manual_seed(0)
    assert not torch.equal(forecaster(past, poses, trajectory=shifted, generator=generator), future)


def test_bytes_are_counted_while_they_live():
    with PeakBytes() as counted:
        a = torch.zeros(1000)
        b = a + 1
        view = b[:10]
        assert counted.live == counted.peak == 8000
        del a, b
        assert counted.live == 4000
        del view
        assert counted.live == 0
        torch.zeros(500)
    assert (counted.live, counted.peak) == (0, 8000)


@pytest.mark.slow
def test_a_full_size_step_fits_a_24_gb_card():
    plain, sparing = live_bytes(), live_bytes(recompute=True)
    assert plain["weights"] == pytest.approx(3 * 4 * 11_854_992, rel=0.01)
    assert plain["resident"] == pytest.approx(plain["weights"] + 4 * 4 * 11_533_456, rel=0.05)
    assert sparing["peak"] < plain["peak"] < 8e9


@pytest.mark.gpu
@pytest.mark.slow
def test_a_measured_step_needs_what_was_counted():
    from occdistill.occfm.memory import measure

    assert measure(device="cuda")["peak"] < 1.5 * live_bytes()["peak"]
