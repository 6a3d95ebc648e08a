"""The command `occdistill`: every script in `tools/` as a subcommand."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from occdistill import __version__, errors, places


def usage() -> str:
    """All subcommands, each with the first line of its script."""
    lines = [f"  {name:<20} {_first_line(path)}" for name, path in places.tools().items()]
    return "\n".join(
        (
            "usage: occdistill COMMAND …      (occdistill COMMAND --help says more)",
            f"\noccdistill {__version__}: forecasts of 3D occupancy in one step\n",
            *lines,
        )
    )


def _first_line(script: Path) -> str:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def main() -> None:
    """Run the script that the first argument names, as if it had been called itself."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(__version__)
    elif (script := places.tools().get(name.replace("_", "-"))) is None:
        errors.run(lambda: _unknown(name))
    else:
        sys.path.insert(0, str(script.parent))
        sys.argv = [f"occdistill {name}", *arguments]
        # not by runpy, which would put the path back into sys.argv
        code = compile(script.read_text(encoding="utf-8"), str(script), "exec")
        exec(code, {"__name__": "__main__", "__file__": str(script)})  # noqa: S102 - it is ours


def _unknown(name: str) -> None:
    raise errors.UserError(f"no command {name!r}; `occdistill --help` lists them")


if __name__ == "__main__":
    main()
