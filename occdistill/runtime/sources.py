"""Where live frames come from: files, LiDAR sweeps, the embedded world, or anything that iterates.

A source is any iterator of `Packet`. Voxels may be given as a function, which is called only when
the frame's turn comes: a dropped frame costs nothing, and reading counts as a stage of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occdistill.data import voxelize
from occdistill.data.clips import FrameReader
from occdistill.data.occ3d import GridTransform
from occdistill.data.poses import LIDAR_TO_EGO, invert
from occdistill.data.scenes import Scene
from occdistill.data.voxelize import Sweep, load_point_labels, load_points
from occdistill.errors import UserError
from occdistill.world.simulate import SPLITS, SceneWorld, between_keyframes, build_scene

GAP = 60.0  # seconds between two scenes, so that no window spans both


@dataclass(frozen=True)
class Packet:
    """One frame of a sensor.

    Attributes:
        voxels: uint8 `(X, Y, Z)` in its own ego frame, or what returns them.
        ego_to_global: float64 `(4, 4)`.
        time: seconds on the sensor's clock.
        plan: true ego poses of the coming keyframes `(>= codec.plan, 4, 4)`, for models that are
            shown some of the ego's future; see `RollingForecaster.condition`. None where the source
            doesn't know them: such models refuse its frames.
        name: for messages.
        lidar_to_ego: where the LiDAR sits on this car, `(4, 4)`.
    """

    voxels: Tensor | Callable[[], Tensor]
    ego_to_global: np.ndarray
    time: float
    plan: np.ndarray | None = None
    name: str = ""
    lidar_to_ego: np.ndarray = field(default_factory=LIDAR_TO_EGO.copy)


def replay(reader: FrameReader, scenes: Iterable[Scene], plan: int = 0) -> Iterator[Packet]:
    """Keyframes of recorded scenes, one scene after the other.

    Args:
        reader: reads labels or merges LiDAR sweeps.
        scenes: of a data set.
        plan: future poses that a packet must carry, `codec.plan`; a scene ends where they end.
    """
    begin = 0.0
    for scene in scenes:
        frames = scene.keyframes
        poses = np.stack([frame.ego_to_global for frame in frames])
        times = [1e-6 * (frame.timestamp - frames[0].timestamp) for frame in frames]
        for i in range(len(frames) - plan):
            yield Packet(
                partial(_read, reader, scene, i),
                poses[i],
                begin + times[i],
                poses[i + 1 : i + 2 + plan] if plan else None,
                f"{scene.name}/{frames[i].token}",
                frames[i].lidar_to_ego,
            )
        begin += times[-1] + GAP


def _read(reader: FrameReader, scene: Scene, index: int) -> Tensor:
    return torch.from_numpy(reader.past(scene, index, index + 1)[0])


def synthetic(
    transform: GridTransform, seed: int = 0, rate: float = 2.0, plan: int = 0, scenes: int = 1000
) -> Iterator[Packet]:
    """Drives through towns made on the fly, a new one every 20 s.

    Args:
        transform: to the model's grid.
        seed: of the first town.
        rate: frames per second, a multiple of 2.
        plan: future poses, 0.5 s apart, that a packet must carry.
        scenes: how many drives.

    Raises:
        UserError: a rate that is no multiple of 2.
    """
    factor = round(rate / 2)
    if factor < 1 or abs(rate - 2 * factor) > 1e-6:
        raise UserError(f"the embedded world runs at multiples of 2 Hz, not {rate:g} Hz")
    for number in range(scenes):
        world = between_keyframes(build_scene(seed, SPLITS[1], number), factor)
        count = len(world.translation)
        poses = np.stack([world.ego_to_global(k) for k in range(count)])
        for k in range(count - plan * factor):
            yield Packet(
                partial(_look, world, k, transform),
                poses[k],
                (count / rate + GAP) * number + k / rate,
                poses[k + factor : k + factor * (plan + 1) + 1 : factor] if plan else None,
                f"town {number}, frame {k}",
            )


def _look(world: SceneWorld, k: int, transform: GridTransform) -> Tensor:
    return torch.from_numpy(transform(world.labels(k)))


def lidar_folder(
    folder: str | Path,
    transform: GridTransform,
    rate: float = 2.0,
    merge: int = 5,
    plan: int = 0,
) -> Iterator[Packet]:
    """nuScenes' raw sweeps: `*.pcd.bin`, `poses.txt`, and labels where there are any.

    `poses.txt` holds a line per sweep: the 12 numbers of the top three rows of the LiDAR's pose in
    any fixed frame. `<name>_lidarseg.bin` beside `<name>.pcd.bin` gives the points' raw classes;
    without it all of them are "others". A sweep that can't be read makes one bad frame, and is left
    out of the frames after it.

    Args:
        folder: where they are.
        transform: to the model's grid.
        rate: sweeps per second.
        merge: sweeps merged into one grid, the newest and those before it.
        plan: future poses, 0.5 s apart, that a packet must carry.

    Raises:
        UserError: no sweeps, or poses that are missing, unreadable or of another number.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.pcd.bin"))
    if not files:
        raise UserError(f"no *.pcd.bin files in {folder}; pass a folder of LiDAR sweeps")
    lidar_to_global = _poses(folder / "poses.txt", len(files))

    @lru_cache(merge)  # neighbouring frames share all sweeps but one
    def read(i: int) -> Sweep:
        return _sweep(files[i], lidar_to_global[i])

    names = [file.name for file in files]
    yield from sweeps(read, names, lidar_to_global, transform, rate, merge, plan)


def sweeps(
    read: Callable[[int], Sweep],
    names: Sequence[str],
    lidar_to_global: np.ndarray,
    transform: GridTransform,
    rate: float,
    merge: int = 5,
    plan: int = 0,
    lidar_to_ego: np.ndarray = LIDAR_TO_EGO,
    apart: int = 1,
) -> Iterator[Packet]:
    """Frames of sweeps, each merged with some before it.

    Args:
        read: sweep i.
        names: of the sweeps, N.
        lidar_to_global: their poses `(N, 4, 4)`.
        transform: to the model's grid.
        rate: sweeps per second.
        merge: sweeps merged into one grid, the newest and those before it.
        plan: future poses, 0.5 s apart, that a packet must carry.
        lidar_to_ego: where the LiDAR sits on this car, `(4, 4)`.
        apart: of the sweeps before it, every so many are merged.
    """
    ego_to_global = lidar_to_global @ invert(lidar_to_ego)
    step = max(1, round(0.5 * rate))
    for i in range(len(names) - plan * step):
        window = range(i % apart if i < merge * apart else i - (merge - 1) * apart, i + 1, apart)
        yield Packet(
            partial(_merge, read, window, ego_to_global[i], transform),
            ego_to_global[i],
            i / rate,
            ego_to_global[i + step : i + step * (plan + 1) + 1 : step] if plan else None,
            names[i],
            lidar_to_ego,
        )


def _poses(path: Path, count: int) -> np.ndarray:
    try:
        rows = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} with the LiDAR poses, 12 numbers a line, cannot be read ({error})"
        ) from error
    if rows.shape != (count, 12) or not np.isfinite(rows).all():
        raise UserError(f"{path} holds {rows.shape} numbers; {count} sweeps need ({count}, 12)")
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    return poses


def _sweep(file: Path, lidar_to_global: np.ndarray) -> Sweep:
    points = load_points(file)
    labels = file.with_name(file.name.replace(".pcd.bin", "_lidarseg.bin"))
    known = load_point_labels(labels, len(points)) if labels.is_file() else None
    return Sweep(points, known, lidar_to_global)


def _merge(
    read: Callable[[int], Sweep],
    window: range,
    ego_to_global: np.ndarray,
    transform: GridTransform,
) -> Tensor:
    taken = []
    for i in window[:-1]:
        with suppress(UserError):  # told when it was the newest
            taken.append(read(i))
    taken.append(read(window[-1]))
    return torch.from_numpy(transform(voxelize.merge(taken, ego_to_global).voxels))
