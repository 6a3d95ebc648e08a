"""Measures beyond mIoU: each file holds one, how it is fed, its name and its columns."""

from __future__ import annotations

import importlib
import pkgutil

from occdistill.evaluation.measures.base import Measure


def measures() -> dict[str, Measure]:
    """All that can be asked for, by name and in order, found by walking this package."""
    found = {
        value.name: value
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Measure)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))
