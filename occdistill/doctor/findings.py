"""One line of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "missing", "damaged"]

# What a gap stops, in the user's words: commands and settings
TRAIN = "train_vae, train_teacher, train_mfd, train_distill"
CLIPS = f"{TRAIN}, test, score, visualize, realtime"
LIDAR = "data.past_from='lidar', realtime with raw LiDAR"


@dataclass(frozen=True)
class Finding:
    """A fact about the installation or the data.

    Attributes:
        area: `environment`, `tables`, `labels`, …
        level: `ok`; `note` for what only limits; `missing` and `damaged` stop something.
        message: what is so.
        path: the file it is about.
        blocks: commands that don't run without it.
        remedy: what to do.
    """

    area: str
    level: Level
    message: str
    path: str | None = None
    blocks: str = ""
    remedy: str = ""

    @property
    def problem(self) -> bool:
        """Whether something is stopped."""
        return self.level in ("missing", "damaged")


def report(findings: Sequence[Finding]) -> str:
    """Findings as text: by area, problems with what they block and what to do."""
    lines = []
    for area in dict.fromkeys(f.area for f in findings):
        lines.append(area)
        for f in (f for f in findings if f.area == area):
            place = f"{f.path}: " if f.path and f.path not in f.message else ""
            lines.append(f"  {f.level:<8} {place}{f.message}")
            if f.problem and f.blocks:
                lines.append(f"           stops: {f.blocks}")
            if f.level != "ok" and f.remedy:
                lines.append(f"           to do: {f.remedy}")
    problems = [f for f in findings if f.problem]
    lines.append(f"\n{len(problems)} problem{'s' * (len(problems) != 1)} found")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> list[dict]:
    """Findings for scripts."""
    return [asdict(f) for f in findings]
