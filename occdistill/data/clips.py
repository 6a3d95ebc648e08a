"""Windows of past and future keyframes as a torch Dataset."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.data.contents import checksums
from occdistill.data.occ3d import GridTransform, load_labels, load_semantics
from occdistill.data.poses import invert
from occdistill.data.scenes import Keyframe, Scene, load_index
from occdistill.data.tables import blob_folders
from occdistill.data.voxelize import NEAR, Box, Layout, Merged, Sweep, merge, read_sweep
from occdistill.errors import MAKE_WORLD, UserError
from occdistill.types import Count, Whole
from occdistill.untrusted import inside

PastFrom = Literal["occ3d", "lidar"]
_log = logging.getLogger(__name__)


class ClipDataset(Dataset):
    """Every window of `past + future` consecutive keyframes that stays inside one scene.

    Args:
        dataroot, version, split: as for `load_index`.
        past, future: keyframes (0.5 s apart) that are given and that are to be forecast.
        stride: keyframes between the starts of two windows of a scene.
        transform: crop and coarsening of the Occ3D grid.
        past_from: what the past is made of: "occ3d" labels, or "lidar", the labelled points of up to
            `merge` keyframes seen so far. The future is always Occ3D labels.
        masks: add Occ3D's visibility masks of the future, and from LiDAR what the past has
            observed.
        future_poses: False leaves everything about the future motion out of an item.
        merge: keyframes merged into one LiDAR voxel grid, the newest and those before it.
        layout: of the LiDAR clouds, see `load_points`.
        own_car: where returns are the own car's, see `read_sweep`.
        skip_bad_frames: leave out the clips that hold a keyframe with a `fault`, instead of
            refusing all.

    Attributes:
        scenes: scenes of at least one window.
        skipped: names of the scenes that are too short.
        bad_frames: keyframes with a fault, and `clips_left_out` for them.
        clips: (index into `scenes`, first keyframe) of each window.
        grid: the grid of the items.
        version: of the tables.
        fingerprint: identifies keyframes, files, grid and `past_from`: what a cache of encodings
            depends on.
    """

    def __init__(
        self,
        dataroot: str | os.PathLike,
        version: str = "v1.0-trainval",
        split: str = "train",
        past: Count = 4,
        future: Whole = 6,
        stride: Count = 1,
        transform: GridTransform = GridTransform(),  # noqa: B008 - frozen
        past_from: PastFrom = "occ3d",
        masks: bool = False,
        future_poses: bool = True,
        merge: Count = 5,
        layout: Layout = "xyzir",
        own_car: Box = NEAR,
        skip_bad_frames: bool = False,
    ) -> None:
        if past < 1 or future < 0 or stride < 1:
            raise UserError(
                f"a window of {past} past and {future} future keyframes at stride {stride} is"
                " empty; set past and stride to at least 1"
            )
        self.past, self.future, self.masks, self.future_poses = past, future, masks, future_poses
        self.version = version
        scenes = load_index(dataroot, version, split, skip_bad_frames)
        length = past + future
        self.scenes = [scene for scene in scenes if len(scene.keyframes) >= length]
        self.skipped = [scene.name for scene in scenes if len(scene.keyframes) < length]
        if not self.scenes:
            raise UserError(
                f"all {len(scenes)} scenes of split {split!r} in {dataroot} are shorter than a clip"
                f" of {length} keyframes; shorten past or future"
            )
        if self.skipped:
            _log.warning("%s: %d scenes are shorter than a clip", split, len(self.skipped))
        windows = [
            (index, start)
            for index, scene in enumerate(self.scenes)
            for start in range(0, len(scene.keyframes) - length + 1, stride)
        ]
        self.clips = [
            (index, start)
            for index, start in windows
            if not any(f.fault for f in self.scenes[index].keyframes[start : start + length])
        ]
        self.bad_frames = {
            "keyframes": sum(f.fault is not None for scene in scenes for f in scene.keyframes),
            "clips_left_out": len(windows) - len(self.clips),
        }
        if self.bad_frames["keyframes"]:
            _log.warning(
                "%s: %d keyframes cannot be used; %d of %d clips are left out", split,
                self.bad_frames["keyframes"], self.bad_frames["clips_left_out"], len(windows),
            )  # fmt: skip
        if not self.clips:
            raise UserError(
                f"every clip of split {split!r} in {dataroot} holds a keyframe that cannot be used;"
                " `python tools/doctor.py` says why"
            )
        self.reader = FrameReader(dataroot, transform, past_from, merge, layout, own_car)
        self.grid = transform.grid
        self.fingerprint = self.reader.fingerprint(self.scenes)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """Read one clip.

        Returns:
            past uint8 (P, X, Y, Z) and future uint8 (F, X, Y, Z) class ids, each in its own ego
            frame; poses float32 (P+F, 4, 4), frame → newest past ego frame; trajectory float32
            (P+F, 2), LiDAR displacement to the next keyframe; index; with `masks`, mask_lidar and
            mask_camera uint8 (F, X, Y, Z) and, from LiDAR, observed uint8 (P, X, Y, Z). Without
            `future_poses`, poses is (P, 4, 4) and trajectory (P-1, 2): entry P-1 is already the
            first step into the future.
        """
        scene_index, start = self.clips[index]
        scene, present = self.scenes[scene_index], start + self.past
        poses, trajectory = self.motion(index)
        if not self.future_poses:
            poses, trajectory = poses[: self.past], trajectory[: self.past - 1]
        item = {
            "poses": torch.from_numpy(poses),
            "trajectory": torch.from_numpy(trajectory),
            "index": index,
        }
        if self.masks and self.reader.past_from == "lidar":
            past, seen = self.reader.merged(scene, start, present)
            item["observed"] = torch.from_numpy(seen)
        else:
            past = self.reader.past(scene, start, present)
        item["past"] = torch.from_numpy(past)
        future = [
            self.reader.labels(frame, self.masks) for frame in self.frames(index)[self.past :]
        ]
        for name, arrays in zip(("future", "mask_lidar", "mask_camera"), zip(*future)):
            item[name] = torch.from_numpy(np.stack(arrays))
        return item

    def clip_id(self, index: int) -> str:
        """Name a clip by its scene and its newest past keyframe."""
        scene, start = self.clips[index]
        scene = self.scenes[scene]
        return f"{scene.name}/{scene.keyframes[start + self.past - 1].token}"

    def frames(self, index: int) -> list[Keyframe]:
        """The P+F keyframes of a clip."""
        scene, start = self.clips[index]
        return self.scenes[scene].keyframes[start : start + self.past + self.future]

    @cached_property
    def places(self) -> list[tuple[Scene, int]]:
        """Scene and number of every keyframe, scene by scene: the rows of tables of keyframes."""
        return [(scene, k) for scene in self.scenes for k in range(len(scene.keyframes))]

    def rows(self, index: int) -> tuple[slice, slice]:
        """Rows of a clip's past and of its future in tables of all keyframes, see `places`."""
        scene, start = self.clips[index]
        first = sum(len(s.keyframes) for s in self.scenes[:scene]) + start
        present = first + self.past
        return slice(first, present), slice(present, present + self.future)

    def motion(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A clip's poses float32 `(P+F, 4, 4)`, frame to newest past ego frame, and its trajectory
        float32 `(P+F, 2)`; no voxels are read.
        """
        frames = self.frames(index)
        to_global = np.stack([frame.ego_to_global for frame in frames])
        poses = invert(to_global[self.past - 1]) @ to_global
        return poses.astype(np.float32), np.stack([frame.trajectory for frame in frames])


class FrameReader:
    """Reads keyframes from disk onto one grid; datasets and the live runner share it.

    Args:
        dataroot, transform, past_from, merge, layout, own_car: as for `ClipDataset`.
    """

    def __init__(
        self,
        dataroot: str | os.PathLike,
        transform: GridTransform = GridTransform(),  # noqa: B008 - frozen
        past_from: PastFrom = "occ3d",
        merge: int = 5,
        layout: Layout = "xyzir",
        own_car: Box = NEAR,
    ) -> None:
        if past_from not in get_args(PastFrom):
            raise UserError(f"past_from is {past_from!r}; choose occ3d or lidar")
        self.root = Path(dataroot)
        self.transform, self.past_from, self.merge = transform, past_from, merge
        self.layout, self.own_car = layout, tuple(own_car)

    def past(self, scene: Scene, start: int, stop: int) -> np.ndarray:
        """What is known at keyframes `start` … `stop - 1`: class ids uint8 (stop-start, X, Y, Z)."""
        if self.past_from == "occ3d":
            return np.stack([self.labels(frame)[0] for frame in scene.keyframes[start:stop]])
        return self.merged(scene, start, stop).voxels

    def merged(self, scene: Scene, start: int, stop: int) -> Merged:
        """From LiDAR, `past` and where the rays went: each uint8 (stop-start, X, Y, Z).

        A keyframe sees its own sweep and up to `merge - 1` before it, none after, and none from
        before a keyframe with a fault, nor that one's.
        """
        first = max(0, start - self.merge + 1)
        sweeps = self.sweeps(scene, first, stop)
        grids = []
        for i in range(start, stop):
            oldest = max(first, i - self.merge + 1)
            broken = [k + 1 for k in range(oldest, i + 1) if scene.keyframes[k].fault]
            oldest = max([oldest, *broken])
            known = sweeps[oldest - first : i - first + 1]
            grids.append(merge(known, scene.keyframes[i].ego_to_global))
        voxels, seen = zip(*grids)
        return Merged(self.transform(np.stack(voxels)), self.transform.mask(np.stack(seen)))

    def labels(self, frame: Keyframe, masks: bool = False) -> tuple[np.ndarray, ...]:
        """Occ3D labels uint8 (X, Y, Z), and with `masks` also mask_lidar and mask_camera."""
        path = self._path(frame, "labels")
        if not masks:
            return (self.transform(load_semantics(path)),)
        semantics, *seen = load_labels(path)
        return (self.transform(semantics), *map(self.transform.mask, seen))

    def sweeps(self, scene: Scene, start: int, stop: int) -> list[Sweep]:
        """Labelled LiDAR sweeps of keyframes `start` … `stop - 1`."""
        return [
            read_sweep(
                self._path(frame, "lidar"), self._path(frame, "lidarseg"),
                frame.lidar_to_global, self.layout, self.own_car,
            )
            for frame in scene.keyframes[start:stop]
        ]  # fmt: skip

    def fingerprint(self, scenes: list[Scene]) -> str:
        """64 hex digits of tokens, poses, contents of the files read, grid and `past_from`.

        Raises a `UserError` that counts the files that are not there.
        """
        lidar = (self.merge, self.layout, self.own_car) if self.past_from == "lidar" else 0
        what = repr((self.transform, self.past_from, lidar))
        digest = hashlib.sha256(what.encode())
        frames = [(scene, frame) for scene in scenes for frame in scene.keyframes]
        for kind in ("labels",) if self.past_from == "occ3d" else ("labels", "lidar", "lidarseg"):
            marks = checksums(self.root, [getattr(frame, kind) for _, frame in frames])
            if missing := marks.count(None):
                scene, frame = frames[marks.index(None)]
                where = getattr(frame, kind) or f"{_FOLDERS[kind]} for {scene.name}/{frame.token}"
                blobs = blob_folders(self.root)
                moved = f"; move what is in {blobs[0]} up into {self.root}" if blobs else ""
                raise UserError(
                    f"{missing} of {len(frames)} {kind} files are missing, the first being"
                    f" {self.root / where}; put {_DOWNLOADS[kind]} there, or make the embedded"
                    f" world with `{MAKE_WORLD}`{moved}"
                )
            for (_, frame), mark in zip(frames, marks):
                digest.update(f"{frame.token} {mark}\n".encode())
        for _, frame in frames:
            if frame.fault:
                digest.update(b"fault")
            for motion in (frame.ego_to_global, frame.lidar_to_ego, frame.trajectory):
                digest.update(np.ascontiguousarray(motion, np.float64))
        return digest.hexdigest()

    def _path(self, frame: Keyframe, kind: str) -> Path:
        path = getattr(frame, kind)
        if path is None:
            raise UserError(
                f"keyframe {frame.token} of {self.root} has no {kind} file;"
                f" put {_DOWNLOADS[kind]} under the data root"
            )
        return inside(self.root, path, f"keyframe {frame.token}")


_FOLDERS = {"labels": "gts", "lidar": "samples/LIDAR_TOP", "lidarseg": "lidarseg"}
_DOWNLOADS = {
    "labels": "Occ3D-nuScenes' gts folder",
    "lidar": "nuScenes' LIDAR_TOP keyframes",
    "lidarseg": "nuScenes-lidarseg",
}
