"""A connection on which a server tells which keys change: RESP3, and CLIENT TRACKING in broadcast mode.

Not with NOLOOP: that drops the notice of another client's write when a write of one's own, to the same key, comes in
the same turn of the server's event loop.

What arrives, arrives in order: an answer to `ask` says that every change from before the question was told.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import redis
from redis.asyncio.connection import DefaultParser

from redismem.errors import Busy, ServerError
from redismem.link.base import Patience
from redismem.link.endpoint import Endpoint
from redismem.link.faults import ANSWERS, Fault, server_error

_QUESTION: Final = "HELLO"
"""As good as PING, allowed to every user, and it tells the role."""


class Untold(ServerError):
    """The server will not tell of changes. It never reaches a caller."""


class Hears(Protocol):
    """Who listens."""

    def changed(self, name: str) -> None:
        """This key has changed."""

    def changed_all(self) -> None:
        """Any key may have."""


class _Parser(cast(Any, DefaultParser)):  # type: ignore[misc]
    """Gives pushes to the reader as they are."""

    async def handle_push_response(self, response: Any, **_: Any) -> Any:
        """See redis-py."""
        return response


class Changes:
    """One server's changes, for one task to listen to. `clock` gives seconds.

    `answered` is when the last question was asked that has been answered.
    """

    def __init__(self, endpoint: Endpoint, patience: Patience, clock: Callable[[], float]) -> None:
        self._endpoint = replace(endpoint, options=endpoint.options | {"protocol": 3, "parser_class": _Parser})
        self._patience = patience
        self._clock = clock
        self._asked: list[float] = []
        self._role: Any = None
        self._is_on = False
        self.answered = -math.inf

    async def listen(self, prefixes: Sequence[str], hears: Hears, answered: Callable[[], object]) -> None:
        """Connect, and tell of changes to keys with one of these prefixes until the connection breaks.

        Raises `Fault`; `Untold` if the server does not do this; other `LinkError`.
        """
        try:
            connection = self._connection = await self._connect()
            try:
                chosen = [word for prefix in prefixes for word in ("PREFIX", prefix)]
                await self._command("CLIENT", "TRACKING", "ON", "BCAST", *chosen)
                self._is_on = True
                await self.ask()
                while True:
                    self._heard(await self._read(), hears, answered)
            finally:
                self._is_on = False
                await connection.disconnect(nowait=True)
        except (redis.RedisError, OSError, TypeError) as error:
            raise Fault(error, unsent=False) from error

    async def ask(self) -> None:
        """Ask something that the server answers behind all that it has to tell by now. Raises `Fault`."""
        now = self._clock()
        if self._asked and now - self._asked[0] > self._patience.timeout:
            raise Fault(redis.TimeoutError(f"no answer for {self._patience.timeout:g} s"), unsent=False)
        if self._is_on:
            self._asked.append(now)
            try:
                await self._connection.send_command(_QUESTION)
            except (redis.RedisError, OSError) as error:
                raise Fault(error, unsent=False) from error

    async def _connect(self) -> Any:
        self._endpoint.prepare()
        connection = self._endpoint.asyncio_connection(self._patience.connect_timeout)
        try:
            async with asyncio.timeout(self._patience.connect_timeout):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _command(self, *command: str) -> None:
        async with asyncio.timeout(self._patience.timeout):
            await self._connection.send_command(*command)
            try:
                await self._read()
            except ANSWERS as answer:
                error = server_error(answer, command)
                raise error if isinstance(error, Busy) else Untold(str(error)) from None

    async def _read(self) -> Any:
        return await self._connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)

    def _heard(self, message: Any, hears: Hears, answered: Callable[[], object]) -> None:
        if isinstance(message, list):
            if message[0] == b"invalidate":
                _tell(message[1], hears)
            return
        role = message[b"role"]
        if self._role not in (None, role):
            raise redis.ConnectionError(f"the server has become a {role.decode()}")
        self._role = role
        self.answered = self._asked.pop(0)
        answered()


def _tell(names: "list[bytes] | None", hears: Hears) -> None:
    if names is None:
        hears.changed_all()
        return
    for name in names:
        hears.changed(name.decode(errors="replace"))
