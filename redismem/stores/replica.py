"""Local replicas of collections: an index of each scope that this process searches, kept up with the server's log.

Before it is searched, a replica asks for what has changed since it last did: one round trip, and none while L1's
listener says that nothing has (`Settings.coherence`). So a search sees every write that was acknowledged before it, in
any process. When the log does not reach back that far, the collection is read anew. Replicas are bounded, all
together, and those that were searched longest ago go first. A forked child begins with none.
"""

import heapq
import itertools
import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from redismem.search.document import Document, Hit, Query
from redismem.search.index import Index
from redismem.search.ranking import Weights
from redismem.stores.collection import Changes, Position, Stored

_PAGE: Final = 1000
_AT_ONCE: Final = 2000
_PAUSE: Final = 0.005


class Source(Protocol):
    """A collection on the server."""

    async def changes(self, scope: str, position: int, most: int, held: int) -> Changes | None:
        """What has changed since a change; None if a reader that has `held` documents must read anew."""
        ...

    async def position(self, scope: str) -> Position:
        """Where the collection stands."""
        ...

    def pages(self, scope: str, batch_size: int, *, timed: bool, embedded: bool) -> AsyncIterator[list[Stored]]:
        """Every document, in batches."""
        ...

    def indexed(self, stored: Stored) -> Document | None:
        """What is searched for a document; None if it cannot be read."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let others go on."""
        ...


class Replica:
    """One scope's documents and their index. Thread-safe and task-safe. `clock` gives seconds."""

    def __init__(self, scope: str, weights: Weights | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.scope = scope
        self._weights = weights
        self.position: int | None = None
        """The latest change that is here; None: nothing was read yet, or too much was missed."""
        self._clock = clock
        self._lock = threading.Lock()
        self._loads = False
        self._index = Index(weights)
        self._stored: dict[str, Stored] = {}
        self._ends: list[tuple[float, int, Stored]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._stored)

    def search(self, query: Query) -> list[tuple[Stored, Hit]]:
        """The best documents, as they are stored, and how well they answer."""
        self._reap()
        return [(stored, hit) for hit in self._index.search(query) if (stored := self._stored.get(hit.id)) is not None]

    async def sync(self, source: Source) -> None:
        """See to it that every change from before this call is here."""
        while True:
            if (position := self.position) is None:
                await self._load(source)
                continue
            changes = await source.changes(self.scope, position, _AT_ONCE, len(self))
            with self._lock:
                if self.position == position:  # else somebody else has asked meanwhile, and may know more
                    if changes is not None:
                        self._apply(source, changes.documents)
                    self.position = None if changes is None else changes.number
                is_here = changes is not None and self.position is not None and self.position >= changes.number
                if changes is not None and is_here and not changes.more:
                    return

    async def _load(self, source: Source) -> None:
        """Read everything. Who comes second waits for the first."""
        with self._lock:
            is_first, self._loads = not self._loads, True
        if not is_first:
            while self._loads:
                await source.pause(_PAUSE)
            return
        try:
            position = await source.position(self.scope)
            fresh = Replica(self.scope, self._weights, self._clock)
            pages = source.pages(self.scope, _PAGE, timed=position.timed, embedded=position.embedded)
            with ThreadPoolExecutor(1) as indexing:  # one page is indexed while the next one is read
                indexed: Future[None] | None = None
                async for page in pages:
                    taken = fresh._take(source, page)
                    if indexed is not None:
                        indexed.result()
                    indexed = indexing.submit(fresh._index.apply, *taken)
            if indexed is not None:
                indexed.result()
            with self._lock:
                self._index, self._stored = fresh._index, fresh._stored
                self._ends, self._count = fresh._ends, fresh._count
                self.position = position.change
        finally:
            self._loads = False

    def _apply(self, source: Source, documents: Sequence[Stored]) -> None:
        self._index.apply(*self._take(source, documents))

    def _take(self, source: Source, documents: Sequence[Stored]) -> tuple[list[Document], list[str]]:
        """Keep documents; what the index is to be told of them."""
        now, upserts, gone = self._clock(), list[Document](), list[str]()
        for stored in documents:
            document = None if stored.data is None else source.indexed(stored)
            if document is None:
                gone.append(stored.id)
                self._stored.pop(stored.id, None)
                continue
            upserts.append(document)
            kept = stored if stored.embedding is None else replace(stored, embedding=None)  # the index has that
            self._stored[stored.id] = kept
            if stored.left < math.inf:
                heapq.heappush(self._ends, (now + stored.left, next(self._count), kept))
        return upserts, gone

    def _reap(self) -> None:
        """Documents that have expired are not found any more."""
        with self._lock:
            now, over = self._clock(), list[str]()
            while self._ends and self._ends[0][0] <= now:
                stored = heapq.heappop(self._ends)[-1]
                if self._stored.get(stored.id) is stored:  # else it was replaced since
                    over.append(stored.id)
                    del self._stored[stored.id]
            if over:
                self._index.apply([], over)


class Replicas:
    """The replicas of one kind, of at most `most` documents in all."""

    def __init__(self, most: int, weights: Weights | None) -> None:
        self._most = most
        self._weights = weights
        self._lock = threading.Lock()
        self._of: OrderedDict[str, Replica] = OrderedDict()
        _replicas.add(self)

    def restart(self) -> None:
        """In a forked child: have none. Those of the parent are not freed, for that may wait for a thread of its."""
        _inherited.append(self._of)
        self._lock, self._of = threading.Lock(), OrderedDict()

    def of(self, scope: str) -> Replica:
        """The replica of a scope; it may be empty."""
        with self._lock:
            if (replica := self._of.get(scope)) is None:  # an index that nobody needs is a millisecond
                replica = self._of[scope] = Replica(scope, self._weights)
            self._of.move_to_end(scope)
            while len(self._of) > 1 and sum(map(len, self._of.values())) > self._most:
                self._of.popitem(last=False)
            return replica


_replicas: weakref.WeakSet[Replicas] = weakref.WeakSet()
_inherited: list[OrderedDict[str, Replica]] = []


def _restart_all() -> None:
    for replicas in list(_replicas):
        replicas.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
