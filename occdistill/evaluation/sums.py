"""What was counted in parts, as plain arrays by name, and added up again.

A thing that counts says in `summed` which of its attributes are sums: numbers, arrays, other such
things, or lists and dicts of these. One whose parts don't simply add up has `parts` and `add` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Parts = dict[str, np.ndarray]  # by path


def can_be_shared(state: Any) -> bool:
    """Whether it says what of it is summed; None counts nothing."""
    return state is None or hasattr(state, "summed") or hasattr(state, "parts")


def parts(state: Any) -> Parts:
    """Everything summed in it, by path, such as `ours/agree`."""
    if hasattr(state, "parts"):
        return state.parts()
    if hasattr(state, "summed"):
        inside = {name: getattr(state, name) for name in state.summed}
    elif isinstance(state, Mapping):
        inside = {str(key): value for key, value in state.items()}
    elif isinstance(state, list | tuple):
        inside = {str(i): value for i, value in enumerate(state)}
    else:
        return {"": np.asarray(state)}
    found: Parts = {}
    for name, value in inside.items():
        found |= above(parts(value), name)
    return found


def added(state: Any, more: Mapping[str, np.ndarray]) -> Any:
    """The same with what `parts` gave of another one added; changed in place where it can be.

    Raises:
        KeyError: `more` lacks a part.
    """
    if hasattr(state, "parts"):
        state.add(more)
        return state
    if hasattr(state, "summed"):
        for name in state.summed:
            setattr(state, name, added(getattr(state, name), below(more, name)))
        return state
    if isinstance(state, Mapping):
        own = {str(key): key for key in state}
        names = dict.fromkeys(path.split("/")[0] for path in more if path)
        # by scene, say: each part has those that it met
        met = {own.get(n, n): added(state.get(own.get(n, n), 0), below(more, n)) for n in names}
        return {**state, **met}
    if isinstance(state, list | tuple):
        return type(state)(added(value, below(more, str(i))) for i, value in enumerate(state))
    value = more[""]
    return state + (value if value.ndim else value.item())


def above(more: Mapping[str, np.ndarray], name: str) -> Parts:
    """The parts with a path that begins with `name`."""
    return {f"{name}/{path}" if path else name: array for path, array in more.items()}


def below(more: Mapping[str, np.ndarray], name: str) -> Parts:
    """Those of the parts whose path begins with `name`, with the rest of it."""
    start = f"{name}/"
    found = {path[len(start) :]: value for path, value in more.items() if path.startswith(start)}
    return found | ({"": more[name]} if name in more else {})
