"""Samples exchanged between batches, so that those of one batch take equally long.

A loss that integrates an ODE takes as many steps as its sample's interval asks for. With a sample
each, eight processes wait for the longest: 26 steps of MFD's, where the mean is 12.4. Which
interval a sample will draw is known beforehand, as its random stream has a name: so samples change
places beforehand too, with all that belongs to them, clip, noise and interval.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from occdistill.distill.base import Task
from occdistill.flow.path import Draws
from occdistill.seeds import stream

Place = tuple[int, int]  # number of a batch, row in it


class Exchange:
    """Where each row of a batch is taken from. A pure function of seed and number of the batch.

    The batches of `steps` steps hold the samples that they would hold anyway, each once: sorted by
    work, dealt out to the batches, whose order is drawn, and in a batch to the processes, so that
    those have the same to do. Over one step it is the same update, its samples added up in another
    order. Over more, each batch holds samples of like work: a single update's loss is then that of
    intervals of one length, and the mean over the `steps` updates is what it was.

    Args:
        task: says what work a sample is; its plan is the same at every step.
        steps: over how many; 1 or more.
        seed: of the training.
        batch_size: samples of a batch over all processes, B.
        ranks: processes, each of which has B / ranks rows that follow one another.
    """

    def __init__(self, task: Task, steps: int, seed: int, batch_size: int, ranks: int = 1) -> None:
        self.task, self.steps, self.seed = task, steps, seed
        self.batch_size, self.ranks = batch_size, ranks
        self.plan = [name for name, _ in task.batches(0)]
        self._window = lru_cache(maxsize=4)(self._dealt)  # loaders read ahead

    def __call__(self, number: int) -> list[Place]:
        """The places that the rows of batch `number` are taken from."""
        step, position = divmod(number, len(self.plan))
        window, which = divmod(step, self.steps)
        dealt = self._window(window, position)
        return dealt[which] if dealt else [(number, row) for row in range(self.batch_size)]

    def _dealt(self, window: int, position: int) -> list[list[Place]] | None:
        """The places of all batches at this position of a window's plans; None: as they are."""
        work, places, size = [], [], self.batch_size
        for step in range(window * self.steps, (window + 1) * self.steps):
            number = step * len(self.plan) + position
            own = [(number, row) for row in range(size)]
            takes = self.task.work(self.plan[position], Draws([(self.seed, *p) for p in own]))
            if takes is None:
                return None
            work.append(takes)
            places += own
        longest_first = torch.cat(work).argsort(descending=True, stable=True).tolist()
        batches = [longest_first[k : k + size] for k in range(0, len(places), size)]
        order = stream(self.seed, window, position, 0).permutation(self.steps)
        return [[places[i] for i in self._to_ranks(batches[k])] for k in order]

    def _to_ranks(self, batch: list[int]) -> list[int]:
        """The rows of the first process, of the second, …, dealt there and back again."""
        hands: list[list[int]] = [[] for _ in range(self.ranks)]
        for turn, start in enumerate(range(0, len(batch), self.ranks)):
            dealt = batch[start : start + self.ranks]
            for hand, row in zip(hands[:: -1 if turn % 2 else 1], dealt):
                hand.append(row)
        return [row for hand in hands for row in hand]
