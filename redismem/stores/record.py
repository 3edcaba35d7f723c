"""Records: a model's instances, merged by the policies that the model declares (`redismem.stores.policy`).

Contract
    ``memory.records("trip", Trip)`` are the trips of all users. A record has one hash, with a field for each attribute,
    so operators read it and workers merge it attribute by attribute: two that write different attributes never
    disturb each other, and what becomes of one that both write is declared.
    Every change counts one version. ``if_version=`` makes a write conditional on nothing having changed since it was
    read (0: on the record not being there); `update` reads, applies a function and writes if nothing has, again and
    again if need be.

Round trips
    One for each operation, whatever the number of records, except `get_all`, which first asks which there are, and
    `update`, two for each attempt; a few more where a record must be migrated first. Each script is atomic over all its
    records: all are merged, or none.
    Sums are added once, even if a reply is lost and the call is repeated.

Errors
    `Conflict` when `if_version` does not hold, `SchemaError` for what the model does not allow, `EncodeError` for what
    has no exact stored form, `DecodeError` for what is stored and is no record of the model (of several records, the
    others come: `Records`), `LimitExceeded` for sums beyond 64 bits, `InvalidKey`, `LinkError`. A write that raises has
    changed nothing, except that after `Unavailable` and `Timeout` it may have been applied.
"""

import copy
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from redismem.durability import Durability
from redismem.errors import (
    Conflict,
    DecodeError,
    EncodeError,
    InvalidKey,
    LimitExceeded,
    LinkError,
    SchemaError,
    WrongType,
)
from redismem.link.base import Argument, Reply
from redismem.link.features import ExpiryTier
from redismem.link.scan import scanned
from redismem.op import Asyncio, Blocking, op, settle, stream
from redismem.scripts import script
from redismem.stores.attribute import MEMBER, RANK, Attributes, Change
from redismem.stores.effects import Effects
from redismem.stores.shape import Snapshot, shape
from redismem.stores.store import BatchedStore, Shared

M = TypeVar("M")

_CREATED: Final = b"+"
_ABOUT: Final = 1000
"""Bytes that a record takes in L1, about."""
_MIGRATION_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge has done to one record."""

    version: int
    """The version now."""
    created: bool
    """Whether there was no such record."""
    changed: frozenset[str]
    """The attributes that are others than before."""


class Migrated(StrEnum):
    """What a migration finds of one record."""

    CURRENT = "current"
    """It has the model's version, or a later one, or is not there any more."""
    DONE = "migrated"
    """It has it now."""
    OUTDATED = "outdated"
    """It was only looked at, or others wrote to it all the time: it is as it was, and will be migrated when read."""


class Records(dict[str, M]):
    """The readable ones of several records, by id. `unreadable` reports the others: id -> `DecodeError`."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: dict[str, DecodeError] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is: its hash, and under which name which index lists it ("": none does)."""

    key: str
    index: str
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """What is to be written to one record."""

    place: Place
    changes: Sequence[Change]
    if_version: int | None = None
    how: str = "merge"
    """Whether records of an older version are left alone (merge) or not (force), or made this version (migrate)."""

    def __post_init__(self) -> None:
        if self.if_version is not None and (type(self.if_version) is not int or self.if_version < 0):
            raise SchemaError(f"if_version is a version, or 0 for a record that is not there, not {self.if_version!r}")

    def arguments(self) -> list[Argument]:
        """As record_merge.lua takes it."""
        version: Argument = "" if self.if_version is None else self.if_version
        arguments: list[Argument] = [self.place.name, version, self.how, len(self.changes)]
        for change in self.changes:
            arguments += change
        return arguments


class RecordStoreBase(Effects, Generic[M]):
    """What all stores of records do: read and write the hashes at certain places."""

    def __init__(self, shared: Shared, model: type[M]) -> None:
        super().__init__(shared)
        self._shape = shape(model)
        self._kept_as = b"@record:%d" % id(self._shape)  # shapes are for ever

    async def _read(self, user_id: str, places: Sequence[Place], *, fresh: bool = True) -> list[Snapshot[M] | None]:
        """The records, migrated; one round trip, and one more for each that had to be.

        If not `fresh`, a single one may come from L1, and no attribute of it expires.
        """
        if fresh or self._l1 is None or len(places) != 1 or not self._shape.lasts:
            return await self._ask(user_id, places)
        kept = await self._l1.through(places[0].key, self._kept_as, partial(self._asked, user_id, places[0]))
        return [copy.deepcopy(kept)]  # frozen, but what it holds need not be

    async def _asked(self, user_id: str, place: Place) -> tuple[Snapshot[M] | None, int]:
        return (await self._ask(user_id, [place]))[0], _ABOUT

    async def _ask(self, user_id: str, places: Sequence[Place]) -> list[Snapshot[M] | None]:
        hashes = await self._hashes(places)
        return [await self._snapshot(user_id, place, fields) for place, fields in zip(places, hashes, strict=True)]

    async def _hashes(self, places: Sequence[Place]) -> list[dict[bytes, bytes]]:
        """The fields of records of one user, in one round trip."""
        tier = (await self._link.features()).tier
        if not places:
            return []
        if tier is ExpiryTier.DEADLINES:
            keys = list(chain.from_iterable((place.key, self._keys.deadlines(place.key)) for place in places))
            hashes: Sequence[Reply] = await script("record_read", tier)(self._link, keys, ())
        else:
            hashes = await self._link.pipeline([("HGETALL", place.key) for place in places])
        return [_fields(reply) for reply in hashes]

    async def _snapshot(self, user_id: str, place: Place, fields: Mapping[bytes, bytes]) -> Snapshot[M] | None:
        found = self._shape.read(fields, self._codec, place.key)
        if found is None or self._shape.is_current(found, fields):
            return found
        try:
            merged = await self._write_back(user_id, place, fields, found)
        except Conflict:  # another was faster, perhaps with the same migration: this is what there was before
            return found
        return replace(found, version=merged.version, schema=self._shape.version)

    async def _write_back(
        self, user_id: str, place: Place, fields: Mapping[bytes, bytes], found: Snapshot[M]
    ) -> Merged:
        """Write what these fields became by migrations. Raises `Conflict` if they have changed since."""
        try:
            changes = self._shape.migrating(found, fields, self._codec, place.key)
        except (EncodeError, LimitExceeded, SchemaError) as error:
            raise DecodeError(f"what it becomes by migrations cannot be stored: {error}", place.key) from None
        return (await self._write(user_id, [Write(place, changes, found.version, "migrate")]))[0]

    async def _migrate(self, user_id: str, place: Place, *, dry_run: bool) -> Migrated:
        for _ in range(_MIGRATION_ATTEMPTS):
            (fields,) = await self._hashes([place])
            found = self._shape.read(fields, self._codec, place.key)
            if found is None or self._shape.is_current(found, fields):
                return Migrated.CURRENT
            if dry_run:
                break
            try:
                await self._write_back(user_id, place, fields, found)
            except Conflict:
                continue
            return Migrated.DONE
        return Migrated.OUTDATED

    async def _write(self, user_id: str, writes: Sequence[Write], durable: Durability | None = None) -> list[Merged]:
        """Merge all, or none; one round trip, and three more where records of an older version are migrated first.

        Else the migration would later take what older workers have left there for newer than what this writes. That is
        given up after a while, where they write all the time.
        """
        if not writes:
            return []
        for _ in range(_MIGRATION_ATTEMPTS):
            reply = await self._try(user_id, writes, durable)
            if reply[0] != b"OUTDATED":
                return self._merged(reply, writes)
            await self._ask(user_id, [write.place for write in writes])
        writes = [replace(write, how="force") for write in writes]
        return self._merged(await self._try(user_id, writes, durable), writes)

    async def _try(self, user_id: str, writes: Sequence[Write], durable: Durability | None) -> Reply:
        keys = [self._keys.user_operations(user_id), writes[0].place.index]
        for write in writes:
            keys += write.place.key, self._keys.deadlines(write.place.key)
        arguments = [self._shape.version, *chain.from_iterable(write.arguments() for write in writes)]
        with self._dropping(write.place for write in writes):
            return await self._effect("record_merge", keys, arguments, durable, once=not _is_idempotent(writes))

    async def _delete(self, user_id: str, places: Sequence[Place], durable: Durability | None) -> int:
        """Forget records; how many there were. One round trip."""
        if not places:
            return 0
        keys = [self._keys.user_operations(user_id), places[0].index]
        for place in places:
            keys += place.key, self._keys.deadlines(place.key)
        names = [place.name for place in places]
        with self._dropping(places):
            return int((await self._effect("record_delete", keys, names, durable))[1])

    @contextmanager
    def _dropping(self, places: Iterable[Place]) -> Generator[None]:
        """What L1 keeps of these is forgotten at the end, however that comes."""
        try:
            yield
        finally:
            for place in places:
                self._shared.drop(place.key)

    def _merged(self, reply: Reply, writes: Sequence[Write]) -> list[Merged]:
        match reply[0]:
            case b"OK":
                return [_merged(one) for one in reply[1:]]
            case b"AGAIN":  # what exactly it changed went with the first reply
                return [
                    Merged(
                        int(done.rstrip(_CREATED)), done.endswith(_CREATED), _attributes(c[1] for c in write.changes)
                    )
                    for done, write in zip(reply[1].split(), writes, strict=True)
                ]
            case b"CONFLICT":
                place = _place(writes, reply[1])
                raise Conflict(f"{place}: its version is {int(reply[2])} by now; nothing was changed; read it again")
            case b"OVERFLOW":
                place = f"{_place(writes, reply[1])}[{reply[2].decode()}]"
                raise LimitExceeded(f"{place}: the sum would not fit in 64 bits; nothing was changed")
            case _:
                raise WrongType(f"{_place(writes, reply[1])}[{reply[2].decode()}]: no integer; nothing was changed")

    async def _update(self, user_id: str, place: Place, fn: Callable[[M | None], Any], durable: Durability | None) -> M:
        """Replace a record by `fn` of it, if nobody changed it meanwhile, else start over."""
        for attempt in range(self._settings.update_attempts):
            if attempt:
                await self._link.sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 9)))
            found, fields = await self._found(user_id, place)
            before = copy.deepcopy(found)  # `fn` may change what its argument holds
            told = self._whole(user_id, await settle(fn(None if found is None else found.record)), before)
            changes = self._shape.changing(told, fields, self._codec)
            try:
                await self._write(user_id, [Write(place, changes, 0 if found is None else found.version)], durable)
            except Conflict:
                continue
            return self._shape.made(told)
        raise Conflict(
            f"{place.key}: others changed it at each of {self._settings.update_attempts} attempts; merge instead, "
            "or raise update_attempts"
        )

    def _whole(self, user_id: str, record: M, before: Snapshot[M] | None) -> Attributes:
        """What is to be stored of a whole record."""
        return self._shape.told(record, before)

    async def _found(self, user_id: str, place: Place) -> tuple[Snapshot[M] | None, dict[bytes, bytes]]:
        """A record and its fields: one round trip, or three if it is migrated first."""
        (fields,) = await self._hashes([place])
        found = await self._snapshot(user_id, place, fields)
        if found is not None and int(fields[b"@version"]) != found.version:
            (fields,) = await self._hashes([place])
        return found, fields


class RecordOperations(RecordStoreBase[M]):
    """Every operation on the records of one name, written once.

    `RecordStore` and `AsyncRecordStore` are what callers use; `RecordBatch` is the same inside a batch.
    """

    def __init__(self, shared: Shared, name: str, model: type[M]) -> None:
        super().__init__(shared, model)
        self.name = name
        self.model = model

    def _place(self, user_id: str, record_id: str) -> Place:
        return Place(
            self._keys.record(user_id, self.name, record_id), self._keys.records(user_id, self.name), record_id
        )

    @op
    async def get(self, user_id: str, record_id: str, *, fresh: bool = False) -> M | None:
        """The record, None if there is none. With `Settings.coherence`, from L1 unless `fresh`."""
        found = (await self._read(user_id, [self._place(user_id, record_id)], fresh=fresh))[0]
        return None if found is None else found.record

    @op
    async def snapshot(self, user_id: str, record_id: str, *, fresh: bool = False) -> Snapshot[M] | None:
        """The record with its version and times, None if there is none. With `Settings.coherence`, as `get`."""
        return (await self._read(user_id, [self._place(user_id, record_id)], fresh=fresh))[0]

    @op
    async def get_many(self, user_id: str, record_ids: Iterable[str]) -> "Records[M]":
        """Those of these records that there are. Those that cannot be read are in `Records.unreadable`."""
        return await self._get_many(user_id, list(dict.fromkeys(record_ids)))

    @op
    async def get_all(self, user_id: str) -> "Records[M]":
        """Every record of the user, by id. Two round trips. Those that cannot be read are in `Records.unreadable`."""
        listed = await self._link.execute("HKEYS", self._keys.records(user_id, self.name))
        return await self._get_many(user_id, [name.decode() for name in listed])

    @op
    async def ids(self, user_id: str) -> list[str]:
        """The ids of the user's records."""
        return sorted(
            name.decode() for name in await self._link.execute("HKEYS", self._keys.records(user_id, self.name))
        )

    @op
    async def merge(
        self,
        user_id: str,
        record_id: str,
        record: M | Mapping[str, Any],
        *,
        if_version: int | None = None,
        durable: Durability | None = None,
    ) -> Merged:
        """Merge a record, or a mapping of some of its attributes, into the one that is stored.

        Of a pydantic model the attributes that were set take part, of a dataclass all.
        """
        changes = self._shape.merging(record, self._codec)
        return (await self._write(user_id, [Write(self._place(user_id, record_id), changes, if_version)], durable))[0]

    @op
    async def merge_many(
        self, user_id: str, records: Mapping[str, M | Mapping[str, Any]], *, durable: Durability | None = None
    ) -> dict[str, Merged]:
        """Merge several records, by id, all or none, in one round trip."""
        writes = [
            Write(self._place(user_id, record_id), self._shape.merging(record, self._codec))
            for record_id, record in records.items()
        ]
        return dict(zip(records, await self._write(user_id, writes, durable), strict=True))

    @op
    async def replace(
        self,
        user_id: str,
        record_id: str,
        record: M,
        *,
        if_version: int | None = None,
        durable: Durability | None = None,
    ) -> Merged:
        """Make the stored record this one, whatever it was. What has its default, and was not set, is not stored."""
        changes = self._shape.replacing(self._shape.told(record, None), self._codec)
        return (await self._write(user_id, [Write(self._place(user_id, record_id), changes, if_version)], durable))[0]

    @op
    async def update(
        self, user_id: str, record_id: str, fn: Callable[[M | None], Any], *, durable: Durability | None = None
    ) -> M:
        """Replace the record by `fn(record)`, if nobody changed it meanwhile, else start over; returns what was stored.

        `fn` gets None where there is no record, and may be called several times; for `AsyncMemory` it may be a
        coroutine function. Raises `Conflict` after `Settings.update_attempts` attempts.
        """
        return await self._update(user_id, self._place(user_id, record_id), fn, durable)

    @op
    async def delete(self, user_id: str, *record_ids: str, durable: Durability | None = None) -> int:
        """Forget records; how many there were."""
        return await self._delete(user_id, [self._place(user_id, record_id) for record_id in record_ids], durable)

    @stream
    async def scan(self, batch_size: int = 100) -> AsyncIterator[tuple[str, str]]:
        """User and record id of every record of this name, in no order and never all in memory: as `sessions.scan`.

        About `batch_size` keys of the server, of whatever kind, are looked at for each round trip.
        """
        async for names in scanned(self._link, self._keys.record_pattern(self.name), "hash", batch_size):
            for name in names:
                with suppress(InvalidKey):  # not a key of ours: no id is written like that
                    yield self._keys.record_ids_of(name)

    @op
    async def migrate(self, user_id: str, record_id: str, *, dry_run: bool = False) -> Migrated:
        """Bring a record to the model's version, if nobody changed it meanwhile, else start over, a few times.

        Two round trips for each attempt; `dry_run` only looks. What `get` does on its own, without an L1.
        Raises `DecodeError` if the record cannot be read or migrated: it stays as it is.
        """
        return await self._migrate(user_id, self._place(user_id, record_id), dry_run=dry_run)

    async def _get_many(self, user_id: str, record_ids: Sequence[str]) -> "Records[M]":
        records = Records[M]()
        places = [self._place(user_id, record_id) for record_id in record_ids]
        for record_id, place, fields in zip(record_ids, places, await self._hashes(places), strict=True):
            try:
                found = await self._snapshot(user_id, place, fields)
            except DecodeError as error:
                records.unreadable[record_id] = error
            else:
                if found is not None:
                    records[record_id] = found.record
        return records


class RecordStore(RecordOperations[M], Blocking):
    """Records for threads: every operation of `RecordOperations` as a plain call."""


class AsyncRecordStore(RecordOperations[M], Asyncio):
    """Records for tasks: every operation of `RecordOperations`, to be awaited."""


class RecordBatch(RecordOperations[M], BatchedStore):
    """Records inside a batch: every operation of `RecordOperations`, giving a `Handle`."""


def _fields(reply: Reply) -> dict[bytes, bytes]:
    """HGETALL's reply."""
    if isinstance(reply, LinkError):
        raise reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _is_idempotent(writes: Sequence[Write]) -> bool:
    """Whether applying these twice is applying them once."""
    return all(write.if_version is None and all(change[0] != "add" for change in write.changes) for write in writes)


def _merged(reply: Sequence[Any]) -> Merged:
    version, created, *changed = reply
    return Merged(int(version), created == b"1", _attributes(changed))


def _attributes(fields: Iterable[bytes]) -> frozenset[str]:
    """The attributes that these fields are of."""
    return frozenset(field.partition(MEMBER)[0].removesuffix(RANK).decode() for field in fields if field)


def _place(writes: Sequence[Write], name: bytes) -> str:
    return next((write.place.key for write in writes if write.place.name.encode() == name), name.decode())
