"""Which samples and which noise belong to which update: a pure function of the seed.

Nothing here depends on how often a run was interrupted or on how many ranks share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from occdistill.errors import UserError
from occdistill.seeds import stream


class EndlessBatches(Sampler[list[int]]):
    """This rank's share of an endless row of batches over freshly shuffled epochs.

    Batch k holds the places `[k B, (k + 1) B)` of all epochs' permutations in a row, so it may
    span two epochs; rank r takes the r-th of `ranks` equal pieces of it.

    Args:
        length: number of samples in the dataset.
        batch_size: samples of a batch over all ranks, B.
        seed: of the shuffling.
        start: first batch, for runs that are resumed.
        rank: which piece.
        ranks: number of pieces.
        parts: lists that the piece comes in, equally long, for gradients that are accumulated.
        exchange: says which batch and row each row of a batch is taken from; None: from its own.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
        exchange: Callable[[int], list[tuple[int, int]]] | None = None,
    ) -> None:
        if length < 1:
            raise UserError("the training set is empty: check data.dataroot and the train split")
        if batch_size % ranks:
            raise UserError(
                f"batch_size {batch_size} is not a multiple of {ranks} processes: "
                "change batch_size or --nproc_per_node"
            )
        share = batch_size // ranks
        if share % parts:
            raise UserError(
                f"{share} samples of a process can't be accumulated in {parts} equal parts: change "
                "batch_size or accumulate"
            )
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start
        size = share // parts
        begin = rank * share
        self.rows = [range(begin + k * size, begin + (k + 1) * size) for k in range(parts)]
        self.exchange = exchange
        self._epoch, self._order = -1, np.empty(0, int)

    def _at(self, place: int) -> int:
        epoch, offset = divmod(place, self.length)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = stream(self.seed, epoch).permutation(self.length)
        return int(self._order[offset])

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of dataset indices, without end; `parts` of them make this rank's piece."""
        for number in count(self.start):
            for part in range(len(self.rows)):
                yield [self._at(n * self.batch_size + row) for n, row in self.places(number, part)]

    def places(self, number: int, part: int = 0) -> list[tuple[int, int]]:
        """Batch and row that each sample of a part of this rank's piece belongs to by its seed."""
        rows = self.rows[part]
        if self.exchange is None:
            return [(number, row) for row in rows]
        return self.exchange(number)[rows.start : rows.stop]

    def noise_keys(self, number: int, part: int = 0) -> list[tuple[int, int, int]]:
        """A key per sample of a part of this rank's piece, by its place among all batches."""
        return [(self.seed, *place) for place in self.places(number, part)]
