"""The harness: several sides take turns in short rounds, and only neighbours in time are compared.

One round of every side, in an order drawn anew each time, makes a lap. A lap gives one ratio, ours to the peer's, so
a machine that slows down for a second slows both. What is reported is the median of the laps' ratios with its
quartiles. Of several peers the one counts whose own median is the lowest.
"""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median, quantiles
from typing import TypeVar

T = TypeVar("T")

WARM_UP_LAPS = 2


@dataclass(frozen=True, slots=True)
class Side:
    """Something measured: `round` runs some calls and returns what one of them cost."""

    name: str
    round: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Many measurements of one thing: their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, measured: Sequence[float]) -> "Spread":
        """The quartiles; of a single measurement, itself three times."""
        if len(measured) == 1:
            return cls(measured[0], measured[0], measured[0])
        low, _, high = quantiles(measured, n=4, method="inclusive")
        return cls(low, median(measured), high)


@dataclass(frozen=True, slots=True)
class Race:
    """What a race told: median costs, and the cost of ours in units of the peer's, lap by lap."""

    peer: str
    ours: float
    theirs: float
    cost_ratio: Spread
    speed_ratio: Spread


def race(ours: Side, peers: Sequence[Side], laps: int) -> Race:
    """Run the sides against each other. Both pay for their own garbage; what is there before is not looked at again."""
    sides, order = [ours, *peers], random.Random(0)
    for side in sides * WARM_UP_LAPS:
        side.round()
    gc.collect()
    gc.freeze()
    costs: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(laps):
        for side in order.sample(sides, len(sides)):
            costs[side.name].append(side.round())
    gc.unfreeze()
    mine, (peer, theirs) = costs.pop(ours.name), min(costs.items(), key=lambda item: median(item[1]))
    return Race(
        peer,
        median(mine),
        median(theirs),
        Spread.of([a / b for a, b in zip(mine, theirs, strict=True)]),
        Spread.of([b / a for a, b in zip(mine, theirs, strict=True)]),
    )


def each(name: str, call: Callable[[T], object], supply: Iterator[T], times: int) -> Side:
    """Seconds for one call, in rounds of so many, each with the next thing of an endless supply."""

    def one_round() -> float:
        chosen = list(islice(supply, times))
        began = time.perf_counter()
        for item in chosen:
            call(item)
        return (time.perf_counter() - began) / times

    return Side(name, one_round)


def storm(
    runner: asyncio.Runner, name: str, call: Callable[[str], Awaitable[object]], keys: Sequence[str], tasks: int
) -> Side:
    """Seconds for one call while so many tasks call at once, each of them with all the keys, one after the other."""

    async def task(start: int) -> None:
        for key in _from(keys, start):
            await call(key)

    async def one_round() -> float:
        began = time.perf_counter()
        await asyncio.gather(*map(task, range(tasks)))
        return (time.perf_counter() - began) / (tasks * len(keys))

    return Side(name, lambda: runner.run(one_round()))


def _from(keys: Sequence[str], start: int) -> Iterator[str]:
    """All keys, beginning in the middle."""
    return islice(cycle(keys), start % len(keys), start % len(keys) + len(keys))
