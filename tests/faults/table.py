"""Write the table of faults into docs/reliability.md: every row is run, and what it says is kept.

python -m tests.faults.table
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
from pathlib import Path

from occdistill.errors import run
from occdistill.store import write_text
from tests.data.conftest import write
from tests.faults.rows import Row, modules, rows_of

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"
HEAD = "| fault | met by | what the user is told | exit code |\n|---|---|---|---|\n"


def cell(text: str) -> str:
    """Text in a table of markdown."""
    return re.sub(r"\s+", " ", text.replace("|", "\\|")).strip()


def line(row: Row, said: str, code: int) -> str:
    """A row of the table."""
    shown = said if len(said) < 330 else said[:320] + " …"
    return f"| {cell(row.fault)} | `{cell(row.meets)}` | {cell(shown)} | {code} |"


def outcome(row: Row, folder: Path) -> tuple[str, int]:
    """What a row says, with `DATA` for the folder, and its exit code."""
    planted, code, said = row.plant(folder), 0, io.StringIO()

    def main() -> int | None:
        found = row.call(planted)
        return found if isinstance(found, int) else None

    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run(main)
        except SystemExit as stop:
            code = stop.code
    lines = [x for x in said.getvalue().splitlines() if x.startswith("error: ")]
    text = lines[0].removeprefix("error: ") if lines else ""
    return re.sub(re.escape(str(folder)) + r"\b", "DATA", text), code


def table() -> str:
    """All rows by module, run one after the other on a data set of their own."""
    parts = []
    with tempfile.TemporaryDirectory() as place:
        whole = write(Path(place) / "whole").root
        for module in modules():
            rows = rows_of(module)
            if not rows:
                continue
            lines = []
            for number, row in enumerate(rows):
                folder = Path(place) / f"{module.__name__}-{number}"
                shutil.copytree(whole, folder)
                lines.append(line(row, *outcome(row, folder)))
            about = module.__doc__.strip().splitlines()[0]
            parts.append(f"**{about}**\n\n{HEAD}" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_text(PAGE, before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1])
