"""What a memory's reads of hashes go through: L1 in front, the server behind, and how long which may be believed.

=============  =====================================================================================================
``tracking``   the server tells of every change (`redismem.cache.tracking`); while it cannot, reads go to the server
``ttl``        nobody tells: what was read is served for `l1_ttl`
=============  =====================================================================================================

A read that L1 cannot answer registers its placeholder, asks the server for value and remaining time to live in one
round trip, and keeps both if no change was heard of meanwhile. Those who want the same at that time wait for it.
Whatever a read gives is then, at most, as old as the mode's bound when the read begins.

With `l1_stale_while_revalidate`, what `l1_ttl` has outdated is served for that much longer, while it is read again in
the background. With `l1_fail_safe`, what was last read is served while the server cannot be reached. Both are marked.
"""

import asyncio
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, cast

from redismem.cache.background import Background, Tasks, Worker
from redismem.cache.kept import Kept
from redismem.cache.l1 import L1, OVERHEAD, Entry, Fill, What
from redismem.cache.tracking import Listener
from redismem.codec import Codec
from redismem.config import Settings
from redismem.errors import Busy, Timeout, Unavailable
from redismem.keys import Keys
from redismem.link.base import Link
from redismem.op import UNKNOWN

logger = logging.getLogger("redismem")

T = TypeVar("T")

Item = Kept | bytes | None
"""A field's value, as it is kept or as it came from the server; None: there is no such field."""
Found = Sequence[Item] | Mapping[bytes, Item]
"""One item for each field that was asked for, or the items of all fields."""

_AWAY: Final = (Unavailable, Timeout, Busy)
_ATTEMPTS: Final = 2
_JITTER: Final = 0.1

clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds. Goes on while the machine is suspended, where there is such a clock: other machines do too."""


@dataclass(frozen=True, slots=True)
class L1Stats:
    """What L1 has done since the memory was made, and what it holds now."""

    hits: int
    """Reads that were answered from memory."""
    misses: int
    """Reads that went to the server, to be kept."""
    joined: int
    """Reads that waited for another's."""
    bypassed: int
    """Reads that went to the server because L1 must not answer: a `user_id`, or nobody listens."""
    invalidations: int
    """Hashes that were dropped because the server said so."""
    evictions: int
    stale_served: int
    """Copies that were served past their time: `l1_stale_while_revalidate`, `l1_fail_safe`."""
    entries: int
    bytes: int
    listening: bool
    """Whether the server tells of changes, and L1 may answer."""


Seen = tuple[Found, float | None]
"""What a reader gets, and how stale that is; None: by no more than the bound."""
Fetched = tuple[Sequence[bytes | None] | Mapping[bytes, bytes], Sequence[float] | None]
"""What a server said: the bytes, and for how many seconds each lives at least; None: it did not say."""
Fetch = Callable[[], Coroutine[Any, Any, Fetched]]
"""Asks the server."""
Keep = tuple[Any, float, int]


class Reads:
    """Thread-safe, task-safe and fork-safe. One for each memory."""

    def __init__(self, settings: Settings, link: Link, keys: Keys, codec: Codec, *, awaited: bool) -> None:
        self.link = link
        self._settings = settings
        self._keys = keys
        self._codec = codec
        self._awaited = awaited
        self._tracked = settings.coherence == "tracking"
        self._grace = settings.l1_stale_while_revalidate or 0.0
        self._fail_safe = settings.l1_fail_safe
        self.l1: L1[Any] = L1(settings.l1_entries, settings.l1_bytes, clock)
        self._aside: L1[Kept] = L1(settings.l1_entries, settings.l1_bytes, clock)
        self._background: Background = Tasks() if awaited else Worker()
        self._restart()
        _all.add(self)

    def _restart(self) -> None:
        self.bypassed = self.stale_served = 0
        self._is_away = False
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._finalizer: weakref.finalize[..., Reads] | None = None
        self.l1.good_until = -math.inf if self._tracked else math.inf
        self._aside.good_until = math.inf

    def forget(self) -> None:
        """In a forked child: no thread listens here, and none that held a lock is left."""
        _inherited.append(self._listener)
        if self._finalizer is not None:
            self._finalizer.detach()
        self.l1.restart()
        self._aside.restart()
        self._background.restart()
        self._restart()

    async def aclose(self) -> None:
        """End the listener. What reads now is the link's business."""
        self._background.close()
        if (listener := self._listener) is not None:
            listener.stop()
            await asyncio.to_thread(listener.join) if self._awaited else listener.join()
        for l1 in (self.l1, self._aside):
            l1.good_until = -math.inf
            l1.flush()

    # --- reading ----------------------------------------------------------------------------------------------------

    def at_hand(self, name: str, fields: tuple[bytes, ...], fetch: Fetch) -> Seen | None:
        """What may be said of these fields of a hash, of none given all, without asking the server."""
        if (entries := self.l1.entries_for(name, fields)) is not None:
            self.l1.served(entries)
            return _items(entries, fields), None
        if not self._grace or (entries := self.l1.entries_for(name, fields, self._grace)) is None:
            return None
        fill, leads = self.l1.fill(name, fields, self._life())
        if leads:
            self._background.submit(self._lead(fill, name, fields, fetch))
        self.stale_served += 1
        return _items(entries, fields), clock() - min(entry.until for entry in entries)

    def keeps(self, name: str, fields: tuple[bytes, ...]) -> bool:
        """Whether these fields are to be read through `read`; if not, nothing that the server says will be kept."""
        if clock() < self.l1.good_until:
            return self.l1.admits(name, fields) or self._fail_safe is not None
        self._listen()
        self.bypassed += 1
        return self._fail_safe is not None

    async def read(self, name: str, fields: tuple[bytes, ...], fetch: Fetch, *, fresh: bool) -> Seen:
        """These fields from the server, to be kept; from others who are just reading them, unless `fresh`.

        If the server is away, the last that is known of them, if that is wanted. Raises what `fetch` does.
        """
        try:
            for _ in range(_ATTEMPTS if clock() < self.l1.good_until else 0):
                fill, leads = self.l1.fill(name, fields, self._life(), join=not fresh)
                if leads:
                    return await self._lead(fill, name, fields, fetch), None
                await self._end_of(fill)
                if fill.reply is not UNKNOWN:
                    return fill.reply, None
            return await self._lead(None, name, fields, fetch), None
        except _AWAY as error:
            if fresh or (entries := self._aside.entries_for(name, fields)) is None:
                raise
            self._note_outage(error)
            return _items(entries, fields), clock() - min(entry.began for entry in entries)

    async def through(
        self, name: str, what: bytes, ask: Callable[[], Coroutine[Any, Any, tuple[T, int]]], *, fresh: bool = False
    ) -> T:
        """Something that was made of a hash, under a name of its own, for as long as nothing of the hash changes.

        It must neither change nor expire. `ask` makes it, and says how many bytes it takes. Raises what `ask` does.
        """
        if not fresh and (kept := self.l1.get(name, what)) is not UNKNOWN:
            return cast(T, kept)
        if clock() >= self.l1.good_until:
            self._listen()
            self.bypassed += 1
            return (await ask())[0]
        fill, _ = self.l1.fill(name, (what,), self._life(), join=False)
        keep: dict[What, Any] = {}
        try:
            made, size = await ask()
            keep = {what: (made, math.inf, size + OVERHEAD)}
            return made
        finally:
            self.l1.end(fill, keep)

    def drop(self, name: str) -> None:
        """This process has changed the hash, or may have."""
        self.l1.drop(name)
        self._aside.drop(name)

    def last(self, name: str, field: bytes) -> tuple[Kept | None, float, bool] | None:
        """The last that is known of a field: its value, how old that is, whether it would not be served now."""
        for l1 in (self.l1, self._aside):
            if entries := l1.entries_for(name, (field,)):
                return entries[0].of(field), clock() - entries[0].began, l1 is self._aside
        return None

    async def _lead(self, fill: Fill | None, name: str, fields: tuple[bytes, ...], fetch: Fetch) -> Found:
        """Read for all who wait for this placeholder; without one, for the caller alone."""
        aside = None
        if self._fail_safe is not None:
            aside, _ = self._aside.fill(name, fields, self._fail_safe, join=False)
        found: Any = UNKNOWN
        each: dict[What, Keep] = {}
        keep: dict[What, Keep] = {}
        try:
            found, lives = await fetch()
            self._is_away = False
            if lives is not None:
                each = self._each(fields or found, found.values() if not fields else found, lives)
                keep = each if fields else {None: _together(each)}
            return cast(Found, found)
        finally:
            if fill is not None:
                self.l1.end(fill, keep, found)
            if aside is not None:
                self._aside.end(aside, each | keep)

    def _each(self, fields: Iterable[bytes], found: Iterable[bytes | None], lives: Sequence[float]) -> dict[What, Keep]:
        """What is to be kept of each field."""
        codec = self._codec
        return {
            field: (None, life, OVERHEAD) if data is None else (Kept(codec, data), life, len(data) + OVERHEAD)
            for field, data, life in zip(fields, found, lives, strict=True)
        }

    async def _end_of(self, fill: Fill) -> None:
        """Wait until another's read is over, but no longer than one's own would be."""
        seconds = self.link.patience.timeout
        if not self._awaited:
            over = threading.Event()
            fill.on_end(over.set)
            over.wait(seconds)
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(ended.set)

        fill.on_end(wake)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()

    # --- listening --------------------------------------------------------------------------------------------------

    def _life(self) -> float:
        """Seconds until what is read now is to be read again: jittered, so that not all is at once."""
        life = self._settings.l1_ttl
        if self._listener is not None and self._listener.untold:
            life = min(life, self._settings.coherence_bound)
        return life * (1 - _JITTER * random.random())

    def _listen(self) -> None:
        """See that somebody listens."""
        if self._listener is None:
            with self._lock:
                if self._listener is None and not self.link.closed:
                    self._listener = Listener(self.l1, self.link, self._keys, self._settings.coherence_bound)
                    self._finalizer = weakref.finalize(self, self._listener.stop)
                    self._listener.start()

    def _note_outage(self, error: Exception) -> None:
        self.stale_served += 1
        if not self._is_away:
            self._is_away = True
            logger.warning("%s: serving the last known copies: %s", self.link.endpoint.name, error)

    def stats(self) -> L1Stats:
        """The figures of this moment."""
        l1 = self.l1
        return L1Stats(
            hits=l1.hits,
            misses=l1.misses,
            joined=l1.joined,
            bypassed=self.bypassed,
            invalidations=l1.invalidations,
            evictions=l1.evictions,
            stale_served=self.stale_served,
            entries=l1.entries,
            bytes=l1.bytes,
            listening=clock() < l1.good_until < math.inf,
        )


def _together(each: Mapping[Any, Keep]) -> Keep:
    """What is to be kept of a whole hash; it lives no longer than any of its fields."""
    life = min((life for _, life, _ in each.values()), default=math.inf)
    return {field: kept for field, (kept, *_) in each.items()}, life, sum(size for *_, size in each.values()) + OVERHEAD


def _items(entries: Sequence[Entry[Kept]], fields: Sequence[bytes]) -> Found:
    if not fields:
        return cast(Mapping[bytes, Item], entries[0].value)
    return [entry.of(field) for entry, field in zip(entries, fields, strict=True)]


_all: weakref.WeakSet[Reads] = weakref.WeakSet()
_inherited: list[object] = []
"""What a forked child must neither use nor close: the sockets are its parent's."""


def is_anything_kept() -> bool:
    """Whether any memory of this process has an L1."""
    return bool(_all)


def drop(link: Link, name: str) -> None:
    """This process has changed a hash, or may have: none of its memories on that server has it any more."""
    for reads in list(_all):
        if reads.link.endpoint.name == link.endpoint.name:
            reads.drop(name)


def _forget_all() -> None:
    for reads in list(_all):
        reads.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
