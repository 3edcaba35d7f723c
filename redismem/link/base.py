"""What a link is: commands go in, replies come out, in order, and faults come out as redismem's own errors.

A link has one primitive, :meth:`Link.exchange`: one write, one reply for each command. On it stand ``pipeline`` (many
commands, one round trip, each with its own reply or error) and ``execute`` (one command). Both are coroutines for
every link; a blocking link's never suspend.

Retries live here, once. A command that never left the process, or that the server refused because it was loading its
data, is sent again. One whose reply was lost is sent again only if the caller says that applying it twice is the same
as applying it once (``retry=True``). Between attempts the link waits, longer each time, with jitter.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import hiredis
from redis.backoff import EqualJitterBackoff

from redismem.durability import Receipt
from redismem.errors import Busy, LinkClosed, LinkError, RedisMemError
from redismem.link.endpoint import Endpoint
from redismem.link.exclusive import Exclusive
from redismem.link.faults import Demoted, Deserted, Fault, translated
from redismem.link.features import Features

LARGE: Final = 64 * 1024
"""Bytes from which on an argument is not worth copying."""

_pack: Callable[[tuple[Any, ...]], bytes] = cast(Any, hiredis.pack_command)  # its stub knows tuples of one item only

_REFUSALS: Final = frozenset[type]({Busy})
_REFUSALS_OF_MANY: Final = frozenset[type]({Busy, Demoted})

T = TypeVar("T")
Argument = bytes | str | int
Command = tuple[Argument, ...]
Reply = Any


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a link waits, and how often it tries again. Times are seconds."""

    timeout: float = 5.0
    connect_timeout: float = 5.0
    retries: int = 3
    backoff_base: float = 0.02
    backoff_cap: float = 1.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1), with jitter."""
        delay: float = EqualJitterBackoff(self.backoff_cap, self.backoff_base).compute(attempt)
        return delay


class Tries:
    """The failed attempts of one call.

    A server that stands alone is tried `retries` times more. Where another may take over, a call waits for that too:
    attempts go on until ``(retries + 1) * timeout`` seconds after the first failure. `retries=0` asks for none.
    """

    def __init__(self, patience: Patience, *, failover: bool) -> None:
        self._patience = patience
        self._failed = 0
        lasts = (patience.retries + 1) * patience.timeout if failover and patience.retries else 0.0
        self._until = time.monotonic() + lasts

    def another(self, cause: Exception | None = None) -> bool:
        """Note a failure; whether to try again."""
        self._failed += 1
        if self._failed <= self._patience.retries:
            return True
        return not isinstance(cause, Deserted) and time.monotonic() < self._until

    @property
    def delay(self) -> float:
        """Seconds to wait before the next attempt, with jitter."""
        return self._patience.delay(self._failed)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a link has done since it was made."""

    round_trips: int = 0
    commands: int = 0
    connects: int = 0
    retries: int = 0


class Traffic:
    """Counts what a link does. Thread-safe."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from nothing; in a forked child with a lock that no thread of the parent holds."""
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Stats.__slots__, 0)

    def count_exchanges(self, exchanges: int, commands: int) -> None:
        """So many round trips, of so many commands in all."""
        with self._lock:
            self._counts["round_trips"] += exchanges
            self._counts["commands"] += commands

    def count(self, what: str) -> None:
        """One of `Stats`' events."""
        with self._lock:
            self._counts[what] += 1

    def stats(self) -> Stats:
        """The counts so far."""
        with self._lock:
            return Stats(**self._counts)


class Link(ABC):
    """A way to one server. Thread-safe; see the subclasses for what else each may share."""

    def __init__(self, endpoint: Endpoint, patience: Patience, traffic: Traffic | None = None) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self.traffic = traffic or Traffic()
        self._refusals = _REFUSALS_OF_MANY if endpoint.fails_over else _REFUSALS
        self.closed = False
        self.known: Features | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint.name}>"

    @abstractmethod
    def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> Awaitable[list[Reply]]:
        """Send all commands in one write and read one reply for each; error replies are items of the list.

        `fresh` asks for a connection known to be alive, for commands that may not be sent twice. `blocks` is for how
        many seconds the server may hold the connection up before it answers.
        Raises `Fault` when the connection cannot be made or breaks. What is raised may be raised at once, before
        anything is awaited: a coroutine of its own would be a twentieth of an asyncio call.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection and let go of an embedded server. Calls from now on raise `LinkClosed`."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass in this link's way."""

    async def offload(self, work: Callable[[], T]) -> T:
        """What a function gives that may take long: where tasks share this thread, it runs in another."""
        return work()

    def meanwhile(self, work: Callable[[], None] | None) -> AbstractContextManager[None]:
        """In this block, `work` is done once, if there is any, while the server answers the block's first call.

        It may not be done at all, where a thread does other things anyway while it waits. What it raises is the
        call's.
        """
        del work
        return nullcontext()

    @abstractmethod
    def exclusive(self, key: str) -> AbstractAsyncContextManager[Exclusive]:
        """A connection of the caller's own, to the server that holds `key`, for one block: `redismem.link.exclusive`.

        A block that ends by an exception closes the connection. Raises `LinkError` when none can be made.
        """

    async def shards(self) -> "Sequence[Link]":
        """A link to each server that holds keys of its own; for one server, this link alone. Raises `LinkError`."""
        return (self,)

    def colocated(self, *keys: str) -> bool:
        """Whether one script or transaction may touch all these keys."""
        return True

    async def execute(self, *command: Argument, retry: bool = True, durable: Receipt | None = None) -> Reply:
        """One command's reply, in one round trip. Raises `LinkError`."""
        reply = (await self.pipeline((command,), retry=retry, durable=durable))[0]
        if isinstance(reply, RedisMemError):
            raise reply
        return reply

    async def pipeline(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> list[Reply]:
        """Each command's reply or `ServerError`, in order, in one round trip. Raises `LinkError` if the link fails.

        With `durable`, the server answers when the writes are as safe as that asks for, and the receipt says if so.
        """
        tries, sent = None, False
        while True:
            try:
                if durable is None:
                    replies = await self.exchange(commands, fresh=not retry)
                else:
                    replies = await self._confirmed(commands, durable, fresh=not retry)
            except Fault as fault:
                self.refuse_if_closed()
                self.known = None  # another server may answer next time
                sent = sent or not fault.unsent
                tries = tries or self.tries()
                if not (retry or fault.unsent) or not tries.another(fault.cause):
                    raise fault.as_error(self.endpoint.name, applied_unknown=sent) from fault.cause
            else:
                if self._refusals.isdisjoint(map(type, replies)) or not self._may_repeat(replies, retry):
                    return replies
                tries = tries or self.tries()
                if not tries.another():
                    return replies
            self.traffic.count("retries")
            await self.sleep(tries.delay)

    async def _confirmed(self, commands: Sequence[Command], durable: Receipt, *, fresh: bool) -> list[Reply]:
        asked = durable.durability
        *replies, confirmed = await self.exchange((*commands, asked.question), fresh=fresh, blocks=asked.timeout)
        durable.note(replies, confirmed)
        return replies

    def tries(self) -> Tries:
        """The attempts of a call that begins to fail now."""
        return Tries(self.patience, failover=self.endpoint.fails_over)

    def _may_repeat(self, replies: Sequence[Reply], retry: bool) -> bool:
        """Whether the server did nothing of what it was asked, or nothing that may not be done again."""
        return retry or all(type(reply) in self._refusals for reply in replies)

    async def transaction(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> Sequence[Reply]:
        """The commands' replies, all applied at once or none (MULTI/EXEC), in one round trip. Raises `LinkError`."""
        replies = only(await self.pipeline((("MULTI",), *commands, ("EXEC",)), retry=retry, durable=durable))
        return only(translated(replies[-1]))

    async def features(self) -> Features:
        """What the server can do: asked once, in one round trip, and then `known`."""
        known = self.known  # another thread, whose connection broke, may set it back to None at any moment
        if known is None:
            known = self.known = Features.of(await self.execute(*Features.QUESTION))
        return known

    def refuse_if_closed(self) -> None:
        """Raises `LinkClosed` once the link was closed."""
        if self.closed:
            raise LinkClosed(f"the memory on {self.endpoint.name} was closed: make a new one")


def packed(commands: Sequence[Command]) -> list[bytes]:
    """The commands in the server's protocol, in pieces for one write. A large argument is a piece, not a copy."""
    if len(commands) == 1 and not _has_large(commands[0]):  # as most are
        return [_pack(commands[0])]
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        if not _has_large(command):
            small.append(_pack(command))
            continue
        for argument in _spelled_out(command):
            if len(argument) >= LARGE:
                pieces += b"".join(small), argument
                small.clear()
            else:
                small.append(argument)
    pieces.append(small[0] if len(small) == 1 else b"".join(small))
    return pieces


def _has_large(command: Command) -> bool:
    for argument in command:  # noqa: SIM110  (a generator would take twice as long, on every command)
        if type(argument) is bytes and len(argument) >= LARGE:
            return True
    return False


def _spelled_out(command: Command) -> Iterator[bytes]:
    """One command in the server's protocol, piece by piece."""
    yield b"*%d\r\n" % len(command)
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        yield b"$%d\r\n" % len(data)
        yield data
        yield b"\r\n"


def only(replies: Sequence[Reply]) -> Sequence[Reply]:
    """The replies of a pipeline whose commands stand or fall together. Raises the first error among them."""
    for reply in replies:
        if isinstance(reply, LinkError):
            raise reply
    return replies
