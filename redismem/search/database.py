"""SQLite databases in memory, which do not stand in the way of forks.

SQLite has locks that all databases of a process share. A child that was forked while another thread held one would
wait for ever when it opens a database of its own. So every call into SQLite is made here, under the lock of its
database, and who forks takes all of these locks first. A child may close what it inherited, and must not use it.
"""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final


class Database:
    """One database, freed when it is forgotten. Thread-safe, statement by statement."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may fork in the middle of a statement
        with _opening:
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            _locks.add(self._lock)
            while _late:
                _late.pop().close()
        weakref.finalize(self, _forget, self._connection, self._lock)

    def execute(self, statement: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """All rows that a statement gives."""
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def executemany(self, statement: str, parameters: Iterable[tuple[Any, ...]]) -> None:
        """A statement for each of many parameters."""
        with self._lock:
            self._connection.executemany(statement, parameters)

    def close(self) -> None:
        """Free its memory."""
        with self._lock:
            self._connection.close()


_opening: Final = threading.RLock()
_locks: Final[set[threading.RLock]] = set()
_held: Final[list[threading.RLock]] = []
_late: Final[list[sqlite3.Connection]] = []


def _forget(connection: sqlite3.Connection, lock: threading.RLock) -> None:
    """Nobody uses it any more. This may come amid anything, so it does not wait while a process forks."""
    if not lock.acquire(blocking=False):
        _late.append(connection)
        return
    try:
        connection.close()
    finally:
        _locks.discard(lock)
        lock.release()


def _stop() -> None:
    _opening.acquire()
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)


def _go_on() -> None:
    while _held:
        _held.pop().release()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop, after_in_parent=_go_on, after_in_child=_go_on)
