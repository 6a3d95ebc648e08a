import pytest
import torch

from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import Grid
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster
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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """ONNX Runtime, and a user's cache that is empty."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"no {package}: pip install 'occdistill[onnx]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def handed(small_networks):
    """A plain forecaster of them, and two clips."""
    codec, network, (past, poses, trajectory) = small_networks
    plain = Forecaster(codec, network, nfe=2, temperature=0.5, backend="plain")
    future = torch.full((2, 16, 16, 4), 17, dtype=torch.uint8)
    clip = dict(past=past[0], poses=poses[0], trajectory=trajectory[0], future=future)
    return plain, [clip, {**clip, "past": past[0].flip(0)}]
