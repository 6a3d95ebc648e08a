"""Pasts that aren't as they should be, and how much of its score a forecast keeps with them.

A disturbance changes what rows are shown; the truth stays, but for the mirror, where it's mirrored
too. What it draws depends on the seed, the clip and its place in `DISTURBANCES` alone: it is the same
for every row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.data.clips import ClipDataset, FrameReader
from occdistill.data.occ3d import FREE, Grid
from occdistill.data.poses import invert, trajectory_from_poses
from occdistill.data.resample import warp
from occdistill.data.voxelize import Sweep
from occdistill.errors import UserError
from occdistill.evaluation.doubt import Table, pooled
from occdistill.latents.cache import mirrored, mirrored_motion
from occdistill.seeds import stream

Item = dict[str, Any]  # of a ClipDataset
SHARE = 0.25  # of the frames that are dropped, of the frames and the labels that are swapped
LOST = 0.1  # of the LiDAR's returns
METRES, DEGREES = 0.1, 1.0  # standard deviation of a past pose


def mirror(item: Item) -> Item:
    """Left and right exchanged, in the past and in the truth: an equally possible street."""
    poses, trajectory = mirrored_motion(item["poses"], item["trajectory"])
    voxels = {k: v for k, v in item.items() if k in ("past", "future") or k.startswith("mask_")}
    seen = {k: mirrored(v) for k, v in voxels.items()}
    return {**item, **seen, "poses": poses, "trajectory": trajectory}


def _some(count: int, rng: np.random.Generator) -> list[int]:
    """A quarter of `count` places, at least one."""
    return sorted(rng.choice(count, max(1, round(SHARE * count)), replace=False).tolist())


def drop_frames(item: Item, rng: np.random.Generator, grid: Grid) -> Item:
    """A quarter of the past frames are lost. The last one before stands in, moved by the ego's
    motion, which goes on being known; before the first that is left, that one.
    """
    past, poses = item["past"].clone(), item["poses"].double()
    lost = _some(len(past), rng)
    left = [i for i in range(len(past)) if i not in lost]
    for i in lost:
        other = max((k for k in left if k < i), default=min(left))
        to_other = invert(poses[other]) @ poses[i]
        past[i] = warp(past[other][None], to_other[None], grid)[0]
    return {**item, "past": past}


def swap_labels(item: Item, rng: np.random.Generator) -> Item:
    """In a quarter of the past frames, a quarter of the filled voxels change labels among each
    other.
    """
    past = item["past"].clone()
    for i in _some(len(past), rng):
        filled = np.flatnonzero((past[i] != FREE).numpy())
        chosen = rng.choice(filled, round(SHARE * len(filled)), replace=False)
        flat = past[i].view(-1)
        flat[chosen] = flat[rng.permutation(chosen)]
    return {**item, "past": past}


def pose_noise(item: Item, rng: np.random.Generator) -> Item:
    """Every past pose but the newest is off by 0.1 m along and across and by 1° of yaw (standard
    deviations); the newest is where everything is seen from. The steps between frames follow.
    """
    poses, last = item["poses"].clone(), len(item["past"]) - 1
    for i in range(last):
        error = np.eye(4)
        angle = np.radians(DEGREES) * rng.standard_normal()
        error[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        error[:2, 3] = METRES * rng.standard_normal(2)
        poses[i] = poses[i] @ torch.from_numpy(error).to(poses)
    trajectory = item["trajectory"].clone()
    trajectory[:last] += (_steps(poses) - _steps(item["poses"]))[:last]
    return {**item, "poses": poses, "trajectory": trajectory}


def _steps(poses: Tensor) -> Tensor:
    return trajectory_from_poses(poses[None])[0]


def rain(sweep: Sweep, rng: np.random.Generator) -> Sweep:
    """A tenth of the returns are from drops: half of them are lost, the others come from anywhere on
    the way, with the label that they would have had.
    """
    wet, lost = rng.random(len(sweep.points)) < LOST, rng.random(len(sweep.points)) < 0.5
    points = sweep.points.copy()
    shortened = np.flatnonzero(wet & ~lost)
    points[shortened, :3] *= rng.random((len(shortened), 1), np.float32)
    kept = ~(wet & lost)
    return sweep._replace(
        points=points[kept], labels=None if sweep.labels is None else sweep.labels[kept]
    )


class _Rainy(FrameReader):
    """A reader whose sweeps went through the rain."""

    def __init__(self, reader: FrameReader, rng: np.random.Generator) -> None:
        self.__dict__.update(vars(reader))
        self.rng = rng

    def sweeps(self, *where: Any) -> list[Sweep]:
        return [rain(sweep, self.rng) for sweep in super().sweeps(*where)]


def _in_the_rain(dataset: ClipDataset, index: int, rng: np.random.Generator) -> Item:
    wet = copy.copy(dataset)
    wet.reader = _Rainy(dataset.reader, rng)
    return wet[index]


Change = Callable[[ClipDataset, int, np.random.Generator], Item]
DISTURBANCES: dict[str, Change] = {
    "mirror": lambda clips, i, rng: mirror(clips[i]),
    "frames": lambda clips, i, rng: drop_frames(clips[i], rng, clips.grid),
    "labels": lambda clips, i, rng: swap_labels(clips[i], rng),
    "poses": lambda clips, i, rng: pose_noise(clips[i], rng),
    "rain": _in_the_rain,
}


class Disturbed(Dataset):
    """A data set as one disturbance leaves it; all but the items is the data set's own.

    Args:
        dataset: of the clips.
        name: of the disturbance.
        seed: of what it draws.

    Attributes:
        alike: whether a keyframe looks alike in all clips; it doesn't.

    Raises:
        UserError: rain, and the past isn't from LiDAR.
    """

    alike = False

    def __init__(self, dataset: ClipDataset, name: str, seed: int = 0) -> None:
        if name == "rain" and dataset.reader.past_from != "lidar":
            raise UserError("--disturb rain needs a past from LiDAR, and data.past_from is 'occ3d'")
        self.dataset, self.name, self.seed = dataset, name, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["dataset"], name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        """The clip, disturbed."""
        rng = stream(self.seed, list(DISTURBANCES).index(self.name), index)
        return DISTURBANCES[self.name](self.dataset, index, rng)


def add_kept(records: Sequence[dict], name: str, after: Sequence[dict]) -> None:
    """Say in the `measures` of rows of `report.json` what they score disturbed, and before.

    Args:
        records: undisturbed; get `disturbed`: disturbance, or `none`, to `mIoU` and `IoU`, the
            protocol's averages, and `Brier skill` of whether a voxel is filled, all horizons
            together, over the undisturbed rule, where futures were drawn.
        name: of the disturbance.
        after: the same rows, disturbed; rows that aren't here get nothing.
    """
    found = {_key(record): record for record in after}
    for record in records:
        if _key(record) in found:
            kept = record["measures"].setdefault("disturbed", {"none": _scores(record, record)})
            kept[name] = _scores(found[_key(record)], record)


def _key(record: dict) -> tuple:
    return record["model"], record["nfe"], record["protocol"]


def _scores(record: dict, before: dict) -> dict[str, float]:
    scores = {metric: record["headline"][metric] for metric in ("mIoU", "IoU")}
    if "probability" in record["measures"]:
        own, rule = (r["measures"]["probability"]["scenes"]["all"] for r in (record, before))
        scores["Brier skill"] = pooled({s: [own[s][0], rule[s][1]] for s in rule})
    return scores


def tables(rows: Sequence[dict]) -> list[Table]:
    """What rows of `report.json` keep, where they were disturbed."""
    disturbed = [(row, (row.get("measures") or {}).get("disturbed")) for row in rows]
    found = [(row, scores) for row, scores in disturbed if scores]
    if not found:
        return []
    names = [name for name in found[0][1] if name != "none"]
    body = [
        [row["model"], row["nfe"], score, before, *(_kept(scores[n][score], before) for n in names)]
        for row, scores in found
        for score, before in scores["none"].items()
    ]
    about = (
        "Scores with a disturbed past, and the share that is kept. `mirror`: left and right exchanged, "
        "in the truth too; `frames`: a quarter of the past frames lost, the one before moved into "
        "their place; `labels`: in a quarter of the past frames a quarter of the filled voxels change "
        f"labels among each other; `poses`: past poses off by {METRES:g} m and {DEGREES:g}°; `rain`: a "
        "tenth of the LiDAR's returns lost or shortened. Brier skill is of whether a voxel is filled, "
        "over the undisturbed rule."
    )
    return [Table("Disturbed", about, ["model", "NFE", "score", "undisturbed", *names], body)]


def _kept(value: float | None, before: float | None) -> str | None:
    """`55.20 (96 %)`; the share only of what was above 0."""
    if value is None:
        return None
    return f"{value:.2f}" + (f" ({100 * value / before:.0f} %)" if before and before > 0 else "")
