"""What `import occdistill` offers besides the `Forecaster`: load, score and draw clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import OCC3D, Grid, GridTransform
from occdistill.data.poses import extrapolate, invert
from occdistill.errors import UserError
from occdistill.evaluation.confusion import Voxels, confusion
from occdistill.evaluation.metrics import score as percentages
from occdistill.evaluation.metrics import tally
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.sources import synthetic
from occdistill.visualization import panels

PAST, FUTURE = 4, 6  # keyframes, where nobody says


class Clip(NamedTuple):
    """A window of keyframes 0.5 s apart, as a batch of one.

    Attributes:
        past: class ids uint8 `(1, P, X, Y, Z)`, each frame in its own ego frame.
        poses: of the past, ego to the newest past ego frame, float32 `(1, P, 4, 4)`.
        plan: of the future in the same frame, `(1, F, 4, 4)`: where the ego really went.
        future: class ids uint8 `(1, F, X, Y, Z)`: the truth.
    """

    past: Tensor
    poses: Tensor
    plan: Tensor
    future: Tensor

    def __repr__(self) -> str:
        shapes = (f"{name} {tuple(x.shape)}" for name, x in zip(self._fields, self))
        return f"Clip({', '.join(shapes)})"


def load_scene(
    forecaster: Forecaster | None = None,
    dataroot: str | Path | None = None,
    scene: str | None = None,
    *,
    version: str | None = None,
    split: str = "val",
    seed: int = 0,
) -> list[Clip]:
    """The clips of a scene, as a forecaster takes them.

    Args:
        forecaster: whose grid and lengths they have; None: Occ3D's grid, 4 past and 6 future
            keyframes.
        dataroot: a nuScenes + Occ3D folder; None: a street of the embedded world, made on the fly.
        scene: its name; None: the first of the split.
        version: of the tables; None: the only one that is there.
        split: of the data set.
        seed: of the street made on the fly.

    Raises:
        UserError: no such data, or no such scene of at least one clip.
    """
    past, future, grid = PAST, FUTURE, OCC3D
    if forecaster is not None:
        past = forecaster.past or PAST
        future, grid = forecaster.codec.future, forecaster.grid
    transform = _transform(grid)
    if dataroot is None:
        return _street(past, future, transform, seed)
    version = version or _version(Path(dataroot))
    clips = ClipDataset(dataroot, version, split, past, future, transform=transform)
    names = [one.name for one in clips.scenes]
    if scene is not None and scene not in names:
        shown = ", ".join(names[:5])
        raise UserError(f"no scene {scene} in {dataroot}; split {split!r} has {shown} …")
    number = 0 if scene is None else names.index(scene)
    chosen = (clips[i] for i, (of, _) in enumerate(clips.clips) if of == number)
    return [_clip(c["past"], c["future"], c["poses"]) for c in chosen]


def _street(past: int, future: int, transform: GridTransform, seed: int) -> list[Clip]:
    frames = list(synthetic(transform, seed, scenes=1))
    voxels = torch.stack([frame.voxels() for frame in frames])
    poses = np.stack([frame.ego_to_global for frame in frames])
    clips = []
    for now in range(past, len(frames) - future + 1):
        window = slice(now - past, now + future)
        relative = invert(poses[now - 1]) @ poses[window]
        relative = torch.from_numpy(relative.astype(np.float32))
        clips.append(_clip(voxels[window][:past], voxels[window][past:], relative))
    return clips


def _clip(past: Tensor, future: Tensor, poses: Tensor) -> Clip:
    return Clip(past[None], poses[None, : len(past)], poses[None, len(past) :], future[None])


def _transform(grid: Grid) -> GridTransform:
    """From Occ3D's grid to this one."""
    whole = grid.upper[0] == OCC3D.upper[0]
    coarsen = round(grid.voxel_size / OCC3D.voxel_size)
    return GridTransform(None if whole else grid.upper[0], coarsen)


def _version(root: Path) -> str:
    """The version whose tables are there; with annotations.json alone it doesn't matter."""
    names = sorted(path.name for path in root.glob("v1.0-*") if path.is_dir())
    if len(names) > 1:
        raise UserError(f"{root} has the tables of {', '.join(names)}: say which, as version=")
    return names[0] if names else "v1.0-trainval"


def constant_velocity(poses: Tensor | np.ndarray, frames: int = FUTURE) -> Tensor:
    """The plan of a car that goes on as it went in the last half second, turn included.

    Args:
        poses: past frame to the newest past frame, `(B, P, 4, 4)` with P >= 2, metres.
        frames: half seconds to go on.

    Returns:
        Future frame to the newest past frame, `(B, frames, 4, 4)`.

    Raises:
        ValueError: fewer than two poses, or no batch of them.
    """
    poses = torch.as_tensor(poses)
    if poses.ndim != 4 or poses.shape[2:] != (4, 4):
        raise ValueError(f"poses are {tuple(poses.shape)}, not (batch, frames, 4, 4)")
    return extrapolate(poses, frames)


def score(prediction: Voxels, truth: Voxels) -> dict[str, Any]:
    """IoU and mIoU of a forecast, under this project's protocol (`docs/evaluation.md`).

    Args:
        prediction: class ids uint8 `([B,] F, X, Y, Z)`; frame i is 0.5 (i + 1) s ahead.
        truth: of the same shape.

    Returns:
        Percent: `IoU` (occupied or free) and `mIoU` (mean over the 17 classes that occur in the
        truth) by horizon, `0.5s` to `3.0s`, and their `avg@1,2,3s`; `per_class` the same for each
        class; `absent` names the classes that don't occur. Clips of a batch are counted together.

    Raises:
        UserError: other shapes, or ids that are none.
    """
    prediction, truth = torch.as_tensor(prediction), torch.as_tensor(truth)
    if prediction.ndim not in (4, 5) or prediction.shape != truth.shape:
        raise UserError(
            f"a forecast {tuple(prediction.shape)} and a truth {tuple(truth.shape)} can't be"
            " compared: both must be (F, X, Y, Z), or batches of such"
        )
    if prediction.ndim == 4:
        prediction, truth = prediction[None], truth[None]
    return percentages(sum(tally(confusion(p, t)) for p, t in zip(prediction, truth)))


def draw(
    path: str | Path,
    past: Voxels,
    rows: Mapping[str, Voxels],
    grid: Grid,
    *,
    size: Sequence[int] = (480, 360),
    style: str = "3d",
) -> Path:
    """Draw forecasts of one clip side by side.

    Args:
        path: a `.gif`, which plays, or a `.png`, which has a line per row.
        past: class ids uint8 `([1,] P, X, Y, Z)`.
        rows: caption to class ids uint8 `([1,] F, X, Y, Z)`; the truth first.
        grid: where the voxels are: `forecaster.grid`.
        size: of a panel, pixels.
        style: `3d`, with Open3D (from above where that can't render), or `bev`.

    Returns:
        `path`.

    Raises:
        UserError: another file ending, or more than one clip.
    """
    frames = {name: _frames(voxels, name) for name, voxels in rows.items()}
    panels.save(path, _frames(past, "the past"), frames, grid, tuple(size), style)
    return Path(path)


def _frames(voxels: Voxels, what: str) -> np.ndarray:
    """Voxels `(F, X, Y, Z)` of one clip."""
    frames = torch.as_tensor(voxels).cpu().numpy()
    frames = frames[0] if frames.ndim == 5 and len(frames) == 1 else frames
    if frames.ndim != 4:
        raise UserError(f"{what} is {frames.shape}, not one clip (frames, X, Y, Z)")
    return frames
