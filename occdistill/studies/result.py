"""What a study leaves behind: a picture, its numbers, and a caption that says what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from occdistill.store import atomic, write_json


@dataclass
class Result:
    """Result of a study.

    Attributes:
        title: what was asked.
        caption: what was found, with its numbers, also where it differs from the paper.
        figure: the picture.
        values: everything that was measured, plain numbers and lists.
        settings: what it was measured with.
    """

    title: str
    caption: str
    figure: Figure
    values: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, name: str) -> tuple[Path, Path]:
        """Write `name.png` and `name.json`; returns both paths."""
        picture, record = Path(folder) / f"{name}.png", Path(folder) / f"{name}.json"
        with atomic(picture) as part:
            self.figure.savefig(part, dpi=130)
        content = {
            "title": self.title,
            "caption": self.caption,
            "values": self.values,
            "settings": self.settings,
        }
        write_json(record, content)
        return picture, record


def canvas(columns: int = 1, rows: int = 1, size: float = 3.6):
    """An empty figure and its axes, as `Figure.subplots` gives them; no display is needed."""
    figure = Figure(figsize=(1.25 * size * columns, size * rows), layout="constrained")
    return figure, figure.subplots(rows, columns)
