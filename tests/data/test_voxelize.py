import math
from types import SimpleNamespace

import numpy as np
import pytest

from occdistill.data.occ3d import FREE, OCC3D, Grid
from occdistill.data.poses import invert, pose_matrix
from occdistill.data.raycast import observed_mask
from occdistill.data.voxelize import (
    LIDARSEG_TO_OCC3D,
    NO_VOTE,
    Sweep,
    load_point_labels,
    load_points,
    merge,
)
from occdistill.errors import UserError

EYE = np.eye(4)
GRID = Grid((10, 10, 4), 1.0, (0.0, 0.0, 0.0))


def sweep(points, labels=None, pose=EYE):
    labels = None if labels is None else np.array(labels, np.uint8)
    return Sweep(np.array(points, np.float32), labels, pose)


def occupied(voxels):
    return {tuple(i): int(voxels[tuple(i)]) for i in np.argwhere(voxels != FREE)}


def test_class_table_agrees_with_the_devkit():
    from nuscenes.eval.lidarseg.utils import LidarsegClassMapper
    from nuscenes.utils.color_map import get_colormap

    names = list(get_colormap())
    numbers = {name: i for i, name in enumerate(names)}
    mapper = LidarsegClassMapper(
        SimpleNamespace(
            lidarseg_name2idx_mapping=numbers,
            lidarseg_idx2name_mapping=dict(enumerate(names)),
            colormap=get_colormap(),
        )
    )
    for raw, coarse in mapper.fine_idx_2_coarse_idx_mapping.items():
        if coarse:  # 0, not scored there, holds both things and noise
            assert LIDARSEG_TO_OCC3D[raw] == coarse, names[raw]
        else:
            assert LIDARSEG_TO_OCC3D[raw] in (0, NO_VOTE), names[raw]
    dropped = [names[i] for i in np.flatnonzero(LIDARSEG_TO_OCC3D == NO_VOTE)]
    assert dropped == ["noise", "vehicle.ego"]


def test_points_fall_into_half_open_voxels():
    points = [(0, 0, 0), (9.99, 9.99, 3.99), (10, 5, 1), (5, -0.01, 1), (5, 5, 4)]
    voxels = merge([sweep(points, [4, 15, 1, 1, 1])], EYE, GRID).voxels
    assert occupied(voxels) == {(0, 0, 0): 4, (9, 9, 3): 15}
    assert voxels.dtype == np.uint8 and voxels.shape == GRID.shape


def test_majority_wins_and_importance_breaks_ties():
    inside = (2.5, 2.5, 0.5)
    for labels, elected in (([11, 11, 11, 7, 7], 11), ([11, 7, 11, 7], 7)):
        voxels = merge([sweep([inside] * len(labels), labels)], EYE, GRID).voxels
        assert occupied(voxels) == {(2, 2, 0): elected}


def test_points_that_do_not_vote_and_points_without_labels():
    points = [(1.5, 1.5, 0.5), (2.5, 1.5, 0.5)]
    assert occupied(merge([sweep(points, [NO_VOTE, 13])], EYE, GRID).voxels) == {(2, 1, 0): 13}
    for options, label in (({}, 0), ({"unlabelled": 15}, 15)):
        voxels = merge([sweep(points)], EYE, GRID, **options).voxels
        assert set(occupied(voxels).values()) == {label}
    assert not occupied(merge([sweep(np.empty((0, 3)), [])], EYE, GRID).voxels)


def test_majority_against_a_plain_count():
    rng = np.random.default_rng(0)
    points, labels = rng.uniform(-1, 11, (5000, 3)), rng.integers(0, 17, 5000)
    voxels = merge([sweep(points, labels)], EYE, GRID).voxels
    cells = np.floor(points.astype(np.float32)).astype(int)
    for cell in rng.integers(0, GRID.shape, (100, 3)):
        votes = np.bincount(labels[(cells == cell).all(axis=1)], minlength=18)
        assert votes[voxels[tuple(cell)]] == votes.max()


def test_sweeps_from_a_moving_car_meet():
    """A lamp post seen from three poses: one voxel, in the newest ego frame."""
    lidar_to_ego = pose_matrix([0.9, 0, 1.8], [math.sqrt(0.5), 0, 0, -math.sqrt(0.5)])
    post = np.array([640.0, 1206.1, 2.1, 1])
    egos = [pose_matrix([620 + 4 * i, 1200 + i, 0], [1, 0, 0, 0.1 * i]) for i in range(3)]
    sweeps = [sweep([(invert(e @ lidar_to_ego) @ post)[:3]], [15], e @ lidar_to_ego) for e in egos]
    local = (invert(egos[2]) @ post)[:3]
    where = tuple(np.floor((local - OCC3D.origin) / OCC3D.voxel_size).astype(int).tolist())
    assert occupied(merge(sweeps, egos[2]).voxels) == {where: 15}


def test_observed_is_the_way_to_each_point():
    origin = pose_matrix([0.5, 5.5, 0.5], [1, 0, 0, 0])
    seen = merge([sweep([(6.0, 0.0, 0.0)], [15], origin)], EYE, GRID).observed
    assert np.argwhere(seen).tolist() == [[x, 5, 0] for x in range(7)]
    # A beam that leaves the grid shows everything up to its border.
    seen = merge([sweep([(0.0, 50.0, 0.0)], [15], origin)], EYE, GRID).observed
    assert np.argwhere(seen).tolist() == [[0, y, 0] for y in range(5, 10)]


def test_observed_unites_the_rays_of_all_sweeps():
    rng = np.random.default_rng(1)
    exact = np.zeros(GRID.shape, np.uint8)
    sweeps = []
    for x in (3.1, 6.3):
        origin, points = np.array([x, 5.2, 1.7]), rng.normal(0, 6, (60, 3)).astype(np.float32)
        sweeps.append(sweep(points, [15] * 60, pose_matrix(origin, [1, 0, 0, 0])))
        start = origin - GRID.origin  # voxels of one metre
        exact |= observed_mask(exact.shape, start, points + start)
    voxels, seen = merge(sweeps, EYE, GRID)
    assert np.array_equal(seen, exact)
    assert seen[voxels != FREE].all()


def test_merging_forgets_what_has_driven_away_but_not_what_is_hidden():
    """A car drives off to the left; a wall appears behind where it stood."""
    pose = pose_matrix([0.5, 5.5, 1.5], [1, 0, 0, 0])
    car, wall, hidden = (4.0, 0.0, 0.0), (8.0, 0.0, 0.0), (4.0, -4.0, 0.0)
    before = sweep([car, hidden, (4.0, 0.0, -1.0)], [4, 7, 11], pose)
    after = sweep([wall, (4.0, 3.0, 0.0)], [15, 4], pose)
    voxels = merge([before, after], EYE, GRID).voxels
    assert occupied(voxels) == {(8, 5, 1): 15, (4, 8, 1): 4, (4, 1, 1): 7, (4, 5, 0): 11}
    # In the other order of time the car has arrived, and stays.
    assert occupied(merge([after, before], EYE, GRID).voxels)[4, 5, 1] == 4


def test_merging_keeps_what_stands_still():
    pose = pose_matrix([0.5, 5.5, 1.5], [1, 0, 0, 0])
    parked = sweep([(4.0, 0.2, 0.0), (4.0, -0.2, 0.0)], [4, 4], pose)
    assert occupied(merge([parked, parked, parked], EYE, GRID).voxels) == {(4, 5, 1): 4}
    assert not occupied(merge([], EYE, GRID).voxels)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_no_places_are_refused(bad):
    points = np.ones((4, 5), np.float32)
    points[2, 1] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        merge([sweep(points, [1] * 4)], EYE)


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(UserError, match="2 points but 1 labels"):
        merge([sweep([(1, 1, 1)] * 2, [4])], EYE)
    with pytest.raises(UserError, match="class 200"):
        merge([sweep([(1, 1, 1)], [200])], EYE)


def test_absurd_distances_are_outside_not_undefined():
    far = [(3e38, 0.5, 0.5), (-3e38, 0.5, 0.5), (0.5, 0.5, 1e12)]
    assert not occupied(merge([sweep(far, [4] * 3)], EYE, GRID).voxels)
    assert merge([sweep(far, [4] * 3)], EYE, GRID).observed.max() <= 1


def test_point_files(tmp_path):
    points = np.arange(20, dtype=np.float32).reshape(4, 5)
    cloud, labels = tmp_path / "a.pcd.bin", tmp_path / "a_lidarseg.bin"
    points.tofile(cloud)
    assert np.array_equal(load_points(cloud), points)
    np.array([0, 17, 24, 31], np.uint8).tofile(labels)
    assert load_point_labels(labels, 4).tolist() == [NO_VOTE, 4, 11, NO_VOTE]

    with pytest.raises(UserError, match="labels 4 points, but the cloud has 5"):
        load_point_labels(labels, 5)
    np.array([200], np.uint8).tofile(labels)
    with pytest.raises(UserError, match="class id 200"):
        load_point_labels(labels, 1)
    cloud.write_bytes(cloud.read_bytes()[:-3])
    with pytest.raises(UserError, match="77 bytes, not a multiple of 20"):
        load_points(cloud)
    cloud.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        load_points(cloud)
    with pytest.raises(UserError, match="no LiDAR file at"):
        load_points(tmp_path / "b.pcd.bin")
    with pytest.raises(UserError, match="cannot be read"):
        load_points(tmp_path)
