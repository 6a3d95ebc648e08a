import pytest
import torch

from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import Grid
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.latents.codec import Codec
from tests.runtime.fakes import drive


@pytest.fixture
def small_networks():
    """A codec, a velocity network whose output layer isn't zero, and a clip for them."""
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=4, width=(16, 16), blocks=(1, 1), decoder_width=16)
    network = SpaceTimeUNet((4, 4, 4), past=2, future=2, align=1, trajectory=4, width=16)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    codec = Codec(vae, Grid((16, 16, 4), 1.0, (-8.0, -8.0, 0.0)), future=2, align=(0,))
    past = torch.randint(0, 18, (1, 2, 16, 16, 4)).to(torch.uint8)
    poses = torch.from_numpy(drive(4)).float()[None]
    return codec, network, (past, poses, torch.zeros(1, 4, 2))
