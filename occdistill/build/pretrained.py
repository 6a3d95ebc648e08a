"""From a name, a checkpoint or a folder to a forecaster: the checkpoint says what it is."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from occdistill import checkpoint as checkpoints
from occdistill import places
from occdistill.build.builders import sampler_steps, trained_network
from occdistill.build.config import SCHEMA
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.schema import check, resolve
from occdistill.errors import UserError
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.planner import Planner

# by name, the shipped checkpoint, whose autoencoder lies beside it
PRETRAINED = {
    "demo": places.WEIGHTS / "student.pth",
    "demo-hist": places.WEIGHTS / "hist_student.pth",  # on the past alone
}
PLANNER = "plan_student.pth"  # beside a checkpoint, what it plans with where nobody gives a plan
IN_FOLDER = ("student.pth", "teacher.pth")
PARTS = ("vae", "light", "lidar_encoder", "light_network")
# of a checkpoint's config, what a forecaster is made of; the rest is about its training
NEEDED = (
    "data", "vae", "light_decoder", "light_encoder", "lidar_encoder", "network", "light_network",
    "conditioning",
    "guidance", "sampler", *(f"{part}_checkpoint" for part in PARTS),
)  # fmt: skip


def pretrained(
    source: str | Path,
    *,
    nfe: int | None = None,
    guidance: float | None = None,
    decoder: str = "full",
    encoder: str = "full",
    network: str = "full",
    **options: Any,
) -> Forecaster:
    """`Forecaster.from_pretrained`, which says what the arguments are."""
    path = checkpoint_path(source)
    config = checkpoint_config(path)
    teacher = checkpoints.load(path)["kind"] == "teacher"
    if nfe is None:
        nfe = sampler_steps(config) if teacher else 1
    (entry,) = lineup(
        Models(config), path, (), (nfe,), guidance=guidance, decoders=(decoder,),
        encoders=(encoder,), networks=(network,), **options,
    )  # fmt: skip
    beside = path.absolute().with_name(PLANNER)
    if beside.is_file():
        entry.forecaster.planner = planner_for(config, beside, options.get("device", "cpu"))
    return entry.forecaster


Forecaster.loader = staticmethod(pretrained)


def planner(path: str | Path, device: str | torch.device = "cpu") -> Planner:
    """A planner from its checkpoint, in as many evaluations as that says.

    Args:
        path: a flow over plans (`tools/train_plan.py`) or a student of one.
        device: where it runs.

    Raises:
        UserError: no such file, or another network.
    """
    path = places.typed(path)
    state, config = checkpoints.load(path), checkpoint_config(path)
    if config.conditioning.kind != "plan":
        raise UserError(
            f"{path} holds a {state['kind']}, not a planner: make one with tools/train_plan.py"
        )
    network, meta = trained_network(config, state, path), state["meta"]
    whole = sampler_steps(config)
    nfe = whole if state["kind"] == "plan" else meta.get("steps", 1)
    mark = checkpoints.fingerprint(checkpoints.weights(state))
    return Planner(network, nfe, meta.get("renoise", False), mark, device)


def planner_for(
    config: Config, path: str | Path | None = None, device: str | torch.device = "cpu"
) -> Planner | None:
    """What a config's models plan with.

    Args:
        config: of models that take a plan, else there is nothing to plan for.
        path: a planner's checkpoint; default: the config's `plan_checkpoint`.
        device: where it runs.

    Raises:
        UserError: as `planner`.
    """
    path = path or config.get("plan_checkpoint")
    return planner(path, device) if path and config.conditioning.kind == "gt" else None


def the_planner(config: Config, path: str, device: str | torch.device = "cpu") -> Planner:
    """`planner_for` one who asks for plans.

    Raises:
        UserError: there is none, or nothing to plan for; and as `planner`.
    """
    found = planner_for(config, path, device)
    if found is None:
        raise UserError(f"{config.filename} names no planner, or its models take no plan")
    return found


def checkpoint_path(source: str | Path) -> Path:
    """The checkpoint that a name, a file or a folder means.

    Raises:
        UserError: there is no such thing.
    """
    if str(source) in PRETRAINED:
        return PRETRAINED[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        there = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if there:
            return there[0]
        raise UserError(f"the folder {path} holds neither {' nor '.join(IN_FOLDER)}: train one")
    names = ", ".join(repr(name) for name in PRETRAINED)
    raise UserError(
        f"{str(source)!r} is no checkpoint, no folder and no name that is known: {names}"
    )


def checkpoint_config(path: str | Path) -> Config:
    """The config that a checkpoint was made with, as far as forecasting needs it.

    Nothing in it is run: it may hold plain values and the names of this project's classes.
    The autoencoder is the one beside the checkpoint, else the one that the config names.

    Raises:
        UserError: it holds none, or another thing.
    """
    path = Path(path)
    text = checkpoints.load(path).get("config_text", "")
    content = {key: value for key, value in _values(text, path).items() if key in NEEDED}
    if "network" not in content:
        raise UserError(
            f"{path} doesn't hold its config (imported weights don't): use the tools with a config,"
            " such as configs/nus.py"
        )
    for part in PARTS:
        beside, key = path.absolute().with_name(f"{part}.pth"), f"{part}_checkpoint"
        if beside.is_file():
            content[key] = str(beside)
        elif content.get(key):
            content[key] = str(places.named(content[key], path))
    _own_classes(content, path)
    check({k: v for k, v in content.items() if v is not None}, SCHEMA, path)
    return Config(content, cfg_text=text, filename=str(path))


def _values(text: str, path: Path) -> dict[str, Any]:
    """The assignments of a printed config, read without running it."""
    try:
        lines = ast.parse(text).body
        return {line.targets[0].id: _value(line.value) for line in lines}
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError) as error:
        raise UserError(
            f"the config in {path} holds more than plain values, so it is not read:"
            " use a checkpoint made by this project's tools"
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if node.args or any(word.arg is None for word in node.keywords):
            raise ValueError("a dict of something else")
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values)}
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(one) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)


def _own_classes(value: Any, path: Path) -> None:
    """Refuse what builds anything but a class of this package."""
    if isinstance(value, list | tuple):
        for one in value:
            _own_classes(one, path)
    if isinstance(value, Mapping):
        for one in value.values():
            _own_classes(one, path)
        name = value.get("type")
        if name is not None and not _own(name):
            raise UserError(
                f"{path} is made of {str(name)[:80]!r}, which is no class of occdistill, so it is"
                " not built: load it with its config and the tools, if you trust it"
            )


def _own(name: Any) -> bool:
    if not str(name).startswith("occdistill."):
        return False
    return getattr(resolve(name), "__module__", "").startswith("occdistill.")
