"""Loops that numba compiles, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def njit(**options: Any) -> Callable[[Callable], Callable]:
    """`numba.njit`; with `cache=True` it compiles anew where it can't write, and doesn't give up.

    Numba keeps what it compiled beside the source or in the user's cache folder. In a container
    whose user owns neither, it refuses to compile at all.
    """

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(**options)(function)
        except RuntimeError as error:
            if not options.get("cache") or "cannot cache" not in str(error):
                raise
            return numba.njit(**{**options, "cache": False})(function)

    return compiled
