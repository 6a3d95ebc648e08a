"""Classifier-free guidance as a velocity field, alone and beside an auxiliary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occdistill.flow.adapters import Adapted
from occdistill.latents.condition import Condition


def evaluations(scale: float | None) -> int:
    """Of the network for one velocity: two where guidance mixes two; None is no guidance at all."""
    return 1 if scale in (None, 1.0) else 2


class Guided(nn.Module):
    """`v = v_null + scale (v_cond - v_null)`, both branches in one batched launch.

    The null branch has its condition frames zeroed and keeps the trajectory (OccFM). `scale = 1`
    is the plain conditional field and costs one branch.
    """

    def __init__(self, field: nn.Module, scale: float = 2.0) -> None:
        super().__init__()
        self.field, self.scale = field, scale

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Guided velocity, same shape as `x_t (B, F, C, H, W)`; `t (B,)`."""
        if self.scale == 1.0:
            return self.field(x_t, t, condition)
        both = Condition.cat(self.branches(condition))
        return self.combine(self.field(torch.cat([x_t, x_t]), torch.cat([t, t]), both))

    def branches(self, condition: Condition) -> list[Condition]:
        """What its field is asked under, one after the other."""
        return [condition] if evaluations(self.scale) == 1 else [condition.null(), condition]

    def combine(self, v: Tensor) -> Tensor:
        """The guided velocity `(B, ...)` of the branches' `(branches * B, ...)`."""
        if self.scale == 1.0:
            return v
        v_null, v_cond = v.chunk(2)
        return torch.lerp(v_null, v_cond, self.scale)


class Pair:
    """The guided teacher and an auxiliary, each at a point of its own: `(B, 2, F, C, H, W)`.

    One field of both, so that an integration plans its steps once. An auxiliary that is the teacher
    with adapters shares its launch: its rows stand below those of the teacher's branches.

    Args:
        guided: the teacher, which moves the first points.
        auxiliary: velocity field, which moves the second.
    """

    def __init__(self, guided: Guided, auxiliary: nn.Module) -> None:
        self.guided, self.auxiliary = guided, auxiliary

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Both velocities, the shape of x; `t (B,)`."""
        x_T, x_A = x.unbind(1)
        if not (isinstance(self.auxiliary, Adapted) and self.auxiliary.adapts(self.guided.field)):
            v_T, v_A = self.guided(x_T, t, condition), self.auxiliary(x_A, t, condition)
            return torch.stack([v_T, v_A], 1)
        branches = self.guided.branches(condition)
        plain, size = len(branches), len(t)
        v = self.auxiliary(
            torch.cat([x_T] * plain + [x_A]),
            t.repeat(plain + 1),
            Condition.cat([*branches, condition]),
            plain=plain * size,
        )
        v_T, v_A = v.split([plain * size, size])
        return torch.stack([self.guided.combine(v_T), v_A], 1)
