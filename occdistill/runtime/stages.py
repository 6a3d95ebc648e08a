"""The three parts of a forecast as functions of tensors, so that a back end can take them whole."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from occdistill.flow.networks.base import takes_end
from occdistill.flow.solver import VelocityField
from occdistill.latents.condition import Condition


class Stage(nn.Module):
    """A function of tensors, or None, to one tensor, whose matrix products are done in `dtype`.

    Args:
        network: what it calls.
        dtype: float32, or a lower type. Then the network is a copy whose matrices are kept in that
            type, which gives what autocast gives without casting them at every call.
        device: where it runs.
    """

    def __init__(self, network: VelocityField, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.dtype, self.device_type = dtype, device.type
        self.network = network
        if isinstance(network, nn.Module):
            self.network = (lowered(network, dtype) if self.is_lower else network).to(device).eval()

    @property
    def is_lower(self) -> bool:
        """Whether matrix products are done in less than float32."""
        return self.dtype != torch.float32

    def forward(self, *tensors: Tensor | None) -> Tensor:
        """`run` in the stage's precision."""
        if not self.is_lower:
            return self.run(*tensors)
        with torch.autocast(self.device_type, self.dtype, cache_enabled=False):
            return self.run(*tensors)

    def run(self, *tensors: Tensor | None) -> Tensor:
        """What the stage does."""
        raise NotImplementedError


class Encode(Stage):
    """Voxels `(N, X, Y, Z)` to scaled latents, float32 `(N, C, H, W)`."""

    def __init__(self, network, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(network, dtype, device)
        self.scale = scale

    def run(self, voxels: Tensor) -> Tensor:
        """See the class."""
        return self.network(voxels).float() * self.scale


class Velocity(Stage):
    """Velocity, float32 of the shape of `x (B, F, C, H, W)`; the condition lies open."""

    def __init__(self, network, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(network, dtype, device)
        self.two_time = takes_end(network)

    def run(self, x, t, past, aligned=None, trajectory=None, r=None) -> Tensor:
        """See the class; `t` and `r` `(B,)`, the others as in `Condition`."""
        condition = Condition(past, aligned, trajectory)
        end = {"r": r} if self.two_time else {}
        return self.network(x, t, condition, **end).float()


class Decode(Stage):
    """Scaled latents `(N, C, H, W)` to classes, uint8 `(N, X, Y, Z)`."""

    def __init__(self, network, scale: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(network, dtype, device)
        self.scale = scale

    def run(self, latents: Tensor) -> Tensor:
        """See the class."""
        return self.network(latents / self.scale)


def lowered(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose linear layers and convolutions hold their weights in `dtype`."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            module.to(dtype)
    return network
