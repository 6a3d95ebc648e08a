"""The example in docs/methods.md is the file that it prints, and works as printed."""

import re
from pathlib import Path

import pytest


def test_the_guides_method_and_its_test():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "methods.md").read_text()
    blocks = [b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Composition" in b]
    assert len(blocks) == 2
    assert blocks[0] == (root / "occdistill" / "distill" / "composition.py").read_text()
    names = {"pytest": pytest}
    for block in blocks:
        exec(block, names)  # noqa: S102
    names["test_composition"]()
