"""Local replicas of scopes follow what others write, however much it is."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from redismem import AsyncMemory, EpisodicMemory
from redismem.codec import Codec
from redismem.search import Documents, Hit, Index, Query
from redismem.stores.collection import Collection, Stored
from redismem.stores.episodes import EpisodeOperations
from tests.contract.flavours import Place, on_servers

pytestmark = on_servers


def episodes(start: int, end: int) -> list[EpisodicMemory]:
    return [EpisodicMemory(memory_id=f"e{number}", content=f"river bird{number}") for number in range(start, end)]


async def ids(memory: AsyncMemory, query: str) -> list[str]:
    return [one.document.memory_id for one in await memory.episodes.search(query, limit=1)]


async def test_much_is_followed_in_a_thread_and_little_is_not(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    assert await ids(reader, "river") == []
    where, apply = list[threading.Thread](), Index.apply

    def noted(self: Index, *args: Any) -> None:
        where.append(threading.current_thread())
        apply(self, *args)

    monkeypatch.setattr(Index, "apply", noted)
    await writer.episodes.add_many(episodes(0, 10))
    assert await ids(reader, "bird3") == ["e3"]
    few = set(where)
    where.clear()
    await writer.episodes.add_many(episodes(10, 900))
    found = await asyncio.gather(*(ids(reader, f"bird{number}") for number in range(890, 900)))
    assert found == [[f"e{number}"] for number in range(890, 900)]
    assert set(where) - few


async def test_what_was_taken_in_half_is_read_anew(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    await writer.episodes.add_many(episodes(0, 10))
    assert await ids(reader, "bird3") == ["e3"]
    await writer.episodes.add_many(episodes(10, 20))

    def failing(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Index, "apply", failing)
        with pytest.raises(MemoryError):
            await ids(reader, "bird13")
    assert await ids(reader, "bird13") == ["e13"]


async def test_what_changes_while_a_scope_is_read_is_there_as_it_is_now(
    opened: Callable[..., AsyncMemory], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others replace, forget, bring back and damage documents between all pages, before and behind the reader."""
    writer, reader, draw = opened(), opened(), random.Random(5)
    monkeypatch.setattr("redismem.stores.replica._PAGE", 20)
    monkeypatch.setattr("redismem.stores.replica._ENOUGH", 1)
    first = [EpisodicMemory(memory_id=f"e{number}", content=f"river bird{number} " + "x" * 80) for number in range(600)]
    await writer.episodes.add_many(first)
    pages, read = Collection.pages, 0

    async def amid_changes(self: Collection[Any], *args: Any, **kwargs: Any) -> AsyncIterator[list[Stored]]:
        nonlocal read
        async for page in pages(self, *args, **kwargs):
            read += 1
            yield page
            numbers = draw.sample(range(600), 30)
            await writer.episodes.delete(*(f"e{number}" for number in numbers[:20]))
            await writer.episodes.add_many(
                EpisodicMemory(memory_id=f"e{number}", content=f"stone bird{number}") for number in numbers[10:]
            )
            with place.raw() as raw:
                raw.hset("redismem:scope:{default}:episodes", f"e{numbers[29]}", b"\xc1")

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "pages", amid_changes)
        await reader.episodes.search("river")
    assert read > 10
    for query in ("river", "stone"):
        found = {one.document.memory_id for one in await reader.episodes.search(query, limit=1000)}
        anew = {one.document.memory_id for one in await opened().episodes.search(query, limit=1000)}
        assert found == anew
        assert len(found) > 50


async def test_a_few_damaged_documents_cost_little(
    opened: Callable[..., AsyncMemory], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is decoded once, and the others go on together."""
    writer, reader = opened(), opened()
    await writer.episodes.add_many(episodes(0, 1000))
    key = "redismem:scope:{default}:episodes"
    with place.raw() as raw:
        for number in (3, 444, 999):
            told = Codec().decode(raw.hget(key, f"e{number}"))
            raw.hset(key, f"e{number}", Codec().encode(told | {"importance": "much"}))
    tables, decoded, documents, attributes = 0, 0, EpisodeOperations.documents, EpisodeOperations.attributes

    def counted(self: EpisodeOperations, *args: Any) -> Documents:
        nonlocal tables
        tables += 1
        return documents(self, *args)

    def decoding(self: EpisodeOperations, data: bytes) -> Any:
        nonlocal decoded
        decoded += 1
        return attributes(self, data)

    monkeypatch.setattr(EpisodeOperations, "documents", counted)
    monkeypatch.setattr(EpisodeOperations, "attributes", decoding)
    assert len(await reader.episodes.search("river", limit=1)) == 1
    assert decoded <= 1001 + 50, "the server may give some twice"
    assert tables < 100
    monkeypatch.undo()
    found = {one.document.memory_id for one in await reader.episodes.search("river", limit=1000)}
    assert found == {f"e{number}" for number in range(1000)} - {"e3", "e444", "e999"}


async def test_much_is_taken_in_by_a_thread_while_the_rest_is_read(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    monkeypatch.setattr("redismem.stores.replica._PAGE", 100)
    monkeypatch.setattr("redismem.stores.replica._ENOUGH", 1)
    monkeypatch.setattr("redismem.stores.replica._MUCH", 1)
    said = [EpisodicMemory(memory_id=f"e{number}", content=f"river bird{number} " + "x" * 80) for number in range(1000)]
    await writer.episodes.add_many(said)
    where, load_waiting = list[threading.Thread](), Index.load_waiting

    def noted(self: Index) -> None:
        where.append(threading.current_thread())
        load_waiting(self)

    monkeypatch.setattr(Index, "load_waiting", noted)
    assert await ids(reader, "bird777") == ["e777"]
    assert threading.main_thread() not in where
    assert len(where) >= 3


async def test_a_search_that_was_made_too_early_is_made_again(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    looks, search = list[str](), Index.search

    def noted(self: Index, query: Query) -> list[Hit]:
        looks.append(query.text)
        return search(self, query)

    await writer.episodes.add_many(episodes(0, 5))
    for _ in range(3):  # the server has nothing to tell any more
        assert await ids(reader, "bird3") == ["e3"]
    monkeypatch.setattr(Index, "search", noted)
    assert await ids(reader, "bird3") == ["e3"]
    assert looks == ["bird3"]
    await writer.episodes.delete("e3")
    assert await ids(reader, "bird3") == []
    assert len(looks) <= 3
    for number in range(5, 8):  # while others write, it is not made early
        looks.clear()
        await writer.episodes.add_many(episodes(number, number + 1))
        assert await ids(reader, f"bird{number}") == [f"e{number}"]
        assert len(looks) == 1
