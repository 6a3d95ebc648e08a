"""Is it what a class takes? Keys and values of a config against constructors and dataclasses.

What may be given is declared once, where it is used: names, types and ranges are read from the
annotations of `__init__`, or of a dataclass. An int is no bool and "ten" is no int; an int is a fine
float, a list a fine tuple, a string a fine path.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmengine.config.lazy import LazyObject
from pydantic import ConfigDict, TypeAdapter, ValidationError

from occdistill.errors import UserError

RULES = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class Built:
    """Annotation of an entry `dict(type=Class, **arguments)`."""


def arguments(kind: type, *without: str) -> dict[str, Any]:
    """What a class takes by name, and the annotation of each.

    Args:
        kind: a dataclass, or a class with a constructor; its `**kwargs` are those of its bases,
            less what it has `fixed` for good.
        *without: what a config doesn't say, since who builds the object knows it.
    """
    found: dict[str, Any] = {}
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        found = {field.name: hints[field.name] for field in fields(kind)}
    else:
        for cls in kind.__mro__:
            if "__init__" not in vars(cls):
                continue
            hints = get_type_hints(cls.__init__, include_extras=True)
            taken = list(inspect.signature(cls.__init__).parameters.values())[1:]
            named = (p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
            found = {**{name: hints.get(name, Any) for name in named}, **found}
            if not any(p.kind is p.VAR_KEYWORD for p in taken):
                break
    without = (*without, *getattr(kind, "fixed", ()))
    return {name: annotation for name, annotation in found.items() if name not in without}


def check(
    values: Mapping[str, Any], known: type | Mapping[str, Any], file: str | Path, prefix: str = ""
) -> None:
    """Refuse keys that aren't known, and values that aren't what is declared.

    Args:
        values: what was written.
        known: a class, or annotations by name. What a dataclass has no default for must be there.
        file: where it was written.
        prefix: of the keys, with its dot.

    Raises:
        UserError: names the file, the key and what would be right.
    """
    annotations = known if isinstance(known, Mapping) else arguments(known)
    for key, value in values.items():
        if key not in annotations:
            close = difflib.get_close_matches(key, list(annotations), n=1)
            names = ", ".join(sorted(annotations))
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {names}"
            raise UserError(f"{file} has an unknown key {prefix}{key}; {hint}")
        _check_value(value, annotations[key], file, f"{prefix}{key}")
    for field in fields(known) if is_dataclass(known) else ():
        if field.default is field.default_factory is MISSING and field.name not in values:
            raise UserError(f"{file} lacks {prefix}{field.name}")


def resolve(kind: Any) -> Any:
    """The class itself, also where mmengine left an import to be made later, or printed its path."""
    if isinstance(kind, str):
        with suppress(ValueError, ImportError, AttributeError):
            return pkgutil.resolve_name(kind)
    return kind.build() if isinstance(kind, LazyObject) else kind


def _check_value(value: Any, annotation: Any, file: str | Path, name: str) -> None:
    if annotation is Built or (isinstance(value, Mapping) and "type" in value):
        return _check_built(value, file, name)
    united = get_origin(annotation) in (Union, UnionType)
    branches = get_args(annotation) if united else (annotation,)
    if Path in branches and isinstance(value, str):
        return None
    if isinstance(value, Mapping):
        for one in branches:
            if isinstance(one, Mapping) or is_dataclass(one):
                return check(value, one, file, f"{name}.")
            if get_origin(one) is Mapping:
                return check(value, dict.fromkeys(value, get_args(one)[1]), file, f"{name}.")
    elif isinstance(annotation, Mapping) or is_dataclass(annotation):
        known = annotation if isinstance(annotation, Mapping) else arguments(annotation)
        raise UserError(f"{file}: {name} is {value!r}; it should be a dict of {', '.join(known)}")
    try:  # in a tuple: types with rules of their own don't take others bare
        TypeAdapter(tuple[annotation], config=RULES).validate_python((_plain(value),))
    except ValidationError as error:
        first, *_ = problems = error.errors()
        place = "".join(f"[{i}]" for i in first["loc"][1:] if isinstance(i, int))
        wanted = dict.fromkeys(p["msg"].replace("Input", "it", 1) for p in problems)
        raise UserError(
            f"{file}: {name}{place} is {first['input']!r}; {', or '.join(wanted)}"
        ) from error


def _check_built(value: Any, file: str | Path, name: str) -> None:
    kind = resolve(value.get("type")) if isinstance(value, Mapping) else None
    if not inspect.isclass(kind):
        raise UserError(f"{file}: {name} needs type=<a class>, as in {name}=dict(type=...)")
    given = {key: one for key, one in value.items() if key != "type"}
    check(given, arguments(kind), file, f"{name}.")


def _plain(value: Any) -> Any:
    """With tuples for lists, which a config or a command line may write instead."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
