import numpy as np
import pytest

from occdistill.data.occ3d import Grid
from occdistill.evaluation.measures.ray_iou import RayIoU, drive_origins, lidar_directions

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
    # The distance error is exactly `shift` metres; thresholds are 1, 2 and 4 m, exclusive.
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


def test_directions_are_unit_vectors_around_the_horizon():
    directions = lidar_directions(36)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    down = directions[:, 2].min()
    assert down == pytest.approx(-np.sqrt(0.5)) and 0.2 < directions[:, 2].max() < 0.23
    # the first ten pitches meet flat ground at 1 … 10 times the sensor's height
    pitch = np.unique(directions[:, 2].round(12))[:10]
    np.testing.assert_allclose(np.sqrt(1 - pitch**2) / -pitch, np.arange(1, 11))


def test_origins_follow_the_drive_and_stay_inside():
    poses = np.tile(np.eye(4), (10, 1, 1))
    poses[:, 0, 3] = 3.0 * np.arange(-3, 7)  # 3 m a frame, the fourth is the newest past one
    origins = drive_origins(poses, past=4, grid=GRID, limit=3, lidar=(0, 0, 1))
    assert len(origins) == 6 and all(len(o) <= 3 for o in origins)
    np.testing.assert_allclose(origins[0][:, 0], [-9, 0, 9])  # of -12 … 15, those inside
    assert (origins[0][:, 2] == 1).all()
