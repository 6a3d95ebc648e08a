"""Teacher and student, ready to be put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from occdistill import checkpoint as checkpoints
from occdistill.build.models import Models
from occdistill.runtime.forecaster import Forecaster

STEPS = (10, 5, 2, 1)  # evaluations per forecast, of guided teachers


@dataclass(frozen=True)
class Contender:
    """One of a line-up.

    Attributes:
        model: `teacher`, `student`, or what it was called.
        forecaster: its networks and kernels are shared with others.
        decoder: `full` or `light`.
        encoder: `full`, `light` or `lidar`.
        network: `full` or `light`.
        checkpoint: fingerprint of the velocity network's weights.
        cache: fingerprint of the encoded clips that it was trained on, if it says so.
    """

    model: str
    forecaster: Forecaster
    decoder: str
    encoder: str
    network: str
    checkpoint: str
    cache: str | None

    @property
    def title(self) -> str:
        """The model, and which of its parts are not the full ones."""
        return with_parts(self.model, self.decoder, self.encoder, self.network)

    @property
    def name(self) -> str:
        """Unique: `teacher@10`, `student, light decoder@1`."""
        return f"{self.title}@{self.forecaster.nfe}"


def lineup(
    models: Models,
    checkpoint: str | Path | None = None,
    teacher_nfe: Sequence[int] = STEPS,
    nfe: Sequence[int] | None = None,
    *,
    guidance: float | None = None,
    name: str | None = None,
    decoders: Sequence[str] = ("full",),
    encoders: Sequence[str] = ("full",),
    networks: Sequence[str] = ("full",),
    **options: Any,
) -> list[Contender]:
    """The config's teacher, a checkpoint, and the config's light student, at each number of
    evaluations, with each decoder and encoder. Every network is loaded once, and every kernel compiled once.

    Args:
        models: of the config.
        checkpoint: a student's, or another teacher's; None: the config's teacher only.
        teacher_nfe: evaluations per forecast of the config's teacher.
        nfe: of the checkpoint; default: a student's own, those of `STEPS` for a teacher.
        guidance: of the checkpoint; default: none for a student, the config's for a teacher.
        name: what to call the checkpoint; default: `student`, or `checkpoint` for a teacher.
        decoders: of `models.DECODERS`.
        encoders: of `models.ENCODERS`.
        networks: of `models.NETWORKS`: `full` is the checkpoint, `light` the config's light network.
        **options: of `Forecaster`: device, dtype, back end.
    """
    entries = []

    def add(model: str, path, nfes: Sequence[int], scale: float | None, which="full") -> None:
        state = models.state(path)
        mark = checkpoints.fingerprint(checkpoints.weights(state))
        cache = state["fingerprints"].get("data")
        for decoder, encoder, steps in product(decoders, encoders, nfes):
            parts = dict(decoder=decoder, encoder=encoder)
            forecaster = models.forecaster(path, steps, scale, **parts, **options)
            entries.append(
                Contender(model, forecaster, **parts, network=which, checkpoint=mark, cache=cache)
            )

    if teacher_nfe:
        add("teacher", None, teacher_nfe, models.config.guidance)
    if checkpoint is not None and "full" in networks:
        student = models.state(checkpoint)["kind"] == "distill"
        if not student and guidance is None:
            guidance = models.config.guidance
        name = name or ("student" if student else "checkpoint")
        own = (models.trained_for(checkpoint)[0],) if student else STEPS
        add(name, checkpoint, nfe or own, guidance)
    if "light" in networks:
        path = models.light_network
        add("student", path, nfe or (models.trained_for(path)[0],), None, "light")
    return entries


def with_parts(name: str, decoder: str, encoder: str, network: str = "full") -> str:
    """A name that also says which parts are not the full ones."""
    parts = (("decoder", decoder), ("encoder", encoder), ("network", network))
    return ", ".join([name, *(f"{which} {part}" for part, which in parts if which != "full")])
