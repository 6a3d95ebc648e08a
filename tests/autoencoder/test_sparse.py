"""The sparse encoder against dense convolutions, and without spconv."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from occdistill.autoencoder import sparse
from occdistill.autoencoder.light import Lightened
from occdistill.autoencoder.sparse import SparseEncoder
from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import FREE, Grid
from occdistill.errors import UserError
from occdistill.latents.codec import Codec
from occdistill.runtime import backends, frozen
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.stages import Encode
from tests.runtime.fakes import ToNewest, drive

GRID, LATENT = (16, 8, 4), (3, 4, 2)
REPO = Path(__file__).parents[2]
needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="spconv is not installed"
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    net = SparseEncoder(GRID, LATENT, width=(8, 8, 16), head=(8, 16), blocks=1).eval()
    for norm in net.norms:  # so that an empty voxel is not a fixed point
        torch.nn.init.normal_(norm.bias)
    return net


def cloud(share, count=2, seed=0):
    """Voxels of which about this share is occupied."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, FREE, (count, *GRID), generator=g)
    occupied = torch.rand((count, *GRID), generator=g) < share
    return torch.where(occupied, classes, FREE).to(torch.uint8)


def dense_columns(net, voxels):
    """The same convolutions on every voxel, zeroed where a sparse tensor holds nothing."""
    held = (voxels != FREE).float()[:, None]
    x = net.classes(voxels.int().clamp_max(FREE)) + net.heights.weight  # (N, X, Y, Z, C)
    x = x.movedim(-1, 1) * held
    for norm, convolution in zip(net.norms, net.convolutions):
        y = F.silu(norm(x.movedim(1, -1))).movedim(-1, 1) * held
        weight = convolution.weight.movedim(-1, 1)  # out, in, kernel
        stride = 1 if convolution.subm else 2
        y = F.conv3d(y, weight, stride=stride, padding=1)
        if convolution.subm:
            x = (x + y) * held
        else:  # an output exists where the kernel meets any input
            held = F.max_pool3d(held, 3, stride=2, padding=1)
            x = y * held
    return x.permute(0, 4, 1, 2, 3).flatten(1, 2)  # heights, then channels


@needs_spconv
@pytest.mark.parametrize("share", [1.0, 0.3, 0.02])
def test_sparse_convolutions_are_dense_ones_where_something_is(encoder, share):
    voxels = cloud(share)
    with torch.no_grad():
        z, channels = encoder.columns_shape[2], 16
        ours = encoder.columns(voxels).unflatten(1, (z, channels))
        theirs = dense_columns(encoder, voxels).unflatten(1, (z, channels))
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@needs_spconv
def test_training_and_evaluation_are_the_same_function(encoder):
    voxels = cloud(0.2)
    with torch.no_grad():
        evaluated = encoder(voxels)
    trained = encoder.train()(voxels)
    encoder.eval()
    assert torch.equal(trained, evaluated) and trained.requires_grad


@needs_spconv
def test_no_returns_at_all_still_give_a_street(encoder):
    empty = torch.full((1, *GRID), FREE, dtype=torch.uint8)
    latents = encoder(empty)
    assert latents.shape == (1, *LATENT) and latents.isfinite().all()
    together = encoder(torch.cat([empty, cloud(0.2, 1)]))
    torch.testing.assert_close(together[:1], latents)
    latents.square().mean().backward()  # training survives a batch of empty frames
    encoder.zero_grad()


@needs_spconv
def test_mixed_precision_leaves_the_sparse_part_alone(encoder):
    voxels = cloud(0.2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lower = encoder(voxels)
    with torch.no_grad():
        torch.testing.assert_close(lower.float(), encoder(voxels), rtol=0.1, atol=0.1)


@needs_spconv
def test_back_ends_run_it_as_it_is(encoder):
    vae = VAE(GRID, channels=3, width=(8, 8), blocks=(1, 1), decoder_width=8)
    network = frozen.encoder(Lightened(vae, encoder=encoder))
    device, voxels = torch.device("cpu"), cloud(0.2)
    for dtype in (torch.float32, torch.bfloat16):  # in which the stage holds a copy of it
        stage = Encode(network, 2.0, dtype, device)
        for backend in ("compile", "aot"):
            assert backends.build(backend, stage) is stage
        with torch.no_grad():
            torch.testing.assert_close(stage(voxels), 2 * encoder(voxels), rtol=0.2, atol=0.2)


@needs_spconv
def test_it_stands_in_for_the_encoder_of_its_vae(encoder):
    torch.manual_seed(0)
    vae = VAE(GRID, channels=3, width=(8, 8), blocks=(1, 1), decoder_width=8)
    vae.latent_scale.fill_(2.0)
    codec = Codec(
        Lightened(vae, encoder=encoder), Grid(GRID, 1.0, (-8.0, -4.0, 0.0)), future=2, align=(0,)
    )
    past = cloud(0.2)[None]
    torch.testing.assert_close(codec.encode(past[0]), 2 * encoder(past[0]))
    poses = torch.from_numpy(drive(4)).float()[None]
    voxels = Forecaster(codec, ToNewest())(past, poses)
    assert voxels.shape == (1, 2, *GRID)
    assert torch.equal(voxels[0, 0], vae.decode(encoder(past[0, 1:]))[0])


@needs_spconv
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 levels take .* a map of 8 × 4, not to 4 × 2"):
        SparseEncoder(GRID, LATENT, width=(8, 8))


def test_spconv_is_imported_when_an_encoder_is_made_and_not_before():
    code = (
        "import sys, occdistill.autoencoder.sparse, occdistill.training.lidar_encoder\n"
        "from occdistill.build.config import load_config\n"
        "load_config('configs/demo_lidar.py')\n"
        "sys.exit('spconv' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


def test_without_spconv_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv", None)  # as if it weren't installed
    monkeypatch.delitem(sys.modules, "spconv.pytorch", raising=False)
    sparse.load_spconv.cache_clear()
    try:
        with pytest.raises(UserError, match="^the sparse LiDAR encoder needs spconv.*pip install"):
            SparseEncoder(GRID, LATENT, width=(8, 8, 16))
    finally:
        sparse.load_spconv.cache_clear()
