"""Write the embedded world to disk: simulate, label and scan each scene, then the tables."""

import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from occdistill.data.occ3d import save_labels
from occdistill.errors import UserError
from occdistill.store import read_json, read_npz, write_json, write_npz
from occdistill.untrusted import inside
from occdistill.world.labels import visibility
from occdistill.world.motion import Motion
from occdistill.world.plan import KEYFRAMES, ScenePlan, plan_recorded, plan_scenes
from occdistill.world.recordings import assign, digest
from occdistill.world.scan import Scan, scan
from occdistill.world.simulate import SceneWorld, build_scene, reenact, scene_generator
from occdistill.world.tables import annotations, scene_tables, write_tables

VERSION = "v1.0-synthetic"
_STAMP = "world.json"
_PARTS = ".parts"
_OWN = ("gts", "samples", "lidarseg", "maps", ".occdistill", _PARTS)
_OWN_FILES = ("annotations.json", "splits.json", _STAMP)
_LABEL_BYTES, _CLOUD_BYTES = 60_000, 800_000
_FORMAT = 1
_done: Synchronized  # in a process of `_in_others`


@dataclass(frozen=True)
class _Settings:
    """What decides a world's bytes; kept beside it."""

    scenes: int
    val_scenes: int
    seed: int
    keyframes: int
    lidar: bool
    version: str
    format: int = _FORMAT
    recorded: str = ""
    """Digest of the motion that is re-enacted."""

    def stamp(self) -> dict:
        """As kept beside the world; worlds made before there were recordings don't name any."""
        return {k: v for k, v in asdict(self).items() if v != "" or k != "recorded"}


def make_world(
    out: Path | str,
    scenes: int = 20,
    seed: int = 0,
    val_scenes: int | None = None,
    lidar: bool = True,
    workers: int | None = None,
    version: str = VERSION,
    keyframes: int = KEYFRAMES,
    overwrite: bool = False,
) -> Path:
    """Write a world; what is in it is told in this package's docstring.

    A run that was interrupted goes on where it stopped when it is started again with the same
    arguments; a world that is complete is left as it is.

    Args:
        out: folder to write: new, empty, or holding a world.
        scenes, val_scenes: number of training and validation scenes (default: a fifth as many, at
            least one).
        seed: the same seed gives the same bytes.
        lidar: also write point clouds and their point labels.
        workers: processes; default: one per core.
        version: name of the folder of tables.
        keyframes: per scene, 2 a second.
        overwrite: replace a world made with other arguments.

    Returns:
        `out`.

    Raises:
        UserError: if the folder holds something else, the disk is too full, or a number is out of
            range.
    """
    val_scenes = max(1, scenes // 5) if val_scenes is None else val_scenes
    if scenes < 0 or val_scenes < 0 or scenes + val_scenes < 1 or keyframes < 1 or seed < 0:
        raise UserError(
            f"a world of {scenes} + {val_scenes} scenes of {keyframes} keyframes from seed {seed}"
            " cannot be made; give at least one scene and one keyframe, and no negative number"
        )
    settings = _Settings(scenes, val_scenes, seed, keyframes, lidar, version)
    plan = partial(plan_scenes, scenes, val_scenes, seed, keyframes)
    return _write(Path(out), plan, {}, settings, workers, overwrite)


def make_recorded_world(
    out: Path | str,
    motions: Sequence[Motion],
    split: str = "val",
    seed: int = 0,
    lidar: bool = True,
    workers: int | None = None,
    version: str = VERSION,
    overwrite: bool = False,
) -> Path:
    """Write a world in which recorded motion is re-enacted; the rest as `make_world`.

    Args:
        motions: as `recordings.read_recorded` reads them, at least one.
        split: see `recordings.assign`.
        seed: of the scenery.
        out, lidar, workers, version, overwrite: as for `make_world`.

    Returns:
        `out`.

    Raises:
        UserError: as `make_world`; there is no motion, or the split doesn't fit its scenes.
    """
    if seed < 0:
        raise UserError(f"a seed is an integer from 0 on, not {seed}")
    splits = assign([motion.name for motion in motions], split)
    enacted = {motion.name: motion for motion in motions}
    lengths = {name: len(motion.keyframes().time) for name, motion in enacted.items()}
    plan = partial(plan_recorded, lengths, splits, seed)
    settings = _Settings(
        len(splits["train"]), len(splits["val"]), seed, max(lengths.values()), lidar, version,
        recorded=digest(motions),
    )  # fmt: skip
    return _write(Path(out), plan, enacted, settings, workers, overwrite)


def summary(out: Path) -> str:
    """What a written world holds, in two lines."""
    splits = read_json(out / "splits.json")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    counts = " + ".join(f"{len(names)} {split}" for split, names in splits.items())
    stamp = _read_stamp(out)
    lidar = ", samples/LIDAR_TOP/, lidarseg/" if stamp["lidar"] else ""
    return (
        f"{out}: {counts} scenes, {size / 1e6:.0f} MB, version {stamp['version']}\n"
        f"  gts/ (Occ3D labels), tables, annotations.json, splits.json{lidar}"
    )


def _write(
    out: Path,
    plan: Callable[[], list[ScenePlan]],
    enacted: Mapping[str, Motion],
    settings: _Settings,
    workers: int | None,
    overwrite: bool,
) -> Path:
    """Write what isn't there; scenes are planned when it is known that they have room."""
    try:
        if _is_complete(out, settings, overwrite):
            return out
        _check_disk(out, settings)
        _claim(out, settings)
        plans = plan()
        parts = _write_scenes(out, plans, enacted, settings, workers or os.cpu_count() or 1)
        write_tables(out, settings.version, plans, parts)
        _write_stamp(out, settings, complete=True)
    except OSError as error:
        raise UserError(
            f"writing to {out} failed ({error.strerror or error}); free some space or choose"
            " another --out, then start again: finished keyframes are kept"
        ) from error
    shutil.rmtree(out / _PARTS)
    return out


def _is_complete(out: Path, settings: _Settings, overwrite: bool) -> bool:
    """Whether this very world is there; a `UserError` if something else is that must stay."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a folder for --out")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / _STAMP).is_file():
        raise UserError(
            f"{out} is not empty and holds no world made by this tool;"
            " choose an empty or new folder for --out"
        )
    found = _read_stamp(out)
    complete = found.pop("complete", False)
    if found == settings.stamp():
        return complete
    if not overwrite:
        raise UserError(
            f"{out} holds a world made with other arguments ({_STAMP} names them);"
            " add --overwrite to replace it, or choose another folder"
        )
    return False


def _claim(out: Path, settings: _Settings) -> None:
    """Clear away a world of other arguments, and put this one's stamp on the folder."""
    out.mkdir(parents=True, exist_ok=True)
    found = _read_stamp(out)
    found.pop("complete", None)
    if found and found != settings.stamp():
        tables = inside(out, found["version"], out / _STAMP)  # before anything is deleted
        for folder in (tables, *(out / name for name in _OWN)):
            shutil.rmtree(folder, ignore_errors=True)
        for name in _OWN_FILES:
            (out / name).unlink(missing_ok=True)
    _write_stamp(out, settings, complete=False)


def _read_stamp(out: Path) -> dict:
    stamp = out / _STAMP
    if not stamp.exists():
        return {}
    advice = f"choose another --out, or remove {stamp.parent} yourself if it is a world"
    found = read_json(stamp, "stamp of a world", advice, dict)
    if "version" not in found:
        raise UserError(f"{stamp} is no stamp of a world (it names no version); {advice}")
    return found


def _write_stamp(out: Path, settings: _Settings, complete: bool) -> None:
    write_json(out / _STAMP, settings.stamp() | {"complete": complete})


def _check_disk(out: Path, settings: _Settings) -> None:
    scenes = settings.scenes + settings.val_scenes
    frame = _LABEL_BYTES + (_CLOUD_BYTES if settings.lidar else 0)
    needed = scenes * settings.keyframes * frame
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{out} has {free / 1e9:.1f} GB of free disk, and {scenes} scenes may need"
            f" {needed / 1e9:.1f} GB; free some space or make fewer scenes"
        )


def _write_scenes(
    out: Path,
    plans: list[ScenePlan],
    enacted: Mapping[str, Motion],
    settings: _Settings,
    workers: int,
) -> list[dict]:
    """Make the scenes that are not there yet; returns all scenes' parts."""
    folder = out / _PARTS
    folder.mkdir(exist_ok=True)
    todo = [plan for plan in plans if not (folder / f"{plan.name}.json").is_file()]
    jobs = [(plan, enacted.get(plan.recorded)) for plan in todo]
    job = partial(_write_scene, out=out, lidar=settings.lidar, version=settings.version)
    total, left = (sum(plan.keyframes for plan in some) for some in (plans, todo))
    with tqdm(total=total, initial=total - left, unit="frame", file=sys.stderr) as bar:
        if min(workers, len(jobs)) > 1:
            _in_others(job, jobs, min(workers, len(jobs)), bar.update)
        else:
            for one in jobs:
                job(*one, tick=bar.update)
    return [read_json(folder / f"{plan.name}.json") for plan in plans]


def _in_others(
    job: Callable,
    jobs: Sequence[tuple[ScenePlan, Motion | None]],
    workers: int,
    tick: Callable[[int], object],
) -> None:
    """Do all jobs in `workers` processes; `tick` is told how many keyframes were done."""
    # Spawned, not forked: torch's and numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    done, told = context.Value("q"), 0
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(done,)
    ) as pool:
        left = {pool.submit(job, *one, tick=_tick) for one in jobs}
        try:
            while left:
                ended, left = wait_for(left, timeout=0.5, return_when=FIRST_COMPLETED)
                now = done.value
                tick(now - told)
                told = now
                for one in ended:
                    one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(done: Synchronized) -> None:
    """Make this process one of several that count the keyframes that they have done together."""
    global _done
    _done = done
    _end_with_parent()


def _tick() -> None:
    with _done.get_lock():
        _done.value += 1


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that was."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_scene(
    plan: ScenePlan,
    motion: Motion | None,
    out: Path,
    lidar: bool,
    version: str,
    tick: Callable[[], object],
) -> None:
    """Write a scene's labels and clouds, and, last, its part of the tables; `tick` after each
    keyframe.
    """
    if motion is None:
        world = build_scene(plan.seed, plan.split, plan.number, plan.keyframes)
    else:
        world = reenact(motion, scene_generator(*plan.stream, 0))
    hits: list[_Hits] = []
    for k in range(plan.keyframes):
        hits.append(_write_keyframe(plan, world, k, out, lidar, version))
        tick()
    tables = scene_tables(plan, world, hits if lidar else None, version)
    part = out / _PARTS / f"{plan.name}.json"
    write_json(part, {"tables": tables, "annotations": annotations(plan, world)}, indent=None)


class _Hits(NamedTuple):
    """What a sweep tells of the boxes, see `Scan`; nothing without LiDAR."""

    box: np.ndarray = np.empty(0)
    shown: np.ndarray = np.empty(0)


def _write_keyframe(
    plan: ScenePlan, world: SceneWorld, k: int, out: Path, lidar: bool, version: str
) -> _Hits:
    """Write a keyframe's labels and cloud, unless a run that was interrupted has."""
    mark = out / _PARTS / f"{plan.name}-{k}.npz"
    if mark.is_file():
        return _Hits(**read_npz(mark, _Hits._fields))
    _write_labels(plan, world, k, out)
    hits = _Hits()
    if lidar:
        sweep = _sweep(plan, world, k)
        _write_array(out / plan.cloud_path(k), sweep.points)
        _write_array(out / plan.lidarseg_path(k, version), sweep.lidarseg)
        hits = _Hits(sweep.box, sweep.shown)
    write_npz(mark, hits._asdict())
    return hits


def _write_labels(plan: ScenePlan, world: SceneWorld, k: int, out: Path) -> None:
    semantics = world.labels(k)
    save_labels(out / plan.labels_path(k), semantics, *visibility(semantics))


def _sweep(plan: ScenePlan, world: SceneWorld, k: int) -> Scan:
    which, kinds, feet, yaws = world.boxes_in_ego(k)
    # Its own stream of numbers: labels do not depend on whether there is a LiDAR.
    rng = scene_generator(*plan.stream, 1000 + k)
    boxes = (kinds, feet, yaws, world.sizes[which])
    return scan(world.columns, world.ego_to_global(k), world.eyes[k], *boxes, rng)


def _write_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(array.tobytes())
