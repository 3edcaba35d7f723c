"""Memory of an agent orchestrator, as its documentation has it: what it keeps, finds again and mends.

Two kinds of servers, of which one expires fields by itself and the other does not: `tests/contract` is about the rest.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated, Any

import pytest
import redis
from pydantic import BaseModel

from redismem import (
    AsyncMemory,
    EpisodicMemory,
    GraphEntity,
    Id,
    NaturalKey,
    Relationship,
    SemanticMemory,
    Sum,
    migration,
)
from redismem.compat.orchestrator import (
    AsyncStoreAdapter,
    SimpleAccount,
    SimpleCase,
    SimpleContact,
    SimpleLead,
    SimpleMemory,
    SimpleOpportunity,
    SimpleTask,
)
from redismem.errors import MissingEntity, RedisMemError
from tests.contract.flavours import eventually
from tests.contract.test_coherence import listening
from tests.servers import Server

servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
USER = "user-1"


@pytest.fixture
async def store(url: str) -> AsyncIterator[AsyncStoreAdapter]:
    adapter = AsyncStoreAdapter(url)
    yield adapter
    await adapter.aclose()


@pytest.fixture
async def memory(url: str) -> AsyncIterator[AsyncMemory]:
    async with AsyncMemory(url) as memory:
        yield memory


@dataclass
class HumanMessage:
    """A message of a framework that nobody here knows."""

    content: str


class AIMessage:
    """A message of a framework that serializes its own."""

    def __init__(self, content: str) -> None:
        self.content = content

    def dict(self) -> dict[str, Any]:
        return {"type": "ai", "content": self.content, "tool_calls": []}


# --- typed memory per user --------------------------------------------------------------------------------------------


async def remember(store: AsyncStoreAdapter, **found: Any) -> SimpleMemory:
    """Merge what was found into what is known, as the extraction's worker does; what is known then."""
    await store.aput(namespace=("memory", USER), key="SimpleMemory", value=SimpleMemory(**found))
    known: SimpleMemory = await store.aget(namespace=("memory", USER), key="SimpleMemory")
    return known


@servers
async def test_merge_without_duplicates(store: AsyncStoreAdapter) -> None:
    for _ in range(2):
        merged = await remember(store, accounts=[SimpleAccount(id="001", name="Acme Corp")])
    assert len(merged.accounts) == 1
    assert merged.accounts[0].id == "001"


@servers
async def test_merge_updates_incomplete_records(store: AsyncStoreAdapter) -> None:
    await remember(store, accounts=[SimpleAccount(name="Acme Corp")])
    merged = await remember(store, accounts=[SimpleAccount(id="001", name="ACME corp")])
    assert [account.id for account in merged.accounts] == ["001"], "the id that was found later is added"


@servers
async def test_merge_keeps_the_most_complete_record(store: AsyncStoreAdapter) -> None:
    await remember(store, opportunities=[SimpleOpportunity(id="006", name="Renewal", stage="Won", amount=50_000.0)])
    merged = await remember(store, opportunities=[SimpleOpportunity(id="006", name="Renewal", account_name="Acme")])
    (only,) = merged.opportunities
    assert (only.stage, only.amount, only.account_name) == ("Won", 50_000.0, "Acme")


@servers
async def test_merge_preserves_all_unique_entities(store: AsyncStoreAdapter) -> None:
    await remember(store, accounts=[SimpleAccount(id="001", name="Acme Corp")])
    merged = await remember(store, accounts=[SimpleAccount(id="002", name="TechCorp")])
    assert {account.name for account in merged.accounts} == {"Acme Corp", "TechCorp"}


@servers
async def test_all_six_kinds_by_id_and_by_name_or_subject(store: AsyncStoreAdapter) -> None:
    first: dict[str, Any] = {
        "accounts": [SimpleAccount(name="O'Reilly & Associates")],
        "contacts": [SimpleContact(name="John Smith", account_name="O'Reilly & Associates")],
        "opportunities": [SimpleOpportunity(name="Books", stage="New", amount=1.5, close_date="2026-12-31")],
        "cases": [SimpleCase(subject="Torn page", status="Open", priority="High")],
        "tasks": [SimpleTask(subject="Call back", due_date="2026-12-01")],
        "leads": [SimpleLead(name="Jane Doe", company="TechCorp", email="jane@tech.example")],
    }
    await remember(store, **first)
    again: dict[str, Any] = {
        "accounts": [SimpleAccount(id="001", name="o'reilly & associates")],
        "contacts": [SimpleContact(id="003", name="JOHN SMITH", account_id="001")],
        "opportunities": [SimpleOpportunity(id="006", name="books", account_id="001")],
        "cases": [SimpleCase(id="500", subject="TORN PAGE", account_id="001", contact_id="003")],
        "tasks": [
            SimpleTask(id="00T", subject="call back", status="Open", related_to_id="500", related_to_type="Case")
        ],
        "leads": [SimpleLead(id="00Q", name="jane doe", status="Qualified")],
    }
    known = await remember(store, **again)
    for kind, (new,) in again.items():
        (old,), (merged,) = first[kind], getattr(known, kind)
        wanted = old.model_dump(exclude_none=True) | new.model_dump(exclude_none=True)
        assert merged.model_dump(exclude_none=True) == wanted, f"of {kind} both are known"


@servers
async def test_concurrent_memory_updates(store: AsyncStoreAdapter) -> None:
    async def update_task(entity_name: str) -> None:
        memory = await store.aget(("memory", USER), "SimpleMemory") or SimpleMemory()
        memory.accounts.append(SimpleAccount(name=entity_name))
        await store.aput(("memory", USER), "SimpleMemory", memory)

    await asyncio.gather(*(update_task(f"Company {name}") for name in "ABCDEFGH"))
    final = await store.aget(("memory", USER), "SimpleMemory")
    assert len(final.accounts) == 8


@servers
async def test_large_memory_handling(store: AsyncStoreAdapter) -> None:
    accounts = [SimpleAccount(name=f"Company {number}") for number in range(1000)]
    contacts = [SimpleContact(name=f"Person {number}") for number in range(1000)]
    loaded = await remember(store, accounts=accounts, contacts=contacts)
    assert (len(loaded.accounts), len(loaded.contacts)) == (1000, 1000)


@dataclass
class Extracted:
    """A memory as somebody else's class has it."""

    accounts: list[SimpleAccount] = field(default_factory=list[SimpleAccount])
    contacts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@servers
async def test_a_memory_may_come_in_any_form_and_under_any_name(store: AsyncStoreAdapter) -> None:
    namespace = ("memory", USER)
    await store.aput(namespace, "SimpleMemory", {})
    assert await store.aget(namespace, "SimpleMemory") == SimpleMemory()
    await store.aput(namespace, "SimpleMemory", {"accounts": [{"name": "A"}], "leads": []})
    await store.aput(namespace, "memory", SimpleMemory(accounts=[SimpleAccount(name="B")]))
    await store.aput(namespace, "extracted", Extracted([SimpleAccount(name="C")], [{"name": "D"}]))
    known = await store.aget(namespace, "whatever")
    assert [account.name for account in known.accounts] == ["A", "B", "C"]
    assert [contact.name for contact in known.contacts] == ["D"]
    assert await store.aget(("memory", "user-2"), "SimpleMemory") == SimpleMemory()


@servers
async def test_a_value_hides_memories_until_one_is_put_in_its_place(store: AsyncStoreAdapter) -> None:
    namespace, key = ("memory", USER), "SimpleMemory"
    await store.aput(namespace, key, {"accounts": [{"name": "A"}]})
    await store.aput(namespace, key, {"note": 1})
    assert await store.aget(namespace, key) == {"note": 1}
    with pytest.raises(ValueError, match="name"):
        await store.aput(namespace, key, {"accounts": [{"id": "1"}]})
    assert await store.aget(namespace, key) == {"note": 1}
    assert [account.name for account in (await store.aget(namespace, "other")).accounts] == ["A"]
    await store.aput(namespace, key, {"accounts": [{"name": "B"}]})
    assert [account.name for account in (await store.aget(namespace, key)).accounts] == ["A", "B"]


class UserPreference(BaseModel, frozen=True):
    preference_type: Annotated[str, NaturalKey]
    value: str


class Shipment(BaseModel, frozen=True):
    number: Annotated[int | None, Id] = None
    name: Annotated[str, NaturalKey]
    parcels: Annotated[int, Sum] = 0


class Logistics(BaseModel, frozen=True):
    preferences: list[UserPreference] = []
    shipments: list[Shipment] = []


@servers
async def test_memory_types_of_ones_own(url: str) -> None:
    store = AsyncStoreAdapter(url, model=Logistics)
    found = {"shipments": [{"name": "Sea", "parcels": 2}], "preferences": [{"preference_type": "Tone", "value": "dry"}]}
    for _ in range(2):
        await store.aput(("memory", USER), "Logistics", found)
    await store.aput(("memory", USER), "Logistics", Logistics(shipments=[Shipment(number=7, name="sea")]))
    assert await store.aget(("memory", USER), "Logistics") == Logistics(
        preferences=[UserPreference(preference_type="Tone", value="dry")],
        shipments=[Shipment(number=7, name="sea", parcels=4)],
    )
    await store.aclose()


# --- a store of values under tuples -----------------------------------------------------------------------------------


def state_data(thread_id: str, *messages: Any) -> dict[str, Any]:
    """What the orchestrator saves of a thread."""
    state = {"messages": list(messages), "summary": "Booking", "memory_init_done": True}
    return {"state": state, "thread_id": thread_id, "timestamp": time.time(), "checkpoint_version": "1.0"}


@servers
async def test_thread_state_persistence(store: AsyncStoreAdapter) -> None:
    namespace, key = ("threads", "t-1"), "state_t-1"
    assert await store.aget(namespace=namespace, key=key) is None
    given = state_data("t-1", HumanMessage("Hi"), AIMessage("Hello"), {"type": "tool", "content": "3"})
    await store.aput(namespace=namespace, key=key, value=given)
    stored = await store.aget(namespace=namespace, key=key)
    assert stored["state"]["messages"] == [
        {"type": "HumanMessage", "content": "Hi"},
        {"type": "ai", "content": "Hello", "tool_calls": []},
        {"type": "tool", "content": "3"},
    ]
    assert {name: stored[name] for name in ("thread_id", "timestamp", "checkpoint_version")} == {
        name: given[name] for name in ("thread_id", "timestamp", "checkpoint_version")
    }
    assert stored["state"]["summary"] == "Booking"
    await store.aput(namespace, key, stored | {"timestamp": 1.5})
    assert (await store.aget(namespace, key))["timestamp"] == 1.5
    versions = await store.memory.threads.versions("t-1")
    assert [version.number for version in versions] == [2, 1], "what was saved before is there still"


@servers
async def test_other_values_are_beside_memories_and_states(store: AsyncStoreAdapter) -> None:
    values: dict[tuple[tuple[str, ...], str], Any] = {
        (("memory", USER), f"state_{USER}"): state_data("t-1", {"type": "human", "content": "Hi"}),
        (("memory", USER), "thread_list"): [{"id": "t-1", "created": 1.5}],
        (("threads", "t-1"), "labels"): {"urgent", "billing"},
        (("agents", "sales", "cache"), "k"): {"accounts": 3},
        (("agents", "sales"), "cache/k"): None,
    }
    await store.aput(("memory", USER), "SimpleMemory", {"accounts": [{"name": "Acme"}]})
    await store.aput(("threads", "t-1"), "state_t-1", {"messages": []})
    for (namespace, key), value in values.items():
        await store.aput(namespace, key, value)
    for (namespace, key), value in values.items():
        assert await store.aget(namespace, key) == value
    assert len((await store.aget(("memory", USER), "SimpleMemory")).accounts) == 1
    assert await store.aget(("threads", "t-1"), "state_t-1") == {"messages": []}
    assert await store.aget(("agents",), "k") is None


async def test_tuples_that_look_alike_are_different(store: AsyncStoreAdapter) -> None:
    await store.aput(("a/b", "c"), "k", 1)
    await store.aput(("a", "b/c"), "k", 2)
    assert [await store.aget(namespace, "k") for namespace in (("a/b", "c"), ("a", "b/c"), ("a",))] == [1, 2, None]


@servers
async def test_consistency_of_a_save_load_cycle(store: AsyncStoreAdapter) -> None:
    async def verify_save_load_cycle(user_id: str, test_memory: SimpleMemory) -> list[str]:
        await store.aput(("memory", user_id), "test_memory", test_memory)
        loaded = await store.aget(("memory", user_id), "test_memory")
        before, after = test_memory.model_dump(), loaded.model_dump()
        return [f"{name}: {before[name]} != {after[name]}" for name in before if before[name] != after[name]]

    whole = SimpleMemory(
        accounts=[SimpleAccount(id=str(number), name=f"Company {number} \0 🙂\n") for number in range(20)],
        opportunities=[SimpleOpportunity(name="x", amount=0.1)],
        cases=[SimpleCase(subject='"{quoted}"')],
    )
    assert await verify_save_load_cycle("a user", whole) == []
    assert await store.memory.entities.validate("a user") == []


# --- patterns ---------------------------------------------------------------------------------------------------------


@servers
async def test_conversation_history(memory: AsyncMemory) -> None:
    history = memory.history

    async def add_turn(user_msg: str, assistant_msg: str) -> None:
        turns = [{"role": "User", "content": user_msg}, {"role": "Assistant", "content": assistant_msg}]
        await history.extend(USER, turns, max_turns=200)

    for number in range(105):
        await add_turn(f"question {number}", f"answer {number}")
    turns = await history.turns(USER)
    assert len(turns) == 200
    assert turns[0].content == "question 5"
    assert await history.context_text(USER, max_turns=4) == (
        "User: question 103\nAssistant: answer 103\nUser: question 104\nAssistant: answer 104"
    )
    assert all(one.at <= other.at for one, other in itertools.pairwise(turns))


@servers
async def test_user_preferences(memory: AsyncMemory) -> None:
    preferences = memory.preferences
    base_prompt = "You are a helpful assistant."
    assert await preferences.apply(USER, base_prompt) == base_prompt
    await preferences.set_many(USER, {"communication_style": "casual", "response_length": "brief"})
    await asyncio.gather(preferences.set(USER, "timezone", "UTC"), preferences.set(USER, "language", "en"))
    prompt = await preferences.apply(USER, base_prompt)
    assert prompt.endswith(base_prompt)
    for line in ("communication_style: casual", "language: en", "response_length: brief", "timezone: UTC"):
        assert f"- {line}\n" in prompt
    assert await preferences.get(USER, "language") == "en"


@servers
async def test_learned_facts(memory: AsyncMemory) -> None:
    kb = memory.semantics

    async def add_fact(subject: str, predicate: str, obj: str, confidence: float) -> None:
        fact = SemanticMemory(
            subject=subject, predicate=predicate, object=obj, confidence=confidence, source="user_stated"
        )
        await kb.add(fact, scope=USER)

    await add_fact("Acme Corp", "has_revenue", "$10M", confidence=0.9)
    await add_fact("Acme Corp", "located_in", "San Francisco", confidence=0.6)
    await add_fact("Acme Corp", "located_in", "San Francisco", confidence=0.8)
    await add_fact("Acme Corp", "located_in", "San Francisco", confidence=0.3)
    await add_fact("TechCorp", "located_in", "Berlin", confidence=1.0)
    acme_facts = await kb.query(subject="Acme Corp", scope=USER)
    assert [(fact.object, round(fact.confidence, 3)) for fact in acme_facts] == [("$10M", 0.9), ("San Francisco", 0.8)]
    assert {fact.source for fact in acme_facts} == {"user_stated"}
    located = await kb.query(predicate="located_in", scope=USER)
    assert {fact.subject for fact in located} == {"Acme Corp", "TechCorp"}
    assert await kb.query(subject="Acme Corp", scope="user-2") == []


@servers
async def test_confidence_decay(url: str) -> None:
    async with AsyncMemory(url, confidence_half_life=0.05) as memory:
        kb = memory.semantics
        await kb.add(SemanticMemory(subject="Acme Corp", predicate="has_ceo", object="Ann", confidence=1.0))

        async def has_faded() -> bool:
            return await kb.query(subject="Acme Corp", min_confidence=0.1) == []

        await eventually(has_faded)
        (fact,) = await kb.query(subject="Acme Corp")
        assert 0 <= fact.confidence < 0.1
        await kb.add(SemanticMemory(subject="Acme Corp", predicate="has_ceo", object="Ann", confidence=1.0))
    async with AsyncMemory(url) as memory:
        (fact,) = await memory.semantics.query(subject="Acme Corp")
        assert fact.confidence > 0.99, "learned again, it is as sure as ever"


@servers
async def test_entity_graph(memory: AsyncMemory) -> None:
    graph = memory.graph
    await graph.add_entity(USER, "001", "company", {"name": "Acme Corp"})
    await graph.add_entity(USER, "002", "person", {"name": "John Smith"})
    with pytest.raises(MissingEntity):
        await graph.add_relationship(USER, "002", "works_for", "999")
    assert await graph.add_relationship(USER, "002", "works_for", "001")
    assert not await graph.add_relationship(USER, "002", "works_for", "001"), "it is there already"
    await graph.add_relationship(USER, "002", "likes", "001")
    (employer,) = await graph.neighbours(USER, "002", "works_for", direction="out")
    assert employer.entity == GraphEntity(id="001", kind="company", properties={"name": "Acme Corp"})
    assert len(await graph.neighbours(USER, "002")) == 2
    assert [one.entity.id for one in await graph.neighbours(USER, "001", "works_for", direction="in")] == ["002"]
    assert await graph.delete_entity(USER, "001")
    assert await graph.neighbours(USER, "002") == [], "and no relationship is left dangling"
    await graph.merge(
        USER, [GraphEntity(id="003", kind="project")], [Relationship(source="002", type="owns", target="003")]
    )
    assert (await graph.count(USER)).relationships == 1


@servers
async def test_session_state(memory: AsyncMemory) -> None:
    session = memory.states
    await session.set_task("abc123", "create_salesforce_opportunity")
    await session.push("abc123", "gathering_account_info")
    await session.set_variable("abc123", "account_name", "Acme Corp")
    before = await session.get("abc123")
    assert before.task == "create_salesforce_opportunity"
    assert before.variables["account_name"] == await session.get_variable("abc123", "account_name") == "Acme Corp"
    assert await session.get_variable("abc123", "missing", "default") == "default"
    await session.push("abc123", "confirming")
    assert (await session.get("abc123")).context_stack == ("gathering_account_info", "confirming")
    assert [await session.pop("abc123") for _ in range(3)] == ["confirming", "gathering_account_info", None]
    after = await session.get("abc123")
    assert before.last_active
    assert after.last_active
    assert after.last_active >= before.last_active
    assert before.context_stack == ("gathering_account_info",)
    with pytest.raises(FrozenInstanceError):
        before.task = None  # type: ignore[misc]


@servers
async def test_temporal_memory(memory: AsyncMemory) -> None:
    temporal = memory.temporal
    await temporal.put(USER, "auth_token", "secret", ttl=3600)
    await temporal.put(USER, "rate", {"left": 3}, ttl=0.05)
    assert await temporal.get(USER, "auth_token") == "secret"

    async def has_expired() -> bool:
        return await temporal.get(USER, "rate") is None

    await eventually(has_expired)
    assert await temporal.get_all(USER) == {"auth_token": "secret"}, "nobody had to clean up"


# --- optimisation -----------------------------------------------------------------------------------------------------


@servers
async def test_users_who_know_an_entity(memory: AsyncMemory) -> None:
    acme = SimpleAccount(name="Acme Corp")
    for user_id in ("ann", "bob", "cid"):
        await memory.entities.merge(user_id, SimpleMemory(accounts=[acme], leads=[SimpleLead(name=user_id)]))
    await memory.entities.forget("bob")
    assert await memory.entities.find_users(SimpleAccount(name="ACME  corp")) == ["ann", "cid"]
    assert await memory.entities.find_users(SimpleLead(name="Ann")) == ["ann"]
    assert await memory.entities.find_users(SimpleLead(name="nobody")) == []


@servers
async def test_compression_over_a_threshold(memory: AsyncMemory, server: Server) -> None:
    long = "a long note that repeats itself; " * 1000
    await memory.preferences.set_many(USER, {"short": "x" * 100, "long": long})
    assert await memory.preferences.get(USER, "long") == long
    with redis.Redis(port=server.port) as raw:
        stored = raw.hgetall(f"redismem:user:{{{USER}}}:preferences")
    assert len(stored[b"long"]) < len(long) / 10
    assert stored[b"short"].endswith(b"x" * 100)


@servers
async def test_deltas_instead_of_rewrites(memory: AsyncMemory, server: Server) -> None:
    await memory.preferences.set_many(USER, {"style": "casual", "notes": "n" * 3000})
    with redis.Redis(port=server.port) as raw, raw.monitor() as monitor:
        await memory.preferences.set(USER, "style", "formal")
        sent = next(one["command"] for one in monitor.listen() if one["command"].startswith("EVAL"))
    assert len(sent) < 500, "only what has changed travels"


@servers
async def test_the_least_used_and_oldest_memories_go_first(url: str) -> None:
    async with AsyncMemory(url, max_documents=10) as memory:
        for number in range(10):
            await memory.episodes.add(EpisodicMemory(memory_id=f"e{number}", content=f"number {number}"))
        for _ in range(3):
            await memory.episodes.get("e0")
        for number in range(10, 15):
            await memory.episodes.add(EpisodicMemory(memory_id=f"e{number}", content=f"number {number}"))
        assert await memory.episodes.count() == 10
        assert await memory.episodes.get("e0") is not None, "it was used"
        assert await memory.episodes.get("e1") is None


@servers
async def test_memories_from_l1_are_those_of_the_shared_cache(url: str, memory: AsyncMemory) -> None:
    async with AsyncMemory(url, coherence="tracking") as near:
        await listening(near)
        await memory.contexts.update_context(USER, "Hi", "Hello")
        await memory.preferences.set(USER, "tone", "brief")

        async def are_near() -> bool:
            before = near.stats().round_trips
            await near.contexts.get_user_context(USER)
            await near.preferences.get_all(USER)
            return near.stats().round_trips == before

        await eventually(are_near)
        await memory.preferences.set(USER, "tone", "long")

        async def has_heard() -> bool:
            return await near.preferences.get(USER, "tone") == "long"

        await eventually(has_heard)


# --- reliability ------------------------------------------------------------------------------------------------------


async def test_the_last_known_copy_when_the_store_is_away(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9")
    settings: dict[str, Any] = {"coherence": "tracking", "l1_fail_safe": 60, "retries": 0}
    async with AsyncMemory(server.url, **settings) as memory:
        await memory.preferences.set_many(USER, {"tone": "brief", "language": "en"})
        await memory.sessions.save("s", "notes", "k", {"a": 1})
        await listening(memory)
        prompt = await memory.preferences.apply(USER, "Go.")
        await memory.sessions.load("s", "notes", "k")
        server.kill()
        found = await memory.preferences.get_all(USER)
        assert found == {"tone": "brief", "language": "en"}
        assert await memory.preferences.apply(USER, "Go.") == prompt
        assert await memory.sessions.load("s", "notes", "k") == {"a": 1}

        async def is_marked() -> bool:
            return (await memory.preferences.get_all(USER)).stale_for is not None

        await eventually(is_marked)
        with pytest.raises(RedisMemError):
            await memory.preferences.set(USER, "tone", "long")


async def test_the_callers_own_fallbacks_when_memory_fails(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9")
    store = AsyncStoreAdapter(server.url, retries=1)
    memory_cache: dict[str, SimpleMemory] = {}

    async def load_user_memory(user_id: str) -> SimpleMemory:
        try:
            memory_cache[user_id] = await store.aget(namespace=("memory", user_id), key="SimpleMemory")
        except ConnectionError:
            return memory_cache.get(user_id, SimpleMemory())
        return memory_cache[user_id]

    await store.aput(("memory", USER), "SimpleMemory", {"accounts": [{"name": "Acme"}]})
    known = await load_user_memory(USER)
    server.kill()
    assert await load_user_memory(USER) == known
    assert await load_user_memory("user-2") == SimpleMemory(), "empty memory as the last resort"
    server.start()
    await eventually(lambda: _accepts(store))
    await store.aclose()


async def _accepts(store: AsyncStoreAdapter) -> bool:
    try:
        await store.aput(("memory", USER), "SimpleMemory", {"accounts": [{"name": "Acme"}]})
    except ConnectionError:
        return False
    return True


@servers
async def test_validation_and_repair_of_damaged_records(memory: AsyncMemory, server: Server) -> None:
    accounts = [SimpleAccount(id="001", name="Acme Corp"), SimpleAccount(id="002", name="TechCorp")]
    await memory.entities.merge(USER, SimpleMemory(accounts=accounts))
    with redis.Redis(port=server.port) as raw:
        raw.hset(f"redismem:user:{{{USER}}}:entities:accounts", "1.name", b"\xc1")
        assert (await memory.entities.load(USER)).accounts == accounts[1:], "the others can be read"
        assert len(await memory.entities.validate(USER)) >= 1
        assert len(await memory.entities.repair(USER)) >= 1
        assert await memory.entities.validate(USER) == []
        kept = raw.hgetall(f"redismem:user:{{{USER}}}:quarantine:accounts")
        assert kept[b"1.1.name"] == b"\xc1", "and nothing is thrown away"
    await memory.entities.merge(USER, SimpleMemory(accounts=accounts))
    assert {account.name for account in (await memory.entities.load(USER)).accounts} == {"Acme Corp", "TechCorp"}


@servers
async def test_duplicate_analysis(memory: AsyncMemory) -> None:
    contacts = [SimpleContact(id="1", name="John Smith"), SimpleContact(id="2", name="Jon Smith")]
    await memory.entities.merge(USER, SimpleMemory(contacts=[*contacts, SimpleContact(name="Jane Doe")]))
    assert await memory.entities.duplicates(USER) == [tuple(contacts)]


@servers
async def test_schema_versions_with_migrations_on_read(memory: AsyncMemory) -> None:
    class MemoryV1(BaseModel, frozen=True):
        name: str

    class MemoryV2(BaseModel, frozen=True):
        first_name: str
        last_name: str = ""

    @migration(MemoryV2, from_=1)
    def migrate_v1_to_v2(attributes: dict[str, Any]) -> dict[str, Any]:
        first, _, last = attributes.pop("name", "").partition(" ")
        return attributes | {"first_name": first, "last_name": last}

    await memory.records("profile", MemoryV1).merge(USER, "own", MemoryV1(name="Ann Lee"))
    new = memory.records("profile", MemoryV2)
    assert await new.get(USER, "own") == MemoryV2(first_name="Ann", last_name="Lee")
    snapshot = await new.snapshot(USER, "own")
    assert snapshot
    assert snapshot.schema == 2, "and it is written back"


# --- privacy and debugging --------------------------------------------------------------------------------------------


async def dump_user_memory(memory: AsyncMemory, user_id: str) -> dict[str, Any]:
    """All that is known of a user, for a file."""
    known = await memory.entities.load(user_id)
    return {
        "user_id": user_id,
        "memory": known.model_dump(),
        "stats": {name: len(getattr(known, name)) for name in ("accounts", "contacts")},
        "preferences": await memory.preferences.get_all(user_id),
        "temporal": await memory.temporal.get_all(user_id),
        "turns": [turn.content for turn in await memory.history.turns(user_id)],
        "graph": [entity.id async for entity in memory.graph.entities(user_id)],
        "facts": [fact.object for fact in await memory.semantics.query(scope=user_id)],
        "task": (await memory.states.get(user_id)).task,
        "context": (await memory.contexts.get_user_context(user_id)).conversations_count,
    }


async def fill(memory: AsyncMemory, user_id: str) -> None:
    """Something in each store of a user's memories."""
    await memory.entities.merge(user_id, SimpleMemory(accounts=[SimpleAccount(name="Acme")]))
    await memory.preferences.set(user_id, "tone", "brief")
    await memory.temporal.put(user_id, "code", 4711, 100)
    await memory.history.append(user_id, "user", "Hi")
    await memory.graph.add_entity(user_id, "ann", "person")
    await memory.semantics.add(SemanticMemory(subject="Ann", predicate="likes", object="tea"), scope=user_id)
    await memory.states.set_task(user_id, "booking")
    await memory.contexts.update_context(user_id, "Hi", "Hello")


@servers
async def test_memory_dump_utility(memory: AsyncMemory) -> None:
    await fill(memory, USER)
    dumped: Mapping[str, Any] = json.loads(json.dumps(await dump_user_memory(memory, USER)))
    assert dumped["stats"] == {"accounts": 1, "contacts": 0}
    assert dumped["preferences"] == {"tone": "brief"}
    assert dumped["temporal"] == {"code": 4711}
    assert (dumped["turns"], dumped["graph"], dumped["facts"]) == (["Hi"], ["ann"], ["tea"])
    assert (dumped["task"], dumped["context"]) == ("booking", 1)


@servers
async def test_a_user_can_be_forgotten(memory: AsyncMemory, server: Server) -> None:
    empty = await dump_user_memory(memory, USER)
    for user_id in (USER, "user-10"):
        await fill(memory, user_id)
    for forget in (memory.entities, memory.preferences, memory.temporal, memory.graph, memory.contexts):
        await forget.forget(USER)
    await memory.history.clear(USER)
    await memory.semantics.forget(scope=USER)
    await memory.states.clear(USER)
    assert await dump_user_memory(memory, USER) == empty
    assert (await dump_user_memory(memory, "user-10"))["preferences"] == {"tone": "brief"}, "and nobody else"
    with redis.Redis(port=server.port, decode_responses=True) as raw:
        left = [key for key in raw.scan_iter(f"*{{{USER}}}*") if not key.endswith(":ops")]
    assert all(":meta:" in key or ":log:" in key for key in left), "nothing but counters"
