"""A small convolutional VAE: semantic voxels to a bird's-eye latent map and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.data.occ3d import NUM_CLASSES
from occdistill.types import Count, Whole


@dataclass
class Gaussian:
    """A diagonal normal posterior: `mean` and `std`, each `(N, C, H, W)`."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, `(N, C, H, W)`, differentiable in mean and std."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise


class ConvBlock(nn.Module):
    """Pre-activation residual block, `(N, C, H, W)` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x plus what two convolutions add."""
        return x + self.layers(x)


class VAE(nn.Module):
    """Height folded into channels, a few 2× downsamplings, convolutions only.

    Args:
        grid_shape: voxels `(X, Y, Z)`; X and Y multiples of `2 ** len(width)`.
        channels: latent channels C; the latent map is `(C, X / 2^n, Y / 2^n)`, n = `len(width)`.
        embedding: numbers per voxel class.
        width: channels at each resolution, half resolution first.
        blocks: residual blocks at each resolution, encoder and decoder each.
        decoder_width: the decoder's channels at half resolution.
    """

    def __init__(
        self,
        grid_shape: tuple[Count, Count, Count] = (64, 64, 8),
        channels: Count = 16,
        embedding: Count = 8,
        width: tuple[Count, ...] = (64, 128),
        blocks: tuple[Whole, ...] = (1, 2),
        decoder_width: Count = 64,
    ) -> None:
        super().__init__()
        x, y, z = grid_shape
        factor = 2 ** len(width)
        if x % factor or y % factor:
            raise ValueError(
                f"the grid {grid_shape} is not a multiple of {factor} voxels in x and y"
            )
        self.grid_shape = tuple(grid_shape)
        self.latent_shape = (channels, x // factor, y // factor)
        self.classes = nn.Embedding(NUM_CLASSES, embedding)
        encoder = [nn.Conv2d(z * embedding, width[0], 2, stride=2)]
        for level, (size, count) in enumerate(zip(width, blocks)):
            if level:
                encoder.append(nn.Conv2d(width[level - 1], size, 3, stride=2, padding=1))
            encoder += (ConvBlock(size) for _ in range(count))
        encoder += nn.GroupNorm(8, size), nn.SiLU(), nn.Conv2d(size, 2 * channels, 1)
        up = [decoder_width, *width[1:]]
        decoder = [nn.Conv2d(channels, up[-1], 3, padding=1)]
        for level in reversed(range(len(up))):
            decoder += (ConvBlock(up[level]) for _ in range(blocks[level] + (level == 0)))
            if level:
                decoder.append(nn.ConvTranspose2d(up[level], up[level - 1], 2, stride=2))
        decoder += nn.GroupNorm(8, decoder_width), nn.SiLU()
        decoder += nn.Conv2d(decoder_width, 4 * z * NUM_CLASSES, 1), nn.PixelShuffle(2)
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.register_buffer("latent_scale", torch.ones(()))

    @property
    def scale(self) -> float:
        """What latents are multiplied by before the flow: fitted so that they have unit variance."""
        return float(self.latent_scale)

    def encode(self, voxels: Tensor) -> Gaussian:
        """Posterior of the latents of `voxels`, integer classes `(N, X, Y, Z)`."""
        embedded = F.embedding(voxels.int(), self.classes.weight)  # (N, X, Y, Z, E)
        folded = embedded.flatten(3).permute(0, 3, 1, 2)
        mean, log_variance = self.encoder(folded).chunk(2, dim=1)
        return Gaussian(mean, torch.exp(0.5 * log_variance.clamp(-20.0, 5.0)))

    def logits(self, z: Tensor) -> Tensor:
        """Class logits `(N, X, Y, Z, 18)` of latents `(N, C, H, W)`."""
        out = self.decoder(z)  # (N, Z * 18, X, Y)
        return out.unflatten(1, (-1, NUM_CLASSES)).permute(0, 3, 4, 1, 2)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Most likely classes, uint8 `(N, X, Y, Z)`."""
        return self.logits(z).argmax(-1).to(torch.uint8)
