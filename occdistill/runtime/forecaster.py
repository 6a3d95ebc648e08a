"""Past in, future out: the one way in which models are run, scored, drawn and timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from occdistill.data.occ3d import NUM_CLASSES, Grid
from occdistill.data.poses import extrapolate, invert, trajectory_from_poses
from occdistill.errors import UserError
from occdistill.flow.guidance import Guided
from occdistill.flow.networks.base import VelocityNetwork
from occdistill.flow.solver import VelocityField, sample
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition
from occdistill.runtime import backends, frozen
from occdistill.runtime.backends import BACKENDS
from occdistill.runtime.planner import Planner
from occdistill.runtime.spread import Spread, spread
from occdistill.runtime.stages import Decode, Encode, Velocity
from occdistill.seeds import torch_generator
from occdistill.types import Count, Positive, Weight

__all__ = ["BACKENDS", "Forecaster", "check_voxels", "disagreement", "same_noise"]


class Forecaster:
    """A frozen autoencoder and a velocity field as one function of past voxels.

    Args:
        codec: voxels to scaled latents and back.
        field: velocity field, a teacher or a one-step student.
        nfe: evaluations of the field per forecast; a guided pair counts once.
        guidance: guidance scale; None: one unguided branch per evaluation.
        shift: of the sampler's time grid.
        renoise: noise the sample anew after each evaluation but the last, see `solver.sample`.
        temperature: factor on the noise that a forecast starts from; below 1, forecasts are less
            diverse and closer to what is most likely.
        device: where it runs; the networks are moved there.
        dtype: float32, or the type that matrix products are done in (autocast); `int8.in_int8`
            makes one in 8-bit integers of others.
        allow_tf32: on a GPU, let float32 products be rounded to TF32: faster, and no longer exact.
        backend: how they are run, see `runtime.backends`. All but `plain` and `onnx` read the
            autoencoder's weights once, now.

    Attributes:
        past: frames that it is given, P; None for fields that don't say.
        field: as it was given, unguided.
        tf32: whether anything may be rounded to TF32; never on a CPU.
        planner: samples the ego's plans where a forecast needs one and is given none; None: the
            last motion goes on.

    Raises:
        UserError: unknown back end, a device or compiler that isn't there, or a network that takes
            other aligned frames than the codec gives.
    """

    # from a name or a file to a forecaster takes configs: `build/pretrained.py`, above, fills it in
    loader: ClassVar[Callable[..., Forecaster] | None] = None

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Forecaster:
        """A forecaster from weights: `Forecaster.from_pretrained("demo")`.

        Args:
            source: a name of `occdistill.build.pretrained.PRETRAINED`, a checkpoint's path, or a
                folder that holds `student.pth` or `teacher.pth`. The checkpoint says what network
                it is; its autoencoder lies beside it as `vae.pth`, or where its config says.
            **options: `nfe` and `guidance` (default: one plain evaluation for a student, the
                config's for a teacher); `decoder`, `encoder` and `network`, `full` or the
                checkpoint's `light` ones; `device`, `dtype`, `backend` as for the constructor, and
                `torch.int8` with back end `onnx`, which needs the checkpoint's training clips.

        Raises:
            UserError: no such name or file, a file that is no checkpoint or doesn't hold its
                config, or weights of another autoencoder.
        """
        if cls.loader is None:
            raise RuntimeError("take the class as occdistill.Forecaster: that brings its loader")
        return cls.loader(source, **options)

    def __init__(
        self,
        codec: Codec,
        field: VelocityField,
        *,
        nfe: Count = 1,
        guidance: Weight | None = None,
        shift: Positive = 3.0,
        renoise: bool = False,
        temperature: Weight = 1.0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        backend: str = "eager",
        allow_tf32: bool = False,
    ) -> None:
        self.device = torch.device(device)
        backends.check(backend, self.device, dtype)
        self.codec, self.nfe, self.guidance = codec, nfe, guidance
        self.shift, self.renoise, self.temperature = shift, renoise, temperature
        self.dtype, self.backend = dtype, backend
        self.tf32 = allow_tf32 and self.device.type == "cuda"
        if isinstance(field, VelocityNetwork) and field.takes.get("aligned", 0) != len(codec.align):
            raise UserError(
                f"{type(field).__name__} takes {field.takes.get('aligned', 0)} aligned frames, but"
                f" conditioning.align gives {len(codec.align)}: make them agree in the config"
            )
        self.network, self.field = type(field).__name__, field
        self.planner: Planner | None = None
        self.past = _past_frames(codec, field)
        for net in (codec.vae, field):
            if isinstance(net, nn.Module):
                net.to(self.device).eval()
        field = field if guidance is None else Guided(field, guidance)
        scale, where = float(codec.vae.scale), (dtype, self.device)
        if backend in backends.AS_WRITTEN:
            encoder, decoder = frozen.plain_encoder, frozen.plain_decoder(codec.vae)
        else:
            encoder, decoder = frozen.encoder, frozen.decoder(codec.vae)
            field = frozen.field(field)
        self._encode = backends.build(backend, Encode(encoder(codec.vae), scale, *where), self.tf32)
        self._encode_aligned = None  # as all frames
        if codec.align and codec.aligned_by != "full":
            codec.aligner.to(self.device).eval()
            light = Encode(encoder(codec.aligner), scale, *where)
            self._encode_aligned = backends.build(backend, light, self.tf32)
        self._decode = backends.build(backend, Decode(decoder, scale, *where), self.tf32)
        velocity = Velocity(field, *where)
        self._field = _Field(backends.build(backend, velocity, self.tf32), velocity.two_time)

    def __repr__(self) -> str:
        codec = self.codec
        guided = "plain" if self.guidance is None else f"guidance {self.guidance:g}"
        grid = f"{'×'.join(map(str, self.grid.shape))} voxels of {self.grid.voxel_size:g} m"
        known = {0: "the past alone", 1: "the past and the next pose"}.get(
            codec.plan, f"the past and {codec.plan} future poses"
        )
        known += ", or plans of its own" if self.planner is not None else ""
        return (
            f"Forecaster({self.network}: {self.past or 'any'} past → {codec.future} future frames"
            f" of {grid}, from {known}; {self.nfe} evaluation{'s' * (self.nfe > 1)}, {guided};"
            f" {self.backend} on {self.device}, {str(self.dtype).removeprefix('torch.')})"
        )

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""
        return self.codec.grid

    @torch.no_grad()
    def __call__(
        self,
        past: Tensor | np.ndarray,
        poses: Tensor | np.ndarray,
        plan: Tensor | np.ndarray | None = None,
        *,
        trajectory: Tensor | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Forecast the future of a batch of clips, 0.5 s from frame to frame.

        Args:
            past: class ids uint8 `(B, P, X, Y, Z)`, oldest first, each in its own ego frame.
            poses: of the ego in any fixed frame, `(B, P [+ F], 4, 4)`, metres. What follows the
                past is the plan, where none is given.
            plan: poses in the same frame that the ego will have, `(B, N, 4, 4)`: with conditioning
                `gt` all F of them, with `hist+1` the next one; one more makes the last step of
                `gt` exact, which else repeats the one before. Default, where the conditioning
                needs a plan: every sample has one of `planner`, else the last motion goes on
                (`occdistill.constant_velocity`).
            trajectory: LiDAR displacements `(B, >= L, 2)`; None: from the poses, with the LiDAR
                where nuScenes cars carry it.
            samples: futures per clip, S. The past is encoded once for all of them.
            generator: of the noise, on any device.

        Returns:
            uint8 `(B, F, X, Y, Z)`, or `(B, S, F, X, Y, Z)` for several samples.

        Raises:
            ValueError: voxels or poses of another shape or type than these, or too few of them.
        """
        past, poses = self._clip(past, poses, plan, trajectory is not None)
        if poses.shape[1] < past.shape[1] + self.codec.plan:
            latents = self.encode(past.flatten(0, 1)).unflatten(0, past.shape[:2])
            return self.planned(past, poses, latents, samples, generator)
        if trajectory is None:
            trajectory = trajectory_from_poses(poses)
        condition = self.condition(past, poses, trajectory)
        return self.futures(condition, samples, generator)

    def _clip(
        self,
        past: Tensor | np.ndarray,
        poses: Tensor | np.ndarray,
        plan: Tensor | np.ndarray | None,
        steps_known: bool,
    ) -> tuple[Tensor, Tensor]:
        """The past, and its and the plan's poses relative to the newest frame, all checked."""
        past = torch.as_tensor(past)
        shape = (
            f"(batch, {self.past or 'frames'}, {', '.join(map(str, self.codec.vae.grid_shape))})"
        )
        if past.ndim != 5:
            hint = ": a single clip is past[None], poses[None]" if past.ndim == 4 else ""
            raise ValueError(f"the past is {tuple(past.shape)}, not {shape}{hint}")
        check_voxels(past, self.codec.vae.grid_shape, "the past holds frames")
        frames = past.shape[1]
        if self.past not in (None, frames):
            raise ValueError(f"the past has {frames} frames, and {self.network} takes {self.past}")
        poses = _poses(poses, len(past), "poses")
        if poses.shape[1] < frames:
            raise ValueError(f"{poses.shape[1]} poses for {frames} past frames: each needs its own")
        if plan is not None:
            ahead = _poses(plan, len(past), "the plan").to(poses)
            poses = torch.cat([poses[:, :frames], ahead], dim=1)
        newest = poses[:, frames - 1 : frames]
        if not torch.allclose(newest, torch.eye(4).to(newest), rtol=0, atol=1e-5):
            poses = invert(newest) @ poses
        needed = self.codec.plan
        if poses.shape[1] == frames and needed and not steps_known:
            if self.planner is not None:
                return past, poses.float()
            poses = torch.cat([poses, extrapolate(poses, needed + 1)], dim=1)
        if poses.shape[1] < frames + needed:
            raise ValueError(
                f"conditioning {self.codec.conditioning} needs a plan of {needed} poses,"
                f" and {poses.shape[1] - frames} are given"
            )
        return past, poses.float()

    @torch.no_grad()
    def planned(
        self,
        past: Tensor,
        poses: Tensor,
        latents: Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Each future after a plan of its own from `planner`; result as for calling the forecaster.

        Args:
            past: see there.
            poses: of the past alone, `(B, P, 4, 4)`, to its newest frame.
            latents: the past's, `(B, P, C, H, W)`.
            samples: see there.
            generator: of the plans and the noise.
        """
        futures = []
        for _ in range(samples):
            shape, device = (len(past), *self.planner.shape), getattr(generator, "device", "cpu")
            ahead = self.planner(poses, torch.randn(shape, generator=generator, device=device))
            way = torch.cat([poses, ahead.to(poses)], dim=1)
            condition = self.condition(past, way, trajectory_from_poses(way), latents)
            futures.append(self.futures(condition, 1, generator))
        return futures[0] if samples == 1 else torch.stack(futures, dim=1)

    def futures(
        self,
        condition: Condition,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Forecast from a condition; arguments and result as for calling the forecaster.

        Raises:
            UserError: the network's latents aren't finite, so they are no forecast.
        """
        batch = condition.batch_size
        if samples > 1:
            condition = condition.repeat(samples)
        latents = self.generate(condition, self.noise(len(condition.past), generator))
        if not torch.isfinite(latents).all():  # decoded, they would be class 0
            raise UserError(
                f"the model's latents aren't finite in {str(self.dtype).removeprefix('torch.')}: "
                "use --dtype float32, or other weights"
            )
        voxels = self.decode(latents)
        return voxels if samples == 1 else voxels.unflatten(0, (batch, samples))

    @torch.no_grad()
    def spread(
        self,
        past: Tensor | np.ndarray,
        poses: Tensor | np.ndarray,
        plan: Tensor | np.ndarray | None = None,
        *,
        trajectory: Tensor | None = None,
        samples: int = 8,
        generator: torch.Generator | None = None,
    ) -> Spread:
        """How far several futures of a clip agree; arguments as for calling the forecaster.

        Returns:
            occupancy probability and class entropy per voxel, `(B, F, X, Y, Z)`.
        """
        futures = self(
            past, poses, plan, trajectory=trajectory, samples=samples, generator=generator
        )
        return spread(futures if samples > 1 else futures[:, None])

    def noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal `(batch, F, C, H, W)`; the same on every device for a CPU generator."""
        shape = (batch, self.codec.future, *self.codec.vae.latent_shape)
        device = self.device if generator is None else generator.device
        return self.here(torch.randn(shape, generator=generator, device=device))

    @torch.no_grad()
    def encode(self, voxels: Tensor) -> Tensor:
        """Voxels `(N, X, Y, Z)` to scaled latents `(N, C, H, W)`."""
        return self._encode(self.here(voxels))

    def frames(self, past: Tensor) -> Tensor:
        """Scaled latents `(B, P, C, H, W)` of `(B, P, X, Y, Z)`, encoded as a stream does it: one
        frame after another.
        """
        return torch.stack([self.encode(frame) for frame in past.unbind(1)], dim=1)

    @torch.no_grad()
    def condition(
        self,
        past: Tensor,
        poses: Tensor,
        trajectory: Tensor,
        latents: Tensor | None = None,
        carried: Tensor | None = None,
    ) -> Condition:
        """Stage 1: encode what is known; shapes as for calling the forecaster.

        Args:
            past: see there.
            poses: see there.
            trajectory: see there.
            latents: the past's latents `(B, P, C, H, W)` where they are known already.
            carried: see `Codec.aligned_voxels`.
        """
        known = (self.here(x) for x in (past, poses, trajectory))
        encoders = dict(encode=self.encode, encode_aligned=self._encode_aligned)
        return self.codec.condition(*known, **encoders, latents=latents, carried=carried)

    @torch.no_grad()
    def generate(self, condition: Condition, noise: Tensor) -> Tensor:
        """Stage 2: future latents `(B, F, C, H, W)` from standard normal noise of that shape."""
        renoise = self.temperature if self.renoise else None
        noise = self.temperature * noise
        return sample(self._field, noise, condition, self.nfe, self.shift, renoise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Stage 3: classes, uint8 `(B, F, X, Y, Z)`, of latents `(B, F, C, H, W)`."""
        return self._decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    @property
    def stages(self) -> dict[str, backends.Function]:
        """Its three functions of tensors, see `runtime.stages`: `encoder`, `flow` and `decoder`."""
        return dict(encoder=self._encode, flow=self._field.velocity, decoder=self._decode)

    def with_stages(self, stages: Mapping[str, backends.Function]) -> Forecaster:
        """The same forecaster with others in their places."""
        other = copy.copy(self)
        other._encode, other._decode = stages["encoder"], stages["decoder"]
        other._field = _Field(stages["flow"], self._field.two_time)
        return other

    def with_nfe(self, nfe: int) -> Forecaster:
        """The same networks and compiled kernels with another number of evaluations."""
        other = copy.copy(self)
        other.nfe = nfe
        return other

    def with_parts(self, codec: Codec, encoder: Forecaster, decoder: Forecaster) -> Forecaster:
        """The same velocity kernel between the kernels of others.

        Args:
            codec: of the result; its autoencoder encodes as `encoder` and decodes as `decoder` does.
            encoder: whose encoder is taken.
            decoder: whose decoder is taken.
        """
        other = copy.copy(self)
        other.codec, other._encode, other._decode = codec, encoder._encode, decoder._decode
        return other

    def watched(self, done: Callable[[str, int], None]) -> Forecaster:
        """The same, which tells each stage that it has done (`encode`, `encode_aligned` where another
        encoder does that, `evaluate`, `decode`), and of how many frames or clips.
        """

        def telling(stage: str, function: backends.Function) -> backends.Function:
            def call(*tensors: Tensor | None) -> Tensor:
                result = function(*tensors)
                done(stage, len(result))
                return result

            return call

        other = copy.copy(self)
        other._encode = telling("encode", self._encode)
        if self._encode_aligned is not None:
            other._encode_aligned = telling("encode_aligned", self._encode_aligned)
        other._decode = telling("decode", self._decode)
        velocity = telling("evaluate", self._field.velocity)
        other._field = _Field(velocity, self._field.two_time)
        return other

    def here(self, x: Tensor) -> Tensor:
        """The tensor on the forecaster's device; from pinned memory to a GPU, which the CPU then
        needn't wait for.
        """
        if self.device.type != "cuda":
            return x.to(self.device)
        x = x.pin_memory() if x.device.type == "cpu" else x
        return x.to(self.device, non_blocking=True)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read next is honest."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check_voxels(
    voxels: Tensor, shape: tuple[int, ...], what: str, axes: int | None = None
) -> None:
    """Refuse voxels `(…, X, Y, Z)` that are no class ids on the grid of `shape`.

    Args:
        voxels: from a user or a source.
        shape: of the grid.
        what: they are, for the error.
        axes: how many there must be; default any number.

    Raises:
        ValueError: beginning with `what`.
    """
    found = f"a {type(voxels).__name__}"
    if isinstance(voxels, Tensor):
        shown = voxels.shape if axes else voxels.shape[-3:]
        found = f"{tuple(shown)} {str(voxels.dtype).removeprefix('torch.')}"
    fits = isinstance(voxels, Tensor) and voxels.dtype == torch.uint8
    if not fits or voxels.shape[-3:] != shape or voxels.ndim != (axes or voxels.ndim):
        raise ValueError(f"{what} of {found:.80}, not {shape} uint8")
    if voxels.numel() and int(voxels.max()) >= NUM_CLASSES:
        raise ValueError(f"class id {int(voxels.max())} is not one of 0 to {NUM_CLASSES - 1}")


def _poses(poses: Tensor | np.ndarray, batch: int, what: str) -> Tensor:
    """Float poses `(batch, N, 4, 4)`, checked."""
    if poses is None:
        raise ValueError(f"{what} are missing: a matrix (4, 4) of the ego for each frame")
    poses = torch.as_tensor(poses)
    if poses.ndim != 4 or poses.shape[0] != batch or poses.shape[2:] != (4, 4):
        raise ValueError(f"{what}: {tuple(poses.shape)}, not ({batch}, frames, 4, 4)")
    poses = poses if poses.is_floating_point() else poses.float()
    if not bool(poses.isfinite().all()):
        raise ValueError(f"{what}: not all are finite")
    return poses


def _past_frames(codec: Codec, field: VelocityField) -> int | None:
    """How many past frames belong to a clip, as the network's trajectory tells."""
    steps = getattr(field, "takes", {}).get("trajectory")
    if not steps:
        return None
    return steps + {"gt": -codec.future, "hist": 1, "hist+1": 0}[codec.conditioning]


class _Field(VelocityNetwork):
    """A velocity stage as the sampler calls it."""

    takes, taps, two_time = {}, (), False

    def __init__(self, velocity: backends.Function, two_time: bool) -> None:
        super().__init__()
        self.velocity, self.two_time = velocity, two_time

    def forward(self, x: Tensor, t: Tensor, c: Condition, r: Tensor | None = None) -> Tensor:
        return self.velocity(x, t, c.past, c.aligned, c.trajectory, r)


def disagreement(a: Forecaster, b: Forecaster, past: Tensor, poses: Tensor, trajectory: Tensor):
    """Share of voxels, 0 to 1, that two forecasters classify differently from the same noise."""
    one, other = same_noise((a, b), past, poses, trajectory)
    return float((one != other).float().mean())


def same_noise(
    forecasters: Sequence[Forecaster],
    past: Tensor,
    poses: Tensor,
    trajectory: Tensor,
    seed: int = 0,
) -> list[Tensor]:
    """Forecasts uint8 `(B, F, X, Y, Z)` on the CPU, of each forecaster from the same noise."""
    noise = forecasters[0].noise(len(past), torch_generator(seed))
    forecasts = []
    for f in forecasters:
        condition = f.condition(past, poses, trajectory, f.frames(past))
        forecasts.append(f.decode(f.generate(condition, noise.to(f.device))).cpu())
    return forecasts
