"""Decoupled MeanFlow (DMF, arXiv 2510.24474): the teacher's own network as a flow map.

The encoder's clock shows the start t of a step and the decoder's its end r, `u = g(f(x_t, t), r)`;
no weight is added, and with r = t the student is its teacher exactly (`flow_map.decoupled`). It
learns the velocity and MeanFlow's identity, each at times and noise of its own:

    L = ½ E rho(u(x_t, t, t) - v_T) + ½ E rho(u(x_t, t, r) - sg[v_T + (r - t) Dt u])
    rho(d) = log(mean d² + 0.01)

so a residual's pull stops growing beyond a tenth. The source also learns a size for every (t, r), by
which rho measures; that is left out. The interval's ends are drawn from two laws and sorted, so long
steps that end near the data come often. Needs data for x_t, no auxiliary.

Cost of an update: 3 + 3 (student, twice) + 4 (guided teacher, twice) + 2.5 (derivative) evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occdistill.distill.base import Batch, Loss, time_law
from occdistill.distill.flow_map import FlowMap, decoupled, noised_data
from occdistill.distill.losses import per_sample
from occdistill.flow.path import Draws, TimeLaw, expand


class DecoupledMeanFlow(FlowMap):
    """The loss above.

    Args:
        times: law of the velocity's times; logit-normal by default.
        early_times, late_times: laws of an interval's two ends; default logit-normal with means -0.4
            and 1.2 (source: 0.4 and -1.2 in a time that runs the other way).
        student: default: the teacher, decoupled.
        **kwargs: see `FlowMap`.
    """

    cost, derivative_of = 12.5, "start"

    def __init__(
        self,
        teacher: nn.Module,
        *args,
        times: TimeLaw | dict | None = None,
        early_times: TimeLaw | dict | None = None,
        late_times: TimeLaw | dict | None = None,
        student: nn.Module | None = None,
        **kwargs,
    ) -> None:
        student = decoupled(teacher) if student is None else student
        super().__init__(teacher, *args, student=student, **kwargs)
        self.times = time_law(times)
        self.early_times = time_law(early_times, mean=-0.4)
        self.late_times = time_law(late_times, mean=1.2)

    def intervals(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Start and end times, `(B,)` each, `t <= r`."""
        one, other = self.early_times.times(draws), self.late_times.times(draws)
        return torch.minimum(one, other), torch.maximum(one, other)

    def student_loss(self, batch: Batch, step: int) -> Loss:
        """Its log `gap` is the mean squared residual of MeanFlow's identity."""
        t = self.times.times(batch.draws)
        velocity = self.residual(t, t, batch)
        average = self.residual(*self.intervals(batch.draws), batch)
        loss = (self.rho(velocity) + self.rho(average)) / 2
        return Loss(loss, {"gap": average.detach().square().mean()})

    def residual(self, t: Tensor, r: Tensor, batch: Batch) -> Tensor:
        """Of MeanFlow's identity, `(B, F, C, H, W)`; where every r = t, of the velocity."""
        x_t = noised_data(batch, t)
        with torch.no_grad():
            target = self.guided_teacher(x_t, t, batch.condition)
            if r is not t:
                d_t = self.total_derivative(x_t, t, r, batch.condition, target)
                target = target + expand(r - t, x_t) * d_t
        return self.nets["student"](x_t, t, batch.condition, r=r) - target

    @staticmethod
    def rho(residual: Tensor) -> Tensor:
        """The mean over samples of the distance above."""
        return (per_sample(residual.square()) + 0.01).log().mean()
