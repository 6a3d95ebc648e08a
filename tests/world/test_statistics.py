"""Statistics of motion, against closed forms, and the world's laws against real drives."""

import numpy as np
import pytest

from occdistill.errors import UserError
from occdistill.world import statistics
from occdistill.world.agents import KIND
from occdistill.world.motion import Motion, read_folder
from occdistill.world.simulate import drive


def motion(ego, others=(), category="vehicle.car", size=(4.0, 2.0, 1.5)):
    """Keyframes of an ego track (K, 3) and others' (N, K, 3)."""
    ego = np.asarray(ego, float)
    pose = np.asarray(others, float).reshape(-1, len(ego), 3)
    names = np.array([category] * len(pose), "U40")
    valid = np.ones(pose.shape[:2], bool)
    return Motion(
        "", 0.5 * np.arange(len(ego)), ego, pose, valid, np.tile(size, (len(pose), 1)), names
    )


def straight(distance, yaw=0.3):
    d = np.asarray(distance, float)
    return np.stack([d * np.cos(yaw), d * np.sin(yaw), np.full(len(d), yaw)], -1)


TIME = 0.5 * np.arange(20)


def test_a_car_that_gains_speed_evenly():
    drive = motion(straight(3.0 * TIME + 0.5 * 0.8 * TIME**2))
    assert np.allclose(statistics.speed(drive), 3.0 + 0.8 * (TIME[:-1] + 0.25))
    assert np.allclose(statistics.acceleration(drive), 0.8)
    assert np.allclose(statistics.jerk(drive), 0.0, atol=1e-9)
    assert np.allclose(statistics.yaw_rate(drive), 0.0)
    # Constant velocity, from the last half second's mean: a s²/2 + a s gap/2 short.
    for seconds in (1, 2, 3):
        error = 0.8 * seconds**2 / 2 + 0.8 * seconds * 0.25
        assert np.allclose(statistics.ctrv_error(drive, seconds), error)
        assert len(statistics.ctrv_error(drive, seconds)) == 20 - 1 - 2 * seconds


def test_braking_counts_as_much_as_speeding_up_and_jerk_is_its_change():
    drive = motion(straight(60.0 * TIME - 0.2 * TIME**3))
    assert np.allclose(statistics.acceleration(drive), 1.2 * TIME[1:-1])
    assert np.allclose(statistics.jerk(drive), 1.2)


def test_a_car_on_a_circle_is_foreseen_by_turn_rate():
    yaw = 3.0 - 0.4 * TIME  # through pi and back, clockwise
    circle = np.stack([-10.0 * np.sin(yaw), 10.0 * np.cos(yaw), yaw], -1)
    wrapped = circle.copy()
    wrapped[:, 2] = (yaw + 5.0 * np.pi) % (2.0 * np.pi) - np.pi
    assert np.allclose(statistics.yaw_rate(motion(wrapped)), 0.4)
    assert np.allclose(statistics.ctrv_error(motion(wrapped), 3), 0.0, atol=1e-9)


def test_standing_is_below_a_fifth_of_a_metre_a_second():
    drive = motion(straight([0.0, 0.0, 0.09, 0.2, 0.2]))
    assert statistics.standing(drive).tolist() == [1.0, 1.0, 0.0, 1.0]


def test_others_are_counted_near_by_kind_and_motion():
    here = np.zeros((4, 3))
    still = np.tile([10.0, 5.0, 0.0], (4, 1))
    drives = np.stack([np.arange(4) * 1.5, np.full(4, -9.0), np.zeros(4)], -1)
    far = np.tile([0.0, 41.0, 0.0], (4, 1))
    scene = motion(here, [still, drives, far])
    assert statistics.count(scene, "vehicles").tolist() == [2, 2, 2]
    assert statistics.count(scene, "vehicles", 0.5).tolist() == [1, 1, 1]
    assert np.allclose(statistics.speeds(scene, "vehicles", 0.5), 3.0)
    assert statistics.count(scene, "people").tolist() == [0, 0, 0]
    scene.category[:] = ["human.pedestrian.adult", "vehicle.bicycle", "vehicle.car"]
    assert statistics.count(scene, "cycles", 0.5).tolist() == [1, 1, 1]
    assert statistics.count(scene, "vehicles").tolist() == [0, 0, 0]
    scene.valid[1, 2] = False
    assert statistics.count(scene, "cycles").tolist() == [1, 0, 0]


def test_headway_is_the_gap_to_the_nearest_vehicle_in_the_way():
    ego = np.tile([0.0, 0.0, np.pi / 2], (3, 1))  # looks along y
    ahead = np.tile([0.5, 20.0, np.pi / 2], (3, 1))
    beyond = np.tile([0.0, 30.0, np.pi / 2], (3, 1))
    beside = np.tile([3.0, 10.0, np.pi / 2], (3, 1))
    behind = np.tile([0.0, -10.0, np.pi / 2], (3, 1))
    scene = motion(ego, [ahead, beyond, beside, behind])
    assert np.allclose(statistics.headway(scene), 20.0 - 3.5 - 2.0)
    assert len(statistics.headway(motion(ego, [beside, behind]))) == 0
    assert len(statistics.headway(motion(ego))) == 0


def test_wasserstein_of_points_shifts_and_unequal_counts():
    assert statistics.wasserstein(np.array([0.0]), np.array([3.0])) == pytest.approx(3.0)
    one = np.array([4.0, 0.0, 1.0])
    assert statistics.wasserstein(one, one + 0.5) == pytest.approx(0.5)
    # A third of the mass goes from 1 to 0, a sixth from 1 to ... : quantile functions by hand.
    assert statistics.wasserstein(np.array([0.0, 1.0]), np.array([0.0, 0.0, 3.0])) == pytest.approx(
        1 / 6 * 1 + 1 / 3 * 2
    )


def test_times_between_samples():
    drive = motion(np.array([[0.0, 0, 3.0], [1.0, 2, -3.0], [3.0, 2, -3.0]]), np.ones((1, 3, 3)))
    drive.valid[0, 2] = False
    half = drive.at(np.array([0.0, 0.25, 0.75, 1.0]))
    assert np.allclose(half.ego[:, :2], [[0, 0], [0.5, 1], [2, 2], [3, 2]])
    assert abs(half.ego[1, 2]) == pytest.approx(np.pi, abs=1e-6)  # through pi, not through zero
    assert half.valid[0].tolist() == [True, True, False, False]
    fine = drive.at(np.arange(0.0, 1.01, 0.1)).keyframes()
    assert np.allclose(fine.time, [0.0, 0.5, 1.0]) and np.allclose(
        fine.ego[:, :2], drive.ego[:, :2]
    )


def test_compare_tolerates_what_draws_of_its_own_scenes_show():
    rng = np.random.default_rng(3)
    ours = [motion(straight(np.cumsum(rng.uniform(1, 5) * np.ones(20)))) for _ in range(60)]
    rows = {row.name: row for row in statistics.compare(ours, ours[:8])}
    assert rows["speed, m/s"].distance < 2.0 * rows["speed, m/s"].tolerance
    fast = [motion(straight(np.cumsum(9.0 * np.ones(20)))) for _ in range(8)]
    rows = {row.name: row for row in statistics.compare(ours, fast)}
    assert rows["speed, m/s"].distance > 5.0 * rows["speed, m/s"].tolerance
    assert rows["speed, m/s"].two == pytest.approx((18.0, 18.0, 18.0))
    assert "people" in rows and "headway, m" not in rows


def recording(path, distance, **changed):
    """Write one scene at 10 Hz whose ego drives along x, and one car that stands."""
    steps = len(distance)
    position = np.zeros((2, steps, 3), np.float32)
    position[0, :, 0], position[1, :, 0] = distance, 12.0
    arrays = dict(
        timestep=0.1 * np.arange(steps),
        position=position,
        heading=np.zeros((2, steps), np.float32),
        valid=np.ones((2, steps), bool),
        size=np.array([[4.1, 1.7, 1.6], [4.5, 1.9, 1.6]]),
        nuscenes_class=np.array(["vehicle.car", "vehicle.car"]),
    )
    np.savez(path, **(arrays | changed))


def test_a_recorded_scene_is_read_and_cut_where_the_ego_is_set_back(tmp_path):
    even = 0.5 * np.arange(31)
    recording(tmp_path / "a.npz", even)
    jumps = even.copy()
    jumps[28:] -= 2.0
    recording(tmp_path / "b.npz", jumps)
    whole, cut = read_folder(tmp_path)
    assert (whole.name, len(whole.time), whole.notes) == ("a", 31, [])
    assert whole.pose.shape == (1, 31, 3) and whole.size.tolist() == [[4.5, 1.9, 1.6]]
    assert len(cut.time) == 28 and "2.8 s" in cut.notes[0]
    assert np.allclose(statistics.speed(cut.keyframes()), 5.0)


def test_a_folder_that_holds_no_motion_is_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no recorded scenes"):
        read_folder(tmp_path)
    recording(tmp_path / "a.npz", np.arange(20.0), heading=np.zeros((2, 5)))
    with pytest.raises(UserError, match="heading of a shape"):
        read_folder(tmp_path)
    recording(tmp_path / "a.npz", np.arange(20.0), timestep=np.zeros(20))
    with pytest.raises(UserError, match="times that do not rise"):
        read_folder(tmp_path)


def test_the_laws_stay_calibrated():
    """Every car of three towns, as if it were the ego. In brackets what real drivers do: the eight
    scenes of nuScenes' mini_train at 2 Hz, by `tools/motion.py`. docs/world.md has all of it."""
    cars = []
    for number in range(3):
        tracks = drive(77, "train", number, 40)[1]
        cars += [motion(tracks.pose[:, n]) for n in np.flatnonzero(tracks.kind == KIND["car"])]

    def samples(quantity, *args):
        return np.concatenate([quantity(car, *args) for car in cars])

    assert len(cars) > 60
    change = samples(statistics.acceleration)
    assert 0.1 < np.median(change) < 0.65 and 1.0 < np.quantile(change, 0.95) < 1.6  # (0.24, 1.33)
    assert 0.12 < samples(statistics.standing).mean() < 0.42  # (0.32)
    assert 9.5 < np.quantile(samples(statistics.speed), 0.95) < 15.0  # (14.0)
    assert 0.015 < samples(statistics.yaw_rate).mean() < 0.055  # (0.03)
    for seconds, most in ((1, 0.5), (2, 1.7), (3, 3.5)):  # (0.27, 0.86, 1.78)
        assert 0.4 * most < samples(statistics.ctrv_error, seconds).mean() < most
