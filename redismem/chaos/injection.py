"""Calls of a memory that fail on demand, without a network: what the link does about it, and what callers get.

`inject` decides the fate of each exchange that a memory's link makes with a server. One that is *unsent* fails before
anything leaves; one that is *unanswered* reaches the server, and its replies are lost. Then the link does what it
always does: retries what it may, as often as its settings say, and raises `Unavailable` after that.
"""

import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import repeat
from typing import Any, cast
from unittest.mock import patch

from redismem.link.base import Command, Link, Reply
from redismem.link.cluster import ClusterLink
from redismem.link.faults import Fault
from redismem.memory import AsyncMemory, Memory

Exchange = Callable[..., Awaitable[Any]]


class Fate(Enum):
    """What becomes of an exchange with a server."""

    PASSES = "passes"
    UNSENT = "unsent"
    """Nothing is sent; the call fails."""
    UNANSWERED = "unanswered"
    """The server does what it was asked; the call fails."""


def random_fates(*, unsent: float = 0.0, unanswered: float = 0.0, seed: int | None = None) -> Iterator[Fate]:
    """Fates without end, by their probabilities; the same ones again for the same `seed`.

    Raises `ValueError` for what are no probabilities, alone or together.
    """
    if min(unsent, unanswered) < 0 or unsent + unanswered > 1:
        raise ValueError(f"unsent is {unsent!r} and unanswered {unanswered!r}: together they must be from 0 to 1")
    dice, weights = random.Random(seed), (unsent, unanswered, max(0.0, 1.0 - unsent - unanswered))
    return (dice.choices((Fate.UNSENT, Fate.UNANSWERED, Fate.PASSES), weights)[0] for _ in repeat(None))


@contextmanager
def inject(memory: Memory | AsyncMemory, fates: Iterable[Fate]) -> Generator[Counter[Fate]]:
    """Let the exchanges of this memory meet these fates, in this order, for one block; all pass when they run out.

    The block is given a count of the fates that were met.

    An exchange is a round trip to one server: a call, a batch's step, a retry. What locks and transactions do on
    connections of their own, and the listener of an L1, is not touched: use a `ChaosProxy` for those.
    """
    link: Link = memory._link  # pyright: ignore[reportPrivateUsage]
    injector = _Injector(iter(fates))
    if isinstance(link, ClusterLink):
        exchange_all = cast(Exchange, link.exchange_all)  # pyright: ignore[reportUnknownMemberType]
        patched = patch.object(link, "exchange_all", injector.around_all(exchange_all))
    else:
        patched = patch.object(link, "exchange", injector.around(link.exchange))
    with patched:
        yield injector.tally


class _Injector:
    """Puts fates around exchanges. Thread-safe."""

    def __init__(self, fates: Iterator[Fate]) -> None:
        self.tally: Counter[Fate] = Counter()
        self._fates = fates
        self._lock = threading.Lock()

    def around(self, exchange: Exchange) -> Exchange:
        """`Link.exchange`, with fates."""

        async def exchanged(commands: Sequence[Command], **how: Any) -> list[Reply]:
            fate = self._next()
            if fate is Fate.UNSENT:
                raise _FAULTS[fate]()
            replies: list[Reply] = await exchange(commands, **how)
            if fate is Fate.UNANSWERED:
                raise _FAULTS[fate]()
            return replies

        return exchanged

    def around_all(self, exchange_all: Exchange) -> Exchange:
        """`ClusterLink.exchange_all`, with a fate for each node."""

        async def exchanged(requests: Sequence[Any], **how: Any) -> list[Any]:
            fates = [self._next() for _ in requests]
            sent = [request for request, fate in zip(requests, fates, strict=True) if fate is not Fate.UNSENT]
            answers = iter(await exchange_all(sent, **how))
            came = [None if fate is Fate.UNSENT else next(answers) for fate in fates]
            return [_FAULTS[fate]() if fate in _FAULTS else answer for fate, answer in zip(fates, came, strict=True)]

        return exchanged

    def _next(self) -> Fate:
        with self._lock:
            fate = next(self._fates, Fate.PASSES)
            self.tally[fate] += 1
        return fate


_FAULTS: dict[Fate, Callable[[], Fault]] = {
    Fate.UNSENT: lambda: Fault(ConnectionError("injected before anything was sent"), unsent=True),
    Fate.UNANSWERED: lambda: Fault(ConnectionError("injected after everything was sent"), unsent=False),
}
