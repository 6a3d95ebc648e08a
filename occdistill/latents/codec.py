"""Voxels and poses on one side, latents and conditions on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from occdistill.data.objects import carry_objects
from occdistill.data.occ3d import Grid
from occdistill.data.poses import extrapolate, invert
from occdistill.data.resample import warp
from occdistill.latents.condition import Condition
from occdistill.types import Whole

Conditioning = Literal["gt", "hist", "hist+1"]
CONDITIONINGS = get_args(Conditioning)


class Codec:
    """Voxels and poses on one side, scaled latents and conditions on the other.

    The only place that multiplies by the latent scale, knows which past frames are aligned, or
    builds a `Condition` of frames: for the cache of a training, for scoring and for live frames.

    Args:
        vae: the frozen autoencoder (`encode`, `decode`, `scale`).
        grid: the voxel grid that the clips live on.
        future: number of frames to forecast, F.
        align: how many keyframes before the newest one each aligned frame lies, newest (0) first;
            empty for networks that take past latents only (OccFM).
        carry: move the objects of the newest aligned frame on at constant velocity, so that a small
            network need not learn to shift them; needs 0 in `align`.
        conditioning: `gt` warps with the true future poses and shows the whole trajectory, P + F
            entries; `hist` extrapolates the last motion and shows the displacements between past
            frames, P - 1; `hist+1`, what OccFM's history model takes, does the same and shows one
            more, the true step to the first future frame.
        aligned_by: what encodes aligned frames: the `full` encoder, or the `light` one, as F × K of
            them are six times what a forecast encodes else.
        aligner: the autoencoder with that light encoder; None where nothing is to be encoded.
    """

    def __init__(
        self,
        vae: torch.nn.Module,
        grid: Grid,
        future: int = 6,
        align: Sequence[Whole] = (),
        carry: bool = False,
        conditioning: Conditioning = "gt",
        aligned_by: Literal["full", "light"] = "full",
        aligner: torch.nn.Module | None = None,
    ) -> None:
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning is {conditioning!r}, not one of {CONDITIONINGS}")
        if carry and 0 not in align:
            raise ValueError("carry moves the objects of the newest frame: align must hold 0")
        self.vae, self.grid, self.future = vae, grid, future
        self.align, self.carry, self.conditioning = tuple(align), carry, conditioning
        self.aligned_by, self.aligner = aligned_by, vae if aligned_by == "full" else aligner

    @property
    def conditioning_class(self) -> str:
        """What is known of the future: `gt`, `none` (strict history) or `hist+1`."""
        return "none" if self.conditioning == "hist" else self.conditioning

    @property
    def plan(self) -> int:
        """How many of the ego's true future poses a condition depends on."""
        return {"gt": self.future, "hist": 0, "hist+1": 1}[self.conditioning]

    @torch.no_grad()
    def encode(self, voxels: Tensor) -> Tensor:
        """Voxels `(N, X, Y, Z)` to scaled latents `(N, C, H, W)`: the posterior mean."""
        return self.vae.encode(voxels).mean * self.vae.scale

    @torch.no_grad()
    def encode_aligned(self, voxels: Tensor) -> Tensor:
        """As `encode`, for aligned frames."""
        return self.aligner.encode(voxels).mean * self.vae.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents `(N, C, H, W)` to classes, uint8 `(N, X, Y, Z)`."""
        return self.vae.decode(latents / self.vae.scale)

    def future_poses(self, poses: Tensor, past: int) -> Tensor:
        """Future ego frame to newest past frame, `(B, F, 4, 4)`: the true or extrapolated ones."""
        if self.conditioning == "gt":
            return poses[:, past : past + self.future]
        return extrapolate(poses[:, :past], self.future)

    def aligned_voxels(self, past: Tensor, poses: Tensor, carried: Tensor | None = None) -> Tensor:
        """Past voxels seen from each future ego frame, uint8 `(B, F, K, X, Y, Z)`; `carried`: the
        newest ones with their objects moved on, `(B, F, X, Y, Z)`, where they are known already.
        """
        batch, frames = past.shape[:2]
        future = self.future_poses(poses, frames)
        sources = [frames - 1 - offset for offset in self.align]
        target_to_source = torch.stack(
            [invert(poses[:, s])[:, None] @ future for s in sources], dim=2
        )
        shape = (batch, self.future, len(sources), *past.shape[2:])
        voxels = past[:, sources].unsqueeze(1).expand(shape)
        seen = warp(voxels.flatten(0, 2), target_to_source.flatten(0, 2), self.grid).view(shape)
        if self.carry:
            if carried is None:
                carried = carry_objects(past, poses, future, self.grid)
            seen[:, :, self.align.index(0)] = carried
        return seen

    def visible_trajectory(self, trajectory: Tensor, past: int) -> Tensor:
        """The entries that this conditioning may show, `(B, L, 2)`.

        Raises:
            ValueError: there are fewer.
        """
        length = {"gt": past + self.future, "hist": past - 1, "hist+1": past}[self.conditioning]
        if trajectory.shape[1] < length:
            raise ValueError(
                f"conditioning {self.conditioning} shows {length} steps of the trajectory, and"
                f" {trajectory.shape[1]} are given"
            )
        return trajectory[:, :length]

    @torch.no_grad()
    def condition(
        self,
        past: Tensor,
        poses: Tensor,
        trajectory: Tensor,
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        encode_aligned: Callable[[Tensor], Tensor] | None = None,
        latents: Tensor | None = None,
        seen: Tensor | None = None,
        carried: Tensor | None = None,
    ) -> Condition:
        """Build the condition of a batch of clips.

        Args:
            past: uint8 `(B, P, X, Y, Z)`.
            poses: frame to newest past ego frame, `(B, P [+ F], 4, 4)`; F needed for `gt`.
            trajectory: `(B, >= L, 2)` metres, entry i from frame i to i + 1, LiDAR frame of i.
            encode: another way to run `self.encode`.
            encode_aligned: another way to run `self.encode_aligned`; default: `encode`, where that
                is the same encoder.
            latents: the past's latents `(B, P, C, H, W)` where they are known already.
            seen: `aligned_voxels` where they are known already.
            carried: see there.

        Raises:
            ValueError: the trajectory is too short.
        """
        encode, (batch, frames) = encode or self.encode, past.shape[:2]
        if latents is None:
            latents = encode(past.flatten(0, 1)).unflatten(0, (batch, frames))
        aligned = None
        if self.align:
            seen = self.aligned_voxels(past, poses, carried) if seen is None else seen
            if encode_aligned is None:
                encode_aligned = encode if self.aligned_by == "full" else self.encode_aligned
            aligned = encode_aligned(seen.flatten(0, 2))
            aligned = aligned.reshape(batch, self.future, -1, *aligned.shape[-2:])
        return Condition(latents, aligned, self.visible_trajectory(trajectory, frames))
