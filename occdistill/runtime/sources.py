"""Where live frames come from: files, LiDAR sweeps, the embedded world, or anything that iterates.

A source is any iterator of `Packet`. Voxels may be given as a function, which is called only when
the frame's turn comes: a dropped frame costs nothing, and reading counts as a stage of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occdistill.data import voxelize
from occdistill.data.clips import FrameReader
from occdistill.data.clouds import natural
from occdistill.data.occ3d import GridTransform
from occdistill.data.poses import LIDAR_TO_EGO, broken_motion, invert, is_rigid
from occdistill.data.scenes import Scene
from occdistill.data.tables import seconds_of, unit_of
from occdistill.data.voxelize import NEAR, Box, Layout, Sweep, read_sweep
from occdistill.errors import UserError
from occdistill.store import reading
from occdistill.untrusted import open_file
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
            doesn't know them: such models draw a plan if they have a planner, else they refuse its
            frames.
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

    Keyframes with a fault, and those whose plan holds one, are left out.
    """
    begin = 0.0
    for scene in scenes:
        frames = scene.keyframes
        poses = np.stack([frame.ego_to_global for frame in frames])
        times = [1e-6 * (frame.timestamp - frames[0].timestamp) for frame in frames]
        for i in range(len(frames) - plan):
            if any(frame.fault for frame in frames[i : i + 1 + plan + (plan > 0)]):
                continue
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
    """The voxels of a keyframe; of LiDAR without those older sweeps that can't be read, which was
    told when each was the newest.
    """
    try:
        return torch.from_numpy(reader.past(scene, index, index + 1)[0])
    except UserError:
        if reader.past_from != "lidar":
            raise
    known = [scene.keyframes[index]]
    for older in range(max(0, index - reader.merge + 1), index):
        with suppress(UserError):
            reader.sweeps(scene, older, older + 1)
            known.insert(-1, scene.keyframes[older])
    left = replace(scene, keyframes=known)
    return torch.from_numpy(reader.past(left, len(known) - 1, len(known))[0])


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
    layout: Layout = "xyzir",
    own_car: Box = NEAR,
) -> Iterator[Packet]:
    """nuScenes' raw sweeps: `*.pcd.bin`, `poses.txt`, and labels where there are any.

    Numbers in names count as numbers: 2 comes before 10. `poses.txt` holds a line per sweep: the 12
    numbers of the top three rows of the LiDAR's pose in any fixed frame. `timestamps.txt`, if it is
    there, holds a time per sweep, in seconds or in milli-, micro- or nanoseconds.
    `<name>_lidarseg.bin` beside `<name>.pcd.bin` gives the points' raw classes; without it all of them are "others". A sweep that can't be read makes one bad frame, and is left
    out of the frames after it.

    Args:
        folder: where they are.
        transform: to the model's grid.
        rate: sweeps per second, where there is no timestamps.txt.
        merge: sweeps merged into one grid, the newest and those before it.
        plan: future poses, 0.5 s apart, that a packet must carry.
        layout, own_car: as for `read_sweep`.

    Raises:
        UserError: no sweeps; poses or times that are missing, unreadable, of another number, or
            not a car's; or times in another order than the names.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.pcd.bin"), key=natural)
    if not files:
        raise UserError(f"no *.pcd.bin files in {folder}; pass a folder of LiDAR sweeps")
    lidar_to_global = _poses(folder / "poses.txt", files)
    if (folder / "timestamps.txt").exists():
        times = _times(folder / "timestamps.txt", files)
        rate = 1 / float(np.median(np.diff(times))) if len(times) > 1 else rate
    else:
        times = np.arange(len(files)) / rate
    for file, fault in zip(files, broken_motion(lidar_to_global, times, np.inf, upright=False)):
        if fault:
            raise UserError(
                f"at {file}, {fault}; correct poses.txt, or --rate (now {rate:g} sweeps a second)"
            )

    @lru_cache(merge)  # neighbouring frames share all sweeps but one
    def read(i: int) -> Sweep:
        labels = files[i].with_name(files[i].name.replace(".pcd.bin", "_lidarseg.bin"))
        known = labels if labels.is_file() else None
        return read_sweep(files[i], known, lidar_to_global[i], layout, own_car)

    names = [file.name for file in files]
    step = max(1, round(0.5 * rate))
    yield from sweeps(read, names, lidar_to_global, times, step, transform, merge, plan)


def sweeps(
    read: Callable[[int], Sweep],
    names: Sequence[str],
    lidar_to_global: np.ndarray,
    times: np.ndarray,
    step: int,
    transform: GridTransform,
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
        times: seconds, `(N,)`.
        step: sweeps in 0.5 s.
        transform: to the model's grid.
        merge: sweeps merged into one grid, the newest and those before it.
        plan: future poses, 0.5 s apart, that a packet must carry.
        lidar_to_ego: where the LiDAR sits on this car, `(4, 4)`.
        apart: of the sweeps before it, every so many are merged.
    """
    ego_to_global = lidar_to_global @ invert(lidar_to_ego)
    with suppress(UserError):  # compiles what merges, before a live loop's clock runs
        _merge(read, range(1), ego_to_global[0], transform)
    for i in range(len(names) - plan * step):
        window = range(i % apart if i < merge * apart else i - (merge - 1) * apart, i + 1, apart)
        yield Packet(
            partial(_merge, read, window, ego_to_global[i], transform),
            ego_to_global[i],
            float(times[i]),
            ego_to_global[i + step : i + step * (plan + 1) + 1 : step] if plan else None,
            names[i],
            lidar_to_ego,
        )


def _numbers(path: Path, shape: tuple[int, ...], what: str) -> np.ndarray:
    """A text file of numbers, float64 of a shape."""
    advice = f"write {shape[0]} lines of {shape[1]} numbers"
    with reading(path, what, advice), open_file(path, _TEXT_BYTES) as file:
        rows = np.loadtxt(file, ndmin=2, encoding="utf-8")
    if rows.shape != shape:
        raise UserError(f"{path} holds {rows.shape} numbers; {shape[0]} sweeps need {shape}")
    return rows


_TEXT_BYTES = 1 << 28


def _poses(path: Path, files: list[Path]) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(files), 1, 1))
    poses[:, :3] = _numbers(path, (len(files), 12), "file of LiDAR poses").reshape(-1, 3, 4)
    for i in np.flatnonzero(~is_rigid(poses)):
        raise UserError(
            f"line {i + 1} of {path}, for {files[i].name}, is no rigid motion (it isn't finite,"
            " stretches or mirrors); write the top three rows of a pose, row by row"
        )
    return poses


def _times(path: Path, files: list[Path]) -> np.ndarray:
    """Seconds since the first sweep, float64 (N,)."""
    times = _numbers(path, (len(files), 1), "file of times")[:, 0]
    for i in np.flatnonzero(~(np.diff(times) > 0)):
        raise UserError(
            f"{files[i + 1].name} comes after {files[i].name}, but not by its time in {path}; give"
            " the sweeps names in the order of their times"
        )
    return (times - times[0]) * seconds_of(unit_of([times.tolist()], (0.005, 4.0), str(path)))


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
