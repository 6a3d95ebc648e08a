import math

import pytest
import torch

from occdistill.data.occ3d import Grid
from occdistill.evaluation.measures.consistency import StaticConsistency

GRID = Grid((12, 8, 2), 1.0, (-6.0, -4.0, 0.0))


def drive(frames, metres):
    poses = torch.eye(4).repeat(frames, 1, 1)
    poses[:, 0, 3] = metres * torch.arange(frames)
    return poses


def pole(x, label=15):
    voxels = torch.full(GRID.shape, 17, dtype=torch.uint8)
    voxels[x, 4] = label
    return voxels


def score(frames, poses):
    measure = StaticConsistency(GRID)
    measure.update(torch.stack(frames), poses)
    return measure.result()


def test_a_pole_that_comes_nearer_as_we_drive_is_consistent():
    assert score([pole(8), pole(7), pole(6)], drive(3, 1.0)) == 100


def test_a_pole_that_drives_along_is_not():
    assert score([pole(8), pole(8), pole(8)], drive(3, 1.0)) == 0


def test_half_a_pole_that_flickers_by_hand():
    broken = pole(7)
    broken[7, 4, 1] = 17  # of two voxels one is left
    assert score([pole(8), broken], drive(2, 1.0)) == pytest.approx(50)


def test_a_change_of_class_counts_and_movable_things_do_not():
    assert score([pole(8), pole(7, 16)], drive(2, 1.0)) == 0
    assert math.isnan(score([pole(8, 4), pole(8, 4)], drive(2, 1.0)))


def test_what_comes_into_view_is_not_held_against_a_forecast():
    entering = pole(8)
    entering[11, 0] = 15  # its place was outside the grid a frame before
    assert score([pole(9), entering], drive(2, 1.0)) == 100
