"""Probabilities made of votes: n of K futures fill a voxel. What proper scores say about that.

A table counts voxels, int64 `(..., K + 1, 2)`: row n holds those in which n of K futures have an
event, say "a car is here"; of these, column 1 counts those where it came true. All scores below are
functions of tables, so nothing else is kept, whatever the number of clips, voxels or futures.
"""

from __future__ import annotations

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES, FREE, MOVABLE

EVENTS = ("occupied", "movable", *CLASS_NAMES[:FREE])  # what a voxel may hold


def tables(samples: np.ndarray, truth: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Count one clip.

    Args:
        samples: K futures, uint8 `(K, F, ...)`.
        truth: uint8 `(F, ...)`.
        region: a part of the voxels that is counted by itself too, bool `(F, ...)`.

    Returns:
        int64 `(2, len(EVENTS), F, K + 1, 2)`: over all voxels, and over the region.
    """
    count, frames = samples.shape[:2]
    shape = (2, len(EVENTS), count + 1, 2)
    found = np.zeros((frames, *shape), np.int64)
    parts = (samples.reshape(count, frames, -1), truth, region.astype(bool))
    samples, truth, region = parts[0], *(p.reshape(frames, -1) for p in parts[1:])
    for f in range(frames):
        active = (samples[:, f] != FREE).any(0) | (truth[f] != FREE)
        air = region[f][~active]  # where everybody agrees on free, no event has a vote
        found[f, 0, :, 0, 0] += len(air) - int(air.sum())
        found[f, 1, :, 0, 0] += int(air.sum())
        votes, came = _events(samples[:, f, active]), _events(truth[f][active][None])
        place = region[f, active] * shape[1] + np.arange(shape[1])[:, None]
        index = (place * shape[2] + votes) * 2 + came
        found[f] += np.bincount(index.ravel(), minlength=found[f].size).reshape(shape)
    found[:, 0] += found[:, 1]
    return np.moveaxis(found, 0, 2)


def _events(samples: np.ndarray) -> np.ndarray:
    """How many of K futures `(K, V)` have each of `EVENTS`, int64 `(E, V)`."""
    classes = np.stack([(samples == c).sum(0) for c in range(FREE)])
    return np.concatenate([[classes.sum(0), classes[list(MOVABLE)].sum(0)], classes])


def shares(count: int) -> np.ndarray:
    """The probability that n votes of K say, n / K, `(K + 1,)`."""
    return np.arange(count + 1) / count


def laplace(count: int) -> np.ndarray:
    """Laplace's rule of succession, p = (n + 1) / (K + 2), `(K + 1,)`; never 0 or 1."""
    return (np.arange(count + 1) + 1) / (count + 2)


def _mean(table: np.ndarray, absent: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over a table of a loss that depends on votes and outcome; NaN where it's empty."""
    total = table.sum((-1, -2)).astype(np.float64)
    loss = (table[..., 0] * absent + table[..., 1] * present).sum(-1)
    return np.divide(loss, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def brier(table: np.ndarray, probability: np.ndarray | None = None) -> np.ndarray:
    """Brier's score (1950), the mean of (p - y)², `(..., K + 1, 2)` to `(...)`, 0 to 1; 0 is best.

    Args:
        table: of voxels.
        probability: of each number of votes; default n / K.
    """
    p = shares(table.shape[-2] - 1) if probability is None else probability
    return _mean(table, p**2, (1 - p) ** 2)


def skill(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 - score / reference: 1 is perfect, 0 no better than the reference; NaN if that is 0."""
    out = np.full(np.shape(score), np.nan)
    return 1 - np.divide(score, reference, out=out, where=np.asarray(reference) > 0)


def log_loss(table: np.ndarray) -> np.ndarray:
    """Negative log likelihood of Laplace's probability, nats a voxel; 0 is best."""
    p = laplace(table.shape[-2] - 1)
    return _mean(table, -np.log1p(-p), -np.log(p))


def calibration_error(table: np.ndarray) -> np.ndarray:
    """Expected calibration error of n / K, `(..., K + 1, 2)` to `(...)`, 0 to 1.

        Σₙ |came trueₙ - n / K · voxelsₙ| / voxels that truth or forecast fill

    Air that nobody fills is in the gap of n = 0, where a forecast may say more than 0, but not in
    the denominator, which it would fill. To leave it out of the gap as well would choose voxels by
    what came true, and call honest doubt an error. A forecast that means what it says has 0.
    """
    gap = np.abs(table[..., 1] - shares(table.shape[-2] - 1) * table.sum(-1)).sum(-1)
    filled = (table.sum((-1, -2)) - table[..., 0, 0]).astype(np.float64)
    return np.divide(gap, filled, out=np.full(np.shape(gap), np.nan), where=filled > 0)
