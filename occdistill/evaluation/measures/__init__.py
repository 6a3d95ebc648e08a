"""Measures beyond mIoU: each file holds one, how it is fed, its name and its columns."""

from __future__ import annotations

from occdistill.evaluation.measures.base import Measure
from occdistill.walk import values


def measures() -> dict[str, Measure]:
    """All that can be asked for, by name and in order, found by walking this package."""
    found = {value.name: value for value in values(__name__) if isinstance(value, Measure)}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))
