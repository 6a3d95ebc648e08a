import numpy as np
import pytest
import torch

from occdistill.data.objects import carry_objects, find_objects, velocities
from occdistill.data.occ3d import FREE, Grid

GRID = Grid((32, 32, 4), 1.0, (-16.0, -16.0, 0.0))
CAR, PEDESTRIAN, ROAD, WALL = 4, 7, 11, 15


def frame(*boxes, road=True):
    """A frame with `(class, x, y)` cars of 4 × 2 × 1 and pedestrians of 1 × 1 × 2 voxels."""
    voxels = np.full(GRID.shape, FREE, np.uint8)
    if road:
        voxels[:, :, 0] = ROAD
    for which, x, y in boxes:
        if which == PEDESTRIAN:
            voxels[x, y, 1:3] = which
        else:
            voxels[x : x + 4, y : y + 2, 1] = which
    return voxels


def shift(x=0.0, y=0.0):
    pose = np.eye(4)
    pose[:2, 3] = x, y
    return pose


def track(*frames, poses=None):
    objects = [find_objects(f, GRID) for f in frames]
    poses = np.stack(poses or [np.eye(4)] * len(frames))
    return objects[-1], velocities(objects, poses, GRID)


def test_objects_are_connected_voxels_of_one_class():
    voxels = frame((CAR, 4, 4), (CAR, 4, 10), (PEDESTRIAN, 8, 5))  # the last one touches a car
    objects = find_objects(voxels, GRID)
    assert sorted(zip(objects.classes.tolist(), objects.sizes.tolist())) == [
        (CAR, 8),
        (CAR, 8),
        (PEDESTRIAN, 2),
    ]
    car = objects.labels[4, 4, 1] - 1
    assert objects.centres[car].tolist() == [4 + 2 - 16, 4 + 1 - 16, 1.5]
    assert (objects.labels[:, :, 0] == 0).all() and not find_objects(frame(), GRID).sizes.size


def test_a_steady_car_has_its_velocity_and_parked_ones_have_none():
    parked = [(CAR, 6, 20), (CAR, 12, 20), (CAR, 18, 20)]
    objects, steps = track(*(frame(*parked, (CAR, x, 14)) for x in (6, 9, 12)))
    moving = objects.labels[12, 14, 1] - 1
    assert steps[moving].tolist() == [3, 0]
    assert np.count_nonzero(steps.any(1)) == 1


def test_the_ego_motion_is_no_velocity_of_the_others():
    frames = [frame((CAR, x, 20), (CAR, 10, 14)) for x in (16, 13, 10)]  # parked; keeping pace
    objects, steps = track(*frames, poses=[shift(-6), shift(-3), shift(0)])
    assert steps[objects.labels[10, 20, 1] - 1].tolist() == [0, 0]
    assert steps[objects.labels[10, 14, 1] - 1].tolist() == [3, 0]


def test_what_the_edge_of_the_grid_cuts_does_not_move():
    def bus(x):
        voxels = frame()
        voxels[max(x, 0) : x + 10, 8:11, 1:3] = 3
        return voxels

    frames = [bus(x) for x in (-2, -4, -6)]  # parked; the ego leaves it behind
    _, steps = track(*frames, poses=[shift(-4), shift(-2), shift(0)])
    assert not steps.any()


@pytest.mark.parametrize("frames", [[(), (), ((CAR, 6, 6),)], [((CAR, 6, 6),), (), ()]])
def test_without_a_track_nothing_moves(frames):
    _, steps = track(*(frame(*boxes) for boxes in frames))
    assert not steps.any()


def test_objects_are_carried_into_each_future_frame():
    """A car at 3 m and a pedestrian at 1 m a keyframe, seen by an ego that drives 2 m."""
    past = np.stack([frame((CAR, x, 14), (PEDESTRIAN, 20, y)) for x, y in ((2, 2), (5, 3), (8, 4))])
    past[:, 28, 28, 1] = WALL
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    future = torch.stack([torch.from_numpy(shift(2.0 * i)).float() for i in (1, 2)])[None]
    seen = carry_objects(torch.from_numpy(past)[None], poses, future, GRID)[0]
    for i in (1, 2):
        expected = frame((CAR, 8 + i, 14), (PEDESTRIAN, 20 - 2 * i, 4 + i))
        expected[28 - 2 * i, 28, 1] = WALL
        expected[32 - 2 * i :] = FREE  # from beyond the grid
        assert np.array_equal(seen[i - 1].numpy(), expected)


def test_a_car_ahead_stays_in_sight_though_the_newest_frame_ends_before_it_will():
    past = np.stack([frame((CAR, x, 14)) for x in (16, 20, 24)])
    future = torch.stack([torch.from_numpy(shift(4.0 * i)).float() for i in (1, 2, 3)])[None]
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    seen = carry_objects(torch.from_numpy(past)[None], poses, future, GRID)[0]
    for i in range(3):
        assert (seen[i] == CAR).sum() == 8 and (seen[i, 24:28, 14:16, 1] == CAR).all()


def test_two_frames_are_too_few():
    past = torch.from_numpy(np.stack([frame(), frame()]))[None]
    with pytest.raises(ValueError, match="three past"):
        carry_objects(past, torch.eye(4).repeat(1, 2, 1, 1), torch.eye(4).repeat(1, 1, 1, 1), GRID)
