"""The frames of a live run, as a config's networks take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from occdistill.build.builders import build_transform
from occdistill.build.config import data_root
from occdistill.data.clips import FrameReader
from occdistill.data.scenes import load_index
from occdistill.errors import UserError
from occdistill.runtime.sources import Packet, lidar_folder, replay, synthetic

SOURCES = ("replay", "lidar", "folder", "synthetic")


def packets(
    config: Config,
    source: str = "replay",
    plan: int = 0,
    folder: Path | None = None,
    scene: str | None = None,
    rate: float = 2.0,
    seed: int = 0,
) -> Iterator[Packet]:
    """Frame after frame.

    Args:
        config: says what grid they have, and where the scenes are.
        source: `replay` (voxels of the validation scenes), `lidar` (their raw sweeps), `folder` or
            `synthetic` (the embedded world, made on the fly).
        plan: future poses that come with each frame.
        folder: of LiDAR sweeps.
        scene: this one only, of the validation scenes.
        rate: frames per second, of a folder or the embedded world.
        seed: of the embedded world.

    Raises:
        UserError: no such scene.
    """
    data, transform = config.data, build_transform(config)
    merge = data.get("merge", 5)
    lidar = {key: data[key] for key in ("layout", "own_car") if key in data}
    if source == "synthetic":
        return synthetic(transform, seed, rate, plan)
    if source == "folder":
        return lidar_folder(folder, transform, rate, merge, plan, **lidar)
    skip = data.get("skip_bad_frames", False)
    scenes = load_index(data_root(config), data.version, data.val_split, skip)
    if scene is not None:
        names = [one.name for one in scenes]
        if scene not in names:
            raise UserError(f"no scene {scene}; the split has {', '.join(names[:5])} …")
        scenes = [scenes[names.index(scene)]]
    kind = "lidar" if source == "lidar" else data.get("past_from", "occ3d")
    return replay(FrameReader(data.dataroot, transform, kind, merge, **lidar), scenes, plan)
