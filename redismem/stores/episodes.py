"""Episodes: what agents went through, each told once, to be found again when something like it comes up.

Contract, round trips and errors are those of `redismem.stores.documents`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import Field

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


class EpisodicMemory(Told):
    """Something that happened."""

    memory_id: str = Field(default_factory=lambda: uuid4().hex)
    content: str
    task_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    speaker: str | None = None
    success: bool | None = None
    score: float = Field(default=0.0, allow_inf_nan=False)
    """How well it went: 0 to 1, such as a reward."""
    importance: float = Field(default=0.5, ge=0, le=1)


class EpisodeOperations(DocumentOperations[EpisodicMemory]):
    """Every operation on episodes, written once."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared, "episodes", EpisodicMemory)

    @op
    async def add(
        self,
        episode: EpisodicMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> str:
        """Remember an episode, for `ttl` seconds or for good; its id. The same id again replaces it."""
        return (await self._add([episode], scope, ttl, durable))[0]

    @op
    async def add_many(
        self,
        episodes: Iterable[EpisodicMemory],
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> list[str]:
        """Remember several episodes, all or none, in one round trip."""
        return await self._add(list(episodes), scope, ttl, durable)

    @op
    async def search(
        self,
        query: str | None = None,
        task_id: str | None = None,
        session_id: str | None = None,
        tags: Iterable[str] | None = None,
        success_only: bool = False,
        limit: int = 10,
        min_score: float = 0.0,
        *,
        user_id: str | None = None,
        speaker: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        now: datetime | None = None,
        scope: str = DEFAULT_SCOPE,
        fresh: bool = False,
    ) -> list[Result[EpisodicMemory]]:
        """The best episodes that pass every filter, best first; without a query, the important and the latest.

        `tags`: those that have all of them. `since` and `until` are about `created_at`: from `since` on, and
        before `until`; `now` is what "yesterday" in the query is relative to, by default the latest episode.
        `min_score` is what an answer must score at least, 0 to 1; without a query, what the episode itself scored,
        unless it is 0. With `Settings.coherence`, what other processes have just written may be missing unless `fresh`.
        Raises `ConfigError` for a time without a time zone, a `limit` that is no whole number from 1 on, and a
        `min_score` that is no number.
        """
        number("min_score", min_score)
        asks = bool(str(query or "").strip())
        asked = Query(
            text=query or "",
            session=session_id,
            task_id=task_id,
            user=user_id,
            speaker=speaker,
            tags=all_tags(tags),
            success_only=success_only,
            since=seconds("since", since),
            until=seconds("until", until),
            now=seconds("now", now),
            limit=limit,
            min_score=min_score if asks else 0.0,
            min_reward=None if asks or not min_score else min_score,
        )
        return await self._search(scope, asked, fresh=fresh)

    def documents(self, page: Sequence[Stored], attributes: Sequence[Mapping[str, Any]]) -> Documents:
        """See `DocumentOperations.documents`."""
        return Documents(
            id=[one.id for one in page],
            text=[one["content"] for one in attributes],
            at=[one["created_at"].timestamp() for one in attributes],
            order=[one.get("told", 0) for one in attributes],
            session=[one.get("session_id") or _conversation(one) for one in attributes],
            task_id=[one.get("task_id") for one in attributes],
            user=[one.get("user_id") for one in attributes],
            speaker=[one.get("speaker") for one in attributes],
            tags=[tuple(one.get("tags", ())) for one in attributes],
            importance=[one.get("importance", 0.5) for one in attributes],
            score=[one.get("score", 0.0) for one in attributes],
            success=[one.get("success") for one in attributes],
        )

    def put_of(self, document: EpisodicMemory, ttl: TTL, told: int | None = None) -> Put[EpisodicMemory]:
        """See `DocumentOperations.put_of`."""
        return Put(document.memory_id, document, ttl, importance=document.importance, told=told)

    async def _add(
        self, documents: list[EpisodicMemory], scope: str, ttl: TTL, durable: Durability | None
    ) -> list[str]:
        if not documents:
            return []
        await self.put(scope, await self._puts(documents, ttl), durable)
        return [one.memory_id for one in documents]


def _conversation(attributes: Mapping[str, Any]) -> str | None:
    """Where something that was said belongs if nobody tells: to what else was said by or to its user on that day."""
    if attributes.get("speaker") is None:
        return None
    day = attributes["created_at"].astimezone(UTC).date()
    return f"\0{day} {attributes.get('user_id') or ''}"  # no session is called so


class EpisodeStore(EpisodeOperations, Blocking):
    """Episodes for threads: every operation of `EpisodeOperations` as a plain call."""


class AsyncEpisodeStore(EpisodeOperations, Asyncio):
    """Episodes for tasks: every operation of `EpisodeOperations`, to be awaited."""


class EpisodeBatch(EpisodeOperations, DocumentBatch[EpisodicMemory, str]):
    """Episodes inside a batch: every operation of `EpisodeOperations`, giving a `Handle`."""

    def add(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        episode: EpisodicMemory,
        *,
        scope: str = DEFAULT_SCOPE,
        ttl: float | None = None,
        durable: Durability | None = None,
    ) -> Handle[str]:
        """As `EpisodeOperations.add`; neighbours that go to one scope with one TTL leave together."""
        return self._join(episode, scope, ttl, durable)
