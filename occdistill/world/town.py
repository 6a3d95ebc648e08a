"""The town's plan: terrain, blocks, roads, and the lanes and footpaths that agents follow."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from occdistill.compiled import njit

LANE, CONNECTOR, CYCLE, CYCLE_CONNECTOR, WALK, CORNER = range(6)
STRAIGHT = 5
"""How many times as often as a turn drivers go straight on."""
LANE_WIDTH, CYCLE_WIDTH, PARKING_WIDTH = 3.4, 1.5, 2.3


@dataclass
class Road:
    """A street between two junctions; the right-hand side is that of a traveller from a to b."""

    a: int
    b: int
    points: np.ndarray
    lanes: int
    median: float
    parking: bool
    sidewalk: float
    verge: float
    speed: float
    axis: int
    trim: tuple[float, float] = (0.0, 0.0)
    works: tuple[int, float, float] | None = None
    """Side (0 right, 1 left) and the stretch (metres from a) that road works close."""
    guard: bool = False
    sides: tuple[int, ...] = (-1, 1)
    """Where something lines it: -1 right, 1 left."""

    @property
    def half_width(self) -> float:
        """Centreline to kerb, metres; a road without lanes is a kerb itself."""
        if not self.lanes:
            return 0.0
        parking = PARKING_WIDTH if self.parking else 0.0
        return self.median / 2 + self.lanes * LANE_WIDTH + CYCLE_WIDTH + parking

    @property
    def length(self) -> float:
        """Metres from junction to junction."""
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())


class Paths(NamedTuple):
    """Everything agents follow, as flat arrays (path p has points start[p]:start[p+1])."""

    xy: np.ndarray
    start: np.ndarray
    length: np.ndarray
    kind: np.ndarray
    road: np.ndarray
    node: np.ndarray
    group: np.ndarray
    speed: np.ndarray
    source: np.ndarray
    next_start: np.ndarray
    next_ids: np.ndarray
    rival_start: np.ndarray
    rival_ids: np.ndarray
    left: np.ndarray
    right: np.ndarray
    offset: np.ndarray
    forward: np.ndarray
    block: np.ndarray
    opposite: np.ndarray


class Ground(NamedTuple):
    """Streets that weren't planned but recorded, as fields of 1 m cells from `origin` (integers).

    `kerb` metres to the nearest kerb, negative on a road; `district` number; `keep` bool, what must
    stay free.
    """

    origin: np.ndarray
    kerb: np.ndarray
    district: np.ndarray
    keep: np.ndarray


@dataclass
class Town:
    """A town: junctions, roads, blocks (grid of district numbers), terrain, and its paths."""

    nodes: np.ndarray
    roads: list[Road]
    blocks: list[tuple[np.ndarray, int]]
    hills: np.ndarray
    signals: np.ndarray
    """Per junction: signalised (0/1), green seconds of group 0 and 1, time offset."""
    paths: Paths | None = None
    ground: Ground | None = None


@njit(cache=True)
def elevation(hills, x, y):
    """Ground height (metres) and its slope in x and y at one point."""
    z = gx = gy = 0.0
    for k in range(hills.shape[0]):
        phase = hills[k, 1] * x + hills[k, 2] * y + hills[k, 3]
        z += hills[k, 0] * math.sin(phase)
        c = hills[k, 0] * math.cos(phase)
        gx += c * hills[k, 1]
        gy += c * hills[k, 2]
    return z, gx, gy


@njit(cache=True)
def locate(paths, p, s):
    """The point at arc length s (clamped) of path p."""
    first, last = paths.start[p], paths.start[p + 1] - 1
    u = s / paths.length[p] * (last - first)
    u = min(max(u, 0.0), float(last - first))
    i = min(int(u), last - first - 1)
    f = u - i
    a, b = first + i, first + i + 1
    x = paths.xy[a, 0] * (1 - f) + paths.xy[b, 0] * f
    y = paths.xy[a, 1] * (1 - f) + paths.xy[b, 1] * f
    return x, y


def resample(points: np.ndarray, step: float) -> np.ndarray:
    """Points at equal arc length, at most `step` metres apart."""
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    t = np.linspace(0.0, s[-1], max(2, math.ceil(s[-1] / step) + 1))
    return np.stack([np.interp(t, s, points[:, 0]), np.interp(t, s, points[:, 1])], -1)


def normals(points: np.ndarray) -> np.ndarray:
    """Unit normals to the left of a polyline."""
    d = np.gradient(points, axis=0)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    return np.stack([-d[:, 1], d[:, 0]], -1)


def shifted(points: np.ndarray, left: float) -> np.ndarray:
    """The polyline moved `left` metres sideways."""
    return points + left * normals(points)


def cut(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """The part of a polyline between two arc lengths."""
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    t = np.concatenate([[low], s[(s > low) & (s < high)], [high]])
    return np.stack([np.interp(t, s, points[:, 0]), np.interp(t, s, points[:, 1])], -1)


@njit(cache=True)
def _close(xy, a0, a1, b0, b1, gap):
    for i in range(a0, a1):
        for j in range(b0, b1):
            dx, dy = xy[i, 0] - xy[j, 0], xy[i, 1] - xy[j, 1]
            if dx * dx + dy * dy < gap * gap:
                return True
    return False


def draw_mood(rng: np.random.Generator) -> np.ndarray:
    """How often each of the four districts occurs in a town."""
    mood = rng.dirichlet([2.0, 2.0, 0.8, 1.6])
    return 0.5 * mood + 0.5 * np.array([0.30, 0.32, 0.13, 0.25])


def draw_hills(rng: np.random.Generator) -> np.ndarray:
    """The terrain's three waves, for `elevation`."""
    waves = rng.uniform(0.0, 1.0, (3, 3))
    hills = np.empty((3, 4))
    for k in range(3):
        length = 140.0 + 160.0 * waves[k, 0]
        heading = 2 * math.pi * waves[k, 1]
        hills[k] = (
            0.0017 * length * (0.6 + 0.8 * waves[k, 2]),
            2 * math.pi / length * math.cos(heading),
            2 * math.pi / length * math.sin(heading),
            2 * math.pi * waves[k, 2],
        )
    return np.round(hills, 9)


def plan_town(rng: np.random.Generator, size: int = 5) -> Town:
    """Draw a town of size × size junctions: a skewed, gappy grid of straight and bent streets."""
    gaps = rng.uniform(140.0, 260.0, (2, size - 1))
    gx, gy = (np.concatenate([[0.0], np.cumsum(g)]) for g in gaps)
    gx, gy = gx - gx.mean(), gy - gy.mean()
    angle, skew = rng.uniform(-math.pi, math.pi), rng.uniform(-0.18, 0.18)
    nodes = np.stack(np.meshgrid(gx, gy, indexing="ij"), -1).reshape(-1, 2)
    nodes[:, 0] += skew * nodes[:, 1]
    nodes += np.clip(rng.normal(0.0, 5.0, nodes.shape), -9.0, 9.0)
    c, s = math.cos(angle), math.sin(angle)
    nodes = np.round(nodes @ np.array([[c, s], [-s, c]]), 3)

    pairs = [(i * size + j, i * size + j + 1, 1) for i in range(size) for j in range(size - 1)]
    pairs += [(i * size + j, (i + 1) * size + j, 0) for i in range(size - 1) for j in range(size)]
    degree = np.bincount(np.array([p[:2] for p in pairs]).ravel(), minlength=size * size)
    order = rng.permutation(len(pairs))
    gone = set()
    for k in order:
        a, b, _ = pairs[k]
        spare = len(gone) < 0.2 * len(pairs) and degree[a] > 2 and degree[b] > 2
        if spare and (degree[a] == 4 or degree[b] == 4 or rng.random() < 0.3):
            gone.add(k)
            degree[a] -= 1
            degree[b] -= 1
    wide = {(axis, int(rng.integers(size))) for axis in (0, 1) for _ in range(2)}
    # Drivers keep their pace along a line of streets, which is a main road throughout or nowhere.
    pace = rng.uniform(0.0, 1.0, (2, size))
    roads = []
    for k, (a, b, axis) in enumerate(pairs):
        line = a % size if axis == 0 else a // size
        main = (axis, line) in wide
        chord = nodes[b] - nodes[a]
        bend = np.clip(rng.normal(0.0, 0.05), -0.1, 0.1) * np.array([-chord[1], chord[0]])
        t = np.linspace(0.0, 1.0, 41)[:, None]
        middle = (nodes[a] + nodes[b]) / 2 + bend
        points = (1 - t) ** 2 * nodes[a] + 2 * t * (1 - t) * middle + t**2 * nodes[b]
        road = Road(
            a,
            b,
            resample(points, 2.0),
            lanes=2 if main or rng.random() < 0.12 else 1,
            median=float(rng.choice([0.0, 1.6, 2.4])) if main else 0.0,
            parking=bool(rng.random() < (0.35 if main else 0.65)),
            sidewalk=float(rng.uniform(2.8, 4.6)),
            verge=float(rng.uniform(1.2, 2.0)) if rng.random() < 0.4 else 0.0,
            speed=float((14.0 if main else 10.0) + 3.5 * pace[axis, line]),
            axis=axis,
            guard=bool(rng.random() < 0.28),
        )
        works = rng.random(4)
        if works[0] < 0.42:
            low = road.length * (0.33 + 0.15 * works[1])
            high = min(low + 16.0 + 14.0 * works[2], 0.68 * road.length)
            road.works = (int(works[3] < 0.5), round(low, 2), round(high, 2))
        if k not in gone:
            roads.append(road)

    degree = np.bincount(np.array([(r.a, r.b) for r in roads]).ravel(), minlength=size * size)
    reach = np.zeros(size * size)
    for road in roads:
        for node in (road.a, road.b):
            reach[node] = max(reach[node], road.half_width)
    reach = 1.12 * reach + np.where(degree > 2, 5.5, 4.0)
    for road in roads:
        road.trim = (float(reach[road.a]), float(reach[road.b]))
    signals = np.zeros((size * size, 4))
    signals[:, 0] = (degree > 2) & (rng.random(size * size) < 0.22)
    signals[:, 1:3] = rng.uniform(20.0, 40.0, (size * size, 2))
    signals[:, 3] = rng.uniform(0.0, 80.0, size * size)

    mood = draw_mood(rng)
    blocks = []
    for i in range(size - 1):
        for j in range(size - 1):
            ring = [i * size + j, (i + 1) * size + j, (i + 1) * size + j + 1, i * size + j + 1]
            blocks.append((nodes[ring], int(rng.choice(4, p=mood))))
    town = Town(nodes, roads, blocks, draw_hills(rng), np.round(signals, 3))
    town.paths = _lay_paths(town)
    return town


class _PathList:
    """Collects paths one by one and flattens them."""

    def __init__(self):
        self.rows: list[dict] = []

    def add(self, points, kind, **row) -> int:
        base = dict(road=-1, node=-1, group=0, speed=10.0, source=-1, left=-1, right=-1)
        base |= dict(offset=0.0, forward=1, block=(np.inf, -np.inf), opposite=-1, next=[])
        # Agents live on these points for seconds: rounding heals last-bit differences of libms.
        points = np.round(resample(np.asarray(points), 1.0), 4)
        length = float(np.hypot(*np.diff(points, axis=0).T).sum())
        self.rows.append(base | dict(points=points, kind=kind, length=round(length, 4)) | row)
        return len(self.rows) - 1

    def flatten(self) -> Paths:
        rows = self.rows
        start = np.concatenate([[0], np.cumsum([len(r["points"]) for r in rows])])
        xy = np.concatenate([r["points"] for r in rows])
        rivals = self._rivals(xy, start)

        def column(name, dtype):
            return np.array([r[name] for r in rows], dtype)

        def ragged(lists):
            ids = np.array([i for one in lists for i in one], np.int64)
            return np.concatenate([[0], np.cumsum([len(one) for one in lists])]), ids

        return Paths(
            xy,
            start,
            column("length", np.float64),
            column("kind", np.int64),
            column("road", np.int64),
            column("node", np.int64),
            column("group", np.int64),
            column("speed", np.float64),
            column("source", np.int64),
            *ragged([r["next"] for r in rows]),
            *ragged(rivals),
            column("left", np.int64),
            column("right", np.int64),
            column("offset", np.float64),
            column("forward", np.int64),
            column("block", np.float64),
            column("opposite", np.int64),
        )

    def _rivals(self, xy, start) -> list[list[int]]:
        """Connectors of one junction that may not be used at the same time."""
        rivals: list[list[int]] = [[] for _ in self.rows]
        by_node: dict[int, list[int]] = {}
        for p, row in enumerate(self.rows):
            if row["kind"] in (CONNECTOR, CYCLE_CONNECTOR):
                by_node.setdefault(row["node"], []).append(p)
        for group in by_node.values():
            for n, p in enumerate(group):
                for q in group[n + 1 :]:
                    one, two = self.rows[p], self.rows[q]
                    if one["source"] == two["source"]:
                        continue
                    cycles = (one["kind"] == CYCLE_CONNECTOR) + (two["kind"] == CYCLE_CONNECTOR)
                    gap = (3.1, 2.4, 1.3)[cycles]
                    if _close(xy, start[p], start[p + 1], start[q], start[q + 1], gap):
                        rivals[p].append(q)
                        rivals[q].append(p)
        return rivals


def _lay_paths(town: Town) -> Paths:
    paths = _PathList()
    incoming: dict[int, list[int]] = {}
    outgoing: dict[int, list[int]] = {}
    walk_ends: dict[tuple[int, int, int], dict[str, int]] = {}
    for number, road in enumerate(town.roads):
        low, high = road.trim[0], road.length - road.trim[1]
        middle = cut(road.points, low, high)
        for forward in (1, 0):
            line = middle if forward else middle[::-1]
            node = road.b if forward else road.a
            origin = road.a if forward else road.b
            common = dict(road=number, node=node, group=road.axis, forward=forward)
            works = (np.inf, -np.inf)
            if road.works and (road.works[0] == 0) == bool(forward):
                works = (road.works[1] - low, road.works[2] - low)
                if not forward:
                    works = (high - road.works[2], high - road.works[1])
            sign = -1 if forward else 1
            ids = []
            for lane in range(road.lanes):
                off = road.median / 2 + (lane + 0.5) * LANE_WIDTH
                closed = road.lanes == 2 and lane == 1
                ids.append(
                    paths.add(
                        shifted(line, -off),
                        LANE,
                        speed=road.speed,
                        offset=sign * off,
                        block=works if closed else (np.inf, -np.inf),
                        **common,
                    )
                )
            for lane, p in enumerate(ids):
                paths.rows[p]["left"] = ids[lane - 1] if lane > 0 else -1
                paths.rows[p]["right"] = ids[lane + 1] if lane + 1 < len(ids) else -1
            incoming.setdefault(node, []).extend(ids)
            outgoing.setdefault(origin, []).extend(ids)
            off = road.median / 2 + road.lanes * LANE_WIDTH + CYCLE_WIDTH / 2
            shut = road.works is not None and (road.works[0] == 0) == bool(forward)
            p = paths.add(
                shifted(line, -off),
                CYCLE,
                speed=6.0,
                offset=sign * off,
                block=works if shut else (np.inf, -np.inf),
                **common,
            )
            incoming.setdefault(node, []).append(p)
            outgoing.setdefault(origin, []).append(p)
        # Footpaths: both sides, both directions; at a node they are found by (road, end, side).
        off = road.half_width + road.verge + min(1.7, road.sidewalk / 2)
        for side, sign in ((0, -1.0), (1, 1.0)):
            line = shifted(middle, sign * off)
            shut = road.works is not None and road.works[0] == side and not road.parking
            for forward in (1, 0):
                span = (road.works[1] - low, road.works[2] - low) if shut else (np.inf, -np.inf)
                p = paths.add(
                    line if forward else line[::-1],
                    WALK,
                    road=number,
                    node=road.b if forward else road.a,
                    group=road.axis,
                    offset=sign * off,
                    forward=forward,
                    block=span,
                )
                walk_ends.setdefault((number, forward, side), {})["out"] = p
                walk_ends.setdefault((number, 1 - forward, side), {})["in"] = p
        for forward in (1, 0):
            pair = [
                next(
                    p
                    for p, r in enumerate(paths.rows)
                    if r["kind"] == WALK
                    and r["road"] == number
                    and r["forward"] == forward
                    and np.sign(r["offset"]) == sign
                )
                for sign in (-1, 1)
            ]
            paths.rows[pair[0]]["opposite"], paths.rows[pair[1]]["opposite"] = pair[1], pair[0]
    _connect_lanes(paths, town, incoming, outgoing)
    _connect_walks(paths, town, walk_ends)
    return paths.flatten()


def _connect_lanes(paths, town, incoming, outgoing) -> None:
    for node in range(len(town.nodes)):
        streets = {paths.rows[q]["road"] for q in outgoing.get(node, [])}
        for p in incoming.get(node, []):
            source = paths.rows[p]
            for q in outgoing.get(node, []):
                target = paths.rows[q]
                if target["kind"] != source["kind"] or target["road"] == source["road"]:
                    continue
                a, b = source["points"], target["points"]
                d0, d1 = a[-1] - a[-2], b[1] - b[0]
                d0, d1 = d0 / np.hypot(*d0), d1 / np.hypot(*d1)
                turn = math.atan2(d0[0] * d1[1] - d0[1] * d1[0], float(d0 @ d1))
                if source["kind"] == LANE:
                    lanes_in = town.roads[source["road"]].lanes
                    lanes_out = town.roads[target["road"]].lanes
                    i = int(source["right"] == -1) if lanes_in == 2 else 0
                    o = int(target["right"] == -1) if lanes_out == 2 else 0
                    # Where two streets meet in a bend, each lane has its own way round.
                    if abs(turn) < 0.6 or len(streets) == 2:
                        fits = o == min(i, lanes_out - 1) or (lanes_in == 1 and o == 1)
                    elif turn > 0:
                        fits = i == 0 and o == 0
                    else:
                        fits = i == lanes_in - 1 and o == lanes_out - 1
                    if not fits:
                        continue
                reach = 0.39 * np.hypot(*(b[0] - a[-1]))
                t = np.linspace(0.0, 1.0, 25)[:, None]
                curve = (
                    (1 - t) ** 3 * a[-1]
                    + 3 * t * (1 - t) ** 2 * (a[-1] + reach * d0)
                    + 3 * t**2 * (1 - t) * (b[0] - reach * d1)
                    + t**3 * b[0]
                )
                slow = 4.6 if turn < -0.6 else 6.2
                speed = min(source["speed"], target["speed"]) if abs(turn) < 0.6 else slow
                kind = CONNECTOR if source["kind"] == LANE else CYCLE_CONNECTOR
                c = paths.add(curve, kind, node=node, group=source["group"], source=p, speed=speed)
                # Straight on is taken more often than a turn.
                source["next"] += [c] * (STRAIGHT if abs(turn) < 0.6 else 1)
                paths.rows[c]["next"].append(q)
            if source["kind"] == CYCLE:
                open_ = [
                    c
                    for c in source["next"]
                    if paths.rows[paths.rows[c]["next"][0]]["block"][0] == np.inf
                ]
                source["next"] = open_ or source["next"]


def _connect_walks(paths, town, ends) -> None:
    """Join footpaths round the corners: neighbours in angle about each junction."""
    for node in range(len(town.nodes)):
        spokes = []
        for number, road in enumerate(town.roads):
            for at_b, here in ((1, road.b), (0, road.a)):
                if here == node:
                    p = road.points[-3 if at_b else 2] - town.nodes[node]
                    spokes.append((math.atan2(p[1], p[0]), number, at_b))
        spokes.sort()
        for k, (_, road, at_b) in enumerate(spokes):
            _, other, other_at_b = spokes[(k + 1) % len(spokes)]
            # Seen from the node outward: the left side of a spoke meets the right of the next one.
            one = ends[road, at_b, 0 if at_b else 1]
            two = ends[other, other_at_b, 1 if other_at_b else 0]
            for src, dst in ((one["out"], two["in"]), (two["out"], one["in"])):
                a, b = paths.rows[src]["points"][-1], paths.rows[dst]["points"][0]
                c = paths.add(np.stack([a, b]), CORNER, node=node, source=src)
                paths.rows[src]["next"].append(c)
                paths.rows[c]["next"].append(dst)
