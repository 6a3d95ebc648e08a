"""Velocity networks; `base.py` says what each offers."""

from __future__ import annotations

from occdistill.flow.networks.base import VelocityNetwork
from occdistill.walk import concrete


def networks() -> dict[str, type[VelocityNetwork]]:
    """All velocity networks by class name, found by walking this package."""
    return concrete(__name__, VelocityNetwork)
