"""Composition: two half steps equal a whole one (Shortcut models, arXiv 2410.12557).

With q halfway between t and r, and x_q = x_t + (q - t) u(x_t, t, q),

    L = || u(x_t, t, r) - sg ½ [u(x_t, t, q) + u(x_q, q, r)] ||² + || u(x_t, t, t) - v_T(x_t, t) ||²

The second term gives empty steps the teacher's velocity; the first one carries it to longer ones.
No derivative is needed. Needs data for x_t.

Cost of an update: 2 (guided teacher) + 2 (half steps) + 3 + 3 (student, twice) evaluations.
"""

from __future__ import annotations

import torch

from occdistill.distill.base import Batch, Loss, time_law
from occdistill.distill.flow_map import FlowMap, noised_data
from occdistill.flow.path import TimeLaw, expand


class Composition(FlowMap):
    """The loss above.

    Args:
        times: law of a step's two ends; logit-normal by default.
        **kwargs: see `FlowMap`.
    """

    cost = 10.0

    def __init__(self, *args, times: TimeLaw | dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.times = time_law(times)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean square of the first term."""
        u, c = self.nets["student"], batch.condition
        t, r = self.times.intervals(batch.draws)
        q = (t + r) / 2
        x_t = noised_data(batch, t)
        with torch.no_grad():
            first = u(x_t, t, c, r=q)
            second = u(x_t + expand(q - t, x_t) * first, q, c, r=r)
            v_T = self.guided_teacher(x_t, t, c)
        whole = (u(x_t, t, c, r=r) - (first + second) / 2).square().mean()
        empty = (u(x_t, t, c, r=t) - v_T).square().mean()
        return Loss(whole + empty, {"gap": whole.detach()})
