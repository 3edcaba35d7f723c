"""Sessions: short-lived state of conversations and workers, ``session_id -> namespace -> key -> value``.

Contract
    A namespace is one Redis hash, a key one field of it, with a TTL of its own. A session's ``meta`` hash says whose it
    is, when it began and was last active, and names its namespaces; it lives as long as the longest-lived field.
    Every call is atomic (docs/adr/0002 tells of one instant in which a killed process may leave work undone). A write
    that is refused (`LimitExceeded`, `OwnerMismatch`, `Conflict`) changes nothing.
    Time is the server's. ``last_active`` advances at most once a second.

Round trips
    One for each call, but: `update` makes one to read and one for each attempt to write; `info`, `namespaces`,
    `touch` and `end` need one more to learn the session's namespaces; a `save` needs one more when another process
    changed the session within the last second. A script that the server has forgotten costs one more, once.

Common parameters
    ``session_id``, ``namespace``, ``key``: non-empty strings, at most 512 bytes encoded; else `InvalidKey`.
    ``ttl``: seconds until the key expires; None: never; `KEEP_TTL`: as before the write. Else `InvalidTTL`.
    ``user_id``: whose session it must be. The first writer to give one owns the session; afterwards another one is
    refused with `OwnerMismatch`. None: not asked.
    ``fence``: the lock that a write is made under; after the lock was granted to another it is refused: `StaleFence`.
    ``durable``: what a write waits for, instead of `Settings.durable`; not confirmed in time is `NotDurable`.
    A stored value that cannot be read is a `DecodeError` that names its place. Any call may raise `LinkError`.
"""

import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property, lru_cache, partial, wraps
from inspect import signature
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from redismem.cache.kept import Kept
from redismem.cache.l1 import L1
from redismem.cache.reads import Fetched, Reads, is_anything_kept
from redismem.coordination.fence import Fence, Fenced, fence_of
from redismem.durability import NOWHERE, Durability, Receipt
from redismem.errors import (
    Conflict,
    DecodeError,
    InvalidKey,
    InvalidTTL,
    LimitExceeded,
    LinkError,
    OwnerMismatch,
    RedisMemError,
    StaleFence,
)
from redismem.keys import encode_segment, field
from redismem.link.base import Argument, Command, Reply
from redismem.link.features import ExpiryTier
from redismem.link.scan import scanned
from redismem.op import UNKNOWN, Asyncio, Blocking, Handle, op, run, settle, stream
from redismem.operations import IDEMPOTENT, Operation
from redismem.scripts import Script, script
from redismem.stores.recent import Leave
from redismem.stores.store import BatchedStore, Shared, Store
from redismem.stores.values import Values, by_field, lives, unreadable
from redismem.ttl import FOREVER_MS, KEEP_MS, KEEP_TTL, TTL, milliseconds

P = ParamSpec("P")
R = TypeVar("R")

SCHEMA: Final = 1
"""Version of the layout that docs/keys.md describes."""

_LONGEST_RESOLUTION_MS: Final = 1000
_REGISTERED: Final = "ns:"
_MOST_NAMES: Final = 16_384
_MOST_JOINED: Final = 1000
_FOREVER: Final = -1
"""What PTTL and HPTTL say of what has no end. They say less of what does not exist."""
_INT64: Final = range(-(2**63), 2**63)


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Given to `compare_and_set` as what is expected: the key must not exist."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a session is, without its values. Times are UTC by the server's clock."""

    session_id: str
    user_id: str | None
    created_at: datetime
    last_active: datetime
    ttl: float | None
    """Seconds until nothing of the session is left if nobody writes to it; None: it has no end."""
    namespaces: tuple[str, ...]
    schema: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A value from this process' memory, as the server said it `age` seconds ago."""

    value: Any
    """None if there was no such key."""
    age: float
    stale: bool
    """Whether it may have changed longer ago than the bound of `Settings.coherence`."""


@dataclass(frozen=True, slots=True)
class Guard:
    """On which conditions a session may be written to."""

    user_id: str | None
    """Whose it must be; None: anybody's."""
    fence: Fence | None
    """The lock that the write is made under, if any: nobody else may have been granted it since."""

    def arguments(self, operation: Operation) -> tuple[Argument, ...]:
        """What ``lua/lib/guard.lua`` takes."""
        fence = ("", 0) if self.fence is None else (self.fence.name, self.fence.token)
        return _owner(self.user_id), *operation, *fence


NOBODY: Final = Guard(None, None)
"""No conditions."""


def _guard(user_id: str | None, fence: Fenced | None) -> Guard:
    """The conditions of a write. Raises `LockError` for what is no fence, or a lock that is not held."""
    if user_id is None and fence is None:
        return NOBODY
    return Guard(user_id, fence_of(fence))


def _dropping(write: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Decorates a write: at its end, whatever that is, L1 drops the namespace; the session if none is named."""
    names = list(signature(write).parameters)
    place = slice(names.index("session_id"), names.index("session_id") + 1 + ("namespace" in names))

    @wraps(write)
    async def dropping(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await write(*args, **kwargs)
        finally:
            cast(Any, args[0])._drop(*args[place])

    @wraps(write)
    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return (dropping if is_anything_kept() else write)(*args, **kwargs)

    return call


class SessionOperations(Store):
    """Every operation on sessions, written once. `SessionStore` and `AsyncSessionStore` are what callers use."""

    # --- values -----------------------------------------------------------------------------------------------------

    @op
    async def save(
        self,
        session_id: str,
        namespace: str,
        key: str,
        value: Any,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> None:
        """Store one value, replacing value and TTL of an existing key.

        Raises `EncodeError` for a value without an exact stored form, `LimitExceeded`, `OwnerMismatch`.
        """
        await self._save(
            session_id,
            namespace,
            [field(key), self._codec.encode(value)],
            milliseconds(ttl),
            _guard(user_id, fence),
            durable,
        )

    @op
    async def save_many(
        self,
        session_id: str,
        namespace: str,
        mapping: Mapping[str, Any],
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> None:
        """Store several values at once, all or none, each with the same TTL. Raises as `save`."""
        pairs = [data for key, value in mapping.items() for data in (field(key), self._codec.encode(value))]
        await self._save(session_id, namespace, pairs, milliseconds(ttl), _guard(user_id, fence), durable)

    def _kept(
        self,
        session_id: str,
        namespace: str,
        key: str,
        default: Any = None,
        *,
        user_id: str | None = None,
        fresh: bool = False,
    ) -> Any:
        """What L1 says to `load`, if it may be asked."""
        shortcut = self._shortcut
        if shortcut is None or user_id is not None or fresh:
            return UNKNOWN
        try:
            kept = shortcut.get(self._name(session_id, namespace), field(key))
            return default if kept is None else kept if kept is UNKNOWN else kept.again()
        except DecodeError as error:
            raise unreadable(error, self._keys.session_namespace(session_id, namespace), key) from None
        except TypeError:  # a name that cannot be hashed
            return UNKNOWN

    @op.after(_kept)
    async def load(
        self,
        session_id: str,
        namespace: str,
        key: str,
        default: Any = None,
        *,
        user_id: str | None = None,
        fresh: bool = False,
    ) -> Any:
        """The value of one key, `default` where there is none."""
        found, _ = await self._look(session_id, namespace, (field(key),), user_id, fresh, asked=self._knows_all)
        return default if found[0] is None else self._decoded(found[0], session_id, namespace, key)

    @op
    async def load_many(
        self, session_id: str, namespace: str, keys: Iterable[str], *, user_id: str | None = None, fresh: bool = False
    ) -> Values:
        """The values of several keys; those that do not exist are left out, those that cannot be read are reported."""
        self._keys.session_namespace(session_id, namespace)  # refuses what are no names, even where no key is asked for
        fields = tuple(dict.fromkeys(map(field, keys)))
        found, stale_for = await self._look(session_id, namespace, fields, user_id, fresh) if fields else ((), None)
        place = self._keys.session_namespace(session_id, namespace)
        return Values.of(zip(fields, found, strict=True), self._codec, place, stale_for)

    @op
    async def get_all(
        self, session_id: str, namespace: str, *, user_id: str | None = None, fresh: bool = False
    ) -> Values:
        """Every value of a namespace; those that cannot be read are reported and hide nothing else."""
        found, stale_for = await self._look(session_id, namespace, (), user_id, fresh)
        return Values.of(found.items(), self._codec, self._keys.session_namespace(session_id, namespace), stale_for)

    def last_known(self, session_id: str, namespace: str, key: str) -> Copy | None:
        """The last copy of a value in this process' memory, however old; no round trip, and nothing to await.

        None: this process has no copy, or `Settings.coherence` is off. Copies that are not served any more are only
        there with `Settings.l1_fail_safe`.
        """
        name, place = self._keys.session_namespace(session_id, namespace), field(key)
        last = self._l1.last(name, place) if self._l1 is not None else None
        if last is None:
            return None
        kept, age, is_stale = last
        return Copy(None if kept is None else self._decoded(kept, session_id, namespace, key), age, is_stale)

    @op
    async def delete(
        self,
        session_id: str,
        namespace: str,
        key: str,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Forget one key. True if there was one."""
        guard = _guard(user_id, fence)
        reply = await self._write("delete", session_id, namespace, (field(key),), guard, durable, once=True)
        return bool(int(reply[1]))

    # --- atomic read-modify-write -----------------------------------------------------------------------------------

    @op
    async def increment(
        self,
        session_id: str,
        namespace: str,
        key: str,
        by: int = 1,
        ttl: float | None = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> int:
        """Add to an integer and return the sum; a missing key counts as 0.

        `ttl` replaces the key's TTL at every call; None keeps the one it has, as HINCRBY does.
        Sums and steps are 64-bit, beyond which it is `LimitExceeded`; a value that is no integer is `WrongType`.
        """
        if type(by) is not int or by not in _INT64:
            raise LimitExceeded(f"increment by {by!r}: give a 64-bit int")
        arguments = (_lasting(ttl), field(key), by)
        guard = _guard(user_id, fence)
        reply = await self._write("increment", session_id, namespace, arguments, guard, durable, once=True)
        return int(reply[-1])

    @op
    async def compare_and_set(
        self,
        session_id: str,
        namespace: str,
        key: str,
        expected: Any,
        value: Any,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Store `value` if the key now holds `expected`; whether it did.

        `expected=None` is what `load` returns for a missing key, so it stands for that too; `MISSING` for that alone.
        One round trip; a second one if the stored bytes differ but mean an equal value, such as another order of keys.
        """
        data, absent = self._codec.encode(value), expected is None or expected is MISSING
        wanted = [] if expected is MISSING else [self._codec.encode(expected)]
        guard = _guard(user_id, fence)
        written, current = await self._swap(session_id, namespace, key, absent, wanted, data, ttl, guard, durable)
        if written or current is None or expected is MISSING:
            return written
        if self._form(self._decoded(current, session_id, namespace, key)) != self._form(expected):
            return False
        return (await self._swap(session_id, namespace, key, False, [current], data, ttl, guard, durable))[0]

    @op
    async def update(
        self,
        session_id: str,
        namespace: str,
        key: str,
        fn: Callable[[Any], Any | Awaitable[Any]],
        default: Any = None,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> Any:
        """Replace a value by `fn(value)` if nobody changed it meanwhile, else start over; returns what was stored.

        `fn` gets a copy of its own (of `default` for a missing key) and may be called several times. With
        `AsyncMemory` it may be a coroutine function. Between attempts the call waits for a short, random time.
        Raises `Conflict` after `Settings.update_attempts` attempts.
        """
        guard = _guard(user_id, fence)
        name = self._keys.session_namespace(session_id, namespace)
        ((current,), _) = await self._read(session_id, namespace, name, (field(key),), user_id)
        for attempt in range(self._settings.update_attempts):
            before = copy.deepcopy(default) if current is None else self._decoded(current, session_id, namespace, key)
            value = await settle(fn(before))
            data, wanted = self._codec.encode(value), [] if current is None else [current]
            written, current = await self._swap(
                session_id, namespace, key, current is None, wanted, data, ttl, guard, durable
            )
            if written:
                return value
            await self._link.sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 9)))
        raise Conflict(
            f"{self._keys.session_namespace(session_id, namespace)}[{key}]: others changed it at each of "
            f"{self._settings.update_attempts} attempts; use increment, spread writers over several keys, "
            "or raise update_attempts"
        )

    # --- time to live -----------------------------------------------------------------------------------------------

    @op
    async def ttl(self, session_id: str, namespace: str, key: str, *, user_id: str | None = None) -> float | None:
        """Seconds until one key expires, by itself or with its session; None if it never does or does not exist."""
        name, place = self._keys.session_namespace(session_id, namespace), field(key)
        if (tier := (await self._link.features()).tier) is ExpiryTier.DEADLINES:
            keys = self._keys_of(session_id, [namespace])
            reply = await script("ttl", tier)(self._link, keys, (_owner(user_id), place))
            left, ends = self._granted(reply, session_id, namespace)[1:]
        else:
            asked: tuple[Command, ...] = (("HPTTL", name, "FIELDS", 1, place), ("PTTL", name))
            lefts, ends = await self._guarded_all(session_id, user_id, asked)
            left = lefts[0] if lefts else -2
        if left == -2:
            return None
        times = [time for time in (left, ends) if time >= 0]
        return min(times) / 1000 if times else None

    @op
    async def expire(
        self,
        session_id: str,
        namespace: str,
        key: str,
        ttl: float | None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Give one key another TTL, None: none. True if there was such a key."""
        arguments = (_lasting(ttl), field(key))
        reply = await self._write("expire", session_id, namespace, arguments, _guard(user_id, fence), durable)
        return bool(reply[0] == b"OK")

    # --- whole sessions ---------------------------------------------------------------------------------------------

    @op
    async def touch(
        self,
        session_id: str,
        ttl: float | None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Let the whole session expire after `ttl` seconds, None: not as a whole. True if there is such a session.

        Later writes do not move that end, unless `Settings.session_ttl` is set: then they move it to that.
        """
        return await self._touch(session_id, _lasting(ttl), _guard(user_id, fence), durable)

    @op
    async def end(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> int:
        """Forget the whole session; how many values it held."""
        guard = _guard(user_id, fence)
        reply = await self._whole("end", session_id, (), guard, durable, once=True)
        self._shared.recent.forget(session_id)
        return int(reply[1])

    @op
    async def info(self, session_id: str, *, user_id: str | None = None) -> SessionInfo | None:
        """What the session is, None if there is none."""
        meta = self._keys.session_meta(session_id)
        flat, left = await self._guarded_all(session_id, user_id, (("HGETALL", meta), ("PTTL", meta)))
        head = dict(zip(flat[::2], flat[1::2], strict=True))
        if b"created_at" not in head:
            return None
        living = await self._living(session_id, _registered(head))
        try:
            return SessionInfo(
                session_id=session_id,
                user_id=head[b"user_id"].decode() if b"user_id" in head else None,
                created_at=_moment(head[b"created_at"]),
                last_active=_moment(head[b"last_active"]),
                ttl=left / 1000 if left >= 0 else None,
                namespaces=living,
                schema=int(head[b"schema"]),
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise DecodeError(f"no session's meta: {error!r}", meta) from None

    @op
    async def namespaces(self, session_id: str, *, user_id: str | None = None) -> list[str]:
        """The namespaces that hold anything, sorted."""
        return list(await self._namespaces_of(session_id, user_id))

    @stream
    async def scan(self, batch_size: int = 100) -> AsyncIterator[str]:
        """The ids of all sessions, in no order, about `batch_size` for each round trip and never all in memory.

        As SCAN promises: a session that is there from first to last is met; one that comes or goes may be, and one
        may be met twice while the server's table of keys grows or shrinks.
        """
        async for names in scanned(self._link, self._keys.session_meta_pattern(), "hash", batch_size):
            for name in names:
                with suppress(InvalidKey):  # not a key of ours: no id is written like that
                    yield self._keys.session_id_of(name)

    # --- reading ----------------------------------------------------------------------------------------------------

    @cached_property
    def _must_refresh(self) -> bool:
        """Whether reads count as activity."""
        return self._settings.refresh_on_read and self._settings.session_ttl is not None

    @cached_property
    def _name(self) -> Callable[[str, str], str]:
        """`Keys.session_namespace`, remembered: building the name would be a third of the cost of a hit."""
        return lru_cache(maxsize=_MOST_NAMES, typed=True)(self._keys.session_namespace)

    @cached_property
    def _knows_all(self) -> bool:
        """Whether what the shortcut does not know is not at hand at all."""
        return self._shortcut is not None and self._settings.l1_stale_while_revalidate is None

    @cached_property
    def _shortcut(self) -> L1[Kept] | None:
        """What may answer without further ado."""
        return None if self._l1 is None or self._must_refresh else self._l1.l1

    def _look(
        self,
        session_id: str,
        namespace: str,
        fields: tuple[bytes, ...],
        user_id: str | None,
        fresh: bool,
        *,
        asked: bool = False,
    ) -> Coroutine[Any, Any, tuple[Any, float | None]]:
        """These fields' items, of none given items by field, and how stale; from L1, if it was not `asked` before."""
        l1, name = self._l1, self._keys.session_namespace(session_id, namespace)
        if l1 is not None and user_id is None:
            return self._look_near(l1, session_id, namespace, name, fields, fresh, asked)
        if l1 is not None:
            l1.bypassed += 1
        return self._read(session_id, namespace, name, fields, user_id)

    async def _look_near(
        self,
        l1: Reads,
        session_id: str,
        namespace: str,
        name: str,
        fields: tuple[bytes, ...],
        fresh: bool,
        asked: bool,
    ) -> tuple[Any, float | None]:
        """As `_look`, with L1."""
        fetch = partial(self._fetch, session_id, namespace, name, fields)
        seen = None if asked or fresh else l1.at_hand(name, fields, fetch)
        if seen is None and l1.keeps(name, fields):
            seen = await l1.read(name, fields, fetch, fresh=fresh)
        if seen is None:
            return await self._read(session_id, namespace, name, fields, None)
        if self._must_refresh:
            await self._refresh(session_id)
        return seen

    async def _fetch(self, session_id: str, namespace: str, name: str, fields: tuple[bytes, ...]) -> Fetched:
        """The raw values of these fields, of none given of all by field, and for how long they live; one round trip."""
        tier = (self._link.known or await self._link.features()).tier
        if not fields or tier is ExpiryTier.DEADLINES:
            keys = self._keys_of(session_id, (namespace,))
            ends, found, lefts = await script("keep", tier)(self._link, keys, fields)
            return found if fields else by_field(found), None if lefts is None else lives(ends, lefts)
        lifetimes: tuple[Command, ...] = ("HPTTL", name, "FIELDS", len(fields), *fields), ("PTTL", name)
        # asked before the value: a field that expires in between is then missing, and does not seem to live for ever
        lefts, ends, value = await self._link.pipeline((*lifetimes, _reading(name, fields)))
        if isinstance(value, LinkError):
            raise value
        found = [value] if len(fields) == 1 else value
        if isinstance(lefts, LinkError) or isinstance(ends, LinkError):
            return found, None
        return found, lives(ends, lefts or [_FOREVER] * len(fields))

    async def _read(
        self, session_id: str, namespace: str, name: str, fields: tuple[bytes, ...], user_id: str | None
    ) -> tuple[Any, None]:
        """The raw values of these fields, of none given of all by field, from the server: not stale."""
        tier = (self._link.known or await self._link.features()).tier
        found: Sequence[bytes | None]
        if tier is ExpiryTier.DEADLINES:
            keys = (self._keys.session_meta(session_id), name, self._keys.session_deadlines(session_id, namespace))
            reply = await script("load", tier)(self._link, keys, (_owner(user_id), *fields))
            found = self._granted(reply, session_id, namespace)[1:]
        else:
            reply = await self._guarded(session_id, user_id, _reading(name, fields))
            found = [reply] if len(fields) == 1 else reply
        if self._must_refresh:
            await self._refresh(session_id)
        return found if fields else by_field(found), None

    def _guarded(self, session_id: str, user_id: str | None, command: Command) -> Coroutine[Any, Any, Reply]:
        """The reply to a reading command, if the session is the user's."""
        return self._link.execute(*command) if user_id is None else self._owned(session_id, user_id, command)

    async def _owned(self, session_id: str, user_id: str, command: Command) -> Reply:
        return (await self._guarded_all(session_id, user_id, (command,)))[0]

    async def _guarded_all(self, session_id: str, user_id: str | None, commands: Sequence[Command]) -> Sequence[Reply]:
        """The replies to reading commands, at one moment, if the session is the user's."""
        meta = self._keys.session_meta(session_id)
        owner, *replies = await self._link.transaction((("HGET", meta, "user_id"), *commands))
        if user_id is not None and owner is not None and owner != _owner(user_id).encode():
            raise _owner_mismatch(session_id)
        return replies

    def _decoded(self, item: Kept | bytes, session_id: str, namespace: str, key: str) -> Any:
        try:
            return item.again() if isinstance(item, Kept) else self._codec.decode(item)
        except DecodeError as error:
            raise unreadable(error, self._keys.session_namespace(session_id, namespace), key) from None

    def _form(self, value: Any) -> Any:
        """Something equal for equal values of equal types, whatever the order of keys in a dict."""
        kind = cast(Any, type(value))
        if kind is dict:
            return kind, {self._codec.encode(key): self._form(item) for key, item in value.items()}
        if kind in (list, tuple):
            return kind, [self._form(item) for item in value]
        return self._codec.encode(value)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _drop(self, session_id: str, *namespaces: str) -> None:
        """L1 forgets these namespaces, of none given all that this process knows of."""
        self._keys.session_meta(session_id)  # refuses what is no id, before it is looked up
        for namespace in namespaces or self._shared.recent.namespaces(session_id):
            self._shared.drop(self._keys.session_namespace(session_id, namespace))

    async def _save(
        self,
        session_id: str,
        namespace: str,
        pairs: list[bytes],
        ttl_ms: int,
        guard: Guard,
        durable: Durability | None,
    ) -> None:
        name = self._keys.session_namespace(session_id, namespace)
        if not pairs:
            return
        leave, limited = None, self._settings.max_fields is not None or self._settings.max_namespaces is not None
        if guard is NOBODY and not limited and ttl_ms != KEEP_MS:  # the others are for the script to check
            leave = self._shared.recent.leave(session_id, namespace, ttl_ms)
        if leave is None:
            await self._write("save", session_id, namespace, (ttl_ms, *pairs), guard, durable)
        elif not await self._save_plainly(session_id, namespace, name, pairs, ttl_ms, leave, durable):
            await self._write("adopt", session_id, namespace, (ttl_ms,), NOBODY, durable)

    @_dropping
    async def _save_plainly(
        self,
        session_id: str,
        namespace: str,
        name: str,
        pairs: list[bytes],
        ttl_ms: int,
        leave: Leave,
        durable: Durability | None,
    ) -> bool:
        """Save in a transaction of plain commands; false if the session turns out to have changed meanwhile."""
        meta = self._keys.session_meta(session_id)
        head: Command = ("HMGET", meta, _REGISTERED + namespace, "created_at", "deadline")
        left: Command = ("PTTL", name if leave.ends else meta)
        tier = (self._link.known or await self._link.features()).tier
        receipt, commands = await self._receipt(durable), (head, left, *_plain_save(tier, name, pairs, ttl_ms))
        found, left_ms, *_ = await self._link.transaction(commands, durable=receipt)
        _check(receipt)
        if leave.holds(found, left_ms, ttl_ms):
            return True
        self._shared.recent.forget_leaves(session_id)
        return False

    async def _swap(
        self,
        session_id: str,
        namespace: str,
        key: str,
        absent: bool,
        wanted: list[bytes],
        data: bytes,
        ttl: TTL,
        guard: Guard,
        durable: Durability | None,
    ) -> tuple[bool, bytes | None]:
        """Store bytes if the field is as expected; whether it was, and the bytes that it held if not."""
        arguments: tuple[Argument, ...] = (milliseconds(ttl), field(key), data, int(absent), *wanted)
        reply = await self._write("compare_and_set", session_id, namespace, arguments, guard, durable, once=True)
        return (True, None) if reply[0] in (b"OK", b"AGAIN") else (False, reply[1] if len(reply) > 1 else None)

    @_dropping
    async def _write(
        self,
        verb: str,
        session_id: str,
        namespace: str,
        arguments: Sequence[Argument],
        guard: Guard,
        durable: Durability | None,
        *,
        once: bool = False,
    ) -> Reply:
        """Run a script that writes to a namespace. Its refusals are raised, what it says of the session is noted."""
        recent, settings = self._shared.recent, self._settings
        names = [namespace]
        if settings.session_ttl is not None:
            names += [known for known in recent.namespaces(session_id) if known != namespace]
        keys = self._keys_of(session_id, names) + self._guard_keys(session_id, guard, once)
        header: tuple[Argument, ...] = (
            session_id,
            SCHEMA,
            milliseconds(settings.session_ttl),
            self._resolution_ms,
            settings.max_namespaces or 0,
            settings.max_fields or 0,
            len(names),
            *(_REGISTERED + name for name in names),
        )
        sent, tier = recent.clock(), (await self._link.features()).tier
        receipt = await self._receipt(durable)
        call = partial(self._apply, script(verb, tier), keys, guard, (*header, *arguments), receipt, once)
        reply = await call()
        if reply[0] == b"NAMESPACES" and len(await self._namespaces_of(session_id)) < (settings.max_namespaces or 0):
            reply = await call()  # looking at them made the server forget those that had nothing left
        self._granted(reply, session_id, namespace)
        if verb == "delete":
            recent.forget_leaves(session_id)  # the namespace may be gone with its last key
        if reply[0] == b"AGAIN":
            await self._refresh_all(session_id)
        elif verb == "delete":
            await self._refresh_others(session_id, reply[2])
        elif reply[0] == b"OK":
            await self._note(session_id, namespace, sent, tier, reply[1])
        _check(receipt)
        return reply

    async def _apply(
        self,
        call: Script,
        keys: Sequence[Argument],
        guard: Guard,
        arguments: Sequence[Argument],
        receipt: Receipt | None,
        once: bool,
    ) -> Reply:
        """The reply of a script that writes. With `once`, it is applied once, however often the link has to send it."""
        if not once:
            return await call(self._link, keys, (*guard.arguments(IDEMPOTENT), *arguments), durable=receipt)
        while True:
            with self._shared.operations.one(call.name) as operation:
                reply = await call(self._link, keys, (*guard.arguments(operation), *arguments), durable=receipt)
            if reply != [b"AGAIN"]:  # refused, and nobody heard why
                return reply

    def _guard_keys(self, session_id: str, guard: Guard, once: bool) -> list[str]:
        """The last keys of every script that writes: remembered operations, and the lock's counter if it is near."""
        operations, fence = self._keys.session_operations(session_id), guard.fence
        if fence is None:
            return [operations] if once else []
        return [operations, fence.name if self._link.colocated(operations, fence.name) else operations]

    async def _note(self, session_id: str, namespace: str, sent: float, tier: ExpiryTier, settled: list[Any]) -> None:
        """Keep what a write's script said of the session: when it ends, and which namespaces it has."""
        began, life, left_behind = settled
        recent, resolution = self._shared.recent, self._resolution_ms
        recent.learn_namespaces(session_id, (namespace,))
        if tier is not ExpiryTier.DEADLINES:
            longest = life - resolution if life >= 0 else life
            recent.learn(session_id, namespace, Leave(sent + resolution / 1000, began, longest))
        await self._refresh_others(session_id, left_behind)

    async def _refresh_others(self, session_id: str, left_behind: Sequence[bytes]) -> None:
        """A write refreshes the namespaces that this process knew of; see to those it did not."""
        if left_behind:
            self._shared.recent.learn_namespaces(session_id, map(_namespace, left_behind))
            await self._touch(session_id, self._refresh_ms, NOBODY, NOWHERE)

    async def _refresh_all(self, session_id: str) -> None:
        """What a write said of the session is lost: perhaps there were namespaces that it did not refresh."""
        if self._settings.session_ttl is not None:
            await self._touch(session_id, self._refresh_ms, NOBODY, NOWHERE)

    def _granted(self, reply: Reply, session_id: str, namespace: str) -> Reply:
        """The reply of a script that was not refused."""
        match reply[0]:
            case b"OWNER":
                raise _owner_mismatch(session_id)
            case b"STALE":
                raise StaleFence(
                    f"session {session_id!r}: the lock that this write was made under has been granted to another "
                    "since; nothing was changed; take the lock again and begin from what is stored now"
                )
            case b"NAMESPACES":
                raise LimitExceeded(
                    f"session {session_id!r} holds {self._settings.max_namespaces} namespaces, the limit: "
                    f"{namespace!r} would be one more; end sessions, or raise max_namespaces"
                )
            case b"FIELDS":
                raise LimitExceeded(
                    f"{self._keys.session_namespace(session_id, namespace)}: the write would pass the limit of "
                    f"{self._settings.max_fields} keys; delete some, give them a TTL, or raise max_fields"
                )
            case b"OVERFLOW":
                raise LimitExceeded(
                    f"{self._keys.session_namespace(session_id, namespace)}: the sum would not fit in 64 bits; "
                    "use update, which has no such limit"
                )
            case _:
                pass
        return reply

    # --- whole sessions, inside -------------------------------------------------------------------------------------

    @property
    def _resolution_ms(self) -> int:
        """How exact `last_active` is, and for how long a process relies on what it learned of a session."""
        if self._settings.session_ttl is None:
            return _LONGEST_RESOLUTION_MS
        return max(1, min(_LONGEST_RESOLUTION_MS, round(self._settings.session_ttl * 1000 / 20)))

    @property
    def _refresh_ms(self) -> int:
        """The TTL that activity gives a session. The resolution is added so that it never ends early."""
        return milliseconds(self._settings.session_ttl) + self._resolution_ms

    async def _refresh(self, session_id: str) -> None:
        if self._shared.recent.refresh_is_due(session_id, self._resolution_ms / 1000):
            await self._touch(session_id, self._refresh_ms, NOBODY, NOWHERE)

    async def _touch(self, session_id: str, ttl_ms: int, guard: Guard, durable: Durability | None) -> bool:
        reply = await self._whole("touch", session_id, (ttl_ms,), guard, durable)
        return bool(reply[0] == b"OK")

    @_dropping
    async def _whole(
        self,
        verb: str,
        session_id: str,
        arguments: tuple[Argument, ...],
        guard: Guard,
        durable: Durability | None,
        *,
        once: bool = False,
    ) -> Reply:
        """Run a script on all namespaces of a session, asking again until none was left out."""
        self._keys.session_meta(session_id)  # refuses what is no id, before it is looked up
        self._shared.recent.forget_leaves(session_id)
        names = list(self._shared.recent.namespaces(session_id))
        call, receipt = script(verb, (await self._link.features()).tier), await self._receipt(durable)
        while True:
            registered = tuple(_REGISTERED + name for name in names)
            keys = self._keys_of(session_id, names) + self._guard_keys(session_id, guard, once)
            reply = await self._apply(call, keys, guard, (*arguments, *registered), receipt, once)
            if reply[0] != b"MORE":
                self._granted(reply, session_id, "")
                _check(receipt)
                return reply
            names += map(_namespace, reply[1])
            self._shared.recent.learn_namespaces(session_id, names)

    async def _namespaces_of(self, session_id: str, user_id: str | None = None) -> tuple[str, ...]:
        fields = await self._guarded(session_id, user_id, ("HKEYS", self._keys.session_meta(session_id)))
        return await self._living(session_id, _registered(fields))

    async def _living(self, session_id: str, registered: Sequence[bytes]) -> tuple[str, ...]:
        """Those of the registered namespaces that hold anything, sorted; the server forgets the others."""
        if not registered:
            return ()
        names = [_namespace(name) for name in registered]
        call = script("namespaces", (await self._link.features()).tier)
        living = await call(self._link, self._keys_of(session_id, names), registered)
        return tuple(sorted(map(_namespace, living)))

    def _keys_of(self, session_id: str, namespaces: Iterable[str]) -> list[str]:
        """Meta, and the two keys of each namespace: all that a script on a session may touch."""
        keys = [self._keys.session_meta(session_id)]
        for name in namespaces:
            keys += self._keys.session_namespace(session_id, name), self._keys.session_deadlines(session_id, name)
        return keys


class SessionStore(SessionOperations, Blocking):
    """Sessions for threads: every operation of `SessionOperations` as a plain call."""

    def close(self) -> None:
        """Close the link; for a store that `create_store` made."""
        run(self._shared.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSessionStore(SessionOperations, Asyncio):
    """Sessions for tasks: every operation of `SessionOperations`, to be awaited."""


@dataclass(slots=True)
class _Joined:
    """Neighbouring saves of a batch that leave as one."""

    place: tuple[str, int, Guard, Durability | None]
    pairs: list[bytes]
    handle: Handle[None]


class SessionBatch(SessionOperations, BatchedStore):
    """Sessions inside a batch: every operation of `SessionOperations`, giving a `Handle`."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._joined: _Joined | None = None

    # Saves are so frequent in batches that a coroutine for each would be most of their cost.
    def save(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        session_id: str,
        namespace: str,
        key: str,
        value: Any,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> Handle[None]:
        """As `SessionOperations.save`; neighbours that go to one namespace with one TTL leave together."""
        try:
            pair = field(key), self._codec.encode(value)
            place = (
                self._keys.session_namespace(session_id, namespace),
                milliseconds(ttl),
                _guard(user_id, fence),
                durable,
            )
        except RedisMemError as error:
            return Handle[None].rejected(error)
        joined = self._joined
        if joined is None or joined.place != place or not self._may_join(joined):
            pairs: list[bytes] = []
            handle = self._link.enlist(self._save(session_id, namespace, pairs, *place[1:]))
            self._joined = joined = _Joined(place, pairs, handle)
        joined.pairs.extend(pair)
        return joined.handle

    def _may_join(self, joined: _Joined) -> bool:
        """Nothing has come in between, the command stays short, and each save need not be counted by itself."""
        newest = self._link.newest() is joined.handle
        return newest and len(joined.pairs) < 2 * _MOST_JOINED and self._settings.max_fields is None


def _reading(name: str, fields: tuple[bytes, ...]) -> Command:
    """The command that reads these fields, or all, on servers that expire fields themselves."""
    if len(fields) == 1:
        return ("HGET", name, fields[0])
    return ("HMGET", name, *fields) if fields else ("HGETALL", name)


def _plain_save(tier: ExpiryTier, name: str, pairs: Sequence[bytes], ttl_ms: int) -> Iterator[Command]:
    """The commands that save without a script, on servers that expire fields themselves."""
    if ttl_ms == FOREVER_MS:
        yield ("HSET", name, *pairs)
    elif tier is ExpiryTier.HSETEX:
        yield ("HSETEX", name, "PX", ttl_ms, "FIELDS", len(pairs) // 2, *pairs)
    else:
        yield ("HSET", name, *pairs)
        yield ("HPEXPIRE", name, ttl_ms, "FIELDS", len(pairs) // 2, *pairs[::2])


def _check(receipt: Receipt | None) -> None:
    """Raises `NotDurable` if a write was asked to be confirmed and was not."""
    if receipt is not None:
        receipt.check()


def _lasting(ttl: TTL) -> int:
    """`ttl` in milliseconds where there is none to keep. Raises `InvalidTTL`."""
    if ttl is KEEP_TTL:
        raise InvalidTTL("KEEP_TTL: only what stores a value can keep a TTL")
    return milliseconds(ttl)


def _owner(user_id: str | None) -> str:
    """`user_id` as the scripts take it. Raises `InvalidKey`."""
    if user_id is None:
        return ""
    encode_segment(user_id, "user_id")
    return user_id


def _owner_mismatch(session_id: str) -> OwnerMismatch:
    return OwnerMismatch(f"session {session_id!r} belongs to another user than the one given: nothing was done")


def _registered(fields: Iterable[bytes]) -> list[bytes]:
    """The fields of meta that register a namespace."""
    return [name for name in fields if name.startswith(_REGISTERED.encode())]


def _namespace(registered: bytes) -> str:
    """The namespace that a field of meta registers."""
    return registered.decode().removeprefix(_REGISTERED)


def _moment(milliseconds_: bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds_) / 1000, UTC)
