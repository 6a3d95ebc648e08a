"""Clips counted in shards: by one process or by many, in one go or in several.

A shard is a few batches of neighbouring clips. Which they are depends on the number of clips and on
the batch size alone, so that one process and eight make the same sums in the same order, and a run
that was killed goes on with the shards that it lacks, on any number of processes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size

from occdistill.errors import UserError
from occdistill.evaluation.sums import Parts
from occdistill.processes import first_rank_first, meet
from occdistill.store import read_json, read_npz, write_json, write_npz

LARGEST = 64  # clips of a shard
FEWEST = 64  # shards, where there are as many batches
_ADVICE = "run the scoring again without --resume"
_log = logging.getLogger(__name__)


def split(clips: int, batch_size: int) -> list[list[range]]:
    """Shards of batches of places, which together are `range(clips)`."""
    wanted = min(LARGEST, max(1, clips // FEWEST))
    size = batch_size * -(-wanted // batch_size)
    shards = (range(start, min(start + size, clips)) for start in range(0, clips, size))
    return [
        [shard[k : k + batch_size] for k in range(0, len(shard), batch_size)] for shard in shards
    ]


class Shards:
    """What the shards of one counting have left: in a folder that processes share, or in memory.

    Args:
        count: how many there are.
        folder: None keeps them in memory, and every process counts all of them.
        about: what the counts depend on; JSON values by name.
        resume: go on with the shards that the folder holds, instead of anew.

    Attributes:
        gathers: whether this process adds them up.

    Raises:
        UserError: those are of another counting; says what differs.
    """

    def __init__(
        self,
        count: int,
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.count, self.folder = count, folder
        self.gathers = folder is None or get_rank() == 0
        self.memory: dict[int, Parts] = {}
        if folder is None:
            return
        with first_rank_first():
            if self.gathers:
                self._begin(json.loads(json.dumps(dict(about or {}))), resume)

    def _begin(self, about: dict[str, Any], resume: bool) -> None:
        note = self.folder / "about.json"
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        if not note.is_file():
            write_json(note, about)
        found = read_json(note, "note of what was counted", _ADVICE, dict)
        differ = [k for k in sorted(about.keys() | found.keys()) if about.get(k) != found.get(k)]
        if differ:
            key = differ[0]
            raise UserError(
                f"{self.folder} holds shards of another scoring ({', '.join(differ)} differ: {key} "
                f"was {_short(found.get(key))}, and is {_short(about.get(key))}): ask for the "
                f"same, or {_ADVICE}"
            )
        if done := len(list(self.folder.glob("*.npz"))):
            _log.warning("going on after %d of %d shards", done, self.count)

    def todo(self) -> list[int]:
        """Those that this process has to count."""
        if self.folder is None:
            return list(range(self.count))
        mine = range(get_rank(), self.count, get_world_size())
        return [number for number in mine if not self._file(number).is_file()]

    def keep(self, number: int, parts: Parts) -> None:
        """Keep what a shard has left, whole or not at all."""
        if self.folder is None:
            self.memory[number] = parts
        else:
            write_npz(self._file(number), parts)

    def take(self, number: int) -> Parts:
        """What was kept.

        Raises:
            UserError: the file is damaged.
        """
        if self.folder is None:
            return self.memory.pop(number)
        return read_npz(self._file(number), (), "counted shard", _ADVICE)

    def wait(self) -> None:
        """Until all are there."""
        if self.folder is not None:
            meet()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
