"""How the ego car and the others move, as distributions, and how far two worlds' lie apart.

All is measured at keyframes, 2 Hz. Quantities of others count those within 40 m of the ego, which
is as far as a label grid reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from occdistill.data.poses import extrapolate, invert, rigid
from occdistill.world.motion import KEYFRAME, Motion

STANDS = 0.2
"""Below this many m/s the ego car stands."""
MOVES = 0.5
"""Above this many m/s another road user moves."""
REACH = 40.0
_LANE = 1.75
_NOSE = 3.5  # from the rear axle to the front bumper, metres


def speed(motion: Motion) -> np.ndarray:
    """Ego speed between keyframes (K - 1,), m/s."""
    return np.hypot(*np.diff(motion.ego[:, :2], axis=0).T) / KEYFRAME


def acceleration(motion: Motion) -> np.ndarray:
    """Ego |change of speed| (K - 2,), m/s²."""
    return np.abs(np.diff(speed(motion))) / KEYFRAME


def jerk(motion: Motion) -> np.ndarray:
    """Ego |change of acceleration| (K - 3,), m/s³."""
    return np.abs(np.diff(speed(motion), n=2)) / KEYFRAME**2


def yaw_rate(motion: Motion) -> np.ndarray:
    """Ego |turn| between keyframes (K - 1,), rad/s."""
    return np.abs(np.diff(np.unwrap(motion.ego[:, 2]))) / KEYFRAME


def standing(motion: Motion) -> np.ndarray:
    """1 where the ego car stands, else 0 (K - 1,)."""
    return (speed(motion) < STANDS).astype(float)


def ctrv_error(motion: Motion, seconds: int) -> np.ndarray:
    """How far constant turn rate and velocity, from the last two keyframes, end from where the ego
    car is `seconds` later, metres; one number for each keyframe with such a past and future."""
    steps = round(seconds / KEYFRAME)
    x, y, yaw = motion.ego.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    c, s = np.cos(yaw), np.sin(yaw)
    rows = [[c, -s, zero], [s, c, zero], [zero, zero, one]]
    poses = rigid(np.stack([np.stack(row, -1) for row in rows], -2), np.stack([x, y, zero], -1))
    now = poses[1 : len(poses) - steps]
    past = invert(now)[:, None] @ np.stack([poses[: len(now)], now], 1)
    guess = extrapolate(torch.from_numpy(past), steps)[:, -1].numpy()
    truth = invert(now) @ poses[1 + steps :]
    return np.hypot(*(guess - truth)[:, :2, 3].T)


def _near(motion: Motion) -> np.ndarray:
    away = motion.pose[..., :2] - motion.ego[:, :2]
    return motion.valid & (np.hypot(away[..., 0], away[..., 1]) < REACH)


def _are(motion: Motion, group: str) -> np.ndarray:
    names = motion.category.astype(str)
    cycle = np.char.find(names, "cycle") >= 0
    if group == "cycles":
        return cycle
    return np.char.startswith(names, "vehicle" if group == "vehicles" else "human") & ~cycle


def _moving(motion: Motion, group: str, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Speeds (N, K - 1) and which of them are near, of the group, and not below a limit."""
    step = np.diff(motion.pose[..., :2], axis=1)
    fast = np.hypot(step[..., 0], step[..., 1]) / KEYFRAME
    near = _near(motion)[:, 1:] & motion.valid[:, :-1] & _are(motion, group)[:, None]
    return fast, near & (fast >= above)


def speeds(motion: Motion, group: str, above: float = 0.0) -> np.ndarray:
    """Speeds of near vehicles, cycles or people, one for each that isn't below a limit, m/s."""
    fast, counts = _moving(motion, group, above)
    return fast[counts]


def count(motion: Motion, group: str, above: float = 0.0) -> np.ndarray:
    """How many near vehicles, cycles or people aren't below a speed, per keyframe (K - 1,)."""
    return _moving(motion, group, above)[1].sum(0).astype(float)


def headway(motion: Motion) -> np.ndarray:
    """Gap from the ego's bumper to the vehicle in its way, where there is one near, metres."""
    away = motion.pose[..., :2] - motion.ego[:, :2]
    c, s = np.cos(motion.ego[:, 2]), np.sin(motion.ego[:, 2])
    ahead, aside = c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]
    gap = ahead - _NOSE - motion.size[:, :1] / 2
    in_way = motion.valid & _are(motion, "vehicles")[:, None] & (np.abs(aside) < _LANE)
    in_way &= (ahead > _NOSE) & (ahead < REACH)
    nearest = np.where(in_way, gap, np.inf).min(0, initial=np.inf)
    return np.maximum(nearest[np.isfinite(nearest)], 0.0)


QUANTITIES: dict[str, Callable[[Motion], np.ndarray]] = {
    "speed, m/s": speed,
    "acceleration, m/s²": acceleration,
    "jerk, m/s³": jerk,
    "yaw rate, rad/s": yaw_rate,
    "standing, share": standing,
    "CTRV error at 1 s, m": lambda motion: ctrv_error(motion, 1),
    "CTRV error at 2 s, m": lambda motion: ctrv_error(motion, 2),
    "CTRV error at 3 s, m": lambda motion: ctrv_error(motion, 3),
    "headway, m": headway,
    "moving vehicles": lambda motion: count(motion, "vehicles", MOVES),
    "their speed, m/s": lambda motion: speeds(motion, "vehicles", MOVES),
    "moving cycles": lambda motion: count(motion, "cycles", MOVES),
    "their speed, m/s ": lambda motion: speeds(motion, "cycles", MOVES),
    "people": lambda motion: count(motion, "people"),
    "their speed, m/s  ": lambda motion: speeds(motion, "people"),
}
"""What is measured; each gives the samples of one scene at keyframes."""


def wasserstein(one: np.ndarray, two: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples: the area between their quantile functions."""
    cuts = np.union1d(np.arange(1, len(one)) / len(one), np.arange(1, len(two)) / len(two))
    edges = np.concatenate([[0.0], cuts, [1.0]])
    middle = (edges[1:] + edges[:-1]) / 2
    a = np.sort(one)[(middle * len(one)).astype(int)]
    b = np.sort(two)[(middle * len(two)).astype(int)]
    return float(np.abs(a - b) @ np.diff(edges))


@dataclass(frozen=True)
class Row:
    """One quantity of two sets of scenes: mean, median and 95 % quantile of each, the distance of
    the distributions, and the largest one that is taken for the same."""

    name: str
    one: tuple[float, float, float]
    two: tuple[float, float, float]
    distance: float
    tolerance: float


def compare(one: Sequence[Motion], two: Sequence[Motion], draws: int = 200) -> list[Row]:
    """Compare scenes with others, quantity by quantity.

    Args:
        one: scenes at keyframes, several times as many as `two`.
        two: scenes at keyframes to compare them with.
        draws: how many times as many scenes as in `two` are drawn from `one`, for the tolerance:
            nine in ten of such draws lie nearer to all of `one`.

    Returns:
        A row for each quantity that both have samples of.
    """
    rng = np.random.default_rng(0)
    picks = [rng.choice(len(one), len(two), replace=len(two) > len(one)) for _ in range(draws)]
    rows = []
    for name, quantity in QUANTITIES.items():
        ours, theirs = [quantity(m) for m in one], np.concatenate([quantity(m) for m in two])
        whole = np.concatenate(ours)
        if not len(whole) or not len(theirs):
            continue
        some = [np.concatenate([ours[k] for k in pick]) for pick in picks]
        apart = [wasserstein(part, whole) for part in some if len(part)]
        tolerance = float(np.quantile(apart, 0.9)) if apart else 0.0
        rows.append(Row(name, _brief(whole), _brief(theirs), wasserstein(whole, theirs), tolerance))
    return rows


def _brief(sample: np.ndarray) -> tuple[float, float, float]:
    return float(sample.mean()), float(np.median(sample)), float(np.quantile(sample, 0.95))
