"""Code as it was written for earlier memory systems, with other imports; each test reads like that system's page."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from redismem.compat.architecture import (
    AsyncEpisodicMemoryStore,
    AsyncSemanticMemoryStore,
    AsyncSkillMemoryStore,
    EpisodicMemory,
    SemanticMemory,
    SkillMemory,
)
from redismem.compat.memory_system import MemorySystem
from redismem.compat.orchestrator import AsyncStoreAdapter, SimpleMemory
from redismem.compat.sessions import MemoryStore, create_store
from tests.servers import Server

# --- a pluggable session store --------------------------------------------------------------------------------------


@pytest.fixture
def store(server: Server) -> Iterator[MemoryStore]:
    with create_store(server.url) as store:
        yield store


def test_session_state(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "topic", "booking", ttl=100)
    assert store.load("session-1", "conversation", "topic") == "booking"
    assert store.load("session-1", "conversation", "missing") is None
    assert store.get_all("session-1", "conversation") == {"topic": "booking"}
    store.save("session-1", "conversation", "typing", True, ttl=0.02)
    deadline = time.monotonic() + 10
    while store.load("session-1", "conversation", "typing") is not None:
        assert time.monotonic() < deadline
    store.delete("session-1", "conversation", "topic")
    assert store.get_all("session-1", "conversation") == {}


def test_session_state_from_many_threads(store: MemoryStore) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.save("session-1", "writes", f"{thread}-{number}", number)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(write, range(10)))
    assert len(store.get_all("session-1", "writes")) == 200


def test_development_and_production_use_the_same_code(server: Server) -> None:
    for url in ("memory://", server.url):
        with create_store(url) as store:
            store.save("s", "n", "k", {"a": [1]})
            assert store.load("s", "n", "k") == {"a": [1]}


# --- thread-safe user contexts --------------------------------------------------------------------------------------


async def test_user_contexts(server: Server) -> None:
    memory_system = MemorySystem(server.url)
    old = await memory_system.get_user_context("user-1")
    with pytest.raises(FrozenInstanceError):
        old.conversations_count = 5  # type: ignore[misc]
    assert "conversations_count" in old.__dataclass_fields__
    await asyncio.gather(
        memory_system.update_context("user-1", "Hi", "Hello"), memory_system.update_context("user-1", "Bye", "See you")
    )
    assert old.conversations_count == 0
    new = await memory_system.get_user_context("user-1")
    assert new.conversations_count == 2
    assert (await memory_system.update_context("user-1", "Again", "Yes")).conversations_count == 3
    await memory_system.aclose()


# --- memory of an agent orchestrator --------------------------------------------------------------------------------


async def test_values_under_tuples(server: Server) -> None:
    store = AsyncStoreAdapter(server.url)
    namespace = ("memory", "user-1")
    assert await store.aget(namespace, "SimpleMemory") == SimpleMemory()
    await store.aput(namespace, "SimpleMemory", {"accounts": [{"name": "Acme"}]})
    await store.aput(
        namespace, "SimpleMemory", SimpleMemory.model_validate({"accounts": [{"id": "1", "name": "ACME"}]})
    )
    assert [(one.id, one.name) for one in (await store.aget(namespace, "SimpleMemory")).accounts] == [("1", "ACME")]

    await store.aput(("threads", "t-1"), "state_t-1", {"messages": [{"role": "user", "content": "Hi"}]})
    assert (await store.aget(("threads", "t-1"), "state_t-1"))["messages"][0]["content"] == "Hi"
    assert await store.aget(("threads", "t-2"), "state_t-2") is None

    await store.aput(("a/b", "c"), "k", 1)
    await store.aput(("a", "b/c"), "k", 2)
    assert [await store.aget(namespace, "k") for namespace in (("a/b", "c"), ("a", "b/c"), ("a",))] == [1, 2, None]
    await store.aclose()


# --- async memory for parallel agents -------------------------------------------------------------------------------


@pytest.fixture
async def episodes(server: Server) -> AsyncIterator[Any]:
    store = AsyncEpisodicMemoryStore(server.url)
    yield store
    await store.aclose()


@pytest.fixture
async def semantic(server: Server) -> AsyncIterator[Any]:
    store = AsyncSemanticMemoryStore(server.url)
    yield store
    await store.aclose()


@pytest.fixture
async def skills(server: Server) -> AsyncIterator[Any]:
    store = AsyncSkillMemoryStore(server.url)
    yield store
    await store.aclose()


def episode(number: int, **more: Any) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=f"Agent solved problem {number}", **more)


async def test_parallel_reads(episodes: Any) -> None:
    await asyncio.gather(*(episodes.add_episode_async(episode(number)) for number in range(10)))
    found = await asyncio.gather(*(episodes.search_episodes_async("problem", limit=10) for _ in range(5)))
    assert all(len(one) == 10 for one in found)


async def test_write_serialization(episodes: Any) -> None:
    await asyncio.gather(*(episodes.add_episode_async(episode(1, score=number / 20)) for number in range(20)))
    (only,) = await episodes.search_episodes_async()
    assert only == await episodes.get_episode_async("e1")


async def test_mixed_operations(episodes: Any) -> None:
    async def agent(number: int) -> None:
        await episodes.add_episode_async(episode(number, task_id="t", session_id=f"s{number % 2}", success=number > 5))
        assert (await episodes.get_episode_async(f"e{number}")).task_id == "t"
        await episodes.search_episodes_async("problem", task_id="t", limit=5)

    await asyncio.gather(*(agent(number) for number in range(10)))
    assert len(await episodes.search_episodes_async(task_id="t", success_only=True)) == 4
    assert len(await episodes.search_episodes_async("problem", "t", "s1")) == 5


async def test_batches(episodes: Any) -> None:
    async with episodes.batch_operations() as batch:
        for number in range(100):
            await batch.add_episode_async(episode(number))
    assert len(await episodes.search_episodes_async(limit=200)) == 100


async def test_streaming(episodes: Any) -> None:
    await episodes.add_episodes_async(episode(number, score=number / 100) for number in range(100))
    sizes = [len(batch) async for batch in episodes.stream_episodes_async(batch_size=10, min_score=0.5)]
    assert sum(sizes) == 50


async def test_semantic_and_skills(semantic: Any, skills: Any) -> None:
    await semantic.add_semantic_async(SemanticMemory(subject="Redis", predicate="is", object="a data store"))
    (known,) = await semantic.search_semantic_async("what is redis", limit=5)
    assert known.object == "a data store"
    await skills.add_skill_async(SkillMemory(skill_name="book_flight", description="Books a flight"))
    assert (await skills.get_skill_async("book_flight")).description == "Books a flight"
    assert [one.skill_name for one in await skills.search_skills_async("flight booking", limit=5)] == ["book_flight"]


def test_sync_compatibility(server: Server) -> None:
    store: Any = AsyncEpisodicMemoryStore(server.url)
    store.add_episode(episode(1))
    assert store.get_episode("e1").content == "Agent solved problem 1"
    assert [one.memory_id for one in store.search_episodes("problem")] == ["e1"]
    assert [[one.memory_id for one in batch] for batch in store.stream_episodes()] == [["e1"]]

    async def inside() -> None:
        with pytest.raises(RuntimeError, match="await add_episode_async instead"):
            store.add_episode(episode(2))

    asyncio.run(inside())
    store.close()
    assert threading.active_count() < 50


async def test_stress(episodes: Any, semantic: Any, skills: Any) -> None:
    await skills.add_skill_async(SkillMemory(skill_name="s"))

    async def agent(number: int) -> None:
        for step in range(5):
            await episodes.add_episode_async(episode(number * 100 + step, task_id=f"t{number}"))
            await semantic.add_semantic_async(SemanticMemory(subject=f"a{number}", predicate="knows", object=f"{step}"))
            await skills.use_skill_async("s", success=step > 0)
            assert await episodes.search_episodes_async("problem", task_id=f"t{number}")

    await asyncio.gather(*(agent(number) for number in range(20)))
    assert len(await episodes.search_episodes_async(limit=1000)) == 100
    assert len(await semantic.query_semantic_async(predicate="knows", limit=1000)) == 100
    skill = await skills.get_skill_async("s")
    assert (skill.uses, skill.successes) == (100, 80)
