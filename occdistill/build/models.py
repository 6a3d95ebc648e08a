"""The networks of a config, shared by all forecasters that are made of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from occdistill import checkpoint as checkpoints
from occdistill import places
from occdistill.autoencoder.light import Light, Lightened
from occdistill.build.builders import (
    build_aligner,
    build_codec,
    build_lidar_encoder,
    build_light,
    build_light_network,
    build_network,
    build_vae,
    clips_of,
    load_checkpoint,
    same_aligner,
    sampler_options,
    trained_network,
)
from occdistill.errors import UserError
from occdistill.latents.codec import Codec
from occdistill.runtime import auto, int8
from occdistill.runtime.auto import AUTO
from occdistill.runtime.forecaster import Forecaster

DECODERS = ("full", "light")
ENCODERS = (*DECODERS, "lidar")
NETWORKS = ("full", "light")


class Models:
    """Autoencoder, its light and LiDAR parts, teacher and students: each is loaded once.

    Args:
        config: of all of them.
        fresh: `vae`, `light`, `teacher` and `light_network`: those that are drawn instead of loaded.
    """

    def __init__(self, config: Config, fresh: Collection[str] = ()) -> None:
        self.config, self.fresh = config, fresh
        self._states: dict[str, dict] = {}
        self._networks: dict[str, torch.nn.Module] = {}
        self._codecs: dict[tuple[str, str], Codec] = {}
        self._made: dict[tuple, Forecaster] = {}
        self._chosen: dict[tuple, dict[str, Any]] = {}

    @classmethod
    def of_what_is_there(cls, config: Config) -> Models:
        """With weights where there are files, to be timed; light parts belong to the others."""
        names, light = ("vae", "teacher", "light", "light_network"), {"light", "light_network"}
        missing = {n for n in names if not Path(config.get(f"{n}_checkpoint") or "").is_file()}
        return cls(config, names if missing - light else missing)

    @cached_property
    def vae(self) -> torch.nn.Module:
        """The full autoencoder."""
        return build_vae(self.config, weights="vae" not in self.fresh)

    @cached_property
    def vae_mark(self) -> str:
        """Fingerprint of the autoencoder."""
        return checkpoints.fingerprint(self.vae.state_dict())

    @cached_property
    def light(self) -> Light:
        """The light parts."""
        return build_light(self.config, self.vae, weights="light" not in self.fresh)

    @property
    def light_network(self) -> str:
        """Where the config's light network lies: a student like any other.

        Raises:
            UserError: the config has none.
        """
        path = self.config.get("light_network_checkpoint")
        if not path or not self.config.get("light_network"):
            raise UserError(
                "this config has no light network: add light_network=dict(type=…) and"
                " light_network_checkpoint"
            )
        return str(path)

    def _is_drawn(self, checkpoint: str | Path | None) -> bool:
        if checkpoint is None:
            return "teacher" in self.fresh
        place = self.config.get("light_network_checkpoint")
        return "light_network" in self.fresh and str(checkpoint) == place

    @cached_property
    def aligner(self) -> Lightened | None:
        """What encodes aligned frames, where that isn't the encoder of the others."""
        by = self.config.conditioning.get("aligned_by", "full")
        light = None if by == "full" else self.light
        return build_aligner(self.config, self.vae, light)

    @cached_property
    def lidar_encoder(self) -> torch.nn.Module:
        """The encoder of LiDAR."""
        return build_lidar_encoder(self.config, self.vae)

    def codec(self, decoder: str = "full", encoder: str = "full") -> Codec:
        """The codec with these parts of the autoencoder.

        Args:
            decoder: of `DECODERS`.
            encoder: of `ENCODERS`; `lidar` takes LiDAR voxels.

        Raises:
            UserError: the config doesn't have them.
        """
        if (decoder, encoder) not in self._codecs:
            parts = {}
            for name, part, known in (
                ("decoder", decoder, DECODERS),
                ("encoder", encoder, ENCODERS),
            ):
                if part not in known:
                    raise UserError(f"the {name} is {' or '.join(known)}, not {part}")
                if part == "light":
                    parts[name] = getattr(self.light, name)
                    if parts[name] is None:
                        raise UserError(
                            f"this config has no light {name}: add light_{name}=dict(type=…)"
                        )
            if encoder == "lidar":
                parts["encoder"] = self.lidar_encoder
            vae = Lightened(self.vae, **parts) if parts else self.vae
            self._codecs[decoder, encoder] = build_codec(self.config, vae, self.aligner)
        return self._codecs[decoder, encoder]

    def state(self, checkpoint: str | Path | None = None) -> dict:
        """What a student's or teacher's checkpoint holds; None: the config's teacher. Of networks
        that are drawn, their kind alone.

        Raises:
            UserError: no such file, neither a teacher nor a student, or one of another autoencoder.
        """
        key = str(checkpoint)
        if key not in self._states:
            self._states[key] = self._read(checkpoint)
        return self._states[key]

    def _read(self, path: str | Path | None) -> dict:
        if path is None:
            return load_checkpoint(self.config, "teacher_checkpoint")
        if self._is_drawn(path):
            return {"kind": "distill"}
        light = str(path) == self.config.get("light_network_checkpoint")
        state = (
            load_checkpoint(self.config, "light_network_checkpoint")
            if light
            else checkpoints.load(places.typed(path))
        )
        if state["kind"] not in ("teacher", "distill"):
            raise UserError(f"{path} holds a {state['kind']}, not a teacher or a distilled student")
        if state["fingerprints"].get("vae") not in (None, self.vae_mark):
            raise UserError(
                f"{path} was trained on the latents of VAE {state['fingerprints']['vae']}, not of "
                f"{self.config.vae_checkpoint} ({self.vae_mark}): use the VAE it was trained with"
            )
        return state

    def trained_for(self, checkpoint: str | Path) -> tuple[int, bool]:
        """Evaluations of a forecast that a student was trained for, and whether it is noised again
        after each, as its checkpoint says.
        """
        meta = self.state(checkpoint).get("meta") or {}
        return meta.get("steps", 1), meta.get("renoise", False)

    def network(self, checkpoint: str | Path | None = None) -> torch.nn.Module:
        """The velocity network of a checkpoint; None: the config's teacher."""
        key = str(checkpoint)
        if key not in self._networks:
            if self._is_drawn(checkpoint):
                draw = build_network if checkpoint is None else build_light_network
                self._networks[key] = draw(self.config)
            else:
                path = checkpoint or self.config.get("teacher_checkpoint")
                state = self.state(checkpoint)
                same_aligner(self.config, self.aligner, state, path)
                self._networks[key] = trained_network(self.config, state, path)
        return self._networks[key]

    def forecaster(
        self,
        checkpoint: str | Path | None = None,
        nfe: int | None = None,
        guidance: float | None = None,
        decoder: str = "full",
        encoder: str = "full",
        **options: Any,
    ) -> Forecaster:
        """A forecaster; those with the same network, decoder or encoder share its kernel.

        Args:
            checkpoint: a student's or another teacher's; None: the config's teacher.
            nfe: network evaluations per forecast, of a student by default its own; guided pairs count once.
            guidance: guidance scale; None: unguided.
            decoder: see `codec`.
            encoder: see `codec`.
            **options: of `Forecaster`: device, dtype, back end; `allow_tf32` by default the config's.
                Dtype and back end may be `auto`: the fastest here, measured for the first forecaster
                and told. Dtype `torch.int8`, with back end `onnx`, takes clips of the config's
                training split.
        """
        if nfe is None:
            nfe = 1 if checkpoint is None else self.trained_for(checkpoint)[0]
        options = {"allow_tf32": self.config.get("allow_tf32", False), **options}
        if AUTO in options.values():
            options = self._fastest(options, checkpoint, 1, None, decoder, encoder)
        if int8.asked(**options):
            return self._in_int8(options, checkpoint, nfe, guidance, decoder, encoder)
        codec, where = self.codec(decoder, encoder), tuple(sorted(options.items()))
        field = ("field", str(checkpoint), guidance, where)
        ends = ("encoder", encoder, where), ("decoder", decoder, where)
        if not self._made.keys() >= {field, *ends}:
            network = self.network(checkpoint)
            sampler = sampler_options(self.config)
            if checkpoint is not None:
                sampler["renoise"] = self.trained_for(checkpoint)[1]
            new = Forecaster(codec, network, guidance=guidance, **sampler, **options)
            for key in (field, *ends):
                self._made.setdefault(key, new)
        with_ends = self._made[field].with_parts(codec, *(self._made[end] for end in ends))
        return with_ends.with_nfe(nfe)

    def _in_int8(self, options: dict[str, Any], *forecaster: Any) -> Forecaster:
        """`int8.in_int8` of two that are made here; arguments as for `_fastest`."""
        key = ("int8", *map(str, forecaster), tuple(sorted(options.items())))
        if key not in self._made:
            plain, exact = (
                self.forecaster(*forecaster, **{**options, "dtype": torch.float32, "backend": name})
                for name in ("plain", "onnx")
            )
            clips = clips_of(self.config, "train", 2 * int8.CLIPS)
            self._made[key] = int8.in_int8(plain, exact, clips[::2], clips[1::2])
        return self._made[key].with_nfe(forecaster[1])

    def _fastest(self, options: dict[str, Any], *forecaster: Any) -> dict[str, Any]:
        """Options with what is fastest in the places of `auto`, see `runtime.auto`.

        Args:
            options: of `Forecaster`.
            *forecaster: other arguments of `self.forecaster`, for what is measured.
        """
        key = tuple(sorted(options.items()))
        if key not in self._chosen:
            device, chosen = options.get("device", "cpu"), dict(options)
            if chosen.get("dtype") == AUTO:
                chosen["dtype"], why = auto.dtype(device)
                print(f"dtype auto: {why}", flush=True)
            if chosen.get("backend") == AUTO:

                def make(backend: str) -> Forecaster:
                    return self.forecaster(*forecaster, **{**chosen, "backend": backend})

                chosen["backend"], why = auto.backend(make, self.config.data.past)
                print(f"backend auto: {why}", flush=True)
            self._chosen[key] = chosen
        return self._chosen[key]
