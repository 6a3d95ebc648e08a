import numpy as np
import pytest
import torch

from occdistill.distill import methods
from occdistill.flow.networks.plan import PlanField
from occdistill.studies.plans import (
    UNFIT,
    Plans,
    futures,
    interval,
    judge,
    make_method,
)
from occdistill.world.simulate import drives


def test_intervals_of_means_are_students_over_seeds_and_towns():
    towns = np.array([1.0, 2.0, 4.0, 5.0])
    t3, t1 = 3.182446, 12.706205
    half = t3 * towns.std(ddof=1) / 2
    assert interval(towns[None]) == pytest.approx((3.0, half))
    both = np.array([[1.0, 2.0, 4.0, 5.0], [3.0, 4.0, 6.0, 7.0]])  # seeds differ by 2
    seeds = t1 * np.sqrt(2) / np.sqrt(2)
    assert interval(both) == pytest.approx((4.0, np.hypot(half, seeds)))


def some_plans(count=40):
    g = torch.Generator().manual_seed(0)
    steps = torch.tensor([4.0, 0.0, 0.0]) + 0.1 * torch.randn(count, 9, 3, generator=g)
    return Plans(steps[:, :3], steps[:, 3:], torch.arange(count) % 4)


def test_every_method_makes_finite_plans_of_the_plan_field():
    data = some_plans()
    torch.manual_seed(0)
    field = PlanField(width=16)
    field.fit_scales(data.past, data.plan)
    for name in methods():
        if name in UNFIT:
            continue
        method = make_method(name, field)
        for net in method.plan(0):
            batch = data.batch(field, 8, torch.Generator().manual_seed(1))
            assert torch.isfinite(method.losses(net, batch, 0).total), name
        assert futures(method.nets["student"], data, 1).shape == (40, 16, 6, 3)


def test_the_truth_itself_is_judged_perfect():
    data = some_plans()
    perfect = data.true[:, None].expand(-1, 16, -1, -1)
    found = judge(perfect, data, perfect)
    assert all(not any(found["by_town"][key]) for key in ("minADE", "minFDE", "missed"))
    assert found["by_town"]["energy"] == pytest.approx([0] * 4, abs=1e-5)


def test_drives_are_the_ego_s_and_others_and_the_same_each_time():
    one, other = drives(3, "val", 0, 12), drives(3, "val", 0, 12)
    assert np.array_equal(one, other) and one.shape[1:] == (12, 3) and len(one) > 5
    steps = np.hypot(*np.moveaxis(np.diff(one[..., :2], axis=1), -1, 0))
    assert steps.max() < 10  # 20 m/s: nobody jumps
    along = np.cos(one[:, :-1, 2]) * np.diff(one[..., 0]) + np.sin(one[:, :-1, 2]) * np.diff(
        one[..., 1]
    )
    assert along.min() > -0.5  # nobody drives backwards
