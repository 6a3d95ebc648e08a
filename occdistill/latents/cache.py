"""Encoded clips on disk: the frozen VAE sees each keyframe once, training never."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from occdistill.arrays import Arrays, open_arrays
from occdistill.checkpoint import fingerprint
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import MOVABLE
from occdistill.data.voxel_cache import VoxelCache, keyframes
from occdistill.pieces import build_together
from occdistill.processes import first_rank_first, meet

if TYPE_CHECKING:
    from occdistill.latents.codec import Codec

ENCODE_BATCH = 16  # frames at a time


class LatentClips(Dataset):
    """The clips of a `ClipDataset` as scaled latents; the cache is built on first use, by all
    processes that belong together.

    What is cached lies in folders whose names tell what it was made from: the latents of keyframes
    serve every conditioning. Voxels are read only where latents are missing.

    Args:
        dataset: the clips.
        codec: encodes voxels and warps the past into future frames; its VAE says on which device.
        vae_fingerprint: of the VAE's weights.
        folder: under which the caches of the data set lie, those of voxels too.
        mirror: add each clip's mirror image (left and right exchanged), doubling the clips.
        dtype: of the latents on disk.

    Attributes:
        fingerprint: of what the cache was made from, for the checkpoints trained on it.

    Raises:
        UserError: if a cache is damaged, or can't be built.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        codec: Codec,
        vae_fingerprint: str,
        folder: str | Path,
        mirror: bool = False,
        dtype: type = np.float16,
    ) -> None:
        self.dataset, self.codec, self.folder = dataset, codec, Path(folder)
        self.fingerprint = dataset.fingerprint[:12]
        of_frames = {
            "vae": vae_fingerprint,
            "scale": codec.vae.scale,
            "data": dataset.fingerprint[:12],
            "grid": list(dataset.grid.shape),
            "dtype": np.dtype(dtype).name,
        }
        of_clips = {
            "windows": f"{len(dataset)} of {dataset.past}+{dataset.future}",
            "conditioning": codec.conditioning_class,
            "align": list(codec.align),
            "carry": codec.carry,
            "moving": bool(codec.align),
        }
        if codec.aligned_by != "full":
            of_clips["aligned by"] = fingerprint(codec.aligner.encoder.state_dict())
        self._images = []  # of the clips: as they are, and mirrored
        for image in ("plain", "mirrored")[: 1 + mirror]:
            depends = {**of_frames, "image": image}
            frames = self._built("frames", depends, partial(self._encode_frames, dtype=dtype))
            encode = partial(self._encode_clips, dtype=dtype, frames=frames["past"])
            self._images.append(frames | self._built("clips", depends | of_clips, encode))

    def _built(
        self, what: str, depends: Mapping[str, object], build: Callable[[Path, dict], None]
    ) -> Arrays:
        content = json.dumps(depends, sort_keys=True).encode()
        mark = hashlib.sha256(content).hexdigest()[:12]
        place = self.folder / f"latents-{what}-{depends['image']}-{mark}"
        if meet(not place.exists()):
            build(place, depends)
        return open_arrays(place, depends)

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
        past, future = self.dataset.rows(clip)
        item = {
            "past": arrays["past"][past],
            "future": arrays.get("labels", arrays["past"])[future],
            "trajectory": arrays["trajectory"][clip],
        }
        if "aligned" in arrays:
            item |= {name: arrays[name][clip] for name in ("aligned", "moving")}
        item = {name: torch.from_numpy(value.astype(np.float32)) for name, value in item.items()}
        return item | {"index": index}

    @property
    def _device(self) -> torch.device:
        return next(self.codec.vae.parameters()).device

    def _encode(self, voxels: Tensor, aligned: bool = False) -> Tensor:
        encode = self.codec.encode_aligned if aligned else self.codec.encode
        parts = voxels.split(ENCODE_BATCH)
        return torch.cat([encode(part.to(self._device)).cpu() for part in parts])

    def _at_once(self, most: int) -> int:
        """Items between two marks of the progress bar: a CPU takes seconds for each."""
        return most if self._device.type == "cuda" else 1

    def _warped(self) -> VoxelCache | None:
        """Where clips are aligned, each keyframe is warped for many of them."""
        if not self.codec.align:
            return None
        with first_rank_first():
            return VoxelCache(self.dataset, self.folder, "past")

    def _encode_frames(self, folder: Path, depends: dict, dtype: type) -> None:
        cache = self._warped()
        own = keyframes(self.dataset, self.folder, "past") if cache is None else cache.read
        read = {"past": own}
        if self.dataset.reader.past_from != "occ3d":
            read["labels"] = keyframes(self.dataset, self.folder)
        rows, image = len(self.dataset.places), depends["image"]

        def make(start: int, stop: int) -> dict[str, Tensor]:
            voxels = {name: torch.from_numpy(of(start, stop)) for name, of in read.items()}
            plain = image == "plain"
            return {n: self._encode(v if plain else mirrored(v)) for n, v in voxels.items()}

        shape = (rows, *self.codec.vae.latent_shape)
        arrays = {name: (shape, dtype) for name in read}
        title, chunk = f"encoding {image} keyframes", self._at_once(ENCODE_BATCH)
        build_together(folder, depends, arrays, make, rows, chunk, title)

    def _encode_clips(self, folder: Path, depends: dict, dtype: type, frames: np.ndarray) -> None:
        past, future, clips = self.dataset.past, self.dataset.future, len(self.dataset)
        channels, height, width = self.codec.vae.latent_shape
        image, align, cache = depends["image"], self.codec.align, self._warped()

        def make(start: int, stop: int) -> dict[str, Tensor]:
            rows = [self.dataset.rows(i)[0] for i in range(start, stop)]
            poses, trajectory = (
                torch.from_numpy(np.stack(x))
                for x in zip(*(self.dataset.motion(i) for i in range(start, stop)))
            )
            if image == "mirrored":
                poses, trajectory = mirrored_motion(poses, trajectory)
            if cache is None:
                return {"trajectory": self.codec.visible_trajectory(trajectory, past)}
            voxels = torch.from_numpy(np.stack([cache.voxels[row] for row in rows]))
            voxels = voxels if image == "plain" else mirrored(voxels)
            seen = self.codec.aligned_voxels(voxels, poses)
            latents = torch.from_numpy(np.stack([frames[row] for row in rows]).astype(np.float32))
            condition = self.codec.condition(
                voxels, poses, trajectory, encode=self._encode, latents=latents, seen=seen,
                encode_aligned=partial(self._encode, aligned=True),
            )  # fmt: skip
            return {
                "trajectory": condition.trajectory,
                "aligned": condition.aligned,
                "moving": moving_cells(seen, (height, width)),
            }

        shown = self.codec.visible_trajectory(torch.empty(clips, past + future, 2), past).shape
        arrays = {"trajectory": (tuple(shown), np.float32)}
        if align:
            aligned = (future, len(align) * channels, height, width)
            arrays["aligned"] = ((clips, *aligned), dtype)
            arrays["moving"] = ((clips, future, height, width), np.uint8)
        title, chunk = f"encoding {image} clips", self._at_once(16)
        build_together(folder, depends, arrays, make, clips, chunk, title)


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


def mirrored_motion(poses: Tensor, trajectory: Tensor) -> tuple[Tensor, Tensor]:
    """The motion in a clip's mirror image: an equally possible world.

    Args:
        poses: ego frame to ego frame, `(..., 4, 4)`, x forward, y left; becomes `M pose M`,
            M = diag(1, -1, 1, 1).
        trajectory: LiDAR displacements `(..., 2)`, x right, y forward.
    """
    mirror = torch.diag(poses.new_tensor([1, -1, 1, 1]))
    return mirror @ poses @ mirror, trajectory * trajectory.new_tensor([-1, 1])
