"""A fault, what meets it, and what the user is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from occdistill.errors import run


@dataclass(frozen=True)
class Row:
    """One planted fault.

    Attributes:
        fault: in words.
        plant: puts it into a folder, and returns what `call` is given.
        call: what meets it.
        sentence: a pattern that the one line on stderr matches.
        code: the exit code.
    """

    fault: str
    plant: Callable[[Path], Any]
    call: Callable[[Any], Any]
    sentence: str
    code: int = 2

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", self.fault)

    def check(self, folder: Path, capsys) -> None:
        """Plant, call as a tool's `main`, and compare the line and the code."""
        planted, code = self.plant(folder), 0

        def main() -> int | None:
            found = self.call(planted)
            return found if isinstance(found, int) else None

        capsys.readouterr()
        try:
            run(main)
        except SystemExit as stop:
            code = stop.code
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert code == self.code, (code, lines)
        if self.code == 2:
            assert len(lines) == 1 and re.search(self.sentence, lines[0]), lines
