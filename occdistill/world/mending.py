"""Recorded tracks made fit to be enacted: what is mended, what is left out, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from occdistill.world.agents import KINDS, kind_of, overlap
from occdistill.world.motion import Motion
from occdistill.world.traffic import EGO_SIZE, REAR_AXLE, moved_ahead

LONGEST_GAP = 2.0
"""Seconds for which an object may be unknown and still be taken for the same."""
FASTEST = {"vehicle": 45.0, "human": 9.0, "animal": 12.0, "movable_object": 9.0}
"""What moves faster has jumped, m/s."""
ABOUT_TURN = -0.9
"""The cosine of what a vehicle doesn't turn by from one moment to the next."""
SMALLEST, LARGEST = 0.05, 40.0
"""Metres that a side of an object has."""


def mended(motion: Motion) -> Motion:
    """Tracks that hold together, with a note for each kind of thing that was changed.

    - Objects of an unknown category, or known at no moment, are left out.
    - Those without a size get their kind's usual one.
    - A moment far off the moments around it is filled in from these.
    - Where an object jumps, or is unknown for longer than `LONGEST_GAP`, its track is cut in two;
      single moments between jumps are left out, shorter gaps filled in.
    - A vehicle's box that is turned round for a while is turned back.
    - What would overlap the ego car is left out for these moments.
    """
    told: Counter[str] = Counter()
    tracks, sizes, names = [], [], []
    for pose, valid, size, category in zip(motion.pose, motion.valid, motion.size, motion.category):
        kind = kind_of(str(category), 0.0)
        if kind is None:
            told[f"of category {category!r}, which has no class, left out"] += 1
            continue
        if not valid.any():
            told["known at no moment, left out"] += 1
            continue
        if not (np.isfinite(size).all() and (size > SMALLEST).all() and (size < LARGEST).all()):
            size = np.array(KINDS[kind].size)
            told["without a size, given their kind's usual one"] += 1
        group = str(category).split(".")[0]
        fastest = FASTEST.get(group, FASTEST["movable_object"])
        pieces = _pieces(motion.time, pose, valid, fastest, group == "vehicle", told)
        tracks += pieces
        sizes += [size] * len(pieces)
        names += [category] * len(pieces)
    poses = np.array([pose for pose, _ in tracks]).reshape(-1, len(motion.time), 3)
    known = np.array([valid for _, valid in tracks], bool).reshape(poses.shape[:2])
    size = np.array(sizes, float).reshape(-1, 3)
    known &= ~_in_the_way(motion.ego, poses, known, size, told)
    notes = [*motion.notes, *(f"{count} objects {text}" for text, count in told.items() if count)]
    return replace(
        motion, pose=poses, valid=known, size=size, category=np.array(names, str), notes=notes
    )


def _pieces(
    time: np.ndarray,
    pose: np.ndarray,
    valid: np.ndarray,
    fastest: float,
    vehicle: bool,
    told: Counter[str],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One object's tracks (T, 3) with where they are known (T,), without gaps."""
    at = np.flatnonzero(valid)
    far = _far(time, pose, at, fastest)
    # Far from both neighbours, while these are near each other: one moment is wrong.
    wrong = [i for i in range(1, len(at) - 1) if far[i - 1] and far[i]]
    wrong = [i for i in wrong if not _far(time, pose, at[[i - 1, i + 1]], fastest)[0]]
    if wrong:
        told["with a moment far off their way, filled in"] += 1
        at = np.delete(at, wrong)
        far = _far(time, pose, at, fastest)
    if far.any():
        told["that jump, cut there"] += 1
    yaw = np.unwrap(pose[at, 2])
    # A vehicle turns by so much between two moments only in the annotator's hand.
    turned = np.cumsum(np.pad(np.cos(np.diff(yaw)) < ABOUT_TURN, (1, 0)) & vehicle) % 2 == 1
    if turned.any():
        told["turned round for a while, turned back"] += 1
        wrong = turned if turned.mean() <= 0.5 else ~turned
        yaw = np.unwrap(yaw + np.pi * wrong)
    cuts = np.flatnonzero(far | (np.diff(time[at]) > LONGEST_GAP + 1e-3)) + 1
    out = []
    for piece, angle in zip(np.split(at, cuts), np.split(yaw, cuts)):
        if len(piece) == 1 and far.any():
            continue  # nothing says which side of a jump is right
        columns = (pose[piece, 0], pose[piece, 1], angle)
        # Before and after, the object stays where it is: nobody looks then.
        whole = np.stack([np.interp(time, time[piece], column) for column in columns], -1)
        inside = (time >= time[piece[0]]) & (time <= time[piece[-1]])
        out.append((whole, inside))
    return out


def _far(time: np.ndarray, pose: np.ndarray, at: np.ndarray, fastest: float) -> np.ndarray:
    """Between which neighbouring moments an object moves faster than it can: (len(at) - 1,)."""
    step = np.hypot(*np.diff(pose[at, :2], axis=0).T)
    return step > fastest * np.diff(time[at]) + 0.5  # half a metre is an annotator's hand


def _in_the_way(
    ego: np.ndarray, poses: np.ndarray, known: np.ndarray, sizes: np.ndarray, told: Counter[str]
) -> np.ndarray:
    """Where boxes (N, T) overlap the ego car."""
    car, size = moved_ahead(ego, REAR_AXLE), np.array(EGO_SIZE)
    hit = np.zeros(known.shape, bool)
    for n, t in np.argwhere(known & (np.hypot(*(poses - car)[..., :2].T).T < 20.0)):
        hit[n, t] = overlap(car[t], size, poses[n, t], sizes[n])
    told["inside the ego car, left out while they are"] += int(hit.any(1).sum())
    return hit
