"""Random numbers drawn while the device still works on the update before.

An update asks for the same numbers as the last one of the same net, so a thread draws those, from
the same streams and in the same order; numpy draws them without holding Python's lock. Where an
update asks for something else, its streams are put back to where they were, so the bits are those
of `Draws` in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from occdistill.flow.path import Draws
from occdistill.seeds import Key

Request = tuple[Callable[..., Tensor], tuple[int, ...]]  # a law, and the shape of one sample


class _Drawn(NamedTuple):
    request: Request
    before: list[dict]  # states of the streams
    numbers: Tensor


class DrawnAhead(Draws):
    """`Draws` of which the first requests were foreseen, and drawn by another thread.

    Args:
        keys: see `Draws`.
        device: see `Draws`; what goes to a GPU is pinned.
        foreseen: what will probably be asked for, in order.
        pool: whose thread draws it.

    Attributes:
        asked: what has been asked for so far.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        device: torch.device | str,
        foreseen: Sequence[Request],
        pool: ThreadPoolExecutor,
    ) -> None:
        super().__init__(keys, device)
        self.asked: list[Request] = []
        self._pin = torch.device(device).type == "cuda"
        self._ready: deque[_Drawn] = deque()
        self._coming: Future | None = pool.submit(self._foresee, foreseen) if foreseen else None

    def _foresee(self, requests: Sequence[Request]) -> deque[_Drawn]:
        found: deque[_Drawn] = deque()
        for law, shape in requests:
            before = [stream.bit_generator.state for stream in self.streams]
            numbers = super()._numbers(law, shape)
            found.append(
                _Drawn((law, shape), before, numbers.pin_memory() if self._pin else numbers)
            )
        return found

    def _numbers(self, law: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        self.asked.append((law, shape))
        if self._coming is not None:
            self._ready, self._coming = self._coming.result(), None
        if self._ready:
            first = self._ready.popleft()
            if first.request == (law, shape):
                return first.numbers
            for stream, state in zip(self.streams, first.before):
                stream.bit_generator.state = state
            self._ready.clear()
        return super()._numbers(law, shape)


def draws_of(
    batches: Iterable[tuple[str, Sequence[Key]]], device: torch.device
) -> Iterator[DrawnAhead]:
    """The random streams of batch after batch, each drawn from while the one before is worked on.

    Args:
        batches: the net that each updates, and the keys of its samples.
        device: where the numbers go.
    """
    usual: dict[str, list[Request]] = {}
    with ThreadPoolExecutor(1) as pool:
        coming = (
            (net, DrawnAhead(keys, device, usual.get(net, ()), pool)) for net, keys in batches
        )
        net, draws = next(coming)
        for following in coming:
            yield draws
            usual[net] = draws.asked
            net, draws = following
        yield draws
