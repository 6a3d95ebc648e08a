"""What a measure is: how it is fed, what it is called, and where it stands in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from occdistill.evaluation.sums import Parts, added, can_be_shared, parts

if TYPE_CHECKING:  # RayIoU of arrays at hand needs no model code
    from occdistill.data.clips import ClipDataset
    from occdistill.evaluation.rows import ClipBatch, Row
    from occdistill.latents.codec import Codec


class Observer:
    """One measure over all rows: a state per row, fed with every prediction.

    Args:
        name: entry in a row's `measures`.
        make: makes the empty state of a row.
        feed: `(state, row, batch, prediction)`; adds a batch.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        feed: Callable[[Any, Row, ClipBatch, Tensor], None],
    ) -> None:
        self.name, self.make, self.feed = name, make, feed
        self.states: dict[str, Any] = {}

    def can_be_shared(self) -> bool:
        """Whether what it counts can be added up from parts, see `sums`."""
        return can_be_shared(self.make())

    def take(self, row: Row) -> Parts:
        """What was counted of a row so far; it is forgotten."""
        state = self.states.pop(row.name, None)
        return {} if state is None else parts(state)

    def give(self, row: Row, taken: Parts) -> None:
        """Add what was taken of a row."""
        if taken:
            state = self.states.get(row.name)
            self.states[row.name] = added(self.make() if state is None else state, taken)

    def __call__(self, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        """Add a batch of one row."""
        if row.name not in self.states:
            self.states[row.name] = self.make()
        self.feed(self.states[row.name], row, batch, pred)

    def result(self, row: Row) -> Any:
        """What was measured of a row, or None if it doesn't apply to it."""
        state = self.states.get(row.name)
        return None if state is None else state.result()


def scene_of(dataset: ClipDataset, index: int) -> str:
    """The name of the scene that a clip lies in: what an interval takes for one observation."""
    return dataset.scenes[dataset.clips[index][0]].name


def fewer(count: int) -> list[int]:
    """The numbers of futures up to K that are scored: 1, 2, 4, … and K."""
    return sorted({count, *(2**n for n in range(count.bit_length()))})


def futures(row: Row, batch: ClipBatch, pred: Tensor, count: int) -> Tensor:
    """Several futures of a batch, drawn once for all measures of a row.

    Args:
        row: that draws them; one that can't has the same future `count` times.
        batch: of clips.
        pred: the row's forecast, future number 0, uint8 `(B, F, X, Y, Z)`.
        count: futures per clip, K.

    Returns:
        uint8 `(B, K, F, X, Y, Z)`.
    """
    if row.draw is None:
        return pred[:, None].expand(-1, count, *pred.shape[1:])
    owner, drawn = batch.shared.get("futures", (None, None))
    if owner != (row.name, count):  # the last row's alone are kept
        drawn = torch.stack([pred, *(row.draw(batch, s) for s in range(1, count))], 1)
        batch.shared["futures"] = (row.name, count), drawn
    return drawn


def results(observers: Sequence[Observer], row: Row) -> dict[str, Any]:
    """The `measures` entry of a row."""
    found = {observer.name: observer.result(row) for observer in observers}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Context:
    """What measures are made from.

    Attributes:
        dataset: of the clips.
        extractor: loads the autoencoder that sees features, and its weights' fingerprint; called
            by measures that need it.
        samples: futures per clip, for measures of several.
        chances: by row, λ of `evaluation.unseen`, fitted on other clips.
        fitted_on: which those are.
    """

    dataset: ClipDataset
    extractor: Callable[[], tuple[Codec, str]]
    samples: int = 4
    chances: dict[str, float] = field(default_factory=dict)
    fitted_on: str | None = None


@dataclass(frozen=True)
class Measure:
    """A measure as `tools/test.py` and the report know it.

    Attributes:
        name: of `--measure`.
        observe: makes its observer.
        columns: of the page: title to the keys that lead to the number in a row's `measures`.
        order: among the measures; those of the same order stand by name.
    """

    name: str
    observe: Callable[[Context], Observer]
    columns: dict[str, tuple[str, ...]]
    order: int = 100
