"""From raw LiDAR straight to the latents of the frozen VAE, by sparse convolutions.

The VAE was trained on dense labels: it knows a street as whole surfaces. Merged LiDAR returns fill
a few percent of the voxels, with holes behind everything. Convolutions that run where returns are
gather what was seen; a small dense network in bird's-eye view adds what wasn't.
"""

from __future__ import annotations

import functools
import logging
import warnings
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.autoencoder.vae import ConvBlock
from occdistill.data.occ3d import FREE, NUM_CLASSES
from occdistill.errors import UserError
from occdistill.types import Count


@functools.cache
def load_spconv() -> ModuleType:
    """`spconv.pytorch`, imported when it is first needed.

    Raises:
        UserError: if it isn't installed.
    """
    try:
        with warnings.catch_warnings():  # its own use of what torch and Python will drop
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            import spconv.pytorch as spconv
    except ImportError as error:
        raise UserError(
            f"the sparse LiDAR encoder needs spconv, which cannot be imported ({error}): "
            "pip install spconv-cu120, or leave lidar_encoder out of the config"
        ) from error
    # its tensors ask whether torch.fx is tracing, on which torch remarks that this has a new name
    logging.getLogger("torch.fx._symbolic_trace").addFilter(
        lambda record: not str(record.msg).startswith("is_fx_tracing")
    )
    return spconv


class SparseEncoder(nn.Module):
    """Occupied LiDAR voxels to latents; `Lightened(vae, encoder=...)` puts it beside its VAE.

    At each level a submanifold convolution (outputs where inputs are), then a strided one to the
    next; the last level's columns are folded into channels, and a two-level convolutional network
    makes the latent map of them.

    Args:
        grid_shape: voxels `(X, Y, Z)`.
        latent_shape: `(C, H, W)` of the frozen VAE, with X / H = Y / W = `2 ** (levels - 1)`.
        width: channels at each level of sparse convolutions, full resolution first.
        head: channels of the dense network at the latents' resolution and at half of it.
        blocks: residual blocks at half the latents' resolution.

    Raises:
        UserError: without spconv.
        ValueError: if the shapes don't fit.
    """

    def __init__(
        self,
        grid_shape: tuple[Count, Count, Count],
        latent_shape: tuple[Count, Count, Count],
        width: tuple[Count, ...] = (16, 32),
        head: tuple[Count, Count] = (48, 64),
        blocks: Count = 3,
    ) -> None:
        super().__init__()
        (x, y, z), (channels, h, w) = grid_shape, latent_shape
        factor = 2 ** (len(width) - 1)
        if (x, y) != (factor * h, factor * w) or h % 2 or w % 2:
            raise ValueError(
                f"{len(width)} levels take {tuple(grid_shape)} voxels to a map of {x // factor} × "
                f"{y // factor}, not to {h} × {w} (both even): give width as many entries as fit"
            )
        spconv = load_spconv()
        self.grid_shape, self.latent_shape = tuple(grid_shape), tuple(latent_shape)
        self.classes = nn.Embedding(NUM_CLASSES, width[0])
        self.heights = nn.Embedding(z, width[0])
        self.norms, self.convolutions = nn.ModuleList(), nn.ModuleList()
        for level, size in enumerate(width):
            if level:
                self.norms.append(nn.LayerNorm(width[level - 1]))
                halve = spconv.SparseConv3d(width[level - 1], size, 3, 2, padding=1, bias=False)
                self.convolutions.append(halve)
                z = -(-z // 2)
            self.norms.append(nn.LayerNorm(size))
            # spconv adds no bias on CPUs; the norms have one
            self.convolutions.append(spconv.SubMConv3d(size, size, 3, padding=1, bias=False))
        self.columns_shape = (h, w, z)
        fine, coarse = head
        self.stem = nn.Sequential(nn.Conv2d(width[-1] * z, fine, 3, padding=1), ConvBlock(fine))
        self.context = nn.Sequential(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            *(ConvBlock(coarse) for _ in range(blocks)),
            nn.ConvTranspose2d(coarse, fine, 2, stride=2),
        )
        self.out = nn.Sequential(
            ConvBlock(fine), nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, channels, 1)
        )
        self.register_buffer("latent_scale", torch.ones(()))  # the VAE's: it works in unit variance

    def forward(self, voxels: Tensor) -> Tensor:
        """Unscaled latents `(N, C, H, W)` of LiDAR `voxels`, integer classes `(N, X, Y, Z)`."""
        x = self.stem(self.columns(voxels))
        return self.out(x + self.context(x)) / self.latent_scale

    @torch.compiler.disable
    def columns(self, voxels: Tensor) -> Tensor:
        """What sparse convolutions make of `voxels (N, X, Y, Z)`: `(N, channels, H, W)`, zero in
        columns without returns.
        """
        spconv = load_spconv()
        algo = spconv.ConvAlgo.Native if voxels.device.type == "cpu" else None
        occupied = voxels != FREE
        # (M, 4): sample, x, y, z; spconv reads them row by row, whatever their strides
        places = occupied.nonzero().int().contiguous()
        h, w, z = self.columns_shape
        out = self.heights.weight.new_zeros(len(voxels) * h * w * z, self.norms[-1].weight.numel())
        # mixed precision would gain nothing on so few rows
        with torch.autocast(voxels.device.type, enabled=False):
            if len(places):
                features = self.classes(voxels[occupied].int()) + self.heights(places[:, 3])
                cloud = spconv.SparseConvTensor(
                    features, places, list(self.grid_shape), len(voxels)
                )
                for norm, convolution in zip(self.norms, self.convolutions):
                    convolution.algo = algo or spconv.ConvAlgo.MaskImplicitGemm
                    result = convolution(cloud.replace_feature(F.silu(norm(cloud.features))))
                    if convolution.subm:
                        result = result.replace_feature(result.features + cloud.features)
                    cloud = result
                n, i, j, k = cloud.indices.long().unbind(1)
                out = out.index_copy(0, ((n * h + i) * w + j) * z + k, cloud.features)
        return out.view(len(voxels), h, w, -1).permute(0, 3, 1, 2)
