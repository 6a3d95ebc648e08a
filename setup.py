"""What pyproject.toml can't say: a wheel also holds the tools, the configs and the demo's weights."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("tools", "configs", "data/demo-weights")  # found by occdistill/places.py


class Build(build_py):
    """Python files, and the folders that a checkout has beside the package."""

    def run(self):
        """Copy them."""
        super().run()
        if self.editable_mode:
            return
        inside = Path(self.build_lib, "occdistill", "_shipped")
        shutil.rmtree(inside, ignore_errors=True)
        for folder in SHIPPED:
            shutil.copytree(folder, inside / folder, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": Build})
