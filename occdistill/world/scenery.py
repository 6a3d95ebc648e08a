"""What lines the streets: buildings, gardens, trees, lamps, signs, parked vehicles, road works."""

import math

import numpy as np

from occdistill.world.agents import StreetObjects
from occdistill.world.columns import (
    CELL,
    EMPTY,
    Columns,
    bilinear,
    empty_columns,
    near_segments,
    paint_box,
    paint_ground,
    stamp_box,
    stamp_crown,
    stamp_disc,
)
from occdistill.world.town import LANE_WIDTH, Road, Town

ROAD, FLAT, PAVEMENT, TERRAIN, MANMADE, GREEN, OTHERS = 11, 12, 13, 14, 15, 16, 0
CENTRE, HOUSES, PARK, COMMERCIAL, OUTSKIRTS = range(5)
MARGIN = 74.0
"""Metres around the ego car's way that are built."""


class Street:
    """Road coordinates: metres from junction a, metres to the left of the centreline."""

    def __init__(self, road: Road):
        self.road = road
        step = np.hypot(*np.diff(road.points, axis=0).T)
        self.s = np.concatenate([[0.0], np.cumsum(step)])

    def at(self, s: float, left: float) -> tuple[float, float, float]:
        """Point and heading (radians)."""
        p = self.road.points
        k = int(np.clip(np.searchsorted(self.s, s) - 1, 0, len(p) - 2))
        d = p[k + 1] - p[k]
        length = math.hypot(*d)
        d = d / length
        q = p[k] + d * (s - self.s[k])
        return q[0] - d[1] * left, q[1] + d[0] * left, math.atan2(d[1], d[0])


class Scenery:
    """Builds the columns and the standing objects of the part of a town around a route."""

    def __init__(self, town: Town, low: np.ndarray, high: np.ndarray, rng: np.random.Generator):
        self.town, self.rng = town, rng
        self.columns: Columns = empty_columns(low, high, town.hills)
        self.objects = StreetObjects(rng)
        self.origin = self.columns.origin - 2.0
        size = np.array(self.columns.ground.shape) * CELL
        self.shape = tuple(np.ceil(size).astype(int) + 5)
        self.keep = np.zeros(self.shape, bool)
        self.salt = 0
        self._survey()
        self.taken = self.keep.copy()
        self._paint()
        order = [r for r in town.roads if self._inside(r)]
        streets = [Street(r) for r in order]
        for street in streets:
            if street.road.works:
                self._works(street)
        for street in streets:
            for side in street.road.sides:
                self._kerb(street, side)
                self._parking(street, side)
        self._signals()
        for street in streets:
            for side in street.road.sides:
                self._front(street, side)
        self._backyards()

    # --- plan -----------------------------------------------------------------------------

    def _inside(self, road: Road) -> bool:
        low = self.origin - 15.0
        high = self.origin + np.array(self.shape) + 15.0
        p = road.points
        return bool(((p > low) & (p < high)).all(1).any())

    def _survey(self) -> None:
        """Distance to the nearest kerb, nearest road and district of every square metre."""
        uncut = [np.full(self.shape, 99.0) for _ in range(2)]
        cut = [np.full(self.shape, 99.0) for _ in range(2)]
        nearest = np.full(self.shape, 99.0)
        self.road = np.full(self.shape, -1, np.int64)
        for number, road in enumerate(self.town.roads):
            if not self._inside(road):
                continue
            one = np.full(self.shape, 99.0)
            near_segments(road.points[::2].copy(), road.half_width, self.origin, one)
            np.minimum(uncut[road.axis], one, out=uncut[road.axis])
            self.road[one < nearest] = number
            np.minimum(nearest, one, out=nearest)
            short = np.full(self.shape, 99.0)
            near_segments(road.points[3:-3].copy(), road.half_width, self.origin, short)
            np.minimum(cut[road.axis], short, out=cut[road.axis])
        # Kerbs are rounded where two streets meet: a smooth minimum of the two directions.
        smooth = np.minimum(*cut) - 3.0 * np.log1p(np.exp(-np.abs(cut[0] - cut[1]) / 3.0))
        self.kerb = np.round(np.minimum(nearest, smooth), 3)
        self.district = np.full(self.shape, OUTSKIRTS, np.int64)
        x = self.origin[0] + np.arange(self.shape[0])[:, None]
        y = self.origin[1] + np.arange(self.shape[1])[None, :]
        for ring, kind in self.town.blocks:
            inside = np.ones(self.shape, bool)
            (ex, ey), (fx, fy) = ring[1] - ring[0], ring[2] - ring[1]
            sign = np.sign(ex * fy - ey * fx)
            for p, q in zip(ring, np.roll(ring, -1, axis=0)):
                e = q - p
                inside &= sign * (e[0] * (y - p[1]) - e[1] * (x - p[0])) >= 0
            self.district[inside] = kind
        if self.town.ground is not None:
            at = (self.origin - self.town.ground.origin).astype(int)
            part = tuple(slice(a, a + n) for a, n in zip(at, self.shape))
            self.kerb, self.district, self.keep = (f[part] for f in self.town.ground[1:])

    def _paint(self) -> None:
        roads = self.town.roads
        nodes = self.town.nodes
        paint_ground(
            self.columns,
            self.kerb,
            self.road,
            self.district,
            self.origin,
            np.array([r.verge for r in roads]),
            np.array([r.sidewalk for r in roads]),
            np.array([[*nodes[r.a], *nodes[r.b]] for r in roads]),
            np.array([r.trim for r in roads]),
        )
        for road in roads:
            if road.median and self._inside(road):
                self._median(Street(road))

    def _median(self, street: Street) -> None:
        road, rng = street.road, self.rng
        green = road.median > 2.0 and rng.random() < 0.6
        s = road.trim[0] + 1.0
        style = rng.random()
        while s < road.length - road.trim[1] - 1.0:
            x, y, yaw = street.at(s, 0.0)
            label = TERRAIN if green else FLAT
            paint_box(self.columns, x, y, yaw, 1.3, road.median - 0.2, label, EMPTY)
            if green and style < 0.5:
                high = 0.7 + 0.3 * rng.random()
                stamp_box(self.columns, x, y, yaw, 1.2, 0.9, 0.0, high, GREEN, 0.0)
            elif not green and style < 0.35:
                stamp_box(self.columns, x, y, yaw, 1.2, 0.25, 0.0, 0.9, MANMADE, 0.0)
            s += 1.0
        if green:
            for s in np.arange(road.trim[0] + 6.0, road.length - road.trim[1] - 5.0, 11.0):
                if rng.random() < 0.7:
                    self._tree(*street.at(s, 0.0)[:2], small=True)

    def clear(self, x: float, y: float) -> float:
        """Metres to the nearest kerb (negative on a road)."""
        return bilinear(self.kerb, self.origin, x, y)

    def _cell(self, x, y) -> tuple[int, int]:
        i = int(np.clip(round(x - self.origin[0]), 0, self.shape[0] - 1))
        j = int(np.clip(round(y - self.origin[1]), 0, self.shape[1] - 1))
        return i, j

    def _claim(self, x, y, yaw, length, width, kerb: float, keep: bool = True) -> bool:
        """Reserve a rectangle if all of it is free and at least `kerb` metres from any road."""
        nu, nv = max(2, int(length) + 1), max(2, int(width) + 1)
        u, v = np.meshgrid(
            np.linspace(-length / 2, length / 2, nu), np.linspace(-width / 2, width / 2, nv)
        )
        px = x + math.cos(yaw) * u - math.sin(yaw) * v
        py = y + math.sin(yaw) * u + math.cos(yaw) * v
        i = np.round(px - self.origin[0]).astype(int)
        j = np.round(py - self.origin[1]).astype(int)
        out = (i < 0) | (j < 0) | (i >= self.shape[0]) | (j >= self.shape[1])
        if out.all():
            return False
        i, j = i.clip(0, self.shape[0] - 1), j.clip(0, self.shape[1] - 1)
        if self.taken[i, j].any() or (self.kerb[i, j] < kerb).any():
            return False
        if keep:
            self.taken[i, j] = True
        return True

    # --- single things --------------------------------------------------------------------

    def _tree(self, x: float, y: float, small: bool = False) -> None:
        rng = self.rng
        self.salt += 2
        height = rng.uniform(3.6, 5.5) if small else rng.uniform(5.0, 10.0)
        radius = rng.uniform(0.9, 1.6) if small else rng.uniform(1.5, 3.2)
        bare = rng.uniform(1.7, 2.3) if small else rng.uniform(2.2, 3.4)
        trunk = rng.uniform(0.17, 0.32)
        if self.keep[self._cell(x, y)]:
            return
        stamp_disc(self.columns, x, y, trunk, 0.0, bare + 0.8, GREEN)
        middle, half = (height + bare) / 2, (height - bare) / 2
        stamp_crown(self.columns, x, y, radius, middle, half, GREEN, self.salt)

    def _bush(self, x: float, y: float) -> None:
        self.salt += 2
        radius = self.rng.uniform(0.5, 1.4)
        high = self.rng.uniform(0.5, 1.1)
        if self.keep[self._cell(x, y)]:
            return
        stamp_crown(self.columns, x, y, radius, high * 0.5, high * 0.6, GREEN, self.salt)

    def _pole(self, x: float, y: float, high: float, sign: bool, yaw: float = 0.0) -> None:
        wide = self.rng.uniform(0.5, 1.0) if sign else 0.0
        if self.keep[self._cell(x, y)]:
            return
        stamp_disc(self.columns, x, y, 0.17, 0.0, high, MANMADE)
        if sign:
            stamp_box(self.columns, x, y, yaw, 0.25, wide, high - 0.8, high, MANMADE, 0.0)

    def _building(self, x, y, yaw, length, width, high) -> None:
        """A hollow block whose street front (at -width / 2) has bays, steps and awnings."""
        rng, c = self.rng, self.columns
        stamp_box(c, x, y, yaw, length, width, 0.0, high, MANMADE, 0.4)
        left = -length / 2 + rng.uniform(0.5, 3.0)
        style = rng.random()
        while left < length / 2 - 2.0:
            span = rng.uniform(1.5, 4.5)
            u, v = left + span / 2, -width / 2 - 0.3
            px = x + math.cos(yaw) * u - math.sin(yaw) * v
            py = y + math.sin(yaw) * u + math.cos(yaw) * v
            if style < 0.35:
                stamp_box(c, px, py, yaw, span, 0.9, 2.8, min(high, 25.0), MANMADE, 0.0)
            elif style < 0.6:
                stamp_box(c, px, py, yaw, span, 1.4, 2.6, 3.0, MANMADE, 0.0)
            elif style < 0.8:
                stamp_box(c, px, py, yaw, 0.6, 0.8, 0.0, high, MANMADE, 0.0)
            left += span + rng.uniform(1.0, 5.0)

    # --- along the kerb -------------------------------------------------------------------

    def _kerb(self, street: Street, side: int) -> None:
        """Lamps, signs, street trees, bins, racks and rows of barriers on the pavement's edge."""
        road, rng = street.road, self.rng
        edge = road.half_width
        low, high = road.trim[0] + 1.0, road.length - road.trim[1] - 1.0
        works = road.works if road.works and (road.works[0] == 0) == (side < 0) else None

        def shut(s):
            return works is not None and works[1] - 6.0 < s < works[2] + 3.0

        step = rng.uniform(24.0, 32.0)
        for s in np.arange(low + rng.uniform(2.0, 12.0), high, step):
            x, y, yaw = street.at(s, side * (edge + 0.4))
            self._pole(x, y, rng.uniform(6.5, 8.0), False)
            ax, ay, _ = street.at(s, side * (edge - 0.6))
            stamp_box(self.columns, ax, ay, yaw, 0.3, 2.2, 6.6, 6.9, MANMADE, 0.0)
        for s in np.arange(low + rng.uniform(0.0, 10.0), high, rng.uniform(15.0, 40.0)):
            x, y, yaw = street.at(s + rng.uniform(-3.0, 3.0), side * (edge + 0.45))
            self._pole(x, y, rng.uniform(2.3, 3.2), True, yaw)
        if rng.random() < (0.85 if road.verge else 0.45):
            gap = rng.uniform(8.0, 15.0)
            small = rng.random() < 0.4
            for s in np.arange(low + rng.uniform(0.0, gap), high, gap):
                if rng.random() < 0.85 and not shut(s):
                    inset = road.verge / 2 if road.verge else 0.4
                    x, y, _ = street.at(s + rng.uniform(-1.0, 1.0), side * (edge + inset))
                    self._tree(x, y, small)
        elif road.verge and rng.random() < 0.6:
            for s in np.arange(low, high, 1.3):
                if rng.random() < 0.6:
                    self._bush(*street.at(s, side * (edge + road.verge / 2))[:2])
        outer = edge + road.verge + road.sidewalk
        for s in np.arange(low + rng.uniform(0.0, 20.0), high, rng.uniform(14.0, 34.0)):
            draw = rng.random()
            if shut(s):
                continue
            if draw < 0.40:
                for k in range(int(rng.integers(1, 4))):
                    x, y, yaw = street.at(s + 0.95 * k, side * (outer + 0.1))
                    self._stand("bin", x, y, yaw + rng.normal(0.0, 0.1))
            elif draw < 0.62:
                for k in range(int(rng.integers(3, 7))):
                    x, y, yaw = street.at(s + 0.8 * k, side * (outer + 0.2))
                    lean = yaw + math.pi / 2 + rng.normal(0.0, 0.08)
                    self._stand("bicycle_rack", x, y, lean)
            elif draw < 0.76:
                for k in range(int(rng.integers(1, 4))):
                    x, y, yaw = street.at(s + 1.2 * k, side * (outer + 0.25))
                    lean = yaw + math.pi / 2 + rng.normal(0.0, 0.1)
                    self._stand("parked_motorcycle", x, y, lean)
            elif draw < 0.84:
                self._shelter(street, s, side, outer)
            else:
                x, y, yaw = street.at(s, side * (outer + 0.1))
                stamp_box(self.columns, x, y, yaw, 1.8, 0.6, 0.0, 0.8, OTHERS, 0.0)
        if road.guard and not works:
            start = rng.uniform(low + 2.0, max(low + 3.0, high - 25.0))
            name = "barrier" if rng.random() < 0.6 else "cone"
            gap = 2.5 if name == "barrier" else 3.2
            inset = edge + (road.verge / 2 if road.verge else 0.35)
            for s in np.arange(start, min(start + rng.uniform(10.0, 30.0), high - 1.0), gap):
                x, y, yaw = street.at(s, side * inset)
                self._stand(name, x, y, yaw + math.pi / 2 + rng.normal(0.0, 0.03))

    def _stand(self, name: str, x: float, y: float, yaw: float) -> None:
        i, j = self._cell(x, y)
        if not self.taken[i, j]:
            self.objects.add(name, x, y, yaw)

    def _shelter(self, street: Street, s: float, side: int, outer: float) -> None:
        x, y, yaw = street.at(s, side * (outer + 0.9))
        if self._claim(x, y, yaw, 4.4, 1.6, 1.0):
            bx, by, _ = street.at(s, side * (outer + 1.6))
            stamp_box(self.columns, bx, by, yaw, 4.2, 0.3, 0.0, 2.4, MANMADE, 0.0)
            stamp_box(self.columns, x, y, yaw, 4.2, 1.6, 2.3, 2.6, MANMADE, 0.0)

    def _parking(self, street: Street, side: int) -> None:
        road, rng = street.road, self.rng
        if not road.parking:
            return
        full = rng.uniform(0.3, 0.95)
        s = road.trim[0] + rng.uniform(4.0, 7.0)
        works = road.works if road.works and (road.works[0] == 0) == (side < 0) else None
        while s < road.length - road.trim[1] - 6.0:
            name, span = "car", 6.1
            draw = rng.random()
            if draw < 0.10:
                name, span = "van", 6.7
            elif draw < 0.14:
                name, span = "truck", 9.6
            shut = works is not None and works[1] - 8.0 < s + span / 2 < works[2] + 7.0
            fits = s + span < road.length - road.trim[1] - 4.0
            if rng.random() < full and not shut and fits:
                left = side * (road.half_width - 1.12)
                x, y, yaw = street.at(s + span / 2, left)
                turned = math.pi if side > 0 else 0.0
                self.objects.add(name, x, y, yaw + turned + rng.normal(0.0, 0.015))
            s += span

    def _works(self, street: Street) -> None:
        """Close the outer strip with barriers and cones; machines and workers behind them."""
        road, rng = street.road, self.rng
        which, low, high = road.works
        side = -1 if which == 0 else 1
        inner = road.median / 2 + (LANE_WIDTH if road.lanes == 2 else road.lanes * LANE_WIDTH)
        inner += 0.15
        outer = road.half_width
        if not road.parking and road.lanes == 1:
            outer += road.verge + road.sidewalk
        turned = math.pi if side > 0 else 0.0
        for s in np.arange(low + 1.2, high, 2.45):
            x, y, yaw = street.at(s, side * (inner + 0.35))
            if rng.random() < 0.75:
                self.objects.add("barrier", x, y, yaw + math.pi / 2 + rng.normal(0.0, 0.04))
            else:
                self.objects.add("cone", x, y, yaw)
        for end, way in ((low, -1.0), (high, 1.0)):
            n = max(3, int((outer - inner) / 0.9))
            for k in range(n):
                f = (k + 0.5) / n
                s = end + way * (0.5 + 4.0 * f)
                x, y, yaw = street.at(s, side * (inner + 0.5 + (outer - inner - 0.8) * f))
                self.objects.add("cone", x, y, yaw)
        middle = (inner + 0.8 + outer) / 2
        s = low + 5.0
        while s < high - 4.0:
            if rng.random() < 0.8 and outer - inner > 3.2:
                x, y, yaw = street.at(s, side * middle)
                name = "construction_vehicle" if rng.random() < 0.75 else "truck"
                self.objects.add(name, x, y, yaw + turned + rng.normal(0.0, 0.08))
                s += 6.0
            for _ in range(int(rng.integers(1, 3))):
                x, y, yaw = street.at(s, side * (middle + rng.uniform(-0.8, 0.8)))
                name = "worker" if rng.random() < 0.6 else "debris"
                self.objects.add(name, x, y, yaw + rng.uniform(-3.0, 3.0))
                s += 1.5
            s += rng.uniform(2.0, 6.0)

    def _signals(self) -> None:
        """A mast with an arm over the lanes at every approach of a signalised junction."""
        for road in self.town.roads:
            if not self._inside(road):
                continue
            street = Street(road)
            for node, s, side in (
                (road.a, road.trim[0] + 0.5, 1),
                (road.b, road.length - road.trim[1] - 0.5, -1),
            ):
                if self.town.signals[node, 0]:
                    x, y, yaw = street.at(s, side * (road.half_width + 0.5))
                    self._pole(x, y, 5.6, False)
                    stamp_box(self.columns, x, y, yaw, 0.4, 0.4, 2.2, 3.2, MANMADE, 0.0)
                    arm = road.half_width - road.median / 2 - 1.0
                    ax, ay, _ = street.at(s, side * (road.half_width + 0.5 - arm / 2))
                    stamp_box(self.columns, ax, ay, yaw, 0.25, arm, 5.3, 5.6, MANMADE, 0.0)
                    bx, by, _ = street.at(s, side * (road.half_width + 0.7 - arm))
                    stamp_box(self.columns, bx, by, yaw, 0.4, 0.5, 4.7, 5.6, MANMADE, 0.0)

    # --- fronts and back yards ------------------------------------------------------------

    def _front(self, street: Street, side: int) -> None:
        road, rng = street.road, self.rng
        edge = road.half_width + road.verge + road.sidewalk
        s = 0.45 * road.trim[0]
        while s < road.length - 0.45 * road.trim[1]:
            i, j = self._cell(*street.at(s, side * (edge + 8.0))[:2])
            kind = self.district[i, j]
            plot = (self._centre_plot, self._house_plot, self._park_plot, self._commerce_plot)
            build = plot[kind] if kind < 4 else rng.choice([self._park_plot, self._house_plot])
            s += build(street, side, s, edge)

    def _block(self, street, side, s, edge, span, deep, setback, high) -> bool:
        """Put a building of `span` metres along the road; False if there is no room."""
        x, y, yaw = street.at(s + span / 2, side * (edge + setback + deep / 2))
        # The front of a building is at -width / 2 in its own frame.
        yaw += math.pi if side < 0 else 0.0
        if not self._claim(x, y, yaw, span + 0.5, deep + 0.5, 2.6):
            return False
        self._building(x, y, yaw, span, deep, high)
        return True

    def _centre_plot(self, street, side, s, edge) -> float:
        rng = self.rng
        span, deep = rng.uniform(9.0, 24.0), rng.uniform(10.0, 15.0)
        setback = rng.choice([0.4, 0.8, 1.6, 3.0], p=[0.5, 0.2, 0.2, 0.1])
        if not self._block(street, side, s, edge, span, deep, setback, rng.uniform(7.0, 22.0)):
            return 3.0
        for k in range(int(span / 6.0)):
            if rng.random() < 0.2:
                x, y, _ = street.at(s + 3.0 + 6.0 * k, side * (edge - 0.3))
                stamp_disc(self.columns, x, y, 0.35, 0.0, rng.uniform(0.6, 1.1), OTHERS)
        return span + (0.3 if rng.random() < 0.75 else rng.uniform(2.5, 6.0))

    def _house_plot(self, street, side, s, edge) -> float:
        rng = self.rng
        span, deep = rng.uniform(8.0, 14.0), rng.uniform(8.0, 11.0)
        setback, gap = rng.uniform(3.0, 7.5), rng.uniform(4.0, 8.0)
        if not self._block(street, side, s, edge, span, deep, setback, rng.uniform(4.5, 8.5)):
            return 3.0
        drive = s + span + gap / 2
        x, y, yaw = street.at(drive, side * (edge + setback / 2 + 2.0))
        paint_box(self.columns, x, y, yaw, 3.0, setback + 4.0, FLAT, TERRAIN)
        if setback + 4.0 > 7.0 and rng.random() < 0.45:
            x, y, yaw = street.at(drive, side * (edge + 3.6))
            if self._claim(x, y, yaw, 2.4, 5.4, 2.0):
                self.objects.add("car", x, y, yaw + math.pi / 2 + rng.normal(0.0, 0.04))
        style = rng.random()
        for k in np.arange(s - gap / 2 + 1.4, s + span + gap / 2 - 1.6, 0.8):
            x, y, yaw = street.at(k, side * (edge + 0.5))
            if self.clear(x, y) < 2.0 or abs(k - s - span / 2) < 1.0:
                continue
            if style < 0.4:
                high = 0.9 + 0.2 * rng.random()
                stamp_box(self.columns, x, y, yaw, 0.9, 0.7, 0.0, high, GREEN, 0.0)
            elif style < 0.7:
                stamp_box(self.columns, x, y, yaw, 0.9, 0.25, 0.0, 1.1, MANMADE, 0.0)
        for _ in range(int(rng.integers(0, 4))):
            back = rng.uniform(1.5, setback + deep + 5.0)
            x, y, yaw = street.at(s + rng.uniform(-gap, span + gap), side * (edge + back))
            if self._claim(x, y, yaw, 1.0, 1.0, 2.5, keep=False):
                self._bush(x, y) if rng.random() < 0.5 else self._tree(x, y, rng.random() < 0.6)
        return span + gap

    def _park_plot(self, street, side, s, edge) -> float:
        rng = self.rng
        for _ in range(5):
            x, y, _ = street.at(s + rng.uniform(0.0, 8.0), side * (edge + rng.uniform(1.0, 26.0)))
            if self._claim(x, y, 0.0, 1.6, 1.6, 2.5):
                draw = rng.random()
                if draw < 0.62:
                    self._tree(x, y)
                elif draw < 0.92:
                    self._bush(x, y)
                else:
                    stamp_box(self.columns, x, y, draw * 30, 1.8, 0.7, 0.0, 0.8, OTHERS, 0.0)
        if rng.random() < 0.15:
            x, y, yaw = street.at(s + 4.0, side * (edge + 15.0))
            paint_box(self.columns, x, y, yaw + rng.normal(0.0, 0.2), 2.4, 30.0, PAVEMENT, TERRAIN)
        return 8.0

    def _commerce_plot(self, street, side, s, edge) -> float:
        rng = self.rng
        span, deep = rng.uniform(18.0, 36.0), rng.uniform(14.0, 20.0)
        setback = rng.choice([5.0, 9.5, 17.5])
        if not self._block(street, side, s, edge, span, deep, setback, rng.uniform(5.5, 9.5)):
            return 4.0
        rows = {5.0: [], 9.5: [3.6], 17.5: [3.6, 14.0]}[float(setback)]
        full = rng.uniform(0.3, 0.9)
        for back in rows:
            for k in np.arange(s + 1.6, s + span - 1.4, 2.75):
                x, y, yaw = street.at(k, side * (edge + back))
                if rng.random() < full and self._claim(x, y, yaw, 2.2, 5.2, 2.5):
                    name = "van" if rng.random() < 0.15 else "car"
                    turn = math.pi / 2 * (1 if rng.random() < 0.5 else -1)
                    self.objects.add(name, x, y, yaw + turn + rng.normal(0.0, 0.02))
        if not rows:
            x, y, yaw = street.at(s + span / 2, side * (edge + 2.3))
            name, long = [("trailer", 12.0), ("truck", 9.0), ("bus", 13.0)][int(rng.integers(3))]
            if self._claim(x, y, yaw, long, 3.0, 2.6):
                self.objects.add(name, x, y, yaw + rng.normal(0.0, 0.02))
        for k in np.arange(s, s + span, rng.uniform(4.0, 9.0)):
            x, y, yaw = street.at(k, side * (edge + 0.5))
            if self._claim(x, y, yaw, 1.0, 1.0, 2.2, keep=False):
                draw = rng.random()
                if draw < 0.35:
                    self._bush(x, y)
                elif draw < 0.45:
                    self._pole(x, y, rng.uniform(4.0, 7.0), True, yaw)
                elif draw < 0.6:
                    stamp_disc(self.columns, x, y, 0.2, 0.0, 0.9, MANMADE)
        return span + rng.uniform(3.0, 10.0)

    def _backyards(self) -> None:
        """Trees and bushes scattered over what is still free behind the fronts."""
        rng = self.rng
        density = np.array([0.0006, 0.006, 0.011, 0.0006, 0.008])[self.district]
        chance = rng.random(self.shape)
        for i, j in np.argwhere((chance < density) & (self.kerb > 6.0) & ~self.taken):
            x, y = self.origin + (i, j) + rng.uniform(-0.4, 0.4, 2)
            if self._claim(x, y, 0.0, 1.0, 1.0, 6.0):
                self._tree(x, y) if rng.random() < 0.65 else self._bush(x, y)


def furnish(
    town: Town, route: np.ndarray, rng: np.random.Generator, margin: float = MARGIN
) -> tuple[Columns, StreetObjects]:
    """Build the static world within `margin` metres of a route (K, 2)."""
    scenery = Scenery(town, route.min(0) - margin, route.max(0) + margin, rng)
    return scenery.columns, scenery.objects
