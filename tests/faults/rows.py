"""A fault, what meets it, and what the user is told.

Every list of rows at the top of a `tests/faults/test_*.py` is part of the table in
docs/reliability.md (`python -m tests.faults.table` writes it): nothing else is needed to add one.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
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
        where: the name of what meets it; default: the first thing of occdistill that `call` names.
    """

    fault: str
    plant: Callable[[Path], Any]
    call: Callable[[Any], Any]
    sentence: str
    code: int = 2
    where: str = ""

    @property
    def meets(self) -> str:
        """The name of what meets it."""
        if self.where or self.call.__module__.startswith("occdistill"):
            return self.where or self.call.__qualname__.removesuffix(".load").lstrip("_")
        names = {**self.call.__globals__}
        for name in self.call.__code__.co_names:
            if str(getattr(names.get(name), "__module__", "")).startswith("occdistill"):
                return name.lstrip("_")
            if callable(names.get(name)):  # a helper of the test's
                return Row(self.fault, self.plant, names[name], self.sentence).meets
        return self.call.__name__

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


def modules() -> Iterator[ModuleType]:
    """The test modules of this folder that may have rows."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.stem == "test_agreement":  # it has the others'
            continue
        yield importlib.import_module(f"tests.faults.{path.stem}")


def rows_of(module: ModuleType) -> list[Row]:
    """All rows of a module's lists, in order."""
    lists = [x for x in vars(module).values() if isinstance(x, list) and x]
    return list({id(row): row for x in lists for row in x if isinstance(row, Row)}.values())


def edit(name, change):
    """Plants `change(records)` in a table of a data set."""

    def plant(root):
        path = root / "v1.0-tiny" / f"{name}.json"
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))
        return root

    return plant
