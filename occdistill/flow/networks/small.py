"""A small space-time U-Net velocity field for latents that come with ego-aligned conditions.

Made for the embedded world and for a CPU: about a hundredth of OccFM's operations per clip.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.errors import UserError
from occdistill.flow.networks.base import Features, SplitNetwork, Tap
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition
from occdistill.types import Count, Positive, Whole


def fourier(t: Tensor, dim: int, highest: float) -> Tensor:
    """Cosines and sines of t at `dim / 2` frequencies from 1 to `highest` radians, `(B, dim)`."""
    frequencies = torch.logspace(0, math.log10(highest), dim // 2, device=t.device, dtype=t.dtype)
    phase = t[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """A time in [0, 1] to an embedding of width `dim`."""

    def __init__(self, dim: int, zero: bool = False) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        if zero:
            nn.init.zeros_(self.mlp[2].weight)
            nn.init.zeros_(self.mlp[2].bias)

    def forward(self, t: Tensor) -> Tensor:
        """`t (B,)` to `(B, dim)`."""
        return self.mlp(fourier(t, 64, highest=100.0))


class ResBlock(nn.Module):
    """Two 3×3 convolutions per frame, scaled and shifted by the frame's embedding."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """`x (N, inside, H, W)`, `e (N, embedding)` to `(N, outside, H, W)`."""
        scale, shift = self.modulation(e)[..., None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        return self.skip(x) + h


class SpaceTimeAttention(nn.Module):
    """Transformer block over all frames and positions of a clip at the coarse level."""

    def __init__(self, dim: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU("tanh"), nn.Linear(2 * dim, dim))
        self.modulation = nn.Linear(embedding, 2 * dim)
        for last in (self.proj, self.mlp[2]):
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """`x (B*F, C, H, W)`, `e (B, F, embedding)` to the shape of x."""
        batch, frames, _ = e.shape
        channels = x.shape[1]
        scale, shift = self.modulation(e).unsqueeze(2).chunk(2, dim=-1)
        tokens = x.flatten(2).transpose(1, 2)
        h = torch.addcmul(shift, self.norm1(tokens).view(batch, frames, -1, channels), 1 + scale)
        q, k, v = (
            self.qkv(h)
            .view(batch, -1, 3, self.heads, channels // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + self.proj(mixed)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)


class SpaceTimeUNet(SplitNetwork):
    """Velocity field of a Gaussian guess whose mean and spread the network chooses.

    If a future latent were normal with mean m and standard deviation s, its velocity would be
    `m + k_t (x_t - t m)` with `k_t = (t s² - (1 - t)) / (t² s² + (1 - t)²)`. The U-Net gives m and
    s for every latent cell from all it sees, x_t and t too, so that any field can be learned; it
    starts from the newest past frame, warped to the future one, and `prior_std`. What stands still
    is copied by a small s, which removes the noise of x_t exactly; where things move or come into
    view, m changes and s grows.

    Args:
        latent_shape: `(C, H, W)` of one frame; H and W multiples of `2 ** (len(blocks) - 1)`.
        past: past frames P.
        future: future frames F.
        align: aligned frames per future frame, K >= 1; m starts from the first one.
        trajectory: trajectory entries shown, L.
        width: channels at the finest level; each coarser level has twice as many.
        blocks: residual blocks on each side of each level, the finest first, and, the last number,
            in the coarsest level, where space-time attention follows each of them.
        heads: attention heads at the coarsest level.
        prior_std: s before training, the standard deviation of a scaled latent around its aligned
            past.
        two_time: also take the end time r of a step (flow maps); its embedding starts at zero, so
            that teacher weights give the same output.

    Raises:
        UserError: when called with a condition of other numbers of frames.
    """

    head_parts = ("up", "norm_out", "conv_out")

    def __init__(
        self,
        latent_shape: tuple[Count, Count, Count],
        past: Count = 4,
        future: Count = 6,
        align: Whole = 2,
        trajectory: Count = 10,
        width: Count = 64,
        blocks: tuple[Whole, ...] = (1, 2),
        heads: Count = 4,
        prior_std: Positive = 0.7,
        two_time: bool = False,
    ) -> None:
        super().__init__()
        channels, height, cells = latent_shape
        self.takes = dict(past=past, aligned=align, trajectory=trajectory)
        self.prior_std, self.channels = prior_std, channels
        self.entrance = self.fusion = width
        self.outer_clock = self.outer_in = None
        widths = [width * 2**level for level in range(len(blocks))]
        e = widths[-1]
        self.clock = TimeEmbedding(e)
        self.end_clock = TimeEmbedding(e, zero=True) if two_time else None
        self.trajectory = nn.Sequential(nn.Linear(2 * trajectory, e), nn.SiLU(), nn.Linear(e, e))
        self.horizon = nn.Parameter(torch.zeros(future, e))
        self.position = nn.Parameter(torch.zeros(width, height, cells))
        self.past_in = nn.Conv2d(past * channels, width, 3, padding=1)
        self.frame_in = nn.Conv2d((1 + align) * channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse, count in zip(widths, widths[1:], blocks):
            for _ in range(count):
                self.down.append(ResBlock(fine, fine, e))
                self.up.insert(0, ResBlock(2 * fine, fine, e))
            self.down.append(nn.Conv2d(fine, coarse, 2, stride=2))
            self.up.insert(0, nn.ConvTranspose2d(coarse, fine, 2, stride=2))
        self.middle = nn.ModuleList()
        for _ in range(blocks[-1]):
            self.middle.append(ResBlock(e, e, e))
            self.middle.append(SpaceTimeAttention(e, heads, e))
        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def trunk(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        r: Tensor | None = None,
        outer: tuple[Tensor, Tensor] | None = None,
    ) -> Features:
        """The way down and the coarsest level, of `x_t (B, F, C, H, W)`, `t (B,)`."""
        frames, channels = x_t.shape[1:3]
        self._check(condition, channels)
        told = None if outer is None else self.told_time(self.outer_clock, outer[1])
        e = self.embed(t, condition, r, told)
        late_e = frame_e = e.flatten(0, 1)
        if self.decoupled and r is not None:
            late_e = self.embed(r, condition, None, told).flatten(0, 1)

        seen = torch.cat([x_t, condition.aligned], dim=2).flatten(0, 1)
        shared = self.past_in(condition.past.flatten(1, 2)) + self.position
        h = self.frame_in(seen) + shared.repeat_interleave(frames, 0)
        if outer is not None:
            point, time = outer
            h = h + self.outer_in((expand(time, point) * point).flatten(0, 1))
        skips = []
        for layer in self.down:
            if isinstance(layer, ResBlock):
                h = layer(h, frame_e)
                skips.append(h)
            else:
                h = layer(h)
        for layer in self.middle:
            h = layer(h, frame_e if isinstance(layer, ResBlock) else e)
        return Features(h, tuple(skips), (x_t, t, condition, r, told, late_e))

    def head(
        self, features: Features, embedding: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """The way up, and the velocity of the guess it makes."""
        h, skips = features.deep, list(features.skips)
        x_t, t, condition, r, told, late_e = features.told
        frames, channels = x_t.shape[1:3]
        if embedding is not None:
            more = embedding if told is None else embedding + told
            shown = (r, None) if self.decoupled and r is not None else (t, r)
            late_e = self.embed(shown[0], condition, shown[1], more).flatten(0, 1)
        if added is not None:
            skips[0] = skips[0] + added
        for layer in self.up:
            if isinstance(layer, ResBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), late_e)
            else:
                h = layer(h)
        out = self.conv_out(F.silu(self.norm_out(h))).unflatten(0, (-1, frames))
        shift, log_ratio = out.chunk(2, dim=2)
        std = self.prior_std * log_ratio.clamp(-3, 3).exp()
        return gaussian_velocity(x_t, t, condition.aligned[:, :, :channels] + shift, std)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The last block of the coarsest level."""
        return (Tap(f"middle.{len(self.middle) - 1}", self.horizon.shape[1]),)

    def told_time(self, clock: nn.Module, t: Tensor) -> Tensor:
        """The clock's own."""
        return clock(t)

    def embed(
        self,
        t: Tensor,
        condition: Condition,
        r: Tensor | None = None,
        more: Tensor | None = None,
    ) -> Tensor:
        """One vector per future frame from clocks, trajectory and horizon, `(B, F, E)`."""
        e = self.clock(t) + self.trajectory(condition.trajectory.flatten(1) / 5.0)
        if self.end_clock is not None and r is not None:
            e = e + self.end_clock(r - t)
        if more is not None:
            e = e + more
        return F.silu(e[:, None] + self.horizon)

    @property
    def levels(self) -> tuple[Tap, ...]:
        """The last residual block of every finer level on either side of the coarsest one."""

        def ends(side: str) -> list[Tap]:
            layers = [*getattr(self, side), None]
            return [
                Tap(f"{side}.{i}", block.conv2.out_channels)
                for i, (block, after) in enumerate(zip(layers, layers[1:]))
                if isinstance(block, ResBlock) and not isinstance(after, ResBlock)
            ]

        return (*ends("down"), *self.taps, *ends("up"))

    def _check(self, condition: Condition, channels: int) -> None:
        aligned = 0 if condition.aligned is None else condition.aligned.shape[2] // channels
        given = (condition.past.shape[1], aligned, condition.trajectory.shape[1])
        if given != tuple(self.takes.values()):
            raise UserError(
                "the network takes {} past frames, {} aligned ones and {} trajectory entries, but "
                "data and conditioning give {}, {} and {}: make them agree in the config".format(
                    *self.takes.values(), *given
                )
            )


def gaussian_velocity(x_t: Tensor, t: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Velocity of the flow from noise to `N(mean, std²)`, in closed form."""
    t, s2 = expand(t, x_t), std**2
    k = (t * s2 - (1 - t)) / (t**2 * s2 + (1 - t) ** 2)
    return mean + k * (x_t - t * mean)
