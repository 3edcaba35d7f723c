"""Locks: one writer or many readers at a time, first come first served, among all processes.

Contract
    ``with memory.lock("42") as lock:`` waits for its turn and holds the user's lock until the block ends. The order is
    that of arrival, for readers (``shared=True``) and writers alike, so neither starves; readers that stand next to
    each other hold it together. The one who leaves hands the lock over, in the same script, to whoever is next, and
    wakes nobody else.
    A lock is held for a lease, which a watchdog renews while the process lives. One that dies, or is stopped for
    longer, delays the others by at most its lease; one that dies while it waits is passed over.
    A lock is a hint: who was stopped may believe to hold it still. What makes it safe is the fencing token: pass
    ``fence=lock`` to writes, and the server refuses those of an earlier holder (`StaleFence`).

Round trips
    One to take a free lock and one to give it back; one more and a blocked one to wait; one for each renewal, at a
    third of the lease. Each script is atomic, by the server's clock. Calls are repeated after a connection fault:
    taking a lock twice is taking it once, and one that was given back unacknowledged is not reported as lost.

Errors
    `LockTimeout` from ``with`` when others held it for ``wait`` seconds, `LockLost` when the lease went while the
    block ran (an asyncio block is cancelled at once), `LockError` for wrong use, `LinkError` when the server is away.
"""

import asyncio
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Hashable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

from redismem.coordination.fence import Fence
from redismem.coordination.watchdog import TaskWatchdog, ThreadWatchdog, Watchdog
from redismem.errors import (
    AuthenticationFailed,
    InvalidTTL,
    LinkClosed,
    LinkError,
    LockError,
    LockLost,
    LockTimeout,
    PermissionDenied,
    Timeout,
    Unavailable,
    WrongType,
)
from redismem.keys import Keys
from redismem.link.base import Argument, Link, Reply, only
from redismem.op import Asyncio, Blocking, op
from redismem.scripts import script
from redismem.ttl import milliseconds

_LASTING: Final = (AuthenticationFailed, LinkClosed, PermissionDenied, WrongType)
"""Errors of a blocked wait that asking again would not mend."""
_SHORTEST_WAIT: Final = 0.001  # BLPOP takes 0 for ever


@dataclass(frozen=True, slots=True)
class LockState:
    """A lock that a memory holds, or waits for."""

    user_id: str
    name: str
    shared: bool
    """Whether as a reader."""
    token: int | None = None
    """The fencing token; None: it waits."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Since when it has been held, or waited for: UTC, by this process' clock."""


class Grant:
    """One time that a lock is held: by whom, until when as this process knows, and its token."""

    def __init__(
        self, place: "Place", who: Hashable, owner: str, shared: bool, lease: float, token: int, ends: float
    ) -> None:
        self._place = place
        self.who = who
        self.owner = owner
        self.shared = shared
        self.lease = lease
        self.fence = Fence(place.fence_key, token)
        self.state = LockState(place.user_id, place.name, shared, token)
        self.ends = ends
        self.depth = 1
        self.process = os.getpid()
        self._went = False
        self.on_loss: Callable[[], object] | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease went, as far as this process can know."""
        return self._went or self.left <= 0

    @property
    def left(self) -> float:
        """See `Leased.left`."""
        return self.ends - time.monotonic()

    async def renew(self) -> None:
        """See `Leased.renew`."""
        asked = time.monotonic()
        try:
            lease = milliseconds(self.lease)
            reply = await self._place.call("lock_renew", self.owner, self.owner, lease, retry=False)
        except LinkClosed:
            self._went = True
            return
        except LinkError:  # the watchdog tries again while any of the lease is left
            return
        if reply[0] == b"OK":
            self.ends = asked + self.lease
        else:
            self._went = True

    def lose(self) -> None:
        """See `Leased.lose`."""
        self._went = True
        if self.on_loss is not None:
            self.on_loss()

    async def give_back(self) -> None:
        """Let the next one have it. Raises `LockLost` if the lease had gone."""
        lost, self.on_loss = self.lost, None
        try:
            reply = await self._place.leave(self.owner, retry=False)
        except (Unavailable, Timeout):  # perhaps done: then a second time finds nothing, which is no loss
            reply = await self._place.leave(self.owner)
            reply = reply if lost else [b"OK"]
        if lost or reply[0] != b"OK":
            raise LockLost(
                f"{self._place.key}: the lease of {self.lease:g} s went before the lock was released, and others may "
                "have held it since; pass fence=lock to writes, and give a longer lease if the work needs it"
            )


class Place:
    """The keys of one lock, and how its scripts are called."""

    def __init__(self, link: Link, keys: Keys, user_id: str, name: str) -> None:
        self.link = link
        self.user_id = user_id
        self.name = name
        self.key = keys.lock(user_id, name)
        self.fence_key = keys.lock_fence(user_id, name)
        self._keys = (self.key, keys.lock_queue(user_id, name), keys.lock_waiting(user_id, name), self.fence_key)
        self._wake: Callable[[str], str] = lambda owner: keys.lock_wake(user_id, name, owner)

    async def call(self, verb: str, owner: str, *arguments: Argument, retry: bool = True) -> Reply:
        """Run a script of the lock for this owner."""
        tier = (self.link.known or await self.link.features()).tier
        return await script(verb, tier)(self.link, (*self._keys, self._wake(owner)), arguments, retry=retry)

    async def leave(self, owner: str, *, retry: bool = True) -> Reply:
        """Give the lock, or the place in its queue, back."""
        return await self.call("lock_release", owner, owner, retry=retry)

    async def turn(self, owner: str, seconds: float) -> tuple[int, float] | None:
        """Wait to be woken: the token, and when the lease ends by this process' clock; None if nobody did."""
        seconds = max(seconds, _SHORTEST_WAIT)
        try:
            async with self.link.exclusive(self.key) as own:
                commands = ("BLPOP", self._wake(owner), f"{seconds:.3f}"), ("TIME",)
                asked = time.monotonic()
                woken, clock = only(await own.exchange(commands, timeout=seconds))
        except _LASTING:
            raise
        except LinkError:  # asking for the lock again will tell whether the server is away
            await self.link.sleep(self.link.patience.delay(1))
            return None
        if woken is None:
            return None
        token, ends = map(int, woken[1].split())
        # Counted from the question: whoever is stopped before it reads the answer must not think that it came just now.
        ends_here = asked + ends / 1000 - (int(clock[0]) + int(clock[1]) / 1_000_000)
        return (token, ends_here) if ends_here > time.monotonic() else None


class Locks:
    """What the locks of one memory share."""

    def __init__(self, link: Link, keys: Keys, watchdog: Watchdog) -> None:
        self.link = link
        self.keys = keys
        self.watchdog = watchdog
        self.held: dict[Hashable, Grant] = {}
        """Grants that their thread or task may take again."""
        self._waiting: dict[tuple[int, str], LockState] = {}

    @contextmanager
    def waiting(self, owner: str, state: LockState) -> Generator[None]:
        """It is being taken while the block runs."""
        key = os.getpid(), owner
        self._waiting[key] = state
        try:
            yield
        finally:
            del self._waiting[key]

    def states(self) -> tuple[LockState, ...]:
        """What this memory holds or waits for in this process; no round trip."""
        process, held = os.getpid(), cast("list[Grant]", self.watchdog.watched())
        waiting = [state for (asking, _), state in list(self._waiting.items()) if asking == process]
        return (*(grant.state for grant in held if grant.process == process and not grant.lost), *waiting)

    def forget(self, grant: Grant) -> None:
        """It is about to be given back, whoever does that."""
        if self.held.get(grant.who) is grant:
            del self.held[grant.who]
        self.watchdog.forget(grant)


class LockOperations:
    """Every operation on a lock, written once. `Lock` and `AsyncLock` are what callers use.

    ``lease`` and ``wait`` are seconds; ``wait=None`` waits for ever and ``wait=0`` not at all. ``reentrant`` lets the
    thread or task that holds the lock take it again; it is given back with the last of them.
    """

    def __init__(
        self,
        locks: Locks,
        user_id: str,
        name: str,
        *,
        lease: float,
        wait: float | None,
        shared: bool,
        reentrant: bool,
    ) -> None:
        if type(lease) not in (int, float):
            raise InvalidTTL(f"lease {lease!r}: give a number of seconds")
        milliseconds(lease)  # refuses what is no time
        if wait is not None and (type(wait) not in (int, float) or not wait >= 0):
            raise LockError(f"wait {wait!r}: give seconds, 0 to try once, or None to wait for ever")
        self._locks = locks
        self._place = Place(locks.link, locks.keys, user_id, name)
        self._lease = lease
        self._wait = wait
        self._shared = shared
        self._reentrant = reentrant
        self._grant: Grant | None = None
        self._taking = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place.key} {'free' if self._grant is None else 'held'}>"

    @property
    def fence(self) -> Fence:
        """What a write takes as ``fence=``. Raises `LockError` while the lock is not held."""
        return self._held().fence

    @property
    def token(self) -> int:
        """The fencing token: greater than that of every grant before. Raises `LockError` while it is not held."""
        return self.fence.token

    @property
    def lost(self) -> bool:
        """Whether the lease went while the lock was held, as far as this process can know; no round trip."""
        return self._grant is not None and self._grant.lost

    def check(self) -> None:
        """Raises `LockLost` if the lease went, `LockError` if the lock is not held; no round trip."""
        if self._held().lost:
            raise LockLost(f"{self._place.key}: the lease of {self._lease:g} s went; stop, and take the lock again")

    @op
    async def locked(self) -> bool:
        """Whether anybody holds the lock now, in any process; one round trip."""
        return bool(await self._locks.link.execute("HLEN", self._place.key))

    @op
    async def acquire(self) -> bool:
        """Take the lock; False when others held it for all of ``wait``. Interrupted, it leaves nothing behind."""
        if self._grant is not None or not self._taking.acquire(blocking=False):
            raise LockError(f"{self._place.key}: this object holds the lock already; make one for each use")
        try:
            return await self._acquire()
        finally:
            self._taking.release()

    async def _acquire(self) -> bool:
        if self._grant is not None:
            raise LockError(f"{self._place.key}: this object holds the lock already; make one for each use")
        if self._reentrant and self._enter_again():
            return True
        owner = secrets.token_hex(8)
        try:
            with self._locks.waiting(owner, LockState(self._place.user_id, self._place.name, self._shared)):
                taken = await self._take(owner)
        except BaseException:
            await self._soon(self._leave(owner))
            raise
        if taken is None:
            if self._wait:
                await self._surely(self._leave(owner))
            return False
        token, ends = taken
        self._grant = Grant(self._place, self._who(), owner, self._shared, self._lease, token, ends)
        if self._reentrant:
            self._locks.held[self._grant.who] = self._grant
        self._locks.watchdog.watch(self._grant)
        return True

    @op
    async def release(self) -> None:
        """Give the lock back. Raises `LockLost` if the lease had gone, `LockError` if it is not held."""
        grant, self._grant = self._held(), None
        grant.depth -= 1
        if grant.depth:
            return
        self._locks.forget(grant)
        await self._surely(grant.give_back())

    def _held(self) -> Grant:
        if self._grant is None or self._grant.process != os.getpid():
            raise LockError(f"{self._place.key}: the lock is not held by this object in this process")
        return self._grant

    def _enter_again(self) -> bool:
        grant = self._locks.held.get(self._who())
        if grant is None or grant.process != os.getpid() or grant.lost:
            return False
        if grant.shared and not self._shared:
            raise LockError(f"{self._place.key}: held as a reader; release it before you take it as a writer")
        grant.depth += 1
        self._grant = grant
        return True

    async def _take(self, owner: str) -> tuple[int, float] | None:
        """The token, and when the lease ends by this process' clock; None if others had it all the time."""
        until = math.inf if self._wait is None else time.monotonic() + self._wait
        mode, lease = "r" if self._shared else "w", milliseconds(self._lease)
        while True:
            asked = time.monotonic()
            reply = await self._place.call("lock_acquire", owner, owner, mode, lease, int(until > asked))
            if reply[0] == b"HELD":
                return int(reply[1]), asked + int(reply[2]) / 1000
            left = until - time.monotonic()
            if reply[0] == b"BUSY" or left <= 0:
                return None
            if woken := await self._place.turn(owner, min(int(reply[1]) / 1000, left)):
                return woken
            if time.monotonic() >= until:
                return None

    async def _leave(self, owner: str) -> None:
        with suppress(LinkError):  # then its entry ends with its lease
            await self._place.leave(owner, retry=False)

    def _timed_out(self) -> LockTimeout:
        return LockTimeout(f"{self._place.key}: others held the lock for {self._wait:g} s; wait longer, or try later")

    def _who(self) -> Hashable:
        """The thread or task that calls, and the lock."""
        raise NotImplementedError

    async def _surely(self, ending: Coroutine[Any, Any, None]) -> None:
        """Bring something to its end even if the caller is cancelled meanwhile."""
        raise NotImplementedError

    async def _soon(self, ending: Coroutine[Any, Any, None]) -> None:
        """The same, without waiting for it where that can be."""
        await self._surely(ending)


class Lock(LockOperations, Blocking):
    """A lock for threads: ``with memory.lock("42") as lock:``."""

    def __enter__(self) -> Self:
        if not self.acquire():
            raise self._timed_out()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            with suppress(LockError, LinkError):  # the block's own error matters more
                self.release()

    def _who(self) -> Hashable:
        return threading.current_thread(), self._place.key  # not its number, which a later thread may get

    async def _surely(self, ending: Coroutine[Any, Any, None]) -> None:
        await ending


class AsyncLock(LockOperations, Asyncio):
    """A lock for tasks: ``async with memory.lock("42") as lock:``. A block whose lease goes is cancelled."""

    _task: "asyncio.Task[Any]"
    _cancelling = 0
    _cancelled = False

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise self._timed_out()
        self._task, grant = _this_task(), self._held()
        self._cancelling, self._cancelled = self._task.cancelling(), False
        if grant.on_loss is None:  # else an outer block of the same task will be cancelled, and this one with it
            grant.on_loss = self._cancel
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        problem: BaseException | None = None
        if self._grant is not None and self._grant.on_loss == self._cancel:
            self._grant.on_loss = None  # the grant may outlive this block, if the task had it before
        try:
            await self.release()
        except (LockError, LinkError, asyncio.CancelledError) as raised:
            problem = raised
        cancelled = kind is asyncio.CancelledError or isinstance(problem, asyncio.CancelledError)
        if self._cancelled and _this_task().uncancel() <= self._cancelling and cancelled:
            raise LockLost(
                f"{self._place.key}: the lease of {self._lease:g} s went, so the block was cancelled"
            ) from error
        if problem is not None and (kind is None or isinstance(problem, asyncio.CancelledError)):
            raise problem  # an error of the block matters more than one of the lock

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()

    def _who(self) -> Hashable:
        return _this_task(), self._place.key

    async def _surely(self, ending: Coroutine[Any, Any, None]) -> None:
        await asyncio.shield(_ending(ending))

    async def _soon(self, ending: Coroutine[Any, Any, None]) -> None:
        _ending(ending)


def _ending(ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    task = asyncio.get_running_loop().create_task(ending, name="redismem-release")
    _endings.add(task)
    task.add_done_callback(_endings.discard)
    return task


def _this_task() -> "asyncio.Task[Any]":
    return cast("asyncio.Task[Any]", asyncio.current_task())


_endings: set["asyncio.Task[None]"] = set()


def thread_locks(link: Link, keys: Keys) -> Locks:
    """For the blocking flavour."""
    return Locks(link, keys, ThreadWatchdog())


def task_locks(link: Link, keys: Keys) -> Locks:
    """For the asyncio flavour."""
    return Locks(link, keys, TaskWatchdog())
