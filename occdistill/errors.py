"""The one error a user is meant to read."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

# what brings the demo's data: many a sentence ends with it
MAKE_WORLD = "python tools/make_world.py --out data/world --scenes 14 --val-scenes 12 --seed 0"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = re.compile(
    "out of memory|t allocate memory|CU(BLAS|DNN|SOLVER|FFT)_STATUS_ALLOC_FAILED"
    "|killed by signal: (Killed|Bus error)"  # a loader's process, by the system
)


class UserError(Exception):
    """Bad input, told in one sentence: what is wrong, where, and what to do next."""

    def __init__(self, sentence: str) -> None:
        # torch raises a loader process's error anew with that process's traceback as its text,
        # which ends with the sentence
        if sentence.startswith("Caught UserError in DataLoader worker"):
            sentence = sentence.rpartition("UserError: ")[2].strip()
        super().__init__(sentence)


class Diverged(UserError):
    """A training whose loss is no longer a number."""


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
    """Run a tool's `main` and exit: 0 on success, 2 with one line on stderr for what a user can mend:
    a `UserError`, a file or disk that isn't as it should be, or too little memory.
    """
    try:
        code = main()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        code = _say("interrupted", 130)
    except Exception as error:
        sentence = in_words(error)
        if sentence is None:
            raise
        code = _say(f"error: {as_typed(sentence)}", 2)
    sys.exit(code or 0)


def in_words(error: Exception) -> str | None:
    """What a user can do about an error, in a sentence; None for one of the program's own."""
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error):
        return (
            "there is too little memory for this: use a smaller batch size, fewer samples, jobs or"
            " workers, half precision (--dtype bfloat16), or another device"
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        advice = "free some space" if error.errno in _FULL else "check the path and who may use it"
        return f"{where}{error.strerror}; {advice}"
    return None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on any device, as torch, its libraries or the system say it."""
    while error is not None:
        numbered = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if numbered or isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__
    return False


def _say(line: str, code: int) -> int:
    if tqdm := sys.modules.get("tqdm"):  # no line of a progress bar goes on with this one
        for bar in list(tqdm.tqdm._instances):
            bar.close()
    print(line, file=sys.stderr)
    return code
