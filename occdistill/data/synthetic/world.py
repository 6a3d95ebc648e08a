"""Write the embedded world to disk: a nuScenes dataset with Occ3D labels."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from occdistill.errors import UserError

from ..occ3d import save_labels
from .labels import visibility
from .simulate import SPLITS, SceneWorld, build_scene

VERSION = "v1.0-synthetic"
KEYFRAMES = 40
KEYFRAME_GAP = 500_000
"""Microseconds between keyframes."""
_STAMP = ".occdistill-world.json"
_FIRST_TIME = 1_533_000_000_000_000


def token(*parts: object) -> str:
    """A 32-digit hex token that depends on nothing but its parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class ScenePlan:
    """Which scene to make, and under which name."""

    seed: int
    split: str
    number: int
    name: str
    index: int
    keyframes: int = KEYFRAMES

    @property
    def token(self) -> str:
        """The scene's token."""
        return token(self.seed, self.split, self.number)

    def sample_token(self, k: int) -> str:
        """Token of keyframe k."""
        return token(self.token, "sample", k)

    def timestamp(self, k: int) -> int:
        """Time of keyframe k, microseconds."""
        return _FIRST_TIME + self.index * 120_000_000 + k * KEYFRAME_GAP

    def labels_path(self, k: int) -> str:
        """Label file of keyframe k, relative to the data root."""
        return f"gts/{self.name}/{self.sample_token(k)}/labels.npz"


def plan_scenes(scenes: int, val_scenes: int, seed: int, keyframes: int) -> list[ScenePlan]:
    """Train scenes, then val scenes; the n-th scene of a split does not depend on the counts."""
    splits = [("train", n) for n in range(scenes)] + [("val", n) for n in range(val_scenes)]
    return [
        ScenePlan(seed, split, number, f"scene-{index + 1:04d}", index, keyframes)
        for index, (split, number) in enumerate(splits)
    ]


def annotations(plan: ScenePlan, world: SceneWorld) -> dict:
    """The scene's entry in Occ3D's `annotations.json`."""
    last = plan.keyframes - 1
    return {
        plan.sample_token(k): {
            "timestamp": plan.timestamp(k),
            "ego_pose": {
                "translation": world.translation[k].tolist(),
                "rotation": world.rotation[k].tolist(),
            },
            "gt_path": plan.labels_path(k),
            "prev": plan.sample_token(k - 1) if k > 0 else "",
            "next": plan.sample_token(k + 1) if k < last else "",
        }
        for k in range(plan.keyframes)
    }


def _write_scene(plan: ScenePlan, out: Path) -> dict:
    world = build_scene(plan.seed, plan.split, plan.number, plan.keyframes)
    for k in range(plan.keyframes):
        semantics = world.labels(k)
        save_labels(out / plan.labels_path(k), semantics, *visibility(semantics))
    return {"annotations": annotations(plan, world)}


def _each(function, items: list, workers: int) -> Iterator:
    """Map in order, in this process or in `workers` others."""
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned, not forked: torch's and numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, items)


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
    """Write a world; see this package's docstring for what is in it.

    Parameters
    ----------
    out
        Folder to write; it must be empty, new, or an older world (with `overwrite`).
    scenes, val_scenes
        Number of training and validation scenes (default: a fifth as many, at least one).
    seed
        The same seed gives the same bytes.
    lidar
        Also write point clouds and their point labels.
    workers
        Processes; default: one per core.
    version
        Name of the folder of tables.
    keyframes
        Per scene, 2 a second.
    overwrite
        Replace an older world.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UserError
        If the folder holds something else, the disk is too full, or a number is not positive.
    """
    out = Path(out)
    val_scenes = max(1, scenes // 5) if val_scenes is None else val_scenes
    workers = workers or os.cpu_count() or 1
    plans = plan_scenes(scenes, val_scenes, seed, keyframes)
    out.mkdir(parents=True, exist_ok=True)
    infos: dict[str, dict] = {}
    jobs = _each(partial(_write_scene, out=out), plans, min(workers, len(plans)))
    for plan, result in zip(plans, tqdm(jobs, total=len(plans), desc="scenes", unit="scene")):
        infos[plan.name] = result["annotations"]
    names = {split: [p.name for p in plans if p.split == split] for split in SPLITS}
    (out / "splits.json").write_text(json.dumps(names, indent=1))
    (out / "annotations.json").write_text(
        json.dumps({"train_split": names["train"], "val_split": names["val"], "scene_infos": infos})
    )
    return out
