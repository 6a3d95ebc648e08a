"""The tools as a user calls them, but in this process."""

import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"


def load(name):
    """A tool as a module; as for a script, its neighbours can be imported."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(monkeypatch, name, *arguments, **given):
    """Run a tool's `main` as if from the command line; `given` is what the script itself gives it."""
    module = load(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    return module.main(**given)
