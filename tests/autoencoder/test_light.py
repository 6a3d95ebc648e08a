import pytest
import torch

from occdistill.autoencoder.light import Light, LightDecoder, LightEncoder, Lightened
from occdistill.autoencoder.vae import VAE
from occdistill.build.builders import build_vae
from occdistill.build.config import load_config
from occdistill.data.occ3d import OCC3D
from occdistill.errors import UserError
from occdistill.latents.codec import Codec
from occdistill.training.light import operations

SHAPES = dict(latent_shape=(4, 4, 2), grid_shape=(16, 8, 4))


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE((16, 8, 4), channels=4, width=(16, 16), decoder_width=16)


def voxels(count=3):
    return torch.randint(0, 18, (count, 16, 8, 4), dtype=torch.uint8)


@pytest.mark.parametrize("width, blocks", [((8, 16), (1, 2)), ((16, 8), (0, 1))])
def test_decode_is_the_argmax_of_the_logits(width, blocks):
    decoder = LightDecoder(**SHAPES, width=width, blocks=blocks)
    z = torch.randn(3, 4, 4, 2)
    logits = decoder.logits(z)
    assert logits.shape == (3, 16, 8, 4, 18)
    assert torch.equal(decoder.decode(z).long(), logits.argmax(-1))


def test_voxels_are_decoded_where_their_latent_lies():
    torch.manual_seed(0)
    decoder = LightDecoder((4, 16, 16), (32, 32, 4), width=(8,), blocks=(0,))
    nothing = torch.zeros(1, 4, 16, 16)
    z = nothing.clone()
    z[..., 5, 9] = 10 * torch.randn(4)
    change = (decoder.logits(z) - decoder.logits(nothing)).abs().amax((-1, -2))[0]
    x, y = divmod(int(change.argmax()), 32)  # of the 3×3 convolution's pixels, 2×2 columns each
    assert 8 <= x < 14 and 16 <= y < 22


def test_latents_are_encoded_where_their_voxels_lie():
    torch.manual_seed(0)
    encoder = LightEncoder((4, 8, 8), (32, 32, 4), width=(8, 8), blocks=(0, 0))
    empty = torch.full((1, 32, 32, 4), 17, dtype=torch.uint8)
    one = empty.clone()
    one[0, 9, 22, 2] = 4
    change = (encoder(one) - encoder(empty)).abs().amax(1)[0]
    assert encoder(one).shape == (1, 4, 8, 8)
    assert divmod(int(change.argmax()), 8) == (2, 5)


def test_where_nothing_is_replaced_the_autoencoder_is_the_same(vae):
    same, x = Lightened(vae), voxels()
    posterior, own = same.encode(x), vae.encode(x)
    assert torch.equal(posterior.mean, own.mean) and torch.equal(posterior.std, own.std)
    assert torch.equal(same.logits(own.mean), vae.logits(own.mean))
    assert torch.equal(same.decode(own.mean), vae.decode(own.mean))
    assert same.scale == vae.scale and same.latent_shape == vae.latent_shape


def test_parts_are_replaced_one_by_one_and_a_codec_cannot_tell(vae):
    vae.latent_scale.fill_(2.0)
    decoder, encoder = LightDecoder(**SHAPES, width=(8, 8)), LightEncoder(**SHAPES, width=(8, 8))
    x = voxels()
    for parts in (
        {"decoder": decoder},
        {"encoder": encoder},
        dict(decoder=decoder, encoder=encoder),
    ):
        codec = Codec(Lightened(vae, **parts), OCC3D)
        latents, full = codec.encode(x), Codec(vae, OCC3D).encode(x)
        assert torch.equal(latents, full) == ("encoder" not in parts)
        assert torch.equal(codec.decode(full), Codec(vae, OCC3D).decode(full)) == (
            "decoder" not in parts
        )
    assert torch.equal(codec.encode(x), encoder(x) * 2)


@pytest.mark.parametrize("config", ["configs/demo.py", "configs/nus.py"])
def test_shipped_light_parts_take_a_fifth_of_the_operations(config):
    config = load_config(config)
    with torch.device("meta"):
        vae = build_vae(config, weights=False)
        shapes = dict(latent_shape=vae.latent_shape, grid_shape=vae.grid_shape)
        parts = {
            name: config[f"light_{name}"].pop("type")(**shapes, **config[f"light_{name}"])
            for name in ("decoder", "encoder")
        }
    work = operations(vae, Light(**parts))
    assert set(work) == {"decoder", "encoder"}
    for full, light in work.values():
        assert 0 < 5 * light <= full
    if vae.grid_shape == (200, 200, 16):  # the full-size floor, counted elsewhere
        assert work["decoder"][0] == pytest.approx(393e9, rel=0.01)
        assert work["encoder"][0] == pytest.approx(6 * 227e9, rel=0.01)


def test_widths_that_miss_the_latents_are_refused():
    with pytest.raises(UserError, match="halves the grid 1 times.*a width for every resolution"):
        LightDecoder(**SHAPES, width=(8,), blocks=(1,))
    with pytest.raises(UserError, match="as many numbers of blocks"):
        LightEncoder(**SHAPES, width=(8, 8), blocks=(1,))
