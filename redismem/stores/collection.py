"""Collections: documents of one scope, which is a team, a user, a project, or whatever remembers together.

A document is an instance of a frozen pydantic model, kept as one value. What changes is written to a log, so that
local indexes can follow (`redismem.search`). Documents may expire each at its time; a scope may be bounded
(`Settings.max_documents`), and then those that are used least, and longest ago, go first. That somebody used a
document is noted in memory and sent with the next write, so reading costs no writing.

Each operation is one round trip and atomic, except `stream`, which is one for each batch.
"""

import functools
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from redismem.durability import Durability
from redismem.errors import ConfigError, Conflict, DecodeError, problems
from redismem.keys import field
from redismem.link.base import Argument, Command, Reply
from redismem.operations import IDEMPOTENT
from redismem.scripts import script, surely
from redismem.stores.effects import Effects
from redismem.stores.embeddings import Embeddings
from redismem.stores.store import Shared
from redismem.ttl import TTL, milliseconds

D = TypeVar("D", bound=BaseModel)

_MOST_SCOPES: Final = 1_000
_MOST_USES: Final = 1_000


@dataclass(slots=True)  # frozen, it would take three times as long to make
class Put(Generic[D]):
    """A document that is to be stored."""

    id: str
    document: D
    ttl: TTL = None
    rank: bytes = b""
    """If not empty: replace the document that is there only if its rank is less."""
    importance: float = 0.0
    """0 to 1: the more important, the longer it stays unused."""
    expected: bytes = b""
    """If not empty: replace these bytes only."""
    embedding: bytes = b""
    """If not empty: as `Embeddings.stored` gives it."""
    told: int | None = None
    """Orders what was made at one instant: when it was told, in microseconds."""


@dataclass(slots=True)  # frozen, it would take twice as long to make, and a scope has many
class Stored:
    """A document as the server has it."""

    id: str
    data: bytes | None
    """None: it is gone."""
    left: float
    """Seconds that it lives, at least; infinity without end."""
    uses: int = 0
    successes: int = 0
    embedding: bytes | None = None
    """None: it has none that this process can compare, or it was not asked for."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a collection stands."""

    change: int
    """The number of the latest change."""
    timed: bool
    """Whether documents may have an end."""
    embedded: bool
    """Whether documents may have an embedding that this process can compare."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed up to a change."""

    number: int
    more: bool
    documents: list[Stored]


class Collection(Effects, Generic[D]):
    """The documents of one kind, in all scopes."""

    is_counted: ClassVar[bool] = False
    """Whether readers of pages want to know how often a document was used."""

    def __init__(self, shared: Shared, kind: str, model: type[D]) -> None:
        super().__init__(shared)
        self.kind = kind
        self.model = model
        self._embeddings = Embeddings(shared.settings.embedder, shared.link)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def put(self, scope: str, puts: Sequence[Put[D]], durable: Durability | None = None) -> list[bool | None]:
        """Store documents: of each, whether it is new; None if it was not stored, because of its rank."""
        reply = await self._change("collection_put", scope, self._arguments(puts), durable)
        outcomes = reply[1].decode() if isinstance(reply[1], bytes) else [outcome.decode() for outcome in reply[1]]
        return [{"1": True, "2": False}.get(outcome) for outcome in outcomes]

    async def replace(
        self, scope: str, gone: Sequence[Stored], puts: Sequence[Put[D]], durable: Durability | None = None
    ) -> int | None:
        """Put documents in the place of others, all at once; by how many there are fewer.

        None if somebody changed one of those: nothing was done. Raises `Conflict` if one would replace another that
        stays.
        """
        arguments: list[Argument] = [len(gone)]
        for one in gone:
            arguments += one.id, one.data or b""
        reply = await self._change("collection_replace", scope, [*arguments, *self._arguments(puts)], durable)
        if reply[1] == b"TAKEN":
            raise Conflict(f"{self._keys.collection(scope, self.kind)}: one of the new documents has the id of another")
        return None if reply[1] == b"CHANGED" else int(reply[1])

    async def drop(self, scope: str, ids: Sequence[str], durable: Durability | None = None) -> int:
        """Forget documents: how many there were."""
        return int((await self._change("collection_drop", scope, [field(one, "id") for one in ids], durable))[1])

    async def report(self, scope: str, id_: str, success: bool, durable: Durability | None = None) -> bool:
        """Count a use that was reported, and whether it was a success. False if there is no such document."""
        arguments: list[Argument] = [id_, 1, 1, int(success)]
        return int((await self._change("collection_use", scope, arguments, durable))[1]) > 0

    async def drop_all(self, scope: str, durable: Durability | None = None) -> int:
        """Forget every document of a scope: how many there were."""
        return int((await self._change("collection_forget", scope, [], durable))[1])

    async def adopt(self, scope: str) -> None:
        """See to it that the embeddings of a scope are those of this process' embedder, or none. Two round trips.

        Where nothing is, nothing is noted: the first who puts something there says whose embeddings they are.
        Raises `ConfigError` without an embedder.
        """
        if not self._embeddings:
            raise ConfigError("there is no embedder: make the memory with one, such as embedder=Hashing()")
        position = await self.position(scope)
        if not position.change and not await self._link.execute("EXISTS", self._keys.collection(scope, self.kind)):
            return
        if not position.embedded:
            vectors = self._keys.collection_vectors(scope, self.kind)
            named = ("HSET", self._keys.collection_meta(scope, self.kind), "embedder", self._embeddings.name)
            await self._link.transaction((named, ("DEL", vectors, self._keys.deadlines(vectors))))

    def used(self, scope: str, ids: Iterable[str]) -> None:
        """Somebody was given these: the next write to the scope says so."""
        used = self._shared.used
        if (self.kind, scope) in used or len(used) < _MOST_SCOPES:
            used.setdefault((self.kind, scope), deque(maxlen=_MOST_USES)).extend(ids)

    async def _change(self, verb: str, scope: str, arguments: list[Argument], durable: Durability | None) -> Reply:
        arguments = [*self._head(), *arguments]
        try:
            return await self._effect(verb, self._write_keys(scope), arguments, durable, ahead=await self._noted(scope))
        finally:
            self._forget_kept(scope)

    def _forget_kept(self, scope: str) -> None:
        self._shared.drop(self._keys.collection(scope, self.kind))

    async def _noted(self, scope: str) -> list[Command]:
        """What says which documents of a scope were used; nothing is lost by saying it twice."""
        uses: list[Argument] = []
        for id_, times in Counter(self._shared.used.pop((self.kind, scope), ())).items():
            uses += id_, times, 0, 0
        if not uses:
            return []
        call = script("collection_use", (await self._link.features()).tier)
        return list(surely([call.command(self._write_keys(scope), (*IDEMPOTENT, *self._head(), *uses))]))

    def _arguments(self, puts: Iterable[Put[D]]) -> list[Argument]:
        arguments: list[Argument] = []
        for one in puts:
            uses = math.exp(4 * one.importance)
            arguments += field(one.id, "id"), self.encoded(one.document, one.told), milliseconds(one.ttl), one.rank
            arguments += f"{uses:.6f}", one.expected, one.embedding
        return arguments

    def _head(self) -> tuple[Argument, ...]:
        settings = self._settings
        span = milliseconds(settings.use_half_life / math.log(2))
        return settings.max_documents or 0, settings.change_log, span, self._embeddings.name

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, scope: str, ids: Sequence[str]) -> list[Stored]:
        """Documents by their ids, as the server has them."""
        if not ids:
            return []
        key, meta = self._keys.collection(scope, self.kind), self._keys.collection_meta(scope, self.kind)
        tier = (await self._link.features()).tier
        reply = await script("collection_read", tier)(self._link, (key, self._keys.deadlines(key), meta), tuple(ids))
        return [
            Stored(id_, data, _seconds(left), int(uses), int(successes))
            for id_, (data, left, uses, successes) in zip(ids, reply, strict=True)
        ]

    async def changes(
        self, scope: str, position: int, most: int, held: int = 0, meanwhile: Callable[[], None] | None = None
    ) -> Changes | None:
        """What has changed since that change, in one round trip; None if a reader that has `held` must read anew.

        `meanwhile`: see `Link.meanwhile`.
        """
        key, tier = self._keys.collection(scope, self.kind), (await self._link.features()).tier
        log, meta = self._keys.collection_log(scope, self.kind), self._keys.collection_meta(scope, self.kind)
        keys = key, self._keys.deadlines(key), log, meta, self._keys.collection_vectors(scope, self.kind)
        with self._link.meanwhile(meanwhile):
            reply = await script("collection_changes", tier)(
                self._link, keys, (position, most, self._embeddings.name, held)
            )
        if reply[0] == b"RELOAD":
            return None
        documents = [
            Stored(_text(id_), data, _seconds(left), int(uses), int(successes), embedding)
            for id_, data, left, uses, successes, embedding in reply[3:]
        ]
        return Changes(int(reply[1]), reply[2] == b"1", documents)

    async def position(self, scope: str) -> Position:
        """Where the collection stands now."""
        meta = self._keys.collection_meta(scope, self.kind)
        change, timed, embedder = await self._link.execute("HMGET", meta, "change", "timed", "embedder")
        is_mine = embedder is not None and embedder.decode() == self._embeddings.name
        is_timed = timed is not None or change is None  # without meta, which may have been evicted, nobody knows
        return Position(int(change or 0), is_timed, is_mine)

    async def pages(
        self, scope: str, batch_size: int, *, timed: bool = True, embedded: bool = False
    ) -> AsyncIterator[list[Stored]]:
        """Every document, in batches of about this size; those that change meanwhile as before or after.

        A round trip for each batch. `timed`: documents may have an end; `embedded`: embeddings are wanted as well.
        """
        key, cursor = self._keys.collection(scope, self.kind), b"0"
        vectors, meta = self._keys.collection_vectors(scope, self.kind), self._keys.collection_meta(scope, self.kind)
        keys, wanted = (key, self._keys.deadlines(key), vectors, meta), (int(embedded), int(self.is_counted))
        call = script("collection_page", (await self._link.features()).tier)
        while True:
            if timed or any(wanted):
                cursor, *rows = await call(self._link, keys, (cursor, batch_size, *wanted))
                page = [_paged(*row) for row in rows]
            else:
                cursor, flat = await self._link.execute("HSCAN", key, cursor, "COUNT", batch_size)
                page = [Stored(_text(id_), data, math.inf) for id_, data in zip(flat[::2], flat[1::2], strict=True)]
            if page:
                yield page
            if cursor == b"0":
                return

    # --- bytes ------------------------------------------------------------------------------------------------------

    def encoded(self, document: D, told: int | None = None) -> bytes:
        """A document's bytes; what is as the model has it anyway is left out."""
        defaults = _defaults(type(document))
        attributes: dict[str, Any] = {
            # a list is read in half the time
            name: sorted(cast(frozenset[str], value)) if type(value) is frozenset else value
            for name, value in vars(document).items()
            if value != defaults.get(name)
        }
        if told is not None:
            attributes["told"] = told
        return self._codec.encode(attributes)

    def told(self, data: bytes) -> int | None:
        """`Put.told` of a document that is stored. Raises `DecodeError`."""
        told: int | None = self._codec.decode(data).get("told")
        return told

    def attributes(self, data: bytes) -> Any:
        """What is stored of a document: a dictionary, unless something else wrote it. Raises `DecodeError`."""
        return self._codec.decode(data)

    def decoded(self, scope: str, id_: str, data: bytes) -> D:
        """The document. Raises `DecodeError`."""
        try:
            attributes = self.attributes(data)
            if isinstance(attributes, dict):  # a later version of the model may have more
                known = cast(dict[str, Any], attributes)
                for name in known.keys() - self.model.model_fields.keys():
                    del known[name]
            document: D = self.model.__pydantic_validator__.validate_python(attributes)
            return document
        except DecodeError as error:
            problem = error.message
        except ValidationError as error:
            problem = f"no {self.model.__name__}: {problems(error)[0]}"
        raise DecodeError(problem, f"{self._keys.collection(scope, self.kind)}[{id_}]")

    def _write_keys(self, scope: str) -> list[str]:
        keys, key = self._keys, self._keys.collection(scope, self.kind)
        return [
            keys.scope_operations(scope),
            key,
            keys.deadlines(key),
            keys.collection_log(scope, self.kind),
            keys.collection_meta(scope, self.kind),
            keys.collection_use(scope, self.kind),
            keys.collection_vectors(scope, self.kind),
            keys.deadlines(keys.collection_vectors(scope, self.kind)),
        ]


@functools.cache
def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {name: info.get_default(call_default_factory=True) for name, info in model.model_fields.items()}


def _paged(
    id_: bytes, data: bytes, left: int, embedding: bytes | None, uses: bytes | int = 0, successes: bytes | int = 0
) -> Stored:
    """A document as collection_page.lua tells of it."""
    return Stored(_text(id_), data, _seconds(left), int(uses), int(successes), embedding)


def _seconds(left: int) -> float:
    """Milliseconds as HPTTL says them: -1 is without end, -2 is over."""
    return math.inf if left == -1 else max(0, left) / 1000


def _text(id_: bytes) -> str:
    """An id as it was written; what nobody can have written stays apart."""
    return id_.decode("utf-8", "backslashreplace")
