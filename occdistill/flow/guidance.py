"""Classifier-free guidance as a velocity field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occdistill.latents.condition import Condition


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
        both = Condition.cat([condition.null(), condition])
        v_null, v_cond = self.field(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(v_null, v_cond, self.scale)
