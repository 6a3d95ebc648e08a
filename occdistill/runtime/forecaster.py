"""Past in, future out: the one way in which models are run, scored, drawn and timed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from occdistill.data.poses import trajectory_from_poses
from occdistill.errors import UserError
from occdistill.flow.guidance import Guided
from occdistill.flow.networks.base import VelocityNetwork
from occdistill.flow.solver import VelocityField, sample
from occdistill.latents.codec import Codec
from occdistill.latents.condition import Condition
from occdistill.runtime import backends, frozen
from occdistill.runtime.backends import BACKENDS
from occdistill.runtime.spread import Spread, spread
from occdistill.runtime.stages import Decode, Encode, Velocity
from occdistill.seeds import torch_generator
from occdistill.types import Count, Positive, Weight

__all__ = ["BACKENDS", "Forecaster", "disagreement", "same_noise"]


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
        dtype: float32, or the type that matrix products are done in (autocast).
        backend: how they are run, see `runtime.backends`. All but `plain` read the autoencoder's
            weights once, now.

    Raises:
        UserError: unknown back end, a device or compiler that isn't there, or a network that takes
            other aligned frames than the codec gives.
    """

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
    ) -> None:
        self.device = torch.device(device)
        backends.check(backend, self.device)
        self.codec, self.nfe, self.guidance = codec, nfe, guidance
        self.shift, self.renoise, self.temperature = shift, renoise, temperature
        self.dtype, self.backend = dtype, backend
        if isinstance(field, VelocityNetwork) and field.takes.get("aligned", 0) != len(codec.align):
            raise UserError(
                f"{type(field).__name__} takes {field.takes.get('aligned', 0)} aligned frames, but"
                f" conditioning.align gives {len(codec.align)}: make them agree in the config"
            )
        for net in (codec.vae, field):
            if isinstance(net, nn.Module):
                net.to(self.device).eval()
        field = field if guidance is None else Guided(field, guidance)
        scale, where = float(codec.vae.scale), (dtype, self.device)
        if backend == "plain":
            encoder, decoder = frozen.plain_encoder(codec.vae), frozen.plain_decoder(codec.vae)
        else:
            encoder, decoder = frozen.encoder(codec.vae), frozen.decoder(codec.vae)
            field = frozen.field(field)
        self._encode = backends.build(backend, Encode(encoder, scale, *where))
        self._decode = backends.build(backend, Decode(decoder, scale, *where))
        velocity = Velocity(field, *where)
        self._field = _Field(backends.build(backend, velocity), velocity.two_time)

    @torch.no_grad()
    def __call__(
        self,
        past: Tensor,
        poses: Tensor,
        trajectory: Tensor | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Forecast the future of a batch of clips.

        Args:
            past: uint8 `(B, P, X, Y, Z)`.
            poses: frame to newest past ego frame, `(B, P [+ F], 4, 4)`.
            trajectory: LiDAR displacements `(B, >= L, 2)`; None: from the poses, with the LiDAR
                where nuScenes cars carry it.
            samples: futures per clip, S. The past is encoded once for all of them.
            generator: of the noise, on any device.

        Returns:
            uint8 `(B, F, X, Y, Z)`, or `(B, S, F, X, Y, Z)` for several samples.

        Raises:
            ValueError: neither poses nor trajectory say what the model is to know of the future.
        """
        if trajectory is None:
            if poses.shape[1] < past.shape[1] + self.codec.plan:
                raise ValueError(
                    f"conditioning {self.codec.conditioning} needs the ego's next"
                    f" {self.codec.plan} poses, or the trajectory"
                )
            trajectory = trajectory_from_poses(poses)
        condition = self.condition(past, poses, trajectory)
        return self.futures(condition, samples, generator)

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
        past: Tensor,
        poses: Tensor,
        trajectory: Tensor | None = None,
        samples: int = 8,
        generator: torch.Generator | None = None,
    ) -> Spread:
        """How far several futures of a clip agree; arguments as for calling the forecaster.

        Returns:
            occupancy probability and class entropy per voxel, `(B, F, X, Y, Z)`.
        """
        futures = self(past, poses, trajectory, samples, generator)
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
        self, past: Tensor, poses: Tensor, trajectory: Tensor, latents: Tensor | None = None
    ) -> Condition:
        """Stage 1: encode what is known; shapes as for calling the forecaster.

        Args:
            past: see there.
            poses: see there.
            trajectory: see there.
            latents: the past's latents `(B, P, C, H, W)` where they are known already.
        """
        known = (self.here(x) for x in (past, poses, trajectory))
        return self.codec.condition(*known, encode=self.encode, latents=latents)

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
