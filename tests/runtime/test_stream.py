import numpy as np
import pytest
import torch

from occdistill.data import objects
from occdistill.data.occ3d import Grid
from occdistill.data.poses import trajectory_from_poses
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.stream import RollingForecaster
from tests.runtime.fakes import GRID, ClassesAsLatents, ToNewest, codec, drive, street


def relative(poses, newest):
    return torch.from_numpy(np.linalg.inv(poses[newest]) @ poses).float()[None]


def test_streaming_equals_the_batch_path_and_encodes_each_frame_once():
    base = codec(align=(0, 2), conditioning="gt")
    forecaster = Forecaster(base, ToNewest())
    voxels, poses = street(9), drive(10)
    stream = RollingForecaster(forecaster, past=4)
    for newest in range(7):
        before = base.vae.encoded
        stream.push(voxels[newest], poses[newest])
        assert base.vae.encoded == before + 1
        assert stream.ready == (newest >= 3)
        if not stream.ready:
            continue
        window = slice(newest - 3, newest + 1)
        every = relative(poses, newest)[:, newest - 3 : newest + 4]
        past, steps = voxels[window][None], trajectory_from_poses(every)
        plan = poses[newest + 1 : newest + 4]
        condition = stream.condition(plan)
        batch = forecaster.condition(past, every, steps)
        torch.testing.assert_close(condition.past, batch.past)
        torch.testing.assert_close(condition.aligned, batch.aligned)
        torch.testing.assert_close(condition.trajectory, batch.trajectory)
        seed = torch.Generator().manual_seed(newest)
        one = stream.forecast(plan, generator=seed)
        other = forecaster(past, every, trajectory=steps, generator=seed.manual_seed(newest))
        assert torch.equal(one, other[0])


def test_a_fast_sensor_feeds_half_second_slots():
    stream = RollingForecaster(Forecaster(codec(), ToNewest()), 3)
    for i, voxels in enumerate(street(200)):
        stream.push(voxels, np.eye(4), time=0.05 * i)
    times = [frame.time for frame in stream.slots]
    assert times == pytest.approx([8.95, 9.45, 9.95])
    assert len(stream.frames) <= 36  # the window, not the drive


def test_a_missing_frame_is_covered_for_and_a_long_gap_starts_anew():
    stream = RollingForecaster(Forecaster(codec(), ToNewest()), 3)
    voxels = street(1)[0]
    for time in (0.0, 0.5, 1.5):  # the frame at 1.0 s never came
        stream.push(voxels, np.eye(4), time)
    assert stream.ready
    assert [frame.time for frame in stream.slots] == [0.5, 0.5, 1.5]
    stream.push(voxels, np.eye(4), 9.0)
    assert not stream.ready
    with pytest.raises(ValueError, match="slots"):
        stream.forecast()


def test_a_bad_frame_is_refused_and_the_window_stays():
    stream = RollingForecaster(Forecaster(codec(), ToNewest()), 2)
    good = street(3)
    stream.push(good[0], np.eye(4))
    bad = good[1].clone()
    bad[0, 0, 0] = 200
    nowhere = np.full((4, 4), np.nan)
    for voxels, pose, time, message in (
        (bad, np.eye(4), 1.0, "class id 200"),
        (good[1][:4], np.eye(4), 1.0, "not"),
        (good[1].float(), np.eye(4), 1.0, "uint8"),
        (good[1], nowhere, 1.0, "finite"),
        (good[1], np.eye(4), 0.0, "after"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.push(voxels, pose, time)
    assert len(stream.frames) == 1
    stream.push(good[2], np.eye(4))
    assert stream.ready


@pytest.mark.parametrize("kind, poses", [("gt", 2), ("hist+1", 1)])
def test_a_model_that_is_shown_some_future_refuses_to_guess_it(kind, poses):
    stream = RollingForecaster(Forecaster(codec(conditioning=kind), ToNewest()), past=1)
    stream.push(street(1)[0], np.eye(4))
    for plan, given in ((None, 0), (drive(poses - 1), poses - 1), (np.full((2, 4, 4), np.nan), 2)):
        with pytest.raises(ValueError, match=f"{kind[:4]}.* at least {poses} .*not {given}"):
            stream.forecast(plan)
    stream.forecast(drive(poses))


def test_the_step_that_no_plan_tells_is_zero_as_at_the_end_of_a_scene():
    stream = RollingForecaster(Forecaster(codec(conditioning="gt"), ToNewest()), past=2)
    for voxels, pose in zip(street(2), drive(2)):
        stream.push(voxels, pose)
    known, plan = torch.tensor([[[0.0, 1.0]] * 4]), drive(5)[2:]
    torch.testing.assert_close(stream.condition(plan).trajectory, known)
    known[0, -1] = 0
    torch.testing.assert_close(stream.condition(plan[:2]).trajectory, known)


def test_steps_are_those_of_the_lidar_where_each_car_carries_it():
    stream = RollingForecaster(Forecaster(codec(conditioning="hist"), ToNewest()), past=2)
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]  # the car turns left on the spot
    mounting = np.eye(4)
    mounting[0, 3] = 2.0  # the LiDAR sits two metres ahead, its axes those of the ego
    for voxels, pose in zip(street(2), (np.eye(4), turned)):
        stream.push(voxels, pose, lidar_to_ego=mounting)
    torch.testing.assert_close(stream.condition().trajectory, torch.tensor([[[-2.0, 2.0]]]))


def test_warming_up_runs_every_stage_and_leaves_nothing_behind():
    base, field = codec(align=(0,), conditioning="gt"), ToNewest()
    stream = RollingForecaster(Forecaster(base, field), past=2)
    stream.warm_up()
    assert base.vae.encoded and base.vae.decoded and field.evaluations
    assert not stream.frames
    stream.push(street(1)[0], np.eye(4), time=-3.0)
    with pytest.raises(ValueError, match="before its first frame"):
        stream.warm_up()


@pytest.mark.parametrize("voxel_size", [0.4, 1.6])
def test_warming_up_paints_a_moving_object(monkeypatch, voxel_size):
    painted, nearest = [], objects.nearest

    def counted(*arguments):
        nearest(*arguments)
        painted.append(arguments[-1].any())

    monkeypatch.setattr(objects, "nearest", counted)
    grid = Grid(GRID.shape, voxel_size, (-4 * voxel_size, -4 * voxel_size, 0.0))
    carrying = Codec(ClassesAsLatents(), grid, future=2, align=(0,), carry=True)
    RollingForecaster(Forecaster(carrying, ToNewest()), past=4).warm_up()
    assert painted == [True, True]  # in each future frame
