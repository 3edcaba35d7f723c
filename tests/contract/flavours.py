"""One test body for both flavours on every server, and for the oracle.

A body is a coroutine that awaits every call and asks for the fixture `store` (or `memory`, or `opened`). A `Place` is
where it runs; `Awaited` makes a blocking store look like the asyncio one. Places that have a server behind them, for
tests that look at it with another client, are chosen with the marks `on_servers` and `on_real_servers`.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import fakeredis
import pytest
import redis

from redismem import MISSING, AsyncMemory, AsyncSessionStore, Memory, SessionStore, Settings
from redismem.batch import Batch
from redismem.op import Handle
from redismem.stores.in_memory import InMemorySessionStore
from tests.servers import NAMES, REAL, Server

T = TypeVar("T")

SOON = 0.05
"""Seconds: a TTL short enough to wait for."""

FLAVOURS = ("sync", "async")
ORACLE = "oracle"
SERVED = tuple(f"{flavour}-{name}" for name in NAMES for flavour in FLAVOURS)

on_servers = pytest.mark.parametrize("place", SERVED, indirect=True)
on_real_servers = pytest.mark.parametrize(
    "place", [f"{flavour}-{name}" for name in REAL for flavour in FLAVOURS], indirect=True
)
once_on_each_server = pytest.mark.parametrize(  # for what takes seconds: the flavours take turns
    "place", [f"{FLAVOURS[turn % 2]}-{name}" for turn, name in enumerate(NAMES)], indirect=True
)
on_valkey = pytest.mark.parametrize("place", [f"{flavour}-valkey9" for flavour in FLAVOURS], indirect=True)


class Awaited:
    """A blocking object whose methods are awaited, and whose generators are asynchronous."""

    def __init__(self, blocking: Any) -> None:
        self.blocking = blocking

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.blocking, name)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        async def iterated(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            for item in method(*args, **kwargs):
                yield item

        return iterated if inspect.isgeneratorfunction(method) else awaited

    def of(self, model: type) -> "Awaited":
        """The same store of another model."""
        return Awaited(self.blocking.of(model))


class AwaitedMemory:
    """A `Memory` with the surface of an `AsyncMemory`."""

    def __init__(self, memory: Memory) -> None:
        self.blocking = memory

    def __getattr__(self, name: str) -> Awaited:
        """One of its stores."""
        return Awaited(getattr(self.blocking, name))

    def records(self, name: str, model: type) -> Awaited:
        return Awaited(self.blocking.records(name, model))

    @asynccontextmanager
    async def batch(self, job: str | None = None, step: int = 0) -> AsyncIterator[Batch]:
        with self.blocking.batch(job, step) as batch:
            yield batch

    async def health(self) -> Any:
        return self.blocking.health()

    def stats(self) -> Any:
        return self.blocking.stats()

    async def aclose(self) -> None:
        self.blocking.close()


class OracleMemory:
    """What a body needs of a memory, on a dictionary."""

    def __init__(self, settings: Settings) -> None:
        self.sessions = Awaited(InMemorySessionStore(settings=settings))

    async def aclose(self) -> None:
        self.sessions.blocking.close()


@dataclass
class Place:
    """A flavour on a server, or the oracle, which has none."""

    flavour: str
    server: Server | None = None
    fake: list[Any] = field(default_factory=list[Any])

    def open(self, url: str | None = None, **settings: Any) -> AsyncMemory:
        """A new memory. All that one place opens work on the same data; but each oracle has its own.

        Operations are remembered for a moment only, so that what is left at the end can be waited for.
        """
        settings = {"operation_memory": 0.2, **settings}
        if self.server is None:
            return cast(AsyncMemory, OracleMemory(Settings.of("memory://", **settings)))
        if self.flavour == "async":
            return self._joined(AsyncMemory(url or self.server.url, **settings))
        return cast(AsyncMemory, AwaitedMemory(self._joined(Memory(url or self.server.url, **settings))))

    def open_rival(self, memory: AsyncMemory, **settings: Any) -> SessionStore:
        """A blocking store on the data of `memory`, as another process would have one."""
        if self.server is None:
            return cast(SessionStore, cast(Any, memory).sessions.blocking)
        return self._joined(Memory(self.server.url, **{"operation_memory": 0.2, **settings})).sessions

    def raw(self) -> redis.Redis:
        """The server as another client sees it; for fakeredis, after a memory was opened."""
        assert self.server is not None
        if self.server.process is None:
            return fakeredis.FakeRedis(server=self.fake[0])
        return redis.Redis(port=self.server.port)

    def left_over(self) -> list[bytes]:
        """The names of all keys on the server. fakeredis keeps the names of hashes that have expired to nothing."""
        raw = self.raw()
        return [name for name in raw.scan_iter() if raw.exists(name)]

    def _joined(self, memory: T) -> T:
        """fakeredis: every memory:// is a server of its own, but those of one place are one."""
        options = cast(Any, memory)._link.endpoint.options
        if "server" in options:
            self.fake.append(options["server"])
            options["server"] = self.fake[0]
        return memory


async def gone(store: AsyncSessionStore, key: str, session_id: str = "s", namespace: str = "n") -> None:
    """Wait until the key is not there."""

    async def is_gone() -> bool:
        return await store.load(session_id, namespace, key, MISSING) is MISSING

    await eventually(is_gone)


async def scanned(store: AsyncSessionStore, batch_size: int = 100) -> list[str]:
    """The ids that a scan meets, each once."""
    return sorted({session_id async for session_id in store.scan(batch_size)})


async def all_raise(kind: type[Exception], *attempts: Awaitable[Any]) -> None:
    """Await every one of these; each raises this error."""
    outcomes = [await _outcome(attempt) for attempt in attempts]
    others = {number: outcome for number, outcome in enumerate(outcomes) if not isinstance(outcome, kind)}
    assert not others, f"not {kind.__name__}, by position: {others}"


async def _outcome(attempt: Awaitable[Any]) -> Any:
    try:
        return await attempt
    except Exception as error:  # the caller tells whether it is the right one
        return error


async def nothing_is_left(place: Place, within: float = 10.0) -> None:
    """Wait until the server is empty."""

    async def is_empty() -> bool:
        return not place.left_over()

    await eventually(is_empty, within)


async def eventually(condition: Callable[[], Awaitable[T]], within: float = 10.0) -> T:
    """Ask until the answer is true."""
    deadline = time.monotonic() + within
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s; the last answer was {answer!r}"
        await asyncio.sleep(0.005)
    return answer


def results(handles: list[Handle[T]]) -> list[T]:
    """What each handle of a batch gives."""
    return [handle.result() for handle in handles]


def lefts(place: Place, key: str, less: int = 0) -> list[float]:
    """For how many seconds the expiring attributes of user 42 live; they are given so much `less` first."""
    deadlines = f"redismem:user:{{42}}:ttl:{key}"
    key = f"redismem:user:{{42}}:{key}"
    with place.raw() as raw:
        if raw.exists(deadlines):
            for field in raw.zrange(deadlines, 0, -1):
                raw.zincrby(deadlines, -less * 1000, field)
            seconds, microseconds = raw.time()
            return [
                end / 1000 - seconds - microseconds / 1e6 for _, end in raw.zrange(deadlines, 0, -1, withscores=True)
            ]
        found: list[float] = []
        for field in raw.hkeys(key):
            left = raw.execute_command("HPTTL", key, "FIELDS", 1, field)[0] - less * 1000
            if left > 0:
                raw.execute_command("HPEXPIRE", key, left, "FIELDS", 1, field)
                found.append(left / 1000)
        return found
