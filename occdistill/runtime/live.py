"""The live loop: frames come when they come, forecasts leave in time or are counted as late.

Every frame that arrives ends in exactly one place, so the counts always add up:

    arrived = dropped + bad + filling + forecasts + waiting

A bounded queue drops its oldest frame when a newer one needs the room: stale occupancy is worth
less than none. Nothing that is kept grows with time.
"""

from __future__ import annotations

import logging
import math
import threading
import time as system_time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import RollingForecaster
from occdistill.seeds import torch_generator

_log = logging.getLogger(__name__)
STAGES = ("read", "encode", "condition", "generate", "decode", "total")


class Clock(Protocol):
    """Seconds, and waiting for them."""

    def now(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(system_time.perf_counter)
    sleep = staticmethod(system_time.sleep)


class Histogram:
    """Durations in bins of 2.3 %, from a microsecond to a thousand seconds: constant memory."""

    per_decade, low, decades = 100, -6, 9

    def __init__(self) -> None:
        self.counts = np.zeros(self.per_decade * self.decades, np.int64)
        self.count, self.total, self.largest = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = self.per_decade * (math.log10(max(seconds, 1e-6)) - self.low)
        self.counts[min(int(place), len(self.counts) - 1)] += 1
        self.count += 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def percentile(self, q: float) -> float:
        """Upper edge, in seconds, of the bin that holds percentile `q`; NaN when empty."""
        if not self.count:
            return math.nan
        place = int(np.searchsorted(self.counts.cumsum(), q / 100 * self.count))
        return min(10 ** ((place + 1) / self.per_decade + self.low), self.largest)

    def summary(self) -> dict[str, float]:
        """`count`, and `mean_ms`, `p50_ms`, `p90_ms`, `p99_ms`, `max_ms`."""
        if not self.count:
            return {"count": 0}
        quantiles = {f"p{q}_ms": 1e3 * self.percentile(q) for q in (50, 90, 99)}
        mean = {"mean_ms": 1e3 * self.total / self.count}
        return {"count": self.count, **mean, **quantiles, "max_ms": 1e3 * self.largest}


class Queue:
    """A bounded queue that drops its oldest packet; threads may put while another takes.

    Attributes:
        arrived: packets put so far.
        dropped: packets that had to make room.
        deepest: longest the queue has been.
    """

    def __init__(self, capacity: int, clock: Clock) -> None:
        self.capacity, self.clock = capacity, clock
        self.arrived = self.dropped = self.deepest = 0
        self._waiting: deque[tuple[Packet, float]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, packet: Packet, arrived: float | None = None) -> None:
        """Add a packet that arrived now, or at the given time."""
        with self._changed:
            if len(self._waiting) == self.capacity:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((packet, self.clock.now() if arrived is None else arrived))
            self.arrived += 1
            self.deepest = max(self.deepest, len(self._waiting))
            self._changed.notify()

    def close(self) -> None:
        """No more packets will come; those that wait are still served."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self, timeout: float = 0.1) -> tuple[Packet, float] | None:
        """The oldest packet and when it arrived; None if none came in `timeout` seconds."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(timeout)
            return self._waiting.popleft() if self._waiting else None

    @property
    def over(self) -> bool:
        """Closed and empty."""
        with self._changed:
            return self._closed and not self._waiting

    def __len__(self) -> int:
        return len(self._waiting)


class PacedQueue(Queue):
    """A queue that a recorded source fills by itself, at the sensor's rate.

    Packet i arrives at i / rate. Those that fell due while the model was busy are taken in, in
    order and with their own arrival times, when the queue is next looked at: the same drops as
    with a thread, without one, and the same ones every time under a simulated clock.

    Args:
        source: packets in order.
        rate: packets per second.
        capacity: of the queue.
        clock: real or simulated.
    """

    def __init__(self, source: Iterable[Packet], rate: float, capacity: int, clock: Clock) -> None:
        super().__init__(capacity, clock)
        self.rate = rate
        self._source: Iterator[Packet] = iter(source)
        self._next = next(self._source, None)
        self._start: float | None = None
        self._closed = self._next is None

    def _due(self) -> float:
        if self._start is None:
            self._start = self.clock.now()
        return self._start + self.arrived / self.rate

    def take(self, timeout: float = 0.1) -> tuple[Packet, float] | None:
        """See `Queue.take`."""
        if self._next is not None and not self._waiting:
            wait = self._due() - self.clock.now()
            if wait > 0:
                self.clock.sleep(min(wait, timeout))
        while self._next is not None and self._due() <= self.clock.now():
            packet, began = self._next, self.clock.now()
            self._next = next(self._source, None)
            self._start += self.clock.now() - began  # what a source prepares is off the clock
            self.put(packet, self._due())
        if self._next is None:
            self._closed = True
        return self._waiting.popleft() if self._waiting else None


def threaded(source: Iterable[Packet], capacity: int, clock: Clock) -> Queue:
    """A queue fed from a thread, by a source that waits for its sensor by itself."""
    queue = Queue(capacity, clock)

    def feed() -> None:
        try:
            for packet in source:
                queue.put(packet)
        except Exception:  # noqa: BLE001 - whatever a driver may raise, the loop goes on
            _log.exception("the source failed; what it sent is still served")
        finally:
            queue.close()

    threading.Thread(target=feed, name="source", daemon=True).start()
    return queue


@dataclass
class Tally:
    """Counts and durations of a run.

    Attributes:
        bad: frames skipped because they couldn't be read or taken in.
        filling: frames that came while the window of past frames wasn't full.
        forecasts: frames that were answered.
        missed: forecasts that left later than the deadline after their frame arrived.
        stages: durations per stage; `total` runs from arrival to the finished forecast.
        reasons: the latest bad frames, in words.
    """

    bad: int = 0
    filling: int = 0
    forecasts: int = 0
    missed: int = 0
    stages: dict[str, Histogram] = field(
        default_factory=lambda: {stage: Histogram() for stage in STAGES}
    )
    reasons: deque[str] = field(default_factory=lambda: deque(maxlen=20))


class LiveRunner:
    """Takes frames from a queue and hands forecasts to a listener until told to stop.

    Args:
        rolling: the model and its window of past frames.
        queue: where frames arrive.
        deadline: seconds from a frame's arrival to its forecast.
        listener: called with the packet and its forecast, uint8 `(F, X, Y, Z)`; its own time is
            not the model's and isn't counted.
        clock: real or simulated.
        seed: of the noise.
    """

    def __init__(
        self,
        rolling: RollingForecaster,
        queue: Queue,
        deadline: float = 0.5,
        listener: Callable[[Packet, Tensor], None] | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.rolling, self.queue, self.deadline = rolling, queue, deadline
        self.listener = listener
        self.clock = clock or queue.clock
        self.tally = Tally()
        self._generator = torch_generator(seed)
        self._stop = threading.Event()
        self._began = self._ended = self.clock.now()

    def stop(self, *_: Any) -> None:
        """Finish the frame at hand, then stop; fit for a signal handler."""
        self._stop.set()

    def run(self, frames: int | None = None) -> dict[str, Any]:
        """Run until the source ends, `frames` packets have been taken, or `stop` is called.

        Returns:
            `report()`.
        """
        self._began, taken = self.clock.now(), 0
        while not self._stop.is_set() and not self.queue.over and taken != frames:
            arrival = self.queue.take()
            if arrival is not None:
                self.step(*arrival)
                taken += 1
            self._ended = self.clock.now()
        return self.report()

    def step(self, packet: Packet, arrived: float) -> Tensor | None:
        """Answer one frame: its forecast, or None if it was bad or the window isn't full yet."""
        times = [self.clock.now()]
        try:
            voxels = self._read(packet)
            times.append(self.clock.now())
            self.rolling.push(voxels, packet.ego_to_global, packet.time, packet.lidar_to_ego)
            if not self.rolling.ready:
                self.tally.filling += 1
                return None
            self._mark(times)
            condition = self.rolling.condition(packet.plan)
            self._mark(times)
        except ValueError as error:
            self.tally.bad += 1
            self.tally.reasons.append(f"{packet.name}: {error}")
            _log.warning("skipped a bad frame, %s: %s", packet.name, error)
            return None
        forecaster = self.rolling.forecaster
        latents = forecaster.generate(condition, forecaster.noise(1, self._generator))
        self._mark(times)
        future = forecaster.decode(latents)[0]
        self._mark(times)
        for stage, start, end in zip(STAGES, times, times[1:]):
            self.tally.stages[stage].add(end - start)
        self.tally.stages["total"].add(times[-1] - arrived)
        self.tally.forecasts += 1
        self.tally.missed += times[-1] - arrived > self.deadline
        if self.listener is not None:
            self.listener(packet, future)
        return future

    @staticmethod
    def _read(packet: Packet) -> Tensor:
        if not callable(packet.voxels):
            return packet.voxels
        try:
            return packet.voxels()
        except Exception as error:  # whatever a sensor, a file or a driver may come up with
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _mark(self, times: list[float]) -> None:
        self.rolling.forecaster.synchronize()
        times.append(self.clock.now())

    def report(self) -> dict[str, Any]:
        """Counts, rate and latencies so far, ready for JSON."""
        tally, seconds = self.tally, self._ended - self._began
        return {
            "seconds": seconds,
            "frames": {
                "arrived": self.queue.arrived,
                "dropped": self.queue.dropped,
                "bad": tally.bad,
                "filling": tally.filling,
                "forecasts": tally.forecasts,
                "waiting": len(self.queue),
            },
            "forecasts_per_s": tally.forecasts / seconds if seconds > 0 else 0.0,
            "deadline_ms": 1e3 * self.deadline,
            "missed": tally.missed,
            "deepest_queue": self.queue.deepest,
            "stages": {stage: h.summary() for stage, h in tally.stages.items()},
            "bad_frames": list(tally.reasons),
        }
