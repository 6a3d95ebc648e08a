"""What an evaluation leaves behind: counts per clip, from which every score is recomputed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from occdistill.data.occ3d import NUM_CLASSES
from occdistill.errors import UserError
from occdistill.evaluation.confusion import Confusion
from occdistill.evaluation.metrics import tally
from occdistill.evaluation.sums import Parts, above, added, below, parts
from occdistill.store import read_json, reading, write_json
from occdistill.untrusted import open_file

_CHUNK = 512  # clips summed at a time


@dataclass(frozen=True)
class Window:
    """Where a clip lies.

    Attributes:
        id: `scene/token of the newest past keyframe`.
        scene: scene name.
        newest: index of the newest past keyframe in its scene.
        length: keyframes in the scene.
    """

    id: str
    scene: str
    newest: int
    length: int


class Counts:
    """Counts of one row: summed confusion matrices, and hits/true/predicted voxels per clip.

    Args:
        windows: the clips, in the order they are counted in.
        frames: future frames F.
        views: names of the voxel subsets counted separately.
        folder: where per-clip tallies live as npy while counting, so that memory doesn't grow with
            the number of clips; None keeps them in memory (1.3 kB per clip and view).
    """

    def __init__(
        self,
        windows: Sequence[Window],
        frames: int,
        views: Iterable[str] = ("all",),
        folder: Path | None = None,
    ) -> None:
        self.windows, self.frames, self.folder = list(windows), frames, folder
        self.totals = {view: Confusion(frames) for view in views}
        shape = (len(self.windows), frames, 3, NUM_CLASSES)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "row.json").unlink(missing_ok=True)  # until `save`, nothing here is finished
        self.tallies = {
            view: np.zeros(shape, np.uint32)
            if folder is None
            else _mapped(folder / f"{view}.npy", shape)
            for view in self.totals
        }

    def update(self, clip: int, view: str, pred, target, mask=None) -> None:
        """Count clip number `clip`; see `Confusion.update`."""
        self.tallies[view][clip] = tally(self.totals[view].update(pred, target, mask))

    def parts(self) -> Parts:
        """See `sums`; of some of the clips, to be added to the counts of all."""
        tallies = above(parts(self.tallies), "clips")
        return {**above(parts(self.totals), "total"), **tallies}

    def add_shard(self, first: int, more: Parts) -> None:
        """Add what was counted of the clips from number `first` on."""
        self.totals = added(self.totals, below(more, "total"))
        for view, tallies in below(more, "clips").items():
            self.tallies[view][first : first + len(tallies)] = tallies

    def total(self, view: str, chosen: np.ndarray | None = None) -> np.ndarray:
        """Summed tally int64 `(F, 3, C)` over the clips where `chosen (N,)` is True."""
        per_clip = self._view(view)
        result = np.zeros(per_clip.shape[1:], np.int64)
        for start in range(0, len(per_clip), _CHUNK):
            part = per_clip[start : start + _CHUNK]
            if chosen is not None:
                part = part[chosen[start : start + _CHUNK]]
            result += part.sum(0, dtype=np.int64)
        return result

    def by_scene(self, view: str, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Tallies `(F, 3, C)` summed within each scene: what an interval takes for one observation."""
        per_clip = self._view(view)
        result: dict[str, np.ndarray] = {}
        for i, window in enumerate(self.windows):
            if chosen is None or chosen[i]:
                total = result.setdefault(window.scene, np.zeros(per_clip.shape[1:], np.int64))
                total += per_clip[i]
        return result

    def _view(self, view: str) -> np.ndarray:
        if view not in self.tallies:
            raise UserError(
                f"these counts hold no view {view!r} (they hold {', '.join(self.tallies)}); "
                "score the predictions again and ask for a protocol that needs it"
            )
        return self.tallies[view]

    def save(self, facts: dict) -> None:
        """Finish the folder: windows, summed confusion matrices, and `facts` about the row."""
        if self.folder is None:
            raise ValueError("counts kept in memory have no folder to be saved in")
        for view, confusion in self.totals.items():
            self.tallies[view].flush()
            confusion.save(self.folder / f"{view}.npz")
        record = {
            "facts": facts,
            "frames": self.frames,
            "windows": [list(asdict(w).values()) for w in self.windows],
        }
        write_json(self.folder / "row.json", record, indent=None)

    @classmethod
    def load(cls, folder: str | Path) -> tuple[Counts, dict]:
        """Read a finished folder: the counts (tallies mapped, not read) and the row's facts.

        Raises:
            UserError: if the folder isn't complete.
        """
        folder = Path(folder)
        with reading(folder, "finished counts", "run the scoring again"):
            record = read_json(
                folder / "row.json", "finished counts", "run the scoring again", dict
            )
            result = cls([_window(w) for w in record["windows"]], record["frames"], ())
            facts = dict(record["facts"])
            shape = (len(result.windows), result.frames, 3, NUM_CLASSES)
            for path in sorted(folder.glob("*.npz")):
                total = result.totals[path.stem] = Confusion.load(path)
                with open_file(path.with_suffix(".npy")):
                    tallies = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
                if tallies.shape != shape or tallies.dtype != np.uint32:
                    raise ValueError(f"{path.stem}.npy is {tallies.dtype} {tallies.shape}")
                if len(total.counts) != result.frames:
                    raise ValueError(f"{path.name} counts {len(total.counts)} frames")
                result.tallies[path.stem] = tallies
            if not result.tallies or not result.windows:
                raise ValueError("there are no counts")
        result.folder = folder
        return result, facts


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array = np.lib.format.open_memmap(path, "w+", np.uint32, shape)
    with open(path, "rb+") as file:  # a full disk is an error now, and would kill the process later
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _window(record: list) -> Window:
    window = Window(*record)
    texts, numbers = (window.id, window.scene), (window.newest, window.length)
    if not all(isinstance(x, str) for x in texts) or not all(type(x) is int for x in numbers):
        raise ValueError("a window isn't two names and two numbers")
    return window


def slug(name: str) -> str:
    """A folder name for a row: `student@1` → `student-1`; never one that leads elsewhere."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "row"
