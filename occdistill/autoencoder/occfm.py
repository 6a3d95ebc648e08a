"""OccFM's Swin-v2 autoencoder, able to carry its published weights.

Top to bottom, for one frame of 200×200×16 voxels and C = 16 latent channels:

    VoxelEmbedding      8 numbers per class + 4 per height, 16 heights folded into 192 channels,
                        3×3 convolution to 128 channels at 200×200
    Encoder             1×1 convolution, LayerNorm, + learned position table
                        2 Swin blocks at 128×200×200, residual block, stride-2 convolution
                        6 Swin blocks at 256×100×100, residual block, stride-2 convolution
                        convolution to 128×50×50, residual, attention over all pixels, residual
                        norm, SiLU, convolution to mean and log-variance, each C×50×50
    Decoder             convolution to 128×50×50, residual, attention, residual
                        6 Swin blocks at 50×50, residual block, nearest ×2, convolution
                        2 Swin blocks at 100×100, residual block, nearest ×2, convolution
                        norm, SiLU, convolution to 16 heights × 8 numbers at 200×200
    class logits        dot product of the 8 numbers with the embedding of each class

Feature maps are `(N, C, H, W)` in channels-last memory, so that convolutions and token layers read
the same bytes. The variants differ in C (4, 8, 16, 64); with `frames` the network becomes the 3-D
autoencoder that only serves as a feature extractor for video scores.

Where the published code differs from what one would write, it is followed, and named:
`averaged_relative_index` (what averaging weights did to an integer table) and `published_kl`.

Source: Liu et al., OccFM, NeurIPS 2025; Swin v2: Liu et al., CVPR 2022.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from occdistill.attention import attend
from occdistill.autoencoder.vae import Gaussian
from occdistill.data.occ3d import NUM_CLASSES
from occdistill.types import Count

WINDOW = 5  # side of an attention window, in pixels
SHIFT = 2  # how far every second block's windows are shifted
HEADS = 8


def published_kl(posterior: Gaussian) -> Tensor:
    """OccFM's regulariser, with the standard deviation where a KL has the log-variance.

    `mean of -(1 + std - mean² - exp(std)) / 2`. It pulls mean and std to zero, so latents come out
    small and nearly deterministic, which is why the flow multiplies them by 10. The divergence that
    was meant is `autoencoder.losses`' own.
    """
    mean, std = posterior.mean, posterior.std
    return -0.5 * (1 + std - mean.square() - std.exp()).mean()


class ResConv(nn.Module):
    """`x + conv(SiLU(norm(conv(x))))`: one norm, between two 3×3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        return x + self.conv2(F.silu(self.norm(self.conv1(x))))


class PixelAttention(nn.Module):
    """Attention of every pixel to every pixel of its frame, 8 heads of 64, added to the input."""

    head_dim = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = HEADS * self.head_dim
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.query = nn.Linear(channels, inner, bias=False)
        self.key_value = nn.Linear(channels, 2 * inner, bias=False)
        self.merge = nn.Linear(inner, channels, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q = self.query(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k, v = self.key_value(tokens).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v)
        merged = self.merge(attended.transpose(1, 2).flatten(2))
        return x + self.out(merged.transpose(1, 2).view_as(x))


class WindowAttention(nn.Module):
    """Swin v2 attention inside windows: cosine similarity, learned temperature, learned bias.

    The bias of a pair of pixels is `16 sigmoid(mlp(offset))`, tabulated for the 9×9 offsets and
    looked up by `relative_index (25, 25)`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.full((HEADS, 1, 1), math.log(10.0)))
        self.query_bias = nn.Parameter(torch.zeros(channels))
        self.value_bias = nn.Parameter(torch.zeros(channels))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.offset_in = nn.Linear(2, 512)
        self.offset_out = nn.Linear(512, HEADS, bias=False)
        self.out = nn.Linear(channels, channels)
        self.register_buffer("offsets", log_offsets())
        self.register_buffer("relative_index", relative_index())

    def bias(self) -> Tensor:
        """What is added to the logits of each head, query and key: `(8, 25, 25)`."""
        table = self.offset_out(F.relu(self.offset_in(self.offsets))).view(-1, HEADS)
        return 16 * torch.sigmoid(table[self.relative_index].permute(2, 0, 1))

    def forward(self, windows: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows `(N, 25, C)`, `bias()` and the windows' own mask `(N, 25, 25)`."""
        no_key_bias = torch.zeros_like(self.query_bias)
        in_bias = torch.cat([self.query_bias, no_key_bias, self.value_bias])
        qkv = F.linear(windows, self.qkv.weight, in_bias)
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        temperature = self.log_temperature.clamp_max(math.log(100.0)).exp()
        q = F.normalize(q, dim=-1) * temperature
        logits = q @ F.normalize(k, dim=-1).transpose(-1, -2) + bias
        if mask is not None:
            logits = logits + mask[:, None]
        attended = logits.softmax(-1) @ v
        return self.out(attended.transpose(1, 2).flatten(2))


def log_offsets() -> Tensor:
    """Coordinates of the 9×9 offsets between two pixels of a window, `(1, 9, 9, 2)`.

    `sign(u) log2(|u| + 1) / 3` with u = 8 offset / 4; row offset first.
    """
    u = 8 * torch.arange(1 - WINDOW, WINDOW, dtype=torch.float32) / (WINDOW - 1)
    c = torch.sign(u) * torch.log2(u.abs() + 1) / math.log2(8)
    return torch.stack(torch.meshgrid(c, c, indexing="ij"), dim=-1)[None]


def relative_index() -> Tensor:
    """Row of the offset table for each query and key of a window, int64 `(25, 25)`."""
    row, column = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
    step = 2 * WINDOW - 1
    down = row[:, None] - row + WINDOW - 1
    right = column[:, None] - column + WINDOW - 1
    return down * step + right


def averaged_relative_index() -> Tensor:
    """`relative_index` as OccFM's weight averaging leaves it: 12 of its 81 values one too small.

    The average of an integer table with itself is computed in float32 and truncated back; where
    `0.9999 i + (1 - 0.9999) i` rounds below i, one is lost, once. Found by simulation; no published
    file was at hand.
    """
    lost = torch.tensor([11, 22, 29, 31, 39, 44, 53, 58, 62, 69, 78, 79])
    index = relative_index()
    return index - torch.isin(index, lost).long()


def shift_mask(height: int, width: int) -> Tensor:
    """-100 between pixels that only the cyclic shift made neighbours, `(windows, 25, 25)`."""

    def region(size: int) -> Tensor:
        position = torch.arange(size)
        return (position >= size - WINDOW).long() + (position >= size - SHIFT).long()

    regions = (3 * region(height)[:, None] + region(width))[None, :, :, None]
    regions = to_windows(regions).squeeze(-1)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -100.0)


def to_windows(x: Tensor) -> Tensor:
    """Map `(N, H, W, C)` to windows `(N * H/5 * W/5, 25, C)`, in raster order."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`: `(N, H, W, C)`."""
    x = windows.unflatten(0, (-1, height // WINDOW, width // WINDOW))
    return x.unflatten(3, (WINDOW, WINDOW)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class SwinBlock(nn.Module):
    """Swin v2 block with the norms after attention and after the MLP.

    Everything in it is local to a window, so a map is cut into windows once and put together once.

    Args:
        channels: C.
        size: height and width of the map, multiples of 5.
        shifted: whether the windows lie (2, 2) pixels off the grid, cyclically.
    """

    def __init__(self, channels: int, size: tuple[int, int], shifted: bool) -> None:
        super().__init__()
        self.size, self.shifted = size, shifted
        self.attention = WindowAttention(channels)
        self.attention_norm = nn.LayerNorm(channels, eps=1e-5)
        self.mlp_in = nn.Linear(channels, 4 * channels)
        self.mlp_out = nn.Linear(4 * channels, channels)
        self.mlp_norm = nn.LayerNorm(channels, eps=1e-5)
        if shifted:
            self.register_buffer("mask", shift_mask(*size))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape, channels-last."""
        x = x.permute(0, 2, 3, 1)
        if self.shifted:
            x = x.roll((-SHIFT, -SHIFT), (1, 2))
        mask = self.mask.repeat(x.shape[0], 1, 1) if self.shifted else None
        x = from_windows(self.inside(to_windows(x), self.attention.bias(), mask), *self.size)
        if self.shifted:
            x = x.roll((SHIFT, SHIFT), (1, 2))
        return x.permute(0, 3, 1, 2)

    def inside(self, windows: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Windows `(N, 25, C)`, each by itself; arguments as for `WindowAttention`."""
        x = windows + self.attention_norm(self.attention(windows, bias, mask))
        return x + self.mlp_norm(self.mlp_out(F.gelu(self.mlp_in(x))))


class Res3D(nn.Module):
    """`x + conv(SiLU(norm(conv(x))))` over frames, rows and columns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(32, channels, eps=1e-5)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, F, H, W)` to the same shape."""
        return x + self.conv2(F.silu(self.norm(self.conv1(x))))


class TemporalBlock(nn.Module):
    """What makes the autoencoder 3-D: two residual blocks around attention over the frames.

    The attention replaces its input; it has no residual and no norm.
    """

    heads = 4

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.res1 = Res3D(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.res2 = Res3D(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B * frames, C, H, W)` to the same shape."""
        height, width = x.shape[-2:]
        x = self.res1(x.unflatten(0, (-1, self.frames)).transpose(1, 2))
        tokens = x.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B * H * W, F, C)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v).transpose(1, 2).flatten(2)
        x = self.out(attended).unflatten(0, (-1, height, width)).permute(0, 4, 3, 1, 2)
        return self.res2(x).transpose(1, 2).flatten(0, 1)


class SwinStage(nn.Module):
    """Swin blocks at one resolution, every second one shifted, then a residual block."""

    def __init__(
        self, channels: int, size: tuple[int, int], depth: int, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList(SwinBlock(channels, size, i % 2 == 1) for i in range(depth))
        self.residual = ResConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        for layer in (*self.blocks, self.residual):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


def middle(channels: int) -> nn.Sequential:
    """Residual block, attention over all pixels, residual block."""
    return nn.Sequential(ResConv(channels), PixelAttention(channels), ResConv(channels))


class VoxelEmbedding(nn.Module):
    """Classes and heights to a bird's-eye map of 128 channels."""

    def __init__(self, heights: int, channels: int, classes: int = 8) -> None:
        super().__init__()
        self.classes = nn.Embedding(NUM_CLASSES, classes)
        self.register_buffer("heights", height_codes(heights))
        self.project = nn.Conv2d(heights * (classes + 4), channels, 3, padding=1)

    def forward(self, voxels: Tensor) -> Tensor:
        """Integer classes `(N, X, Y, Z)` to `(N, channels, X, Y)`."""
        # One table for class and height together: row z * 18 + c holds class c's, then z's numbers.
        classes = self.classes.weight.expand(len(self.heights), -1, -1)
        heights = self.heights[:, None].expand(-1, NUM_CLASSES, -1)
        table = torch.cat([classes, heights], dim=-1).flatten(0, 1)
        first_row = NUM_CLASSES * torch.arange(voxels.shape[-1], device=voxels.device)
        folded = F.embedding(voxels.int() + first_row.int(), table).flatten(3)
        return self.project(folded.permute(0, 3, 1, 2))


def height_codes(heights: int) -> Tensor:
    """`[0, 1, sin(pi h), cos(pi h)]` at the relative voxel centres h, `(heights, 4)`."""
    h = (torch.arange(heights, dtype=torch.float64) + 0.5) / heights
    angle = math.pi * h[:, None] * torch.tensor([0.0, 1.0])
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


class Encoder(nn.Module):
    """Embedded map to mean and log-variance of the latents."""

    def __init__(
        self,
        size: tuple[int, int],
        latents: int,
        width: tuple[int, int, int],
        depths: tuple[int, int],
        frames: int | None,
        recompute: bool,
    ) -> None:
        super().__init__()
        (h, w), (fine, coarse, top) = size, width
        self.patch = nn.Conv2d(fine, fine, 1)
        self.patch_norm = nn.LayerNorm(fine, eps=1e-5)
        self.position = nn.Parameter(torch.zeros(1, h * w, fine))
        self.stages = nn.ModuleList(
            [
                SwinStage(fine, (h, w), depths[0], recompute),
                SwinStage(coarse, (h // 2, w // 2), depths[1], recompute),
            ]
        )
        self.downs = nn.ModuleList(
            [
                nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
                nn.Conv2d(coarse, top, 3, stride=2, padding=1),
            ]
        )
        self.temporal = nn.ModuleList(
            TemporalBlock(c, frames) if frames else nn.Identity() for c in (coarse, top)
        )
        self.reduce = nn.Conv2d(top, fine, 3, padding=1)
        self.middle = middle(fine)
        self.norm = nn.GroupNorm(32, fine, eps=1e-6)
        self.out = nn.Conv2d(fine, 2 * latents, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, 128, X, Y)` to two maps `(N, C, X/4, Y/4)`."""
        tokens = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        x = (tokens + self.position.view(1, *tokens.shape[1:])).permute(0, 3, 1, 2)
        for stage, down, temporal in zip(self.stages, self.downs, self.temporal):
            x = temporal(down(stage(x)))
        x = self.middle(self.reduce(x))
        mean, log_variance = self.out(F.silu(self.norm(x))).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents to 8 numbers per voxel, heights folded into the channels."""

    def __init__(
        self,
        size: tuple[int, int],
        latents: int,
        width: int,
        depths: tuple[int, int],
        outputs: int,
        frames: int | None,
        recompute: bool,
    ) -> None:
        super().__init__()
        h, w = size
        self.enter = nn.Conv2d(latents, width, 3, padding=1)
        self.middle = middle(width)
        self.stages = nn.ModuleList(
            [
                SwinStage(width, (h // 4, w // 4), depths[0], recompute),
                SwinStage(width, (h // 2, w // 2), depths[1], recompute),
            ]
        )
        self.temporal = nn.ModuleList(
            [TemporalBlock(width, frames) if frames else nn.Identity(), nn.Identity()]
        )
        self.ups = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """`(N, C, X/4, Y/4)` to `(N, Z * 8, X, Y)`."""
        x = self.middle(self.enter(z.contiguous(memory_format=torch.channels_last)))
        for stage, temporal, up in zip(self.stages, self.temporal, self.ups):
            x = up(F.interpolate(temporal(stage(x)), scale_factor=2, mode="nearest"))
        return self.out(F.silu(self.norm(x)))


class OccFMVAE(nn.Module):
    """OccFM's autoencoder of occupancy frames.

    Args:
        channels: latent channels C: 16, or 4, 8, 64 in the published variants.
        grid_shape: voxels `(X, Y, Z)`; X and Y multiples of 20.
        width: channels at full, half and quarter resolution of the encoder; the decoder and the
            middle use the first throughout.
        depths: Swin blocks per encoder stage; the decoder has them in reverse.
        frames: None, or the number of frames of the 3-D autoencoder (6), whose inputs hold the
            frames of a clip one after another.
        recompute: store less for the backward pass and compute stages again in it.

    Attributes:
        scale: what latents are multiplied by before the flow, 10.
        grid_shape: `(X, Y, Z)`.
        latent_shape: `(C, X / 4, Y / 4)`.
    """

    scale = 10.0
    class_numbers = 8

    def __init__(
        self,
        channels: Count = 16,
        grid_shape: tuple[Count, Count, Count] = (200, 200, 16),
        width: tuple[Count, Count, Count] = (128, 256, 512),
        depths: tuple[Count, Count] = (2, 6),
        frames: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        x, y, z = grid_shape
        if x % (4 * WINDOW) or y % (4 * WINDOW):
            raise ValueError(f"the grid {grid_shape} is not a multiple of 20 voxels in x and y")
        self.grid_shape, self.latent_shape = tuple(grid_shape), (channels, x // 4, y // 4)
        self.frames = frames
        outputs = z * self.class_numbers
        self.embedding = VoxelEmbedding(z, width[0], self.class_numbers)
        self.encoder = Encoder((x, y), channels, width, depths, frames, recompute)
        self.decoder = Decoder((x, y), channels, width[0], depths[::-1], outputs, frames, recompute)

    def encode(self, voxels: Tensor) -> Gaussian:
        """Posterior of the latents of integer classes `(N, X, Y, Z)`; unscaled, `(N, C, H, W)`."""
        mean, log_variance = self.encoder(self.embedding(voxels))
        return Gaussian(mean, torch.exp(0.5 * log_variance))

    def features(self, z: Tensor) -> Tensor:
        """Latents `(N, C, H, W)` to 8 numbers per voxel, `(N, X, Y, Z, 8)`."""
        return self.decoder(z).permute(0, 2, 3, 1).unflatten(-1, (-1, self.class_numbers))

    def logits(self, z: Tensor) -> Tensor:
        """Class logits `(N, X, Y, Z, 18)` of latents `(N, C, H, W)`.

        The class table is shared with the encoder and learns there only.
        """
        return self.features(z) @ self.embedding.classes.weight.detach().T

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Most likely classes, uint8 `(N, X, Y, Z)`, of latents `(N, C, H, W)`."""
        return self.logits(z).argmax(-1).to(torch.uint8)

    def set_relative_index(self, which: Literal["intended", "averaged"]) -> None:
        """Replace the loaded index of every window attention.

        `intended` gives each pair of pixels its own offset; `averaged` is what OccFM's averaged
        checkpoints (most likely) hold and were evaluated with. Loading keeps what a file holds.
        """
        index = {"intended": relative_index, "averaged": averaged_relative_index}[which]()
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.relative_index.copy_(index)
