"""Read a config file and check every key of it.

Configs are Python files in mmengine's style, with real imports instead of names in strings. Every
key a tool understands is listed in `SCHEMA`; anything else is refused by name.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from occdistill.build.settings import TRAININGS
from occdistill.errors import UserError

# what a config may hold; None: a value or a dict whose keys its type checks
PARTS = ("full", "light", "lidar")  # of the autoencoder; the last for the encoder only
SCHEMA: dict[str, tuple[str, ...] | None] = {
    "data": (
        "dataroot", "version", "train_split", "val_split", "past", "future", "stride", "crop",
        "coarsen", "min_fill", "source", "merge",
    ),
    "vae": None,
    "vae_checkpoint": None,
    "light_decoder": None,
    "light_encoder": None,
    "light_checkpoint": None,
    "lidar_encoder": None,
    "lidar_encoder_checkpoint": None,
    "network": None,
    "teacher_checkpoint": None,
    "conditioning": ("kind", "align", "carry"),
    "guidance": None,
    "sampler": ("steps", "shift", "temperature"),
    "method": None,
    **{key: tuple(f.name for f in fields(kind)) for key, kind in TRAININGS.items()},
    "cache_dir": None,
    "work_dir": None,
    "custom_hooks": None,
    "vis_backends": None,
    "advice": ("data", "vae", "light", "lidar_encoder", "teacher"),
}  # fmt: skip


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, apply `{"dotted.key": value}` overrides, and check every key.

    Raises:
        UserError: no such file, a file that doesn't parse, or an unknown key, named with the
            closest known one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file at {path}; the ones that come along are in configs/")
    try:
        config = Config.fromfile(path)
    except (SyntaxError, ImportError, AttributeError, NameError) as error:
        raise UserError(f"the config {path} doesn't load: {error}") from error
    if overrides:
        # a copy: merging takes `_delete_` out of nested dicts
        config.merge_from_dict(copy.deepcopy(dict(overrides)))
    _drop_imports(config)
    for key, value in config.items():
        _check_key(key, SCHEMA, path, "")
        if SCHEMA[key] is not None:
            for inner in value or {}:
                _check_key(inner, SCHEMA[key], path, f"{key}.")
    for key in ("vae", "light_decoder", "light_encoder", "lidar_encoder", "network", "method"):
        _check_arguments(config.get(key), path, key)
    return config


def _drop_imports(config: Config) -> None:
    """Forget the config file's own imports, which mmengine lists among its values."""
    raw = config._cfg_dict
    for key, value in list(dict.items(raw)):
        if callable(value) or isinstance(value, (LazyObject, LazyAttr)):
            del raw[key]


def _check_key(key: str, known, path: Path, prefix: str) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, list(known), n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
        raise UserError(f"{path} has an unknown key {prefix}{key}; {hint}")


def resolve(kind: Any) -> Any:
    """The class itself, also where mmengine left an import to be made later."""
    return kind.build() if isinstance(kind, LazyObject) else kind


def _check_arguments(spec: Mapping | None, path: Path, name: str) -> None:
    """Refuse arguments that the class of a `dict(type=Class, ...)` doesn't take."""
    if spec is None:
        return
    kind = resolve(spec.get("type"))
    if not inspect.isclass(kind):
        raise UserError(f"{path}: {name} needs type=<a class>, as in {name}=dict(type=...)")
    known, open_ended = {"type"}, True
    for cls in kind.__mro__:  # follow **kwargs up the bases
        if not open_ended or "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in spec:
        _check_key(key, sorted(known - {"self"}), path, f"{name}.")


def advice(config: Config, what: str) -> str:
    """The command that brings missing `data`, `vae`, `light` or `teacher`, as the config tells it."""
    return (config.get("advice") or {}).get(what, "see README.md")


def data_root(config: Config) -> Path:
    """The folder of the config's data set.

    Raises:
        UserError: it isn't there; says the command that brings it, as the config tells it.
    """
    root = Path(config.data.dataroot)
    if not root.is_dir():
        raise UserError(f"no data at {root.absolute()}; {advice(config, 'data')}")
    return root
