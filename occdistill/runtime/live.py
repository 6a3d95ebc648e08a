"""The live loop: frames come when they come, forecasts leave in time or are counted as late.

Every frame that arrives ends in exactly one place, so the counts always add up:

    arrived = dropped + bad + filling + forecasts + waiting

A bounded queue drops its oldest frame when a newer one needs the room: stale occupancy is worth
less than none. Nothing that is kept grows with time. Whatever a source, the model or a listener may
raise is counted and told in the report; it doesn't end the loop.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time as system_time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from occdistill.data.occ3d import NUM_CLASSES
from occdistill.errors import UserError
from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import RollingForecaster
from occdistill.seeds import torch_generator

_log = logging.getLogger(__name__)
STAGES = ("read", "encode", "condition", "generate", "decode", "total")

_NOT_READ, _NO_MORE = object(), object()


def _told(error: Exception) -> str:
    """An error in a line; ours and those of checks are sentences already."""
    text = " ".join(str(error).split())[:300]
    plain = type(error) in (UserError, ValueError)
    return text if plain and text else f"{type(error).__name__}: {text}".removesuffix(": ")


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
        failure: why the source ended before its end, or None.
        reading: whether the source is being asked for a packet in this thread.
    """

    failure: str | None = None
    reading = False

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

    def close(self, failure: Exception | None = None) -> None:
        """No more packets will come, because of an error or not; those that wait are still served."""
        if failure is not None:
            self.failure = _told(failure)
            _log.error("the source failed, what it sent is still served: %s", self.failure)
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
        self._next: Packet | object = _NOT_READ
        self._start: float | None = None

    def _due(self) -> float:
        if self._start is None:
            self._start = self.clock.now()
        return self._start + self.arrived / self.rate

    def _read(self) -> None:
        """Ask the source for the next packet, or close where there is none."""
        first, self.reading = self._next is _NOT_READ, True
        try:
            self._next = next(self._source, _NO_MORE)
        except UserError as error:
            if first:  # it couldn't even begin
                raise
            self._next = _NO_MORE
            self.close(error)
        except Exception as error:  # noqa: BLE001 - whatever a driver may raise
            self._next = _NO_MORE
            self.close(error)
        finally:
            self.reading = False
        self._closed = self._next is _NO_MORE

    def take(self, timeout: float = 0.1) -> tuple[Packet, float] | None:
        """See `Queue.take`.

        Raises:
            UserError: the source's, before its first packet.
        """
        if self._next is _NOT_READ:
            self._read()
        if not self._closed and not self._waiting:
            wait = self._due() - self.clock.now()
            if wait > 0:
                self.clock.sleep(min(wait, timeout))
        while not self._closed and self._due() <= self.clock.now():
            packet, began = self._next, self.clock.now()
            try:
                self._read()
            finally:  # also where a signal ends the waiting for the next one
                self._start += self.clock.now() - began  # what a source prepares is off the clock
                self.put(packet, self._due())
        return self._waiting.popleft() if self._waiting else None


def threaded(source: Iterable[Packet], capacity: int, clock: Clock) -> Queue:
    """A queue fed from a thread, by a source that waits for its sensor by itself."""
    queue = Queue(capacity, clock)

    def feed() -> None:
        failure = None
        try:
            for packet in source:
                queue.put(packet)
        except Exception as error:  # noqa: BLE001 - whatever a driver may raise, the loop goes on
            failure = error
        queue.close(failure)

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
        unheard: forecasts at which the listener raised an error.
        stages: durations per stage; `total` runs from arrival to the finished forecast.
        reasons: the latest bad frames, and why, in words.
    """

    bad: int = 0
    filling: int = 0
    forecasts: int = 0
    missed: int = 0
    unheard: int = 0
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

    def stop(self) -> None:
        """Finish the frame at hand, then stop."""
        self._stop.set()

    def interrupt(self, *_: Any) -> None:
        """`stop` for a signal handler: also while a source keeps the loop waiting.

        Raises:
            KeyboardInterrupt: a source is waiting for its sensor, or this is the second signal.
        """
        again = self._stop.is_set()
        self._stop.set()
        if again or self.queue.reading:
            raise KeyboardInterrupt

    def heed_signals(self) -> None:
        """Stop on Ctrl-C and on SIGTERM, so that there is a report."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.interrupt)

    def run(self, frames: int | None = None) -> dict[str, Any]:
        """Run until the source ends, `frames` packets have been taken, or `stop` is called.

        Returns:
            `report()`.

        Raises:
            UserError: the source couldn't begin.
        """
        self._began, taken = self.clock.now(), 0
        while not self._stop.is_set() and not self.queue.over and taken != frames:
            try:
                arrival = self.queue.take()
            except KeyboardInterrupt:
                break
            if arrival is not None:
                self.step(*arrival)
                taken += 1
            self._ended = self.clock.now()
        return self.report()

    def step(self, packet: Packet, arrived: float) -> Tensor | None:
        """Answer one frame: its forecast, or None if it was bad or the window isn't full yet."""
        times = [self.clock.now()]
        try:
            future = self._answer(packet, times)
        except Exception as error:  # noqa: BLE001 - whatever a sensor or a device may come up with
            self.tally.bad += 1
            name = f"{getattr(packet, 'name', type(packet).__name__)}"[:200]
            self.tally.reasons.append(f"{name}: {_told(error)}")
            _log.warning("skipped a bad frame, %s", self.tally.reasons[-1])
            return None
        if future is None:
            self.tally.filling += 1
            return None
        for stage, start, end in zip(STAGES, times, times[1:]):
            self.tally.stages[stage].add(end - start)
        self.tally.stages["total"].add(times[-1] - arrived)
        self.tally.forecasts += 1
        self.tally.missed += times[-1] - arrived > self.deadline
        if self.listener is not None:
            self._tell(packet, future)
        return future

    def _answer(self, packet: Packet, times: list[float]) -> Tensor | None:
        """The forecast, with a time at the end of each stage; None if the window isn't full yet.

        Raises:
            Exception: of any kind; ValueError where the frame or the forecast is none.
        """
        voxels = packet.voxels() if callable(packet.voxels) else packet.voxels
        times.append(self.clock.now())
        if packet.time is None:
            raise ValueError("a frame without a time")
        self.rolling.push(voxels, packet.ego_to_global, packet.time, packet.lidar_to_ego)
        if not self.rolling.ready:
            return None
        self._mark(times)
        condition = self.rolling.condition(packet.plan, self._generator)
        self._mark(times)
        forecaster = self.rolling.forecaster
        latents = forecaster.generate(condition, forecaster.noise(1, self._generator))
        if not torch.isfinite(latents).all():
            raise ValueError("the model's latents aren't finite, so there is no forecast")
        self._mark(times)
        future = forecaster.decode(latents)[0]
        if int(future.max()) >= NUM_CLASSES:
            raise ValueError(f"the model's forecast holds class {int(future.max())}")
        self._mark(times)
        return future

    def _tell(self, packet: Packet, future: Tensor) -> None:
        try:
            self.listener(packet, future)
        except Exception as error:  # noqa: BLE001 - the next forecast may be heard
            self.tally.unheard += 1
            _log.warning("nobody heard the forecast for %s: %s", packet.name, _told(error))

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
            "unheard": tally.unheard,
            "jumps": self.rolling.jumps,
            "source_failed": self.queue.failure,
            "deepest_queue": self.queue.deepest,
            "stages": {stage: h.summary() for stage, h in tally.stages.items()},
            "bad_frames": list(tally.reasons),
        }
