"""The commands and Python blocks that the documents hold."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "data" / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS = "python|occdistill|make|pip|torchrun"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language; in none, `""`."""
    return [body for name, body in _BLOCK.findall(page.read_text()) if name == language]


def commands() -> dict[str, str]:
    """Every command of the documents, once, and the page that it stands on.

    Whole lines of blocks and what stands in backticks in the text; a command with a …, NAME or my- in it is a sketch.
    """
    found = {}
    for page in PAGES:
        lines = "\n".join(blocks(page, "sh") + blocks(page, "")).splitlines()
        lines += re.findall(r"`([^`\n]+)`", _BLOCK.sub("", page.read_text()))
        for line in lines:
            if not re.match(rf"({PROGRAMS}) ", line):
                continue
            for one in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
                if not re.search("…|NAME|my-", one):
                    found.setdefault(one, page.relative_to(ROOT).as_posix())
    return found


def subcommand(command: str) -> tuple[str, list[str]] | None:
    """Name and arguments of one of our tools, however it is called; None: another program."""
    words = shlex.split(command)
    if words[0] == "occdistill" and not words[1].startswith("-"):
        return words[1], words[2:]
    for i, word in enumerate(words):
        if word.startswith("tools/"):
            return Path(word).stem.replace("_", "-"), words[i + 1 :]
    return None
