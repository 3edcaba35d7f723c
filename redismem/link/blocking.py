"""The blocking link: one connection for each thread, made when the thread first needs it.

Threads share nothing but counters, so they never wait for each other. A forked child forgets its parent's
connections without touching the sockets that they share, and makes its own. A thread's connection is closed when the
thread ends or the link is closed.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, cast

import redis
from redis.connection import AbstractConnection
from redis.utils import SENTINEL

from redismem.errors import LinkError
from redismem.link.base import Command, Link, Patience, Reply, Traffic, packed
from redismem.link.endpoint import Endpoint
from redismem.link.exclusive import Own, Pool, lent
from redismem.link.faults import ANSWERS, Demoted, Fault, server_error

_BROKEN = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)


class BlockingLink(Link):
    """Thread-safe and fork-safe. Its coroutines never suspend."""

    def __init__(self, endpoint: Endpoint, patience: Patience, traffic: Traffic | None = None) -> None:
        super().__init__(endpoint, patience, traffic)
        self._pinned = threading.local()
        self._connections: weakref.WeakSet[AbstractConnection] = weakref.WeakSet()
        self._pool = Pool()
        _links.add(self)

    async def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> list[Reply]:
        """See `Link.exchange`."""
        connection = self.connected(fresh=fresh)
        try:
            self.send(connection, commands)
            self._work(connection)
            return self.receive(connection, commands, blocks=blocks)
        except BaseException as error:
            connection.disconnect()  # an interrupt may have left replies unread: no later caller may get them
            raise broken(error) from None

    def send(self, connection: AbstractConnection, commands: Sequence[Command]) -> None:
        """The first half of an exchange. If the second does not come to its end, the caller closes the connection."""
        self.traffic.count_exchanges(1, len(commands))
        connection.send_packed_command(packed(commands), check_health=False)

    def receive(self, connection: AbstractConnection, commands: Sequence[Command], *, blocks: float) -> list[Reply]:
        """The second half of an exchange: one reply for each command."""
        timeout = self.patience.timeout + blocks if blocks else SENTINEL
        replies = [_reply(connection, command, timeout) for command in commands]
        if self.endpoint.fails_over and Demoted in map(type, replies):
            connection.disconnect()  # the next call looks for the primary
        return replies

    @contextmanager
    def meanwhile(self, work: Callable[[], None] | None) -> Generator[None]:
        """See `Link.meanwhile`."""
        self._pinned.work = work
        try:
            yield
        finally:
            self._pinned.work = None

    def _work(self, connection: AbstractConnection) -> None:
        """Do what is to be done meanwhile. Should that make a call, it has a connection of its own."""
        work: Callable[[], None] | None = getattr(self._pinned, "work", None)
        if work is None:
            return
        self._pinned.work = self._pinned.connection = None
        try:
            work()
        finally:
            if self._pinned.connection is not None:
                self._pinned.connection.disconnect()
            self._pinned.connection = connection

    def exclusive(self, key: str) -> AbstractAsyncContextManager[Own]:
        """See `Link.exclusive`. Threads share one pool."""
        return lent(self, self._pool, self._own)

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        time.sleep(seconds)

    async def aclose(self) -> None:
        """See `Link.aclose`."""
        self.closed = True
        for connection in list(self._connections):
            with suppress(ValueError):  # fakeredis, while another thread reads
                connection.disconnect()
        await self._pool.aclose()
        self.endpoint.close()

    def forget(self) -> None:
        """In a forked child: start anew, leaving the parent's sockets alone."""
        self.traffic.restart()
        self._pinned = threading.local()
        self._connections = weakref.WeakSet()
        self._pool.disown()
        self._pool = Pool()

    async def _own(self) -> Own:
        connection = self.endpoint.blocking_connection(self.patience.timeout, self.patience.connect_timeout)
        self._connect(connection)
        return _ThreadsOwn(self, connection)

    def connected(self, *, fresh: bool) -> AbstractConnection:
        """This thread's connection; `fresh`: known to be alive. Raises `Fault`, `LinkClosed`."""
        connection: AbstractConnection | None = getattr(self._pinned, "connection", None)
        if connection is None:
            connection = self._new_connection()
        elif connection.is_connected and not self.closed and not (fresh and _is_dead(connection)):
            return connection
        self.refuse_if_closed()
        self._connect(connection)
        return connection

    def _new_connection(self) -> AbstractConnection:
        self.refuse_if_closed()
        patience = self.patience
        connection = self.endpoint.blocking_connection(patience.timeout, patience.connect_timeout)
        self._pinned.connection = connection
        self._connections.add(connection)
        return connection

    def _connect(self, connection: AbstractConnection) -> None:
        try:
            self.endpoint.prepare()
            connection.connect()
        except (LinkError, redis.RedisError, OSError) as error:
            connection.disconnect()
            raise Fault(error, unsent=True) from None
        except BaseException:
            connection.disconnect()  # an interrupt in the handshake leaves replies unread, as below
            raise
        self.traffic.count("connects")


class _ThreadsOwn(Own):
    def __init__(self, link: BlockingLink, connection: AbstractConnection) -> None:
        super().__init__(link)
        self._connection = connection

    async def converse(self, commands: Sequence[Command], seconds: float | None) -> list[Reply]:
        """See `Exclusive.converse`."""
        try:
            self._connection.send_packed_command(packed(commands), check_health=False)
            return [_reply(self._connection, command, timeout=seconds) for command in commands]
        except _BROKEN as error:
            raise Fault(error, unsent=False) from None

    async def disconnect(self) -> None:
        """See `Exclusive.disconnect`."""
        self._connection.disconnect()

    async def is_quiet(self) -> bool:
        """See `Exclusive.is_quiet`."""
        return not _is_dead(self._connection)


_links: weakref.WeakSet[BlockingLink] = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_links):
        link.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def broken(error: BaseException) -> BaseException:
    """What went wrong under an exchange: a `Fault`, if the connection did."""
    return Fault(error, unsent=False) if isinstance(error, _BROKEN) else error


def _reply(connection: AbstractConnection, command: Command, timeout: float | object | None = SENTINEL) -> Any:
    try:
        return connection.read_response(disconnect_on_error=False, timeout=cast(float, timeout))
    except ANSWERS as error:
        return server_error(error, command)


def _is_dead(connection: AbstractConnection) -> bool:
    """Whether the server has hung up, or left something that nobody asked for."""
    try:
        dead = connection.can_read(timeout=0)
    except (*_BROKEN, TypeError, ValueError, AttributeError):  # another thread closes it just now
        dead = True
    if dead:
        connection.disconnect()
    return dead
