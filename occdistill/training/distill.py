"""Distilling the teacher into a one-step student."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyObject

from occdistill import checkpoint as ckpt
from occdistill.build.builders import (
    aligner_mark,
    build_aligner,
    build_codec,
    build_method,
    build_student,
    build_teacher,
    conditioning_mark,
    same_aligner,
    sampler_options,
    sampler_steps,
)
from occdistill.build.config import advice, load_config
from occdistill.distill import COLUMNS, methods, needs_and_costs
from occdistill.errors import UserError
from occdistill.evaluation.report import table
from occdistill.flow.guidance import Guided
from occdistill.training import plan
from occdistill.training.hooks import Collapse
from occdistill.training.job import Ingredients, Job
from occdistill.training.teacher import latent_batch
from occdistill.training.validation import ForecastScore, SampleSpread


def method_name(config: Config) -> str:
    """Name of the config's distillation method.

    Raises:
        UserError: it has none.
    """
    kind = (config.get("method") or {}).get("type")
    if kind is None:
        raise UserError(f"{config.filename} names no method: add method=dict(type=…), such as MFD")
    return getattr(kind, "__name__", str(kind).rsplit(".", 1)[-1])


def method_options(config: Config, name: str) -> dict[str, Any]:
    """What makes a method the config's, `{"dotted.key": value}`; nothing where it is already, with
    the config's arguments.

    Args:
        config: whose method is looked at.
        name: of a method's class, in any case, with or without underscores.

    Raises:
        UserError: there is no such method.
    """
    known = {kind.lower(): method for kind, method in methods().items()}
    wanted = name.lower().replace("_", "").replace("-", "")
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=1)
        hint = f"did you mean {known[close[0]].__name__}?" if close else "see --list-methods"
        raise UserError(f"there is no method {name}; {hint}")
    method = known[wanted]
    if config.get("method") and method_name(config) == method.__name__:
        return {}
    # as an import in a config file would be, so that the config can be written out
    return {"method": dict(type=LazyObject(method.__module__, method.__name__), _delete_=True)}


def load_with_method(
    path: str | Path, name: str | None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """A config with another method, or with its own for None; see `load_config`, `method_options`."""
    chosen = method_options(load_config(path), name) if name else {}
    return load_config(path, {**chosen, **(overrides or {})})


def overview() -> str:
    """What every method needs and costs, as docs/methods.md has it."""
    return table(COLUMNS, [needs_and_costs(kind) for kind in methods().values()])


def prepare(job: Job) -> Ingredients:
    """The config's method around its teacher, or around its flow over plans."""
    config = job.config
    if config.conditioning.kind == "plan":
        return plan.prepare_student(job)
    vae, vae_fingerprint = job.frozen_vae()
    aligner = build_aligner(config, vae)
    codec = build_codec(config, vae, aligner)
    teacher = build_teacher(config)
    state = ckpt.load(config.teacher_checkpoint)
    same_aligner(config, aligner, state, config.teacher_checkpoint)
    trained_on = state["fingerprints"].get("vae")
    if trained_on not in (None, vae_fingerprint):
        raise UserError(
            f"the teacher {config.teacher_checkpoint} was trained on the latents of VAE "
            f"{trained_on}, not of {config.vae_checkpoint} ({vae_fingerprint}): "
            f"{advice(config, 'teacher')}"
        )
    clips = job.latents(codec, vae_fingerprint)
    task = build_method(config, (config.data.future, *vae.latent_shape), teacher)
    own = dict(nfe=task.nfe, renoise=task.stochastic, **sampler_options(config))
    score = ForecastScore(job.clips("val"), codec, job.settings.val_clips, own)
    steps = sampler_steps(config)
    samples = SampleSpread(
        score, Guided(teacher, config.guidance), dict(own, nfe=steps, renoise=False)
    )
    fingerprints = {
        "vae": vae_fingerprint,
        "data": clips.fingerprint,
        "teacher": ckpt.fingerprint(teacher.state_dict()),
        "conditioning": conditioning_mark(config),
        **aligner_mark(aligner),
    }
    if config.get("student_checkpoint"):
        fingerprints["first student"] = ckpt.fingerprint(build_student(config).state_dict())
    alarm = Collapse(task.collapse, job.settings.stop_on_collapse)
    return Ingredients(
        task,
        clips,
        latent_batch,
        lambda net: {**score(net), **samples(net)},
        fingerprints,
        (alarm,),
    )
