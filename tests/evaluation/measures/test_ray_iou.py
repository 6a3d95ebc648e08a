import numpy as np
import pytest

from occdistill.data.occ3d import OCC3D, Grid
from occdistill.errors import UserError
from occdistill.evaluation.measures.ray_iou import (
    RayIoU,
    drive_origins,
    lidar_directions,
    ray_iou,
)

GRID = Grid((20, 20, 4), 1.0, (-10.0, -10.0, -1.0))
AHEAD = np.array([[1.0, 0, 0]])
ORIGIN = [np.array([[0.5, 0.5, 0.5]])]


def wall(x, label=15):
    """A wall across the road at voxel column x, 1 m thick; its face is x - 10 metres ahead."""
    voxels = np.full((1, *GRID.shape), 17, np.uint8)
    voxels[:, x] = label
    return voxels


def score(pred, target, directions=AHEAD, origins=ORIGIN):
    measure = RayIoU(len(pred), GRID, directions=directions)
    measure.update(pred, target, origins)
    return {name: row["avg@all"] for name, row in measure.result().items()}


@pytest.mark.parametrize(("shift", "right"), [(0, 3), (1, 2), (2, 1), (3, 1), (4, 0), (5, 0)])
def test_a_shifted_wall_is_right_within_the_threshold(shift, right):
    # Level rays: the distance error is exactly `shift` metres, at the front face and at the back;
    # thresholds are 1, 2 and 4 m, exclusive.
    got = score(wall(14 + shift), wall(14))
    assert got["RayIoU"] == pytest.approx(100 * right / 3)
    assert [got[k] for k in ("4m", "2m", "1m")] == [100.0 if right > i else 0.0 for i in range(3)]


def test_thickness_behind_the_face_does_not_matter():
    thick = wall(14)
    thick[:, 14:] = 15
    assert score(thick, wall(14))["RayIoU"] == 100


def test_the_wrong_class_counts_against_both():
    assert score(wall(14, 16), wall(14, 15))["RayIoU"] == 0  # two classes, both with no hit


def test_only_rays_that_meet_something_in_the_truth_count():
    empty = np.full_like(wall(14), 17)
    assert np.isnan(score(wall(14), empty)["RayIoU"])
    assert score(empty, wall(14))["RayIoU"] == 0


def test_two_rays_by_hand():
    # ahead: truth wall (15), forecast the same; behind: truth vegetation (16), forecast nothing
    target, pred = wall(14), wall(14)
    target[:, 4] = 16
    both = np.concatenate([AHEAD, -AHEAD])
    assert score(pred, target, both)["1m"] == pytest.approx((100 + 0) / 2)
    pred[:, 4] = 15  # now the wrong class there: union of 15 grows to 2
    assert score(pred, target, both)["1m"] == pytest.approx((50 + 0) / 2)


def test_origins_sum_up():
    target = wall(14)
    origins = [np.array([[0.5, 0.5, 0.5], [2.5, 3.5, 0.5]])]
    assert score(target, target, origins=origins)["RayIoU"] == 100
    assert score(wall(17), target, origins=origins)["4m"] == 100


def voxel(x, y, label=15):
    voxels = np.full((1, *GRID.shape), 17, np.uint8)
    voxels[:, x, y] = label
    return voxels


@pytest.mark.parametrize(
    ("true", "guess", "sparseocc", "entry"),
    [
        # The ray below starts at a voxel's corner in x, 0.8 m into it in y, and crosses these
        # columns (metres along it): (12, 12) from 2.5 to 11/3, a corner of (12, 13) from 11/3 to
        # 3.75, (13, 13) from 3.75 to 5.
        ((12, 12), (12, 13), 3, 2),  # exits differ by 1/12 m, entries by 7/6 m
        ((12, 13), (13, 13), 2, 3),  # exits differ by 5/4 m, entries by 1/12 m
        ((12, 12), (13, 13), 2, 2),  # exits differ by 4/3 m, entries by 5/4 m
        ((13, 13), (13, 13), 3, 3),
    ],
)
def test_a_slanted_ray_is_as_long_as_to_its_exit_or_entry(true, guess, sparseocc, entry):
    ray, start = np.array([[0.8, 0.6, 0.0]]), [[0.0, 0.8, 0.5]]
    for right, chosen in ((sparseocc, {}), (entry, {"distance": "entry"})):
        got = ray_iou(voxel(*guess), voxel(*true), [start], grid=GRID, directions=ray, **chosen)
        assert [got[k] for k in ("4m", "2m", "1m")] == [100.0 * (right > i) for i in range(3)]
        assert got["RayIoU"] == pytest.approx(100 * right / 3)
        assert got["per_class"]["manmade"]["RayIoU"] == pytest.approx(100 * right / 3)
        assert np.isnan(got["per_class"]["car"]["1m"])


@pytest.mark.parametrize(("distance", "apart"), [("exit", 0.8), ("entry", 0.4 * np.sqrt(2))])
def test_ground_a_voxel_too_high_on_the_occ3d_grid(distance, apart):
    # From 1.84 m up, 45° down, between the x and y axes. True ground from z = -1 to -0.6 is entered
    # 2.44 m away (as seen on a map), at x = y = 1.725, and left at the column's corner x = y = 2.0,
    # 2.828 m away; the forecast's, up to -0.2, is entered 2.04 m away, at x = y = 1.442, and left
    # at x = y = 1.6, 2.263 m away. The ways are √2 longer than on the map.
    truth, forecast = np.full((2, 1, *OCC3D.shape), 17, np.uint8)
    truth[..., 0], forecast[..., 1] = 11, 11
    down = np.array([[0.5, 0.5, -np.sqrt(0.5)]])
    thresholds = (apart - 0.01, apart + 0.01)
    got = ray_iou(
        forecast, truth, [[0, 0, 1.84]], thresholds=thresholds, directions=down, distance=distance
    )
    assert [got[f"{t:g}m"] for t in thresholds] == [0, 100]


def test_arrays_of_several_grids_are_counted_together():
    # one grid with two rays right, one with one ray wrong in class: 15 has 2 of 3, 16 none of 1
    both = np.concatenate([AHEAD, -AHEAD])
    first = wall(14)[0]
    first[4] = 15
    truth, forecast = [first, wall(14)[0]], [first, wall(14, 16)[0]]
    got = ray_iou(forecast, truth, [ORIGIN[0], ORIGIN[0][0]], grid=GRID, directions=both)
    assert got["RayIoU"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert got["per_class"]["manmade"]["4m"] == pytest.approx(200 / 3)
    assert got["per_class"]["vegetation"]["4m"] == 0


def test_arrays_that_do_not_fit_are_refused():
    good = wall(14)
    with pytest.raises(
        UserError, match=r"prediction of shape \(20, 4\) for a grid of \(20, 20, 4\)"
    ):
        ray_iou(good[0], good, ORIGIN, grid=GRID)
    with pytest.raises(UserError, match="one of each per grid"):
        ray_iou(good, good, [], grid=GRID)
    with pytest.raises(UserError, match="truth with class ids outside 0..17"):
        ray_iou(good, good + 1, ORIGIN, grid=GRID)
    with pytest.raises(UserError, match="not 'middle'"):
        ray_iou(good, good, ORIGIN, grid=GRID, distance="middle")


def test_directions_are_sparseoccs():
    directions = lidar_directions()
    assert directions.shape == (39 * 360, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    down = directions[:, 2].min()
    assert down == pytest.approx(-np.sqrt(0.5)) and 0.2 < directions[:, 2].max() < 0.23
    # the first ten pitches meet flat ground at 1 … 10 times the sensor's height
    pitch = np.unique(directions[:, 2].round(12))
    np.testing.assert_allclose(np.sqrt(1 - pitch[:10] ** 2) / -pitch[:10], np.arange(1, 11))
    # the others rise by the last step of these
    steps = np.diff(np.arcsin(pitch[8:]))
    np.testing.assert_allclose(steps, np.arctan(1 / 9) - np.arctan(1 / 10), rtol=1e-6)
    # a degree from ray to ray
    around = np.degrees(np.arctan2(directions[:360, 1], directions[:360, 0])) % 360
    np.testing.assert_allclose(around, np.arange(360), atol=1e-9)


def drive(*ahead):
    poses = np.tile(np.eye(4), (len(ahead), 1, 1))
    poses[:, 0, 3] = ahead
    return poses


def test_origins_follow_the_drive_and_keep_a_metre_from_the_sides():
    origins = drive_origins(drive(-9, -6, -3, 0, 3, 6, 9, 12), GRID, limit=3, lidar=(0, 0, 1))
    assert len(origins) == 8
    np.testing.assert_allclose(origins[3][:, 0], [-6, 0, 6])  # of -6 … 6: -9 and 9 are too near
    assert (origins[3][:, 2] == 1).all()
    np.testing.assert_allclose(origins[0][:, 0], [0, 3, 6])  # of 0 … 21


def test_origins_on_occ3d_are_those_nearer_than_39_metres_at_any_height():
    poses = drive(0, 38.9, 39.1, -38.9, -39.1)
    poses[1, 2, 3] = 30.0
    (first, *_) = drive_origins(poses, lidar=(0, 0, 0))
    assert first[:, 0].tolist() == pytest.approx([0, 38.9, -38.9]) and first[1, 2] == 30
    # a car that has turned left by 90° sees what was ahead of it on its right
    poses = drive(0, 10)
    poses[0, :2, :2] = [[0, -1], [1, 0]]
    np.testing.assert_allclose(drive_origins(poses, lidar=(0, 0, 0))[0][1], [0, -10, 0])


def test_many_origins_are_thinned_to_eight_spread_evenly():
    (first, *_) = drive_origins(drive(*range(15)), lidar=(0, 0, 0))
    assert first[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
