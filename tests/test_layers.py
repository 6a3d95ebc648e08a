"""The contracts of pyproject.toml hold, and refuse what they are there to refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter comes with `make setup`")
ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "occdistill", tmp_path / "occdistill", ignore=ignored)
    return tmp_path


def add(folder: Path, name: str, line: str) -> None:
    path = folder / "occdistill" / name
    path.write_text(path.read_text() + line + "\n")


def test_the_package_keeps_its_contracts():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    "name, line, broken",
    [
        (
            "data/resample.py",
            "from occdistill.runtime import forecaster",
            "occdistill.data.resample",
        ),
        ("runtime/spread.py", "from occdistill.build import config", "occdistill.runtime.spread"),
        ("flow/path.py", "import occdistill.distill.base", "occdistill.flow.path"),
    ],
)
def test_an_import_that_runs_upwards_is_refused(copy, name, line, broken):
    add(copy, name, line)
    done = lint(copy)
    assert done.returncode != 0
    assert "only packages below it BROKEN" in done.stdout and broken in done.stdout


def test_two_files_that_import_each_other_are_refused(copy):
    add(copy, "flow/path.py", "def _late():\n    from occdistill.flow import solver  # noqa")
    done = lint(copy)
    assert done.returncode != 0 and "in a circle BROKEN" in done.stdout


def test_a_new_package_must_find_its_layer(copy):
    (copy / "occdistill" / "attic").mkdir()
    (copy / "occdistill" / "attic" / "__init__.py").write_text('"""Nobody knows."""\n')
    done = lint(copy)
    assert done.returncode != 0 and "attic" in done.stdout
