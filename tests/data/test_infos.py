import numpy as np
import pytest

from occdistill.data.infos import build_infos, command, future_steps
from occdistill.data.poses import pose_matrix
from occdistill.data.scenes import load_index


def arc(yaw_step, count=10):
    """LiDAR poses of a drive at 4 m a step; y is forward."""
    step = pose_matrix([0, 4, 0], [np.cos(yaw_step / 2), 0, 0, np.sin(yaw_step / 2)])
    poses = [pose_matrix([7, -3, 1], [0.8, 0, 0, 0.6])]
    for _ in range(count - 1):
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def test_first_entry_is_the_displacement_to_the_next_keyframe(tiny):
    for scene in load_index(tiny.root, tiny.version, "train"):
        infos = build_infos([scene])[scene.name]
        assert [info["token"] for info in infos] == [frame.token for frame in scene.keyframes]
        for info, frame in zip(infos, scene.keyframes):
            assert np.allclose(info["gt_ego_fut_trajs"][0], frame.trajectory, atol=1e-5)
            assert np.array_equal(info["ego2global"], frame.ego_to_global)


def test_later_entries_stay_in_the_present_frame():
    yaw = 0.2
    future, valid = future_steps(arc(yaw), steps=3)
    turned = [[-4 * np.sin(k * yaw), 4 * np.cos(k * yaw)] for k in range(3)]
    assert np.allclose(future[0], turned, atol=1e-5)
    assert np.allclose(future[6], turned, atol=1e-5)
    assert valid[6].tolist() == [1, 1, 1] and valid[8].tolist() == [1, 0, 0]
    assert not future[8, 1:].any() and not future[9].any()
    assert future.dtype == valid.dtype == np.float32


@pytest.mark.parametrize(("yaw", "mode"), [(-0.1, 0), (0.1, 1), (0.0, 2), (0.01, 2)])
def test_command_is_right_left_or_straight(yaw, mode):
    assert command(future_steps(arc(yaw))[0][0]).tolist() == np.eye(3)[mode].tolist()


def test_command_at_the_border():
    assert command(np.array([[1.0, 5], [1.0, 5]])).argmax() == 0
    assert command(np.array([[-1.99, 5]])).argmax() == 2
