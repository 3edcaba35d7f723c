"""Semantics: facts, as subject, predicate and object, each known once, with the confidence that it deserves.

A fact that is learned again keeps the higher confidence, and what was told with it, and lives no shorter by a less sure
telling. Confidence fades: it halves in `Settings.confidence_half_life` unless the fact is learned again; what is left
of it is what counts. Contract, round trips and errors are those of `redismem.stores.documents`.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, cast

from pydantic import Field

from redismem.durability import Durability
from redismem.op import Asyncio, Blocking, Handle, op
from redismem.search.document import Query
from redismem.search.documents import Documents
from redismem.stores.arguments import number, seconds
from redismem.stores.collection import Put, Stored
from redismem.stores.documents import DEFAULT_SCOPE, DocumentOperations, Result, Told, all_tags, moment_of
from redismem.stores.identity import NaturalKey, normal
from redismem.stores.joining import DocumentBatch
from redismem.stores.rank import rank
from redismem.stores.store import Shared
from redismem.ttl import TTL


class SemanticMemory(Told):
    """A fact."""

    subject: str
    predicate: str
    object: str
    confidence: float = Field(default=1.0, ge=0, le=1)
    """How sure it is. What a store gives has faded since it was learned."""
    source: str | None = None
    user_id: str | None = None

    @property
    def memory_id(self) -> str:
        """The same for every telling of the fact, whatever its case and spaces; of each user another one."""
        parts = [normal(NaturalKey, part) for part in (self.subject, self.predicate, self.object)]
        parts += [] if self.user_id is None else [self.user_id]
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class SemanticOperations(DocumentOperations[SemanticMemory]):
    """Every operation on facts, written once."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared, "semantics", SemanticMemory)

    @op
    async def add(
        self,
        fact: SemanticMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Learn a fact. False if it was known with more confidence, which then stays."""
        return (await self._add([fact], scope, ttl, durable))[0]

    @op
    async def add_many(
        self,
        facts: Iterable[SemanticMemory],
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> list[bool]:
        """Learn several facts in one round trip; of each what `add` says."""
        return await self._add(list(facts), scope, ttl, durable)

    @op
    async def search(
        self,
        query: str | None = None,
        limit: int = 5,
        min_score: float = 0.0,
        *,
        user_id: str | None = None,
        tags: Iterable[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        scope: str = DEFAULT_SCOPE,
        fresh: bool = False,
    ) -> list[Result[SemanticMemory]]:
        """The facts that answer best and pass every filter, best first; without a query, the latest.

        Of what was told at `since` or later, and before `until`. With `Settings.coherence`, what other processes have
        just written may be missing unless `fresh`. Raises `ConfigError` for a time without a time zone, a `limit` that
        is no whole number from 1 on, and a `min_score` that is no number.
        """
        number("min_score", min_score)
        asked = Query(
            text=query or "",
            user=user_id,
            tags=all_tags(tags),
            since=seconds("since", since),
            until=seconds("until", until),
            limit=limit,
            min_score=min_score,
        )
        return await self._search(scope, asked, fresh=fresh)

    @op
    async def query(
        self,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,  # noqa: A002  (the third part of a fact)
        *,
        min_confidence: float = 0.0,
        limit: int = 100,
        user_id: str | None = None,
        scope: str = DEFAULT_SCOPE,
        fresh: bool = False,
    ) -> list[SemanticMemory]:
        """The facts about a subject, with a predicate, of an object, of a user, the surest first.

        `fresh` as for `search`. Raises `ConfigError` for a `limit` that is no whole number from 1 on, and a
        `min_confidence` that is no number.
        """
        number("min_confidence", min_confidence)
        parts = {"s": subject, "p": predicate, "o": object}
        tags = frozenset(_part(kind, text) for kind, text in parts.items() if text is not None)
        best = await self._best(scope, Query(tags=tags, user=user_id), self._standing_of, limit, fresh=fresh)
        read = [one for stored in best if (one := self._readable(scope, stored)) is not None]
        return [one for one in read if one.confidence >= min_confidence]

    def documents(self, page: Sequence[Stored], attributes: Sequence[Mapping[str, Any]]) -> Documents:
        """See `DocumentOperations.documents`."""
        parts = [(one["subject"], one["predicate"], one["object"]) for one in attributes]
        confidence = [one.get("confidence", 1.0) for one in attributes]
        return Documents(
            id=[one.id for one in page],
            text=list(map(" ".join, parts)),
            at=[one["created_at"].timestamp() for one in attributes],
            user=[one.get("user_id") for one in attributes],
            tags=[
                (*one.get("tags", ()), *map(_part, "spo", texts)) for one, texts in zip(attributes, parts, strict=True)
            ],
            importance=confidence,
            score=confidence,
        )

    def put_of(self, document: SemanticMemory, ttl: TTL, told: int | None = None) -> Put[SemanticMemory]:
        """See `DocumentOperations.put_of`: only a surer telling replaces what is known, or a later one as sure."""
        created_at = cast(datetime, document.created_at)
        if told is not None:  # one from the future is as good as one of now
            created_at = min(created_at, moment_of(told))
        surer = rank(self._standing(document.confidence, created_at)) + rank(created_at)
        return Put(document.memory_id, document, ttl, surer, importance=document.confidence, told=told)

    def as_told(self, scope: str, stored: Stored) -> SemanticMemory:
        """See `DocumentOperations.as_told`: its confidence is that of when it was told, which will fade again."""
        return self.decoded(scope, stored.id, stored.data or b"")

    def _standing(self, confidence: float, created_at: datetime) -> float:
        """Orders facts by what their confidence has faded to, at any time since."""
        faded = created_at.timestamp() / self._settings.confidence_half_life
        return math.log2(max(confidence, sys.float_info.min)) + faded

    def _standing_of(self, stored: Stored) -> float:
        attributes = self.attributes(stored.data or b"")
        now = datetime.fromtimestamp(self._shared.clock.seconds(), UTC)
        return self._standing(attributes.get("confidence", 1.0), min(attributes["created_at"], now))

    def seen(self, document: SemanticMemory, stored: Stored) -> SemanticMemory:
        """See `DocumentOperations.seen`: the confidence has faded since the fact was learned."""
        del stored
        if document.created_at is None:
            return document
        age = max(0.0, self._shared.clock.seconds() - document.created_at.timestamp())
        left = 0.5 ** (age / self._settings.confidence_half_life)
        return document.model_copy(update={"confidence": document.confidence * left})

    async def _add(
        self, documents: list[SemanticMemory], scope: str, ttl: TTL, durable: Durability | None
    ) -> list[bool]:
        if not documents:
            return []
        return [outcome is not None for outcome in await self.put(scope, await self._puts(documents, ttl), durable)]


def _part(kind: str, text: str) -> str:
    """What a fact is found by, among its tags."""
    return f"\0{kind}{normal(NaturalKey, text)}"


class SemanticStore(SemanticOperations, Blocking):
    """Facts for threads: every operation of `SemanticOperations` as a plain call."""


class AsyncSemanticStore(SemanticOperations, Asyncio):
    """Facts for tasks: every operation of `SemanticOperations`, to be awaited."""


class SemanticBatch(SemanticOperations, DocumentBatch[SemanticMemory, bool]):
    """Facts inside a batch: every operation of `SemanticOperations`, giving a `Handle`."""

    def add(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        fact: SemanticMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> Handle[bool]:
        """As `SemanticOperations.add`; neighbours that go to one scope with one TTL leave together."""
        return self._join(fact, scope, ttl, durable)
