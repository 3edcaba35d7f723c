"""How often a call waits for the server, counted on the wire by a proxy.

Connecting, asking for the server's features and loading scripts happen once and are not counted: each memory is warm.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic.dataclasses
import pytest
from pydantic import BaseModel

from redismem import (
    KEEP_TTL,
    AsyncMemory,
    AsyncSessionStore,
    EpisodicMemory,
    SemanticMemory,
    SimpleMemory,
    SkillMemory,
    Sum,
    Union,
    UserContext,
)
from redismem.stores.crm import SimpleContact, SimpleLead
from tests.contract.flavours import Place, eventually, on_real_servers, results
from tests.proxy import CountingProxy
from tests.servers import REAL

Calls = dict[str, Callable[[], Awaitable[Any]]]


@dataclass
class Counted:
    """A memory behind a proxy."""

    memory: AsyncMemory
    proxy: CountingProxy

    @property
    def store(self) -> AsyncSessionStore:
        return self.memory.sessions

    async def count(self, call: Awaitable[Any]) -> int:
        """The round trips of one call."""
        before = self.proxy.round_trips
        await call
        return self.proxy.round_trips - before

    async def counts(self, calls: Calls) -> dict[str, int]:
        """The round trips of each of these, made in turn."""
        return {name: await self.count(call()) for name, call in calls.items()}


@asynccontextmanager
async def behind_a_proxy(place: Place, **settings: Any) -> AsyncIterator[Counted]:
    assert place.server is not None
    with CountingProxy(place.server.port) as proxy:
        memory = place.open(f"redis://127.0.0.1:{proxy.port}/0", **settings)
        await warm_up(memory.sessions)
        yield Counted(memory, proxy)
        await memory.aclose()


@pytest.fixture
async def counted(place: Place) -> AsyncIterator[Counted]:
    async with behind_a_proxy(place) as counted:
        yield counted


async def warm_up(store: AsyncSessionStore) -> None:
    """Every script is on the server, but nothing is known of any session that the tests use."""
    await store.save("warm", "n", "k", 1)
    await store.load("warm", "n", "k")
    await store.increment("warm", "n", "k")
    await store.compare_and_set("warm", "n", "k", 2, 3)
    await store.expire("warm", "n", "k", 100)
    await store.ttl("warm", "n", "k")
    await store.info("warm")
    await store.touch("warm", 100)
    await store.delete("warm", "n", "k")
    await store.end("warm")


@on_real_servers
async def test_a_call_is_one_round_trip(counted: Counted) -> None:
    store = counted.store
    values = {f"key {number}": number for number in range(100)}
    big = b"x" * 5_000_000
    calls: Calls = {
        "load of nothing": lambda: store.load("s", "n", "k"),
        "first save": lambda: store.save("s", "n", "k", 1),
        "second save": lambda: store.save("s", "n", "k", 2),
        "third save, other key": lambda: store.save("s", "n", "l", 2),
        "save with ttl": lambda: store.save("s", "n", "k", 3, ttl=100),
        "save that keeps the ttl": lambda: store.save("s", "n", "k", 4, ttl=KEEP_TTL),
        "save without ttl after all": lambda: store.save("s", "n", "k", 4),
        "first save to another namespace": lambda: store.save("s", "m", "k", 1, ttl=100),
        "second save to another namespace": lambda: store.save("s", "m", "k", 1, ttl=100),
        "first save with ttl": lambda: store.save("t", "n", "k", 1, ttl=100),
        "second save with ttl": lambda: store.save("t", "n", "k", 2, ttl=100),
        "save with a longer ttl": lambda: store.save("t", "n", "k", 2, ttl=200),
        "save without ttl after one with": lambda: store.save("t", "n", "l", 2),
        "save with an owner": lambda: store.save("u", "n", "k", 1, user_id="u"),
        "second save with an owner": lambda: store.save("u", "n", "k", 1, user_id="u"),
        "save_many": lambda: store.save_many("s", "n", values),
        "first save_many": lambda: store.save_many("v", "n", values),
        "first save_many with ttl": lambda: store.save_many("w", "n", values, ttl=100),
        "second save_many with ttl": lambda: store.save_many("w", "n", values, ttl=100),
        "load": lambda: store.load("s", "n", "k"),
        "load for a user": lambda: store.load("u", "n", "k", user_id="u"),
        "load_many": lambda: store.load_many("s", "n", values),
        "load_many for a user": lambda: store.load_many("s", "n", values, user_id="u"),
        "get_all": lambda: store.get_all("s", "n"),
        "get_all for a user": lambda: store.get_all("s", "n", user_id="u"),
        "increment": lambda: store.increment("s", "c", "k"),
        "second increment": lambda: store.increment("s", "c", "k", ttl=100),
        "compare_and_set": lambda: store.compare_and_set("s", "n", "key 5", 5, "five"),
        "compare_and_set that does not match": lambda: store.compare_and_set("s", "n", "missing", 5, "five"),
        "compare_and_set that creates": lambda: store.compare_and_set("s", "n", "new", None, "five", ttl=100),
        "ttl": lambda: store.ttl("s", "n", "new"),
        "expire": lambda: store.expire("s", "n", "k", 100),
        "expire of nothing": lambda: store.expire("s", "n", "missing", 100),
        "delete": lambda: store.delete("s", "n", "k"),
        "delete of nothing": lambda: store.delete("s", "n", "k"),
        "save of 5 MB": lambda: store.save("s", "n", "big", big),
        "load of 5 MB": lambda: store.load("s", "n", "big"),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)


@pydantic.dataclasses.dataclass(frozen=True)
class Customer(UserContext):
    nick: str = ""


class Note(BaseModel, frozen=True):
    text: str
    seen: Annotated[int, Sum] = 0
    tags: Annotated[frozenset[str], Union] = frozenset()


@on_real_servers
async def test_records_and_contexts_take_one_round_trip(counted: Counted) -> None:
    notes, contexts = counted.memory.records("note", Note), counted.memory.contexts
    many = {str(number): Note(text="many", seen=1) for number in range(50)}
    await notes.merge("warm", "a", Note(text="x"))
    await notes.get("warm", "a")
    await notes.delete("warm", "a")
    calls: Calls = {
        "update_context": lambda: contexts.update_context("42", "Hi", "Hello"),
        "get_user_context": lambda: contexts.get_user_context("42"),
        "get_user_context of nobody": lambda: contexts.get_user_context("43"),
        "merge": lambda: notes.merge("42", "a", Note(text="x", seen=1, tags=frozenset("abc"))),
        "merge with a version": lambda: notes.merge("42", "a", {"seen": 2}, if_version=1),
        "merge_many": lambda: notes.merge_many("42", many),
        "get": lambda: notes.get("42", "a"),
        "get_many": lambda: notes.get_many("42", many),
        "replace": lambda: notes.replace("42", "a", Note(text="y")),
        "ids": lambda: notes.ids("42"),
        "delete": lambda: notes.delete("42", *many),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)
    two: Calls = {
        "update": lambda: notes.update("42", "a", lambda note: note or Note(text="z")),
        "get_all": lambda: notes.get_all("42"),
    }
    assert await counted.counts(two) == dict.fromkeys(two, 2)


@on_real_servers
async def test_contexts_and_records_in_l1_take_none(place: Place) -> None:
    async with behind_a_proxy(place, coherence="tracking") as counted:
        contexts, notes = counted.memory.contexts, counted.memory.records("note", Note)
        await contexts.update_context("42", "Hi", "Hello", preferences={"a": [1]})
        await notes.merge("42", "a", Note(text="x"))

        async def is_kept() -> bool:
            hits = counted.memory.stats().l1.hits  # type: ignore[union-attr]
            await contexts.get_user_context("42")
            await notes.get("42", "a")
            return counted.memory.stats().l1.hits == hits + 2  # type: ignore[union-attr]

        await eventually(is_kept)
        assert type(await contexts.of(Customer).get_user_context("42")) is Customer, "L1 has one for each model"
        context = await contexts.get_user_context("42")
        context.preferences["a"].append(2)
        assert (await contexts.get_user_context("42")).preferences == {"a": [1]}
        await contexts.update_context("42", "Bye", "See you")
        assert (await contexts.get_user_context("42")).conversations_count == 2
        with place.raw() as raw:
            raw.hset("redismem:user:{42}:record:note:a", "text", b"\xa1y")

        async def is_heard_of() -> bool:
            note = await notes.get("42", "a")
            return note is not None and note.text == "y"

        await eventually(is_heard_of)


@on_real_servers
async def test_states_preferences_and_temporal_values_take_one_round_trip(counted: Counted) -> None:
    states, preferences, temporal = counted.memory.states, counted.memory.preferences, counted.memory.temporal
    await states.push("warm", 1)
    await states.peek("warm")
    await states.pop("warm")
    await states.increment_variable("warm", "n")
    await states.delete_variable("warm", "n")
    await states.touch("warm")
    await preferences.set("warm", "k", 1)
    await preferences.delete("warm", "k")
    await temporal.ttl("warm", "k")
    many = {f"{number}": number for number in range(100)}
    calls: Calls = {
        "set_task": lambda: states.set_task("s", "x"),
        "push": lambda: states.push("s", "x", ttl=100),
        "peek": lambda: states.peek("s"),
        "set_variables": lambda: states.set_variables("s", many),
        "get_variable": lambda: states.get_variable("s", "1"),
        "increment_variable": lambda: states.increment_variable("s", "1"),
        "get of a state": lambda: states.get("s"),
        "pop": lambda: states.pop("s"),
        "pop of an empty stack": lambda: states.pop("s"),
        "delete_variable": lambda: states.delete_variable("s", "1"),
        "touch": lambda: states.touch("s", 100),
        "clear": lambda: states.clear("s"),
        "set": lambda: preferences.set("42", "tone", "brief"),
        "set_many": lambda: preferences.set_many("42", many),
        "get": lambda: preferences.get("42", "tone"),
        "get_all": lambda: preferences.get_all("42"),
        "apply": lambda: preferences.apply("42", "Go."),
        "put": lambda: temporal.put("42", "k", 1, 100),
        "get of a temporal value": lambda: temporal.get("42", "k"),
        "get_all of temporal values": lambda: temporal.get_all("42"),
        "ttl": lambda: temporal.ttl("42", "k"),
        "delete": lambda: temporal.delete("42", "k"),
        "forget": lambda: preferences.forget("42"),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)


@on_real_servers
async def test_entities_take_one_round_trip(counted: Counted) -> None:
    entities = counted.memory.entities
    found = SimpleMemory(
        contacts=[SimpleContact(id=str(number), name=f"Ann {number}", account_name="Acme") for number in range(14)],
        leads=[SimpleLead(name=f"Bob {number}") for number in range(6)],
    )
    await entities.merge("warm", found)
    await entities.load("warm")
    calls: Calls = {
        "merge of 20": lambda: entities.merge("42", found),
        "the same again": lambda: entities.merge("42", found),
        "load": lambda: entities.load("42"),
        "duplicates": lambda: entities.duplicates("42"),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)
    assert await counted.count(entities.find_users(found.leads[0])) == 2
    assert await counted.count(entities.validate("42")) == 2
    await entities.forget("warm")
    assert await counted.count(entities.forget("42")) == 2, "what it has forgotten, and the index"


@on_real_servers
async def test_documents_take_one_round_trip(place: Place, counted: Counted) -> None:
    episodes, facts, skills = counted.memory.episodes, counted.memory.semantics, counted.memory.skills
    rival = place.open()
    for scope in ("warm", "default"):
        await episodes.add(EpisodicMemory(memory_id="w", content="warm"), scope=scope)
        await episodes.search("warm", scope=scope)
        await episodes.get("w", scope=scope)
        await episodes.delete("w", scope=scope)
        await facts.add(SemanticMemory(subject="w", predicate="is", object="warm"), scope=scope)
        await facts.query("w", scope=scope)
        await skills.add(SkillMemory(skill_name="w"), scope=scope)
        await skills.search("w", scope=scope)
    await rival.episodes.add_many(EpisodicMemory(content=f"of others {number}") for number in range(200))
    calls: Calls = {
        "search after others wrote": lambda: episodes.search("others"),
        "search again": lambda: episodes.search("others"),
        "add": lambda: episodes.add(EpisodicMemory(memory_id="a", content="to Lisboa")),
        "add with a ttl": lambda: episodes.add(EpisodicMemory(content="to Porto"), ttl=100),
        "add_many": lambda: episodes.add_many(EpisodicMemory(content=f"{number}") for number in range(100)),
        "get": lambda: episodes.get("a"),
        "count": lambda: episodes.count(),
        "delete": lambda: episodes.delete("a"),
        "learn a fact": lambda: facts.add(SemanticMemory(subject="Ann", predicate="likes", object="tea")),
        "query": lambda: facts.query("Ann"),
        "use a skill": lambda: skills.use("w", success=True),
        "search skills": lambda: skills.search("w"),
        "stream of a page": lambda: everything(skills.stream()),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)
    await rival.aclose()


async def everything(stream: AsyncIterator[Any]) -> list[Any]:
    return [batch async for batch in stream]


@on_real_servers
async def test_a_search_takes_none_while_nothing_changed(place: Place) -> None:
    async with behind_a_proxy(place, coherence="tracking") as counted:
        episodes = counted.memory.episodes
        await episodes.add(EpisodicMemory(memory_id="a", content="to Lisboa"))

        async def is_free() -> bool:
            return await counted.count(episodes.search("Lisboa")) == 0

        await eventually(is_free)
        assert await counted.count(episodes.search("Lisboa", fresh=True)) == 1
        rival = place.open()
        await rival.episodes.add(EpisodicMemory(memory_id="b", content="to Lisboa again"))

        async def is_found() -> bool:
            return len(await episodes.search("Lisboa")) == 2

        await eventually(is_found)
        await episodes.delete("a")
        assert [one.document.memory_id for one in await episodes.search("Lisboa")] == ["b"]
        await rival.aclose()


@on_real_servers
async def test_what_needs_more_says_how_much(place: Place, counted: Counted) -> None:
    store = counted.store
    rival = place.open_rival(counted.memory)
    for session_id in ("s", "t", "u"):
        rival.save(session_id, "n", "k", {"a": 1, "b": 2})
        rival.save(session_id, "m", "k", 1)
    rival.close()
    calls: Calls = {
        "update": lambda: store.update("s", "n", "k", lambda value: value),
        "update of nothing": lambda: store.update("s", "n", "new", lambda _: 1),
        "compare_and_set of equal bytes": lambda: store.compare_and_set("s", "n", "k", {"a": 1, "b": 2}, 5),
        "info": lambda: store.info("s"),
        "namespaces": lambda: store.namespaces("s"),
        "touch of a session of others": lambda: store.touch("t", 100),
        "end of a session of others": lambda: store.end("u"),
    }
    expected = dict.fromkeys(calls, 2) | {"compare_and_set of equal bytes": 1}
    assert await counted.counts(calls) == expected


@on_real_servers
async def test_a_session_with_an_idle_time_costs_no_more(place: Place) -> None:
    async with behind_a_proxy(place, session_ttl=600) as counted:
        store = counted.store
        calls: Calls = {
            "first save": lambda: store.save("s", "n", "k", 1),
            "second save": lambda: store.save("s", "n", "k", 2),
            "save to another namespace": lambda: store.save("s", "m", "k", 2, ttl=100),
            "increment": lambda: store.increment("s", "c", "k"),
            "compare_and_set": lambda: store.compare_and_set("s", "n", "k", 2, 3),
            "delete": lambda: store.delete("s", "n", "k"),
            "load": lambda: store.load("s", "n", "k"),
        }
        assert await counted.counts(calls) == dict.fromkeys(calls, 1)


@on_real_servers
@pytest.mark.parametrize("ttl", [None, 100])
async def test_a_batch_of_saves_is_one_round_trip(counted: Counted, ttl: float | None) -> None:
    async def saves(session_id: str, number_of_sessions: int) -> None:
        async with counted.memory.batch() as batch:
            handles = [
                batch.sessions.save(f"{session_id}{number % number_of_sessions}", "n", f"k{number}", number, ttl)
                for number in range(100)
            ]
        assert results(handles) == [None] * 100

    calls: Calls = {
        "to one namespace": lambda: saves("s", 1),
        "again": lambda: saves("s", 1),
        "to a hundred sessions": lambda: saves("t", 100),
        "to a hundred sessions again": lambda: saves("t", 100),
    }
    assert await counted.counts(calls) == dict.fromkeys(calls, 1)
    assert len(await counted.store.get_all("s0", "n")) == 100
    assert await counted.store.load("t99", "n", "k99") == 99


@on_real_servers
async def test_a_batch_of_everything_is_one_round_trip(counted: Counted) -> None:
    await counted.store.save_many("s", "n", {"a": 1, "b": 2, "c": 3})
    values: list[Any] = []

    async def mixed() -> None:
        async with counted.memory.batch() as batch:
            sessions = batch.sessions
            handles: list[Any] = [
                sessions.load("s", "n", "a"),
                sessions.save("s", "n", "a", 10, ttl=100),
                sessions.save_many("t", "n", {"x": 1, "y": 2}),
                sessions.load("s", "n", "a"),
                sessions.load("s", "n", "a", user_id="u"),
                sessions.load_many("s", "n", ["b", "c"]),
                sessions.delete("s", "n", "b"),
                sessions.increment("s", "n", "c", 4),
                sessions.compare_and_set("s", "n", "a", 10, 11),
                sessions.expire("s", "n", "c", 100),
                sessions.get_all("s", "n"),
            ]
        values.extend(results(handles))

    assert await counted.count(mixed()) == 1
    expected = [1, None, None, 10, 10, {"b": 2, "c": 3}, True, 7, True, True, {"a": 11, "c": 7}]
    assert values == expected


@on_real_servers
async def test_a_batch_of_updates_takes_two(counted: Counted) -> None:
    async def updates() -> None:
        async with counted.memory.batch() as batch:
            for number in range(10):
                batch.sessions.update("s", "n", f"k{number}", lambda value: value + 1, default=number)
            batch.sessions.save("s", "n", "k", 1)

    assert await counted.count(updates()) == 2


@pytest.mark.parametrize("place", [f"async-{name}" for name in REAL], indirect=True)
async def test_tasks_of_one_tick_share_a_round_trip(counted: Counted) -> None:
    async def together() -> None:
        loads = (counted.store.load("s", "n", f"k{number}") for number in range(50))
        assert await asyncio.gather(*loads) == [None] * 50

    assert await counted.count(together()) == 1


@on_real_servers
async def test_the_memory_counts_as_the_wire_does(counted: Counted) -> None:
    async def some() -> None:
        await counted.store.save("s", "n", "k", 1)
        await counted.store.get_all("s", "n")
        async with counted.memory.batch() as batch:
            for number in range(100):
                batch.sessions.increment("s", "n", "k", number)
        await counted.store.info("s")

    before = counted.memory.stats().round_trips
    on_the_wire = await counted.count(some())
    assert counted.memory.stats().round_trips - before == on_the_wire > 3
