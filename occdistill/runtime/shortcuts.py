"""Layers that compute what those of a finished network compute, sooner on a CPU.

`swapped` puts them in the places of the layers they descend from; the weights stay where they are.
A forecast takes no gradients, and neither do they. On a GPU and under a compiler, which plan memory
by themselves, they compute whole and directly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.attention import attend
from occdistill.autoencoder.light import LightDecoder
from occdistill.autoencoder.occfm import OccFMVAE, SwinBlock
from occdistill.flow.networks.occfm import (
    Attention,
    OccFMTransition,
    Residual,
    Transformer,
)
from occdistill.runtime.winograd import winograd


def on_cpu(x: Tensor) -> bool:
    """Whether the code that runs now is what a CPU executes."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def sliced(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Apply `function` to tensors, on a CPU in slices of `rows` along their first dimension.

    A linear layer over 40,000 tokens writes tens of megabytes that the next operation reads once;
    in slices they never leave the cache, which nearly doubles the speed. `function` must treat rows
    independently and keep their number.
    """
    if tensors[0].shape[0] <= rows or not on_cpu(tensors[0]):
        return function(*tensors)
    return torch.cat([function(*part) for part in zip(*(t.split(rows) for t in tensors))])


def sliced_by_clip(function: Callable[..., Tensor], rows: int, x: Tensor, e: Tensor) -> Tensor:
    """`sliced` for rows that follow each other clip by clip, with one row of `e (B, E)` a clip."""
    if x.shape[0] <= rows or not on_cpu(x):
        return function(x, e)
    clips = zip(x.chunk(len(e)), e.split(1))
    return torch.cat([function(part, one) for clip, one in clips for part in clip.split(rows)])


def most_likely(logits: Tensor, dim: int) -> Tensor:
    """`logits.argmax(dim)` as uint8, at the speed of memory; of equal logits the first.

    PyTorch's argmax keeps an index beside every value, which isn't vectorised on a CPU. Here the
    maximum is found first and then marked with its class, in operations that are. They are fastest
    where classes don't lie innermost in memory, as in a convolution's output.

    Args:
        logits: finite, at most 256 classes along `dim`.
        dim: of the classes.
    """
    logits, dim = logits.float(), dim % logits.dim()
    last = logits.shape[dim] - 1
    rank = torch.arange(last, -1, -1, device=logits.device, dtype=logits.dtype)
    rank = rank.view(-1, *[1] * (logits.dim() - dim - 1))
    marked = (logits - logits.amax(dim, keepdim=True)).eq_(0).mul_(rank)
    return (last - marked.amax(dim)).to(torch.uint8)


# ------------------------------------------------------------------ layers


class WinogradConv(nn.Conv2d):
    """A 3×3 convolution to maps of the same size; in float32 on a CPU it is `winograd`."""

    least_channels = 128  # below, moving numbers about costs more than it saves

    @classmethod
    def fits(cls, conv: nn.Module) -> bool:
        """Whether it may stand for `conv`."""
        return (
            type(conv) is nn.Conv2d
            and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
            and min(conv.in_channels, conv.out_channels) >= cls.least_channels
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inside, H, W)` to `(N, outside, H, W)`."""
        exact = {x.dtype, self.weight.dtype} == {torch.float32}
        if exact and on_cpu(x) and not torch.is_autocast_enabled("cpu"):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


class SlicedSwinBlock(SwinBlock):
    """A few windows at a time."""

    windows_per_slice = 40

    def inside(self, windows: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """See `SwinBlock`."""
        whole = super().inside
        if mask is None:
            return sliced(lambda w: whole(w, bias, None), self.windows_per_slice, windows)
        return sliced(lambda w, m: whole(w, bias, m), self.windows_per_slice, windows, mask)


class SlicedResidual(Residual):
    """A few maps at a time."""

    maps_per_slice = 6

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """See `Residual`."""
        return sliced_by_clip(super().forward, self.maps_per_slice, x, e)


def rows_of(x: Tensor, tokens: int = 1200) -> int:
    """How many sequences `(S, N, C)` make a slice that stays in the cache."""
    return max(1, tokens // x.shape[1])


class SlicedAttention(Attention):
    """A few sequences at a time."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Attention`."""
        whole = super().forward
        return sliced(lambda part: whole(part, bias), rows_of(x), x)


def attend_padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend`, heads of 8 numbers filled up to 16, at which the CPU's kernel is 1.5 times faster."""
    scale, width = q.shape[-1] ** -0.5, q.shape[-1]
    if width != 8 or q.device.type != "cpu":
        return attend(q, k, v)
    q, k, v = (F.pad(x, (0, 8)) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :width]


class SlicedTransformer(Transformer):
    """A few sequences at a time."""

    attend = staticmethod(attend_padded)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """See `Transformer`."""
        return sliced_by_clip(super().forward, rows_of(x), x, e)


class FrameByFrame(OccFMVAE):
    """Decodes one frame after another and doesn't keep its logits."""

    voxels_per_slice = 16384

    def decode(self, z: Tensor) -> Tensor:
        """See `OccFMVAE`."""
        table = self.embedding.classes.weight

        def frames(z: Tensor) -> Tensor:
            features = self.features(z)
            numbers = features.flatten(0, 3)
            found = sliced(lambda x: most_likely(table @ x.T, 0), self.voxels_per_slice, numbers)
            return found.view(features.shape[:-1])

        return sliced(frames, self.frames or 1, z)


class SlicedLightDecoder(LightDecoder):
    """Takes the most likely class where the logits are made, half a megabyte at a time."""

    logits_per_slice = 2**17

    def decode(self, z: Tensor) -> Tensor:
        """See `LightDecoder`."""
        features = self.features(z)
        rows = max(1, self.logits_per_slice // self.head.out_features)
        found = sliced(lambda x: most_likely(self.classes(x), 1), rows, features.flatten(0, 2))
        return self.unfold(found.view(*features.shape[:3], -1)).contiguous()


# ------------------------------------------------------------------ into a network

LAYERS = (
    SlicedSwinBlock, SlicedResidual, SlicedAttention, SlicedTransformer, FrameByFrame,
    SlicedLightDecoder,
)  # fmt: skip
_INSTEAD = {layer.__base__: layer for layer in LAYERS}


def swapped(network: nn.Module, large: bool = False) -> nn.Module:
    """A copy of the network with these layers in it; weights are shared, and later changes seen.

    Args:
        network: any; where nothing in it has a shortcut it is returned itself.
        large: whether it is part of an OccFM network. Convolutions of others, on small maps, stay
            direct.
    """
    large = large or isinstance(network, OccFMVAE | OccFMTransition)
    kind = WinogradConv if large and WinogradConv.fits(network) else _INSTEAD.get(type(network))
    parts = {name: swapped(part, large) for name, part in network._modules.items()}
    if kind is None and all(part is network._modules[name] for name, part in parts.items()):
        return network
    twin = copy.copy(network)
    twin.__class__, twin._modules = kind or type(network), parts
    return twin
