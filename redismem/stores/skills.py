"""Skills: what agents know how to do, under a name each, and how often it was done, and worked.

Uses and successes are counted atomically, by whichever worker reports them, and rank what a search finds. Contract,
round trips and errors are those of `redismem.stores.documents`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

from redismem.durability import Durability
from redismem.op import Asyncio, Blocking, Handle, op
from redismem.search.document import Query
from redismem.search.documents import Documents
from redismem.stores.arguments import number, seconds
from redismem.stores.collection import Put, Stored
from redismem.stores.documents import DEFAULT_SCOPE, DocumentOperations, Result, Told, all_tags
from redismem.stores.joining import DocumentBatch
from redismem.stores.store import Shared
from redismem.ttl import TTL


class SkillMemory(Told):
    """Something that an agent knows how to do."""

    skill_name: str
    description: str = ""
    content: str = ""
    """How it is done: steps, code, a prompt."""
    uses: int = 0
    """How often it was reported to be used. The server counts; what is given here is not stored."""
    successes: int = 0
    """How many of the uses worked."""

    @property
    def success_rate(self) -> float:
        """The share of uses that worked, as if there had been one success and one failure before."""
        return (self.successes + 1) / (self.uses + 2)


class SkillOperations(DocumentOperations[SkillMemory]):
    """Every operation on skills, written once."""

    is_counted: ClassVar[bool] = True

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared, "skills", SkillMemory)

    @op
    async def add(
        self,
        skill: SkillMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """Learn a skill, or learn it anew; what was counted stays. True if there was none of that name."""
        return (await self._add([skill], scope, ttl, durable))[0]

    @op
    async def use(
        self, skill_name: str, *, success: bool, scope: str = DEFAULT_SCOPE, durable: Durability | None = None
    ) -> bool:
        """Count a use, and whether it worked. False if there is no such skill."""
        return await self.report(scope, skill_name, success, durable)

    @op
    async def search(
        self,
        query: str | None = None,
        limit: int = 5,
        min_score: float = 0.0,
        *,
        tags: Iterable[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        scope: str = DEFAULT_SCOPE,
        fresh: bool = False,
    ) -> list[Result[SkillMemory]]:
        """The skills that fit best, those that work before those that do not; without a query, the best of all.

        Of what was told at `since` or later, and before `until`. With `Settings.coherence`, what other processes have
        just written may be missing unless `fresh`. Raises `ConfigError` for a time without a time zone, a `limit` that
        is no whole number from 1 on, and a `min_score` that is no number.
        """
        number("min_score", min_score)
        asked = Query(
            text=query or "",
            tags=all_tags(tags),
            since=seconds("since", since),
            until=seconds("until", until),
            limit=limit,
            min_score=min_score,
        )
        if query is not None:
            return await self._search(scope, asked, fresh=fresh)
        every = replace(asked, min_score=0.0)
        best = await self._best(scope, every, lambda one: (_rate(one), one.uses), limit, fresh=fresh)
        read = [one for stored in best if (one := self._readable(scope, stored)) is not None]
        return [Result(one, one.success_rate) for one in read if one.success_rate >= min_score]

    def documents(self, page: Sequence[Stored], attributes: Sequence[Mapping[str, Any]]) -> Documents:
        """See `DocumentOperations.documents`."""
        told = [(one.get("description", ""), one.get("content", "")) for one in attributes]
        rates = list(map(_rate, page))
        return Documents(
            id=[one.id for one in page],
            text=["\n".join((one.id, *texts)).replace("_", " ") for one, texts in zip(page, told, strict=True)],
            at=[one["created_at"].timestamp() for one in attributes],
            tags=[tuple(one.get("tags", ())) for one in attributes],
            importance=rates,
            score=rates,
        )

    async def _add(self, documents: list[SkillMemory], scope: str, ttl: TTL, durable: Durability | None) -> list[bool]:
        return [outcome is True for outcome in await self.put(scope, await self._puts(documents, ttl), durable)]

    def put_of(self, document: SkillMemory, ttl: TTL, told: int | None = None) -> Put[SkillMemory]:
        """See `DocumentOperations.put_of`: the server counts by itself."""
        return Put(document.skill_name, document.model_copy(update={"uses": 0, "successes": 0}), ttl, told=told)

    def seen(self, document: SkillMemory, stored: Stored) -> SkillMemory:
        """See `DocumentOperations.seen`: with what was counted."""
        return document.model_copy(update={"uses": stored.uses, "successes": stored.successes})


def _rate(stored: Stored) -> float:
    """See `SkillMemory.success_rate`."""
    return (stored.successes + 1) / (stored.uses + 2)


class SkillStore(SkillOperations, Blocking):
    """Skills for threads: every operation of `SkillOperations` as a plain call."""


class AsyncSkillStore(SkillOperations, Asyncio):
    """Skills for tasks: every operation of `SkillOperations`, to be awaited."""


class SkillBatch(SkillOperations, DocumentBatch[SkillMemory, bool]):
    """Skills inside a batch: every operation of `SkillOperations`, giving a `Handle`."""

    def add(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        skill: SkillMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> Handle[bool]:
        """As `SkillOperations.add`; neighbours that go to one scope with one TTL leave together."""
        return self._join(skill, scope, ttl, durable)
