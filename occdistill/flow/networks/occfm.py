"""OccFM's transition network, able to carry its published weights. The whole of it is in this file.

A U-Net over space that mixes 12 frames (6 past, 6 future) of 16×50×50 latents:

    enter            7×7 convolution to 64 channels, then attention over frames
    down.0           64 -> 128 at 50×50     two residual blocks, then two transformer blocks, one
    (4×4, stride 2)                         over the pixels of a frame, one over the frames of a
    down.1           128 -> 256 at 25×25    pixel
    middle           residual, attention over pixels, attention over frames, residual
    up.0             512 -> 128 at 25×25    (input joined with what down.1 gave)
    (4×4, stride 2)
    up.1             256 -> 64 at 50×50     (input joined with what down.0 gave)
    out              joined with what `enter` gave, residual block, 1×1 convolution to 16 channels

Clock and trajectory give one vector e per clip. It scales and shifts the residual blocks, and
scales, shifts and gates the transformer blocks.

Between blocks the state is `(B * 12, H, W, C)`, one map per frame, channels last; blocks over time
see it as `(B * H * W, 12, C)`. Every block treats the rows of its first dimension independently.

Four things in the published network look like slips. The weights were trained with them, so they
are the defaults, and each can be switched off to train the network as it was meant:

    head_merge="reinterpret"    transformer blocks read the memory of the heads' outputs
                                `(heads, N, C/heads)` as `(N, C)` without transposing it, so a token
                                holds 8 neighbouring tokens of (mostly) one head; "transpose" is the
                                usual merge
    position_columns=W + 1      the fixed position table is laid out on a map one column too wide,
                                and drifts by one column per row; W is the map itself
    doubled_residual=True       the input of the first attention is added to its output twice
    trajectory_length=past      the history-only model sees the displacement from the newest past
                                frame to the first future frame; `past - 1` would hide it

Source: Liu et al., OccFM, NeurIPS 2025.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from occdistill.attention import attend
from occdistill.errors import UserError
from occdistill.flow.networks.base import Features, SplitNetwork, Tap
from occdistill.latents.condition import Condition
from occdistill.types import Count, Whole

HEADS = 8

# ------------------------------------------------------------------ fixed codes


def phases(values: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """`values * 10000^(-k / count)` for k < count, on a new last dimension."""
    k = torch.arange(count, device=values.device, dtype=dtype)
    return values.to(dtype)[..., None] * 10000.0 ** (-k / count)


def clock_code(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of 1000 t: `(B,)` to `(B, width)`."""
    angle = phases(1000 * t.float(), width // 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def trajectory_code(trajectory: Tensor, frequencies: int = 8) -> Tensor:
    """Sines and cosines of metres at 1 ... 100^(7/8) radians, `(B, L, 2)` to `(B, L * 32)`.

    Order of the numbers: frame, frequency, (sine, cosine), (right, forward).
    """
    k = torch.arange(frequencies, device=trajectory.device, dtype=torch.float32)
    angle = trajectory.float()[:, :, None] * (100.0 ** (k / frequencies))[:, None]
    return torch.stack([angle.sin(), angle.cos()], dim=3).flatten(1)


def index_code(index: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of integers: `(N,)` to `(N, width)`, float32 of a float64 result."""
    angle = phases(index, width // 2, torch.float64)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def position_table(height: int, width: int, channels: int, columns: int) -> Tensor:
    """Code of column, then of row, of every pixel on a map of `columns`, `(H * W, channels)`."""
    n = torch.arange(height * width)
    half = channels // 2
    return torch.cat([index_code(n % columns, half), index_code(n // columns, half)], dim=-1)


def frame_buckets(frames: int, directional: int = 16) -> Tensor:
    """Row of the relative-bias table for each query and key frame, int64 `(frames, frames)`.

    16 rows per direction: distances below 8 have their own, longer ones share logarithmically.
    """
    frame = torch.arange(frames)
    ahead = frame - frame[:, None]
    distance, exact = ahead.abs(), directional // 2
    ratio = torch.log(distance.clamp_min(1).double() / exact) / math.log(directional / exact)
    far = (exact + (ratio * exact).floor().long()).clamp_max(directional - 1)
    return torch.where(distance < exact, distance, far) + directional * (ahead > 0)


# ------------------------------------------------------------------ blocks


def split_heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(S, N, 3 * heads * D)` to q, k and v, each `(S, heads, N, D)`."""
    return qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """`x / |x| * sqrt(C) * gain` over the last dimension."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * (math.sqrt(x.shape[-1]) / norm.clamp_min(1e-12))).to(x.dtype) * gain


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """A 2-D convolution of maps `(N, H, W, C)`."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def per_row(e: Tensor, rows: int) -> Tensor:
    """One vector per clip `(B, D)` to one per row, `(rows, 1, D)`."""
    return e[:, None].expand(-1, rows // e.shape[0], -1).reshape(rows, 1, -1)


class Residual(nn.Module):
    """Two convolutions with norms over channels, modulated by e: `skip(x) + h(x)`.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        embedding: width of e; None for a block that ignores it.
    """

    def __init__(self, inside: int, outside: int, embedding: int | None) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * outside) if embedding else None
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.gain1 = nn.Parameter(torch.ones(outside))
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.gain2 = nn.Parameter(torch.ones(outside))
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """`x (B * F, H, W, inside)`, `e (B, E)` after its SiLU."""
        h = rms_norm(convolve(self.conv1, x), self.gain1)
        if self.modulation is not None:
            scale, shift = per_row(self.modulation(e), x.shape[0])[:, None].chunk(2, dim=-1)
            h = torch.addcmul(shift, h, 1 + scale)
        h = F.silu(rms_norm(convolve(self.conv2, F.silu(h)), self.gain2))
        return h + (x if self.skip is None else convolve(self.skip, x))


class Attention(nn.Module):
    """`x + attention(norm(x))` inside sequences, 8 heads of 32, with an optional bias."""

    head_dim = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = HEADS * self.head_dim
        self.gain = nn.Parameter(torch.ones(channels))
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.out = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x (S, N, C)`, `bias (1, heads, N, N)`."""
        h = F.layer_norm(x, x.shape[-1:], self.gain, eps=1e-5)
        attended = attend(*split_heads(self.qkv(h)), bias)
        return x + self.out(attended.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """DiT block inside sequences: attention and MLP, both scaled, shifted and gated by e."""

    attend = staticmethod(attend)

    def __init__(
        self, channels: int, embedding: int, head_merge: Literal["reinterpret", "transpose"]
    ) -> None:
        super().__init__()
        if head_merge not in ("reinterpret", "transpose"):
            raise ValueError(f"head_merge {head_merge!r} is neither 'reinterpret' nor 'transpose'")
        self.head_merge = head_merge
        self.modulation = nn.Linear(embedding, 6 * channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp_in = nn.Linear(channels, 4 * channels)
        self.mlp_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """`x (S, N, C)`, `e (B, E)` after its SiLU; the S sequences of a clip follow each other."""
        modulation = per_row(self.modulation(e), x.shape[0])
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(self.modulate(x, shift1, scale1)))
        h = F.gelu(self.mlp_in(self.modulate(x, shift2, scale2)), approximate="tanh")
        return torch.addcmul(x, gate2, self.mlp_out(h))

    @staticmethod
    def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """`norm(x) * (1 + scale) + shift`, the norm without weights."""
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)

    def attention(self, x: Tensor) -> Tensor:
        """`(S, N, C)` to the same shape."""
        attended = self.attend(*split_heads(self.qkv(x)))  # (S, heads, N, C / heads)
        if self.head_merge == "transpose":
            attended = attended.transpose(1, 2)
        return self.out(attended.reshape(x.shape))


def over_pixels(function, x: Tensor, *args) -> Tensor:
    """Apply `function` to the sequences of pixels of `x (B * F, H, W, C)`."""
    return function(x.flatten(1, 2), *args).view_as(x)


def over_frames(function, x: Tensor, frames: int, *args) -> Tensor:
    """Apply `function` to the sequences of frames of `x (B * F, H, W, C)`."""
    pixels = x.shape[1] * x.shape[2]
    sequences = x.reshape(-1, frames, pixels, x.shape[-1]).transpose(1, 2).flatten(0, 1)
    sequences = function(sequences, *args)
    return sequences.unflatten(0, (-1, pixels)).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Residual blocks, then a transformer block over pixels (or none) and one over frames."""

    def __init__(
        self, inside: int, outside: int, embedding: int, head_merge: str, pixels: bool = True
    ) -> None:
        super().__init__()
        self.residual1 = Residual(inside, outside, embedding)
        self.residual2 = Residual(outside, outside, embedding)
        self.space = Transformer(outside, embedding, head_merge) if pixels else None
        self.time = Transformer(outside, embedding, head_merge)


# ------------------------------------------------------------------ the network


class OccFMTransition(SplitNetwork):
    """Velocity field of OccFM.

    Args:
        latent_shape: `(C, H, W)` of one frame; H and W even.
        past: past frame slots P; a condition with fewer frames is filled up with zero frames.
        future: future frames F.
        history: how many of the newest past frames are shown, the others are zeroed. OccFM's
            16-channel models use 4 of 6, its 4-, 8- and 64-channel models all.
        trajectory_length: entries of the trajectory used, L, counted from the first slot: P for
            OccFM's history model, P + F for the model with the future trajectory.
        width: channels at the first level.
        fine_pixels: whether the levels at 50×50 have their blocks over pixels, a quarter of the
            network's operations; a light network does without.
        head_merge, position_columns, doubled_residual: see the head of this file.
        two_time: also take the end time r of a step; its embedding starts at zero, so that
            published weights give the same output. The published layout has no place for it.
        recompute: store less for the backward pass and compute blocks again in it.
        align: aligned frames per future frame, K. They enter beside x_t, through a convolution that
            starts at zero, so that weights without it give the same output. Nor has the published
            layout a place for it.
    """

    head_parts = ("up", "upsample", "out_residual", "out")
    without_effect = ("aligned_in",)

    def __init__(
        self,
        latent_shape: tuple[Count, Count, Count] = (16, 50, 50),
        past: Count = 6,
        future: Count = 6,
        history: Count | None = None,
        trajectory_length: Count = 6,
        width: Count = 64,
        fine_pixels: bool = True,
        head_merge: Literal["reinterpret", "transpose"] = "reinterpret",
        position_columns: int | None = None,
        doubled_residual: bool = True,
        two_time: bool = False,
        recompute: bool = False,
        align: Whole = 0,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.channels, self.entrance, self.fusion = latent_shape[0], width, 2 * width
        self.outer_clock = self.outer_in = None
        channels, h, w = latent_shape
        self.past, self.future, self.history = past, future, past if history is None else history
        self.frames, self.trajectory_length = past + future, trajectory_length
        self.doubled_residual, self.recompute = doubled_residual, recompute
        self.takes = dict(past=past, trajectory=trajectory_length)
        if align:
            self.takes["aligned"] = align
        c1, c2, c3 = width, 2 * width, 4 * width
        self.embedding = e = c2

        columns = w + 1 if position_columns is None else position_columns
        self.register_buffer("position", position_table(h, w, c2, columns)[None])
        self.register_buffer("frame_position", index_code(torch.arange(self.frames), c2)[None])
        self.frame_bias = nn.Embedding(32, HEADS)
        self.register_buffer("buckets", frame_buckets(self.frames), persistent=False)

        self.clock = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.trajectory = nn.Sequential(
            nn.Linear(32 * trajectory_length, e), nn.SiLU(), nn.Linear(e, e)
        )
        self.end_clock = (
            nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e)) if two_time else None
        )

        self.enter = nn.Conv2d(channels, c1, 7, padding=3)
        self.aligned_in = nn.Conv2d(align * channels, c1, 7, padding=3) if align else None
        self.enter_time = Attention(c1)
        fine = (e, head_merge, fine_pixels)
        self.down = nn.ModuleList([Level(c1, c2, *fine), Level(c2, c3, e, head_merge)])
        self.downsample = nn.Conv2d(c2, c2, 4, stride=2, padding=1)
        self.middle1 = Residual(c3, c3, e)
        self.middle_space = Attention(c3)
        self.middle_time = Attention(c3)
        self.middle2 = Residual(c3, c3, e)
        self.up = nn.ModuleList([Level(2 * c3, c2, e, head_merge), Level(2 * c2, c1, *fine)])
        self.upsample = nn.ConvTranspose2d(c2, c2, 4, stride=2, padding=1)
        self.out_residual = Residual(2 * c1, c1, None)
        self.out = nn.Conv2d(c1, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """OccFM's initialisation of the linear layers; modulations do not start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.clock[0], self.clock[2]):
            nn.init.normal_(layer.weight, std=0.02)
        if self.end_clock is not None:
            nn.init.zeros_(self.end_clock[2].weight)
        if self.aligned_in is not None:
            nn.init.zeros_(self.aligned_in.weight)
            nn.init.zeros_(self.aligned_in.bias)

    def trunk(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        r: Tensor | None = None,
        outer: tuple[Tensor, Tensor] | None = None,
    ) -> Features:
        """All up to the middle, for the velocity of the future frames; with `r`, from t to r.

        Args:
            x_t: noised future latents, scaled, `(B, F, C, H, W)`.
            t: times in [0, 1], `(B,)`, 0 for noise.
            condition: past latents `(B, <= P, C, H, W)`, scaled; trajectory optional; aligned
                latents `(B, F, K*C, H, W)` where it takes them.
            r: end times `(B,)`, for `two_time` networks.
            outer: see `SplitNetwork`.

        Raises:
            UserError: if the condition doesn't fit the network's slots.
        """
        past, trajectory = self.slots(condition)
        frames = torch.cat([past.to(x_t.dtype), x_t], dim=1)
        aligned = self.aligned_slots(condition)
        return self.down_to_the_middle(frames, t, trajectory, r, self.future, outer, aligned)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The last block at 25×25."""
        return (Tap("middle2", self.middle2.conv2.out_channels, channels_last=True),)

    @property
    def levels(self) -> tuple[Tap, ...]:
        """The convolutional half of every level, whose blocks see maps, and the last at 25×25."""

        def ends(side: str) -> list[Tap]:
            blocks = [level.residual2 for level in getattr(self, side)]
            names = [f"{side}.{i}.residual2" for i in range(len(blocks))]
            return [Tap(n, b.conv2.out_channels, True) for n, b in zip(names, blocks)]

        return (*ends("down"), *self.taps, *ends("up"))

    def slots(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The condition in this network's slots: past `(B, P, C, H, W)`, trajectory `(B, L, 2)`.

        Frames before the newest `history`, and their trajectory entries, are zeros.
        """
        given, trajectory = condition.past, condition.trajectory
        missing = self.past - given.shape[1]
        if missing < 0:
            raise UserError(
                f"the condition holds {given.shape[1]} past frames and the OccFM network has "
                f"{self.past} slots: set data.past to {self.past} or less"
            )
        hidden = max(self.past - self.history, missing)
        past = F.pad(given[:, hidden - missing :], (0, 0, 0, 0, 0, 0, hidden, 0))
        if trajectory is None:
            return past, None
        if trajectory.shape[1] + missing < self.trajectory_length:
            raise UserError(
                f"the condition holds {trajectory.shape[1]} trajectory entries and the OccFM "
                f"network needs {self.trajectory_length - missing}: conditioning.kind gt shows one "
                "per frame, hist+1 one per past frame, hist one less"
            )
        trajectory = F.pad(trajectory[:, hidden - missing :], (0, 0, hidden, 0))
        return past, trajectory[:, : self.trajectory_length]

    def aligned_slots(self, condition: Condition) -> Tensor | None:
        """The aligned latents `(B, F, K*C, H, W)`; None for a network that takes none.

        Raises:
            UserError: the condition holds another number of them.
        """
        if self.aligned_in is None:
            return None
        given, wanted = condition.aligned, self.takes["aligned"]
        count = 0 if given is None else given.shape[2] // self.channels
        if count != wanted:
            raise UserError(
                f"the condition holds {count} aligned frames and the OccFM network takes {wanted}: "
                "make conditioning.align and network.align agree"
            )
        return given

    def velocity(
        self,
        frames: Tensor,
        t: Tensor,
        trajectory: Tensor | None,
        r: Tensor | None = None,
        newest: int | None = None,
    ) -> Tensor:
        """The network on past and noised future frames together, `(B, P + F, C, H, W)`.

        Args:
            frames: scaled latents.
            t: times in [0, 1], `(B,)`.
            trajectory: `(B, >= L, 2)` metres, or None to leave it out.
            r: end times `(B,)`.
            newest: only compute the output of this many last frames; all by default.
        """
        return self.head(self.down_to_the_middle(frames, t, trajectory, r, newest))

    def down_to_the_middle(
        self,
        frames: Tensor,
        t: Tensor,
        trajectory: Tensor | None,
        r: Tensor | None = None,
        newest: int | None = None,
        outer: tuple[Tensor, Tensor] | None = None,
        aligned: Tensor | None = None,
    ) -> Features:
        """The first half of `velocity`; arguments as there, and `outer` and aligned latents as in
        `trunk`.
        """
        batch, count = frames.shape[:2]
        told = None if outer is None else self.told_time(self.outer_clock, outer[1])
        raw_e = late_raw_e = self.embed(t, trajectory, r, told)
        e = late_e = F.silu(raw_e)
        if self.decoupled and r is not None:  # from the second half of the middle on
            late_raw_e = self.embed(r, trajectory, None, told)
            late_e = F.silu(late_raw_e)
        bias = self.frame_bias(self.buckets).permute(2, 0, 1)[None]

        x = self.enter(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        if outer is not None:
            point, time = outer
            x = x + self.to_future(
                self.outer_in((time.view(-1, 1, 1, 1, 1) * point).flatten(0, 1)), count
            )
        if aligned is not None:
            seen = aligned.flatten(0, 1).to(frames.dtype)
            seen = self.aligned_in(seen.contiguous(memory_format=torch.channels_last))
            x = x + self.to_future(seen, count)
        x = x.permute(0, 2, 3, 1)  # (B * 12, H, W, C) from here on
        attended = self.block(over_frames, self.enter_time, x, count, bias)
        x = x + attended if self.doubled_residual else attended
        entered = x

        x = self.residuals(self.down[0], x, e)
        x = x + self.position.view(1, *x.shape[1:3], -1)
        x = self.across_pixels(self.down[0], x, e)
        x = x + self.frame_position[0].repeat(batch, 1)[:, None, None]
        x = self.block(over_frames, self.down[0].time, x, count, e)
        fine = x

        x = self.level(self.down[1], convolve(self.downsample, x), e)
        coarse = x

        x = self.block(self.middle1, x, e)
        x = self.block(over_pixels, self.middle_space, x)
        x = self.block(over_frames, self.middle_time, x, count, bias)
        x = self.block(self.middle2, x, late_e)
        told = (e, late_e, late_raw_e, batch, count, newest)
        return Features(x, (fine, coarse, entered), told)

    def head(
        self, features: Features, embedding: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """The second half of `velocity`, `(B, frames, C, H, W)`."""
        x, (fine, coarse, entered) = features.deep, features.skips
        e, late_e, late_raw_e, batch, count, newest = features.told
        if embedding is not None:
            late_e = F.silu(late_raw_e + embedding)
        if added is not None:
            fine = fine + self.to_future(added, count).permute(0, 2, 3, 1)

        x = self.level(self.up[0], torch.cat([x, coarse], dim=-1), late_e)
        x = self.level(self.up[1], torch.cat([convolve(self.upsample, x), fine], dim=-1), late_e)

        x = torch.cat([x, entered], dim=-1)
        if newest is not None:  # from here on frames don't mix
            x = x.unflatten(0, (batch, count))[:, -newest:].flatten(0, 1)
        x = self.block(self.out_residual, x, e)
        return convolve(self.out, x).permute(0, 3, 1, 2).unflatten(0, (batch, -1))

    def to_future(self, maps: Tensor, count: int) -> Tensor:
        """Maps of the future frames `(B * F, C, H, W)` among zeros for the others of `count`."""
        maps = maps.unflatten(0, (-1, self.future))
        return F.pad(maps, (0, 0, 0, 0, 0, 0, count - self.future, 0)).flatten(0, 1)

    def told_time(self, clock: nn.Module, t: Tensor) -> Tensor:
        """The clock's, of the code that this network's clocks read."""
        return clock(clock_code(t, self.embedding).to(clock[0].weight.dtype))

    def embed(
        self,
        t: Tensor,
        trajectory: Tensor | None,
        r: Tensor | None,
        more: Tensor | None = None,
    ) -> Tensor:
        """One vector per clip from clock and trajectory, `(B, E)`."""
        dtype = self.clock[0].weight.dtype
        e = self.clock(clock_code(t, self.embedding).to(dtype))
        if trajectory is not None:
            seen = trajectory[:, : self.trajectory_length]
            e = e + self.trajectory(trajectory_code(seen).to(dtype))
        if self.end_clock is not None and r is not None:
            e = e + self.end_clock(clock_code(r - t, self.embedding).to(dtype))
        return e if more is None else e + more

    def residuals(self, level: Level, x: Tensor, e: Tensor) -> Tensor:
        """The convolutional half of a level."""
        x = self.block(level.residual1, x, e)
        return self.block(level.residual2, x, e)

    def across_pixels(self, level: Level, x: Tensor, e: Tensor) -> Tensor:
        """A level's block over pixels, where it has one."""
        return x if level.space is None else self.block(over_pixels, level.space, x, e)

    def level(self, level: Level, x: Tensor, e: Tensor) -> Tensor:
        """A whole level, `(B * 12, H, W, inside)` to `(B * 12, H, W, outside)`."""
        x = self.across_pixels(level, self.residuals(level, x, e), e)
        return self.block(over_frames, level.time, x, self.frames, e)

    def block(self, function, *args) -> Tensor:
        """Call a block, in training with its activations recomputed if asked for."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)
