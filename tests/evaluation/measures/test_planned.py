import pytest
import torch

from occdistill.evaluation.measures import measures
from occdistill.evaluation.measures.base import Context
from occdistill.evaluation.measures.planned import PlanSpread
from occdistill.evaluation.rows import ClipBatch, ego_warp_row, planned_row
from occdistill.evaluation.shared import PastLatents
from occdistill.runtime.forecaster import Forecaster
from tests.runtime.fakes import GRID, codec, drive
from tests.runtime.test_planner import ToAligned


class Spread:
    """A planner that drives on, at a speed that its noise changes."""

    shape, mark = (2, 3, 1, 1), "abc"

    def __call__(self, poses, noise):
        assert poses.shape[1] == 3  # the past alone
        plans = torch.from_numpy(drive(3, 1.0))[None, 1:].float().repeat(len(poses), 1, 1, 1)
        plans[:, :, 0, 3] += noise[:, :, 0, 0, 0].cumsum(1)
        return plans


def batch(speed=1.0):
    poses = torch.from_numpy(drive(5, speed)).float()
    poses[:, 0, 3] -= poses[2, 0, 3].clone()
    g = torch.Generator().manual_seed(0)
    voxels = torch.randint(0, 18, (2, 5, *GRID.shape), generator=g).to(torch.uint8)
    return ClipBatch(
        voxels[:, :3], voxels[:, 3:], poses.repeat(2, 1, 1, 1), torch.zeros(2, 5, 2),
        torch.tensor([4, 7]),
    )  # fmt: skip


def row():
    forecaster = Forecaster(codec(conditioning="gt", align=(0,)), ToAligned())
    return planned_row("student", forecaster, Spread(), share=PastLatents())


def test_a_planned_row_says_so_and_never_looks_at_the_future():
    one, clips = row(), batch()
    assert (one.name, one.conditioning) == ("student, planned@1", "pred")
    assert one.facts["planner"] == "abc"
    found = one.draw(clips, 0)
    blind = batch()
    blind.poses[:, 3:] = float("nan")
    blind.trajectory[:] = float("nan")
    assert torch.equal(one.draw(blind, 0), found)
    assert not torch.equal(one.plan(clips, 0), one.plan(clips, 1))
    first = one.plan(clips, 0)[:, :, 0, 3].diff(dim=1) - 1.0
    latents = clips.noise((2, 3))[:, 1, 0]  # a forecast's own noise is another stream
    assert not torch.isclose(first[:, 0], latents).any()


def test_plans_are_scored_beside_the_last_motion_going_on():
    clips = batch()
    observer = measures()["plans"].observe(Context(None, lambda: None, samples=8))
    rows = [row(), ego_warp_row(GRID, 2, extrapolated=True), ego_warp_row(GRID, 2)]
    for one in rows:
        observer(one, clips, clips.future)
    planned, rule, given = (observer.result(one) for one in rows)
    assert rule == pytest.approx({"k": 1, "minADE": 0, "minFDE": 0, "missed": 0, "energy": 0})
    assert planned["k"] == 8 and planned["energy"] > 0 and 0 < planned["miscalibration"] < 0.5
    assert given is None


def test_places_of_plans_are_compared_in_the_newest_frame():
    truth = torch.from_numpy(drive(4, 3.0))[None, 1:].float()
    off = truth.clone()
    off[:, :, 1, 3] += torch.tensor([1.0, 2.0, 6.0])
    state = PlanSpread()
    state.update(torch.stack([off, off + 0], 1), truth)
    found = state.result()
    assert found["minADE"] == pytest.approx(3.0) and found["minFDE"] == pytest.approx(6.0)
    assert found["missed"] == 1 and found["energy"] == pytest.approx(41**0.5)
