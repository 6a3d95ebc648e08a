"""Low-rank adapters (LoRA, arXiv 2106.09685): another field from the weights of one that stays.

A layer's `W x` becomes `W x + U D x`, where D leads to `rank` channels and U back from them. U starts
at zero, so that the field starts as the network's own. Only D and U are trained: gradients and the
optimiser's state are theirs, and W is held once for both fields.
"""

from __future__ import annotations

import copy
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from occdistill.latents.condition import Condition

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Adapter(nn.Module):
    """`U D x` for one layer.

    Args:
        layer: one of `LAYERS`, without groups.
        rank: channels between D and U, at most the layer's fewest.
    """

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Linear):
            inside, outside = layer.in_features, layer.out_features
        else:
            inside, outside = layer.in_channels, layer.out_channels
            window = (layer.kernel_size, layer.stride, layer.padding)
        rank = min(rank, inside, outside)
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(inside, rank, bias=False)
            self.up = nn.Linear(rank, outside, bias=False)
        elif isinstance(layer, nn.Conv2d):
            self.down = nn.Conv2d(inside, rank, *window, bias=False)
            self.up = nn.Conv2d(rank, outside, 1, bias=False)
        else:
            self.down = nn.Conv2d(inside, rank, 1, bias=False)
            self.up = nn.ConvTranspose2d(rank, outside, *window, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output for its input x."""
        return self.up(self.down(x))


class Adapted(nn.Module):
    """A velocity field: a network with adapters at all its linear and convolution layers.

    The network's weights are shared, not copied, and are no parameters of this: what trains or
    freezes them, and when, is their owner's business.

    Args:
        network: velocity network, called as `network(x_t, t, condition)`.
        rank: of the adapters, 1 or more.

    Raises:
        ValueError: a rank below 1, or a network without such layers.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"adapters need a rank of 1 or more, not {rank!r}")
        shared = {id(x): x for x in chain(network.parameters(), network.buffers())}
        shape = copy.deepcopy(network, shared)  # modules of its own, to hang the adapters on
        shape._forward_hooks.clear()  # those count the network's calls
        layers = [m for m in shape.modules() if isinstance(m, LAYERS)]
        layers = [m for m in layers if getattr(m, "groups", 1) == 1]
        if not layers:
            raise ValueError(f"{type(network).__name__} has no layer that an adapter fits")
        self.adapters = nn.ModuleList(Adapter(layer, rank) for layer in layers)
        self._network, self._shape, self._plain = (network,), (shape,), 0.0
        for layer, adapter in zip(layers, self.adapters):
            layer.register_forward_hook(partial(self._add, adapter))

    def adapts(self, network: nn.Module) -> bool:
        """Whether that is the network whose weights it shares."""
        return network is self._network[0]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, plain: int = 0) -> Tensor:
        """Velocity `(B, F, C, H, W)` at x_t, `t (B,)`.

        Args:
            x_t, t, condition: as the network takes them.
            plain: of the first so many clips the network's own velocity, without gradients.
        """
        self._plain = plain / len(t)
        try:
            return self._shape[0](x_t, t, condition)
        finally:
            self._plain = 0.0

    def _add(self, adapter: Adapter, _layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not self._plain:
            return output + adapter(args[0])
        first = round(self._plain * len(output))  # a clip's rows follow each other
        with torch.no_grad():
            output[first:] += adapter(args[0][first:])
        return output

    def _apply(self, fn, recurse: bool = True) -> Adapted:
        self._shape[0]._apply(fn, recurse)  # buffers don't move with the network's
        return super()._apply(fn, recurse)
