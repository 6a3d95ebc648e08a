"""How an average-velocity network changes in time: exactly, or by finite differences.

For a network `u(x_t, t, r)` with start t and end r there are two derivatives that flow-map methods
need, without gradients of their own unless said otherwise:

    Dt u = ∂t u + (∂x u) v      along a trajectory that moves with v, the start moving, r fixed
    Dr u = ∂r u                 the end moving, the start fixed

and the mixed one, Dt Dr u, for second-order methods. Forward-mode differentiation gives both in one evaluation of about 2.5 times the cost. It needs the
MATH attention kernel (the fused ones have no forward derivative), which holds whole attention
matrices: for OccFM 2.4 GB per clip and again as much for the tangent. Finite differences hold one
evaluation at a time and use any kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from occdistill.flow.path import expand
from occdistill.latents.condition import Condition

AverageField = Callable[..., Tensor]  # (x_t, t, condition, r=r) -> u
Point = Callable[..., tuple[Tensor, Tensor, Tensor]]  # (h, *where) -> (x_t, t, r), h (B,)
Line = Callable[..., Tensor]  # (h,) or (h, k) -> u
Rule = Callable[..., Tensor]  # (line, *room) -> derivatives of line at 0


@dataclass(frozen=True)
class Derivative:
    """Time derivatives of average-velocity fields, in float32.

    Args:
        kind: `jvp` (forward mode) or `difference` (central differences; one-sided where a time
            would leave `0 <= t <= r <= 1`).
        step: of the difference, in time. A clock that multiplies t by 1000 turns once in 0.006:
            steps of 1e-3 are wrong by a tenth, 1e-4 by a thousandth, below 3e-5 rounding takes over.
        chunk: samples evaluated at once; 0 for all. It bounds the memory of either kind.
        mixed_step: of the second difference, whose rounding error grows as the step's square shrinks:
            1e-3 is wrong by a few hundredths for a clock that multiplies t by 100, and by a third
            for one that multiplies it by 1000. Such a network needs `jvp` here.
    """

    kind: Literal["jvp", "difference"] = "jvp"
    step: float = 1e-4
    chunk: int = 0
    mixed_step: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in ("jvp", "difference"):
            raise ValueError(f"derivative kind {self.kind!r} is neither 'jvp' nor 'difference'")

    def total(
        self,
        field: AverageField,
        x_t: Tensor,
        t: Tensor,
        r: Tensor,
        condition: Condition,
        v: Tensor,
    ) -> Tensor:
        """`Dt u` at `x_t (B, F, C, H, W)`, times `(B,)`, moving with `v` like x_t."""

        def along(h: Tensor, x: Tensor, t: Tensor, r: Tensor, v: Tensor):
            return x + expand(h, x) * v, t + h, r

        return self._derive(self._first(), field, along, (t, r - t), condition, x_t, t, r, v)

    def end(
        self, field: AverageField, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition
    ) -> Tensor:
        """`Dr u` at `x_t (B, F, C, H, W)`, times `(B,)`."""

        return self._derive(self._first(), field, _later, (r - t, 1 - r), condition, x_t, t, r)

    def value_and_end(
        self, field: AverageField, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """`u` and `Dr u`, both with gradients; forward mode holds several times a pass's memory."""

        def rule(line: Line, *room: Tensor) -> Tensor:
            if self.kind == "jvp":
                return torch.stack(self._value_and_jvp(line, *room), dim=1)
            return torch.stack(
                [line(torch.zeros_like(room[0])), self._difference(line, *room)], dim=1
            )

        room = (r - t, 1 - r)
        return self._derive(rule, field, _later, room, condition, x_t, t, r, grad=True).unbind(1)

    def mixed(
        self,
        field: AverageField,
        x_t: Tensor,
        t: Tensor,
        r: Tensor,
        condition: Condition,
        v: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`Dt u`, `Dr u` and `Dt Dr u`, arguments as in `total`; forward mode nests two passes."""

        def along(h: Tensor, k: Tensor, x: Tensor, t: Tensor, r: Tensor, v: Tensor):
            return x + expand(h, x) * v, t + h, r + k

        rule = self._nested_jvp if self.kind == "jvp" else self._second_difference
        room = (t, r - t, 1 - r)
        return self._derive(rule, field, along, room, condition, x_t, t, r, v).unbind(1)

    def _first(self) -> Rule:
        return self._jvp if self.kind == "jvp" else self._difference

    def _derive(
        self,
        rule: Rule,
        field: AverageField,
        along: Point,
        room: tuple[Tensor, ...],
        condition: Condition,
        *where: Tensor,
        grad: bool = False,
    ) -> Tensor:
        """What `rule` makes of `field(along(h, *where))` around h = 0; h may go as far as `room`."""
        batch = len(where[0])
        size = self.chunk or batch
        parts = []
        no_autocast = torch.autocast(where[0].device.type, enabled=False)
        with no_autocast, torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            for part in (slice(i, i + size) for i in range(0, batch, size)):
                here = [_at_least_float32(x[part]) for x in where]
                seen = condition.index(part)

                def line(*h: Tensor, here=here, seen=seen) -> Tensor:
                    x, t, r = along(*h, *here)
                    return field(x, t, seen, r=r)

                parts.append(rule(line, *(_at_least_float32(x[part]) for x in room)))
        return torch.cat(parts)

    def _jvp(self, line: Line, back: Tensor, ahead: Tensor) -> Tensor:
        return self._value_and_jvp(line, back, ahead)[1]

    def _value_and_jvp(self, line: Line, back: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        with sdpa_kernel([SDPBackend.MATH]):
            return torch.func.jvp(line, (torch.zeros_like(back),), (torch.ones_like(back),))

    def _nested_jvp(self, line: Line, back: Tensor, *_room: Tensor) -> Tensor:
        here, unit = (torch.zeros_like(back),), (torch.ones_like(back),)

        def end_moves(h: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(lambda k: line(h, k), here, unit)

        # With gradients off, torch picks a derivative of SiLU that it can't differentiate again.
        with sdpa_kernel([SDPBackend.MATH]), torch.enable_grad():
            (_, d_r), (d_t, d_tr) = torch.func.jvp(end_moves, here, unit)
        return torch.stack([d_t, d_r, d_tr], dim=1).detach()

    def _difference(self, line: Line, back: Tensor, ahead: Tensor) -> Tensor:
        back, ahead = back.clamp(0, self.step), ahead.clamp(0, self.step)
        change = line(ahead) - line(-back)
        return change / expand((ahead + back).clamp_min(1e-12), change)

    def _second_difference(self, line: Line, t: Tensor, gap: Tensor, rest: Tensor) -> Tensor:
        zero = torch.zeros_like(t)
        d_t = self._difference(lambda h: line(h, zero), t, gap)
        d_r = self._difference(lambda k: line(zero, k), gap, rest)
        early, late, later = (x.clamp(0, self.mixed_step) for x in (t, gap / 2, rest))
        sooner = late  # start and end meet halfway at most
        change = line(late, later) - line(late, -sooner) - line(-early, later)
        change = change + line(-early, -sooner)
        area = ((early + late) * (sooner + later)).clamp_min(1e-20)
        return torch.stack([d_t, d_r, change / expand(area, change)], dim=1)


def _later(h: Tensor, x: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, t, r + h


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
