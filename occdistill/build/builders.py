"""The objects that a config describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict

from occdistill import checkpoint as checkpoints
from occdistill.autoencoder.light import Light, Lightened
from occdistill.build.config import advice, data_root
from occdistill.build.schema import arguments, resolve
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import Grid, GridTransform
from occdistill.distill.base import Method, frozen
from occdistill.distill.flow_map import FlowMap, made_for, two_time
from occdistill.errors import UserError, out_of_memory
from occdistill.flow.parts import start_from
from occdistill.latents.codec import Codec


def construct(kind: type, *arguments: Any, **options: Any) -> Any:
    """An object of a class, from what a config says.

    Raises:
        UserError: the class refuses it.
    """
    try:
        return kind(*arguments, **options)
    except (TypeError, ValueError, IndexError, ArithmeticError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"the config's {kind.__name__} can't be built: {error}") from error


def described(config: Config, key: str) -> Any:
    """What a config says of a part.

    Raises:
        UserError: nothing.
    """
    if config.get(key) is None:
        raise UserError(f"{config.filename} has no {key}: add {key}=dict(…), or use another config")
    return config[key]


def _instantiate(spec: Mapping, **more: Any) -> Any:
    """Build `dict(type=Class, **arguments)`."""
    arguments = {k: _plain(v) for k, v in spec.items() if k != "type"}
    return construct(resolve(spec["type"]), **{**more, **arguments})


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value


def build_dataset(config: Config, split: str, masks: bool = False) -> ClipDataset:
    """Clips of the `train` or `val` part; `split` may also be a split name of the data set."""
    data_root(config)
    data = {k: v for k, v in config.data.items() if k not in arguments(GridTransform)}
    transform = build_transform(config)
    split = {"train": data.pop("train_split"), "val": data.pop("val_split")}.get(split, split)
    return ClipDataset(split=split, transform=transform, masks=masks, **data)


def clips_of(config: Config, split: str, count: int) -> list[dict[str, Any]]:
    """`count` clips of a part of the data, spread evenly; all where there are no more."""
    dataset = build_dataset(config, split)
    return [dataset[i] for i in some_clips(dataset, count) or range(len(dataset))]


def some_clips(dataset: ClipDataset, count: int | None) -> list[int] | None:
    """Numbers of `count` clips, spread evenly; None for all where there are no more."""
    if count is None or count >= len(dataset):
        return None
    return np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()


def build_transform(config: Config) -> GridTransform:
    """From Occ3D's grid to the one that the config's clips live on."""
    wanted = arguments(GridTransform)
    return GridTransform(**{k: v for k, v in config.data.items() if k in wanted})


def build_grid(config: Config) -> Grid:
    """The voxel grid that the config's clips live on."""
    return build_transform(config).grid


def load_weights(
    config: Config, key: str, net: torch.nn.Module, vae: torch.nn.Module | None = None
) -> torch.nn.Module:
    """`net` frozen with the weights named by `config[key]`, averaged ones where there are any.

    Args:
        config: says where they lie.
        key: `<kind>_checkpoint`.
        net: of that kind.
        vae: what it must have been distilled from; None: it doesn't matter.

    Raises:
        UserError: no such file, another kind of checkpoint, weights of another architecture, or
            distilled from another autoencoder.
    """
    state, what = load_checkpoint(config, key), key.removesuffix("_checkpoint")
    made_from = state["fingerprints"].get("vae")
    if vae is not None and made_from != (mark := checkpoints.fingerprint(vae.state_dict())):
        raise UserError(
            f"the {what} weights in {config[key]} were distilled from VAE {made_from}, not from "
            f"{config.vae_checkpoint} ({mark}): {advice(config, what)}"
        )
    checkpoints.load_weights(net, checkpoints.weights(state), config[key])
    return frozen(net)


def load_checkpoint(config: Config, key: str) -> dict:
    """The checkpoint named by `config[key]`, `<kind>_checkpoint`. A teacher may be a student: one
    that another student learns from.

    Raises:
        UserError: no such file, or another kind of checkpoint.
    """
    what = key.removesuffix("_checkpoint")
    path = config.get(key)
    if not path or not Path(path).is_file():
        raise UserError(f"no {what} weights at {path or key}; {advice(config, what)}")
    state = checkpoints.load(path)
    wanted = {
        "teacher": ("teacher", "distill"), "light_network": ("distill",), "start": ("teacher",)
    }.get(what, (what,))  # fmt: skip
    if state["kind"] not in wanted:
        raise checkpoints.another_kind(path, state, wanted[0])
    return state


def build_vae(config: Config, weights: bool = True) -> torch.nn.Module:
    """The autoencoder, frozen with its weights, or fresh for training."""
    vae = _instantiate(described(config, "vae"))
    return load_weights(config, "vae_checkpoint", vae) if weights else vae


def build_light(config: Config, vae: torch.nn.Module, weights: bool = True) -> Light:
    """The config's light decoder and encoder, frozen with their weights, or fresh for training.

    Raises:
        UserError: the config has neither, or its weights are missing or were distilled from
            another autoencoder than `vae`.
    """
    shapes = dict(latent_shape=vae.latent_shape, grid_shape=vae.grid_shape)
    parts = {
        name: _instantiate(config[f"light_{name}"], **shapes)
        for name in ("decoder", "encoder")
        if config.get(f"light_{name}")
    }
    if not parts:
        raise UserError(
            "this config has no light parts: add light_decoder=dict(type=LightDecoder, …) or "
            "light_encoder=dict(type=LightEncoder, …)"
        )
    light = Light(**parts)
    return load_weights(config, "light_checkpoint", light, vae) if weights else light


def build_lidar_encoder(
    config: Config, vae: torch.nn.Module, weights: bool = True
) -> torch.nn.Module:
    """The config's encoder of LiDAR to `vae`'s latents, frozen, or fresh for training.

    Raises:
        UserError: the config has none, or its weights are missing or were trained on the latents
            of another autoencoder.
    """
    if not config.get("lidar_encoder"):
        raise UserError("this config has no LiDAR encoder: add lidar_encoder=dict(type=…)")
    shapes = dict(grid_shape=vae.grid_shape, latent_shape=vae.latent_shape)
    encoder = _instantiate(config.lidar_encoder, **shapes)
    return load_weights(config, "lidar_encoder_checkpoint", encoder, vae) if weights else encoder


def build_aligner(
    config: Config, vae: torch.nn.Module, light: Light | None = None
) -> Lightened | None:
    """The autoencoder that encodes aligned frames, where the config's conditioning wants another
    than for the others.

    Args:
        config: says which.
        vae: the full one.
        light: the config's light parts where they are known already.

    Raises:
        UserError: the config has no light encoder, or its weights are missing or belong to another
            autoencoder.
    """
    if (config.get("conditioning") or {}).get("aligned_by", "full") == "full":
        return None
    encoder = (light or build_light(config, vae)).encoder
    if encoder is None:
        raise UserError(
            f"{config.filename}: conditioning.aligned_by is 'light', which needs a light encoder: "
            "add light_encoder=dict(type=LightEncoder, …)"
        )
    return Lightened(vae, encoder=encoder.to(next(vae.parameters()).device))


def build_codec(
    config: Config, vae: torch.nn.Module, aligner: torch.nn.Module | None = None
) -> Codec:
    """The voxel-latent codec with the config's conditioning.

    Args:
        config: says what the conditioning is.
        vae: of all frames.
        aligner: of `build_aligner`; not needed where nothing is encoded.

    Raises:
        UserError: the conditioning contradicts itself, or asks for more past than there is.
    """
    described(config, "conditioning")
    _check_conditioning(config)
    conditioning = dict(described(config, "conditioning"))
    return Codec(
        vae,
        build_grid(config),
        future=config.data.future,
        conditioning=conditioning.pop("kind"),
        aligner=aligner,
        **conditioning,
    )


def _check_conditioning(config: Config) -> None:
    """Refuse what no `Codec` can do, naming the config's keys."""
    carry, past = config.conditioning.get("carry"), config.data.past
    align = tuple(config.conditioning.get("align") or ())
    if not all(offset < past for offset in align):
        raise UserError(
            f"conditioning.align is {align}, but the {past} past frames (data.past) lie 0 to "
            f"{past - 1} before the newest"
        )
    if carry and 0 not in align:
        raise UserError(
            "conditioning.carry moves the objects of the newest frame: conditioning.align must hold 0"
        )
    if carry and past < 3:
        raise UserError(
            f"conditioning.carry takes velocities from three past frames, but data.past is {past}"
        )


def sampler_options(config: Config) -> dict[str, float]:
    """The config's `shift` and `temperature`, as arguments of `Forecaster`."""
    sampler = config.get("sampler") or {}
    return dict(shift=sampler.get("shift", 3.0), temperature=sampler.get("temperature", 1.0))


def sampler_steps(config: Config) -> int:
    """How many evaluations a forecast of the config's teacher takes."""
    return (config.get("sampler") or {}).get("steps", 10)


def build_network(config: Config) -> torch.nn.Module:
    """A fresh velocity network."""
    return _instantiate(described(config, "network"))


def started_network(config: Config) -> torch.nn.Module:
    """The velocity network as its training begins: fresh, or with the weights of the config's
    `start_checkpoint`. What it has beyond those begins without effect.

    Raises:
        UserError: no such file, no teacher, or weights of another network or autoencoder.
    """
    network, path = build_network(config), config.get("start_checkpoint")
    if not path:
        return network
    state = load_checkpoint(config, "start_checkpoint")
    made_for_vae = state["fingerprints"].get("vae")
    mark = checkpoints.fingerprint(build_vae(config).state_dict())
    if made_for_vae not in (None, mark):
        raise UserError(
            f"{path} was trained on the latents of VAE {made_for_vae}, not of "
            f"{config.vae_checkpoint} ({mark}): {advice(config, 'start')}"
        )
    beyond = tuple(f"{name}." for name in network.without_effect)
    weights = dict(checkpoints.weights(state))
    for key, value in network.state_dict().items():
        if key.startswith(beyond):
            weights.setdefault(key, value)
    checkpoints.load_weights(network, weights, path)
    return network


def build_light_network(config: Config) -> torch.nn.Module:
    """A fresh light velocity network.

    Raises:
        UserError: the config has none.
    """
    if not config.get("light_network"):
        raise UserError("this config has no light network: add light_network=dict(type=…)")
    return _instantiate(config.light_network)


def build_teacher(config: Config) -> torch.nn.Module:
    """The teacher's velocity network, frozen, with its averaged weights."""
    state = load_checkpoint(config, "teacher_checkpoint")
    return trained_network(config, state, config.teacher_checkpoint)


def trained_network(config: Config, state: Mapping, path: str | Path) -> torch.nn.Module:
    """The velocity network of a checkpoint, frozen, with its averaged weights.

    Args:
        config: says what network it is. Of its two, the full and the light one, it is the light one
            if the weights are that one's.
        state: the checkpoint.
        path: where it lay, for errors.

    Raises:
        UserError: weights of another network, or trained with other conditioning.
    """
    _same_conditioning(config, state, path)
    weights = checkpoints.weights(state)
    network = made_for(build_network(config), weights)
    if config.get("light_network"):
        light = made_for(build_light_network(config), weights)
        network = light if _shapes(light.state_dict()) == _shapes(weights) else network
    checkpoints.load_weights(network, weights, path)
    return frozen(network)


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def conditioning_mark(config: Config) -> str:
    """What velocity networks are shown, in words that go into their checkpoints' fingerprints."""
    given = dict(config.conditioning)
    shown = [f"{config.data.past} past frames", given["kind"]]
    if given.get("align"):
        shown.append(f"aligned {' '.join(map(str, given['align']))}")
    if given.get("carry"):
        shown.append("objects carried")
    if given.get("aligned_by", "full") != "full":
        shown.append(f"by the {given['aligned_by']} encoder")
    return ", ".join(shown)


def _same_conditioning(config: Config, state: Mapping, path: str | Path) -> None:
    """Refuse a velocity network that was trained with another condition than the config's."""
    trained, ours = state["fingerprints"].get("conditioning"), conditioning_mark(config)
    if trained not in (None, ours):  # imported weights don't say
        raise UserError(
            f"{path} was trained with other conditioning ({trained}) than this config's ({ours}): "
            "use the config it was trained with"
        )


def aligner_mark(aligner: Lightened | None) -> dict[str, str]:
    """What a velocity network's checkpoint says of who encoded its aligned frames."""
    if aligner is None:
        return {}
    return {"aligner": checkpoints.fingerprint(aligner.encoder.state_dict())}


def same_aligner(
    config: Config, aligner: Lightened | None, state: Mapping, path: str | Path
) -> None:
    """Refuse a velocity network whose aligned frames another light encoder made.

    Raises:
        UserError: says both.
    """
    ours, theirs = aligner_mark(aligner).get("aligner"), state["fingerprints"].get("aligner")
    if aligner is not None and theirs not in (None, ours):
        raise UserError(
            f"{path} was trained on aligned frames of light encoder {theirs}, not of "
            f"{config.light_checkpoint} ({ours}): use the one it was trained with"
        )


def build_method(config: Config, latent_shape: tuple[int, ...], teacher=None) -> Method:
    """The distillation method around a teacher (default: the config's), with a decoder if it asks,
    and with the student of the config's `student_checkpoint` to start from if there is one. A first
    light student (`student_network`) is made of the teacher's channels.
    """
    teacher = build_teacher(config) if teacher is None else teacher
    method, guidance = described(config, "method"), described(config, "guidance")
    kind = resolve(method["type"])
    given = dict(teacher=teacher, latent_shape=latent_shape, guidance=guidance)
    if "decoder" in arguments(kind):
        given["decoder"] = build_vae(config)
    student = None
    if config.get("student_checkpoint"):
        student = build_student(config)
    elif config.get("student_network") == "light":
        student = build_light_network(config)
        start_from(student, teacher)
    if student is not None:
        given["student"] = two_time(student) if issubclass(kind, FlowMap) else student
    return _instantiate(method, **given)


def build_student(config: Config) -> torch.nn.Module:
    """The network of the config's `student_checkpoint`, distilled before.

    Raises:
        UserError: no such file, no student, or one of another network or condition.
    """
    path = Path(config.student_checkpoint)
    if not path.is_file():
        raise UserError(f"no student weights at {path}; make them with tools/train_distill.py")
    return trained_network(config, checkpoints.load(path, kind="distill"), path)
