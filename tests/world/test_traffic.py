"""The town's plan and its traffic, without any files."""

import numpy as np
import pytest

from occdistill.world.agents import KIND, KINDS, overlap
from occdistill.world.simulate import build_scene
from occdistill.world.town import CONNECTOR, CYCLE, LANE, WALK, elevation, plan_town
from occdistill.world.traffic import EGO_SIZE, REAR_AXLE, simulate

KEYFRAMES = 24


@pytest.fixture(scope="module")
def towns():
    out = []
    for number in range(3):
        rng = np.random.default_rng([11, number])
        town = plan_town(rng)
        out.append((town, simulate(town, rng, KEYFRAMES)))
    return out


@pytest.fixture(scope="module")
def scene():
    return build_scene(3, "train", 1, keyframes=16)


def with_ego(tracks):
    """Boxes of vehicles and cyclists, the ego car among them."""
    wheels = np.flatnonzero([not KINDS[k].category.startswith("human") for k in tracks.kind])
    x, y, yaw = tracks.ego.T
    ego = np.stack([x + REAR_AXLE * np.cos(yaw), y + REAR_AXLE * np.sin(yaw), yaw], -1)
    pose = np.concatenate([tracks.pose[:, wheels], ego[:, None]], 1)
    return pose, np.vstack([tracks.size[wheels], EGO_SIZE])


def test_lanes_lead_on_and_paths_join(towns):
    for town, _ in towns:
        paths = town.paths

        def following(p, paths=paths):
            return paths.next_ids[paths.next_start[p] : paths.next_start[p + 1]]

        for p in np.flatnonzero(np.isin(paths.kind, (LANE, CONNECTOR, CYCLE, WALK))):
            # A lane whose turn a junction does not offer ends there, but its neighbour leads on.
            ways = following(p)
            beside = [q for q in (paths.left[p], paths.right[p]) if q >= 0]
            assert len(ways) or any(len(following(q)) for q in beside), p
            end = paths.xy[paths.start[p + 1] - 1]
            for q in ways:
                assert np.hypot(*(paths.xy[paths.start[q]] - end)) < 0.01


def test_rivals_are_mutual_and_never_share_their_lane(towns):
    paths = towns[0][0].paths
    rivals = {
        p: set(paths.rival_ids[paths.rival_start[p] : paths.rival_start[p + 1]].tolist())
        for p in range(len(paths.length))
    }
    assert any(rivals.values())
    for p, others in rivals.items():
        assert all(p in rivals[q] and paths.source[p] != paths.source[q] for q in others)


def test_vehicles_do_not_overlap(towns):
    for _, tracks in towns:
        pose, size = with_ego(tracks)
        pairs = [
            (k, i, j)
            for k in range(0, KEYFRAMES, 4)
            for i in range(len(size))
            for j in range(i)
            if overlap(pose[k, i], size[i], pose[k, j], size[j])
        ]
        # Long vehicles may brush another's corner in a turn; nothing worse, and seldom.
        assert len(pairs) <= 1


def test_motion_is_smooth_and_varied(towns):
    for _, tracks in towns:
        pose, _ = with_ego(tracks)
        steps = np.hypot(*np.diff(pose[..., :2], axis=0).transpose(2, 0, 1))
        assert steps.max() < 0.5 * 19.0
        assert (steps.max(0) > 1.0).mean() > 0.3, "most of the traffic stands still"
        turn = np.abs(np.angle(np.exp(1j * np.diff(pose[..., 2], axis=0))))
        assert turn.max() < np.radians(75)
        # Hard braking (for someone who steps out) is rare, and nothing else changes speed faster.
        change = np.abs(np.diff(steps, axis=0)) / 0.5**2
        assert (change > 8.0).mean() < 0.003 and np.diff(steps, axis=0).max() < 0.5**2 * 4.0


def test_people_walk_and_some_cross(towns):
    for _, tracks in towns:
        people = np.array([KINDS[k].category.startswith("human") for k in tracks.kind])
        steps = np.hypot(*np.diff(tracks.pose[:, people, :2], axis=0).transpose(2, 0, 1))
        # At a corner a path's edge shifts by up to a step.
        assert steps.max() < 2.2 and (steps < 0.5 * 2.3).mean() > 0.98
        assert (steps.sum(0) > 2.0).mean() > 0.9
        assert (steps < 0.1).mean() > 0.02, "somebody stands or waits"


def test_the_future_is_open():
    """Worlds that differ only in what is drawn later part: turns and braking are not fixed."""
    ways = [simulate_turn(number) for number in range(6)]
    assert max(ways) - min(ways) > np.radians(45)


def simulate_turn(number):
    rng = np.random.default_rng([5, number])
    tracks = simulate(plan_town(rng), rng, 40)
    return np.unwrap(tracks.ego[:, 2])[-1] - tracks.ego[0, 2]


def test_boxes_overlap_test():
    size = np.array([4.0, 2.0, 1.5])
    here = np.array([0.0, 0.0, 0.0])
    assert overlap(here, size, np.array([3.9, 0.0, 0.0]), size)
    assert not overlap(here, size, np.array([4.1, 0.0, 0.0]), size)
    assert not overlap(here, size, np.array([3.1, 0.0, np.pi / 2]), size)
    # A turned box whose bounding circle overlaps, but whose corner stays outside.
    assert not overlap(here, size, np.array([3.1, 2.9, np.pi / 4]), size)
    assert overlap(here, size, np.array([2.5, 1.6, np.pi / 4]), size)


def test_same_arguments_same_scene(scene):
    again = build_scene(3, "train", 1, keyframes=16)
    other = build_scene(3, "val", 1, keyframes=16)
    assert np.array_equal(scene.pose, again.pose)
    assert np.array_equal(scene.labels(5), again.labels(5))
    assert not np.array_equal(scene.translation, other.translation)


def test_standing_things_are_not_driven_over(scene):
    still = np.flatnonzero(scene.standing)
    assert len(still) > 20
    moving = np.flatnonzero(~scene.standing)
    for k in (0, 8, 15):
        for n in still:
            for m in moving:
                boxes = scene.pose[k, n], scene.sizes[n], scene.pose[k, m], scene.sizes[m]
                assert not overlap(*boxes)


def test_the_ego_car_stands_on_the_ground():
    rng = np.random.default_rng(0)
    town = plan_town(rng)
    z, gx, gy = elevation(town.hills, 12.0, -7.0)
    step = 1e-4
    assert gx == pytest.approx((elevation(town.hills, 12.0 + step, -7.0)[0] - z) / step, abs=1e-4)
    assert gy == pytest.approx((elevation(town.hills, 12.0, -7.0 + step)[0] - z) / step, abs=1e-4)
    assert np.hypot(gx, gy) < 0.06


def test_labels_hold_ground_under_and_cars_around_the_ego(scene):
    labels = scene.labels(3)
    assert labels.shape == (200, 200, 16) and labels.dtype == np.uint8
    assert (labels[96:112, 97:103, 2] == 11).mean() > 0.9
    assert (labels[98:108, 98:102, 3:] == 17).all(), "the ego car itself is not labelled"
    occupied = (labels != 17).sum()
    assert 15_000 < occupied < 130_000
    assert KIND["car"] in scene.kinds[scene.alive.any(0)]
