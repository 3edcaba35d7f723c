"""Connections that ask the sentinels, each time they connect, which server is the primary.

Sentinels are asked in turn; the one that answered is asked first next time. Their answer may be old, so the server
itself is asked too (HELLO, which every user may send): one that says that it is a replica is not connected to. What
happens when a primary becomes a replica under a connection is the link's business (`redismem.link.faults.Demoted`).
"""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import redis
import redis.asyncio.connection
import redis.connection

from redismem.link.faults import Deserted

Address = tuple[str, int]
T = TypeVar("T")


class Sentinels:
    """The sentinels of one service. Thread-safe, as each step is one on a tuple.

    `options` are for connections to them; `is_allowed` says which hosts a primary may be on, None: any.
    """

    def __init__(
        self,
        service: str,
        addresses: Sequence[Address],
        options: dict[str, Any],
        is_allowed: Callable[[str], bool] | None,
    ) -> None:
        self.service = service
        self._addresses = tuple(addresses)
        self._options = options
        self._is_allowed = is_allowed

    async def lead(self, connection: Any, connect: Callable[[], Any], kind: type) -> None:
        """Connect to the primary. Raises `Deserted` if no sentinel answers, redis-py's errors otherwise."""
        patience = connection.socket_connect_timeout / (len(self._addresses) + 1)
        connection.host, connection.port = await self._primary(kind, patience)
        await settled(connect())
        try:
            await settled(connection.send_command("HELLO", check_health=False))
            said = await settled(connection.read_response())
            told = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))  # RESP3, RESP2
            if told[b"role"] != b"master":
                raise redis.ConnectionError(f"{connection.host}:{connection.port} is a replica as yet")
        except BaseException:
            await settled(connection.disconnect())
            raise

    async def _primary(self, kind: type, seconds: float) -> Address:
        """What the first sentinel says that knows the service."""
        answers, reply = 0, None
        for address in self._addresses:
            reply = await self._asked(kind, address, seconds)
            if reply is not None and not isinstance(reply, Exception):
                self._addresses = (address, *(other for other in self._addresses if other != address))
                return self._allowed(reply[0].decode(), int(reply[1]))
            answers += reply is None
        if answers:
            raise redis.ConnectionError(f"no sentinel knows a service {self.service!r}")
        raise Deserted(f"no sentinel of {self.service!r} answers: {reply}")

    async def _asked(self, kind: type, address: Address, seconds: float) -> Any:
        """One sentinel's answer: an address, None, or the error that came instead."""
        host, port = address
        waiting = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        connection: Any = kind(host=host, port=port, **self._options | waiting)
        try:
            await settled(connection.connect())
            await settled(connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service))
            return await settled(connection.read_response())
        except (redis.RedisError, OSError) as error:
            return error
        finally:
            await settled(connection.disconnect())

    def _allowed(self, host: str, port: int) -> Address:
        if self._is_allowed is not None and not self._is_allowed(host):
            raise redis.ConnectionError(
                f"the primary is on {host}, and without TLS its password and data could be read on the way; "
                "use rediss+sentinel://, or set allow_insecure=True"
            )
        return host, port


class _Blocking(redis.connection.AbstractConnection):
    """A blocking connection to the primary."""

    kind: type

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    def connect(self) -> None:
        """Connect to whatever server is the primary now."""
        if not self.is_connected:
            stepped(self._sentinels.lead(self, super().connect, self.kind))


class _Asyncio(redis.asyncio.connection.AbstractConnection):
    """An asyncio connection to the primary."""

    kind: type

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def connect(self) -> None:
        """Connect to whatever server is the primary now."""
        if not self.is_connected:
            await self._sentinels.lead(self, super().connect, self.kind)


class BlockingConnection(_Blocking, redis.connection.Connection):
    """Over TCP."""

    kind = redis.connection.Connection


class BlockingTLSConnection(_Blocking, redis.connection.SSLConnection):
    """Over TLS."""

    kind = redis.connection.SSLConnection


class AsyncioConnection(_Asyncio, redis.asyncio.connection.Connection):
    """Over TCP."""

    kind = redis.asyncio.connection.Connection


class AsyncioTLSConnection(_Asyncio, redis.asyncio.connection.SSLConnection):
    """Over TLS."""

    kind = redis.asyncio.connection.SSLConnection


BLOCKING: Final[dict[type, type[_Blocking]]] = {cls.kind: cls for cls in (BlockingConnection, BlockingTLSConnection)}
ASYNCIO: Final[dict[type, type[_Asyncio]]] = {cls.kind: cls for cls in (AsyncioConnection, AsyncioTLSConnection)}


async def settled(value: Any) -> Any:
    """What redis-py's two flavours return: one gives the value itself, the other a coroutine."""
    return await value if inspect.isawaitable(value) else value


def stepped(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a blocking connection has suspended")
