"""`Memory` and `AsyncMemory`: the front door.

Both hold one link to one server and the stores on it, and share one implementation. A `Memory` may be used by any
number of threads and by forked children; an `AsyncMemory` by any number of tasks, in any number of event loops.
"""

import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from redismem.batch import AsyncBatch, Batch
from redismem.cache.reads import L1Stats
from redismem.config import Settings
from redismem.coordination.lock import AsyncLock, Lock, Locks, task_locks, thread_locks
from redismem.coordination.transaction import AsyncTransaction, Transaction
from redismem.errors import LinkError
from redismem.health import Health
from redismem.link.base import Link, Patience
from redismem.link.base import Stats as LinkStats
from redismem.link.cluster import async_link, blocking_link
from redismem.link.endpoint import Endpoint, endpoint_of
from redismem.op import Asyncio, Blocking, op, run
from redismem.stores.contexts import AsyncContextStore, ContextStore, UserContext
from redismem.stores.crm import SimpleMemory
from redismem.stores.entities import AsyncEntityStore, EntityStore
from redismem.stores.episodes import AsyncEpisodeStore, EpisodeStore
from redismem.stores.graph import AsyncGraphStore, GraphStore
from redismem.stores.history import AsyncHistoryStore, HistoryStore
from redismem.stores.preferences import AsyncPreferenceStore, PreferenceStore
from redismem.stores.record import AsyncRecordStore, RecordStore
from redismem.stores.semantics import AsyncSemanticStore, SemanticStore
from redismem.stores.sessions import AsyncSessionStore, SessionStore
from redismem.stores.skills import AsyncSkillStore, SkillStore
from redismem.stores.states import AsyncStateStore, StateStore
from redismem.stores.store import Shared
from redismem.stores.temporal import AsyncTemporalStore, TemporalStore
from redismem.stores.threads import AsyncThreadStore, ThreadStore

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Stats(LinkStats):
    """What a memory has done since it was made."""

    l1: L1Stats | None = None
    """None: `Settings.coherence` is off."""


class MemoryOperations:
    """What both flavours of a memory do."""

    _locks: Locks

    def __init__(self, settings: Settings, link: Link) -> None:
        self.settings = settings
        self._link = link
        self._shared = Shared.of(settings, link, awaited=isinstance(self, Asyncio))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @staticmethod
    def _chosen(url: "str | Settings | MemoryOperations | None", settings: dict[str, Any]) -> tuple[Settings, Endpoint]:
        """The settings of a new memory, and where its server is."""
        if isinstance(url, MemoryOperations):
            return Settings.of(url.settings, **settings), url._link.endpoint
        chosen = Settings.of(url, **settings)
        return chosen, endpoint(chosen)

    @property
    def name(self) -> str:
        """Which server this is: the URL without what may be secret in it."""
        return self._link.endpoint.name

    @op
    async def health(self) -> Health:
        """What an operator asks first: one round trip to each primary. None that answers is an answer too."""
        try:
            health = Health.together([await _health_of(shard) for shard in await self._link.shards()])
        except LinkError as error:
            health = Health.down(error)
        return replace(health, locks=self._locks.states())

    def stats(self) -> Stats:
        """What this memory has done so far; no round trip."""
        l1 = self._shared.l1
        return Stats(**asdict(self._link.traffic.stats()), l1=None if l1 is None else l1.stats())


class Memory(MemoryOperations, Blocking):
    """Shared memory, for threads.

    `url` is where the server is (`redismem.link.endpoint`); without one, ``REDISMEM_URL``, else ``embedded://``.
    Any setting of `Settings` may be given as a keyword, and `Settings` may stand for the URL; so may a memory of the
    other flavour, whose server then serves both, and ends with the first that is closed if it is a private one.
    Nothing is sent before the first call.
    Raises `ConfigError` for a URL or a setting that cannot work.
    """

    def __init__(self, url: "str | Settings | MemoryOperations | None" = None, **settings: Any) -> None:
        chosen, where = self._chosen(url, settings)
        super().__init__(chosen, blocking_link(where, patience(chosen)))
        self._locks = thread_locks(self._link, self._shared.keys)
        self.sessions = SessionStore(self._shared)
        """Short-lived state: `redismem.stores.sessions`."""
        self.contexts = ContextStore(self._shared, UserContext)
        """What is known of users at a glance: `redismem.stores.contexts`."""
        self.entities = EntityStore(self._shared, SimpleMemory)
        """What workers find out about people and things: `redismem.stores.entities`."""
        self.episodes = EpisodeStore(self._shared)
        """What agents went through: `redismem.stores.episodes`."""
        self.semantics = SemanticStore(self._shared)
        """Facts, each known once: `redismem.stores.semantics`."""
        self.skills = SkillStore(self._shared)
        """What agents know how to do: `redismem.stores.skills`."""
        self.graph = GraphStore(self._shared)
        """Entities and how they are related: `redismem.stores.graph`."""
        self.history = HistoryStore(self._shared)
        """What was said in conversations: `redismem.stores.history`."""
        self.threads = ThreadStore(self._shared)
        """Whole states of threads of work: `redismem.stores.threads`."""
        self.states = StateStore(self._shared)
        """What agents are about in sessions: `redismem.stores.states`."""
        self.preferences = PreferenceStore(self._shared)
        """What users want agents to heed: `redismem.stores.preferences`."""
        self.temporal = TemporalStore(self._shared)
        """What is true of users for a while: `redismem.stores.temporal`."""

    def records(self, name: str, model: type[M]) -> RecordStore[M]:
        """The records of one name, which are instances of one model: `redismem.stores.record`.

        Raises `SchemaError` for a model that cannot be stored.
        """
        return RecordStore(self._shared, name, model)

    def batch(self, job: str | None = None, step: int = 0) -> Batch:
        """Many operations in as few round trips as they need: `redismem.batch`.

        With `job` and `step` it takes effect once, also if another process does the same step of the job again.
        """
        return Batch(self._shared, job, step)

    def lock(
        self,
        user_id: str,
        name: str = "default",
        lease: float = 30.0,
        wait: float | None = None,
        *,
        shared: bool = False,
        reentrant: bool = False,
    ) -> Lock:
        """The lock of a user, or of anything else that has an id: `redismem.coordination.lock`. Nothing is sent yet.

        `name` tells several locks of one user apart. `lease` is for how many seconds a process that died keeps it;
        `wait` for how many to wait, None for ever, 0 not at all. `shared` makes a reader of it: many of them, or one
        writer. `reentrant` lets the thread or task that holds it take it again.
        """
        return Lock(self._locks, user_id, name, lease=lease, wait=wait, shared=shared, reentrant=reentrant)

    def transaction(self, *partition_ids: str, attempts: int | None = None) -> Transaction:
        """Reads and writes of one session as if nobody else were there: `redismem.coordination.transaction`.

        Several ids may be given if they are the same one: others are `PartitionMismatch`, since their keys may be on
        another server. `attempts` is how often `run` starts over, by default `Settings.update_attempts`.
        """
        return Transaction(self._shared, partition_ids, attempts)

    def close(self) -> None:
        """Close every connection; a private embedded server ends. Calls from now on raise `LinkClosed`."""
        run(self._shared.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


class AsyncMemory(MemoryOperations, Asyncio):
    """Shared memory, for tasks. Parameters as `Memory`; it may be made outside an event loop."""

    def __init__(self, url: "str | Settings | MemoryOperations | None" = None, **settings: Any) -> None:
        chosen, where = self._chosen(url, settings)
        super().__init__(chosen, async_link(where, patience(chosen)))
        self._locks = task_locks(self._link, self._shared.keys)
        self.sessions = AsyncSessionStore(self._shared)
        """Short-lived state: `redismem.stores.sessions`."""
        self.contexts = AsyncContextStore(self._shared, UserContext)
        """What is known of users at a glance: `redismem.stores.contexts`."""
        self.entities = AsyncEntityStore(self._shared, SimpleMemory)
        """What workers find out about people and things: `redismem.stores.entities`."""
        self.episodes = AsyncEpisodeStore(self._shared)
        """What agents went through: `redismem.stores.episodes`."""
        self.semantics = AsyncSemanticStore(self._shared)
        """Facts, each known once: `redismem.stores.semantics`."""
        self.skills = AsyncSkillStore(self._shared)
        """What agents know how to do: `redismem.stores.skills`."""
        self.graph = AsyncGraphStore(self._shared)
        """Entities and how they are related: `redismem.stores.graph`."""
        self.history = AsyncHistoryStore(self._shared)
        """What was said in conversations: `redismem.stores.history`."""
        self.threads = AsyncThreadStore(self._shared)
        """Whole states of threads of work: `redismem.stores.threads`."""
        self.states = AsyncStateStore(self._shared)
        """What agents are about in sessions: `redismem.stores.states`."""
        self.preferences = AsyncPreferenceStore(self._shared)
        """What users want agents to heed: `redismem.stores.preferences`."""
        self.temporal = AsyncTemporalStore(self._shared)
        """What is true of users for a while: `redismem.stores.temporal`."""

    def records(self, name: str, model: type[M]) -> AsyncRecordStore[M]:
        """See `Memory.records`."""
        return AsyncRecordStore(self._shared, name, model)

    def batch(self, job: str | None = None, step: int = 0) -> AsyncBatch:
        """See `Memory.batch`."""
        return AsyncBatch(self._shared, job, step)

    def lock(
        self,
        user_id: str,
        name: str = "default",
        lease: float = 30.0,
        wait: float | None = None,
        *,
        shared: bool = False,
        reentrant: bool = False,
    ) -> AsyncLock:
        """See `Memory.lock`."""
        return AsyncLock(self._locks, user_id, name, lease=lease, wait=wait, shared=shared, reentrant=reentrant)

    def transaction(self, *partition_ids: str, attempts: int | None = None) -> AsyncTransaction:
        """See `Memory.transaction`."""
        return AsyncTransaction(self._shared, partition_ids, attempts)

    async def aclose(self) -> None:
        """Close the connections of every loop; a private embedded server ends. Later calls raise `LinkClosed`."""
        await self._shared.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.aclose()


async def _health_of(link: Link) -> Health:
    began = time.perf_counter()
    replies = await link.pipeline(Health.QUESTIONS)
    return Health.of(replies, time.perf_counter() - began, (await link.features()).tier)


def create_store(url: str | Settings | None = None, **settings: Any) -> SessionStore:
    """The session store of a memory, alone; close it with its own `close`. Parameters as `Memory`."""
    return Memory(url, **settings).sessions


def endpoint(settings: Settings) -> Endpoint:
    """Where the server is, by the settings. Raises `ConfigError`."""
    return endpoint_of(settings.url, linger=settings.embedded_linger, allow_insecure=settings.allow_insecure)


def patience(settings: Settings) -> Patience:
    """How long the link waits and how often it tries, by the settings."""
    return Patience(settings.timeout, settings.connect_timeout, settings.retries)
