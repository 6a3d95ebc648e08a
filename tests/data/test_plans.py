import math

import numpy as np
import pytest
import torch

from occdistill.data.plans import (
    constant_turn,
    constant_velocity,
    places,
    poses_of,
    steps_along,
    steps_between,
    windows,
)
from occdistill.data.poses import extrapolate, invert

CIRCLE = torch.tensor([2.0, 0.1, 0.3])


def test_a_quarter_of_a_circle_by_hand():
    plan = torch.tensor([[1.0, 0.0, math.pi / 2], [2.0, 0.5, 0.0]])  # forward, turn left, forward
    expected = torch.tensor([[1.0, 0.0, math.pi / 2], [0.5, 2.0, math.pi / 2]])
    torch.testing.assert_close(places(plan), expected)


def test_steps_places_and_poses_are_the_same_motion():
    plan = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    poses = poses_of(plan)
    torch.testing.assert_close(poses[..., :2, 3], places(plan)[..., :2])
    start = torch.eye(4, dtype=plan.dtype).expand(4, 1, 4, 4)
    torch.testing.assert_close(steps_between(torch.cat([start, poses], 1)), plan)
    torch.testing.assert_close(invert(poses[:, 0]) @ poses[:, 1], poses_of(plan[:, 1:2])[:, 0])


def test_steps_along_a_track_do_not_depend_on_its_frame_and_cross_half_a_turn():
    track = places(CIRCLE.double().expand(30, 3)).numpy()  # more than a whole turn
    track[:, 2] = (track[:, 2] + math.pi) % (2 * math.pi) - math.pi
    np.testing.assert_allclose(steps_along(track), np.tile(CIRCLE.double(), (29, 1)), atol=1e-6)
    c, s = math.cos(2.0), math.sin(2.0)
    moved = track @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [5.0, -3.0, 2.0]
    np.testing.assert_allclose(steps_along(moved), steps_along(track), atol=1e-9)


def test_the_rule_of_constant_turn_is_the_house_s_extrapolation():
    past = poses_of(CIRCLE.double().expand(1, 3, 3))
    past = invert(past[:, -1:]) @ past
    plan = constant_turn(steps_between(past), 6)
    torch.testing.assert_close(poses_of(plan), extrapolate(past, 6))


def test_constant_velocity_keeps_the_direction_in_which_the_car_came():
    past = torch.tensor([[[9.0, 9.0, 9.0], [2.0, 0.0, math.pi / 2]]])
    plan = constant_velocity(past, 3)  # it came along the old x axis, now its right
    torch.testing.assert_close(plan, torch.tensor([[[0.0, -2.0, 0.0]] * 3]))


@pytest.mark.parametrize("stride, starts", [(1, [0, 1, 2]), (2, [0, 2])])
def test_windows_hold_what_was_and_what_came_then(stride, starts):
    steps = np.arange(7)[:, None] * np.ones(3)
    past, plan = windows(steps, past=2, future=3, stride=stride)
    assert past[:, :, 0].tolist() == [[s, s + 1] for s in starts]
    assert plan[:, :, 2].tolist() == [[s + 2, s + 3, s + 4] for s in starts]
    assert len(windows(steps, past=4, future=4)[0]) == 0
