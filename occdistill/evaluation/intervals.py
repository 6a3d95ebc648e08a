"""How far a number would move with other scenes and other training seeds: Student's t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit


def margin(
    without: np.ndarray, confidence: float = 0.95, seeds: Sequence[Sequence[float]] = ()
) -> float | None:
    """Half the width of the t interval of a number from its S leave-one-out values `(S,)`.

    With θ₋ₛ the number without scene s, and θ̄ their mean, scenes alone have the variance

        v = (S - 1) / S · Σₛ (θ₋ₛ - θ̄)²,    margin = t(S - 1) · √v.

    Where the number is a mean over R training seeds, or the difference of such means, each mean adds
    the variance of its R values over R, w = var / R, with R - 1 degrees of freedom, and Welch's
    formula (Satterthwaite, 1946) has those of the sum:

        margin = t(ν) · √(v + Σ w),    ν = (v + Σ w)² / (v² / (S - 1) + Σ w² / (R - 1)).

    What a seed does to one scene alone is in both terms, so the margin is rather too wide.

    Args:
        without: leave-one-out values, each with all seeds.
        confidence: nominal coverage, in (0, 1).
        seeds: for each mean over seeds its values; a single one says nothing and adds nothing.

    Returns:
        The margin, in the unit of `without`; None from fewer than two scenes, or where the number
        doesn't exist without one of them.
    """
    scenes = len(without)
    if scenes < 2 or np.isnan(without).any():
        return None
    parts = [((scenes - 1) / scenes * np.sum((without - without.mean()) ** 2), scenes - 1)]
    parts += [(np.var(v, ddof=1) / len(v), len(v) - 1) for v in seeds if len(v) > 1]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / own for variance, own in parts)
    return float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(total))
