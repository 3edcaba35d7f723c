"""Threads: the whole state of an agent's thread of work, checkpoint by checkpoint.

Contract
    ``memory.threads.put("t1", state)`` adds a checkpoint under the next version; one that a worker numbers itself
    (`version=`) has that number. A checkpoint never changes: another state under a version that there is already is a
    `Conflict`, and a dict in another order is another one. The latest checkpoint is the one with the greatest version,
    whatever the order in which workers write, so it never moves back: what a slow worker writes late is kept as the
    older version that it is.
    A state may be anything. It is stored as plain data (`redismem.stores.plain`), and read as plain data.

Round trips
    One each, atomic; `copy` and `update` are two, and each further attempt of `update` two more.

Errors
    `Conflict`, `EncodeError`, `ConfigError`, `InvalidKey`, `InvalidTTL`, `LinkError`; `DecodeError`, which names the
    checkpoint, where its state cannot be read. The other checkpoints can be.
    A write that raises has changed nothing, except that after `Unavailable` and `Timeout` it may have been applied.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from redismem.durability import Durability
from redismem.errors import Conflict, DecodeError, InvalidKey, SchemaError
from redismem.link.base import Argument
from redismem.link.scan import scanned
from redismem.op import Asyncio, Blocking, op, settle, stream
from redismem.scripts import script
from redismem.stores.arguments import natural
from redismem.stores.effects import Effects
from redismem.stores.plain import plain
from redismem.stores.store import BatchedStore
from redismem.ttl import KEEP_TTL, TTL, milliseconds

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

_LATEST: Final = 0
"""Stands for the latest version where one is read, and for the next where one is written."""


@dataclass(frozen=True, slots=True)
class Version:
    """A checkpoint, without its state."""

    number: int
    at: datetime
    """When it was written, by the server's clock, in UTC."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a thread as it was under a version."""

    version: int
    at: datetime
    """When it was written, by the server's clock, in UTC."""
    state: Any
    """Plain data."""
    latest: int
    """The thread's latest version when this was read."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a checkpoint became."""

    version: int
    at: datetime
    """When it was written, by the server's clock, in UTC."""
    latest: int
    """The thread's latest version: greater, if others were faster."""

    @property
    def is_latest(self) -> bool:
        """Whether `get` gave this checkpoint when it was written."""
        return self.version == self.latest


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """A thread as a whole."""

    latest: Version
    checkpoints: int
    """How many there are."""
    ttl: float | None
    """For how many seconds it lives; None for ever."""


class ThreadOperations(Effects):
    """Every operation on threads, written once.

    `ThreadStore` and `AsyncThreadStore` are what callers use; `ThreadBatch` is the same inside a batch.
    """

    # --- writing ----------------------------------------------------------------------------------------------------

    @op
    async def put(
        self,
        thread_id: str,
        state: object,
        *,
        version: int | None = None,
        keep: int | None = None,
        ttl: TTL = KEEP_TTL,
        durable: Durability | None = None,
    ) -> Written:
        """Add a checkpoint, under the next version unless one is given.

        Under a version that there is, the same state changes nothing, if what is stored of it is the same, byte for
        byte; else it is a `Conflict`. A version is a whole number from 1 to 2**52. `keep` is how many
        checkpoints stay, the latest ones; None is `Settings.thread_checkpoints`. `ttl` is for how many seconds the
        thread lives from now on, None for ever; `KEEP_TTL` is `Settings.thread_ttl`, or, without that, as long as it
        would anyway.
        """
        return await self._put(thread_id, state, _version(version), keep, ttl, durable)

    @op
    async def update(
        self,
        thread_id: str,
        fn: Callable[[Any], Any],
        default: Any = None,
        *,
        keep: int | None = None,
        ttl: TTL = KEEP_TTL,
        durable: Durability | None = None,
    ) -> Checkpoint:
        """Add a checkpoint `fn(latest state)`, if nobody added one meanwhile, else start over.

        `fn` gets `default` of a thread that there is not. It may be called several times; for `AsyncMemory` it may be a
        coroutine function. Raises `Conflict` after `Settings.update_attempts`, `SchemaError` if `fn` gives None for a
        state that is not None: it forgot to return.
        """
        for _ in range(self._settings.update_attempts):
            found = await self._get(thread_id, _LATEST)
            version, state = (0, default) if found is None else (found.latest, found.state)
            state = plain(_given(thread_id, state, await settle(fn(state))))
            with suppress(Conflict):
                written = await self._put(thread_id, state, version + 1, keep, ttl, durable, must_be_next=True)
                return Checkpoint(written.version, written.at, state, written.latest)
        raise Conflict(f"{thread_id!r}: others added checkpoints at every attempt; nothing was written")

    @op
    async def copy(self, thread_id: str, new_id: str, *, ttl: TTL = KEEP_TTL, durable: Durability | None = None) -> int:
        """Make a new thread of all checkpoints of this one, with their versions and times: how many there are.

        They are those of one moment. `ttl` is the new thread's: see `put`. Raises `Conflict` if there is such a thread.
        """
        _, versions, states = self._of(thread_id)
        target, lives = self._of(new_id), self._lives(ttl)
        members, flat = await self._link.transaction((("ZRANGE", versions, 0, -1), ("HGETALL", states)))
        if not members:
            return 0
        state_of, arguments = dict(zip(flat[::2], flat[1::2], strict=True)), list[Argument]([lives])
        for version, at in (member.split() for member in members):
            if version in state_of:  # else somebody deleted it by hand
                arguments += version, at, state_of[version]
        reply = await self._effect("thread_copy", target, arguments, durable)
        if reply[0] == b"CONFLICT":
            raise Conflict(f"there is a thread {new_id!r} already; nothing was copied")
        return int(reply[1])

    @op
    async def prune(self, thread_id: str, keep: int, *, durable: Durability | None = None) -> int:
        """Drop all checkpoints but the `keep` latest: how many went."""
        return int((await self._effect("thread_prune", self._of(thread_id), [natural("keep", keep)], durable))[1])

    @op
    async def delete(self, thread_id: str, *, durable: Durability | None = None) -> int:
        """Delete a thread: how many checkpoints it had."""
        return int((await self._effect("thread_delete", self._of(thread_id), [], durable))[1])

    @op
    async def expire(self, thread_id: str, ttl: float | None, *, durable: Durability | None = None) -> bool:
        """Let a thread end after so many seconds, or never. False if there is none."""
        arguments = [milliseconds(ttl)]
        reply = await self._effect("thread_expire", self._of(thread_id), arguments, durable, once=False)
        return bool(reply[1] == b"1")

    # --- reading ----------------------------------------------------------------------------------------------------

    @op
    async def get(self, thread_id: str, version: int | None = None) -> Checkpoint | None:
        """The latest checkpoint, or the one of that version; None if there is none."""
        return await self._get(thread_id, _version(version))

    @op
    async def versions(self, thread_id: str, limit: int | None = None) -> list[Version]:
        """The checkpoints, the latest first, and at most so many."""
        last = -1 if limit is None else natural("limit", limit) - 1
        key = self._keys.thread_versions(thread_id)
        return [_version_of(member, key) for member in await self._link.execute("ZRANGE", key, 0, last, "REV")]

    @op
    async def info(self, thread_id: str) -> ThreadInfo | None:
        """The thread as a whole; None if there is none."""
        _, key, _ = self._of(thread_id)
        asked = ("ZRANGE", key, -1, -1), ("ZCARD", key), ("PTTL", key)
        latest, count, left = await self._link.transaction(asked)
        return ThreadInfo(_version_of(latest[0], key), count, None if left < 0 else left / 1000) if latest else None

    @stream
    async def scan(self, batch_size: int = 100) -> AsyncIterator[str]:
        """The ids of all threads, in no order, about `batch_size` for each round trip and never all in memory.

        As SCAN promises: a thread that is there from first to last is met; one that comes or goes may be, and one may
        be met twice while the server's table of keys grows or shrinks.
        """
        async for names in scanned(self._link, self._keys.thread_versions_pattern(), "zset", batch_size):
            for name in names:
                with suppress(InvalidKey):  # not a key of ours: no id is written like that
                    yield self._keys.thread_id_of(name)

    # --- what they are made of --------------------------------------------------------------------------------------

    async def _put(
        self,
        thread_id: str,
        state: object,
        version: int,
        keep: int | None,
        ttl: TTL,
        durable: Durability | None,
        *,
        must_be_next: bool = False,
    ) -> Written:
        kept = self._settings.thread_checkpoints if keep is None else keep
        arguments: list[Argument] = [
            self._lives(ttl),
            0 if kept is None else natural("keep", kept),
            version,
            int(must_be_next),
            self._codec.encode(plain(state)),
        ]
        status, *said = await self._effect("thread_put", self._of(thread_id), arguments, durable)
        if status == b"CONFLICT":
            raise Conflict(f"{thread_id!r} has another state under version {version} already; nothing was written")
        number, at, latest = map(int, said[0].split())
        return Written(number, _time(at), latest)

    async def _get(self, thread_id: str, version: int) -> Checkpoint | None:
        keys = self._of(thread_id)
        reply = await script("thread_read", (await self._link.features()).tier)(self._link, keys, (version,))
        if not reply:
            return None
        member, data, latest = reply
        found = _version_of(member, keys[1])
        try:
            return Checkpoint(found.number, found.at, self._codec.decode(data or b""), int(latest))
        except DecodeError as error:
            raise DecodeError(error.message, f"{keys[-1]}[{found.number}]") from None

    def _lives(self, ttl: TTL) -> int:
        settings = self._settings
        return milliseconds(settings.thread_ttl if ttl is KEEP_TTL and settings.thread_ttl else ttl)

    def _of(self, thread_id: str) -> tuple[str, str, str]:
        keys = self._keys
        return keys.thread_operations(thread_id), keys.thread_versions(thread_id), keys.thread_states(thread_id)


class ThreadStore(ThreadOperations, Blocking):
    """Threads for threads: every operation of `ThreadOperations` as a plain call."""


class AsyncThreadStore(ThreadOperations, Asyncio):
    """Threads for tasks: every operation of `ThreadOperations`, to be awaited."""


class ThreadBatch(ThreadOperations, BatchedStore):
    """Threads inside a batch: every operation of `ThreadOperations`, giving a `Handle`."""


def _version_of(member: bytes, key: str) -> Version:
    try:
        number, at = map(int, member.split())
    except ValueError:
        raise DecodeError(f"{member!r} is no version that redismem wrote", key) from None
    return Version(number, _time(at))


def _time(milliseconds_: int) -> datetime:
    return _EPOCH + milliseconds_ * _MILLISECOND


def _given(thread_id: str, before: Any, after: Any) -> Any:
    """What `fn` gave for a state. Raises `SchemaError`."""
    if after is None and before is not None:
        raise SchemaError(f"update of {thread_id!r}: the function must return the new state, and returned None")
    return after


def _version(version: int | None) -> int:
    return _LATEST if version is None else natural("version", version)
