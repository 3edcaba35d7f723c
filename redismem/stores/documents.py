"""What stores of documents have in common: episodes, facts and skills of a scope, to be got, searched and forgotten.

`scope` is who remembers together: a team, a user, a project; "default" if it does not matter. Each operation is one
round trip and atomic, except `stream` (one for each batch), `update` (two for each attempt), and the first search of
a scope in a process, which reads the scope. Searches see every write that was acknowledged before, in any process.
"""

import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from redismem.durability import Durability
from redismem.errors import Conflict, DecodeError
from redismem.op import op, settle, stream
from redismem.search.document import Document, Query
from redismem.stores.collection import Collection, Put, Stored
from redismem.stores.replica import Replica, Replicas
from redismem.stores.store import Shared
from redismem.ttl import KEEP_TTL

D = TypeVar("D", bound=BaseModel)

DEFAULT_SCOPE: Final = "default"
_SYNCED: Final = b"@synced"


@dataclass(frozen=True, slots=True)
class Result(Generic[D]):
    """A document that was found, and how well it answers: 0 to 1."""

    document: D
    score: float


class DocumentOperations(Collection[D], Generic[D]):
    """What is the same for documents of every kind."""

    def __init__(self, shared: Shared, kind: str, model: type[D]) -> None:
        super().__init__(shared, kind, model)
        self._replicas: Replicas = shared.replicas.setdefault(kind, Replicas(self._settings.search_documents))
        self._offset: float | None = None

    # --- operations -------------------------------------------------------------------------------------------------

    @op
    async def get(self, memory_id: str, *, scope: str = DEFAULT_SCOPE) -> D | None:
        """The document with this id, None if there is none. Raises `DecodeError` if it cannot be read."""
        return (await self._get(scope, [memory_id]))[0]

    @op
    async def get_many(self, memory_ids: Iterable[str], *, scope: str = DEFAULT_SCOPE) -> list[D]:
        """Those of these documents that there are."""
        return [one for one in await self._get(scope, list(memory_ids)) if one is not None]

    @op
    async def delete(self, *memory_ids: str, scope: str = DEFAULT_SCOPE, durable: Durability | None = None) -> int:
        """Forget documents; how many there were."""
        return await self.drop(scope, memory_ids, durable) if memory_ids else 0

    @op
    async def update(
        self,
        memory_id: str,
        fn: Callable[[D], Any],
        *,
        scope: str = DEFAULT_SCOPE,
        durable: Durability | None = None,
    ) -> D | None:
        """Replace a document by `fn(document)`, if nobody changed it meanwhile, else start over; None if it is gone.

        `fn` may be called several times; for `AsyncMemory` it may be a coroutine function. The TTL stays as it is.
        Raises `Conflict` after `Settings.update_attempts` attempts.
        """
        for attempt in range(self._settings.update_attempts):
            if attempt:
                await self._link.sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 9)))
            (stored,) = await self.read(scope, [memory_id])
            if stored.data is None:
                return None
            changed: D = await settle(fn(self.decoded(scope, memory_id, stored.data)))
            put = Put(memory_id, changed, KEEP_TTL, expected=stored.data)
            if (await self.put(scope, [put], durable))[0] is not None:
                return changed
        raise Conflict(
            f"{self._keys.collection(scope, self.kind)}[{memory_id}]: others changed it at each of "
            f"{self._settings.update_attempts} attempts"
        )

    @op
    async def forget(self, *, scope: str = DEFAULT_SCOPE, durable: Durability | None = None) -> int:
        """Forget every document of the scope; how many there were."""
        return await self.drop_all(scope, durable)

    @op
    async def count(self, *, scope: str = DEFAULT_SCOPE) -> int:
        """How many documents there are; some may just have expired."""
        return int(await self._link.execute("HLEN", self._keys.collection(scope, self.kind)))

    @stream
    async def stream(
        self, batch_size: int = 100, min_score: float = 0.0, *, scope: str = DEFAULT_SCOPE
    ) -> AsyncIterator[list[D]]:
        """Every document, in batches of about `batch_size`, in constant memory; what cannot be read is left out."""
        async for page in self.pages(scope, batch_size):
            read = [one for stored in page if (one := self._readable(scope, stored)) is not None]
            if batch := [one for one in read if getattr(one, "score", min_score) >= min_score]:
                yield batch

    # --- what each kind says ----------------------------------------------------------------------------------------

    def document(self, stored: Stored, attributes: dict[str, Any]) -> Document:
        """What is searched for a document."""
        raise NotImplementedError

    def seen(self, document: D, stored: Stored) -> D:
        """The document as its readers get it."""
        del stored
        return document

    # --- searching --------------------------------------------------------------------------------------------------

    async def _search(self, scope: str, query: Query) -> list[Result[D]]:
        replica = await self._synced(scope)
        found = replica.search(query)
        results = [
            Result(document, hit.score)
            for stored, hit in found
            if (document := self._readable(scope, stored)) is not None
        ]
        self.used(scope, [stored.id for stored, _ in found])
        return results

    async def _synced(self, scope: str) -> Replica:
        replica = self._replicas.of(scope)
        if self._l1 is None or replica.position is None:
            await replica.sync(self)
        else:
            name = self._keys.collection(scope, self.kind)
            await self._l1.through(name, _SYNCED, lambda: self._sync(replica))
        return replica

    async def _sync(self, replica: Replica) -> tuple[bool, int]:
        await replica.sync(self)
        return True, 0

    def indexed(self, stored: Stored) -> Document | None:
        """See `redismem.stores.replica.Source`."""
        try:
            attributes = self._codec.decode(stored.data or b"")
            return self.document(stored, attributes)
        except (DecodeError, AttributeError, KeyError, TypeError, ValueError):
            return None  # reading it by its id says why

    async def pause(self, seconds: float) -> None:
        """See `redismem.stores.replica.Source`."""
        await self._link.sleep(seconds)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _get(self, scope: str, ids: Sequence[str]) -> list[D | None]:
        found = await self.read(scope, ids)
        documents = [None if one.data is None else self._read_one(scope, one) for one in found]
        self.used(scope, [one.id for one in found if one.data is not None])
        return documents

    def _read_one(self, scope: str, stored: Stored) -> D:
        return self.seen(self.decoded(scope, stored.id, stored.data or b""), stored)

    def _readable(self, scope: str, stored: Stored) -> D | None:
        try:
            return self._read_one(scope, stored)
        except DecodeError:
            return None

    async def _now(self) -> datetime:
        """The time, by the server's clock: asked once, then carried on by this process' own."""
        if self._offset is None:
            before = time.monotonic()
            seconds, micros = await self._link.execute("TIME")
            self._offset = int(seconds) + int(micros) / 1e6 - (before + time.monotonic()) / 2
        return datetime.fromtimestamp(self._server_seconds(), UTC)

    def _server_seconds(self) -> float:
        return time.monotonic() + (self._offset or 0.0)
