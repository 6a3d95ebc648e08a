"""Arrays that several processes build together, piece by piece."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.dist import get_rank, get_world_size
from numpy.typing import ArrayLike
from tqdm import tqdm

from occdistill.arrays import Arrays, build_arrays, open_arrays
from occdistill.errors import UserError
from occdistill.processes import alone, meet

LARGEST = 512  # items of a piece
FEWEST = 64  # pieces, where there are as many chunks
Make = Callable[[int, int], Mapping[str, ArrayLike]]


def build_together(
    folder: str | Path,
    depends: Mapping[str, object],
    arrays: Mapping[str, tuple[tuple[int, ...], type]],
    make: Make,
    items: int,
    chunk: int,
    title: str,
) -> None:
    """As `build_arrays`, by all processes that belong together; each of them calls it, or none.

    Each builds whole pieces, in `<folder>.pieces`, and the first one joins them. A build that was
    stopped goes on with the pieces that are there, on any number of processes. A piece is whole
    chunks, so that batches are those of one process.

    Args:
        folder, depends, arrays, items, chunk, title: of `build_arrays`.
        make: `make(start, stop)` gives what belongs to items start … stop - 1, by array.

    Raises:
        UserError: as `build_arrays`.
    """
    folder = Path(folder)
    places = folder.with_name(f"{folder.name}.pieces")
    if alone() and not places.exists():
        build_arrays(folder, depends, arrays, _filling(make), items, chunk, title)
        return
    piece = chunk * max(1, min(LARGEST, items // FEWEST) // chunk)
    pieces = [
        _Piece(places, depends, arrays, start, min(items, start + piece))
        for start in range(0, items, piece)
    ]
    mine = pieces[get_rank() :: get_world_size()]
    done, total = 0, sum(one.stop - one.start for one in mine)
    title = f"{title}, {get_world_size()} processes"
    with tqdm(total=total, desc=title, unit="", mininterval=0.5, disable=get_rank() > 0) as bar:

        def counted(start: int, stop: int) -> Mapping[str, ArrayLike]:
            made = make(start, stop)
            bar.update(stop - start)
            return made

        for one in mine:
            one.build(counted, chunk)
            done += one.stop - one.start
            bar.update(done - bar.n)  # what was there
    meet()
    if get_rank() == 0:

        def joined(start: int, stop: int) -> Arrays:
            return pieces[start // piece].open()

        title = f"joining {folder.name}"
        build_arrays(folder, depends, arrays, _filling(joined), items, piece, title)
        shutil.rmtree(places, ignore_errors=True)
    meet()


@dataclass
class _Piece:
    """Items start … stop - 1, as arrays of their own."""

    places: Path
    depends: Mapping[str, object]
    arrays: Mapping[str, tuple[tuple[int, ...], type]]
    start: int
    stop: int

    @property
    def folder(self) -> Path:
        return self.places / f"{self.start:08d}"

    @property
    def own_depends(self) -> dict[str, object]:
        return {**self.depends, "items": [self.start, self.stop]}

    def build(self, make: Make, chunk: int) -> None:
        if self.folder.exists():
            try:
                self.open()
                return
            except UserError:  # of something else, or damaged
                shutil.rmtree(self.folder)
        items = self.stop - self.start
        own = {name: ((items, *shape[1:]), dtype) for name, (shape, dtype) in self.arrays.items()}
        fill = _filling(make, self.start)
        build_arrays(self.folder, self.own_depends, own, fill, items, chunk, "")

    def open(self) -> Arrays:
        return open_arrays(self.folder, self.own_depends)


def _filling(make: Make, first: int = 0) -> Callable[[Arrays, int, int], None]:
    """What `build_arrays` calls, for arrays that begin with item `first`."""

    def fill(arrays: Arrays, start: int, stop: int) -> None:
        for name, values in make(first + start, first + stop).items():
            arrays[name][start:stop] = values

    return fill
