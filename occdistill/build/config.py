"""Read a config file and check all of it.

Configs are Python files in mmengine's style, with real imports instead of names in strings. What they
may hold is declared by the classes that take it; `SCHEMA` says which class takes what.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from occdistill import places
from occdistill.build.schema import Built, arguments, check
from occdistill.build.settings import PARTS
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import GridTransform
from occdistill.errors import UserError
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster

_CLIPS = arguments(ClipDataset, "split", "transform", "masks", "future_poses")
_CODEC, _FORECASTER = arguments(Codec), arguments(Forecaster)
SCHEMA: dict[str, Any] = {  # an annotation, a class, or annotations by name
    "data": {**_CLIPS, "train_split": str, "val_split": str, **arguments(GridTransform)},
    **dict.fromkeys(
        ("vae", "light_decoder", "light_encoder", "lidar_encoder", "network", "light_network", "method"),
        Built,
    ),
    **dict.fromkeys(
        (
            "vae_checkpoint", "light_checkpoint", "lidar_encoder_checkpoint", "teacher_checkpoint",
            "start_checkpoint", "student_checkpoint", "light_network_checkpoint",
            "plan_checkpoint", "cache_dir", "work_dir",
        ),
        str | Path,
    ),
    "conditioning": {
        "kind": _CODEC["conditioning"] | Literal["plan"],
        **{key: _CODEC[key] for key in ("align", "carry", "aligned_by")},
    },
    "student_network": Literal["full", "light"],
    "guidance": _FORECASTER["guidance"],
    "allow_tf32": _FORECASTER["allow_tf32"],
    "sampler": {
        "steps": _FORECASTER["nfe"],
        "shift": _FORECASTER["shift"],
        "temperature": _FORECASTER["temperature"],
    },
    **PARTS,
    "custom_hooks": Sequence[Any],
    "vis_backends": Sequence[Any],
    "advice": dict.fromkeys(
        ("data", "vae", "light", "lidar_encoder", "light_network", "teacher", "start", "plan"), str
    ),
}  # fmt: skip


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, apply `{"dotted.key": value}` overrides, and check every key and value.

    Raises:
        UserError: no such file, here or among those that come along, a file that doesn't parse, an unknown key, named with the closest
            known one, or a value of another type or range than is declared.
    """
    path = Path(path)
    if not (path := places.typed(path)).is_file():
        raise UserError(f"no config file at {path}; the ones that come along are in configs/")
    try:
        config = Config.fromfile(path)
    except (SyntaxError, ImportError, AttributeError, NameError) as error:
        raise UserError(f"the config {path} doesn't load: {error}") from error
    _find_weights(config, path)
    if overrides:
        # a copy: merging takes `_delete_` out of nested dicts
        try:
            config.merge_from_dict(copy.deepcopy(dict(overrides)))
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} can't take these options: {error}") from error
        _drop_marks(config._cfg_dict)
    _drop_imports(config)
    check({key: value for key, value in config.items() if value is not None}, SCHEMA, path)
    for key in ("dataroot", "version", "train_split", "val_split", "past", "future"):
        if key not in (config.get("data") or {}):
            raise UserError(f"{path} lacks data.{key}")
    return config


def _find_weights(config: Config, path: Path) -> None:
    """Let weights that lie where the config counts from be found from any current folder.

    Those that aren't there yet keep their path: that is where a training will put them.
    """
    for key, value in config.items():
        if not key.endswith("_checkpoint") or not value:
            continue
        place = places.named(value, path)
        here = Path(value).is_file() and place.samefile(value)  # then it stays as it is written
        if place.is_file() and not here:
            config[key] = str(place)


def _drop_marks(values: dict) -> None:
    """Forget `_delete_` where there was nothing to delete, which mmengine leaves standing."""
    values.pop("_delete_", None)
    for value in dict.values(values):  # as they are: ConfigDict's own would import what is lazy
        if isinstance(value, dict):
            _drop_marks(value)


def _drop_imports(config: Config) -> None:
    """Forget the config file's own imports, which mmengine lists among its values."""
    raw = config._cfg_dict
    for key, value in list(dict.items(raw)):
        if callable(value) or isinstance(value, (LazyObject, LazyAttr)):
            del raw[key]


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
