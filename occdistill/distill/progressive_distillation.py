"""Progressive distillation (arXiv 2202.00512): one step learns two steps of its teacher, again and again.

On the sampler's grid, from t over q to r:

    x_q = x_t + (q - t) v(x_t, t),   w = [(q - t) v(x_t, t) + (r - q) v(x_q, q)] / (r - t)
    L = c(t) || N(x_t, t) - sg w ||²

First v is the guided teacher on a grid of `steps` steps, so guidance is folded in once. When the
student has learned half as many, it is frozen in the teacher's place, unguided, and goes on to half
of that, until one step is left. Errors add up over the stages. Needs data for x_t, no auxiliary.

Cost of an update: 2 · 2 (guided teacher) + 3 (student) evaluations; 2 + 3 after the first stage.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from occdistill.distill.base import Batch, Loss, Method, frozen, require
from occdistill.distill.flow_map import noised_data
from occdistill.distill.losses import per_sample
from occdistill.flow.path import Draws, expand
from occdistill.flow.solver import shifted_grid
from occdistill.types import Count, Positive


class ProgressiveDistillation(Method):
    """The loss above, stage after stage.

    Args:
        steps: of the teacher's sampler at first; 2, 4, 8, …
        stage: updates before the student takes the teacher's place, 1 or more.
        shift: of the time grid, see `shifted_grid`; above 0.
        weight: `flat` sets c = 1; `snr` weighs the clean prediction with max(SNR, 1), the source's:
            `c = max(t², (1 - t)²)`.
        **kwargs: see `Method`.
    """

    cost, futures = 7.0, "yes"

    def __init__(
        self,
        *args,
        steps: Count = 8,
        stage: Count = 5000,
        shift: Positive = 3.0,
        weight: Literal["flat", "snr"] = "flat",
        **kwargs,
    ) -> None:
        halves = type(steps) is int and steps >= 2 and steps & (steps - 1) == 0
        require(halves, "steps must be a power of 2 above 1", steps)
        require(type(stage) is int and stage >= 1, "stage must be a whole number above 0", stage)
        require(shift > 0, "shift must be above 0", shift)
        require(weight in ("flat", "snr"), "weight must be 'flat' or 'snr'", weight)
        super().__init__(*args, **kwargs)
        self.stage, self.weight = stage, weight
        self.stages = steps.bit_length() - 1
        self.grid = shifted_grid(steps, shift)
        self.previous = frozen(copy.deepcopy(self.nets["student"]))
        self.register_buffer("handed_over", torch.zeros((), dtype=torch.long))

    def stage_of(self, step: int) -> int:
        """Stage at a step, from 0."""
        return min(step // self.stage, self.stages - 1)

    @torch.no_grad()
    def hand_over(self, stage: int) -> None:
        """At the first update of a stage, freeze the student as its teacher."""
        if stage != int(self.handed_over):
            self.previous.load_state_dict(self.nets["student"].state_dict())
            self.handed_over.fill_(stage)

    def intervals(self, draws: Draws, stage: int) -> tuple[Tensor, Tensor, Tensor]:
        """Start, middle and end of one of the student's steps, `(B,)` each."""
        grid = self.grid[:: 2**stage]
        chance = draws.uniform(1)[:, 0]
        first = 2 * (chance * (len(grid) // 2)).long()
        grid = grid.to(chance)
        return grid[first], grid[first + 1], grid[first + 2]

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared error, unweighted."""
        stage = self.stage_of(step)
        self.hand_over(stage)
        field = self.guided_teacher if stage == 0 else self.previous
        t, q, r = self.intervals(batch.draws, stage)
        x_t = noised_data(batch, t)
        one, two = expand(q - t, x_t), expand(r - q, x_t)
        with torch.no_grad():
            v = field(x_t, t, batch.condition)
            target = (one * v + two * field(x_t + one * v, q, batch.condition)) / (one + two)
        square = per_sample((self.nets["student"](x_t, t, batch.condition) - target).square())
        weight = 1.0 if self.weight == "flat" else torch.maximum(t, 1 - t) ** 2
        return Loss((weight * square).mean(), {"gap": square.detach().mean()})
