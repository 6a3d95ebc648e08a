"""What the shipped LiDAR encoder makes of a real drive, see the fixture `real_sweeps`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill.build.builders import build_lidar_encoder, build_vae
from occdistill.build.config import load_config
from occdistill.data.occ3d import FREE, GridTransform
from occdistill.data.poses import LIDAR_TO_EGO, invert
from occdistill.data.voxelize import merge

CONFIG = load_config("configs/demo_lidar.py")
pytestmark = [
    pytest.mark.skipif(
        not Path(CONFIG.lidar_encoder_checkpoint).is_file(), reason="no LiDAR encoder is trained"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("spconv") is None, reason="spconv is not installed"
    ),
]
GROUND = torch.tensor([11, 12, 13, 14])
ROAD, LEVEL = 11, 1  # the level of 0.8 m voxels that ego z = 0 lies in


@pytest.fixture(scope="module")
def street(real_sweeps):
    """Merged LiDAR of seven moments on the demo's grid, uint8 (7, 48, 48, 8)."""
    transform = GridTransform(CONFIG.data.crop, CONFIG.data.coarsen)
    grids = [
        merge(
            real_sweeps[i - 4 : i + 1],
            real_sweeps[i].lidar_to_global @ invert(LIDAR_TO_EGO),
        )
        for i in range(5, len(real_sweeps), 4)
    ]
    return torch.from_numpy(transform(np.stack([grid.voxels for grid in grids])))


@torch.no_grad()
def test_it_makes_a_street_of_it(street):
    vae = build_vae(CONFIG)
    decoded = vae.decode(build_lidar_encoder(CONFIG, vae)(street))
    under_ego = decoded[:, 22:27, 22:26]
    assert (under_ego[..., LEVEL] == ROAD).float().mean() > 0.9
    assert (under_ego[..., LEVEL + 1 : LEVEL + 3] == FREE).float().mean() > 0.95
    # the ground goes on where no ray has met it, and what was met mostly stays
    seen, filled = (torch.isin(x, GROUND).any(-1).float().mean() for x in (street, decoded))
    assert filled > 1.3 * seen
    returns = street != FREE
    assert (decoded[returns] != FREE).float().mean() > 0.65
