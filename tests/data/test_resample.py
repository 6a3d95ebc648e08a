import math

import pytest
import torch

from occdistill.data.occ3d import FREE, Grid
from occdistill.data.poses import invert
from occdistill.data.resample import warp

GRID = Grid((20, 20, 4), 0.5, (-5.0, -5.0, -1.0))


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor(
        [[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=torch.float64
    )


@pytest.fixture
def voxels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 18, (2, *GRID.shape), generator=generator, dtype=torch.uint8)


def test_identity_changes_nothing(voxels):
    assert torch.equal(warp(voxels, pose().repeat(2, 1, 1), GRID), voxels)


def test_whole_voxel_translation_shifts_and_fills(voxels):
    # Two voxels forward, one left, one up: what was at index (2, 1, 1) is now at the corner.
    moved = warp(voxels, pose(1.0, 0.5, 0.5).repeat(2, 1, 1), GRID)
    assert torch.equal(moved[:, :-2, :-1, :-1], voxels[:, 2:, 1:, 1:])
    assert (moved[:, -2:] == FREE).all() and (moved[:, :, -1:] == FREE).all()
    assert (moved[..., -1] == FREE).all()


def test_quarter_turn_is_a_rotated_array(voxels):
    # The target frame is turned left: its x axis is the source's y axis.
    moved = warp(voxels, pose(yaw=math.pi / 2).repeat(2, 1, 1), GRID)
    assert torch.equal(moved, torch.rot90(voxels, 1, dims=(2, 1)))


def test_each_item_gets_its_own_transform_and_fill(voxels):
    moved = warp(voxels, torch.stack([pose(), pose(x=100.0)]), GRID, fill=0)
    assert torch.equal(moved[0], voxels[0])
    assert (moved[1] == 0).all()


def test_composition_of_exact_moves(voxels):
    there = pose(1.0, -0.5, 0.0, math.pi / 2).repeat(2, 1, 1)
    back = warp(warp(voxels, there, GRID), invert(there), GRID)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert torch.equal(back[inner], voxels[inner])


def test_pitch_uses_the_height():
    grid = Grid((20, 20, 20), 0.5, (-5.0, -5.0, -5.0))
    voxels = torch.full((1, *grid.shape), FREE, dtype=torch.uint8)
    voxels[0, 15, 10, 10] = 4  # ahead
    pitch = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])
    moved = warp(voxels, pitch[None], grid)  # target z looks along source x
    assert (moved != FREE).nonzero().tolist() == [[0, 9, 10, 15]]
