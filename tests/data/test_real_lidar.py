"""32 keyframes of a real nuScenes drive, see the fixture `real_sweeps`."""

import time

import numpy as np
import pytest
import torch

from occdistill.data.occ3d import FREE, GridTransform
from occdistill.data.poses import LIDAR_TO_EGO, extrapolate, invert
from occdistill.data.resample import warp
from occdistill.data.voxelize import merge

MERGE = 5


@pytest.fixture(scope="module")
def egos(real_sweeps):
    return np.stack([s.lidar_to_global @ invert(LIDAR_TO_EGO) for s in real_sweeps])


@pytest.fixture(scope="module")
def grids(real_sweeps, egos):
    return [
        merge(real_sweeps[max(0, i + 1 - MERGE) : i + 1], egos[i]).voxels
        for i in range(len(real_sweeps))
    ]


def overlap(a, b):
    """IoU of occupied voxels."""
    a, b = a != FREE, b != FREE
    return float((a & b).sum() / (a | b).sum())


def test_every_frame_voxelises(grids, real_sweeps):
    assert len(grids) == len(real_sweeps) == 32
    counts = [(g != FREE).sum() for g in grids]
    assert min(counts[MERGE:]) > 8000 and max(counts) < 40000
    # Merging five sweeps at least doubles what one sees.
    assert np.mean(counts[MERGE:]) > 2 * counts[0]


def test_the_road_is_where_the_wheels_are(grids):
    """Ego z = 0 is the ground: level 2 of the grid spans -0.2 … 0.2 m."""
    near = np.stack(grids)[:, 90:120, 95:105]
    levels = [(near[..., z] == 11).mean() for z in range(6)]
    assert np.argmax(levels) in (2, 1) and sum(levels[3:]) < 0.01


def test_observed_space_surrounds_the_car(real_sweeps, egos, grids):
    for i in (10, 31):
        seen = merge(real_sweeps[i + 1 - MERGE : i + 1], egos[i]).observed
        assert seen[grids[i] != FREE].all()
        assert seen[100:110, 97:103, 5:8].mean() > 0.9  # the air ahead of the bonnet
        assert 0.1 < seen.mean() < 0.6


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_ego_warped_copy_beats_copy_last(grids, egos, ahead):
    transform = GridTransform(25.6, 2)
    small = [torch.from_numpy(transform(g))[None] for g in grids]
    scores = []
    for i in range(MERGE, len(grids) - ahead):
        poses = torch.from_numpy(invert(egos[i]) @ egos)
        past, truth = poses[None, : i + 1], small[i + ahead]
        true_pose, guess = poses[None, i + ahead], extrapolate(past, ahead)[:, -1]
        scores.append(
            [overlap(truth, warp(small[i], pose, transform.grid)) for pose in (true_pose, guess)]
            + [overlap(truth, small[i])]
        )
    true_warp, guessed_warp, copy = np.mean(scores, axis=0)
    print(f"{ahead / 2} s: ego-warp {true_warp:.3f}, guessed {guessed_warp:.3f}, copy {copy:.3f}")
    assert true_warp > copy + 0.05
    assert guessed_warp > copy


def test_merged_keyframes_come_at_sensor_rate(real_sweeps, egos):
    """20 a second are wanted, mask included; half of that passes on a busy machine."""
    start = time.process_time()
    for i in range(MERGE, 15):
        merge(real_sweeps[i + 1 - MERGE : i + 1], egos[i])
    rate = 10 / (time.process_time() - start)
    print(f"{rate:.1f} merged keyframes a second")
    assert rate > 10
