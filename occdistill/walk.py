"""What the files of a package hold, so that a new one needs no list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any


def values(package: str) -> Iterator[Any]:
    """Everything that the modules of a package name, imported or their own; imports them all.

    Args:
        package: its dotted name.
    """
    paths = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(paths, f"{package}."):
        yield from vars(importlib.import_module(module.name)).values()


def concrete(package: str, base: type) -> dict[str, type]:
    """The classes of a package that are a `base` and can be built, by class name."""
    return {
        value.__name__: value
        for value in values(package)
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__.rpartition(".")[0] == package
        and not inspect.isabstract(value)
    }
