"""The asyncio link: one connection for each event loop, shared by all of its tasks.

Commands issued in one tick of the loop leave in one write. Replies resolve in the order of the commands. A caller that
is cancelled before the write sends nothing; one cancelled after it leaves a call whose reply is read and dropped, so
no reply can ever reach another caller.

What waits is bounded: beyond ``MAX_CALLS`` calls or ``MAX_BYTES`` bytes, callers wait for room. A reply that is late
by the link's timeout breaks the connection, since every later reply waits behind it; the next call connects anew.

Tasks live in the loop that uses them and end with it; making a link needs no loop. Any number of loops, in any number
of threads, may use one link.
"""

import asyncio
import functools
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import redis
from redis.asyncio.connection import AbstractConnection

from redismem.errors import LinkClosed
from redismem.link.base import Command, Link, Patience, Reply, Traffic, packed
from redismem.link.endpoint import Endpoint
from redismem.link.exclusive import Own, Pool, borrowed, lent
from redismem.link.faults import ANSWERS, Demoted, Fault, server_error
from redismem.link.features import Features

T = TypeVar("T")

MAX_CALLS: Final = 16_384
MAX_BYTES: Final = 64 * 1024 * 1024


class AsyncLink(Link):
    """Task-safe, thread-safe (a channel for each loop) and fork-safe."""

    def __init__(self, endpoint: Endpoint, patience: Patience, traffic: Traffic | None = None) -> None:
        super().__init__(endpoint, patience, traffic)
        self._channels: dict[asyncio.AbstractEventLoop, _Channel] = {}
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _abandon, self._channels)
        self._finalizer.atexit = False
        _links.add(self)

    def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> Awaitable[list[Reply]]:
        """See `Link.exchange`. The channel's reader notices a dead connection at once, so `fresh` asks nothing more.

        What blocks has a connection of its own, so that it holds nobody else up.
        """
        if blocks:
            return self._exchange_alone(commands, blocks)
        channel = self._channel()
        return self._exchange_later(channel, commands) if channel.is_full() else channel.submit(commands)

    async def features(self) -> Features:
        """See `Link.features`: tasks that need the answer at once ask together, once for each loop."""
        if (known := self.known) is not None:
            return known
        async with self._channel().asking:
            return await super().features()

    def exclusive(self, key: str) -> AbstractAsyncContextManager[Own]:
        """See `Link.exclusive`. Each event loop has a pool."""
        channel = self._channel()
        return lent(self, channel.pool, functools.partial(self._own, channel))

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        await asyncio.sleep(seconds)

    async def offload(self, work: Callable[[], T]) -> T:
        """See `Link.offload`."""
        return await asyncio.to_thread(work)

    async def aclose(self) -> None:
        """Close the connections of every loop. Calls that wait, and calls from now on, raise `LinkClosed`."""
        self.closed = True
        with self._lock:
            channels = list(self._channels.items())
            self._channels.clear()
        here = asyncio.get_running_loop()
        for loop, channel in channels:
            if loop is here:
                await channel.aclose()
            else:
                _abort(loop, channel)
        await asyncio.to_thread(self.endpoint.close)

    def forget(self) -> None:
        """In a forked child: the parent's loops do not run here; keep their channels unused and untouched."""
        _inherited.append(self._channels)
        for channel in self._channels.values():
            channel.pool.disown()
        self._finalizer.detach()
        self.traffic.restart()
        self._lock = threading.Lock()
        self._channels = {}

    async def _exchange_later(self, channel: "_Channel", commands: Sequence[Command]) -> list[Reply]:
        while channel.is_full():
            await channel.room()
        return await channel.submit(commands)

    async def _exchange_alone(self, commands: Sequence[Command], blocks: float) -> list[Reply]:
        self.traffic.count_exchanges(1, len(commands))
        channel = self._channel()
        async with borrowed(channel.pool, functools.partial(self._own, channel)) as own:
            return await own.talk(commands, self.patience.timeout + blocks)

    async def _own(self, channel: "_Channel") -> Own:
        try:
            return _TasksOwn(self, await channel.dial())
        except Exception as error:  # as for a channel: whatever it is, it is the caller's
            raise Fault(error, unsent=True) from None

    def _channel(self) -> "_Channel":
        """The running loop's channel."""
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        return channel if channel is not None and not channel.closing else self._new_channel(loop)

    def _new_channel(self, loop: asyncio.AbstractEventLoop) -> "_Channel":
        self.refuse_if_closed()
        with self._lock:
            for other in [other for other in self._channels if other.is_closed()]:
                del self._channels[other]
            channel = self._channels[loop] = _Channel(self.endpoint, self.patience, self.traffic)
            return channel


def _abort(loop: asyncio.AbstractEventLoop, channel: "_Channel") -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(channel.stop)


def _abandon(channels: "dict[asyncio.AbstractEventLoop, _Channel]") -> None:
    for loop, channel in channels.items():
        _abort(loop, channel)


_links: weakref.WeakSet[AsyncLink] = weakref.WeakSet()
_inherited: list[object] = []


def _forget_all() -> None:
    for link in list(_links):
        link.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _TasksOwn(Own):
    def __init__(self, link: AsyncLink, connection: AbstractConnection) -> None:
        super().__init__(link)
        self._connection = connection

    async def converse(self, commands: Sequence[Command], seconds: float | None) -> list[Reply]:
        """See `Exclusive.converse`."""
        try:
            await self._connection.send_packed_command(packed(commands), check_health=False)
            replies: list[Reply] = []
            for command in commands:
                async with asyncio.timeout(seconds):
                    replies.append(await _reply(self._connection, command))
            return replies
        except (redis.RedisError, OSError) as error:
            raise Fault(error, unsent=False) from None

    async def disconnect(self) -> None:
        """See `Exclusive.disconnect`."""
        await self._connection.disconnect(nowait=True)

    async def is_quiet(self) -> bool:
        """See `Exclusive.is_quiet`."""
        try:
            return not await self._connection.can_read()
        except (redis.RedisError, OSError):
            return False


async def _reply(connection: AbstractConnection, command: Command) -> Reply:
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except ANSWERS as error:
        return server_error(error, command)


class _Call:
    """Commands of one caller: written together, answered together."""

    __slots__ = ("commands", "future", "pieces", "replies", "size")

    def __init__(self, commands: Sequence[Command], future: "asyncio.Future[list[Reply]]") -> None:
        self.commands = commands
        self.pieces = packed(commands)
        self.size = len(self.pieces[0]) if len(self.pieces) == 1 else sum(map(len, self.pieces))
        self.future = future
        self.replies: list[Reply] = []

    def take(self, reply: Reply) -> bool:
        """Keep one reply; true when it was the last."""
        self.replies.append(reply)
        if len(self.replies) < len(self.commands):
            return False
        if not self.future.done():
            self.future.set_result(self.replies)
        return True

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Channel:
    """One connection of one event loop, and the tasks that write to it and read from it.

    ``_waiting`` holds the calls that are not yet written, ``_flying`` those whose replies are due, oldest first.
    """

    def __init__(self, endpoint: Endpoint, patience: Patience, traffic: Traffic) -> None:
        self._endpoint = endpoint
        self._patience = patience
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Call] = deque()
        self._flying: deque[_Call] = deque()
        self._bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._wake = asyncio.Event()
        self.asking = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._demoted = False
        self.closing = False
        self.pool = Pool()

    def submit(self, commands: Sequence[Command]) -> "asyncio.Future[list[Reply]]":
        """Write the commands with those of the same tick; the future gives their replies or a `Fault`."""
        if self.closing:
            raise LinkClosed(f"{self._endpoint.name}: the memory was closed while the call waited")
        call = _Call(commands, self._loop.create_future())
        self._waiting.append(call)
        self._bytes += call.size
        self._wake.set()
        self._keep_running()
        return call.future

    async def dial(self) -> AbstractConnection:
        """A connection for the channel's pool, which ends with the channel."""
        self._keep_running()
        return await self._connect()

    def _keep_running(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = self._loop.create_task(self._run(), name="redismem-channel")

    def stop(self) -> None:
        """End the channel's tasks soon; every call fails with `LinkClosed`."""
        self.closing = True
        if self._writer is not None:
            self._writer.cancel()

    async def aclose(self) -> None:
        """`stop`, and wait until the connection is closed."""
        self.stop()
        if self._writer is not None:
            await asyncio.wait([self._writer])

    # --- room -------------------------------------------------------------------------------------------------------

    def is_full(self) -> bool:
        """Whether a caller has to wait."""
        return len(self._waiting) + len(self._flying) >= MAX_CALLS or self._bytes > MAX_BYTES

    def room(self) -> "asyncio.Future[None]":
        """Done when there may be room; look again."""
        room = self._loop.create_future()
        self._room.append(room)
        return room

    def _done_with(self, call: _Call) -> None:
        self._bytes -= call.size
        if self._room:
            self._make_room()

    def _make_room(self) -> None:
        idle = not self._waiting and not self._flying  # then nobody else would wake those who wait
        while self._room and not self.is_full():
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                if not idle:
                    return

    # --- the connection's life --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Serve calls until the loop or the link ends; connect whenever there is something to send."""
        try:
            while True:
                await self._wake.wait()
                try:
                    connection = await self._connect()
                except Exception as error:  # whatever it is, it is every caller's
                    self._fail_all(error)
                else:
                    await self._serve(connection)
        except BaseException:
            self.closing = True
            self._fail_all(LinkClosed(f"{self._endpoint.name}: the memory or its event loop was closed"))
            await self.pool.aclose()
            raise

    async def _connect(self) -> AbstractConnection:
        if self._endpoint.server is not None:
            await asyncio.to_thread(self._endpoint.prepare)
        connection = self._endpoint.asyncio_connection(self._patience.connect_timeout)
        try:
            async with asyncio.timeout(self._patience.connect_timeout):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._traffic.count("connects")
        return connection

    async def _serve(self, connection: AbstractConnection) -> None:
        """Write and read until the connection breaks; then every call in flight fails."""
        self._demoted = False
        reader = self._loop.create_task(self._read(connection), name="redismem-reader")
        writer = self._loop.create_task(self._write(connection), name="redismem-writer")
        watchdog = self._loop.create_task(self._watch(), name="redismem-watchdog")
        tasks = (reader, writer, watchdog)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await connection.disconnect(nowait=True)
            errors = [end for end in ends if isinstance(end, Exception)]
            self._fail_flying(errors[0] if errors else redis.ConnectionError("connection closed"))

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wake.wait()
            if self._demoted:
                await self._loop.create_future()
            self._wake.clear()
            pieces = self._take_off()
            if pieces:
                await connection.send_packed_command(pieces, check_health=False)

    def _take_off(self) -> list[bytes]:
        """The bytes of all waiting calls whose callers still wait; they are now in flight."""
        pieces: list[bytes] = []
        calls = commands = 0
        while self._waiting:
            call = self._waiting.popleft()
            if call.future.done():
                self._done_with(call)
                continue
            pieces += call.pieces
            self._flying.append(call)
            calls += 1
            commands += len(call.commands)
        self._traffic.count_exchanges(calls, commands)
        return pieces

    async def _read(self, connection: AbstractConnection) -> None:
        flying, fails_over = self._flying, self._endpoint.fails_over
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ANSWERS as error:
                reply = server_error(error, flying[0].commands[len(flying[0].replies)])
            call = flying[0]
            if call.take(reply):
                flying.popleft()
                self._done_with(call)
            if fails_over:
                self._notice(reply)

    def _notice(self, reply: Reply) -> None:
        """A primary no more gets no more commands; when it has answered the last, the channel connects anew."""
        self._demoted = self._demoted or type(reply) is Demoted
        if self._demoted and not self._flying:
            raise redis.ConnectionError("the server has become a replica")

    async def _watch(self) -> None:
        """Ends with an error when a reply is due and none has come for the timeout."""
        timeout, waited = self._patience.timeout, 0.0
        last: tuple[_Call | None, int] = (None, 0)
        while True:
            oldest = self._flying[0] if self._flying else None
            now = (oldest, len(oldest.replies)) if oldest is not None else (None, 0)
            waited = waited + timeout / 4 if oldest is not None and now == last else 0.0
            if waited >= timeout:
                raise redis.TimeoutError(f"no reply for {timeout:g} s")
            last = now
            await asyncio.sleep(timeout / 4)

    # --- failing ----------------------------------------------------------------------------------------------------

    def _fail_flying(self, cause: Exception) -> None:
        while self._flying:
            call = self._flying.popleft()
            call.fail(Fault(cause, unsent=False))
            self._done_with(call)

    def _fail_all(self, cause: Exception) -> None:
        self._fail_flying(cause)
        self._wake.clear()
        while self._waiting:
            call = self._waiting.popleft()
            call.fail(Fault(cause, unsent=True))
            self._done_with(call)
