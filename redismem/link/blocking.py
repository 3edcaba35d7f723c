"""The blocking link: one connection for each thread, made when the thread first needs it.

Threads share nothing but counters, so they never wait for each other. A forked child forgets its parent's
connections without touching the sockets that they share, and makes its own. A thread's connection is closed when the
thread ends or the link is closed.
"""

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import redis
from redis.connection import AbstractConnection

from redismem.errors import LinkError
from redismem.link.base import Command, Link, Patience, Reply, Traffic, packed
from redismem.link.endpoint import Endpoint
from redismem.link.faults import ANSWERS, Fault, server_error

_BROKEN = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)


class BlockingLink(Link):
    """Thread-safe and fork-safe. Its coroutines never suspend."""

    def __init__(self, endpoint: Endpoint, patience: Patience) -> None:
        super().__init__(endpoint, patience)
        self._pinned = threading.local()
        self._connections: weakref.WeakSet[AbstractConnection] = weakref.WeakSet()
        _links.add(self)

    async def exchange(self, commands: Sequence[Command], *, fresh: bool) -> list[Reply]:
        """See `Link.exchange`."""
        connection = self._connected(check=fresh)
        self.traffic.count_exchanges(1, len(commands))
        try:
            connection.send_packed_command(packed(commands), check_health=False)
            return [_reply(connection, command) for command in commands]
        except _BROKEN as error:
            connection.disconnect()
            raise Fault(error, unsent=False) from None
        except BaseException:
            connection.disconnect()  # an interrupt may have left replies unread: no later caller may get them
            raise

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        time.sleep(seconds)

    async def aclose(self) -> None:
        """See `Link.aclose`."""
        self.closed = True
        for connection in list(self._connections):
            connection.disconnect()
        self.endpoint.close()

    def forget(self) -> None:
        """In a forked child: start anew, leaving the parent's sockets alone."""
        self.traffic = Traffic()
        self._pinned = threading.local()
        self._connections = weakref.WeakSet()

    def _connected(self, *, check: bool) -> AbstractConnection:
        connection: AbstractConnection | None = getattr(self._pinned, "connection", None)
        if connection is None:
            connection = self._new_connection()
        elif connection.is_connected and not (check and _is_dead(connection)):
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


_links: weakref.WeakSet[BlockingLink] = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_links):
        link.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _reply(connection: AbstractConnection, command: Command) -> Any:
    try:
        return connection.read_response(disconnect_on_error=False)
    except ANSWERS as error:
        return server_error(error, command)


def _is_dead(connection: AbstractConnection) -> bool:
    """Whether the server has hung up, or left something that nobody asked for."""
    try:
        dead = connection.can_read(timeout=0)
    except _BROKEN:
        dead = True
    if dead:
        connection.disconnect()
    return dead
