"""The plans that rows forecast from, against where the ego car really went."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occdistill.data.plans import places, steps_between
from occdistill.evaluation.measures.base import Context, Measure, Observer
from occdistill.evaluation.measures.plans import miscalibration, plan_scores, rank
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.seeds import torch_generator


class PlanSpread:
    """Sampled plans of many clips, and the true ones."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []
        self.true: list[Tensor] = []

    def update(self, plans: Tensor, poses: Tensor) -> None:
        """Add clips: plans' poses `(B, K, F, 4, 4)`, and the true ones `(B, F, 4, 4)`, all to the
        newest past frame.
        """
        self.found.append(_places(plans).cpu())
        self.true.append(_places(poses).cpu())

    def result(self) -> dict[str, Any] | None:
        """`k` plans per clip; `minADE`, `minFDE`, `energy` in metres, `missed` a share; of several
        plans `miscalibration`: see `measures.plans`. None where there were none.
        """
        if not self.found:
            return None
        found, true = torch.cat(self.found), torch.cat(self.true)
        means = {name: float(v.mean()) for name, v in plan_scores(found, true).items()}
        u = torch.rand(len(true), generator=torch_generator(0))
        along = rank(found[:, :, -1, 0], true[:, -1, 0], u)
        doubt = {"miscalibration": miscalibration(along)} if found.shape[1] > 1 else {}
        return {"k": found.shape[1], **means, **doubt}


def _places(poses: Tensor) -> Tensor:
    """Places `(…, F, 3)` of future frames' poses `(…, F, 4, 4)` to the newest past one."""
    now = torch.eye(4).to(poses).expand(*poses.shape[:-3], 1, 4, 4)
    return places(steps_between(torch.cat([now, poses], dim=-3)))


def observe(context: Context) -> Observer:
    """Scores of the rows that forecast from plans of their own."""

    def feed(state: PlanSpread, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        if row.plan is None:
            return
        count = context.samples if row.draw is not None else 1
        plans = torch.stack([row.plan(batch, s) for s in range(count)], 1)
        state.update(plans, batch.poses[:, batch.past.shape[1] :])

    return Observer("plans", PlanSpread, feed)


PLANS = Measure(
    "plans",
    observe,
    {
        f"plans: {title}": ("plans", key)
        for title, key in (
            ("minADE, m", "minADE"),
            ("minFDE, m", "minFDE"),
            ("missed", "missed"),
            ("energy, m", "energy"),
            ("miscalibration", "miscalibration"),
        )
    },
    order=8,
)
