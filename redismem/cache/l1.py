"""What a process keeps of the server's hashes: bounded, thread-safe, and without any I/O; the clock is passed in.

A `Unit` is what is kept of one hash: one `Entry` for each field that was asked for, there or not, and one for the hash
as a whole. It also holds the placeholders (`Fill`) of reads that are under way. `drop` takes the whole unit away in
one step, however much it holds: what was kept is not found any more, and a read that began before finds its
placeholder gone, so that its reply, which may be old, is not stored.

Nothing is served past its own deadline (`Entry.until`), nor once the clock has reached `L1.good_until`: whoever hears
of changes moves that on.

Eviction is S3-FIFO (docs/adr/0010): an entry that is new waits in a small queue; if it was asked for again by the
time it gets to the front, it moves to the main one, where every pass costs it one of its uses. The names of those
that went without a use are remembered for a while, and enter the main queue at once when they come again. A hit only
counts a use, so hits take no lock. What was dropped or replaced stays in its queue until it gets to the front, or
until there is enough of it for a sweep. While there is no room left, only what is asked for twice is kept (`admits`).
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from redismem.op import UNKNOWN, Unknown

V = TypeVar("V")

OVERHEAD: Final = 1000
"""Bytes that an entry takes beside its data, about."""
_MOST_USES: Final = 3
_LARGEST_SHARE: Final = 4
_SMALL_SHARE: Final = 10
_DEAD_SHARE: Final = 8
_FULL_SHARE: Final = 16


What = bytes | None
"""A field of a hash; None: the hash as a whole."""


class Entry(Generic[V]):
    """Something kept. `value` is a field's, None if it does not exist, or a dict of all fields."""

    __slots__ = ("began", "dies", "read", "size", "unit", "until", "uses", "value", "what")

    def __init__(self, fill: "Fill", what: What, value: Any, dies: float, size: int) -> None:
        self.unit = fill.unit
        self.read = fill.number
        self.began = fill.began
        self.what = what
        self.value = value
        self.dies = dies
        self.until = min(fill.until, dies)
        self.size = size
        self.uses = 0

    def serves(self, now: float, grace: float) -> bool:
        """Whether it may still be served, `grace` seconds after it was to be read again."""
        return now < self.until or now < min(self.until + grace, self.dies)

    def of(self, field: bytes) -> V | None:
        """The value of one field for which this entry answers."""
        value: V | None = self.value.get(field) if self.what is None else self.value
        return value


class Unit:
    """What is kept of one hash, and the reads of it that are under way."""

    __slots__ = ("entries", "fills", "name", "size")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[What, Entry[Any]] = {}
        self.fills: dict[Sequence[bytes], Fill] = {}
        self.size = 0


class Fill:
    """A read under way, led by one caller. Others that want the same wait for its end (`on_end`).

    `until` is when what it reads is to be read again, counted from before the read.
    """

    __slots__ = ("_lock", "_waiting", "began", "ended", "fields", "number", "reply", "unit", "until")

    def __init__(
        self, lock: threading.Lock, number: int, unit: Unit, fields: Sequence[bytes], began: float, until: float
    ) -> None:
        self._lock = lock
        self.number = number
        self._waiting: list[Callable[[], object]] | None = None
        self.unit = unit
        self.fields = fields
        self.began = began
        self.until = until
        self.ended = False
        self.reply: Any = UNKNOWN
        """What was read; `UNKNOWN` before the end, and if the read failed."""

    def on_end(self, call: Callable[[], object]) -> None:
        """Call this at the end, or now if that was."""
        with self._lock:
            if not self.ended:
                self._waiting = [*(self._waiting or ()), call]
                return
        call()

    def end(self, reply: Any) -> None:
        """The read is over: those who wait get the reply, or learn that there is none. The lock is held."""
        self.reply, self.ended = reply, True

    def wake(self) -> None:
        """Call those who wait for the end, which was. The lock is not held."""
        for call in self._waiting or ():
            call()


class L1(Generic[V]):
    """At most `max_entries` entries, of `max_bytes` in all, about. `clock` gives seconds."""

    def __init__(self, max_entries: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.good_until = float("-inf")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._reads = 0
        self.restart()

    def restart(self) -> None:
        """Empty and as if new; in a forked child with a lock that no thread of the parent holds."""
        self._lock = threading.Lock()
        self.hits = self.misses = self.joined = self.invalidations = self.evictions = 0
        self._clear()

    def _clear(self) -> None:
        self._units: dict[str, Unit] = {}
        self._small: deque[Entry[V]] = deque()
        self._main: deque[Entry[V]] = deque()
        self._ghosts: OrderedDict[tuple[str, What], None] = OrderedDict()
        self._asked: set[tuple[str, Sequence[bytes]]] = set()
        self._asked_before: set[tuple[str, Sequence[bytes]]] = set()
        self.entries = self.bytes = self._small_entries = self._small_bytes = 0
        self._dead_entries = self._dead_bytes = 0

    # --- reading: no locks ------------------------------------------------------------------------------------------

    def get(self, name: str, field: bytes) -> V | Unknown | None:
        """What is kept of one field; None: that it does not exist. `UNKNOWN` if nothing is."""
        unit = self._units.get(name)
        if unit is not None:
            now = self.clock()
            if now < self.good_until:
                entry = unit.entries.get(field)
                if entry is not None and now < entry.until:
                    self.hits += 1
                    if entry.uses < _MOST_USES:
                        entry.uses += 1
                    value: V | None = entry.value
                    return value
                whole = unit.entries.get(None)
                if whole is not None and now < whole.until:
                    self.served((whole,))
                    return whole.of(field)
        return UNKNOWN

    def entries_for(self, name: str, fields: Sequence[bytes], grace: float = 0.0) -> list[Entry[V]] | None:
        """The entries that answer for these fields, of none given for all, if they were read at one moment.

        With `grace` also those that were to be read again up to so many seconds ago; but none whose field has itself
        expired since.
        """
        unit = self._units.get(name)
        if unit is None or (now := self.clock()) >= self.good_until:
            return None
        found = [entry for field in fields if (entry := unit.entries.get(field)) is not None]
        if found and len(found) == len(fields) and len({entry.read for entry in found}) == 1:
            return found if all(entry.serves(now, grace) for entry in found) else None
        whole = unit.entries.get(None)
        if whole is not None and whole.serves(now, grace):
            return [whole] * max(1, len(fields))
        return None

    def served(self, entries: Sequence[Entry[V]]) -> None:
        """These entries have answered a read."""
        self.hits += 1
        for entry in entries:
            entry.uses = min(_MOST_USES, entry.uses + 1)

    # --- filling ----------------------------------------------------------------------------------------------------

    def admits(self, name: str, fields: Sequence[bytes]) -> bool:
        """Whether to keep what a read of these fields gives: there is room, or the same was asked for lately.

        If not, the question is remembered.
        """
        if self.entries * _FULL_SHARE < self._max_entries * (_FULL_SHARE - 1) and (
            self.bytes + self._dead_bytes
        ) * _FULL_SHARE < self._max_bytes * (_FULL_SHARE - 1):
            return True
        question = name, fields
        if question in self._asked or question in self._asked_before:
            return True
        self.misses += 1
        self._asked.add(question)  # without a lock: two threads at worst forget a question
        if 2 * len(self._asked) > self._max_entries:
            self._asked_before, self._asked = self._asked, set()
        return False

    def fill(self, name: str, fields: Sequence[bytes], life: float, *, join: bool = True) -> tuple[Fill, bool]:
        """The placeholder of a read of these fields, of none for all, and whether the caller is to do that read.

        Who is to, calls `end`, whatever happens. With `join` it may be another's that is under way.
        """
        with self._lock:
            now = self.clock()
            unit = self._units.get(name)
            if unit is None:
                unit = self._units[name] = Unit(name)
            elif join and (other := unit.fills.get(fields)) is not None and now < other.until:
                self.joined += 1
                return other, False
            self.misses += 1
            self._reads += 1
            fill = unit.fills[fields] = Fill(self._lock, self._reads, unit, fields, now, now + life)
            return fill, True

    def end(self, fill: Fill, found: Mapping[What, tuple[Any, float, int]], reply: Any = UNKNOWN) -> bool:
        """A read is over: those who wait for it get the reply, and what was found is kept unless it may be old by now.

        `found` is, of each field, the value, for how many seconds it lives, and its bytes; empty if the read failed.
        Returns whether it was kept.
        """
        unit = fill.unit
        with self._lock:
            fill.end(reply)
            if unit.fills.get(fill.fields) is fill:
                del unit.fills[fill.fields]
            is_true = self._units.get(unit.name) is unit
            if is_true:
                for what, (value, life, size) in found.items():
                    if size * _LARGEST_SHARE <= self._max_bytes:
                        self._put(Entry(fill, what, value, fill.began + life, size))
                if not unit.entries and not unit.fills:
                    del self._units[unit.name]
                self._make_room()
        fill.wake()
        return is_true

    def drop(self, name: str) -> bool:
        """The hash has changed: nothing that is kept of it or being read now will be served. O(1)."""
        with self._lock:
            unit = self._units.pop(name, None)
            if unit is None:
                return False
            self._bury(len(unit.entries), unit.size)
            return True

    def invalidate(self, name: str) -> None:
        """`drop`, because the server says so."""
        self.invalidations += self.drop(name)

    def flush(self) -> None:
        """Drop everything."""
        with self._lock:
            self._clear()

    # --- eviction; the lock is held ---------------------------------------------------------------------------------

    def _put(self, entry: Entry[V]) -> None:
        unit = entry.unit
        if (old := unit.entries.get(entry.what)) is not None:
            unit.size -= old.size
            self._bury(1, old.size)
        unit.entries[entry.what] = entry
        unit.size += entry.size
        self.entries += 1
        self.bytes += entry.size
        if old is not None or self._ghosts.pop((unit.name, entry.what), UNKNOWN) is None:
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_entries += 1
            self._small_bytes += entry.size

    def _bury(self, entries: int, size: int) -> None:
        """So much is not found any more, but still in a queue."""
        self.entries -= entries
        self.bytes -= size
        self._dead_entries += entries
        self._dead_bytes += size

    def _make_room(self) -> None:
        if (
            self._dead_entries * _DEAD_SHARE > self._max_entries + _DEAD_SHARE
            or self._dead_bytes * _DEAD_SHARE > self._max_bytes
        ):
            self._sweep()
        while self.entries > self._max_entries or self.bytes + self._dead_bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Look at the entry at the front of one queue: it goes, or to the end of the main one."""
        is_new = not self._main or (
            self._small_entries * _SMALL_SHARE >= self._max_entries
            or self._small_bytes * _SMALL_SHARE >= self._max_bytes
        )
        if is_new and self._small:
            entry = self._small.popleft()
            self._small_entries -= 1
            self._small_bytes -= entry.size
        else:
            is_new, entry = False, self._main.popleft()
        if not self._lives(entry):
            self._dead_entries -= 1
            self._dead_bytes -= entry.size
        elif entry.uses:
            entry.uses = 0 if is_new else entry.uses - 1
            self._main.append(entry)
        else:
            self._remove(entry)
            if is_new:
                self._remember(entry)

    def _remove(self, entry: Entry[V]) -> None:
        self.evictions += 1
        self.entries -= 1
        self.bytes -= entry.size
        entry.unit.size -= entry.size
        del entry.unit.entries[entry.what]
        if not entry.unit.entries and not entry.unit.fills:
            del self._units[entry.unit.name]

    def _remember(self, entry: Entry[V]) -> None:
        self._ghosts[entry.unit.name, entry.what] = None
        if len(self._ghosts) > self._max_entries:
            self._ghosts.popitem(last=False)

    def _lives(self, entry: Entry[V]) -> bool:
        unit = entry.unit
        return unit.entries.get(entry.what) is entry and self._units.get(unit.name) is unit

    def _sweep(self) -> None:
        """Clear the queues of what is not found any more."""
        self._small = deque(filter(self._lives, self._small))
        self._main = deque(filter(self._lives, self._main))
        self._small_entries = len(self._small)
        self._small_bytes = sum(entry.size for entry in self._small)
        self._dead_entries = self._dead_bytes = 0
