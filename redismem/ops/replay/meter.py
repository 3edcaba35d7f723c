"""What a replay measures: counts, and how long calls took. Small enough to be sent between processes often."""

import math
import time
from collections import Counter
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

R = TypeVar("R")

_GROWTH: Final = math.log(1.02)
_SHORTEST: Final = 1e-7


class Latencies:
    """Counts of calls in buckets that grow by 2 %, so a percentile is exact to 1 %. Times are seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one call."""
        self._buckets[round(math.log(max(seconds, _SHORTEST)) / _GROWTH)] += 1

    def merge(self, other: "Latencies") -> None:
        """Count all calls of another histogram too."""
        self._buckets.update(other._buckets)

    def percentile(self, fraction: float) -> float:
        """The time within which this fraction of the calls ended; 0.0 if there was no call."""
        wanted, seen = fraction * self._buckets.total(), 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= wanted:
                return math.exp(bucket * _GROWTH)
        return 0.0


@dataclass
class Meter:
    """What was done and found since the meter was made."""

    messages: int = 0
    operations: int = 0
    round_trips: int = 0
    lost: int = 0
    """Short-lived keys that had gone before their time."""
    torn: int = 0
    """Calls that were refused and had to succeed."""
    latencies: Latencies = field(default_factory=Latencies)

    @contextmanager
    def timing(self, operations: int = 1) -> Generator[None]:
        """Measure one call, which may be a batch of several operations."""
        began = time.perf_counter()
        yield
        self.latencies.add(time.perf_counter() - began)
        self.operations += operations

    async def time(self, call: Awaitable[R]) -> R:
        """Await one call, measured."""
        with self.timing():
            return await call

    def merge(self, other: "Meter") -> None:
        """Add what another meter shows."""
        self.messages += other.messages
        self.operations += other.operations
        self.round_trips += other.round_trips
        self.lost += other.lost
        self.torn += other.torn
        self.latencies.merge(other.latencies)
