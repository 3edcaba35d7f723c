"""Named values: several under one key, a field each; and what stores of users' named values are made of.

Contract
    A user's values of one kind are one hash, with a field for each name, whose TTLs the server keeps. Every call is
    atomic, and touches no value but those that it names. Values that cannot be read are in `Values.unreadable`, and
    hide none of the others.

Round trips
    One for each call; none for a read that L1 can answer (`Settings.coherence`), which keeps a user's values together.

Errors
    `InvalidKey` for what is no user or no name, `InvalidTTL`, `EncodeError`, `LinkError`; `DecodeError`, which names
    the place, where a value cannot be read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

from redismem.cache.kept import Kept
from redismem.cache.reads import Fetched, Item
from redismem.codec import Codec
from redismem.durability import Durability
from redismem.errors import DecodeError
from redismem.keys import field
from redismem.link.base import Command
from redismem.link.features import ExpiryTier
from redismem.op import op
from redismem.scripts import script
from redismem.stores.effects import Effects


class Values(dict[str, Any]):
    """The readable values of a hash. `unreadable` reports the others: key -> `DecodeError`.

    `stale_for` is None, or for how many seconds these values may have been out of date: copies from this process'
    memory that are served on purpose, by `Settings.l1_fail_safe` or `Settings.l1_stale_while_revalidate`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: dict[str, DecodeError] = {}
        self.stale_for: float | None = None

    @classmethod
    def of(cls, found: Iterable[tuple[bytes, Item]], codec: Codec, place: str, stale_for: float | None = None) -> Self:
        """The values of these fields; what cannot be read is reported under its name as far as that can be read."""
        values, decode = cls(), codec.decode
        values.stale_for = stale_for
        for raw, item in found:
            if item is None:
                continue
            try:
                values[raw.decode()] = item.again() if isinstance(item, Kept) else decode(item)
            except (DecodeError, UnicodeDecodeError) as error:
                key = raw.decode(errors="backslashreplace")
                values.unreadable[key] = unreadable(error, place, key)
        return values


class NamedValues(Effects):
    """What all stores of named values of users do, written once."""

    def _place(self, user_id: str) -> str:
        """The hash of a user's values. Raises `InvalidKey`."""
        raise NotImplementedError

    @op
    async def get(self, user_id: str, key: str, default: Any = None, *, fresh: bool = False) -> Any:
        """One value, `default` where there is none. From L1 unless `fresh`, if that is on."""
        place, wanted = self._place(user_id), field(key)
        item = (await self._look(place, (wanted,), fresh))[0].get(wanted)
        return default if item is None else decoded(item, self._codec, place, key)

    @op
    async def get_all(self, user_id: str, *, fresh: bool = False) -> Values:
        """All values, by name. From L1 unless `fresh`, if that is on."""
        return await self._all(user_id, fresh)

    @op
    async def delete(self, user_id: str, key: str, *, durable: Durability | None = None) -> bool:
        """Forget one value. True if there was one."""
        return await self._drop(user_id, (field(key),), durable) == 1

    @op
    async def forget(self, user_id: str, *, durable: Durability | None = None) -> int:
        """Forget all values of a user; how many there were."""
        return await self._drop(user_id, (), durable)

    async def _all(self, user_id: str, fresh: bool) -> Values:
        place = self._place(user_id)
        found, stale_for = await self._look(place, (), fresh)
        return Values.of(sorted(found.items()), self._codec, place, stale_for)

    async def _look(
        self, place: str, fields: tuple[bytes, ...], fresh: bool
    ) -> tuple[Mapping[bytes, Item], float | None]:
        """These fields, of none given all, and how stale they are; L1 has all or none."""
        seen, l1 = None, self._l1
        if l1 is not None:
            fetch = partial(self._fetch, place)
            seen = None if fresh else l1.at_hand(place, (), fetch)
            if seen is None and l1.keeps(place, ()):
                seen = await l1.read(place, (), fetch, fresh=fresh)
        if seen is None:
            return await self._read(place, fields), None
        return cast(tuple[Mapping[bytes, Item], float | None], seen)

    async def _fetch(self, place: str) -> Fetched:
        """All fields, and for how long they live."""
        tier = (await self._link.features()).tier
        ends, found, lefts = await script("keep", tier)(self._link, (place, place, self._keys.deadlines(place)), ())
        return by_field(found), None if lefts is None else lives(ends, lefts)

    async def _read(self, place: str, fields: tuple[bytes, ...]) -> Mapping[bytes, bytes | None]:
        """These fields from the server, of none given all."""
        tier = (await self._link.features()).tier
        if tier is ExpiryTier.DEADLINES:
            keys = place, place, self._keys.deadlines(place)
            found = (await script("load", tier)(self._link, keys, ("", *fields)))[1:]
        else:
            command: Command = ("HMGET", place, *fields) if fields else ("HGETALL", place)
            found = await self._link.execute(*command)
        return dict(zip(fields, found, strict=True)) if fields else by_field(found)

    async def _put(self, user_id: str, values: Mapping[str, Any], ttl_ms: int, durable: Durability | None) -> None:
        place = self._place(user_id)
        pairs = [data for key, value in values.items() for data in (field(key), self._codec.encode(value))]
        if not pairs:
            return
        try:
            keys = place, self._keys.deadlines(place)
            await self._effect("values_put", keys, (ttl_ms, *pairs), durable, once=False)
        finally:
            self._shared.drop(place)

    async def _drop(self, user_id: str, fields: tuple[bytes, ...], durable: Durability | None) -> int:
        """Forget these fields, of none given all; how many there were."""
        place = self._place(user_id)
        try:
            keys = self._keys.user_operations(user_id), place, self._keys.deadlines(place)
            return int((await self._effect("values_drop", keys, fields, durable))[1])
        finally:
            self._shared.drop(place)


def decoded(item: Kept | bytes, codec: Codec, place: str, key: str) -> Any:
    """One value. Raises `DecodeError`, which names the place."""
    try:
        return item.again() if isinstance(item, Kept) else codec.decode(item)
    except DecodeError as error:
        raise unreadable(error, place, key) from None


def unreadable(error: Exception, place: str, key: str) -> DecodeError:
    """The error, naming the stored place that it came from."""
    message = error.message if isinstance(error, DecodeError) else "the name of the field is not UTF-8"
    return DecodeError(message, f"{place}[{key}]")


def by_field(flat: Sequence[Any]) -> dict[bytes, bytes]:
    """HGETALL's reply."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def lives(ends: int, lefts: Sequence[int]) -> list[float]:
    """Seconds that fields live at least, from milliseconds as PTTL and HPTTL say them, of the key and of each field."""
    most = ends / 1000 if ends >= 0 else math.inf
    return [min(left / 1000, most) if left >= 0 else most for left in lefts]
