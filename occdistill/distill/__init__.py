"""Every distillation method in a file of its own, over shared losses."""

from __future__ import annotations

import inspect

from occdistill.distill.base import DistributionMatching, Method
from occdistill.distill.flow_map import FlowMap
from occdistill.walk import concrete

COLUMNS = (
    "method", "file", "auxiliary", "discriminator", "two-time student", "derivative",
    "true futures", "one student update, with its share of the others'",
)  # fmt: skip


def methods() -> dict[str, type[Method]]:
    """All methods by class name, found by walking this package."""
    return concrete(__name__, Method)


def needs_and_costs(kind: type[Method]) -> tuple[str, ...]:
    """What a method needs and costs unless told otherwise, in words, for each of `COLUMNS`."""
    ratio = _default(kind, "ratio", 0)
    auxiliary = f"{ratio} updates" if issubclass(kind, DistributionMatching) else "–"
    discriminator = kind.discriminator
    if ratio and discriminator != "–" and auxiliary == "–":
        discriminator = f"{discriminator}, {ratio} update{'s' * (ratio > 1)}"
    shared = f" + {ratio} · {kind.other_cost:g}" if ratio else ""
    total = kind.cost + ratio * kind.other_cost
    return (
        kind.__name__,
        kind.__module__.rpartition(".")[2] + ".py",
        auxiliary.replace("1 updates", "1 update") if ratio == 1 else auxiliary,
        discriminator,
        "yes" if issubclass(kind, FlowMap) else "–",
        kind.derivative_of,
        kind.futures,
        f"{kind.cost:g}{shared} = {total:g} F" if shared else f"{total:g} F",
    )


def _default(kind: type, name: str, otherwise: int) -> int:
    """A constructor argument's default, of the most derived class that has one."""
    for cls in kind.__mro__:
        taken = (
            inspect.signature(vars(cls)["__init__"]).parameters if "__init__" in vars(cls) else {}
        )
        if name in taken:
            return taken[name].default
    return otherwise
