import pytest
import torch

from occdistill import UserError
from occdistill.data.poses import extrapolate
from occdistill.flow.networks.plan import PlanField
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.planner import Planner
from occdistill.runtime.stream import RollingForecaster
from tests.runtime.fakes import GRID, codec, drive, street


@pytest.fixture
def still():
    """A planner whose flow stands still: a plan is its noise, scaled, over the last step."""
    torch.manual_seed(0)
    field = PlanField(future=2, steps=3, width=8)
    torch.nn.init.zeros_(field.leave.weight)
    torch.nn.init.zeros_(field.leave.bias)
    field.scale.copy_(torch.tensor([[0.5, 0.1, 0.2], [2.0, 1.0, 0.1]]))
    return Planner(field, nfe=3)


def past(frames=4, speed=2.0):
    return torch.from_numpy(drive(frames, speed))[None]


def test_without_noise_the_last_motion_goes_on_and_noise_is_scaled_steps(still):
    known = past()
    noise = torch.zeros(1, *still.shape)
    plan = still(known, noise)
    torch.testing.assert_close(plan, extrapolate(known, 2), atol=1e-6, rtol=0)
    noise[0, 0, 0] = 1.0
    noise[0, 1, 2] = -1.0
    plan = still(known, noise)
    assert plan[0, :, 0, 3].tolist() == pytest.approx([2.5, 4.5])
    turned = torch.atan2(plan[0, :, 1, 0], plan[0, :, 0, 0])
    assert turned.tolist() == pytest.approx([0.0, -0.1])


def test_a_plan_does_not_depend_on_the_frame_that_poses_are_in_nor_on_older_ones(still):
    known, noise = past(6), torch.randn(1, *still.shape)
    other = torch.eye(4).double()
    other[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    other[:3, 3] = torch.tensor([100.0, -50.0, 3.0])
    plan = still(known, noise)
    torch.testing.assert_close(still(other @ known, noise), plan)
    torch.testing.assert_close(still(known[:, -4:], noise), plan)
    with pytest.raises(ValueError, match="takes 4 past poses, and 3 are given"):
        still(known[:, -3:], noise)


def test_a_planner_knows_the_motion_alone():
    with pytest.raises(UserError, match="must have scene=None"):
        Planner(PlanField(scene=(5, 1, 1)))


class Fast:
    """A planner whose first plan is 1 m a step, whose second 2 m, and so on."""

    shape = (2, 3, 1, 1)

    def __init__(self):
        self.asked = 0

    def __call__(self, poses, noise):
        self.asked += 1
        return torch.from_numpy(drive(3, self.asked))[None, 1:]


class ToAligned(torch.nn.Module):
    """The velocity that reaches the aligned past."""

    def forward(self, x_t, t, condition):
        return (condition.aligned - x_t) / (1 - t)[:, None, None, None, None]


def test_every_future_has_a_plan_of_its_own_and_the_past_is_encoded_once():
    known = codec(conditioning="gt", align=(0,))
    forecaster = Forecaster(known, ToAligned())
    voxels = torch.randint(0, 18, (1, 3, *GRID.shape)).to(torch.uint8)
    poses = past(3, 1.0).float()
    poses[..., 0, 3] -= 2.0  # a plan counts from the newest
    given = [
        forecaster(voxels, poses, torch.from_numpy(drive(3, speed))[None, 1:].float())
        for speed in (1, 2, 3)
    ]
    assert not torch.equal(given[0], given[1])
    forecaster.planner = planner = Fast()
    before = known.vae.encoded
    found = forecaster(voxels, poses, samples=3)
    assert torch.equal(found, torch.stack(given, 1)) and planner.asked == 3
    assert known.vae.encoded - before == 3 + 3 * 2  # the past, and each plan's aligned frames
    planner.asked = 1
    assert torch.equal(forecaster(voxels, poses), given[1])  # one sample has no axis of its own


def test_a_given_plan_is_kept():
    forecaster = Forecaster(codec(conditioning="gt", align=(0,)), ToAligned())
    voxels = torch.randint(0, 18, (1, 3, *GRID.shape)).to(torch.uint8)
    whole = past(5, 1.0).float()
    without = forecaster(voxels, whole)
    forecaster.planner = Fast()
    assert torch.equal(forecaster(voxels, whole), without)
    assert torch.equal(forecaster(voxels, whole[:, :3], whole[:, 3:]), without)
    assert forecaster.planner.asked == 0


def test_a_stream_without_a_plan_draws_one_for_each_future():
    forecaster = Forecaster(codec(conditioning="gt", align=(0,)), ToAligned())
    forecaster.planner = planner = Fast()
    stream, somewhere = RollingForecaster(forecaster, past=3), torch.eye(4).double()
    somewhere[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    somewhere[:2, 3] = torch.tensor([1000.0, -500.0])
    stream.warm_up()
    assert planner.asked == 1  # a plan takes time, too
    voxels, poses = street(3), somewhere @ past(3, 1.0)[0]
    for frame, pose in zip(voxels, poses.numpy()):
        stream.push(frame, pose)
    seed, planner.asked = torch.Generator().manual_seed(0), 0
    several = stream.forecast(samples=3, generator=seed)
    planner.asked = 0
    batch = forecaster(voxels[None], poses[None], samples=3, generator=seed.manual_seed(0))
    assert torch.equal(several, batch[0]) and planner.asked == 3
    planner.asked = 0
    assert torch.equal(stream.forecast(), several[0])  # one sample has no axis of its own
    steps = stream.condition().trajectory[0]  # 2 m a step; after the plan it goes on so
    torch.testing.assert_close(
        steps[:, 1], torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0]), atol=1e-4, rtol=0
    )
    given = (somewhere @ past(5, 1.0)[0])[3:].numpy()
    stream.forecast(given)
    assert planner.asked == 2
