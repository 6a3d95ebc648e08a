"""A clip of any source, what forecasters make of it, and that as panels to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from occdistill.build.builders import build_dataset, build_transform
from occdistill.build.lineup import Contender
from occdistill.data.poses import displacements, extrapolate, invert, trajectory_from_poses
from occdistill.errors import UserError
from occdistill.evaluation.baselines import ego_warp
from occdistill.evaluation.confusion import confusion
from occdistill.evaluation.metrics import binary_iou, mean_iou, tally
from occdistill.runtime.estimate import announced
from occdistill.runtime.planner import Planner
from occdistill.runtime.sources import Packet, synthetic
from occdistill.runtime.spread import spread
from occdistill.seeds import torch_generator
from occdistill.visualization.page import Panel
from occdistill.visualization.palette import levels

SYNTHETIC = "synthetic"  # the source that needs no files


@dataclass(frozen=True)
class ShownClip:
    """What a page shows.

    Attributes:
        name: scene and newest keyframe.
        past: class ids uint8 `(P, X, Y, Z)`, each frame in its own ego frame.
        poses: frame to newest past ego frame, float32 `(P + F, 4, 4)`.
        trajectory: displacements of the LiDAR to the next frame, float32 `(P + F, 2)`, metres.
        future: the truth, uint8 `(F, X, Y, Z)`; None where nobody knows it.
    """

    name: str
    past: Tensor
    poses: Tensor
    trajectory: Tensor
    future: Tensor | None

    def going_on(self, frames: int) -> ShownClip:
        """The same as it is known when it happens: what the ego does next is its last motion."""
        past = self.poses[None, : len(self.past)]
        poses = torch.cat([past, extrapolate(past, frames)], dim=1)
        return replace(self, poses=poses[0], trajectory=trajectory_from_poses(poses)[0])


def recorded(config: Config, source: str | None, number: int, future: int, seed: int = 0) -> ShownClip:
    """A clip with its truth.

    Args:
        config: says what grid it has.
        source: `synthetic`, a street of the embedded world, made on the fly; else clips of the
            config's validation split.
        number: of the clip.
        future: keyframes to forecast.
        seed: of the street.

    Raises:
        UserError: no such data, or no such clip.
    """
    past = config.data.past
    if source == SYNTHETIC:
        frames = list(synthetic(build_transform(config), seed, scenes=1))
        _there(number, len(frames) - past - future + 1, "drive")
        window = frames[number : number + past + future]
        clip = from_packets(window, past)
        truth = torch.stack([frame.voxels() for frame in window[past:]])
        return replace(clip, future=truth)
    dataset = build_dataset(config, "val")
    _there(number, len(dataset), "split")
    item = dataset[number]
    names = ("past", "poses", "trajectory", "future")
    return ShownClip(dataset.clip_id(number), *(item[name] for name in names))


def _there(number: int, count: int, where: str) -> None:
    if not 0 <= number < count:
        raise UserError(f"no clip {number}; the {where} has clips 0 to {count - 1}")


def from_packets(packets: Sequence[Packet], past: int) -> ShownClip:
    """A clip of live frames, 0.5 s apart; the first `past` are read, of the others the poses."""
    to_global = np.stack([packet.ego_to_global for packet in packets])
    mounting = np.stack([packet.lidar_to_ego for packet in packets])
    steps = np.pad(displacements(to_global @ mounting), ((0, 1), (0, 0)))
    poses = invert(to_global[past - 1]) @ to_global
    voxels = [p.voxels() if callable(p.voxels) else p.voxels for p in packets[:past]]
    motion = (torch.from_numpy(x.astype(np.float32)) for x in (poses, steps))
    return ShownClip(packets[past - 1].name, torch.stack(voxels), *motion, None)


class Forecast(NamedTuple):
    """What one forecaster makes of a clip: class ids uint8 `(K, F, X, Y, Z)` of K futures, and how
    far they agree, float32 `(F, X, Y, Z)` in [0, 1] and nats; None for a single one.
    """

    futures: np.ndarray
    occupancy: np.ndarray | None = None
    entropy: np.ndarray | None = None


def forecasts(
    entries: Sequence[Contender],
    clip: ShownClip,
    samples: int = 1,
    seed: int = 0,
    planner: Planner | None = None,
) -> dict[str, Forecast]:
    """By caption. All start from the same noise, and from one condition; says what long ones take.

    Args:
        entries: of `lineup`, with one encoder.
        clip: the same for all.
        samples: futures of all but the teacher.
        seed: of the noise.
        planner: samples a plan for each future, instead of the clip's.
    """
    result, past, poses = {}, clip.past[None], clip.poses[None]
    counts = [1 if entry.model == "teacher" else samples for entry in entries]
    for entry in entries:
        entry.forecaster.planner = planner
    wanted = [(entry.forecaster, count) for entry, count in zip(entries, counts)]
    with announced(wanted, len(clip.past), planner is not None) as forecasters:
        latents = forecasters[0].frames(past)
        if planner is None:
            condition = forecasters[0].condition(past, poses, clip.trajectory[None], latents)
        for entry, forecaster, count in zip(entries, forecasters, counts):
            generator = torch_generator(seed)
            if planner is None:
                futures = forecaster.futures(condition, count, generator)
            else:
                known = poses[:, : len(clip.past)]
                futures = forecaster.planned(past, known, latents, count, generator)
            futures = futures.view(count, -1, *clip.past.shape[1:])
            agreement = []
            if count > 1:
                agreement = [part[0].cpu().numpy() for part in spread(futures[None])]
            nfe = forecaster.nfe
            title = f"{entry.title}, {nfe} step{'s' * (nfe > 1)}"
            result[title] = Forecast(futures.cpu().numpy(), *agreement)
    return result


def carried_on(clip: ShownClip, grid) -> np.ndarray:
    """The strongest forecast without a model: the newest frame from each future place, its objects
    moved on; uint8 `(F, X, Y, Z)`.
    """
    future = len(clip.poses) - len(clip.past)
    return ego_warp(clip.past[None], clip.poses[None], future, grid, carry=True)[0].numpy()


def scores(future: np.ndarray, truth: np.ndarray) -> list[str]:
    """IoU and mIoU of each future frame in percent, in words."""
    counts = tally(confusion(future, truth))
    pairs = zip(100 * mean_iou(counts), 100 * binary_iou(counts))
    return [f"mIoU {m:.1f}, IoU {i:.1f}" for m, i in pairs]


def layers(forecast: Forecast) -> dict[str, np.ndarray]:
    """How likely several futures fill a voxel, and how far their classes disagree, of the most that
    so many can, where any fills it: ids of `palette.levels`, uint8 `(F, X, Y, Z)`, by caption.
    """
    filled, count = forecast.occupancy > 0, len(forecast.futures)
    doubt = forecast.entropy / np.log(count)
    return {
        f"probability of being filled, {count} futures": levels(forecast.occupancy, filled),
        f"entropy of {count} futures' classes": levels(doubt, filled),
    }


def panels(
    clip: ShownClip,
    found: Mapping[str, Forecast],
    rule: np.ndarray,
    first: str = "truth",
    shown: int = 3,
) -> list[Panel]:
    """What came and forecasts; and, to be switched on, the errors, the rule, and what is likely.

    Args:
        clip: of the forecasts.
        found: of `forecasts`.
        rule: of `carried_on`.
        first: what to call the clip's future; forecasts are scored where it is the `truth`.
        shown: panels at most that are shown at first.
    """
    truth = None if clip.future is None else clip.future.numpy()
    known = truth is not None and first == "truth"

    def notes(future: np.ndarray) -> list[str]:
        return scores(future, truth) if known else []

    single = {name: forecast.futures[0] for name, forecast in found.items()}
    kind = "classes" if known else "height"
    result = [] if truth is None else [Panel(first, truth, kind)]
    for name, future in single.items():
        result.append(Panel(name, future, notes=notes(future), shown=len(result) < shown))
    if known:
        for name, future in single.items():
            room = len(result) < shown and name == [*single][-1]
            result.append(Panel(f"error: {name}", future, "error", notes(future), room))
    for name, forecast in found.items():
        if forecast.occupancy is not None:
            result.append(Panel(f"probability: {name}", forecast.occupancy, "probability"))
        for i, future in enumerate(forecast.futures[1:], 2):
            result.append(Panel(f"{name}, future {i}", future, notes=notes(future), shown=False))
    rule_notes = notes(rule)
    return [
        *result,
        Panel("no model: ego-warp, objects carried", rule, "classes", rule_notes, False),
    ]


def with_version(source: Path) -> dict[str, str]:
    """Config options that make a folder the data set, with the only tables that are in it."""
    names = sorted(path.name for path in source.glob("v1.0-*") if path.is_dir())
    if len(names) > 1:
        raise UserError(f"{source} has {', '.join(names)}: say which, --cfg-options data.version=…")
    version = {"data.version": names[0]} if names else {}
    return {"data.dataroot": str(source), **version}
