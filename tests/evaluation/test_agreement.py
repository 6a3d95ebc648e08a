import pytest
import torch

from occdistill.data.occ3d import FREE
from occdistill.evaluation.agreement import agreement
from occdistill.runtime.forecaster import Forecaster
from tests.runtime.fakes import GRID, ToNewest, codec, drive


class EmptyFirstSlab(ToNewest):
    """Forecasts air in the first of 8 slabs, whatever was there."""

    def forward(self, x_t, t, condition):
        condition.past[..., 0, :] = FREE * 0.5  # the fake codec's latents are half the class ids
        return super().forward(x_t, t, condition)


def items(count):
    past = torch.full((3, *GRID.shape), 4, dtype=torch.uint8)
    poses = torch.from_numpy(drive(5, speed=0.0)).float()
    clip = {"past": past, "poses": poses, "trajectory": torch.zeros(5, 2), "future": past[:2]}
    return [clip] * count


def test_what_a_wrong_slab_costs():
    truth, other = Forecaster(codec(), ToNewest()), Forecaster(codec(), EmptyFirstSlab())
    found = agreement(truth, other, items(2))
    assert found.clips == 2
    assert found.differ == pytest.approx(1 / 8)
    assert found.iou == found.miou == pytest.approx(-100 / 8)
    assert "12.5000 % of voxels differ" in str(found)


def test_the_same_forecaster_agrees_with_itself():
    one = Forecaster(codec(), ToNewest())
    assert agreement(one, one, items(1))[1:] == (0, 0, 0)
