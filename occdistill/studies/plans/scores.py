"""How good the plans of a teacher, a student or a rule are, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from occdistill.data.plans import places
from occdistill.evaluation.intervals import margin
from occdistill.evaluation.measures.plans import (
    energy_distance,
    miscalibration,
    mode_shares,
    modes_kept,
    plan_scores,
    rank,
)
from occdistill.flow.solver import sample
from occdistill.seeds import torch_generator
from occdistill.studies.plans.windows import FUTURE, Plans

SAMPLES = 16
SHAPE = (FUTURE, 3, 1, 1)
SCORES = ("minADE", "minFDE", "missed", "energy", "distance")
# what numbers are drawn for
TEACHER, STUDENT, SCORING, RANKS, SHOWN = range(10, 15)


@torch.no_grad()
def futures(field: nn.Module, data: Plans, steps: int, seed: int = 0, use: int = SCORING) -> Tensor:
    """Where K sampled plans of each window lead, `(N, K, 6, 3)`."""
    many = data[torch.arange(len(data)).repeat_interleave(SAMPLES)]
    noise = torch.randn(len(many), *SHAPE, generator=torch_generator(seed, use))
    x = sample(field, noise, many.condition, steps)
    return places(field.plans(x, many.past)).unflatten(0, (-1, SAMPLES))


def judge(found: Tensor, data: Plans, reference: Tensor) -> dict[str, Any]:
    """Scores of sampled places `(N, K, 6, 3)`: means, and of each town those that are means.

    Args:
        found: what is judged.
        data: the truth.
        reference: the teacher's places, from other noise.
    """
    last = data.past[:, -1, :2].norm(dim=-1)
    scores = plan_scores(found, data.true)
    scores["distance"] = energy_distance(found, reference)
    by_town = {
        key: [float(value[data.town == t].mean()) for t in data.town.unique()]
        for key, value in scores.items()
    }
    u = torch.rand(len(last), generator=torch_generator(0, RANKS))
    along = rank(found[:, :, -1, 0], data.true[:, -1, 0], u)
    shares = [mode_shares(plans, last) for plans in (found, reference)]
    return {
        "by_town": by_town,
        "kept": modes_kept(*shares),
        "miscalibration": miscalibration(along),
    }


def interval(by_seed_and_town: np.ndarray) -> tuple[float, float]:
    """Mean of `(seeds, towns)` numbers and half its 95 % interval over both.

    Each axis gives a jackknife margin (for a mean, Student's t), and as they are drawn apart, their
    squares add up.
    """
    values = np.asarray(by_seed_and_town, float)
    half = 0.0
    for axis in (0, 1):
        mean = values.mean(1 - axis)
        if len(mean) > 1:
            half += margin((mean.sum() - mean) / (len(mean) - 1)) ** 2
    return float(values.mean()), half**0.5


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half its 95 % interval, Student's; 0 for a single one."""
    spread = stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(spread / len(values) ** 0.5)


def summary(rows: Mapping[str, Sequence[Mapping]]) -> dict[str, dict[str, Any]]:
    """Mean and half-width of every score of each row, from what `judge` said of each seed.

    `MFD minus this` has the same of the differences to MFD's runs, paired by seed and town.
    """
    table: dict[str, dict[str, Any]] = {}
    ours = rows.get("MFD", ())
    for name, runs in rows.items():
        pairs = list(zip(ours, runs)) if name != "MFD" and len(runs) > 1 else []
        table[name] = {key: interval([r["by_town"][key] for r in runs]) for key in SCORES}
        for key in ("kept", "miscalibration"):
            table[name][key] = over_seeds([r[key] for r in runs])
        if pairs:
            gaps = {
                key: interval([np.subtract(a["by_town"][key], b["by_town"][key]) for a, b in pairs])
                for key in SCORES
            }
            gaps["kept"] = over_seeds([a["kept"] - b["kept"] for a, b in pairs])
            table[name]["MFD minus this"] = gaps
    return table
