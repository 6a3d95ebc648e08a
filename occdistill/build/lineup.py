"""Teacher and student, ready to be put side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction

from occdistill.build.builders import (
    build_codec,
    build_forecaster,
    build_teacher,
    build_vae,
    sampler_options,
)
from occdistill.build.config import PARTS
from occdistill.runtime.forecaster import BACKENDS, Forecaster

DTYPES = ("float32", "bfloat16", "float16")


def lineup(
    config: Config,
    checkpoint: str | Path | None = None,
    teacher_nfe: Sequence[int] = (10, 5, 2, 1),
    student_nfe: Sequence[int] = (1,),
    decoder: str = "full",
    encoder: str = "full",
    **options: Any,
) -> dict[str, Forecaster]:
    """Forecasters by name, `teacher@10` to `student@1`; the guided teachers share their networks.

    Args:
        config: of both.
        checkpoint: the student's; None: teachers only.
        teacher_nfe: evaluations per forecast, one guided teacher each.
        student_nfe: evaluations per forecast, one unguided student each.
        decoder: `full` or `light`, of all of them.
        encoder: `full`, `light` or `lidar`, likewise.
        **options: of `Forecaster`.
    """
    parts = dict(decoder=decoder, encoder=encoder)
    forecasters = {}
    if teacher_nfe:
        codec = build_codec(config, build_vae(config), **parts)
        network = build_teacher(config)
        sampler = sampler_options(config)
        for nfe in teacher_nfe:
            forecasters[f"teacher@{nfe}"] = Forecaster(
                codec, network, nfe=nfe, guidance=config.guidance, **sampler, **options
            )
    if checkpoint is not None:
        for nfe in student_nfe:
            forecasters[f"student@{nfe}"] = build_forecaster(
                config, checkpoint, nfe, **parts, **options
            )
    return forecasters


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of every tool that runs a `Forecaster`."""
    add = parser.add_argument
    add("config", help="a file in configs/")
    add("checkpoint", help="a distilled student")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", default="float32", choices=DTYPES, help="of matrix products")
    add("--backend", default="eager", choices=BACKENDS)
    add("--decoder", default="full", choices=PARTS[:2], help="full, or the config's light one")
    add("--encoder", default="full", choices=PARTS, help="full, light, or from LiDAR voxels")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE")


def positive(text: str) -> int:
    """A whole number from 1 on, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def forecaster_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_options` parsed, as arguments of `lineup`."""
    return dict(
        device=args.device, dtype=getattr(torch, args.dtype), backend=args.backend,
        decoder=args.decoder, encoder=args.encoder,
    )  # fmt: skip
