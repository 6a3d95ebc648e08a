"""Every distillation method in a file of its own, over shared losses."""

from __future__ import annotations

from occdistill.distill.base import Method
from occdistill.walk import concrete


def methods() -> dict[str, type[Method]]:
    """All methods by class name, found by walking this package."""
    return concrete(__name__, Method)
