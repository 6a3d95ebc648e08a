"""A folder of unlabelled sweeps, of anybody's LiDAR, as clips and as saved forecasts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from occdistill.build.builders import build_transform
from occdistill.build.lineup import Contender
from occdistill.build.showing import ShownClip, forecasts, from_packets
from occdistill.data.clouds import (
    check_motion,
    cloud_files,
    guessed_classes,
    mounting,
    read_cloud,
    read_poses,
    sensor_height,
)
from occdistill.data.voxelize import Sweep
from occdistill.errors import UserError
from occdistill.evaluation.predictions import Manifest, save_prediction
from occdistill.runtime.sources import Packet, sweeps


@dataclass(frozen=True)
class OwnSweeps:
    """Sweeps on a model's grid, each merged with some before it, 0.5 s apart, as in training.

    Attributes:
        scene: what to call them: the folder's name.
        packets: one per sweep; a sweep is read when its packet is.
        step: sweeps in half a second.
        past: keyframes of a clip.
        told: what was found or assumed, for the user.
    """

    scene: str
    packets: list[Packet]
    step: int
    past: int
    told: str

    @property
    def first(self) -> int:
        """The first sweep that has a whole past."""
        return (self.past - 1) * self.step

    def clip(self, number: int | None, future: int) -> ShownClip:
        """The clip whose newest sweep has this number; None: the newest of all.

        The ego is taken to go on as it does. Where the sweeps to come are there as well, they are
        the clip's future; `ShownClip.future` of unlabelled sweeps is what was seen then, not the truth.

        Raises:
            UserError: no such sweep, or too little before it.
        """
        count = len(self.packets)
        number = count - 1 if number is None else number
        if not self.first <= number < count:
            raise UserError(
                f"no clip of sweep {number}: {self.past} frames half a second apart reach back from "
                f"sweep {self.first} to {count - 1} of {self.scene}"
            )
        clip = self._until(number, future)
        later = self.packets[number + self.step :: self.step][:future]
        if len(later) == future:
            clip = replace(clip, future=torch.stack([packet.voxels() for packet in later]))
        return clip

    def clips(self, future: int) -> Iterator[ShownClip]:
        """Those half a second apart, from the first on, without what was seen later."""
        for number in range(self.first, len(self.packets), self.step):
            yield self._until(number, future)

    def _until(self, number: int, future: int) -> ShownClip:
        window = self.packets[number - self.first : number + 1 : self.step]
        clip = from_packets(window, self.past).going_on(future)
        return replace(clip, name=f"{self.scene}/{clip.name.split('.')[0]}")


def own_sweeps(
    config: Config,
    folder: Path,
    poses: Path | None = None,
    layout: str | None = None,
    height: float | None = None,
    ahead: str = "x",
    rate: float = 10.0,
) -> OwnSweeps:
    """Read what is known of a folder of sweeps, and hold it against what they show.

    Args:
        config: of the model: its grid, its past, and how many sweeps it merges.
        folder: of sweeps, see `occdistill.data.clouds`.
        poses: of the sensor; None: `poses.txt` in the folder, or none, and the car stands.
        layout: of raw files.
        height: of the sensor above the ground, metres; None: as the sweeps show.
        ahead: the sensor's axis that points to the car's front.
        rate: sweeps per second, a multiple of 2.

    Raises:
        UserError: what is said can't be right, or there are too few sweeps.
    """
    step = round(rate / 2)
    if step < 1 or abs(rate - 2 * step) > 1e-6:
        raise UserError(
            f"--rate {rate:g}: frames must lie half a second apart, so sweeps must come at a multiple "
            "of 2 Hz; leave some out, or resample them"
        )
    files, past = cloud_files(folder), config.data.past
    if len(files) <= (past - 1) * step:
        raise UserError(
            f"{folder} holds {len(files)} sweeps, and a past of {past} frames half a second apart "
            f"needs {(past - 1) * step + 1} at {rate:g} Hz"
        )

    @lru_cache(8)
    def cloud(i: int) -> np.ndarray:
        return read_cloud(files[i], layout)

    beside = folder / "poses.txt"
    poses = beside if poses is None and beside.is_file() else poses
    placed = None if poses is None else read_poses(poses, len(files))
    some = sorted({0, len(files) // 2, len(files) - 1})
    found = sensor_height([cloud(i) for i in some], height)
    check_motion(cloud, placed, len(files), step, ahead)
    told = f"{len(files)} sweeps at {rate:g} Hz, sensor {found:.2f} m above the ground"
    told += ", the car stands (no poses)" if placed is None else f", poses of {poses}"
    placed = np.tile(np.eye(4), (len(files), 1, 1)) if placed is None else placed

    merge = config.data.get("merge", 5)

    @lru_cache(merge * step)
    def read(i: int) -> Sweep:
        points = read_cloud(files[i], layout)
        return Sweep(points, guessed_classes(points, found), placed[i])

    names, where = [file.name for file in files], mounting(found, ahead)
    grid = build_transform(config)
    times = np.arange(len(files)) / rate
    packets = sweeps(read, names, placed, times, step, grid, merge, 0, where, apart=step)
    return OwnSweeps(folder.resolve().name, list(packets), step, past, told)


def save_forecasts(
    folder: Path, own: OwnSweeps, entry: Contender, config: Config, seed: int = 0
) -> int:
    """Forecast from every half second on and write it as `tools/score.py` reads it.

    Args:
        folder: where to; `<scene>/<sweep>.npz` and a manifest.
        own: the sweeps.
        entry: who forecasts.
        config: of its grid.
        seed: of the noise.

    Returns:
        How many forecasts there are.
    """
    f, data = entry.forecaster, config.data
    grid = {"crop": data.get("crop"), "coarsen": data.get("coarsen", 1)}
    facts = {"checkpoint": entry.checkpoint, "dtype": str(f.dtype).removeprefix("torch.")}
    Manifest(entry.title, f.nfe, f.guidance, "none", seed=seed, **facts, **grid).save(folder)
    count = 0
    for clip in own.clips(f.codec.future):
        (found,) = forecasts([entry], clip, 1, seed).values()
        save_prediction(folder, clip.name, found.futures[0])
        count += 1
    return count
