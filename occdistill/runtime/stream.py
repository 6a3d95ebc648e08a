"""The rolling past of a running car: each frame is encoded once, when it comes in."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from occdistill.data.occ3d import FREE, MOVABLE
from occdistill.data.poses import FASTEST, LIDAR_TO_EGO, displacements, invert, is_rigid
from occdistill.latents.condition import Condition
from occdistill.runtime.forecaster import Forecaster, check_voxels

PER_SLOT = 250  # frames, of a sensor of 500 Hz: more aren't half a second's
SLACK = 5.0  # metres that localisation may be off, besides what a car drives


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
    feeds a model of 2 Hz, and a frame that never came is covered for by its neighbour.

    A frame follows the newest one if it is later, but not by more than the whole window, and no
    further away than a car drives. After one that doesn't, the slots fill up anew: after a gap, and
    where a clock or a map was set to something else. The window before is kept until three frames
    in a row have borne that out; one that follows it again shows that those between were wrong. A
    single frame that is earlier than the newest is late, and refused.

    Args:
        forecaster: encodes and forecasts.
        past: slots, P.
        interval: seconds between slots.

    Attributes:
        frames: the window, oldest first, of at most `PER_SLOT` frames a slot.
        jumps: how often it began anew, or was gone back to.
    """

    def __init__(self, forecaster: Forecaster, past: int, interval: float = 0.5) -> None:
        self.forecaster, self.past, self.interval = forecaster, past, interval
        self.frames: deque[Frame] = deque()
        self.jumps = 0
        self._left: deque[Frame] | None = None
        self._late: float | None = None

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
            ValueError: no tensor, wrong shape, an unknown class, a pose that is none, a time that
                is none or lies before the newest frame's, too many frames for the window, or
                latents that aren't finite. The window is left as it was.
        """
        check_voxels(voxels, self.forecaster.codec.vae.grid_shape, "a frame", axes=3)
        ego_to_global = rigid_matrix(ego_to_global, "an ego pose")
        lidar_to_ego = rigid_matrix(lidar_to_ego, "a LiDAR mounting")
        if time is None:
            time = self.frames[-1].time + self.interval if self.frames else 0.0
        if not isinstance(time, Real) or isinstance(time, bool) or not math.isfinite(time):
            raise ValueError(f"a time of {time!r:.40}, which is no finite number of seconds")
        frames, left = self._window(float(time), ego_to_global)
        voxels = self.forecaster.here(voxels)
        latents = self.forecaster.encode(voxels[None])[0]
        if not torch.isfinite(latents).all():
            raise ValueError("the encoder's latents aren't finite")
        frames.append(Frame(voxels, latents, float(time), ego_to_global, lidar_to_ego))
        while time - frames[0].time > self.reach:
            frames.popleft()
        self.jumps += frames is not self.frames
        self.frames, self._late = frames, None
        self._left = left if len(frames) < 3 else None

    def _window(
        self, time: float, ego_to_global: np.ndarray
    ) -> tuple[deque[Frame], deque[Frame] | None]:
        """The window that a frame belongs to, and the one that is kept beside it."""
        if self._left and self._follows(time, ego_to_global, self._left[-1]):
            return self._left, None
        if not self.frames or self._follows(time, ego_to_global, self.frames[-1]):
            within = sum(time - frame.time <= self.reach for frame in self.frames)
            if within >= PER_SLOT * self.past:
                raise ValueError(
                    f"more than {within} frames within {self.reach:g} s: times must be in seconds"
                )
            return self.frames, self._left
        if time <= self.frames[-1].time:
            before, self._late = self._late, time
            if before is None or not 0 < time - before <= self.reach:
                raise ValueError(f"a frame at {time:g} s after one at {self.frames[-1].time:g} s")
        return deque(), self._left or self.frames

    def _follows(self, time: float, ego_to_global: np.ndarray, newest: Frame) -> bool:
        passed = time - newest.time
        moved = np.abs(ego_to_global[:3, 3] - newest.ego_to_global[:3, 3]).max()
        return 0 < passed <= self.reach and moved <= FASTEST * passed + SLACK

    @property
    def reach(self) -> float:
        """Seconds from the oldest frame that is kept to the newest."""
        return (self.past + 0.5) * self.interval

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
        self.forecast(None if self._draws(None) else still)
        self.forecaster.synchronize()
        self.frames, self._left = deque(), None

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

    def condition(
        self, plan: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> Condition:
        """What the model is conditioned on now, for one clip.

        Args:
            plan: coming ego poses `(>= codec.plan, 4, 4)` in the global frame, one interval apart,
                for models that are shown some of the ego's future: with `gt` all F, with `hist+1`
                the next one. One more makes the last step with `gt` exact; without it that step is
                zero, as at the end of a scene. Default, where the forecaster has a planner: one
                that it draws.
            generator: of a drawn plan's noise.

        Raises:
            ValueError: too few frames yet, or a plan that is missing, too short or not finite.
        """
        if not self.ready:
            raise ValueError(f"{len(self.frames)} frames don't fill {self.past} slots yet")
        codec, slots = self.forecaster.codec, self.slots
        if self._draws(plan):
            plan = self._drawn(slots, generator)
        plan = np.empty((0, 4, 4)) if plan is None or not codec.plan else np.asarray(plan)
        matrices = plan.shape[1:] == (4, 4) and plan.dtype.kind in "fiu"
        if not matrices or len(plan) < codec.plan or not is_rigid(plan).all():
            given = len(plan) if matrices else "something else"
            raise ValueError(
                f"with conditioning {codec.conditioning} a frame must come with a plan of at least"
                f" {codec.plan} finite future poses, not {given}; hist needs none"
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

    def _draws(self, plan: np.ndarray | None) -> bool:
        forecaster = self.forecaster
        return plan is None and forecaster.codec.plan > 0 and forecaster.planner is not None

    def _drawn(self, slots: list[Frame], generator: torch.Generator | None) -> np.ndarray:
        """A plan of the planner's, global poses `(F + 1, 4, 4)`: after it, its last step goes on."""
        planner, device = self.forecaster.planner, getattr(generator, "device", "cpu")
        to_global = np.stack([frame.ego_to_global for frame in slots])
        known = torch.from_numpy(invert(to_global[-1]) @ to_global)[None]
        noise = torch.randn((1, *planner.shape), generator=generator, device=device)
        ahead = to_global[-1] @ planner(known, noise)[0].double().cpu().numpy()
        before = ahead[-2] if len(ahead) > 1 else to_global[-1]
        return np.concatenate([ahead, (ahead[-1] @ invert(before) @ ahead[-1])[None]])

    def forecast(
        self,
        plan: np.ndarray | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Forecast from the window: uint8 `(F, X, Y, Z)`, or `(S, F, X, Y, Z)` for several
        samples. Arguments as for `condition` and for calling a `Forecaster`: each sample has a drawn
        plan of its own.
        """
        futures, drawn = self.forecaster.futures, self._draws(plan)
        if samples == 1 or not drawn:
            return futures(self.condition(plan, generator), samples, generator)[0]
        several = (
            futures(self.condition(None, generator), 1, generator)[0] for _ in range(samples)
        )
        return torch.stack([*several])


def rigid_matrix(pose: np.ndarray, what: str) -> np.ndarray:
    """A pose as float64 `(4, 4)`.

    Args:
        pose: from a source.
        what: it is, for the error.

    Raises:
        ValueError: it is none.
    """
    try:
        matrix = np.asarray(pose, np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} that is no matrix of numbers") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"{what} that is not a finite 4 x 4 matrix")
    if not is_rigid(matrix):
        raise ValueError(f"{what} that stretches: not a rigid 4 x 4 matrix")
    return matrix
