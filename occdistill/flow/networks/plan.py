"""A small velocity field for plans: the ego's next steps, given its last ones and what it saw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occdistill.errors import UserError
from occdistill.flow.networks.base import Tap, VelocityNetwork
from occdistill.flow.networks.small import TimeEmbedding
from occdistill.latents.condition import Condition
from occdistill.types import Count

LEAST = 0.02
"""Smallest scale of a step's entry, metres or radians."""


class Layer(nn.Module):
    """A residual pair of linear layers, shifted in between by the clock's embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """`h (B, width)`, `e (B, width)` to the shape of h."""
        return h + self.second(F.silu(self.first(F.silu(h)) + e))


class PlanField(VelocityNetwork):
    """Velocity of scaled plans `(B, F, 3, 1, 1)`: fully connected, with residual layers.

    A scaled plan is what the plan has over the last step repeated, in units of its spread in the
    training data. These constants are buffers: a checkpoint holds them. Of the condition it reads
    `trajectory`, the past steps `(B, N, 3)` in metres and radians, and where `scene` is given the
    newest frame's latents, the last of `past (B, P, C, H, W)`.

    Args:
        future: steps of a plan, F.
        steps: past steps shown, N.
        scene: `(C, H, W)` of a frame's latents, or of one cell whatever else is known; None: the
            motion alone is.
        width: of all layers.
        layers: residual pairs; the second half of them is the decoder that `decoupled` speaks of.
        two_time: also take the end time r of a step; its embedding starts at zero.

    Raises:
        UserError: when called with another number of past steps, or without the latents.
    """

    def __init__(
        self,
        future: Count = 6,
        steps: Count = 3,
        scene: tuple[Count, Count, Count] | None = None,
        width: Count = 128,
        layers: Count = 2,
        two_time: bool = False,
    ) -> None:
        super().__init__()
        self.future, self.steps = future, steps
        self.takes = dict(past=int(scene is not None), aligned=0, trajectory=steps)
        self.register_buffer("scale", torch.ones(future, 3))
        self.register_buffer("past_scale", torch.ones(3))
        self.clock = TimeEmbedding(width)
        self.end_clock = TimeEmbedding(width, zero=True) if two_time else None
        self.enter = nn.Linear(3 * (future + steps), width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.map = nn.Unflatten(1, (width, 1, 1))
        self.leave = nn.Linear(width, 3 * future)
        self.look = None
        if scene is not None and tuple(scene[1:]) == (1, 1):
            self.look = nn.Sequential(nn.Flatten(), nn.Linear(scene[0], width))
        elif scene is not None:
            channels, height, cells = scene
            self.look = nn.Sequential(
                nn.Conv2d(channels, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(32 * -(-height // 4) * -(-cells // 4), width),
            )

    def fit_scales(self, past: Tensor, plans: Tensor) -> None:
        """Take the scales from training data: past steps `(M, N, 3)`, plans `(M, F, 3)`."""
        over = plans - past[:, -1:]
        self.scale.copy_(over.square().mean(0).sqrt().clamp_min(LEAST))
        self.past_scale.copy_(past.square().mean((0, 1)).sqrt().clamp_min(LEAST))

    def scaled(self, plan: Tensor, past: Tensor) -> Tensor:
        """Plans `(B, F, 3)` in metres and radians, scaled to `(B, F, 3, 1, 1)`."""
        return ((plan - past[:, -1:]) / self.scale)[..., None, None]

    def plans(self, x: Tensor, past: Tensor) -> Tensor:
        """Undo `scaled`."""
        return past[:, -1:] + self.scale * x[..., 0, 0]

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None
    ) -> Tensor:
        """Velocity at `x_t (B, F, 3, 1, 1)`, `t (B,)`; average velocity to `r (B,)` if two-time."""
        past = condition.trajectory
        if past.shape[1:] != (self.steps, 3):
            raise UserError(
                f"the planner takes {self.steps} past steps of three numbers, not "
                f"{tuple(past.shape[1:])}: make them agree in the config"
            )
        h = self.enter(torch.cat([x_t.flatten(1), (past / self.past_scale).flatten(1)], dim=1))
        if self.look is not None:
            h = h + self.look(condition.past[:, -1])
        e = self._embed(t, r)
        late = self._embed(r, None) if self.decoupled and r is not None else e
        for i, layer in enumerate(self.layers):
            h = layer(h, e if 2 * i < len(self.layers) else late)
        return self.leave(F.silu(self.map(h).flatten(1))).view_as(x_t)

    def _embed(self, t: Tensor, r: Tensor | None) -> Tensor:
        e = self.clock(t)
        return e if self.end_clock is None or r is None else e + self.end_clock(r - t)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """After the last layer, as a map of one cell."""
        return (Tap("map", self.leave.in_features),)


def motion(past: Tensor, latents: Tensor | None = None) -> Condition:
    """The condition of a plan: past steps `(B, N, 3)`, and the newest frame's latents
    `(B, C, H, W)` where they are known.
    """
    frames = past.new_zeros(len(past), 0, 1, 1, 1) if latents is None else latents[:, None]
    return Condition(frames, None, past)
