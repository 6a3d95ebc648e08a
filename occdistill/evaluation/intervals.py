"""How far a number would move with other scenes: Student's t on the jackknife's standard error."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit


def margin(without: np.ndarray, confidence: float = 0.95) -> float | None:
    """Half the width of the t interval of a number from its S leave-one-out values `(S,)`.

    With θ₋ₛ the number without scene s, and θ̄ their mean,

        margin = t(S - 1) · √((S - 1) / S · Σₛ (θ₋ₛ - θ̄)²).

    Returns:
        The margin, in the unit of `without`; None from fewer than two scenes, or where the number
        doesn't exist without one of them.
    """
    scenes = len(without)
    if scenes < 2 or np.isnan(without).any():
        return None
    error = np.sqrt((scenes - 1) / scenes * np.sum((without - without.mean()) ** 2))
    return float(stdtrit(scenes - 1, (1 + confidence) / 2) * error)
