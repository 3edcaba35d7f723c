"""`Memory` and `AsyncMemory`: the front door.

Both hold one link to one server and the stores on it, and share one implementation. A `Memory` may be used by any
number of threads and by forked children; an `AsyncMemory` by any number of tasks, in any number of event loops.
"""

import time
from types import TracebackType
from typing import Any, Self

from redismem.batch import AsyncBatch, Batch
from redismem.config import Settings
from redismem.errors import LinkError
from redismem.health import Health
from redismem.link.asyncio import AsyncLink
from redismem.link.base import Link, Patience, Stats
from redismem.link.blocking import BlockingLink
from redismem.link.endpoint import endpoint_of
from redismem.op import Asyncio, Blocking, op, run
from redismem.stores.sessions import AsyncSessionStore, SessionStore
from redismem.stores.store import Shared


class MemoryOperations:
    """What both flavours of a memory do."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self.settings = settings
        self._link = link
        self._shared = Shared.of(settings, link)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def name(self) -> str:
        """Which server this is: the URL without what may be secret in it."""
        return self._link.endpoint.name

    @op
    async def health(self) -> Health:
        """What an operator asks first: one round trip. A server that does not answer is an answer too."""
        began = time.perf_counter()
        try:
            replies = await self._link.pipeline(Health.QUESTIONS)
        except LinkError as error:
            return Health.down(error)
        return Health.of(replies, time.perf_counter() - began, (await self._link.features()).tier)

    def stats(self) -> Stats:
        """What this memory's link has done so far; no round trip."""
        return self._link.traffic.stats()


class Memory(MemoryOperations, Blocking):
    """Shared memory, for threads.

    `url` is where the server is (`redismem.link.endpoint`); without one, ``REDISMEM_URL``, else ``embedded://``.
    Any setting of `Settings` may be given as a keyword, and `Settings` may stand for the URL. Nothing is sent before
    the first call.
    Raises `ConfigError` for a URL or a setting that cannot work.
    """

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        chosen = Settings.of(url, **settings)
        super().__init__(chosen, BlockingLink(endpoint_of(chosen.url, linger=chosen.embedded_linger), patience(chosen)))
        self.sessions = SessionStore(self._shared)
        """Short-lived state: `redismem.stores.sessions`."""

    def batch(self) -> Batch:
        """Many operations in as few round trips as they need: `redismem.batch`."""
        return Batch(self._shared)

    def close(self) -> None:
        """Close every connection; a private embedded server ends. Calls from now on raise `LinkClosed`."""
        run(self._link.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


class AsyncMemory(MemoryOperations, Asyncio):
    """Shared memory, for tasks. Parameters as `Memory`; it may be made outside an event loop."""

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        chosen = Settings.of(url, **settings)
        super().__init__(chosen, AsyncLink(endpoint_of(chosen.url, linger=chosen.embedded_linger), patience(chosen)))
        self.sessions = AsyncSessionStore(self._shared)
        """Short-lived state: `redismem.stores.sessions`."""

    def batch(self) -> AsyncBatch:
        """Many operations in as few round trips as they need: `redismem.batch`."""
        return AsyncBatch(self._shared)

    async def aclose(self) -> None:
        """Close the connections of every loop; a private embedded server ends. Later calls raise `LinkClosed`."""
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.aclose()


def create_store(url: str | Settings | None = None, **settings: Any) -> SessionStore:
    """The session store of a memory, alone; close it with its own `close`. Parameters as `Memory`."""
    return Memory(url, **settings).sessions


def patience(settings: Settings) -> Patience:
    """How long the link waits and how often it tries, by the settings."""
    return Patience(settings.timeout, settings.connect_timeout, settings.retries)
