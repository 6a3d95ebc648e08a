import math

import numpy as np
import pytest
import torch

from occdistill.data.poses import (
    LIDAR_TO_EGO,
    displacements,
    extrapolate,
    invert,
    pose_matrix,
    quaternion,
    rotation_matrix,
    rotations_between,
    trajectory_from_poses,
)


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return torch.from_numpy(pose_matrix([x, y, z], [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]))


def test_pose_matrix_agrees_with_known_rotations():
    half = math.sqrt(0.5)
    turn = pose_matrix([1, 2, 3], [half, 0, 0, half])
    assert np.allclose(turn @ [1, 0, 0, 1], [1, 3, 3, 1])
    roll = pose_matrix([[0, 0, 0]], [[2 * half, 2 * half, 0, 0]])  # needs not be normalised
    assert np.allclose(roll[0] @ [0, 1, 0, 1], [0, 0, 1, 1])
    pitch = pose_matrix([0, 0, 0], [half, 0, half, 0])
    assert np.allclose(pitch @ [0, 0, 1, 1], [1, 0, 0, 1])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_inverse_undoes_a_pose_and_leaves_it_alone(kind):
    rng = np.random.default_rng(0)
    poses = kind(pose_matrix(rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 4))))
    before = kind(np.array(poses))
    inverse = invert(poses)
    assert type(inverse) is type(poses)
    assert np.allclose(inverse @ poses, np.eye(4))
    assert (poses == before).all()


def test_quaternions_come_back_from_their_matrices():
    q = np.random.default_rng(1).normal(size=(100, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    q = q[(q[:, 1] ** 2 + q[:, 2] ** 2) < 0.5]
    assert len(q) > 20
    for one in q:
        back = quaternion(rotation_matrix(one))
        assert np.allclose(back * np.sign(back @ one), one)


def test_displacements_turn_with_the_frame():
    poses = np.stack([np.eye(4), pose_matrix([1, 0, 0], [1, 0, 0, 1])])  # forward, then left
    poses = np.concatenate([poses, poses[1:] @ poses[1:]])
    assert np.allclose(displacements(poses), [[1, 0], [1, 0]])
    assert np.allclose(displacements(torch.from_numpy(poses)[None]), [[[1, 0], [1, 0]]])


def test_the_lidar_sits_where_nuscenes_has_it():
    assert LIDAR_TO_EGO @ [0, 1, 0, 1] == pytest.approx([1.94, 0, 1.84, 1])
    assert LIDAR_TO_EGO @ [1, 0, 0, 1] == pytest.approx([0.94, -1, 1.84, 1])


def test_a_trajectory_is_right_and_forward_and_ends_like_it_went_on():
    steps = trajectory_from_poses(torch.stack([pose(x=2.0 * i, y=0.5 * i) for i in range(3)])[None])
    torch.testing.assert_close(steps, torch.tensor([[[-0.5, 2.0]] * 3]))


def test_rotations_between_keyframes_take_the_shorter_way():
    half = math.sqrt(0.5)
    turns = np.array([[1.0, 0, 0, 0], [-half, 0, 0, -half], [0, 0, 0, 1.0]])  # left, and left again
    mixed = rotation_matrix(rotations_between(turns, np.array([0.0, 0.5, 1.0, 1.5, 2.0])))
    yaw = np.unwrap(np.arctan2(mixed[:, 1, 0], mixed[:, 0, 0]))
    assert np.degrees(yaw) == pytest.approx([0, 45, 90, 135, 180])


def test_extrapolation_of_an_arc_is_exact():
    step = pose(2.0, 0.1, 0.0, 0.2)
    frames = [pose()]
    for _ in range(5):
        frames.append(frames[-1] @ step)
    newest = invert(frames[2])
    past = torch.stack([newest @ frame for frame in frames[:3]])[None]
    future = torch.stack([newest @ frame for frame in frames[3:]])[None]
    assert torch.allclose(extrapolate(past, 3), future, atol=1e-12)


def test_extrapolation_ignores_pitch_and_height():
    previous = pose(-2.0, 0.0, -0.3)
    previous[0, 0], previous[0, 2], previous[2, 0], previous[2, 2] = 0.995, 0.0998, -0.0998, 0.995
    guess = extrapolate(torch.stack([previous, pose()])[None].float(), 2)
    assert guess.dtype == torch.float32
    assert torch.allclose(guess[0, :, 2], torch.tensor([0.0, 0, 1, 0]).expand(2, 4))
    assert torch.allclose(guess[0, :, :3, :3], torch.eye(3).expand(2, 3, 3), atol=1e-6)


def test_extrapolation_needs_two_keyframes():
    with pytest.raises(ValueError, match="two past"):
        extrapolate(pose()[None, None], 3)
