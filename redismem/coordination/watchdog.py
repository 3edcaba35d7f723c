"""Keeps the leases of held locks alive, each when a third of it has passed, until the lock is released or lost.

For threads one daemon thread serves every lock of a memory. It ends soon after the last of them, and is not in a
forked child. For tasks each lock has a task of its own, in the loop that took the lock.
"""

import asyncio
import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from redismem.op import run

LINGER: Final = 1.0
"""Seconds within which an idle thread looks whether it is still needed; starting one for every lock would cost more."""
_SHORTEST_PAUSE: Final = 0.01


class Leased(Protocol):
    """What a watchdog keeps alive."""

    @property
    def left(self) -> float:
        """Seconds that are left of the lease, by this process' clock."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the lease went."""
        ...

    def renew(self) -> Coroutine[Any, Any, None]:
        """Try once to extend the lease."""
        ...

    def lose(self) -> None:
        """The lease went; nobody will renew it."""
        ...


class Watchdog(ABC):
    """Renews leases in the background."""

    @abstractmethod
    def watch(self, leased: Leased) -> None:
        """Renew this one from now on."""

    @abstractmethod
    def forget(self, leased: Leased) -> None:
        """Renew it no more; a renewal that is on its way may still arrive."""

    @abstractmethod
    def watched(self) -> "list[Leased]":
        """All that is renewed now."""


class ThreadWatchdog(Watchdog):
    """For threads. Fork-safe: a child holds none of its parent's locks."""

    def __init__(self) -> None:
        self.restart()
        _watchdogs.add(self)

    def restart(self) -> None:
        """In a forked child: watch nothing."""
        self._due: dict[Leased, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes = math.inf

    def watch(self, leased: Leased) -> None:
        """See `Watchdog.watch`."""
        due = time.monotonic() + _pause(leased)
        with self._changed:
            self._due[leased] = due
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redismem-watchdog", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()

    def forget(self, leased: Leased) -> None:
        """See `Watchdog.forget`. The thread finds out by itself."""
        with self._changed:
            self._due.pop(leased, None)

    def watched(self) -> list[Leased]:
        """See `Watchdog.watched`."""
        with self._changed:
            return list(self._due)

    def _run(self) -> None:
        while (leased := self._next()) is not None:
            run(leased.renew())
            with self._changed:
                if leased not in self._due:
                    continue
                self._due[leased] = time.monotonic() + _pause(leased)
                if leased.lost:
                    del self._due[leased]
                    leased.lose()

    def _next(self) -> Leased | None:
        """Wait for the next renewal that is due; None when there is nothing to watch any more."""
        with self._changed:
            while self._due:
                leased = min(self._due, key=lambda each: self._due[each])
                now = time.monotonic()
                if self._due[leased] <= now:
                    self._wakes = math.inf
                    return leased
                self._wakes = min(self._due[leased], now + LINGER)
                self._changed.wait(self._wakes - now)
            self._thread = None
            return None


class TaskWatchdog(Watchdog):
    """For tasks."""

    def __init__(self) -> None:
        self._tasks: dict[Leased, asyncio.Task[None]] = {}

    def watch(self, leased: Leased) -> None:
        """See `Watchdog.watch`."""
        self._tasks[leased] = asyncio.get_running_loop().create_task(_keep(leased), name="redismem-watchdog")

    def forget(self, leased: Leased) -> None:
        """See `Watchdog.forget`."""
        if (task := self._tasks.pop(leased, None)) is not None:
            task.cancel()

    def watched(self) -> list[Leased]:
        """See `Watchdog.watched`."""
        return list(self._tasks)


async def _keep(leased: Leased) -> None:
    while not leased.lost:
        await asyncio.sleep(_pause(leased))
        try:
            async with asyncio.timeout(leased.left):  # a server that is silent must not keep the loss a secret
                await leased.renew()
        except TimeoutError:
            pass
    leased.lose()


def _pause(leased: Leased) -> float:
    """Seconds until the next try: the less is left, the sooner."""
    return max(leased.left / 3, _SHORTEST_PAUSE)


_watchdogs: weakref.WeakSet[ThreadWatchdog] = weakref.WeakSet()


def _restart_all() -> None:
    for watchdog in list(_watchdogs):
        watchdog.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
