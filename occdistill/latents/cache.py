"""Encoded clips on disk: the frozen VAE sees each keyframe once, training never."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.arrays import open_arrays
from occdistill.checkpoint import fingerprint
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import MOVABLE
from occdistill.data.voxel_cache import VoxelCache
from occdistill.pieces import build_together
from occdistill.processes import first_rank_first

if TYPE_CHECKING:
    from occdistill.latents.codec import Codec

_ENCODE_BATCH = 16  # frames at a time


class LatentClips(Dataset):
    """The clips of a `ClipDataset` as scaled latents; the cache is built on first use, by all
    processes that belong together.

    Args:
        dataset: the clips.
        codec: encodes voxels and warps the past into future frames; its VAE says on which device.
        vae_fingerprint: of the VAE's weights.
        folder: of this cache.
        voxels_folder: under which the voxel caches lie.
        mirror: add each clip's mirror image (left and right exchanged), doubling the clips.
        dtype: of the latents on disk.

    Attributes:
        fingerprint: of what the cache was made from, for the checkpoints trained on it.

    Raises:
        UserError: if the cache in `folder` was made from another VAE, other data, another grid or
            conditioning (naming what differs), or is damaged.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        codec: Codec,
        vae_fingerprint: str,
        folder: str | Path,
        voxels_folder: str | Path,
        mirror: bool = False,
        dtype: type = np.float16,
    ) -> None:
        self.dataset, self.codec = dataset, codec
        self.fingerprint = dataset.fingerprint[:12]
        depends = {
            "vae": vae_fingerprint,
            "scale": codec.vae.scale,
            "data": dataset.fingerprint[:12],
            "grid": list(dataset.grid.shape),
            "windows": f"{len(dataset)} of {dataset.past}+{dataset.future}",
            "conditioning": codec.conditioning_class,
            "align": list(codec.align),
            "carry": codec.carry,
            "dtype": np.dtype(dtype).name,
            "moving": bool(codec.align),
        }
        if codec.aligned_by != "full":
            depends["aligned by"] = fingerprint(codec.aligner.encoder.state_dict())
        lidar = dataset.reader.past_from != "occ3d"
        with first_rank_first():
            self._voxels = VoxelCache(dataset, voxels_folder, "past")
            self._labels = VoxelCache(dataset, voxels_folder) if lidar else self._voxels
        self._images = []  # of the clips: as they are, and mirrored
        for image in range(1 + mirror):
            place = Path(folder) / ("mirrored" if image else "plain")
            depends["image"] = place.name
            self._encode_frames(place / "frames", depends, image, dtype)
            frames = open_arrays(place / "frames", depends)
            self._encode_clips(place / "clips", depends, image, dtype, frames["past"])
            self._images.append(frames | open_arrays(place / "clips", depends))

    def __len__(self) -> int:
        return len(self.dataset) * len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """One clip; the second half of the indices are the mirror images.

        Returns:
            float32 scaled latents past `(P, C, H, W)`, future `(F, C, H, W)`; trajectory `(L, 2)`;
            index. If the codec aligns also aligned `(F, K*C, H, W)` and moving `(F, H, W)`, see
            `moving_cells`.
        """
        image, clip = divmod(index, len(self.dataset))
        arrays = self._images[image]
        past, future = self._rows(clip)
        item = {
            "past": arrays["past"][past],
            "future": arrays.get("labels", arrays["past"])[future],
            "trajectory": arrays["trajectory"][clip],
        }
        if "aligned" in arrays:
            item |= {name: arrays[name][clip] for name in ("aligned", "moving")}
        item = {name: torch.from_numpy(value.astype(np.float32)) for name, value in item.items()}
        return item | {"index": index}

    def _rows(self, clip: int) -> tuple[slice, slice]:
        """Rows of a clip's past and future keyframes."""
        scene, start = self.dataset.clips[clip]
        present = start + self.dataset.past
        rows = self._voxels.rows
        return rows(scene, start, present), rows(scene, present, present + self.dataset.future)

    def _encode(self, voxels: Tensor, aligned: bool = False) -> Tensor:
        device = next(self.codec.vae.parameters()).device
        encode = self.codec.encode_aligned if aligned else self.codec.encode
        return torch.cat([encode(part.to(device)).cpu() for part in voxels.split(_ENCODE_BATCH)])

    def _encode_frames(self, folder: Path, depends: dict, image: int, dtype: type) -> None:
        caches = {"past": self._voxels, "labels": self._labels}
        if self._labels is self._voxels:
            del caches["labels"]
        rows = len(self._voxels)

        def make(start: int, stop: int) -> dict[str, Tensor]:
            voxels = {n: torch.from_numpy(c.voxels[start:stop].copy()) for n, c in caches.items()}
            return {n: self._encode(mirrored(v) if image else v) for n, v in voxels.items()}

        shape = (rows, *self.codec.vae.latent_shape)
        arrays = {name: (shape, dtype) for name in caches}
        title = f"encoding {folder.parent.name} keyframes"
        build_together(folder, depends, arrays, make, rows, 64, title)

    def _encode_clips(
        self, folder: Path, depends: dict, image: int, dtype: type, frames: np.ndarray
    ) -> None:
        past, future, clips = self.dataset.past, self.dataset.future, len(self.dataset)
        channels, height, width = self.codec.vae.latent_shape

        def make(start: int, stop: int) -> dict[str, Tensor]:
            voxels = np.stack([self._voxels.voxels[self._rows(i)[0]] for i in range(start, stop)])
            motions = [self.dataset.motion(i) for i in range(start, stop)]
            clip = (torch.from_numpy(np.stack(x)) for x in (voxels, *zip(*motions)))
            voxels, poses, trajectory = mirrored_clip(*clip) if image else clip
            seen = self.codec.aligned_voxels(voxels, poses) if self.codec.align else None
            latents = np.stack([frames[self._rows(i)[0]] for i in range(start, stop)])
            latents = torch.from_numpy(latents.astype(np.float32))
            condition = self.codec.condition(
                voxels, poses, trajectory, encode=self._encode, latents=latents, seen=seen,
                encode_aligned=partial(self._encode, aligned=True),
            )  # fmt: skip
            made = {"trajectory": condition.trajectory}
            if self.codec.align:
                made["aligned"] = condition.aligned
                made["moving"] = moving_cells(seen, (height, width))
            return made

        shown = self.codec.visible_trajectory(torch.empty(clips, past + future, 2), past).shape
        arrays = {"trajectory": (tuple(shown), np.float32)}
        if self.codec.align:
            aligned = (future, len(self.codec.align) * channels, height, width)
            arrays["aligned"] = ((clips, *aligned), dtype)
            arrays["moving"] = ((clips, future, height, width), np.uint8)
        title = f"encoding {folder.parent.name} clips"
        build_together(folder, depends, arrays, make, clips, 16, title)


def moving_cells(aligned: Tensor, cells: tuple[int, int]) -> Tensor:
    """Which latent cells something that can move has entered or left.

    Args:
        aligned: classes of the aligned past, uint8 `(B, F, K, X, Y, Z)`.
        cells: the latent map's (H, W), which X and Y are multiples of.

    Returns:
        bool `(B, F, H, W)`: a class that can move is in the cell in some of the K frames but not
        in all; in the only one where K = 1.
    """
    table = torch.zeros(256, dtype=torch.bool)
    table[list(MOVABLE)] = True
    columns = table[aligned.long()].any(-1)  # (B, F, K, X, Y)
    height, width = cells
    blocks = columns.unflatten(4, (width, -1)).unflatten(3, (height, -1))
    seen = blocks.any(6).any(4)  # (B, F, K, H, W)
    return seen.any(2) & ~seen.all(2) if seen.shape[2] > 1 else seen[:, :, 0]


def mirrored(voxels: Tensor) -> Tensor:
    """Voxels `(..., X, Y, Z)` with left (+y) and right exchanged."""
    return voxels.flip(-2)


def mirrored_clip(voxels: Tensor, poses: Tensor, trajectory: Tensor) -> tuple[Tensor, ...]:
    """The mirror image of a clip: an equally possible world.

    Args:
        voxels: `(..., X, Y, Z)` in ego frames, x forward, y left; y symmetric about 0.
        poses: ego frame to ego frame, `(..., 4, 4)`; becomes `M pose M`, M = diag(1, -1, 1, 1).
        trajectory: LiDAR displacements `(..., 2)`, x right, y forward.
    """
    mirror = torch.diag(poses.new_tensor([1, -1, 1, 1]))
    return mirrored(voxels), mirror @ poses @ mirror, trajectory * trajectory.new_tensor([-1, 1])
