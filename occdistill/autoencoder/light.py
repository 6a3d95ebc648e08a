"""A light decoder and encoder beside a frozen autoencoder, in the same latent space.

Both are plain 2-D networks with height folded into channels. What makes them light: blocks whose
3×3 and 5×5 convolutions see one channel at a time, most of them at latent resolution, and nothing
above half the voxels' resolution. Distilled by `occdistill.training.light`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.autoencoder.vae import Gaussian
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.errors import UserError
from occdistill.types import Count, Whole

SUB = 4  # voxel columns per pixel at half resolution


def fold(x: Tensor) -> Tensor:
    """Voxels `(N, X, Y, Z, ...)` to pixels of 2×2 columns, `(N, X / 2, Y / 2, ..., 4 Z)`."""
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # N, x, i, y, j, z, ...
    return x.movedim((2, 4, 5), (-3, -2, -1)).flatten(-3)


class LightBlock(nn.Module):
    """`x + mlp(norm(5×5 per channel(x)))`, `(N, C, H, W)` to the same shape."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, expansion * channels, 1),
            nn.SiLU(),
            nn.Conv2d(expansion * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x plus what the layers add."""
        return x + self.layers(x)


def _check_levels(
    latent_shape: Sequence[int],
    grid_shape: Sequence[int],
    width: Sequence[int],
    blocks: Sequence[int],
) -> None:
    """Refuse widths that don't lead from the grid to the latents."""
    factor = 2 ** len(width)
    if tuple(grid_shape[:2]) != tuple(factor * side for side in latent_shape[1:]):
        raise UserError(
            f"a light part of {len(width)} widths halves the grid {len(width)} times, which doesn't "
            f"lead from {tuple(grid_shape)} voxels to latents {tuple(latent_shape)}: give it a width "
            "for every resolution from half the voxels' to the latents'"
        )
    if len(blocks) != len(width):
        raise UserError(
            f"a light part of {len(width)} widths needs as many numbers of blocks, not {len(blocks)}"
        )


class LightDecoder(nn.Module):
    """Latents to classes.

    Args:
        latent_shape: `(C, H, W)`.
        grid_shape: voxels `(X, Y, Z)`, X and Y a power of two times H and W.
        width: channels at half the voxels' resolution, at a quarter, … down to the latents' own.
        blocks: blocks at each of these.
    """

    def __init__(
        self,
        latent_shape: tuple[Count, Count, Count],
        grid_shape: tuple[Count, Count, Count],
        width: Sequence[Count] = (32, 128),
        blocks: Sequence[Whole] = (1, 2),
    ) -> None:
        super().__init__()
        _check_levels(latent_shape, grid_shape, width, blocks)
        self.heights = grid_shape[2]
        layers = [nn.Conv2d(latent_shape[0], width[-1], 3, padding=1)]
        for level in reversed(range(len(width))):
            layers += (LightBlock(width[level]) for _ in range(blocks[level]))
            if level:
                layers += nn.Conv2d(width[level], SUB * width[level - 1], 1), nn.PixelShuffle(2)
        self.body = nn.Sequential(*layers)
        # of a pixel: classes, then the columns in it, then their heights
        self.head = nn.Linear(width[0], NUM_CLASSES * SUB * self.heights)

    def features(self, z: Tensor) -> Tensor:
        """Unscaled latents `(N, C, H, W)` to what the head reads, `(N, X / 2, Y / 2, width[0])`."""
        return self.body(z.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)

    def classes(self, features: Tensor) -> Tensor:
        """Features `(..., width[0])` to the logits of a pixel's voxels, `(..., 18, 4 Z)`."""
        return self.head(features).unflatten(-1, (NUM_CLASSES, -1))

    def unfold(self, x: Tensor) -> Tensor:
        """Pixels `(N, X / 2, Y / 2, ..., 4 Z)` to voxels `(N, X, Y, Z, ...)`; undoes `fold`."""
        x = x.unflatten(-1, (2, 2, self.heights))  # N, x, y, ..., i, j, z
        x = x.movedim((-3, -2, -1), (2, 4, 5))  # N, x, i, y, j, z, ...
        return x.flatten(3, 4).flatten(1, 2)

    def logits(self, z: Tensor) -> Tensor:
        """Class logits `(N, X, Y, Z, 18)` of unscaled latents `(N, C, H, W)`."""
        return self.unfold(self.classes(self.features(z)))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Most likely classes, uint8 `(N, X, Y, Z)`, of unscaled latents `(N, C, H, W)`."""
        classes = self.classes(self.features(z)).argmax(-2).to(torch.uint8)
        return self.unfold(classes).contiguous()

    @torch.no_grad()
    def start_from(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Let the head span the principal components of a pixel's logits, one per feature.

        Args:
            mean: of the logits `(18 * 4 Z,)`, each voxel's centred over the classes.
            covariance: theirs, `(18 * 4 Z, 18 * 4 Z)`.

        Returns:
            `(18 * 4 Z, width[0])`: maps centred logits less `mean` to the features that give them
            back as nearly as can be; these have unit variance.
        """
        values, vectors = torch.linalg.eigh(covariance)
        count = self.head.in_features
        vectors = vectors[:, -count:]
        deviation = values[-count:].clamp_min(1e-6 * float(values[-1])).sqrt()
        self.head.weight.copy_(vectors * deviation)
        self.head.bias.copy_(mean)
        return (vectors / deviation).to(self.head.weight.dtype)


class LightEncoder(nn.Module):
    """Voxels to the posterior mean of the autoencoder's encoder.

    Args:
        latent_shape: `(C, H, W)`.
        grid_shape: voxels `(X, Y, Z)`, X and Y a power of two times H and W.
        width: channels at half the voxels' resolution, at a quarter, … down to the latents' own.
        blocks: blocks at each of these.
        embedding: numbers per voxel class.
    """

    def __init__(
        self,
        latent_shape: tuple[Count, Count, Count],
        grid_shape: tuple[Count, Count, Count],
        width: Sequence[Count] = (32, 128),
        blocks: Sequence[Whole] = (1, 2),
        embedding: int = 8,
    ) -> None:
        super().__init__()
        _check_levels(latent_shape, grid_shape, width, blocks)
        self.classes = nn.Embedding(NUM_CLASSES, embedding)
        layers = [nn.Conv2d(SUB * grid_shape[2] * embedding, width[0], 1)]
        for level, (size, count) in enumerate(zip(width, blocks)):
            if level:
                layers.append(nn.Conv2d(width[level - 1], size, 2, stride=2))
            layers += (LightBlock(size) for _ in range(count))
        layers += nn.GroupNorm(1, size), nn.SiLU(), nn.Conv2d(size, latent_shape[0], 1)
        self.body = nn.Sequential(*layers)

    def forward(self, voxels: Tensor) -> Tensor:
        """Integer classes `(N, X, Y, Z)` to unscaled latents `(N, C, H, W)`."""
        x = F.embedding(fold(voxels).int(), self.classes.weight)
        x = x.flatten(3)  # N, X / 2, Y / 2, 4 Z E
        return self.body(x.permute(0, 3, 1, 2)).contiguous()


class Light(nn.Module):
    """What a light checkpoint holds: a decoder, an encoder, or both."""

    def __init__(
        self, decoder: LightDecoder | None = None, encoder: LightEncoder | None = None
    ) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder


class Lightened(nn.Module):
    """An autoencoder, some parts of which are replaced; to its users it is an autoencoder.

    Args:
        vae: the full one.
        decoder: in place of the full decoder, if given.
        encoder: in place of the full encoder, if given. It knows the posterior's mean only: the
            standard deviation is given as zero.
    """

    def __init__(
        self,
        vae: nn.Module,
        decoder: LightDecoder | None = None,
        encoder: LightEncoder | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.decoder, self.encoder = vae, decoder, encoder
        self.grid_shape, self.latent_shape = vae.grid_shape, vae.latent_shape

    @property
    def scale(self) -> float:
        """The full autoencoder's: latents are the same."""
        return self.vae.scale

    def encode(self, voxels: Tensor) -> Gaussian:
        """Posterior of the unscaled latents of integer classes `(N, X, Y, Z)`."""
        if self.encoder is None:
            return self.vae.encode(voxels)
        mean = self.encoder(voxels)
        return Gaussian(mean, torch.zeros_like(mean))

    def logits(self, z: Tensor) -> Tensor:
        """Class logits `(N, X, Y, Z, 18)` of latents `(N, C, H, W)`."""
        return (self.decoder or self.vae).logits(z)

    def decode(self, z: Tensor) -> Tensor:
        """Most likely classes, uint8 `(N, X, Y, Z)`, of latents `(N, C, H, W)`."""
        return (self.decoder or self.vae).decode(z)
