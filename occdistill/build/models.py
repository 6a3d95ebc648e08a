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
    build_codec,
    build_lidar_encoder,
    build_light,
    build_network,
    build_vae,
    load_checkpoint,
    sampler_options,
    trained_network,
)
from occdistill.errors import UserError
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster

DECODERS = ("full", "light")
ENCODERS = (*DECODERS, "lidar")


class Models:
    """Autoencoder, its light and LiDAR parts, teacher and students: each is loaded once.

    Args:
        config: of all of them.
        fresh: `vae`, `light` and `teacher`: those that are drawn instead of loaded.
    """

    def __init__(self, config: Config, fresh: Collection[str] = ()) -> None:
        self.config, self.fresh = config, fresh
        self._states: dict[str, dict] = {}
        self._networks: dict[str, torch.nn.Module] = {}
        self._codecs: dict[tuple[str, str], Codec] = {}
        self._made: dict[tuple, Forecaster] = {}

    @classmethod
    def of_what_is_there(cls, config: Config) -> Models:
        """With weights where there are files, to be timed; light parts belong to the others."""
        names = ("vae", "teacher", "light")
        missing = {n for n in names if not Path(config.get(f"{n}_checkpoint") or "").is_file()}
        return cls(config, names if missing - {"light"} else missing)

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
            self._codecs[decoder, encoder] = build_codec(self.config, vae)
        return self._codecs[decoder, encoder]

    def state(self, checkpoint: str | Path | None = None) -> dict:
        """What a student's or teacher's checkpoint holds; None: the config's teacher.

        Raises:
            UserError: no such file, neither a teacher nor a student, or one of another autoencoder.
        """
        key = str(checkpoint)
        if key not in self._states:
            if checkpoint is None:
                self._states[key] = load_checkpoint(self.config, "teacher_checkpoint")
            else:
                self._states[key] = self._student(checkpoint)
        return self._states[key]

    def _student(self, path: str | Path) -> dict:
        state = checkpoints.load(places.typed(path))
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
            if checkpoint is None and "teacher" in self.fresh:
                self._networks[key] = build_network(self.config)
            else:
                path = checkpoint or self.config.get("teacher_checkpoint")
                self._networks[key] = trained_network(self.config, self.state(checkpoint), path)
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
        """
        if nfe is None:
            nfe = 1 if checkpoint is None else self.trained_for(checkpoint)[0]
        options = {"allow_tf32": self.config.get("allow_tf32", False), **options}
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
