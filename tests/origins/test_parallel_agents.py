"""Async memory for parallel agents, in the eight groups of its own tests."""

import asyncio
import gc
import inspect
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest

from redismem.compat.architecture import (
    AsyncEpisodicMemoryStore,
    AsyncSemanticMemoryStore,
    AsyncSkillMemoryStore,
    EpisodicMemory,
    SemanticMemory,
    SkillMemory,
)
from redismem.errors import EncodeError
from tests.proxy import CountingProxy
from tests.servers import REAL, Server

Store = TypeVar("Store", AsyncEpisodicMemoryStore, AsyncSemanticMemoryStore, AsyncSkillMemoryStore)
Opens = Callable[[type[Store]], Store]

on_real_servers = pytest.mark.parametrize("server", REAL, indirect=True)
on_two_servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)


@pytest.fixture
async def opens(url: str) -> AsyncIterator[Opens[Any]]:
    async with AsyncExitStack() as stack:

        def open_(kind: type[Any]) -> Any:
            store = kind(url)
            stack.push_async_callback(store.aclose)
            return store

        yield open_


@pytest.fixture
def episodes(opens: Opens[AsyncEpisodicMemoryStore]) -> AsyncEpisodicMemoryStore:
    return opens(AsyncEpisodicMemoryStore)


@pytest.fixture
def semantic(opens: Opens[AsyncSemanticMemoryStore]) -> AsyncSemanticMemoryStore:
    return opens(AsyncSemanticMemoryStore)


@pytest.fixture
def skills(opens: Opens[AsyncSkillMemoryStore]) -> AsyncSkillMemoryStore:
    return opens(AsyncSkillMemoryStore)


def episode(number: int, **more: Any) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=f"The agent solved problem {number}", **more)


def ids(found: list[EpisodicMemory]) -> set[str]:
    return {one.memory_id for one in found}


# --- signatures -----------------------------------------------------------------------------------------------------

SIGNATURES = [
    (AsyncEpisodicMemoryStore, "add_episode", {"episode": ...}),
    (AsyncEpisodicMemoryStore, "get_episode", {"memory_id": ...}),
    (
        AsyncEpisodicMemoryStore,
        "search_episodes",
        {
            "query": None,
            "task_id": None,
            "session_id": None,
            "tags": None,
            "success_only": False,
            "limit": 10,
            "min_score": 0.0,
        },
    ),
    (AsyncEpisodicMemoryStore, "stream_episodes", {"batch_size": 100, "min_score": 0.0}),
    (AsyncSemanticMemoryStore, "add_semantic", {"semantic": ...}),
    (AsyncSemanticMemoryStore, "search_semantic", {"query": ..., "limit": 5}),
    (AsyncSkillMemoryStore, "add_skill", {"skill": ...}),
    (AsyncSkillMemoryStore, "get_skill", {"skill_name": ...}),
    (AsyncSkillMemoryStore, "search_skills", {"query": ..., "limit": 5}),
]


@pytest.mark.parametrize(("store", "name", "parameters"), SIGNATURES, ids=[name for _, name, _ in SIGNATURES])
@pytest.mark.parametrize("suffix", ["_async", ""], ids=["async", "sync"])
def test_signatures(store: type[Any], name: str, parameters: dict[str, Any], suffix: str) -> None:
    _, *given = inspect.signature(getattr(store, name + suffix)).parameters.values()
    documented = {one.name: ... if one.default is one.empty else one.default for one in given[: len(parameters)]}
    assert list(documented) == list(parameters)
    assert all(documented[one] == default for one, default in parameters.items() if default is not ...)
    assert all(one.kind is one.KEYWORD_ONLY or one.default is not one.empty for one in given[len(parameters) :])


async def test_parameters_by_name(opens: Opens[Any]) -> None:
    episodes, semantic, skills = map(opens, (AsyncEpisodicMemoryStore, AsyncSemanticMemoryStore, AsyncSkillMemoryStore))
    await episodes.add_episode_async(episode=episode(1))
    assert (await episodes.get_episode_async(memory_id="e1")).memory_id == "e1"
    async with semantic.batch_operations() as batch:
        await batch.add_semantic_async(semantic=SemanticMemory(subject="a", predicate="is", object="b"))
    assert len(await semantic.search_semantic_async(query="a", limit=5, fresh=True)) == 1
    await skills.add_skill_async(skill=SkillMemory(skill_name="fly"))
    assert (await skills.get_skill_async(skill_name="fly")).skill_name == "fly"


# --- 1. parallel reads ----------------------------------------------------------------------------------------------


async def test_parallel_searches_see_the_same(episodes: AsyncEpisodicMemoryStore) -> None:
    await asyncio.gather(*(episodes.add_episode_async(episode(number)) for number in range(10)))
    found = await asyncio.gather(*(episodes.search_episodes_async("problem", limit=10) for _ in range(5)))
    assert [ids(one) for one in found] == [{f"e{number}" for number in range(10)}] * 5


async def test_parallel_reads_each_get_what_they_asked_for(episodes: AsyncEpisodicMemoryStore) -> None:
    await asyncio.gather(*(episodes.add_episode_async(episode(number)) for number in range(50)))
    found = await asyncio.gather(*(episodes.get_episode_async(f"e{number}") for number in range(60)))
    assert [one and one.content for one in found] == [episode(n).content if n < 50 else None for n in range(60)]


@on_two_servers
async def test_parallel_reads_wait_together(server: Server) -> None:
    with CountingProxy(server.port) as proxy:
        episodes = AsyncEpisodicMemoryStore(f"redis://127.0.0.1:{proxy.port}")
        await asyncio.gather(*(episodes.add_episode_async(episode(number)) for number in range(5)))
        assert await episodes.get_episode_async("e0")
        before = proxy.round_trips
        await asyncio.gather(*(episodes.get_episode_async(f"e{number}") for number in range(5)))
        assert proxy.round_trips - before == 1
        await episodes.aclose()


# --- 2. write serialization -----------------------------------------------------------------------------------------


async def test_parallel_writes_lose_nothing(episodes: AsyncEpisodicMemoryStore) -> None:
    added = await asyncio.gather(*(episodes.add_episode_async(episode(number)) for number in range(50)))
    assert ids(await episodes.search_episodes_async(limit=100)) == set(added) == {f"e{number}" for number in range(50)}


async def test_parallel_writes_of_one_episode_leave_one_whole(episodes: AsyncEpisodicMemoryStore) -> None:
    await asyncio.gather(*(episodes.add_episode_async(episode(1, score=n / 20, task_id=f"{n}")) for n in range(20)))
    (only,) = await episodes.search_episodes_async()
    assert only.task_id == f"{only.score * 20:.0f}"
    assert only == await episodes.get_episode_async("e1")


async def test_a_read_after_a_write_sees_it(episodes: AsyncEpisodicMemoryStore) -> None:
    for number in range(10):
        await episodes.add_episode_async(episode(number))
        assert await episodes.get_episode_async(f"e{number}")
        assert len(await episodes.search_episodes_async("problem", limit=100)) == number + 1


async def test_parallel_updates_take_turns(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episode_async(episode(1, metadata={"tries": 0}))

    def tried(one: EpisodicMemory) -> EpisodicMemory:
        return one.model_copy(update={"metadata": {"tries": one.metadata["tries"] + 1}})

    await asyncio.gather(*(episodes.update_episode_async("e1", tried) for _ in range(10)))
    found = await episodes.get_episode_async("e1")
    assert found is not None
    assert found.metadata == {"tries": 10}


# --- 3. mixed operations --------------------------------------------------------------------------------------------


async def test_readers_and_writers_together(episodes: AsyncEpisodicMemoryStore) -> None:
    async def agent(number: int) -> None:
        await episodes.add_episode_async(episode(number, task_id="t", session_id=f"s{number % 2}", success=number > 5))
        found = await episodes.get_episode_async(f"e{number}")
        assert found is not None
        assert found.task_id == "t"
        assert f"e{number}" in ids(await episodes.search_episodes_async("problem", task_id="t", limit=100))

    await asyncio.gather(*(agent(number) for number in range(20)))
    assert len(await episodes.search_episodes_async(task_id="t", limit=100)) == 20


async def test_every_filter(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episode_async(
        episode(1, task_id="t1", session_id="s1", tags={"a", "b"}, success=True, score=0.9)
    )
    await episodes.add_episode_async(episode(2, task_id="t1", session_id="s2", tags={"b"}, success=False, score=0.2))
    await episodes.add_episode_async(EpisodicMemory(memory_id="e3", content="Weather is fine", task_id="t2", score=0.5))
    search = episodes.search_episodes_async
    assert ids(await search()) == {"e1", "e2", "e3"}
    assert ids(await search(query="problems solved")) == {"e1", "e2"}
    assert ids(await search(task_id="t1")) == {"e1", "e2"}
    assert ids(await search(session_id="s2")) == {"e2"}
    assert ids(await search(tags=["b"])) == {"e1", "e2"}
    assert ids(await search(tags=["a", "b"])) == {"e1"}
    assert ids(await search(success_only=True)) == {"e1"}
    assert ids(await search(min_score=0.4)) == {"e1", "e3"}
    assert ids(await search("problem", "t1", "s1", ["a"], True, 10, 0.0)) == {"e1"}
    assert len(await search(limit=2)) == 2
    assert await search(task_id="t3") == []


async def test_writers_get_their_turn_among_readers(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episode_async(episode(0))
    written = asyncio.Event()

    async def read() -> None:
        while not written.is_set():
            assert await episodes.get_episode_async("e0")

    async def write() -> None:
        for number in range(1, 21):
            await episodes.add_episode_async(episode(number))
        written.set()

    async with asyncio.timeout(30):
        await asyncio.gather(*(read() for _ in range(20)), write())
    assert len(await episodes.search_episodes_async(limit=100)) == 21


async def test_a_cancelled_agent_blocks_nobody(episodes: AsyncEpisodicMemoryStore) -> None:
    tasks = [asyncio.create_task(episodes.add_episode_async(episode(number))) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await episodes.add_episode_async(episode(100)) == "e100"
    assert {f"e{number}" for number in range(1, 20, 2)} <= ids(await episodes.search_episodes_async(limit=100))


# --- 4. batches -----------------------------------------------------------------------------------------------------


async def test_a_batch_is_committed_on_exit(episodes: AsyncEpisodicMemoryStore) -> None:
    async with episodes.batch_operations() as batch:
        for number in range(100):
            await batch.add_episode_async(episode(number))
        assert await episodes.search_episodes_async() == []
    assert len(await episodes.search_episodes_async(limit=200)) == 100


async def test_a_batch_that_fails_leaves_nothing(episodes: AsyncEpisodicMemoryStore) -> None:
    async def failing() -> None:
        async with episodes.batch_operations() as batch:
            await batch.add_episode_async(episode(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert await episodes.search_episodes_async() == []


async def test_a_batch_says_what_failed(episodes: AsyncEpisodicMemoryStore) -> None:
    async def storing() -> None:
        async with episodes.batch_operations() as batch:
            await batch.add_episode_async(episode(1))
            await batch.add_episode_async(EpisodicMemory(content="x", metadata={"not": object()}))
            await batch.add_episode_async(episode(2))

    with pytest.raises(EncodeError) as raised:
        await storing()
    assert raised.value.__notes__ == ["1 of the 3 operations of the batch failed"]
    assert ids(await episodes.search_episodes_async()) == {"e1", "e2"}


async def test_a_batch_mixes_operations(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episodes_async([episode(1), episode(2)])
    async with episodes.batch_operations() as batch:
        await batch.add_episode_async(episode(3))
        await batch.delete_episode_async("e1")
        known = await batch.get_episode_async("e2")
        found = batch.search_episodes("problem", limit=10)
    assert known.result().memory_id == "e2"
    assert found.result()[0].content.startswith("The agent solved problem")
    assert ids(await episodes.search_episodes_async()) == {"e2", "e3"}


async def test_parallel_batches(episodes: AsyncEpisodicMemoryStore) -> None:
    async def agent(number: int) -> None:
        async with episodes.batch_operations() as batch:
            await asyncio.gather(*(batch.add_episode_async(episode(number * 10 + step)) for step in range(10)))

    await asyncio.gather(*(agent(number) for number in range(10)))
    assert ids(await episodes.search_episodes_async(limit=200)) == {f"e{number}" for number in range(100)}


@on_two_servers
async def test_a_batch_of_100_is_one_round_trip(server: Server) -> None:
    with CountingProxy(server.port) as proxy:
        episodes = AsyncEpisodicMemoryStore(f"redis://127.0.0.1:{proxy.port}")
        await episodes.add_episode_async(episode(0))
        before = proxy.round_trips
        async with episodes.batch_operations() as batch:
            for number in range(1, 101):
                await batch.add_episode_async(episode(number))
        assert proxy.round_trips - before == 1
        await episodes.aclose()


async def test_every_store_has_batches(semantic: AsyncSemanticMemoryStore, skills: AsyncSkillMemoryStore) -> None:
    async with semantic.batch_operations() as facts, skills.batch_operations() as learned:
        for number in range(10):
            await facts.add_semantic_async(SemanticMemory(subject=f"s{number}", predicate="is", object="known"))
            await learned.add_skill_async(SkillMemory(skill_name=f"skill {number}", description="Does something"))
    assert len(await semantic.search_semantic_async("known", limit=100)) == 10
    assert len(await skills.search_skills_async("something", limit=100)) == 10


# --- 5. streaming ---------------------------------------------------------------------------------------------------


async def test_a_stream_gives_everything_in_batches(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episodes_async(episode(number, score=number / 1000) for number in range(1000))
    batches = [batch async for batch in episodes.stream_episodes_async(batch_size=100)]
    assert sorted(one.memory_id for batch in batches for one in batch) == sorted(f"e{n}" for n in range(1000))
    assert len(batches) > 2
    assert max(map(len, batches)) < 500


async def test_a_stream_of_good_episodes(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episodes_async(episode(number, score=number / 100) for number in range(100))
    found = [one async for batch in episodes.stream_episodes_async(batch_size=10, min_score=0.5) for one in batch]
    assert ids(found) == {f"e{number}" for number in range(50, 100)}


async def test_a_stream_of_nothing(episodes: AsyncEpisodicMemoryStore) -> None:
    assert [batch async for batch in episodes.stream_episodes_async()] == []


@on_real_servers  # in fakeredis a scan may skip what is there all the time
async def test_writes_go_on_while_a_stream_is_read(episodes: AsyncEpisodicMemoryStore) -> None:
    await episodes.add_episodes_async(episode(number) for number in range(300))
    seen: set[str] = set()
    async for batch in episodes.stream_episodes_async(batch_size=50):
        seen |= ids(batch)
        await episodes.add_episode_async(episode(1000 + len(seen)))
    assert seen >= {f"e{number}" for number in range(300)}


@on_two_servers
async def test_streaming_takes_constant_memory(episodes: AsyncEpisodicMemoryStore) -> None:
    """Twenty times as many episodes, and no more memory at any moment."""

    async def peak() -> tuple[int, int]:
        count = 0
        gc.collect()
        tracemalloc.start()
        try:
            async for batch in episodes.stream_episodes_async(batch_size=100):
                count += len(batch)
            return count, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async def fill(numbers: range) -> None:
        for first in range(numbers.start, numbers.stop, 250):
            more = {"metadata": {"notes": "x" * 1000}}
            await episodes.add_episodes_async(episode(number, **more) for number in range(first, first + 250))

    await fill(range(250))
    await peak()
    few, at_most = await peak()
    await fill(range(250, 5000))
    many, at_most_then = await peak()
    assert (few, many) == (250, 5000)
    assert at_most_then < at_most * 2 < 4_000_000  # bytes; the episodes take 5 million


# --- 6. semantic and skills -----------------------------------------------------------------------------------------


async def test_facts_are_found_by_meaning_and_once(semantic: AsyncSemanticMemoryStore) -> None:
    await asyncio.gather(
        semantic.add_semantic_async(SemanticMemory(subject="Redis", predicate="is", object="a data store")),
        semantic.add_semantic_async(SemanticMemory(subject="redis ", predicate="IS", object="a data store")),
        semantic.add_semantic_async(SemanticMemory(subject="Paris", predicate="is", object="a city")),
    )
    (known,) = await semantic.search_semantic_async("what do we know about redis", limit=5)
    assert known.object == "a data store"
    assert len(await semantic.query_semantic_async(predicate="is")) == 2


async def test_the_higher_confidence_stays(semantic: AsyncSemanticMemoryStore) -> None:
    told = [SemanticMemory(subject="Ann", predicate="likes", object="tea", confidence=n / 10) for n in range(1, 10)]
    await asyncio.gather(*map(semantic.add_semantic_async, told))
    (known,) = await semantic.search_semantic_async("tea")
    assert known.confidence == pytest.approx(0.9, abs=0.001)


async def test_skills_are_got_by_name_and_found_by_what_they_do(skills: AsyncSkillMemoryStore) -> None:
    await skills.add_skill_async(SkillMemory(skill_name="book_flight", description="Books a flight"))
    await skills.add_skill_async(SkillMemory(skill_name="send_mail", description="Sends a message"))
    found = await skills.get_skill_async("book_flight")
    assert found is not None
    assert found.description == "Books a flight"
    assert await skills.get_skill_async("fly") is None
    assert [one.skill_name for one in await skills.search_skills_async("flight booking", limit=5)] == ["book_flight"]


async def test_limits(semantic: AsyncSemanticMemoryStore, skills: AsyncSkillMemoryStore) -> None:
    for number in range(8):
        await semantic.add_semantic_async(SemanticMemory(subject="Ann", predicate="knows", object=f"trick {number}"))
        await skills.add_skill_async(SkillMemory(skill_name=f"trick_{number}", description="A trick"))
    assert [len(await semantic.search_semantic_async("trick", *limit)) for limit in ((), (3,))] == [5, 3]
    assert [len(await skills.search_skills_async("trick", *limit)) for limit in ((), (3,))] == [5, 3]


async def test_parallel_uses_are_all_counted(skills: AsyncSkillMemoryStore) -> None:
    await skills.add_skill_async(SkillMemory(skill_name="book_flight"))
    await asyncio.gather(*(skills.use_skill_async("book_flight", success=number % 4 > 0) for number in range(40)))
    skill = await skills.get_skill_async("book_flight")
    assert skill is not None
    assert (skill.uses, skill.successes) == (40, 30)


# --- 7. sync compatibility ------------------------------------------------------------------------------------------


def test_plain_calls(url: str) -> None:
    episodes, semantic, skills = (
        AsyncEpisodicMemoryStore(url),
        AsyncSemanticMemoryStore(url),
        AsyncSkillMemoryStore(url),
    )
    assert episodes.add_episode(episode(1)) == "e1"
    found = episodes.get_episode("e1")
    assert found is not None
    assert found.content == "The agent solved problem 1"
    assert ids(episodes.search_episodes("problem")) == {"e1"}
    assert [ids(batch) for batch in episodes.stream_episodes()] == [{"e1"}]
    semantic.add_semantic(SemanticMemory(subject="Redis", predicate="is", object="a data store"))
    assert [fact.subject for fact in semantic.search_semantic("redis")] == ["Redis"]
    skills.add_skill(SkillMemory(skill_name="book_flight", description="Books a flight"))
    assert [skill.skill_name for skill in skills.search_skills("flight")] == ["book_flight"]
    assert skills.get_skill("book_flight") == skills.search_skills("flight")[0]
    for store in (episodes, semantic, skills):
        store.close()


def test_plain_and_awaited_calls_share_their_data(url: str) -> None:
    episodes = AsyncEpisodicMemoryStore(url)
    episodes.add_episode(episode(1))

    async def work() -> set[str]:
        await episodes.add_episode_async(episode(2))
        return ids(await episodes.search_episodes_async("problem"))

    assert asyncio.run(work()) == {"e1", "e2"}
    assert asyncio.run(work()) == {"e1", "e2"}
    assert ids(episodes.search_episodes("problem")) == {"e1", "e2"}
    asyncio.run(episodes.aclose())


def test_plain_calls_from_threads(url: str) -> None:
    episodes = AsyncEpisodicMemoryStore(url)

    def agent(number: int) -> bool:
        for step in range(5):
            episodes.add_episode(episode(number * 5 + step))
        return episodes.get_episode(f"e{number * 5}") is not None

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(agent, range(10)))
    assert ids(episodes.search_episodes(limit=100)) == {f"e{number}" for number in range(50)}
    episodes.close()


PLAIN: list[tuple[type[Any], str, tuple[Any, ...]]] = [
    (AsyncEpisodicMemoryStore, "add_episode", (episode(1),)),
    (AsyncEpisodicMemoryStore, "get_episode", ("e1",)),
    (AsyncEpisodicMemoryStore, "search_episodes", ("problem",)),
    (AsyncEpisodicMemoryStore, "stream_episodes", ()),
    (AsyncSemanticMemoryStore, "add_semantic", (SemanticMemory(subject="a", predicate="b", object="c"),)),
    (AsyncSemanticMemoryStore, "search_semantic", ("a",)),
    (AsyncSkillMemoryStore, "add_skill", (SkillMemory(skill_name="a"),)),
    (AsyncSkillMemoryStore, "get_skill", ("a",)),
    (AsyncSkillMemoryStore, "search_skills", ("a",)),
]


@pytest.mark.parametrize(("kind", "name", "args"), PLAIN, ids=[name for _, name, _ in PLAIN])
async def test_plain_calls_inside_a_running_loop_say_so(kind: type[Any], name: str, args: tuple[Any, ...]) -> None:
    store = kind("memory://")
    with pytest.raises(RuntimeError, match=f"{name} would block the running event loop: await {name}_async instead"):
        getattr(store, name)(*args)
    await store.aclose()


# --- 8. stress ------------------------------------------------------------------------------------------------------


@on_two_servers
async def test_twenty_agents_mix_all_operations(
    episodes: AsyncEpisodicMemoryStore, semantic: AsyncSemanticMemoryStore, skills: AsyncSkillMemoryStore
) -> None:
    agents, steps = 20, 5
    await skills.add_skill_async(SkillMemory(skill_name="shared"))

    async def agent(me: int) -> None:
        await skills.add_skill_async(SkillMemory(skill_name=f"own_{me}", description="A trick"))
        for step in range(steps):
            await episodes.add_episode_async(episode(me * steps + step, task_id=f"t{me}", success=step > 0))
            await semantic.add_semantic_async(SemanticMemory(subject=f"agent {me}", predicate="did", object=f"{step}"))
            await semantic.add_semantic_async(SemanticMemory(subject="all", predicate="did", object=f"{step}"))
            await skills.use_skill_async("shared", success=step > 0)
            await episodes.add_episode_async(EpisodicMemory(memory_id="contested", content=f"by {me}", task_id=f"{me}"))
            assert len(await episodes.search_episodes_async("problem", task_id=f"t{me}")) == step + 1
            assert len(await semantic.search_semantic_async(f"agent {me} did", limit=5)) > 0
            assert await skills.search_skills_async("trick", limit=3)
        async with episodes.batch_operations() as batch:
            for step in range(steps):
                await batch.add_episode_async(episode(1000 + me * steps + step, task_id="batched"))
        streamed = [one async for found in episodes.stream_episodes_async(batch_size=50) for one in found]
        assert {f"e{me * steps + step}" for step in range(steps)} <= ids(streamed)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(agent, range(agents)))

    everything = await episodes.search_episodes_async(limit=1000)
    expected = {f"e{start + number}" for start in (0, 1000) for number in range(agents * steps)}
    assert sorted(one.memory_id for one in everything) == sorted(expected | {"contested"})
    assert len(await episodes.search_episodes_async(task_id="batched", limit=1000)) == agents * steps
    succeeded = await episodes.search_episodes_async(success_only=True, limit=1000)
    assert len(succeeded) == agents * (steps - 1)
    contested = await episodes.get_episode_async("contested")
    assert contested is not None
    assert contested.content == f"by {contested.task_id}"
    assert len(await semantic.query_semantic_async(predicate="did", limit=1000)) == agents * steps + steps
    shared = await skills.get_skill_async("shared")
    assert shared is not None
    assert (shared.uses, shared.successes) == (agents * steps, agents * (steps - 1))
    assert len(await skills.search_skills_async("trick", limit=100)) == agents
