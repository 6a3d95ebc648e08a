"""The rolling past of a running car: each frame is encoded once, when it comes in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from occdistill.data.occ3d import FREE, MOVABLE
from occdistill.data.poses import LIDAR_TO_EGO, displacements, invert
from occdistill.latents.condition import Condition
from occdistill.runtime.forecaster import Forecaster, check_voxels


@dataclass(frozen=True)
class Frame:
    """A frame in the window: `voxels (X, Y, Z)`, `latents (C, H, W)`, seconds, poses `(4, 4)`."""

    voxels: Tensor
    latents: Tensor
    time: float
    ego_to_global: np.ndarray
    lidar_to_ego: np.ndarray


class RollingForecaster:
    """Past slots at fixed spacing over frames that come at any rate.

    Slot k before the newest holds the frame nearest in time to k intervals ago. So a 20 Hz sensor
    feeds a model of 2 Hz, and a frame that never came is covered for by its neighbour. After a gap
    of more than the whole window the slots fill up anew.

    Args:
        forecaster: encodes and forecasts.
        past: slots, P.
        interval: seconds between slots.
    """

    def __init__(self, forecaster: Forecaster, past: int, interval: float = 0.5) -> None:
        self.forecaster, self.past, self.interval = forecaster, past, interval
        self.frames: deque[Frame] = deque()

    def push(
        self,
        voxels: Tensor,
        ego_to_global: np.ndarray,
        time: float | None = None,
        lidar_to_ego: np.ndarray = LIDAR_TO_EGO,
    ) -> None:
        """Take in and encode the newest frame.

        Args:
            voxels: uint8 `(X, Y, Z)` in its own ego frame.
            ego_to_global: float64 `(4, 4)`.
            time: seconds; None: one interval after the frame before.
            lidar_to_ego: where the LiDAR sits on this car, `(4, 4)`.

        Raises:
            ValueError: wrong shape, an unknown class, a pose that is none, or time running
                backwards. The window is left as it was.
        """
        self._check(voxels, ego_to_global)
        if time is None:
            time = self.frames[-1].time + self.interval if self.frames else 0.0
        if self.frames and time <= self.frames[-1].time:
            raise ValueError(f"a frame at {time:g} s after one at {self.frames[-1].time:g} s")
        voxels = self.forecaster.here(voxels)
        latents = self.forecaster.encode(voxels[None])[0]
        ego_to_global = np.asarray(ego_to_global, np.float64)
        self.frames.append(Frame(voxels, latents, time, ego_to_global, lidar_to_ego))
        while time - self.frames[0].time > (self.past + 0.5) * self.interval:
            self.frames.popleft()

    def warm_up(self) -> None:
        """Forecast once, so that nothing is compiled or allocated later.

        On an empty street one voxel drives in: what carries moving objects on has to run as well.

        Raises:
            ValueError: there are frames in the window already.
        """
        if self.frames:
            raise ValueError("a live model is warmed up before its first frame")
        codec = self.forecaster.codec
        still = np.tile(np.eye(4), (codec.future + 1, 1, 1))
        empty = torch.full(codec.vae.grid_shape, FREE, dtype=torch.uint8)
        for i in range(self.past):
            voxels = empty.clone()
            voxels[i, voxels.shape[1] // 2, 0] = MOVABLE[0]
            self.push(voxels, still[0])
        self.forecast(still)
        self.forecaster.synchronize()
        self.frames.clear()

    @property
    def ready(self) -> bool:
        """Whether the frames reach back to the oldest slot."""
        reach = (self.past - 1.5) * self.interval
        return bool(self.frames) and self.frames[-1].time - self.frames[0].time >= reach

    @property
    def slots(self) -> list[Frame]:
        """The frames in the slots, oldest first."""
        newest = self.frames[-1].time
        times = np.array([frame.time for frame in self.frames])
        wanted = newest - self.interval * np.arange(self.past - 1, -1, -1)
        return [self.frames[int(np.abs(times - time).argmin())] for time in wanted]

    def condition(self, plan: np.ndarray | None = None) -> Condition:
        """What the model is conditioned on now, for one clip.

        Args:
            plan: coming ego poses `(>= codec.plan, 4, 4)` in the global frame, one interval apart,
                for models that are shown some of the ego's future: with `gt` all F, with `hist+1`
                the next one. One more makes the last step with `gt` exact; without it that step is
                zero, as at the end of a scene.

        Raises:
            ValueError: too few frames yet, or a plan that is missing, too short or not finite.
        """
        if not self.ready:
            raise ValueError(f"{len(self.frames)} frames don't fill {self.past} slots yet")
        codec, slots = self.forecaster.codec, self.slots
        plan = np.empty((0, 4, 4)) if plan is None else plan
        if len(plan) < codec.plan or not np.isfinite(plan).all():
            raise ValueError(
                f"with conditioning {codec.conditioning} a frame must come with a plan of at least"
                f" {codec.plan} finite future poses, not {len(plan)}; hist needs none"
            )
        to_global = np.stack([frame.ego_to_global for frame in slots])
        mounting = np.stack([frame.lidar_to_ego for frame in slots])
        if codec.plan:
            to_global = np.concatenate([to_global, plan])
            mounting = np.concatenate([mounting, mounting[-1:].repeat(len(plan), 0)])
        poses = invert(slots[-1].ego_to_global) @ to_global
        steps = np.pad(displacements(to_global @ mounting), ((0, 1), (0, 0)))
        poses, steps = (torch.from_numpy(x.astype(np.float32))[None] for x in (poses, steps))
        voxels = torch.stack([frame.voxels for frame in slots])[None]
        latents = torch.stack([frame.latents for frame in slots])[None]
        return self.forecaster.condition(voxels, poses, steps, latents)

    def forecast(
        self,
        plan: np.ndarray | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Forecast from the window: uint8 `(F, X, Y, Z)`, or `(S, F, X, Y, Z)` for several
        samples. Arguments as for `condition` and for calling a `Forecaster`.
        """
        return self.forecaster.futures(self.condition(plan), samples, generator)[0]

    def _check(self, voxels: Tensor, pose: np.ndarray) -> None:
        check_voxels(voxels, self.forecaster.codec.vae.grid_shape, "a frame")
        if np.shape(pose) != (4, 4) or not np.isfinite(pose).all():
            raise ValueError("an ego pose that is not a finite 4 x 4 matrix")
