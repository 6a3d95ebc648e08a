import pytest
import torch

from occdistill.autoencoder.light import LightDecoder, LightEncoder, Lightened
from occdistill.autoencoder.vae import VAE
from occdistill.runtime import frozen
from tests.runtime.fakes import ClassesAsLatents, street

GRID = (16, 24, 4)


@pytest.fixture(params=[1, 2])
def vae(request):
    torch.manual_seed(0)
    width, blocks = (16, 24)[: request.param], (1, 1)[: request.param]
    return VAE(GRID, channels=4, width=width, blocks=blocks, decoder_width=16)


def voxels(count=3):
    return torch.randint(0, 18, (count, *GRID), dtype=torch.uint8)


def light(vae, **parts):
    levels = vae.grid_shape[0] // vae.latent_shape[1] // 2
    levels = {"width": (8, 16)[:levels], "blocks": (1, 1)[:levels]}
    shapes = vae.latent_shape, vae.grid_shape
    return Lightened(vae, **{name: part(*shapes, **levels) for name, part in parts.items()})


@torch.no_grad()
def test_a_frozen_autoencoder_gives_the_same_numbers(vae):
    seen = voxels()
    torch.testing.assert_close(frozen.encoder(vae)(seen), vae.encode(seen).mean)
    latents = torch.randn(3, *vae.latent_shape)
    classes = frozen.decoder(vae)(latents)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes, vae.decode(latents))


@torch.no_grad()
def test_one_class_in_one_voxel_adds_one_row(vae):
    """Every voxel and class has its own row of the table, so none can be mixed up."""
    encode, empty = frozen.encoder(vae)[0], torch.zeros(1, *GRID, dtype=torch.uint8)
    for cell in ((0, 0, 0), (5, 2, 3), (15, 23, 1)):
        one = empty.clone()
        one[(0, *cell)] = 7
        change = (encode(one) - encode(empty)).abs().sum(1)[0].nonzero()
        assert change.tolist() == [[cell[0] // 2, cell[1] // 2]]


@torch.no_grad()
def test_light_parts_are_frozen_or_passed_on(vae):
    seen, latents = voxels(), torch.randn(2, *vae.latent_shape)
    for parts in (
        {"encoder": LightEncoder, "decoder": LightDecoder},
        {"encoder": LightEncoder},
        {"decoder": LightDecoder},
    ):
        both = light(vae, **parts)
        torch.testing.assert_close(frozen.encoder(both)(seen), both.encode(seen).mean)
        assert torch.equal(frozen.decoder(both)(latents), both.decode(latents))


def test_an_unknown_autoencoder_runs_as_it_is():
    fake, seen = ClassesAsLatents(), street(2)
    assert torch.equal(frozen.encoder(fake)(seen), fake.encode(seen).mean)
    assert torch.equal(frozen.decoder(fake)(fake.encode(seen).mean), seen)
