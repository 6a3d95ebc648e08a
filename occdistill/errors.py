"""The one error a user is meant to read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import NoReturn

# what brings the demo's data: many a sentence ends with it
MAKE_WORLD = "python tools/make_world.py --out data/world --scenes 14 --val-scenes 12 --seed 0"


class UserError(Exception):
    """Bad input, told in one sentence: what is wrong, where, and what to do next."""

    def __init__(self, sentence: str) -> None:
        # torch raises a loader process's error anew with that process's traceback as its text,
        # which ends with the sentence
        if sentence.startswith("Caught UserError in DataLoader worker"):
            sentence = sentence.rpartition("UserError: ")[2].strip()
        super().__init__(sentence)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and leaves the options to `--help`."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"error: {message}; `{self.prog} --help` lists the options\n")


def as_typed(text: str) -> str:
    """A sentence that names tools, with them called as this one was: as scripts or subcommands."""
    if not sys.argv[0].startswith("occdistill "):
        return text
    name = r"python tools/(\w+)\.py"
    return re.sub(name, lambda found: f"occdistill {found[1].replace('_', '-')}", text)


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit: 0 on success, 2 with one line on stderr for a `UserError`."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {as_typed(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
