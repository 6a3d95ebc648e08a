"""Where the lane that somebody drives on ends, and which ways lead on from there."""

import math

import numpy as np
from scipy.spatial import cKDTree

from occdistill.data.poses import wrapped
from occdistill.world.town import CONNECTOR, LANE, LANE_WIDTH, Town, resample

TURN = 0.6
"""Radians from which a way on is a turn, as in `world.town`."""

METRES = 4.0
"""What a radian of heading counts for beside metres, where the nearest lane is looked for."""


def forks_ahead(town: Town, track: np.ndarray) -> np.ndarray:
    """What the map says of the ways on, for everybody on a lane that leads to a junction.

    Args:
        town: with its paths.
        track: x, y, yaw `(N, K, 3)`.

    Returns:
        `(N, K, 4)`: metres along the lane to its end, and 1 or 0 for whether one can go on from
        there to the left, straight on and to the right. Where somebody is on no such lane, or not
        in its direction: inf and zeros.
    """
    found = np.zeros((*track.shape[:2], 4))
    found[..., 0] = math.inf
    lanes = [_lane(town.paths, p) for p in np.flatnonzero(town.paths.kind == LANE)]
    points, heading, left, exits = (np.concatenate(part) for part in zip(*lanes))
    tree = cKDTree(_directed(points, heading))
    reach = LANE_WIDTH / 2 + 0.5 + TURN * METRES  # points are 1 m apart
    _, nearest = tree.query(_directed(track[..., :2], track[..., 2]), distance_upper_bound=reach)
    on = nearest < len(points)
    on[on] = exits[nearest[on]].any(1)
    found[on, 0], found[on, 1:] = left[nearest[on]], exits[nearest[on]]
    return found


def _directed(points: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Points `(…, 4)` whose distance grows with that of places and of headings."""
    way = METRES * np.stack([np.cos(heading), np.sin(heading)], -1)
    return np.concatenate([points, way], -1)


def _lane(paths, p: int) -> tuple[np.ndarray, ...]:
    """Points of a lane, the heading and the metres left at each, and the ways on."""
    line = _points(paths, p)
    heading = np.arctan2(*np.gradient(line, axis=0).T[::-1])
    step = np.hypot(*np.diff(line, axis=0).T)
    left = step.sum() - np.concatenate([[0.0], np.cumsum(step)])
    ways = np.zeros(3)
    for c in paths.next_ids[paths.next_start[p] : paths.next_start[p + 1]]:
        if paths.kind[c] == CONNECTOR:
            way = np.diff(_points(paths, c)[[0, 1, -2, -1]], axis=0)[[0, 2]]
            first, last = np.arctan2(way[:, 1], way[:, 0])
            turn = wrapped(last - first)
            ways[0 if turn > TURN else 2 if turn < -TURN else 1] = 1.0
    return line, heading, left, np.broadcast_to(ways, (len(line), 3))


def _points(paths, p: int) -> np.ndarray:
    return resample(paths.xy[paths.start[p] : paths.start[p + 1]], 1.0)
