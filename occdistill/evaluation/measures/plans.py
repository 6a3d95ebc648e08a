"""How good sampled plans are: how near the best is, what is missed, and whether doubt is honest.

All take places `(…, 3)` or `(…, 2)`, metres in the ego frame that a plan starts from, see
`occdistill.data.plans`; K plans of a clip are `(B, K, F, …)`, the true one `(B, F, …)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

MISS = 2.0
"""Metres beyond which the last place is missed."""
MODES = ("brake", "straight", "left", "right")
TURN = 0.26
"""Radians over the whole plan from which it turns: 15 degrees."""
SLOW, CREEP = 0.5, 1.0
"""A plan brakes that ends slower than this share of the past step; one shorter than `CREEP`
metres can't."""


def distances(plans: Tensor, truth: Tensor) -> Tensor:
    """Metres between each plan's places and the true ones, `(B, K, F)`."""
    return (plans[..., :2] - truth[:, None, :, :2]).norm(dim=-1)


def min_ade(plans: Tensor, truth: Tensor) -> Tensor:
    """Mean distance over the horizons of the plan for which it is least, `(B,)`."""
    return distances(plans, truth).mean(-1).amin(1)


def min_fde(plans: Tensor, truth: Tensor) -> Tensor:
    """Smallest distance at the last horizon, `(B,)`."""
    return distances(plans, truth)[..., -1].amin(1)


def missed(plans: Tensor, truth: Tensor) -> Tensor:
    """1 where every plan ends more than `MISS` from the true end, else 0, `(B,)`."""
    return (min_fde(plans, truth) > MISS).to(truth.dtype)


def energy_score(plans: Tensor, truth: Tensor) -> Tensor:
    """`E|X - y| - E|X - X'| / 2`, a proper score (Gneiting and Raftery, 2007), `(B,)`; lower is
    better.

    `|.|` is the norm over all places of a plan together. Without bias: X' is another plan than X.
    Of a single plan it is the distance.
    """
    flat = plans[..., :2].flatten(2)
    off = (flat - truth[..., :2].flatten(1)[:, None]).norm(dim=-1).mean(1)
    return off - _within(flat) / 2


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """`2 E|A - B| - E|A - A'| - E|B - B'|` of two sets of plans of the same clips, `(B,)`; 0 on
    average where they are of one law.
    """
    a, b = a[..., :2].flatten(2), b[..., :2].flatten(2)
    return 2 * torch.cdist(a, b).mean((1, 2)) - _within(a) - _within(b)


def _within(flat: Tensor) -> Tensor:
    """Mean distance of two different ones of K points `(B, K, D)`; 0 for a single one."""
    count = flat.shape[1]
    return torch.cdist(flat, flat).sum((1, 2)) / max(1, count * (count - 1))


def rank(values: Tensor, truth: Tensor, u: Tensor) -> Tensor:
    """Where the truth `(B,)` stands among values `(B, K)`, from 0 to 1 (the PIT): uniform where
    truth and values are of one law.

    Args:
        values: of the plans.
        truth: the true one.
        u: uniform numbers `(B,)`, which spread ties and the gaps between ranks.
    """
    below = (values < truth[:, None]).sum(1)
    ties = (values == truth[:, None]).sum(1)
    return (below + u * (ties + 1)) / (values.shape[1] + 1)


def miscalibration(ranks: Tensor) -> float:
    """Mean distance between the ranks' distribution and the uniform one: 0 for perfect doubt, 0.25
    where the truth is always in the middle, 0.5 where it is always below or above all.
    """
    uniform = (torch.arange(len(ranks), dtype=torch.float64) + 0.5) / len(ranks)
    return float((ranks.double().sort().values - uniform).abs().mean())


def modes(plans: Tensor, last: Tensor) -> Tensor:
    """What kind each plan is of, as numbers of `MODES`, `(…)`.

    It turns if its yaw changes by `TURN` or more, else brakes if its last step is shorter than
    `SLOW` times the step before it began, else goes straight.

    Args:
        plans: places `(…, F, 3)`.
        last: length of the step before, metres, `(…)`.
    """
    yaw = plans[..., -1, 2]
    step = (plans[..., -1, :2] - plans[..., -2, :2]).norm(dim=-1)
    brake = (step < SLOW * last) & (last > CREEP)
    kind = torch.where(brake, MODES.index("brake"), MODES.index("straight"))
    kind = torch.where(yaw >= TURN, MODES.index("left"), kind)
    return torch.where(yaw <= -TURN, MODES.index("right"), kind)


def mode_shares(plans: Tensor, last: Tensor) -> Tensor:
    """Share of each of `MODES` among the plans `(B, K, F, 3)`, given `last (B,)`: `(B, 4)`."""
    kinds = modes(plans, last[:, None].expand(plans.shape[:2]))
    return torch.nn.functional.one_hot(kinds, len(MODES)).double().mean(1)


def modes_kept(shares: Tensor, reference: Tensor, from_: float = 0.1, least: float = 0.25) -> float:
    """Share of a reference's minor modes that are kept.

    Args:
        shares: of the plans in question, `(B, modes)`.
        reference: the same of the plans that they are held against.
        from_: a mode counts where the reference has it with at least this share, and another one
            with a larger share.
        least: it is kept with at least this much of the reference's share.

    Returns:
        0 to 1; NaN where no mode counts.
    """
    minor = (reference >= from_) & (reference < reference.amax(1, keepdim=True))
    return float((shares >= least * reference)[minor].double().mean())


def plan_scores(plans: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Every score of a clip, `(B,)` each: places `(B, K, F, 3)` against `(B, F, 3)`."""
    return {
        "minADE": min_ade(plans, truth),
        "minFDE": min_fde(plans, truth),
        "missed": missed(plans, truth),
        "energy": energy_score(plans, truth),
    }
