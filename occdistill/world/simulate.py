"""One scene of the embedded world: a town, its traffic, the ego's poses and all boxes."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from occdistill.data.poses import (
    LIDAR_POSITION,
    between,
    quaternion,
    rigid,
    rotation_matrix,
    rotations_between,
)
from occdistill.errors import UserError
from occdistill.world.agents import KIND, kind_of, untouched
from occdistill.world.columns import Columns, clear_boxes, clear_ground
from occdistill.world.labels import annotated, in_sight, label_grid, survey
from occdistill.world.motion import KEYFRAME, Motion
from occdistill.world.plan import SPLITS
from occdistill.world.scenery import ROAD, furnish
from occdistill.world.surface import boxes_of, recorded_town
from occdistill.world.town import Town, elevation, plan_town
from occdistill.world.traffic import EGO_SIZE, REAR_AXLE, Tracks, moved_ahead, simulate

HEADROOM = 4.5
"""Metres over a recorded road in which nothing hangs."""
CLEARANCE = 0.2
"""Metres around and over recorded boxes in which nothing stands."""
STILL = 0.6
"""What stays within this many metres has never moved."""


@dataclass
class SceneWorld:
    """Everything that a scene's files are written from.

    `translation` (K, 3) and `rotation` (K, 4: w, x, y, z) are the ego poses; `kinds` (N,),
    `sizes` (N, 3), `pose` (K, N, 3: x, y, yaw), `foot` (K, N) ground height and `speed` (K, N)
    the boxes, of which `standing` (N,) never move; `in_sight` (K, N) tells which of them nothing
    static hides, `alive` (K, N) which of them exist in the annotations and labels.
    """

    columns: Columns
    translation: np.ndarray
    rotation: np.ndarray
    kinds: np.ndarray
    sizes: np.ndarray
    pose: np.ndarray
    foot: np.ndarray
    speed: np.ndarray
    standing: np.ndarray
    in_sight: np.ndarray
    alive: np.ndarray

    def ego_to_global(self, k: int) -> np.ndarray:
        """Pose (4, 4) of keyframe k."""
        return rigid(rotation_matrix(self.rotation[k]), self.translation[k])

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the static world shows over the whole scene."""
        return survey(self.columns, self.eyes)

    @cached_property
    def eyes(self) -> np.ndarray:
        """LiDAR positions (K, 3) in the world."""
        return np.stack(
            [
                self.ego_to_global(k)[:3, :3] @ LIDAR_POSITION + self.translation[k]
                for k in range(len(self.translation))
            ]
        )

    def boxes_in_ego(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, kinds, foot points (n, 3) and yaws of the boxes alive at keyframe k."""
        which = np.flatnonzero(self.alive[k])
        pose = self.ego_to_global(k)
        feet = np.column_stack([self.pose[k, which, :2], self.foot[k, which]])
        feet = (feet - pose[:3, 3]) @ pose[:3, :3]
        heading = math.atan2(pose[1, 0], pose[0, 0])
        return which, self.kinds[which], feet, self.pose[k, which, 2] - heading

    def labels(self, k: int) -> np.ndarray:
        """Semantics (200, 200, 16) of keyframe k."""
        which, kinds, feet, yaws = self.boxes_in_ego(k)
        pose = self.ego_to_global(k)
        return label_grid(self.columns, self.seen, pose, kinds, feet, yaws, self.sizes[which])


def _place(town: Town, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ego poses on the terrain: translations (K, 3), quaternions (K, 4)."""
    translation, rotation = np.empty((len(ego), 3)), np.empty((len(ego), 4))
    for k, (x, y, yaw) in enumerate(ego):
        z, gx, gy = elevation(town.hills, x, y)
        c, s = math.cos(yaw), math.sin(yaw)
        front = np.array([c, s, gx * c + gy * s])
        front /= np.linalg.norm(front)
        up = np.array([-gx, -gy, 1.0])
        up /= np.linalg.norm(up)
        frame = np.stack([front, np.cross(up, front), up], -1)
        q = quaternion(frame)
        translation[k] = x, y, z
        # Rounded well above the last bit: the same on every machine, and still a unit quaternion.
        rotation[k] = np.round(q / np.linalg.norm(q), 8)
    return np.round(translation, 5), rotation


def scene_generator(seed: int, split: int, number: int, part: int) -> np.random.Generator:
    """The random numbers of one part of a scene: `part` is the attempt at its traffic, or 1000 + k
    for sweep k. Four numbers each, so that none repeats another; worlds already made stay as they
    are, which is why this isn't `occdistill.seeds`.

    Raises:
        UserError: for a negative seed.
    """
    if seed < 0:
        raise UserError(f"a seed is an integer from 0 on, not {seed}")
    return np.random.default_rng([seed, split, number, part])


def drive(
    seed: int, split: str, number: int, keyframes: int
) -> tuple[Town, Tracks, np.random.Generator]:
    """A scene's town and traffic, and the random numbers that go on from there.

    Of the drives that stand still all along every second one is drawn anew: they show little.
    """
    for attempt in range(8):
        rng = scene_generator(seed, SPLITS.index(split), number, attempt)
        town = plan_town(rng)
        tracks = simulate(town, rng, keyframes)
        if _shows_something(tracks.ego, rng):
            break
    return town, tracks, rng


def _shows_something(track: np.ndarray, rng: np.random.Generator) -> bool:
    way = np.hypot(*np.diff(track[:, :2], axis=0).T).sum()
    return way > 0.05 * len(track) or rng.random() < 0.5


def drives(seed: int, split: str, number: int, keyframes: int = 40) -> tuple[Town, np.ndarray]:
    """How everybody in a car drives about the town of a scene: nothing is built, nothing seen.

    They drive by the same laws as the ego car, which is the first of them, and of those who stand
    still all along every second one is left out.

    Args:
        seed, split, number: of the scene, as for `build_scene`.
        keyframes: of each drive, 2 a second.

    Returns:
        The town, and rear axles' x, y, yaw, `(N, keyframes, 3)`, N >= 1.

    Raises:
        UserError: for a negative seed.
    """
    town, tracks, rng = drive(seed, split, number, keyframes)
    cars = tracks.pose[:, np.isin(tracks.kind, (KIND["car"], KIND["van"]))].swapaxes(0, 1)
    cars = moved_ahead(cars, -REAR_AXLE)
    others = [car for car in cars if _shows_something(car, rng)]
    return town, np.stack([tracks.ego, *others])


def build_scene(seed: int, split: str, number: int, keyframes: int = 40) -> SceneWorld:
    """Simulate one scene; the same arguments give the same world."""
    town, tracks, rng = drive(seed, split, number, keyframes)
    columns, objects = furnish(town, tracks.ego[:, :2], rng)
    ego = moved_ahead(tracks.ego, REAR_AXLE)
    moving = np.concatenate([tracks.pose, ego[:, None]], 1)
    free = untouched(objects.pose, objects.size, moving, np.vstack([tracks.size, EGO_SIZE]))
    still = objects.pose[free]
    pose = np.concatenate([tracks.pose, np.broadcast_to(still, (keyframes, *still.shape))], 1)
    kinds = np.concatenate([tracks.kind, objects.kind[free]])
    sizes = np.concatenate([tracks.size, objects.size[free]])
    speed = np.concatenate([tracks.speed, np.zeros((keyframes, len(still)))], 1)
    standing = np.arange(len(kinds)) >= len(tracks.kind)
    return _enact(town, columns, tracks.ego, kinds, sizes, pose, speed, standing)


def reenact(motion: Motion, rng: np.random.Generator) -> SceneWorld:
    """A recorded scene, as `mending.mended` returns it, with scenery drawn for it."""
    town = recorded_town(motion, rng)
    columns, _ = furnish(town, motion.ego[:, :2], rng)  # what stands there was recorded, too
    clear_ground(columns, ROAD, HEADROOM)
    often = np.append(np.arange(motion.time[0], motion.time[-1], 0.1), motion.time[-1])
    pose, size, _ = boxes_of(motion.at(often))
    clear_boxes(columns, pose, size + CLEARANCE, size[:, 2] + CLEARANCE)
    motion = motion.keyframes()
    there = motion.valid.any(1)
    valid, size = motion.valid[there].T, motion.size[there]
    pose = _held(motion.pose[there], motion.valid[there]).swapaxes(0, 1)
    names = motion.category[there]
    kinds = np.array([kind_of(name, height) for name, height in zip(names, size[:, 2])], int)
    step = np.hypot(*np.diff(pose[..., :2], axis=0).transpose(2, 0, 1)) / KEYFRAME
    both = valid[1:] & valid[:-1]
    count = np.pad(both, ((1, 0), (0, 0))).astype(int) + np.pad(both, ((0, 1), (0, 0)))
    speed = np.pad(step * both, ((1, 0), (0, 0))) + np.pad(step * both, ((0, 1), (0, 0)))
    speed = np.round(speed / np.maximum(count, 1), 4)
    standing = np.ptp(pose[..., :2], axis=0).max(1) < STILL
    ego = np.round(motion.ego, 5)
    return _enact(town, columns, ego, kinds, size, np.round(pose, 5), speed, standing, valid)


def _held(pose: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Tracks (N, K, 3) that stay at the nearest known place where they are not known."""
    at = np.arange(valid.shape[1])
    nearest = [at[known][np.abs(at[:, None] - at[known]).argmin(1)] for known in valid]
    return np.stack([track[k] for track, k in zip(pose, nearest)]) if len(pose) else pose


def _enact(
    town: Town,
    columns: Columns,
    ego: np.ndarray,
    kinds: np.ndarray,
    sizes: np.ndarray,
    pose: np.ndarray,
    speed: np.ndarray,
    standing: np.ndarray,
    known: np.ndarray | bool = True,
) -> SceneWorld:
    """Put the ego car (K, 3) and all boxes on the ground, and see who is in sight.

    `known` (K, N) tells where a recording has a box.
    """
    foot = [[elevation(town.hills, x, y)[0] for x, y in frame] for frame in pose[..., :2]]
    scene = SceneWorld(
        columns,
        *_place(town, ego),
        kinds,
        sizes,
        pose,
        np.round(foot, 3).reshape(pose.shape[:2]),
        speed,
        standing,
        in_sight=np.zeros(pose.shape[:2], bool),
        alive=np.zeros(pose.shape[:2], bool),
    )
    scene.in_sight = in_sight(columns, scene.eyes, pose, sizes) & known
    scene.alive = annotated(scene.in_sight) & known
    return scene


def between_keyframes(world: SceneWorld, factor: int) -> SceneWorld:
    """The same drive at `factor` times the rate: everything moves evenly between keyframes."""
    last = len(world.translation) - 1
    at = np.linspace(0, last, factor * last + 1)
    nearest = np.round(at).astype(int)
    pose = world.pose.copy()
    pose[..., 2] = np.unwrap(pose[..., 2], axis=0)
    fine = replace(
        world,
        translation=between(world.translation, at),
        rotation=rotations_between(world.rotation, at),
        pose=between(pose, at),
        foot=between(world.foot, at),
        speed=between(world.speed, at),
        in_sight=world.in_sight[nearest],
        alive=world.alive[nearest],
    )
    fine.seen = world.seen  # what one drive shows doesn't depend on how often one looks
    return fine
