"""Streets where somebody drove: from a recorded map, or from the motion, to a town to furnish."""

from __future__ import annotations

import math

import contourpy
import numpy as np
from PIL import Image, ImageChops, ImageDraw
from scipy import ndimage

from occdistill.world.motion import Motion
from occdistill.world.scenery import MARGIN
from occdistill.world.town import (
    LANE_WIDTH,
    Ground,
    Road,
    Town,
    draw_hills,
    draw_mood,
    resample,
    shifted,
)
from occdistill.world.traffic import EGO_SIZE, REAR_AXLE, moved_ahead

_FINE = 0.5
"""Metres between the points at which the road is drawn; kerbs lie between them."""
_AROUND = int(MARGIN) + 10
"""Metres of ground around the ego car's way; more than is built."""
_CORRIDOR = 7.0
"""Width of the road around a track where there is no map, metres."""
_ROOM = 3.0
"""Metres from the kerb on which something can be built; less is an island or a median."""


def boxes_of(motion: Motion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything that was anywhere, ego car included: x, y, yaw (M, 3), sizes (M, 3), whose (M,).

    The ego car is number -1.
    """
    car = moved_ahead(motion.ego, REAR_AXLE)
    whose, when = np.nonzero(motion.valid)
    pose = np.vstack([motion.pose[whose, when], car])
    size = np.vstack([motion.size[whose], np.tile(EGO_SIZE, (len(car), 1))])
    return pose, size, np.append(whose, np.full(len(car), -1))


def recorded_town(motion: Motion, rng: np.random.Generator) -> Town:
    """A town whose streets are where the recording has them; what lines them is drawn.

    Kerbs become roads that have no lanes and one side, so that scenery lines them as any road.
    """
    low = np.floor(motion.ego[:, :2].min(0)) - _AROUND
    shape = (np.ceil(motion.ego[:, :2].max(0)) + _AROUND - low).astype(int)
    road = _driveable(motion, low, shape)
    signed = ndimage.distance_transform_edt(~road) - ndimage.distance_transform_edt(road)
    kerb = np.round(ndimage.gaussian_filter(_FINE * signed, 1.0)[::2, ::2], 3)
    pose, size, _ = boxes_of(motion)
    keep = _Canvas(low, shape)
    keep.boxes(pose, size + 3.0)
    mood, hills = draw_mood(rng), draw_hills(rng)
    roads, nodes = _kerb_roads(kerb, low, rng)
    block, count = ndimage.label(kerb > 0.0)
    district = rng.choice(len(mood), count + 1, p=mood)[block]
    ground = Ground(low, kerb, district, keep.drawn()[::2, ::2])
    return Town(nodes, roads, [], hills, np.zeros((len(nodes), 4)), ground=ground)


class _Canvas:
    """Where something is, at points half a metre apart."""

    def __init__(self, low: np.ndarray, shape: np.ndarray):
        self.low = low
        self.image = Image.new("1", tuple(int(n) for n in 2 * shape))
        self.pen = ImageDraw.Draw(self.image)

    def _pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(p) for p in ((points - self.low) / _FINE).tolist()]

    def _outside(self, points: np.ndarray) -> bool:
        high = self.low + _FINE * np.array(self.image.size)
        return bool((points.max(0) < self.low).any() or (points.min(0) > high).any())

    def area(self, rings: list[np.ndarray]) -> None:
        """Rings (P, 2), every second of which that holds a point takes it out again."""
        rings = [ring for ring in rings if not self._outside(ring)]
        odd = Image.new("1", self.image.size)
        for ring in rings:
            one = Image.new("1", self.image.size)
            ImageDraw.Draw(one).polygon(self._pixels(ring), fill=1)
            odd = ImageChops.logical_xor(odd, one)
        if rings:
            self.image.paste(1, mask=odd)

    def line(self, points: np.ndarray, width: float) -> None:
        """A line (P, 2) of a width in metres, with round ends."""
        if self._outside(points):
            return
        pixels, radius = self._pixels(points), width / _FINE / 2
        self.pen.line(pixels, fill=1, width=round(2 * radius))
        for x, y in pixels:
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)

    def boxes(self, pose: np.ndarray, size: np.ndarray) -> None:
        """Boxes (M: x, y, yaw; l, w)."""
        corner = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
        c, s = np.cos(pose[:, 2, None]), np.sin(pose[:, 2, None])
        u, v = size[:, :1] * corner[:, 0], size[:, 1:2] * corner[:, 1]
        rings = np.stack([c * u - s * v, s * u + c * v], -1) + pose[:, None, :2]
        for ring in np.unique(np.round(rings, 1), axis=0):
            if not self._outside(ring):
                self.pen.polygon(self._pixels(ring), fill=1)

    def drawn(self) -> np.ndarray:
        """Bool, x along the first axis."""
        return np.array(self.image).T.copy()


def _driveable(motion: Motion, low: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Where the road is, at points half a metre apart: the map, and where else vehicles were."""
    streets, canvas = motion.streets, _Canvas(low, shape)
    for rings in streets.areas:
        canvas.area(rings)
    for lane in streets.lanes:
        canvas.line(lane, LANE_WIDTH)
    pose, size, whose = boxes_of(motion)
    wheels = np.array([_on_road(category) for category in motion.category] + [True])[whose]
    if not canvas.image.getbbox():
        _corridors(canvas, motion)
    on_map = canvas.drawn()
    canvas.boxes(pose[wheels], size[wheels] + 0.6)
    # Those that stand beside the streets stand on a car park.
    away = ndimage.distance_transform_edt(~on_map) * _FINE if on_map.any() else None
    if away is not None:
        i, j = np.clip(np.round((pose[:, :2] - low) / _FINE).astype(int), 0, 2 * shape - 1).T
        parks = wheels & (away[i, j] > 1.0)
        canvas.boxes(pose[parks], size[parks] + 5.0)
    road = _closed(canvas.drawn(), 0.5 if streets.areas else 2.0)
    parts, count = ndimage.label(~road)
    small = np.bincount(parts.ravel(), minlength=count + 1) < 8.0 / _FINE**2
    return road | small[parts]


def _on_road(category: str) -> bool:
    cycle = category in ("vehicle.bicycle", "vehicle.motorcycle")
    return category.startswith("vehicle") and not cycle


def _corridors(canvas: _Canvas, motion: Motion) -> None:
    """Roads around what drove; the ego car's goes on straight at both ends."""
    ego = motion.ego
    tips = [(ego[0], -1.0), (ego[-1], 1.0)]
    first, last = (p[:2] + w * 90.0 * np.array([math.cos(p[2]), math.sin(p[2])]) for p, w in tips)
    canvas.line(np.vstack([first, ego[:, :2], last]), _CORRIDOR)
    for pose, valid, category in zip(motion.pose, motion.valid, motion.category):
        track = pose[valid, :2]
        if _on_road(category) and len(track) > 1 and np.ptp(track, axis=0).max() > 5.0:
            canvas.line(track, _CORRIDOR)


def _closed(mask: np.ndarray, reach: float) -> np.ndarray:
    """The mask without gaps narrower than twice `reach` metres."""
    grown = ndimage.distance_transform_edt(~mask) * _FINE <= reach if mask.any() else mask
    return ndimage.distance_transform_edt(grown) * _FINE > reach if not grown.all() else grown


def _kerb_roads(
    kerb: np.ndarray, low: np.ndarray, rng: np.random.Generator
) -> tuple[list[Road], np.ndarray]:
    """Kerbs in stretches of a block's length, land on their left; and the stretches' ends."""
    roads: list[Road] = []
    nodes: list[np.ndarray] = []
    for line in contourpy.contour_generator(z=kerb.T).lines(0.0):
        if np.hypot(*np.diff(line, axis=0).T).sum() < 12.0:
            continue
        line = resample(line, 2.0)
        left = (
            _sampled(kerb, shifted(line, 1.0)).mean() > _sampled(kerb, shifted(line, -1.0)).mean()
        )
        line = line if left else line[::-1]
        room = _sampled(kerb, shifted(line, _ROOM + 1.0)) > _ROOM
        start = 0
        while start < len(line) - 5:
            stop = min(start + int(rng.integers(25, 50)), len(line) - 1)
            if len(line) - 1 - stop < 12:
                stop = len(line) - 1
            style = rng.random(3)
            if room[start : stop + 1].mean() > 0.6:
                nodes += [line[start] + low, line[stop] + low]
                roads.append(
                    Road(
                        len(nodes) - 2,
                        len(nodes) - 1,
                        line[start : stop + 1] + low,
                        lanes=0,
                        median=0.0,
                        parking=False,
                        sidewalk=float(2.8 + 1.8 * style[0]),
                        verge=float(1.2 + 0.8 * style[1]) if style[2] < 0.4 else 0.0,
                        speed=0.0,
                        axis=0,
                        sides=(1,),
                    )
                )
            start = stop
    return roads, np.array(nodes).reshape(-1, 2)


def _sampled(kerb: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(kerb, points.T, order=1, mode="nearest")
