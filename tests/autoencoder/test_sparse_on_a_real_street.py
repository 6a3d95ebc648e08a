"""What the shipped LiDAR encoder makes of a real drive, where somebody has one.

The folder named by OCCDISTILL_REAL_LIDAR is the one that tests/data/test_real_lidar.py describes.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill.config import build_lidar_encoder, build_vae, load_config
from occdistill.data.occ3d import FREE, GridTransform
from occdistill.data.scenes import invert_pose
from occdistill.data.voxelize import NO_VOTE, Sweep, merge
from occdistill.runtime.stream import NOMINAL_LIDAR_TO_EGO

FOLDER = Path(os.environ.get("OCCDISTILL_REAL_LIDAR", "absent"))
CONFIG = load_config("configs/demo_lidar.py")
pytestmark = [
    pytest.mark.skipif(
        not (FOLDER / "000.npz").is_file(),
        reason="OCCDISTILL_REAL_LIDAR names no folder with 000.npz …",
    ),
    pytest.mark.skipif(
        not Path(CONFIG.lidar_encoder_checkpoint).is_file(), reason="no LiDAR encoder is trained"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("spconv") is None, reason="spconv is not installed"
    ),
]
# road, sidewalk, building, barrier/cone, vegetation, person, two-wheeler, car, truck, bus, none
CLASSES = np.array([11, 13, 15, 1, 16, 7, 2, 4, 10, 3, NO_VOTE], np.uint8)
GROUND = torch.tensor([11, 12, 13, 14])
ROAD, LEVEL = 11, 1  # the level of 0.8 m voxels that ego z = 0 lies in


@pytest.fixture(scope="module")
def street():
    """Merged LiDAR of seven moments on the demo's grid, uint8 (7, 48, 48, 8)."""
    frames = [np.load(path) for path in sorted(FOLDER.glob("[0-9]*.npz"))]
    sweeps = [Sweep(f["xyz"], CLASSES[f["label"]], f["lidar_to_first"]) for f in frames]
    transform = GridTransform(CONFIG.data.crop, CONFIG.data.coarsen)
    grids = [
        merge(sweeps[i - 4 : i + 1], sweeps[i].lidar_to_global @ invert_pose(NOMINAL_LIDAR_TO_EGO))
        for i in range(5, len(sweeps), 4)
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
