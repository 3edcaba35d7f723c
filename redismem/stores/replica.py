"""Local replicas of collections: an index of each scope that this process searches, kept up with the server's log.

Before it is searched, a replica asks for what has changed since it last did: one round trip, and none while L1 says
that nothing has (`Settings.coherence`). So a search sees every write that was acknowledged before it, in any process;
where L1 may say so, those of other processes within its bound, or at once if the search is `fresh`. When the log does
not reach back that far, the collection is read anew. Replicas are bounded, all together, and those that were searched
longest ago go first. A forked child begins with none.
"""

import heapq
import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

from redismem.errors import Conflict
from redismem.search.document import Hit, Query
from redismem.search.documents import Documents
from redismem.search.index import Index
from redismem.search.ranking import Weights
from redismem.stores.collection import Changes, Position, Stored

_SCOPE: Final = 300
_LOOK: Final = 64
_PAGE: Final = 1000
_FEW: Final = 300
_ENOUGH: Final = 400_000  # bytes
_MUCH: Final = 32_000_000  # bytes
_MOST_LOADS: Final = 10
_AT_ONCE: Final = 2000
_PAUSE: Final = 0.005
_BLINK: Final = 0.002


class Source(Protocol):
    """A collection on the server."""

    async def changes(
        self, scope: str, position: int, most: int, held: int, meanwhile: Callable[[], None] | None = None
    ) -> Changes | None:
        """What has changed since a change; None if a reader that has `held` documents must read anew.

        `meanwhile` may be done while the server answers.
        """
        ...

    async def position(self, scope: str) -> Position:
        """Where the collection stands."""
        ...

    def pages(self, scope: str, batch_size: int, *, timed: bool, embedded: bool) -> AsyncIterator[list[Stored]]:
        """Every document, in batches."""
        ...

    def indexed(self, page: Sequence[Stored]) -> Documents:
        """What is searched for documents, without those that cannot be read."""
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
        self._is_busy = False
        self._is_quiet = False
        self._index = Index(weights)
        # values that refer to nothing, as the garbage collector looks at all others again and again
        self._data: dict[str, bytes] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._ends: list[tuple[float, str]] = []
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._data)

    def search(self, query: Query) -> list[tuple[Stored, Hit]]:
        """The best documents, as they are stored, and how well they answer."""
        with self._lock:  # else another thread might change a document between its index and itself
            self._reap()
            return [(self._found(hit.id), hit) for hit in self._index.search(query)]

    def nameless(self, question: str) -> str:
        """See `Index.nameless`."""
        with self._lock:
            return self._index.nameless(question)

    def _found(self, id_: str) -> Stored:
        left = self._until.get(id_, math.inf) - self._clock()
        return Stored(id_, self._data[id_], left, *self._counts.get(id_, (0, 0)))

    @property
    def state(self) -> tuple[Index, int | None]:
        """Something equal only if nothing has changed."""
        return self._index, self.position

    async def sync(self, source: Source, meanwhile: Callable[[], None] | None = None) -> None:
        """See to it that every change from before this call is here. Raises `Conflict` if there are too many.

        `meanwhile` may be done while the server is asked, if it had nothing to tell the last time.
        """
        loads = seen = 0
        while True:
            if (position := self.position) is None:
                if (loads := loads + 1) > _MOST_LOADS:
                    raise Conflict(
                        f"scope {self.scope!r} changes faster than it can be read: raise the setting change_log"
                    )
                await self._load(source)
                seen = 0
                continue
            asked = self._clock()
            early, meanwhile = meanwhile if self._is_quiet else None, None
            changes = await source.changes(self.scope, position, _AT_ONCE, len(self), early)
            self._is_quiet = changes is not None and not changes.documents
            await self._idle(source)
            if changes is None or len(changes.documents) <= _FEW:
                self._follow(source, changes, position, asked)
            else:
                await self._follow_aside(source, changes, position, asked)
            if changes is not None and not changes.more and self._reaches(changes.number):
                return
            seen += 0 if changes is None else len(changes.documents)
            if seen > len(self) + _AT_ONCE:
                self.position = None  # reading all of it is less

    def _reaches(self, change: int) -> bool:
        return self.position is not None and self.position >= change

    def _follow(self, source: Source, changes: Changes | None, position: int, asked: float) -> None:
        with self._lock:
            if self.position != position:
                return  # somebody else has asked meanwhile, and may know more
            if changes is None:
                self.position = None
                return
            try:
                if changes.documents:
                    self._index.apply(*self._take(source, changes.documents, asked))
            except BaseException:
                self.position = None  # a part of it may be here
                raise
            self.position = changes.number

    async def _follow_aside(self, source: Source, changes: Changes, position: int, asked: float) -> None:
        """Follow in a thread, so that other tasks go on."""
        self._is_busy = True
        try:
            with ThreadPoolExecutor(1) as following:
                await _done(following.submit(self._follow, source, changes, position, asked), source)
        finally:
            self._is_busy = False

    async def _idle(self, source: Source) -> None:
        """Wait until nobody reads much."""
        while self._is_busy:
            await source.pause(_PAUSE)

    async def _load(self, source: Source) -> None:
        """Read everything. Who comes second waits for the first."""
        with self._lock:
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            return await self._idle(source)
        try:
            fresh = Replica(self.scope, self._weights, self._clock)
            await fresh._read(source)
            with self._lock:
                self._index, self._data, self._counts = fresh._index, fresh._data, fresh._counts
                self._ends, self._until, self.position = fresh._ends, fresh._until, fresh.position
        finally:
            self._is_busy = False

    async def _read(self, source: Source) -> None:
        """Read everything, and what changes meanwhile: the log may not reach back as far as the beginning, at the end.

        The texts of some pages are indexed while the next ones are read: of several together, as FTS5 takes many
        sooner than few.
        """
        began = await source.position(self.scope)
        position = began.change
        with ThreadPoolExecutor(1) as aside:
            loaded, asked = aside.submit(self._index.load_waiting), self._clock()
            async for page in source.pages(self.scope, _PAGE, timed=began.timed, embedded=began.embedded):
                changes = await source.changes(self.scope, position, _AT_ONCE, 0)
                if changes is None:
                    return
                waiting = await self._load_page(source, page, asked, aside)
                if changes.documents:
                    waiting = await self._load_page(source, changes.documents, asked, aside)
                if waiting >= (_ENOUGH if loaded.done() else _MUCH):
                    await _done(loaded, source)
                    loaded = aside.submit(self._index.load_waiting)
                position, asked = changes.number, self._clock()
            await _done(aside.submit(self._index.load_waiting), source)
        self.position = position

    async def _load_page(self, source: Source, page: Sequence[Stored], asked: float, aside: Executor) -> int:
        """Take a page in; how many bytes of it and others wait now (`Index.load`)."""
        came, went = self._take(source, page, asked)
        if went:
            await _done(aside.submit(self._index.apply, (), went), source)
        return self._index.load(came)

    def _take(self, source: Source, documents: Sequence[Stored], asked: float) -> tuple[Documents, list[str]]:
        """Keep documents; what the index is to be told of them: those that came, and the ids of those that went.

        `asked`: from when on they live as long as they do.
        """
        came = source.indexed([one for one in documents if one.data is not None])
        readable, went = set(came.id), list[str]()
        for stored in documents:
            id_, data = stored.id, stored.data
            if id_ in self._data:
                self._forget(id_)
            if data is None or id_ not in readable:
                went.append(id_)
                continue
            self._data[id_] = data
            if stored.uses or stored.successes:
                self._counts[id_] = stored.uses, stored.successes
            if stored.left < math.inf:
                self._until[id_] = asked + stored.left
                heapq.heappush(self._ends, (asked + stored.left, id_))
        if len(self._ends) > 2 * len(self._until) + _PAGE:  # most of it is about documents that were replaced
            self._ends = sorted((end, id_) for id_, end in self._until.items())
        return came, went

    def _forget(self, id_: str) -> None:
        del self._data[id_]
        self._counts.pop(id_, None)
        self._until.pop(id_, None)

    def _reap(self) -> None:
        """Documents that have expired are not found any more. The lock is held."""
        now, over = self._clock(), list[str]()
        while self._ends and self._ends[0][0] <= now:
            end, id_ = heapq.heappop(self._ends)
            if self._until.get(id_) == end:  # else it was replaced since
                over.append(id_)
                self._forget(id_)
        if over:
            self._index.apply([], over)


class Look:
    """A search that may be made early, before it is known whether every change is here: if not, it is made again."""

    def __init__(self, replica: Replica, query: Query) -> None:
        self._replica, self._query = replica, query
        self._state: tuple[Index, int | None] | None = None
        self._found: list[tuple[Stored, Hit]] = []

    def early(self) -> None:
        """Search now."""
        self._state = self._replica.state
        self._found = self._replica.search(self._query)

    def found(self) -> list[tuple[Stored, Hit]]:
        """What is found, now that every change is here."""
        if self._state != self._replica.state:
            self.early()
        return self._found


async def _done(work: Future[None], source: Source) -> None:
    """Wait for a thread. Most have soon done; then no other task is let in between."""
    while not wait([work], _BLINK).done:
        await source.pause(_PAUSE)
    work.result()


class Replicas:
    """The replicas of one kind, of at most `most` documents in all; one counts as `_SCOPE` documents by itself."""

    def __init__(self, most: int, weights: Weights | None) -> None:
        self._most = most
        self._weights = weights
        self._lock = threading.Lock()
        self._of: OrderedDict[str, Replica] = OrderedDict()
        self._calls = 0
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
            self._calls += 1
            if self._calls % _LOOK == 0 or len(self._of) * _SCOPE > self._most:
                self._make_room()
            return replica

    def _make_room(self) -> None:
        documents = sum(map(len, self._of.values()))
        while len(self._of) > 1 and documents + len(self._of) * _SCOPE > self._most:
            documents -= len(self._of.popitem(last=False)[1])


_replicas: weakref.WeakSet[Replicas] = weakref.WeakSet()
_inherited: list[OrderedDict[str, Replica]] = []


def _restart_all() -> None:
    for replicas in list(_replicas):
        replicas.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
