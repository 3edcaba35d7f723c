"""What stores of documents have in common: episodes, facts and skills of a scope, to be got, searched and forgotten.

`scope` is who remembers together: a team, a user, a project; "default" if it does not matter. Each operation is one
round trip and atomic, except `stream` (one for each batch), `update` (two for each attempt), and the first search of
a scope in a process, which reads the scope. Searches see every write that was acknowledged before, in any process; with
`Settings.coherence`, those of other processes within its bound, or at once if they are `fresh`.
"""

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redismem.durability import Durability
from redismem.errors import ConfigError, Conflict, DecodeError, EmbedderFailed, InvalidKey, SchemaError, problems
from redismem.op import logger, op, settle, stream
from redismem.search.document import Query, Vector
from redismem.search.documents import Documents
from redismem.stores.arguments import moment, natural, number
from redismem.stores.collection import Collection, Put, Stored
from redismem.stores.replica import Look, Replica, Replicas
from redismem.stores.store import Shared
from redismem.ttl import KEEP_TTL, TTL


class Told(BaseModel):
    """What was told, when, and what goes with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")  # what nobody would read again: it belongs in metadata

    tags: frozenset[str] = frozenset()
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])
    created_at: datetime | None = None
    """With a time zone. If it is not given, the time of adding, by the server's clock."""


D = TypeVar("D", bound=Told)

DEFAULT_SCOPE: Final = "default"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_PAGE: Final = 1000
_REMEMBERED: Final = 2_000
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
        made = Replicas(self._settings.search_documents, self._settings.weights)
        self._replicas: Replicas = shared.replicas.setdefault(kind, made)

    # --- operations -------------------------------------------------------------------------------------------------

    @op
    async def get(self, memory_id: str, *, scope: str = DEFAULT_SCOPE) -> D | None:
        """The document with this id, None if there is none. Raises `DecodeError` if it cannot be read."""
        (stored,) = await self.read(scope, [memory_id])
        if stored.data is None:
            return None
        self.used(scope, [memory_id])
        return self._read_one(scope, stored)

    @op
    async def get_many(self, memory_ids: Iterable[str], *, scope: str = DEFAULT_SCOPE) -> list[D]:
        """Those of these documents that there are; what cannot be read is left out, and logged."""
        found = await self.read(scope, list(memory_ids))
        self.used(scope, [one.id for one in found if one.data is not None])
        return [read for one in found if one.data is not None and (read := self._readable(scope, one)) is not None]

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
        Raises `Conflict` after `Settings.update_attempts` attempts, `InvalidKey` if `fn` gives a document with another
        id, `SchemaError` if it gives none.
        """
        for attempt in range(self._settings.update_attempts):
            if attempt:
                await self._link.sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 9)))
            (stored,) = await self.read(scope, [memory_id])
            if stored.data is None:
                return None
            changed: D = await settle(fn(self.as_told(scope, stored)))
            (put,) = await self._puts([changed], KEEP_TTL)
            if put.id != memory_id:
                raise InvalidKey(f"update of {memory_id!r}: that would be {put.id!r}: add that, delete this")
            put = replace(put, expected=stored.data, told=self.told(stored.data))
            if (await self.put(scope, [put], durable))[0] is not None:
                return self.seen(put.document, stored)
        raise Conflict(
            f"{self._keys.collection(scope, self.kind)}[{memory_id}]: others changed it at each of "
            f"{self._settings.update_attempts} attempts"
        )

    @op
    async def embed(self, *, scope: str = DEFAULT_SCOPE, batch_size: int = 100) -> int:
        """Make embeddings of those documents that have none of this memory's embedder; of how many.

        From then on the scope is this embedder's: the embeddings of another one are dropped. Run it again after the
        last worker with another embedder has ended. Four round trips for each batch.
        Raises `ConfigError` without `Settings.embedder`, `EmbedderFailed` if that raises anything, `SchemaError` if it
        gives no embeddings.
        """
        natural("batch_size", batch_size)
        await self.adopt(scope)
        made = 0
        async for page in self.pages(scope, batch_size, embedded=True):
            bare = [one for one in page if one.embedding is None and self._readable(scope, one) is not None]
            puts = await self._embedded([self._again(scope, one) for one in bare])
            made += sum(outcome is not None for outcome in await super().put(scope, puts)) if puts else 0
        return made

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
        """Every document, in batches of `batch_size`, the last one of fewer; what cannot be read is left out, logged.

        `min_score`: of episodes, only those that scored at least that, unless it is 0. In constant memory. While others
        add and delete, what is there from first to last comes, and comes once, unless so much is deleted meanwhile that
        the server reads a part again which is more than 2,000 documents back.
        Raises `ConfigError` for a `batch_size` that is no whole number from 1 on, and a `min_score` that is no number.
        """
        natural("batch_size", batch_size)
        number("min_score", min_score)
        batch, met = list[D](), OrderedDict[str, None]()
        async for page in self.pages(scope, batch_size):
            for stored in page:
                one = None if _is_repeated(stored.id, met) else self._readable(scope, stored)
                if one is not None and (not min_score or getattr(one, "score", min_score) >= min_score):
                    batch.append(one)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    @op
    async def compact(
        self,
        fn: Callable[[list[D]], Any],
        *,
        before: datetime,
        scope: str = DEFAULT_SCOPE,
        batch_size: int = 100,
        durable: Durability | None = None,
    ) -> int:
        """Replace documents from before a moment by what `fn` makes of them; by how many there are fewer.

        `fn` gets `batch_size` documents at a time, the oldest first, and gives those that take their place, such as one
        that sums them up, or none; for `AsyncMemory` it may be a coroutine function. Each batch is replaced at once, or
        not at all if somebody changed one of its documents meanwhile. What comes has no TTL.
        Two round trips for each batch, after those that read the scope.
        Raises `ConfigError` for a `before` without a time zone, and a `batch_size` that is no whole number from 1 on;
        `SchemaError` if `fn` gives no list of documents, `Conflict` if one of them has the id of one that stays:
        earlier batches are replaced then.
        """
        moment("before", before)
        natural("batch_size", batch_size)
        fewer, old = 0, await self._older(scope, before)
        for start in range(0, len(old), batch_size):
            read = await self.read(scope, old[start : start + batch_size])
            gone = [one for one in read if one.data is not None and self._readable(scope, one) is not None]
            if gone:
                puts = await self._puts(await settle(fn([self.as_told(scope, one) for one in gone])))
                data = {one.id: one.data or b"" for one in gone}
                puts = [replace(one, expected=data.get(one.id, b"")) for one in puts]
                fewer += await self.replace(scope, gone, puts, durable) or 0
        return fewer

    async def _older(self, scope: str, before: datetime) -> list[str]:
        """The ids of the documents from before a moment, the oldest first."""
        found: dict[str, float] = {}
        async for page in self.pages(scope, _PAGE):
            told = self.indexed(page)
            found |= {id_: at for id_, at in zip(told.id, told.at, strict=True) if at < before.timestamp()}
        return sorted(found, key=lambda id_: (found[id_], id_))

    # --- what each kind says ----------------------------------------------------------------------------------------

    def documents(self, page: Sequence[Stored], attributes: Sequence[dict[str, Any]]) -> Documents:
        """What is searched for documents with these attributes. Raises anything if one is damaged."""
        raise NotImplementedError

    def put_of(self, document: D, ttl: TTL, told: int | None = None) -> Put[D]:
        """How a document is stored; `told` as `Put.told`."""
        raise NotImplementedError

    def as_told(self, scope: str, stored: Stored) -> D:
        """The document as those get it who change it. Raises `DecodeError`."""
        return self._read_one(scope, stored)

    def seen(self, document: D, stored: Stored) -> D:
        """The document as its readers get it."""
        del stored
        return document

    # --- embeddings -------------------------------------------------------------------------------------------------

    async def put(self, scope: str, puts: Sequence[Put[D]], durable: Durability | None = None) -> list[bool | None]:
        """See `Collection.put`: with the embeddings of what is put, if the embedder works."""
        return await super().put(scope, await self._embedded_if_it_works(puts), durable)

    async def replace(
        self, scope: str, gone: Sequence[Stored], puts: Sequence[Put[D]], durable: Durability | None = None
    ) -> int | None:
        """See `Collection.replace`: with the embeddings of what is put, if the embedder works."""
        return await super().replace(scope, gone, await self._embedded_if_it_works(puts), durable)

    async def _embedded_if_it_works(self, puts: Sequence[Put[D]]) -> Sequence[Put[D]]:
        try:
            return await self._embedded(puts)
        except EmbedderFailed as error:
            logger.warning("%s: stored without embeddings, until `embed` makes them: %s", self.kind, error)
            return puts

    async def _embedded(self, puts: Sequence[Put[D]]) -> Sequence[Put[D]]:
        if not (self._embeddings and puts):
            return puts
        made = await self._embeddings.stored(self._texts(puts))
        return [replace(one, embedding=embedding) for one, embedding in zip(puts, made, strict=True)]

    def _again(self, scope: str, stored: Stored) -> Put[D]:
        """A document as it is, if nobody changes it meanwhile."""
        data = stored.data or b""
        return Put(stored.id, self.decoded(scope, stored.id, data), KEEP_TTL, expected=data, told=self.told(data))

    def _texts(self, puts: Sequence[Put[D]]) -> list[str]:
        """What is searched in documents."""
        page = [Stored(one.id, None, math.inf) for one in puts]
        return self.documents(page, [one.document.model_dump(exclude_defaults=True) for one in puts]).text

    # --- searching --------------------------------------------------------------------------------------------------

    async def _search(self, scope: str, query: Query, *, fresh: bool) -> list[Result[D]]:
        _check(query)
        look = Look(replica := self._replicas.of(scope), query)
        await self._synced(replica, fresh, None if self._embeddings else look.early)
        if self._embeddings:  # which take a name for a word until the replica is read
            look = Look(replica, replace(query, vector=await self._meant(replica, query.text)))
        found = look.found()
        results = [
            Result(document, hit.score)
            for stored, hit in found
            if (document := self._readable(scope, stored)) is not None
        ]
        self.used(scope, [stored.id for stored, _ in found])
        return results

    async def _meant(self, replica: Replica, question: str) -> Vector | None:
        """The embedding of a question; None if there is none to be had, and words have to do."""
        if not question.strip():
            return None
        try:
            vector: Vector = (await self._embeddings.of([replica.nameless(question)]))[0]
            return vector
        except EmbedderFailed as error:
            logger.warning("%s: searched by words alone: %s", self.kind, error)
            return None

    async def _best(
        self, scope: str, query: Query, worth: Callable[[Stored], Any], limit: int, *, fresh: bool
    ) -> list[Stored]:
        """Of all that pass the filters, those that are worth the most."""
        natural("limit", limit)
        await self._synced(replica := self._replicas.of(scope), fresh)
        found = (stored for stored, _ in replica.search(replace(query, limit=len(replica))))
        best = heapq.nlargest(limit, found, key=worth)
        self.used(scope, [one.id for one in best])
        return best

    async def _synced(self, replica: Replica, fresh: bool, meanwhile: Callable[[], None] | None = None) -> None:
        """See to it that every change from before this call is here; if not `fresh`, L1 may say that there was none."""
        if self._l1 is None or replica.position is None:
            await replica.sync(self, meanwhile)
        else:
            name = self._keys.collection(replica.scope, self.kind)
            await self._l1.through(name, _SYNCED, lambda: self._sync(replica, meanwhile), fresh=fresh)

    async def _sync(self, replica: Replica, meanwhile: Callable[[], None] | None) -> tuple[bool, int]:
        await replica.sync(self, meanwhile)
        return True, 0

    def indexed(self, page: Sequence[Stored]) -> Documents:
        """See `redismem.stores.replica.Source`."""
        readable, attributes = list[Stored](), list[Any]()
        for one in page:
            try:
                attributes.append(self.attributes(one.data or b""))
                readable.append(one)
            except DecodeError:
                pass  # reading it by its id says why
        return self._indexed(readable, attributes)

    def _indexed(self, page: Sequence[Stored], attributes: Sequence[Any]) -> Documents:
        try:
            documents = self.documents(page, attributes)
        except (AttributeError, LookupError, TypeError, ValueError):
            if len(page) == 1:
                return Documents()
            half = len(page) // 2
            documents = self._indexed(page[:half], attributes[:half])
            documents.extend(self._indexed(page[half:], attributes[half:]))
            return documents
        if self._embeddings:
            documents.vector = [self._embeddings.read(one.embedding) for one in page]
        return documents

    async def pause(self, seconds: float) -> None:
        """See `redismem.stores.replica.Source`."""
        await self._link.sleep(seconds)

    # --- reading ----------------------------------------------------------------------------------------------------

    def attributes(self, data: bytes) -> Any:
        """See `Collection.attributes`. Moments that have no time zone were stored before they were refused: UTC."""
        attributes = self._codec.decode(data)
        try:
            if (told := attributes["created_at"]).tzinfo is None:
                attributes["created_at"] = told.replace(tzinfo=UTC)
        except (AttributeError, LookupError, TypeError):
            pass  # who reads it says what is wrong
        return attributes

    def _read_one(self, scope: str, stored: Stored) -> D:
        return self.seen(self.decoded(scope, stored.id, stored.data or b""), stored)

    def _readable(self, scope: str, stored: Stored) -> D | None:
        try:
            return self._read_one(scope, stored)
        except DecodeError as error:
            logger.error("left out: %s", error)
            return None

    async def _puts(self, documents: Iterable[D], ttl: TTL = None) -> list[Put[D]]:
        """How documents are stored; those that do not say when they were told are told now, one after the other."""
        if not isinstance(documents, Iterable):
            raise SchemaError(
                f"{self.kind}: a list of {self.model.__name__} is wanted, not a {type(documents).__name__}"
            )
        now, puts = await self._now(), list[Put[D]]()
        for one in documents:
            if not isinstance(one, self.model):
                raise SchemaError(f"{self.kind}: a {self.model.__name__} is wanted, not a {type(one).__name__}")
            now += _MICROSECOND
            if getattr(one, "created_at", None) is None:
                puts.append(self.put_of(self._checked(one, {**vars(one), "created_at": now}), ttl))
            else:
                puts.append(self.put_of(self._checked(one, vars(one)), ttl, (now - _EPOCH) // _MICROSECOND))
        return puts

    def _checked(self, one: D, attributes: dict[str, Any]) -> D:
        """A document with these attributes. Copies may have been made with anything: it must be readable.

        Raises `SchemaError`.
        """
        try:
            checked = self.model.__pydantic_validator__.validate_python(attributes)
        except ValidationError as error:
            raise SchemaError(f"{self.kind}: no {self.model.__name__}: {problems(error)[0]}") from None
        if checked.created_at.tzinfo is None:
            raise SchemaError(f"{self.kind}: no {self.model.__name__}: created_at: give a datetime with a time zone")
        return checked if type(one) is self.model else one.model_copy(update=cast(dict[str, Any], vars(checked)))

    async def _now(self) -> datetime:
        return datetime.fromtimestamp(await self._shared.clock.asked(self._link), UTC)


def moment_of(told: int) -> datetime:
    """When a document was told: see `Put.told`."""
    return _EPOCH + told * _MICROSECOND


def _check(query: Query) -> None:
    """Raises `ConfigError` for what nobody can search."""
    natural("limit", query.limit)
    if not isinstance(query.text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"query={query.text!r}: give a text")


def _is_repeated(id_: str, met: OrderedDict[str, None]) -> bool:
    """Whether it is among the latest that were met; it is from now on."""
    if id_ in met:
        return True
    met[id_] = None
    if len(met) > _REMEMBERED:
        met.popitem(last=False)
    return False


def all_tags(tags: Iterable[str] | None) -> frozenset[str]:
    """The tags of a query. Raises `ConfigError` for a text, which would be the tags of its letters."""
    if isinstance(tags, str):
        raise ConfigError(f"tags={tags!r}: give them as a list")
    return frozenset(tags or ())
