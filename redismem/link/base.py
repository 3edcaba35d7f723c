"""What a link is: commands go in, replies come out, in order, and faults come out as redismem's own errors.

A link has one primitive, :meth:`Link.exchange`: one write, one reply for each command. On it stand ``pipeline`` (many
commands, one round trip, each with its own reply or error) and ``execute`` (one command). Both are coroutines for
every link; a blocking link's never suspend.

Retries live here, once. A command that never left the process, or that the server refused because it was loading its
data, is sent again. One whose reply was lost is sent again only if the caller says that applying it twice is the same
as applying it once (``retry=True``). Between attempts the link waits, longer each time, with jitter.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import hiredis
from redis.backoff import ExponentialWithJitterBackoff

from redismem.errors import Busy, LinkClosed, LinkError, RedisMemError
from redismem.link.endpoint import Endpoint
from redismem.link.faults import Fault, translated
from redismem.link.features import Features

LARGE: Final = 64 * 1024
"""Bytes from which on an argument is not worth copying."""

_pack: Callable[[tuple[Any, ...]], bytes] = cast(Any, hiredis.pack_command)  # its stub knows tuples of one item only

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
        delay: float = ExponentialWithJitterBackoff(self.backoff_cap, self.backoff_base).compute(attempt)
        return delay


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

    def __init__(self, endpoint: Endpoint, patience: Patience) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self.traffic = Traffic()
        self.closed = False
        self.known: Features | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint.name}>"

    @abstractmethod
    async def exchange(self, commands: Sequence[Command], *, fresh: bool) -> list[Reply]:
        """Send all commands in one write and read one reply for each; error replies are items of the list.

        `fresh` asks for a connection known to be alive, for commands that may not be sent twice.
        Raises `Fault` when the connection cannot be made or breaks.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection and let go of an embedded server. Calls from now on raise `LinkClosed`."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass in this link's way."""

    async def execute(self, *command: Argument, retry: bool = True) -> Reply:
        """One command's reply, in one round trip. Raises `LinkError`."""
        reply = (await self.pipeline((command,), retry=retry))[0]
        if isinstance(reply, RedisMemError):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Command], *, retry: bool = True) -> list[Reply]:
        """Each command's reply or `ServerError`, in order, in one round trip. Raises `LinkError` if the link fails."""
        attempt, sent = 0, False
        while True:
            try:
                replies = await self.exchange(commands, fresh=not retry)
            except Fault as fault:
                self.refuse_if_closed()
                self.known = None  # another server may answer next time
                sent = sent or not fault.unsent
                attempt += 1
                if not (retry or fault.unsent) or attempt > self.patience.retries:
                    raise fault.as_error(self.endpoint.name, applied_unknown=sent) from fault.cause
            else:
                if attempt >= self.patience.retries or not _is_refused(replies, retry):
                    return replies
                attempt += 1
            self.traffic.count("retries")
            await self.sleep(self.patience.delay(attempt))

    async def transaction(self, commands: Sequence[Command], *, retry: bool = True) -> Sequence[Reply]:
        """The commands' replies, all applied at once or none (MULTI/EXEC), in one round trip. Raises `LinkError`."""
        replies = only(await self.pipeline((("MULTI",), *commands, ("EXEC",)), retry=retry))
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


def _is_refused(replies: Sequence[Reply], retry: bool) -> bool:
    """Whether a busy server did nothing of what it was asked, or nothing that may not be done again."""
    if Busy not in map(type, replies):
        return False
    return retry or all(isinstance(reply, Busy) for reply in replies)


def only(replies: Sequence[Reply]) -> Sequence[Reply]:
    """The replies of a pipeline whose commands stand or fall together. Raises the first error among them."""
    for reply in replies:
        if isinstance(reply, LinkError):
            raise reply
    return replies
