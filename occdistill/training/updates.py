"""The optimiser updates of one net, and the moving average of its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from mmengine.dist import all_reduce_params
from torch import Tensor, nn


class Updater:
    """A net's Adam with warm-up, averaging over ranks, clipping and loss scaling.

    Args:
        net: the network; only its parameters are stepped.
        lr: learning rate after warm-up.
        updates: how many there will be, for the decay to `final_lr`.
        final_lr: where the rate goes along a cosine; None keeps it constant.
        weight_decay: decoupled (AdamW).
        warmup: updates over which the rate rises linearly.
        clip: largest gradient norm; 0 doesn't clip.
        loss_scaling: scale the loss against underflow in half precision.
        loss_scale: where the scale starts; it halves where gradients overflow, and grows again.
        ema: decay of a moving average of the weights; 0 for none.
        fused: Adam in one kernel: of the time for a net of some thousand weights a fifth.

    Attributes:
        count: updates made; one that overflowed is none.
        average: the moving average, or None.
    """

    def __init__(
        self,
        net: nn.Module,
        lr: float,
        updates: int = 1,
        final_lr: float | None = None,
        weight_decay: float = 0.0,
        warmup: int = 100,
        clip: float = 1.0,
        loss_scaling: bool = False,
        loss_scale: float = 2.0**16,
        ema: float = 0.0,
        fused: bool = False,
    ) -> None:
        self.net, self.average = net, MovingAverage(net, ema) if ema else None
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, weight_decay=weight_decay, fused=fused or None
        )
        self.lr, self.final_lr = lr, lr if final_lr is None else final_lr
        self.updates, self.warmup, self.clip = updates, warmup, clip
        self.scaler = torch.amp.GradScaler(
            self.parameters[0].device.type, init_scale=loss_scale, enabled=loss_scaling
        )
        self.count = 0

    def rate(self, count: int) -> float:
        """Learning rate of update number `count`, from 0."""
        progress = min(1.0, count / self.updates)
        rate = self.final_lr + (self.lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        return rate * min(1.0, (count + 1) / max(1, self.warmup))

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the update to come."""
        self.scaler.scale(loss).backward()

    def step(self) -> Tensor | None:
        """One optimiser step with the gradients gathered, which are then forgotten.

        Returns:
            The gradient norm before clipping. None where scaled gradients overflowed: the weights
            and `count` stay, the scale is halved, and nothing that follows an update may follow.
        """
        self.optimizer.param_groups[0]["lr"] = self.rate(self.count)
        all_reduce_params([p.grad for p in self.parameters if p.grad is not None], op="mean")
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip or math.inf)
        self.scaler.step(self.optimizer)
        scale = self.scaler.get_scale()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < scale:  # it falls after an overflow, only then
            return None
        self.count += 1
        if self.average is not None:
            self.average.update(self.net)
        return norm

    def state_dict(self) -> dict:
        """Everything that the next update depends on, besides the weights; the average is apart."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "count": self.count,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Undo `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.count = state["count"]


def memory(task: nn.Module, updaters: Mapping[str, Updater]) -> dict[str, float]:
    """What a training holds besides activations, MiB, once every net has been updated.

    Returns:
        `weights` of all networks, the frozen ones too, each once; `gradients`, the largest of the
        nets', since they are updated one after the other; `optimisers`, Adam's two moments.
    """
    trained = [p for updater in updaters.values() for p in updater.parameters]
    states = [
        value
        for updater in updaters.values()
        for state in updater.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    bytes_ = {
        "weights": _bytes([*task.parameters(), *task.buffers(), *trained]),
        "gradients": max(_bytes(updater.parameters) for updater in updaters.values()),
        "optimisers": _bytes(states),
    }
    return {name: size / 2**20 for name, size in bytes_.items()}


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of tensors that may share their numbers."""
    return sum({x.data_ptr(): x.numel() * x.element_size() for x in tensors}.values())


class MovingAverage:
    """Exponential moving average of a net's weights: what is validated, saved and used later.

    The decay starts low, `(1 + n) / (10 + n)`, so that short runs forget their initial weights.
    Buffers are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards the current weights of `net`."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        averages, currents = list(self.net.parameters()), list(net.parameters())
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in zip(self.net.buffers(), net.buffers()):
            average.copy_(current)
        self.count += 1

    def state_dict(self) -> dict:
        """Averaged weights and how many updates they saw."""
        return {"net": self.net.state_dict(), "count": self.count}

    def load_state_dict(self, state: Mapping) -> None:
        """Undo `state_dict`."""
        self.net.load_state_dict(state["net"])
        self.count = state["count"]
