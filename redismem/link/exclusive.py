"""A connection of the caller's own, for what blocks a connection or lives in it: BLPOP, WATCH, WAIT.

`Link.exclusive` lends one out for a block. One whose block ended well, and that is as if new, waits in a pool for the
next borrower; at any error, cancellation or exception it is closed, so no reply can reach a later borrower.
"""

import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from redismem.errors import Unavailable
from redismem.link.faults import Demoted, Fault

if TYPE_CHECKING:
    from redismem.link.base import Command, Link, Reply

MOST_IDLE: Final = 4
"""How many connections of a pool wait for another borrower; more are closed."""

_OPENS: Final = frozenset({"WATCH", "MULTI"})
_ENDS: Final = frozenset({"EXEC", "DISCARD"})


class Exclusive(ABC):
    """A connection that nobody else uses. For one thread or task at a time, inside the block that borrowed it."""

    @abstractmethod
    async def exchange(self, commands: Sequence["Command"], *, timeout: float | None = None) -> list["Reply"]:
        """Send all commands in one write and read one reply for each; error replies are items of the list.

        `timeout` is for commands that block: so many seconds more than the link's own timeout may pass before each
        reply, `math.inf` being for ever. Nothing is repeated. Raises `LinkError` when the connection breaks, which
        ends its use.
        """


class Own(Exclusive):
    """A connection to one server."""

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._usable = True
        self._state: set[Any] = set()

    async def exchange(self, commands: Sequence["Command"], *, timeout: float | None = None) -> list["Reply"]:
        """See `Exclusive.exchange`."""
        if not self._usable:
            self._link.refuse_if_closed()
            raise Unavailable(f"{self._link.endpoint.name}: the connection broke before; nothing was sent")
        self._note(commands)
        seconds = None if timeout == math.inf else self._link.patience.timeout + (timeout or 0.0)
        self._link.traffic.count_exchanges(1, len(commands))
        try:
            return await self.talk(commands, seconds)
        except Fault as fault:
            await self.close()
            self._link.refuse_if_closed()
            raise fault.as_error(self._link.endpoint.name, applied_unknown=True) from fault.cause
        except BaseException:
            await self.close()
            raise

    async def talk(self, commands: Sequence["Command"], seconds: float | None) -> list["Reply"]:
        """As `converse`; a server that is the primary no more is left for good."""
        replies = await self.converse(commands, seconds)
        if self._link.endpoint.fails_over and Demoted in map(type, replies):
            await self.close()
        return replies

    @property
    def is_as_new(self) -> bool:
        """Whether the connection works, and neither a WATCH nor a MULTI was left open."""
        return self._usable and not self._state

    @property
    def is_in_transaction(self) -> bool:
        """Whether a MULTI was left open."""
        return "MULTI" in self._state

    def disown(self) -> None:
        """In a forked child: the socket is the parent's; leave it alone."""
        self._usable = False

    async def close(self) -> None:
        """Close the connection at once, without suspending. Closing twice does no harm."""
        self._usable = False
        await self.disconnect()

    @abstractmethod
    async def converse(self, commands: Sequence["Command"], seconds: float | None) -> list["Reply"]:
        """Write the commands, read their replies. Raises `Fault` when the connection breaks or a reply is late."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Close the socket at once, without suspending."""

    @abstractmethod
    async def is_quiet(self) -> bool:
        """Whether the server has neither hung up nor sent what nobody asked for."""

    def _note(self, commands: Sequence["Command"]) -> None:
        for name, *_ in commands:
            if name in _OPENS:
                self._state.add(name)
            elif name in _ENDS:
                self._state.clear()
            elif name == "UNWATCH":
                self._state.discard("WATCH")


class Pool:
    """The exclusive connections of one link (and event loop): those lent out, and a few idle ones. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[Own] = set()
        self._idle: list[Own] = []
        self._closed = False

    async def idle(self) -> Own | None:
        """A connection that has been used before and is as good as new, if there is any; now it is lent out."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                own = self._idle.pop()
            if await own.is_quiet():
                return own
            await self.drop(own)

    async def lend(self, own: Own) -> None:
        """A new connection is lent out."""
        with self._lock:
            self._all.add(own)
            closed = self._closed
        if closed:
            await self.drop(own)

    async def take_back(self, own: Own) -> None:
        """Keep a connection for the next borrower, or close it."""
        with self._lock:
            keep = own.is_as_new and not self._closed and len(self._idle) < MOST_IDLE
            if keep:
                self._idle.append(own)
        if not keep:
            await self.drop(own)

    async def drop(self, own: Own) -> None:
        """Close a connection for good."""
        with self._lock:
            self._all.discard(own)
        await own.close()

    async def aclose(self) -> None:
        """Close every connection, also those lent out; none is kept from now on. Never suspends."""
        with self._lock:
            self._closed = True
            everyone = list(self._all)
            self._all.clear()
            self._idle.clear()
        for own in everyone:
            await own.close()

    def disown(self) -> None:
        """In a forked child: the connections are the parent's."""
        for own in self._all:
            own.disown()


Connect = Callable[[], Coroutine[Any, Any, Own]]


def lent(link: "Link", pool: Pool, connect: Connect) -> AbstractAsyncContextManager[Own]:
    """As `borrowed`, and connecting is tried for as long as the link is patient. Raises `LinkError`."""
    return borrowed(pool, functools.partial(_connected, link, connect))


@asynccontextmanager
async def borrowed(pool: Pool, connect: Connect) -> AsyncGenerator[Own]:
    """An idle connection of the pool, or a new one; it goes back when the block ends well. Raises as `connect`."""
    own = await pool.idle()
    if own is None:
        own = await connect()
        await pool.lend(own)
    try:
        yield own
    except BaseException:
        await pool.drop(own)
        raise
    await pool.take_back(own)


async def _connected(link: "Link", connect: Connect) -> Own:
    tries = None
    while True:
        link.refuse_if_closed()
        try:
            return await connect()
        except Fault as fault:
            link.refuse_if_closed()
            tries = tries or link.tries()
            if not tries.another(fault.cause):
                raise fault.as_error(link.endpoint.name, applied_unknown=False) from fault.cause
        link.traffic.count("retries")
        await link.sleep(tries.delay)
