"""Temporal values: what is true of a user for a while, and then forgotten by the server.

Contract
    ``memory.temporal.put("42", "typing", True, ttl=5)``: each value has a TTL of its own, which nothing but another
    `put` changes. By the server's clock, on every server: the same call in any process finds it, or does not.

Round trips and errors are those of `redismem.stores.values`.
"""

from typing import Any

from redismem.durability import Durability
from redismem.errors import InvalidTTL
from redismem.keys import field
from redismem.link.features import ExpiryTier
from redismem.op import Asyncio, Blocking, op
from redismem.scripts import script
from redismem.stores.store import BatchedStore
from redismem.stores.values import NamedValues
from redismem.ttl import milliseconds


class TemporalOperations(NamedValues):
    """Every operation on temporal values, written once.

    `TemporalStore` and `AsyncTemporalStore` are what callers use; `TemporalBatch` is the same inside a batch.
    """

    def _place(self, user_id: str) -> str:
        return self._keys.temporal(user_id)

    @op
    async def put(self, user_id: str, key: str, value: Any, ttl: float, *, durable: Durability | None = None) -> None:
        """Store a value for `ttl` seconds from now on, whatever it was before. Raises `InvalidTTL` without any."""
        if (ttl_ms := milliseconds(ttl)) <= 0:
            raise InvalidTTL(f"ttl {ttl!r}: a temporal value ends; give a number of seconds")
        await self._put(user_id, {key: value}, ttl_ms, durable)

    @op
    async def ttl(self, user_id: str, key: str) -> float | None:
        """Seconds that a value has left; None if there is none."""
        place, wanted = self._place(user_id), field(key)
        tier = (await self._link.features()).tier
        if tier is ExpiryTier.DEADLINES:
            keys = place, place, self._keys.deadlines(place)
            left = (await script("ttl", tier)(self._link, keys, ("", wanted)))[1]
        else:
            reply = await self._link.execute("HPTTL", place, "FIELDS", 1, wanted)
            left = reply[0] if reply else -2
        return left / 1000 if left >= 0 else None


class TemporalStore(TemporalOperations, Blocking):
    """Temporal values for threads: every operation of `TemporalOperations` as a plain call."""


class AsyncTemporalStore(TemporalOperations, Asyncio):
    """Temporal values for tasks: every operation of `TemporalOperations`, to be awaited."""


class TemporalBatch(TemporalOperations, BatchedStore):
    """Temporal values inside a batch: every operation of `TemporalOperations`, giving a `Handle`."""
