import pytest
import torch

from occdistill.autoencoder.losses import reconstruction_losses
from occdistill.autoencoder.vae import VAE


def test_shapes_follow_the_grid_and_decode_is_the_argmax():
    vae = VAE((16, 8, 4), channels=4, width=(16, 16), decoder_width=16)
    voxels = torch.randint(0, 18, (3, 16, 8, 4), dtype=torch.uint8)
    posterior = vae.encode(voxels)
    assert posterior.mean.shape == posterior.std.shape == (3, *vae.latent_shape) == (3, 4, 4, 2)
    assert (posterior.std > 0).all()
    logits = vae.logits(posterior.mean)
    assert logits.shape == (3, 16, 8, 4, 18)
    assert torch.equal(vae.decode(posterior.mean).long(), logits.argmax(-1))


def test_learns_to_copy_a_scene():
    torch.manual_seed(0)
    vae = VAE((16, 16, 4), channels=8, width=(16, 32), blocks=(1, 1), decoder_width=32)
    voxels = torch.full((1, 16, 16, 4), 17, dtype=torch.uint8)
    voxels[:, :, :, 0] = 11
    voxels[:, 3:6, 8:10, 1:3] = 4
    optimiser = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        losses = reconstruction_losses(vae.logits(vae.encode(voxels).sample()), voxels)
        sum(losses.values()).backward()
        optimiser.step()
    assert (vae.decode(vae.encode(voxels).mean) == voxels).float().mean() > 0.99


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        VAE((18, 16, 4))
