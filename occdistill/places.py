"""Where what comes along with the package lies: tools, configs and demo weights.

In a checkout beside the package; in a wheel inside it, in the same folders below `_shipped`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSIDE = _PACKAGE / "_shipped"
ROOT = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent
TOOLS = ROOT / "tools"
CONFIGS = ROOT / "configs"
WEIGHTS = ROOT / "data" / "demo-weights"


def tools() -> dict[str, Path]:
    """The scripts in `tools/` by the name of their subcommand: `train-mfd` is `train_mfd.py`."""
    scripts = sorted(TOOLS.glob("[!_]*.py"))
    return {path.stem.replace("_", "-"): path for path in scripts}


def typed(name: str | Path) -> Path:
    """The file that a user means: from the current folder, else from what comes along."""
    name = Path(name)
    return ROOT / name if not name.exists() and (ROOT / name).is_file() else name


def named(name: str | Path, source: Path) -> Path:
    """The file that a relative path in a config or checkpoint means.

    Args:
        name: the path; an absolute one is returned as it is.
        source: the file that says it. The path counts from its folder or from one above it, such
            as the root of the project that it belongs to; else from what comes along.

    Returns:
        The first of these that is there; none: `name` itself.
    """
    folders = [*source.absolute().parents, ROOT]
    return next((f / name for f in folders if (f / name).is_file()), Path(name))
