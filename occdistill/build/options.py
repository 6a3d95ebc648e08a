"""What a command line says of a config and of the place for results."""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from occdistill.store import check_folder


class Options(argparse.Action):
    """`KEY=VALUE` arguments as a dict by dotted key; see `literal` for the values."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        told = "VALUE is JSON, a Python literal, or text with its spaces and commas"
        super().__init__(*arguments, **{"help": told, **options})

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add those of one option to what there is."""
        given = dict(getattr(namespace, self.dest) or {})
        for argument in values:
            key, sign, text = argument.partition("=")
            if not sign or not key:
                raise argparse.ArgumentError(self, f"{argument!r} is not KEY=VALUE")
            given[key] = literal(text)
        setattr(namespace, self.dest, given)


def literal(text: str) -> Any:
    """What JSON or Python take `text` for, and otherwise itself, with its spaces and commas.

    `3`, `1e-4`, `true`, `null`, `(0, 1)` and `{"student": 1e-4}` are values; `data/my world` is text,
    and so is `"3"`, since it is quoted.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


_WORDS = {"true": True, "false": False, "none": None, "nan": float("nan"), "inf": float("inf")}


def out_folder(args: argparse.Namespace, config: Config) -> Path:
    """Where results go: `--out`, else the config's work_dir; tried before the work.

    Raises:
        UserError: nothing can be written there.
    """
    return check_folder(args.out or config.get("work_dir") or "work_dirs")
