"""Traffic: car following, right of way, lane changes, cyclists, pedestrians, and the ego.

Longitudinal control is the intelligent driver model (Treiber, Hennecke, Helbing, 2000). Junctions
are shared by claims: a vehicle enters when its light is green, no rival connector is claimed and
its exit has room. Turns, sudden braking and crossings are drawn at random, so that the future
cannot be told from the past.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from occdistill.compiled import njit
from occdistill.world.agents import KIND, draw_size
from occdistill.world.town import CYCLE, LANE, WALK, Town, locate

STEP = 0.1
STEPS_PER_KEYFRAME = 5
WARM_UP = 200
CHANGE_TIME = 3.0
REAR_AXLE = 1.42
"""Metres from the ego car's centre back to its rear axle, the ego frame's origin."""
EGO_SIZE = (4.08, 1.73, 1.56)
SLOW = 7.0
"""Turns are driven more slowly than this, streets faster, m/s."""


def moved_ahead(pose: np.ndarray, metres: float) -> np.ndarray:
    """Poses x, y, yaw `(…, 3)`, so many metres further the way they head."""
    yaw = pose[..., 2]
    return pose + metres * np.stack([np.cos(yaw), np.sin(yaw), np.zeros(yaw.shape)], -1)


class Vehicles(NamedTuple):
    """State of all vehicles and cyclists; number 0 is the ego car."""

    route: np.ndarray
    prev: np.ndarray
    s: np.ndarray
    v: np.ndarray
    length: np.ndarray
    temper: np.ndarray
    old: np.ndarray
    side: np.ndarray
    timer: np.ndarray
    claim: np.ndarray
    brake: np.ndarray
    calm: np.ndarray
    drawn: np.ndarray
    choice: np.ndarray


class Laws(NamedTuple):
    """How people drive; calibrated on real drives, see docs/world.md."""

    accel: float = 1.2
    """Of a car that starts, m/s²."""
    brake: float = 0.8
    """Comfortable braking for others, for red and in sight of a bend, m/s²."""
    headway: float = 1.5
    """Seconds to the vehicle ahead."""
    pause: float = 150.0
    """Mean seconds between brakings for no reason that anybody else sees."""
    change: float = 60.0
    """Mean seconds between lane changes for no such reason."""


LAWS = Laws()


class Walkers(NamedTuple):
    """State of all pedestrians; mode: 0 walks, 1 waits to cross, 2 crosses, 3 stands."""

    path: np.ndarray
    s: np.ndarray
    lateral: np.ndarray
    speed: np.ndarray
    mode: np.ndarray
    cross: np.ndarray
    timer: np.ndarray


@dataclass
class Tracks:
    """Where everything that moves is at each keyframe.

    `ego` (K, 3) is the rear axle's x, y, yaw; `pose` (K, N, 3) the boxes' centres and yaw;
    `kind` (N,), `size` (N, 3) l, w, h; `speed` (K, N) m/s.
    """

    ego: np.ndarray
    pose: np.ndarray
    kind: np.ndarray
    size: np.ndarray
    speed: np.ndarray


@njit(cache=True)
def _snap(x):
    # Healing last-bit differences keeps the same seed's world the same on other machines.
    return math.floor(x * 1e6 + 0.5) / 1e6


@njit(cache=True)
def _extend(paths, cars, i, k):
    """Draw the k-th path of a route as a successor of the one before."""
    p = cars.route[i, k - 1]
    if p < 0 or paths.next_start[p] == paths.next_start[p + 1]:
        cars.route[i, k] = -1
        return
    first, count = paths.next_start[p], paths.next_start[p + 1] - paths.next_start[p]
    u = cars.choice[i, cars.drawn[i] % cars.choice.shape[1]]
    if count > 1:
        cars.drawn[i] += 1
    cars.route[i, k] = paths.next_ids[first + min(int(u * count), count - 1)]


@njit(cache=True)
def _green(signals, node, group, time):
    """Seconds of green left for a group (0: red); a junction without lights is always green."""
    if signals[node, 0] == 0.0:
        return 99.0
    clear = 2.0
    cycle = signals[node, 1] + signals[node, 2] + 2 * clear
    t = (time + signals[node, 3]) % cycle
    if group == 1:
        t = (t - signals[node, 1] - clear) % cycle
        return max(signals[node, 2] - t, 0.0)
    return max(signals[node, 1] - t, 0.0)


@njit(cache=True)
def _major(paths, p, c):
    """Whether connector c leads straight on from lane p, and no faster street crosses it."""
    if paths.speed[c] < SLOW:
        return False
    for k in range(paths.rival_start[c], paths.rival_start[c + 1]):
        r = paths.rival_ids[k]
        o = paths.source[r]
        crosses = paths.speed[r] > SLOW and paths.group[o] != paths.group[p]
        if crosses and paths.speed[o] > paths.speed[p]:
            return False
    return True


@njit(cache=True)
def _may_enter(paths, signals, cars, claims, i, time, left):
    """Whether vehicle i may claim the connector that begins `left` metres ahead of it."""
    p, c, q = cars.route[i, 0], cars.route[i, 1], cars.route[i, 2]
    arrival = max(left, 0.0) / max(cars.v[i], 3.0)
    if _green(signals, paths.node[p], paths.group[p], time) < max(0.6, arrival - 1.0):
        return False
    for k in range(paths.rival_start[c], paths.rival_start[c + 1]):
        if claims[paths.rival_ids[k]] > 0:
            return False
    for j in range(len(cars.s)):
        if j == i:
            continue
        if cars.route[j, 0] == p and cars.s[j] > cars.s[i] and cars.claim[j] < 0:
            return False  # one who waits must not hold up those for whom he waits
        if cars.route[j, 0] == q or cars.old[j] == q:
            if cars.s[j] - cars.length[j] / 2 < cars.length[i] + 2.0 and cars.v[j] < 2.5:
                return False
        elif cars.claim[j] >= 0 and cars.v[j] < 1.5:
            inside = cars.route[j, 1] == q
            bound = cars.route[j, 2] == q and cars.claim[j] == cars.route[j, 1]
            if inside or bound:
                return False
        # Give way to those who come straight at a turning car and will be there soon.
        o, into = cars.route[j, 0], cars.route[j, 1]
        comes = cars.claim[j] < 0 and o != p and cars.v[j] > 3.0 and into >= 0
        if comes and paths.node[o] == paths.node[p] and paths.speed[into] > SLOW:
            left = paths.length[o] - cars.s[j] - cars.length[j] / 2
            green = _green(signals, paths.node[o], paths.group[o], time) > 1.0
            if green and paths.speed[c] < SLOW and left < 3.0 * cars.v[j]:
                for k in range(paths.rival_start[c], paths.rival_start[c + 1]):
                    if paths.rival_ids[k] == into:
                        return False
    return True


@njit(cache=True)
def _leader(paths, cars, i):
    """Gap (metres) to the vehicle ahead on the route, and its speed."""
    best, speed = 1e9, 0.0
    p = cars.route[i, 0]
    half = cars.length[i] / 2
    for j in range(len(cars.s)):
        if j == i:
            continue
        here, back = cars.route[j, 0], cars.s[j] - cars.length[j] / 2
        offset = -cars.s[i]
        for k in range(4):
            q = cars.route[i, k]
            if q < 0 or offset > 80.0:
                break
            if here == q or (cars.old[j] == q and cars.timer[j] > 1.0):
                ahead = offset + cars.s[j]
                if ahead > 0.0 or (ahead == 0.0 and j < i):
                    gap = offset + back - half
                    if gap < best:
                        best, speed = gap, cars.v[j]
            offset += paths.length[q]
        if cars.timer[i] > 1.0 and here == cars.old[i] and cars.s[j] > cars.s[i]:
            gap = back - cars.s[i] - half
            if gap < best:
                best, speed = gap, cars.v[j]
        # Tails of those who take another way out of the same lane.
        tail_path, tail = here, back
        if paths.source[here] < 0 and cars.prev[j] >= 0 and back < 0.0:
            tail_path, tail = cars.prev[j], back + paths.length[cars.prev[j]]
        if paths.source[tail_path] >= 0:
            if paths.source[tail_path] == p and tail < 3.0:
                gap = paths.length[p] + tail - cars.s[i] - half
                if gap < best:
                    best, speed = gap, cars.v[j]
            elif paths.source[p] == paths.source[tail_path] and tail_path != p and tail < 6.0:
                gap = tail - cars.s[i] - half
                if tail + cars.length[j] / 2 > cars.s[i] and gap < best:
                    best, speed = gap, cars.v[j]
    return best, speed


@njit(cache=True)
def _crossing_s(paths, walkers, w, lane):
    """Where walker w's way over the road meets a lane, metres along the lane."""
    path = walkers.path[w]
    f = walkers.s[w] / paths.length[path]
    if paths.forward[path] != paths.forward[lane]:
        f = 1.0 - f
    return f * paths.length[lane]


@njit(cache=True)
def _walker_gap(paths, cars, walkers, i):
    """Gap to the nearest pedestrian on or about to enter vehicle i's lane."""
    best = 1e9
    offset = -cars.s[i]
    for k in range(3):
        q = cars.route[i, k]
        if q < 0 or offset > 60.0:
            break
        if paths.kind[q] == LANE or paths.kind[q] == CYCLE:
            for w in range(len(walkers.s)):
                path = walkers.path[w]
                if walkers.mode[w] != 2 or paths.road[path] != paths.road[q]:
                    continue
                gap = offset + _crossing_s(paths, walkers, w, q) - cars.length[i] / 2 - 1.3
                if gap < -0.8 or gap > best:
                    continue
                y0, y1 = paths.offset[path], paths.offset[paths.opposite[path]]
                y = y0 + (y1 - y0) * walkers.cross[w]
                away = (paths.offset[q] - y) * (1.0 if y1 > y0 else -1.0)
                if -2.2 < away < 2.2 + 2.5 * walkers.speed[w]:
                    best = gap
        offset += paths.length[q]
    return best


@njit(cache=True)
def _try_change(paths, cars, i, must):
    """Move vehicle i to a free neighbouring lane; True if it did."""
    p = cars.route[i, 0]
    for side in (1, -1):
        q = paths.left[p] if side == 1 else paths.right[p]
        if q < 0:
            continue
        ratio = paths.length[q] / paths.length[p]
        s = cars.s[i] * ratio
        if paths.block[q, 0] < s + 90.0 and s < paths.block[q, 1] + 12.0:
            continue
        free = True
        for j in range(len(cars.s)):
            if j == i:
                continue
            offset = 0.0
            for k in range(3):
                r = cars.route[j, k]
                if r < 0:
                    break
                if r == q or (k == 0 and cars.old[j] == q):
                    ahead = cars.s[j] - offset - s
                    gap = abs(ahead) - (cars.length[i] + cars.length[j]) / 2
                    if ahead > 0:
                        need = 3.0 + 0.4 * cars.v[i] + 2.0 * max(cars.v[i] - cars.v[j], 0.0)
                    else:
                        need = 4.0 + 1.2 * cars.v[j] * (0.7 if must else 1.0)
                    if gap < need:
                        free = False
                offset += paths.length[r]
        if free:
            cars.old[i] = p
            cars.side[i] = -side
            cars.timer[i] = CHANGE_TIME
            cars.route[i, 0] = q
            cars.s[i] = s
            for k in range(1, 4):
                _extend(paths, cars, i, k)
            return True
    return False


@njit(cache=True)
def _drive(paths, signals, cars, walkers, claims, time, chance, laws):
    """One step of every vehicle; `chance` (N, 2) uniform numbers."""
    for i in range(len(cars.s)):
        p, half = cars.route[i, 0], cars.length[i] / 2
        v, s = cars.v[i], cars.s[i]
        wish = paths.speed[p] * cars.temper[i]
        gap, lead = _leader(paths, cars, i)
        close = _walker_gap(paths, cars, walkers, i)
        if close < gap:
            gap, lead = close, 0.0
        offset = -s
        for k in range(4):
            q = cars.route[i, k]
            if q < 0:
                if offset - half < gap:
                    gap, lead = offset - half, 0.0
                break
            if k > 0:
                slow = paths.speed[q] * cars.temper[i]
                ahead = max(offset - half, 0.0)
                wish = min(wish, math.sqrt(slow * slow + 2.0 * laws.brake * ahead))
            if paths.block[q, 0] - 13.0 + offset - half < gap and offset + paths.block[q, 1] > 0.0:
                gap, lead = paths.block[q, 0] - 13.0 + offset - half, 0.0
            offset += paths.length[q]
        c = cars.route[i, 1]
        if c >= 0 and (paths.kind[p] == LANE or paths.kind[p] == CYCLE) and cars.claim[i] != c:
            left = paths.length[p] - 4.0 - s - half
            rivals = paths.rival_start[c + 1] > paths.rival_start[c]
            looks = rivals and signals[paths.node[p], 0] == 0.0 and not _major(paths, p, c)
            if looks:
                wish = min(wish, math.sqrt(25.0 + 2.0 * laws.brake * max(left, 0.0)))
            # From where one stops with comfort: nobody brakes for a junction that is free.
            reach = v * v / (2.0 * laws.brake) + laws.headway * v + 8.0
            near = left < (14.0 if looks else reach)
            asks = near and cars.timer[i] < 0.5 and cars.claim[i] < 0
            if asks and _may_enter(paths, signals, cars, claims, i, time, left):
                cars.claim[i] = c
                claims[c] += 1
            if cars.claim[i] != c and left < reach and left + 1.6 < gap:
                gap, lead = max(left + 1.6, 0.05), 0.0
        if cars.brake[i] > 0.0:
            cars.brake[i] -= STEP
            wish *= cars.calm[i]
        elif chance[i, 0] < STEP / laws.pause:
            cars.brake[i] = 1.5 + 3.0 * chance[i, 1]
            cars.calm[i] = 0.0 if chance[i, 1] < 0.3 else 0.45
        if paths.kind[p] == LANE and cars.timer[i] <= 0.0 and s > half + 6.0:
            ahead = paths.length[p] - s - half
            blocked = s + half < paths.block[p, 0] and paths.block[p, 0] - s < 70.0
            bored = gap < 25.0 and lead < wish - 2.0 and chance[i, 1] < 0.08
            wants = ahead > 34.0 and (blocked or bored or chance[i, 1] < STEP / laws.change)
            if wants and _try_change(paths, cars, i, blocked):
                s, p = cars.s[i], cars.route[i, 0]
        agile = 1.0 if paths.kind[p] >= CYCLE else laws.accel * (2.0 * cars.temper[i] - 1.0)
        if v <= wish:
            accel = agile * (1.0 - (v / max(wish, 0.1)) ** 4)
        else:
            accel = -min(2.0, 0.1 + 1.0 * (v - wish))
        if gap < 100.0:
            braking = v * (v - lead) / (2.0 * math.sqrt(agile * laws.brake))
            room = 1.8 + max(0.0, v * laws.headway + braking)
            accel = min(accel, agile * (1.0 - (room / max(gap, 0.1)) ** 2))
        accel = max(accel, -7.0)
        new = max(0.0, v + accel * STEP)
        if new * STEP > gap - 0.4:
            new = max(0.0, min(new, (gap - 0.4) / STEP))
        cars.v[i] = _snap(new)
        s = _snap(s + new * STEP)
        if cars.timer[i] > 0.0:
            cars.timer[i] = _snap(max(0.0, cars.timer[i] - STEP * min(1.0, new / 4.5)))
            if cars.timer[i] <= 0.0:
                cars.old[i] = -1
        if s > paths.length[p] and cars.route[i, 1] >= 0:
            s -= paths.length[p]
            cars.prev[i] = p
            for k in range(3):
                cars.route[i, k] = cars.route[i, k + 1]
            _extend(paths, cars, i, 3)
            cars.old[i] = -1
        cars.s[i] = _snap(s)
        p = cars.route[i, 0]
        if cars.claim[i] >= 0 and cars.prev[i] == cars.claim[i] and cars.s[i] - half > 0.3:
            claims[cars.claim[i]] -= 1
            cars.claim[i] = -1


@njit(cache=True)
def _may_cross(paths, signals, cars, walkers, w, time):
    path = walkers.path[w]
    if walkers.s[w] > paths.length[path] - 3.0:
        node = paths.node[path]
        if signals[node, 0] > 0.0 and _green(signals, node, paths.group[path], time) > 0.0:
            return False
    for i in range(len(cars.s)):
        offset = -cars.s[i]
        for k in range(3):
            q = cars.route[i, k]
            if q < 0 or offset > 60.0:
                break
            if paths.road[q] == paths.road[path]:
                ahead = offset + _crossing_s(paths, walkers, w, q)
                half = cars.length[i] / 2
                gap = ahead - half - 1.3
                if -half - 2.0 < ahead < half + 2.0:
                    return False
                v = cars.v[i]
                if ahead > 0 and gap < v * v / 2.0 + (4.0 if v > 0.3 else 0.3):
                    return False
            offset += paths.length[q]
    return True


@njit(cache=True)
def _walk(paths, signals, cars, walkers, time, chance):
    """One step of every pedestrian; `chance` (N, 2) uniform numbers."""
    for w in range(len(walkers.s)):
        path = walkers.path[w]
        mode = walkers.mode[w]
        if walkers.timer[w] > 0.0:
            walkers.timer[w] -= STEP
        if mode == 3:
            if walkers.timer[w] <= 0.0:
                walkers.mode[w] = 0
                walkers.timer[w] = 8.0
            continue
        if mode == 2:
            width = abs(paths.offset[path] - paths.offset[paths.opposite[path]])
            walkers.cross[w] = _snap(walkers.cross[w] + 1.15 * walkers.speed[w] * STEP / width)
            if walkers.cross[w] >= 1.0:
                ratio = paths.length[paths.opposite[path]] / paths.length[path]
                walkers.path[w] = paths.opposite[path]
                walkers.s[w] = _snap(walkers.s[w] * ratio)
                walkers.cross[w] = 0.0
                walkers.mode[w] = 0
                walkers.timer[w] = 12.0
            continue
        if mode == 1:
            if _may_cross(paths, signals, cars, walkers, w, time):
                walkers.mode[w] = 2
            elif walkers.timer[w] <= 0.0:
                walkers.mode[w] = 0
                walkers.timer[w] = 10.0
            continue
        speed = walkers.speed[w]
        s = walkers.s[w]
        for u in range(len(walkers.s)):
            if u != w and walkers.path[u] == path and walkers.mode[u] != 2:
                ahead = walkers.s[u] - s
                beside = abs(walkers.lateral[u] - walkers.lateral[w]) >= 0.75
                if 0.0 <= ahead < 1.0 and not beside and (ahead > 0.0 or u < w):
                    speed = 0.0
        if paths.block[path, 0] - 2.5 < s + 1.0 and s < paths.block[path, 0]:
            speed = 0.0
            if walkers.timer[w] <= 0.0:
                walkers.mode[w] = 1
                walkers.timer[w] = 9.0
        if paths.kind[path] == WALK and walkers.timer[w] <= 0.0:
            end = paths.length[path] - s
            if (end < 0.8 and chance[w, 0] < 0.10) or (
                s > 9.0 and end > 14.0 and chance[w, 0] < STEP * 0.02
            ):
                walkers.mode[w] = 1
                walkers.timer[w] = 7.0
            elif chance[w, 0] > 1.0 - STEP / 70.0:
                walkers.mode[w] = 3
                walkers.timer[w] = 2.0 + 6.0 * chance[w, 1]
        s = _snap(s + speed * STEP)
        if s > paths.length[path]:
            first = paths.next_start[path]
            if first == paths.next_start[path + 1]:
                s = paths.length[path]
            else:
                s -= paths.length[path]
                walkers.path[w] = paths.next_ids[first]
        walkers.s[w] = _snap(s)


@njit(cache=True)
def _route_point(paths, cars, i, s):
    p = cars.route[i, 0]
    if s < 0.0 and cars.prev[i] >= 0:
        q = cars.prev[i]
        return locate(paths, q, max(paths.length[q] + s, 0.0))
    for k in range(3):
        q = cars.route[i, k]
        if s <= paths.length[q] or cars.route[i, k + 1] < 0:
            return locate(paths, q, s)
        s -= paths.length[q]
    return locate(paths, p, s)


@njit(cache=True)
def vehicle_pose(paths, cars, i, shift, length):
    """Centre and yaw of a body of `length` that sits `shift` metres ahead of vehicle i's centre."""
    s = cars.s[i] + shift
    reach = 0.3 * length
    ax, ay = _route_point(paths, cars, i, s - reach)
    bx, by = _route_point(paths, cars, i, s + reach)
    yaw = math.atan2(by - ay, bx - ax)
    x, y = (ax + bx) / 2, (ay + by) / 2
    if cars.timer[i] > 0.0:
        u = cars.timer[i] / CHANGE_TIME
        aside = 3.4 * cars.side[i] * u * u * (3.0 - 2.0 * u)
        x -= math.sin(yaw) * aside
        y += math.cos(yaw) * aside
        slope = -3.4 * cars.side[i] * 6.0 * u * (1.0 - u) / CHANGE_TIME
        yaw += math.atan2(slope, max(cars.v[i], 4.5))
    return x, y, yaw


@njit(cache=True)
def walker_pose(paths, walkers, w):
    """Position and yaw of a pedestrian."""
    path, s = walkers.path[w], walkers.s[w]
    ax, ay = locate(paths, path, s - 0.3)
    bx, by = locate(paths, path, s + 0.3)
    yaw = math.atan2(by - ay, bx - ax)
    x = (ax + bx) / 2 - math.sin(yaw) * walkers.lateral[w]
    y = (ay + by) / 2 + math.cos(yaw) * walkers.lateral[w]
    if walkers.mode[w] == 2:
        other = paths.opposite[path]
        t = s * paths.length[other] / paths.length[path]
        cx, cy = locate(paths, other, t)
        cx -= math.sin(yaw) * walkers.lateral[w]
        cy += math.cos(yaw) * walkers.lateral[w]
        yaw = math.atan2(cy - y, cx - x)
        x += (cx - x) * walkers.cross[w]
        y += (cy - y) * walkers.cross[w]
    return x, y, yaw


@njit(cache=True)
def _run(paths, signals, cars, walkers, bodies, chance, chance_walk, keyframes, laws, out, speeds):
    """Simulate; bodies (M, 3): vehicle, shift, length. out (K, M + walkers, 3)."""
    claims = np.zeros(len(paths.length), np.int64)
    step = 0
    for k in range(keyframes):
        for _ in range(WARM_UP if k == 0 else STEPS_PER_KEYFRAME):
            _drive(paths, signals, cars, walkers, claims, step * STEP, chance[step], laws)
            _walk(paths, signals, cars, walkers, step * STEP, chance_walk[step])
            step += 1
        for b in range(len(bodies)):
            i = int(bodies[b, 0])
            out[k, b] = vehicle_pose(paths, cars, i, bodies[b, 1], bodies[b, 2])
            speeds[k, b] = cars.v[i]
        for w in range(len(walkers.s)):
            out[k, len(bodies) + w] = walker_pose(paths, walkers, w)
            moving = walkers.mode[w] == 0 or walkers.mode[w] == 2
            speeds[k, len(bodies) + w] = walkers.speed[w] if moving else 0.0


def _populate(town: Town, rng: np.random.Generator) -> tuple[Vehicles, list[tuple], list]:
    """Put vehicles on lanes with room between them; the ego car on a lane near the centre."""
    paths = town.paths
    lanes = np.flatnonzero((paths.kind == LANE) | (paths.kind == CYCLE))
    middle = np.array([paths.xy[paths.start[p] : paths.start[p + 1]].mean(0) for p in lanes])
    central = [
        p
        for p, m in zip(lanes, middle)
        if paths.kind[p] == LANE and np.hypot(*m) < 200.0 and paths.block[p, 0] == np.inf
    ]
    home = int(rng.choice(central))
    rows, bodies, sizes = [], [], []

    def put(p, s, names):
        dims = [
            np.array(EGO_SIZE) if name == "ego" else draw_size(KIND[name], rng) for name in names
        ]
        total = sum(d[0] for d in dims) + 0.9 * (len(dims) - 1)
        front = total / 2
        for name, d in zip(names, dims):
            bodies.append((len(rows), front - d[0] / 2, d[0]))
            sizes.append((KIND["car"] if name == "ego" else KIND[name], d))
            front -= d[0] + 0.9
        rows.append((p, s, total, float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.25))))

    put(home, round(float(rng.uniform(0.2, 0.6) * paths.length[home]), 3), ["ego"])
    kinds = ["car", "van", "truck", "bus", "semi", "construction_vehicle", "motorcycle"]
    share = np.array([0.49, 0.07, 0.09, 0.11, 0.07, 0.06, 0.11])
    for p in lanes:
        cycle = paths.kind[p] == CYCLE
        s = float(rng.exponential(60.0 if cycle else 10.0)) + 9.5
        while s < paths.length[p] - 14.0:
            name = "bicycle" if cycle else kinds[int(rng.choice(7, p=share))]
            near = p == home and abs(s - rows[0][1]) < 22.0
            shut = paths.block[p, 0] - 40.0 < s < paths.block[p, 1] + 20.0
            if not near and not shut:
                put(p, round(s, 3), ["tractor", "trailer"] if name == "semi" else [name])
            s += 26.0 + float(rng.exponential(140.0 if cycle else 50.0))
    n = len(rows)
    speed = np.array([paths.speed[r[0]] for r in rows])
    cars = Vehicles(
        route=np.full((n, 4), -1, np.int64),
        prev=np.full(n, -1, np.int64),
        s=np.array([r[1] for r in rows]),
        v=np.round(speed * rng.uniform(0.5, 0.9, n), 6),
        length=np.array([r[2] for r in rows]),
        temper=np.round(np.array([r[3] for r in rows]), 6),
        old=np.full(n, -1, np.int64),
        side=np.zeros(n),
        timer=np.zeros(n),
        claim=np.full(n, -1, np.int64),
        brake=np.zeros(n),
        calm=np.zeros(n),
        drawn=np.zeros(n, np.int64),
        choice=rng.random((n, 64)),
    )
    cars.route[:, 0] = [r[0] for r in rows]
    for i in range(n):
        for k in range(1, 4):
            _extend(paths, cars, i, k)
    return cars, bodies, sizes


def _people(town: Town, rng: np.random.Generator) -> tuple[Walkers, list]:
    paths = town.paths
    rows, sizes = [], []
    for p in np.flatnonzero(paths.kind == WALK):
        s = float(rng.exponential(18.0)) + 1.0
        while s < paths.length[p] - 2.0:
            if not paths.block[p, 0] - 3.0 < s < paths.block[p, 1] + 3.0:
                pair = 2 if rng.random() < 0.3 else 1
                pace = round(float(np.clip(rng.normal(1.3, 0.2), 0.8, 1.9)), 4)
                for k in range(pair):
                    lateral = -0.3 - 0.8 * k if pair == 2 else -float(rng.uniform(0.1, 1.1))
                    rows.append((p, round(s, 3), round(lateral, 4), pace))
                    child = k == 1 and rng.random() < 0.4
                    kind = KIND["child" if child else "adult"]
                    sizes.append((kind, draw_size(kind, rng)))
            s += 3.0 + float(rng.exponential(52.0))
    n = len(rows)
    walkers = Walkers(
        path=np.array([r[0] for r in rows], np.int64),
        s=np.array([r[1] for r in rows]),
        lateral=np.array([r[2] for r in rows]),
        speed=np.array([r[3] for r in rows]),
        mode=np.zeros(n, np.int64),
        cross=np.zeros(n),
        timer=np.round(rng.uniform(0.0, 10.0, n), 4),
    )
    return walkers, sizes


def simulate(town: Town, rng: np.random.Generator, keyframes: int, laws: Laws = LAWS) -> Tracks:
    """Drive and walk about the town for `keyframes` keyframes of 0.5 s, after a warm-up."""
    cars, bodies, sizes = _populate(town, rng)
    walkers, people = _people(town, rng)
    steps = WARM_UP + STEPS_PER_KEYFRAME * keyframes
    chance = rng.random((steps, len(cars.s), 2))
    chance_walk = rng.random((steps, len(walkers.s), 2))
    total = len(bodies) + len(people)
    pose, speed = np.zeros((keyframes, total, 3)), np.zeros((keyframes, total))
    _run(
        town.paths,
        town.signals,
        cars,
        walkers,
        np.array(bodies),
        chance,
        chance_walk,
        keyframes,
        laws,
        pose,
        speed,
    )
    ego = moved_ahead(pose[:, 0], -REAR_AXLE)
    kind = np.array([k for k, _ in sizes + people])
    size = np.array([d for _, d in sizes + people])
    return Tracks(
        np.round(ego, 5), np.round(pose[:, 1:], 5), kind[1:], size[1:], np.round(speed[:, 1:], 4)
    )
