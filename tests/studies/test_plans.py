import numpy as np
import pytest
import torch

from occdistill.distill import methods
from occdistill.flow.networks.plan import PlanField
from occdistill.studies.plans.report import verdict
from occdistill.studies.plans.runs import UNFIT, make_method, once
from occdistill.studies.plans.scores import SCORES, futures, interval, judge, summary
from occdistill.studies.plans.windows import REACH, Plans
from occdistill.world.forks import forks_ahead
from occdistill.world.simulate import drives
from occdistill.world.town import LANE


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
    sight = torch.tensor([0.5, 1.0, 1.0, 0.0, 1.0]).repeat(count, 1)
    return Plans(steps[:, :3], steps[:, 3:], sight, torch.arange(count) % 4)


def test_every_method_makes_finite_plans_of_the_plan_field():
    data = some_plans()
    torch.manual_seed(0)
    field = PlanField(scene=(5, 1, 1), width=16)
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


def test_a_file_is_made_once_and_left_to_whom_is_at_it(tmp_path):
    path, made = tmp_path / "deep" / "file", []

    def make():
        made.append(1)
        once(path, lambda: made.append("beside"), wait=False)  # somebody is at it: left alone
        path.write_text("whole")

    once(path, make)
    once(path, make)
    assert made == [1] and path.read_text() == "whole"


def test_a_window_is_before_a_junction_by_its_past_and_its_map_alone():
    data = some_plans(6)
    near = 1 - torch.tensor([23.0, 25.0, 23.0, 23.0, 0.0, 23.0]) / REACH
    data.sight[:, 0] = near
    data.past[:] = torch.tensor([4.0, 0.0, 0.0])  # in six steps, 24 m
    data.sight[2, 1] = 0.0  # one way on
    data.past[3] = 0.05  # stands
    data.sight[4] = 0.0  # no map
    assert data.before_junction.tolist() == [True, False, False, False, False, True]
    data.plan[0] = 100.0
    assert data.before_junction[0]


def test_a_batch_is_of_junctions_of_everything_and_of_everything_without_its_map():
    data = some_plans(30)
    data.sight[:, 0] = 0.0
    data.sight[7, 0] = 0.9  # the only one before a junction
    batch = data.batch(PlanField(scene=(5, 1, 1)), 9, torch.Generator().manual_seed(1))
    sight = batch.condition.past[:, 0, :, 0, 0]
    assert (sight[:3] == data.sight[7]).all() and (sight[3:6, 4] == 1).all()
    assert not sight[6:].any()


def test_a_better_row_lies_below_the_intervals_and_runs_are_paired():
    g = np.random.default_rng(0)
    hard = g.normal(5, 2, (4, 6))  # seeds and towns differ by more than methods do

    def runs(worse):
        one = lambda v: {k: list(v + worse) for k in SCORES}
        return [{"by_town": one(v), "kept": 0.5 - worse, "miscalibration": 0.1} for v in hard]

    rows = {"MFD": runs(0.0), "Regression": runs(0.1), "SiD": runs(g.normal(0, 2, 6))}
    table = summary(rows)
    assert table["Regression"]["MFD minus this"]["energy"] == pytest.approx((-0.1, 0.0), abs=1e-9)
    assert table["Regression"]["MFD minus this"]["kept"] == pytest.approx((0.1, 0.0), abs=1e-9)
    assert verdict(table, "energy") == {"below": ["Regression"], "above": [], "open": ["SiD"]}


def test_the_map_tells_how_far_the_lane_goes_on_and_which_ways_lead_on():
    town, _ = drives(3, "val", 0, 2)
    paths = town.paths
    lane = next(
        p for p in np.flatnonzero(paths.kind == LANE)
        if len(set(paths.next_ids[paths.next_start[p] : paths.next_start[p + 1]])) > 1
    )  # fmt: skip
    xy = paths.xy[paths.start[lane] : paths.start[lane + 1]]
    way = xy[-1] - xy[-2]
    here = xy[-1] - 3 * way / np.hypot(*way)  # 3 m before its end
    yaw = np.arctan2(way[1], way[0])
    ahead = forks_ahead(town, np.array([[[*here, yaw], [*here, yaw + np.pi], [1e4, 1e4, 0]]]))[0]
    assert ahead[0, 0] == pytest.approx(3, abs=1.1) and ahead[0, 1:].any()
    assert np.isinf(ahead[2, 0]) and not ahead[2, 1:].any()
    assert ahead[1, 0] != ahead[0, 0]  # the other way it is on no lane, or on another


def test_drives_are_the_ego_s_and_others_and_the_same_each_time():
    (_, one), (_, other) = drives(3, "val", 0, 12), drives(3, "val", 0, 12)
    assert np.array_equal(one, other) and one.shape[1:] == (12, 3) and len(one) > 5
    steps = np.hypot(*np.moveaxis(np.diff(one[..., :2], axis=1), -1, 0))
    assert steps.max() < 10  # 20 m/s: nobody jumps
    along = np.cos(one[:, :-1, 2]) * np.diff(one[..., 0]) + np.sin(one[:, :-1, 2]) * np.diff(
        one[..., 1]
    )
    assert along.min() > -0.5  # nobody drives backwards
