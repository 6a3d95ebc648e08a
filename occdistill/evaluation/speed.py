"""How fast grids are counted: scoring must keep up with the forecasts it scores."""

from __future__ import annotations

import time

import numpy as np

from occdistill.data.occ3d import FREE, OCC3D
from occdistill.evaluation.confusion import confusion


def counting_speed(frames: int = 6, seconds: float = 0.5) -> dict[str, float]:
    """Full-size clips counted per second of one core.

    Returns:
        Clips per second for `street` (mostly air, as real scenes are), `random` grids (the worst
        case) and `masked` random grids.
    """
    rng = np.random.default_rng(0)
    shape = (frames, *OCC3D.shape)
    street = np.full(shape, FREE, np.uint8)
    street[..., :3] = 11
    street[:, 50:60, :, 3:9] = 15
    noise = rng.integers(0, FREE + 1, (2, *shape), np.uint8)
    mask = rng.integers(0, 2, shape, np.uint8)
    cases = {
        "street": (street, np.roll(street, 3, axis=1)),
        "random": (noise[0], noise[1]),
        "masked": (noise[0], noise[1], mask),
    }
    return {name: _rate(arguments, seconds) for name, arguments in cases.items()}


def _rate(arguments: tuple, seconds: float) -> float:
    confusion(*arguments)  # compiles
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        confusion(*arguments)
        done += 1
    return done / (time.process_time() - start)
