import pytest
import torch

from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import Grid
from occdistill.flow.condition import Codec
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.runtime.forecaster import Forecaster
from tests.runtime.fakes import drive


@pytest.fixture
def small_forecasters():
    """The same small networks eager and compiled, and a clip for them."""
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(16, 16), blocks=(1, 1), decoder_width=16)
    network = SpaceTimeUNet((4, 4, 4), past=2, future=2, align=1, trajectory=4, width=16)
    codec = Codec(vae, Grid((16, 16, 4), 1.0, (-8.0, -8.0, 0.0)), future=2, align=(0,))
    eager, compiled = (
        Forecaster(codec, network, guidance=2.0, nfe=2, backend=b) for b in ("eager", "compile")
    )
    past = torch.randint(0, 18, (1, 2, 16, 16, 4)).to(torch.uint8)
    poses = torch.from_numpy(drive(4)).float()[None]
    return eager, compiled, (past, poses, torch.zeros(1, 4, 2))
