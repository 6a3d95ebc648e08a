"""Velocity networks; `base.py` says what each offers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from occdistill.flow.networks.base import VelocityNetwork


def networks() -> dict[str, type[VelocityNetwork]]:
    """All velocity networks by class name, found by walking this package: a new one needs no list."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(kind) and kind.__module__ == module.name
            if own and issubclass(kind, VelocityNetwork) and not inspect.isabstract(kind):
                found[name] = kind
    return found
