"""Graphs: entities and relationships, in both flavours on every server, and against a dictionary."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from redismem import (
    AsyncGraphStore,
    AsyncMemory,
    Durability,
    GraphEntity,
    GraphPath,
    GraphSize,
    Memory,
    Relationship,
    Step,
)
from redismem.errors import (
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKey,
    LimitExceeded,
    MissingEntity,
    NotDurable,
)
from redismem.link.base import Command, Reply
from redismem.link.faults import Fault, NoScript
from tests.contract.flavours import Place, all_raise, on_real_servers, on_servers, results
from tests.contract.test_effects import link_of
from tests.contract.test_round_trips import Calls, behind_a_proxy
from tests.graphs import Model, flaws
from tests.servers import NAMES

ODD = ("a b", "a", "a%20b", "b", "é", "!", "{x}:*", "-")
"""Ids of which some are the beginning of others, or would be if they were not encoded."""


@pytest.fixture
def graph(memory: AsyncMemory) -> AsyncGraphStore:
    return memory.graph


async def chain(graph: AsyncGraphStore, *ids: str, type_: str = "next") -> None:
    """Entities, each related to the one after it."""
    entities = [GraphEntity(id=one, kind="k") for one in ids]
    pairs = pairwise(ids)
    await graph.merge("42", entities, [Relationship(source=a, type=type_, target=b) for a, b in pairs])


async def listed(stream: Any) -> list[Any]:
    return [one async for one in stream]


@on_servers
async def test_what_is_added_comes_back(graph: AsyncGraphStore) -> None:
    about: dict[str, Any] = {"age": 5, "a b": [1, None], "kind": "x", "big": "long and dull " * 1000}
    assert await graph.add_entity("42", "ann", "person", about)
    assert await graph.add_entity("42", "acme", "company")
    assert await graph.add_relationship("42", "ann", "works at", "acme", {"since": 2020})
    ann = GraphEntity(id="ann", kind="person", properties=about)
    works = Relationship(source="ann", type="works at", target="acme", properties={"since": 2020})
    assert await graph.get_entity("42", "ann") == ann
    assert await graph.get_relationship("42", "ann", "works at", "acme") == works
    assert await graph.neighbours("42", "acme") == [(works, ann)]
    assert await graph.count("42") == GraphSize(2, 1)
    assert await graph.get_entity("42", "bob") is await graph.get_entity("43", "ann") is None
    assert await graph.get_relationship("42", "acme", "works at", "ann") is None
    assert await graph.neighbours("42", "bob") == []
    with pytest.raises(ValidationError):
        ann.kind = "robot"  # type: ignore[misc]


@on_servers
async def test_what_is_added_again_merges(graph: AsyncGraphStore) -> None:
    await chain(graph, "a", "b")
    assert not await graph.add_entity("42", "a", "k", {"x": 1, "y": 1})
    assert not await graph.add_entity("42", "a", "other", {"y": 2, "z": None})
    assert not await graph.add_relationship("42", "a", "next", "b", {"x": 1, "y": 1})
    assert not await graph.add_relationship("42", "a", "next", "b", {"y": 2})
    assert await graph.add_relationship("42", "a", "other", "b")
    assert await graph.add_relationship("42", "b", "next", "a")
    assert await graph.get_entity("42", "a") == GraphEntity(
        id="a", kind="other", properties={"x": 1, "y": 2, "z": None}
    )
    found = await graph.get_relationship("42", "a", "next", "b")
    assert found is not None
    assert found.properties == {"x": 1, "y": 2}
    assert await graph.count("42") == GraphSize(2, 3)
    assert [one.id for one in await listed(graph.entities("42", "k"))] == ["b"]
    assert [one.id for one in await listed(graph.entities("42"))] == ["b", "a"]


@on_servers
async def test_both_ends_must_exist(graph: AsyncGraphStore, place: Place) -> None:
    await graph.add_entity("42", "ann", "person")
    for ends in (("ann", "bob b"), ("bob b", "ann"), ("bob b", "bob b")):
        with pytest.raises(MissingEntity, match="no entity 'bob b'") as refused:
            await graph.add_relationship("42", ends[0], "knows", ends[1], {"since": 1})
        assert refused.value.entity_ids == ("bob b",)
    relationships = [Relationship(source=a, type="t", target=b) for a, b in ("ab", "cd", "da")]
    with pytest.raises(MissingEntity) as refused:
        await graph.merge("42", [GraphEntity(id="a", kind="k", properties={"x": 1})], relationships)
    assert refused.value.entity_ids == ("b", "c", "d")
    assert await graph.count("42") == GraphSize(1, 0)
    assert await graph.get_entity("42", "a") is None
    with place.raw() as raw:
        assert raw.hgetall("redismem:user:{42}:graph:properties") == {b"ann": b"person"}


@on_servers
async def test_nothing_is_left_of_what_is_deleted(graph: AsyncGraphStore, place: Place) -> None:
    await chain(graph, "a", "b", "c")
    await graph.add_relationship("42", "b", "self", "b", {"x": 1})
    await graph.add_relationship("42", "c", "back", "b", {"x": 1})
    await graph.add_entity("42", "b", "k", {"x": 1})
    assert await graph.delete_entity("42", "b")
    assert not await graph.delete_entity("42", "b")
    assert await graph.count("42") == GraphSize(2, 0)
    assert await graph.add_relationship("42", "a", "next", "c", {"x": 1})
    assert await graph.delete_relationship("42", "a", "next", "c")
    assert not await graph.delete_relationship("42", "a", "next", "c")
    assert await graph.add_relationship("42", "a", "next", "c")
    found = await graph.get_relationship("42", "a", "next", "c")
    assert found is not None
    assert found.properties == {}
    with place.raw() as raw:
        assert flaws(raw, "42") == []
    assert await graph.delete_entity("42", "a")
    assert await graph.delete_entity("42", "c")
    assert not await graph.forget("42")
    assert [name for name in place.left_over() if not name.endswith(b":ops")] == []


@on_servers
async def test_a_graph_is_forgotten(graph: AsyncGraphStore) -> None:
    await chain(graph, "a", "b")
    await graph.add_entity("43", "a", "k")
    assert await graph.forget("42")
    assert await graph.count("42") == GraphSize(0, 0)
    assert await graph.get_entity("42", "a") is None
    assert await graph.count("43") == GraphSize(1, 0)


@on_servers
async def test_neighbours(graph: AsyncGraphStore) -> None:
    await graph.merge("42", [GraphEntity(id=one, kind="k") for one in (*ODD, "hub")])
    out = [Relationship(source="hub", type=type_, target=one) for type_ in ("t", "t t") for one in ODD]
    into = [Relationship(source=one, type="t", target="hub") for one in ODD]
    loop = Relationship(source="hub", type="t", target="hub")
    await graph.merge("42", (), [*out, *into, loop])

    async def others(*types: str, **options: Any) -> list[str]:
        return [entity.id for _, entity in await graph.neighbours("42", "hub", *types, **options)]

    assert sorted(await others("t", direction="out")) == sorted([*ODD, "hub"])
    assert sorted(await others("t", "t t", "t", direction="out")) == sorted([*ODD, *ODD, "hub"])
    assert sorted(await others("t", direction="in")) == sorted([*ODD, "hub"])
    assert sorted(await others("t")) == sorted([*ODD, *ODD, "hub"])
    assert len(await others()) == len(await others(limit=None)) == len(out) + len(into) + 1
    assert await others(limit=20) == (await others())[:20]
    assert len(await others("t t", limit=3)) == 3
    assert await others("nothing") == await others("t t", direction="in") == []
    for one in ODD:
        assert len(await graph.neighbours("42", one)) == 3


@on_servers
async def test_paths(graph: AsyncGraphStore) -> None:
    await chain(graph, "a", "b", "c", "d", "e")
    await chain(graph, "a", "x", "d", type_="short")
    await graph.add_relationship("42", "b", "short", "c")
    await graph.add_relationship("42", "e", "next", "a")

    async def ways(source: str, target: str, *types: str, **options: Any) -> list[str]:
        return ["".join(path.entities) for path in await graph.paths("42", source, target, *types, **options)]

    assert await ways("a", "d") == ["axd", "abcd", "abcd"]
    assert await ways("a", "d", limit=2) == ["axd", "abcd"]
    assert await ways("a", "d", "next") == ["abcd"]
    assert await ways("a", "d", "next", "short", max_length=2) == ["axd"]
    assert await ways("d", "a") == ["dea"]
    assert await ways("d", "a", direction="in") == ["dxa", "dcba", "dcba"]
    assert sorted(await ways("a", "d", direction="both")) == ["abcd", "abcd", "aed", "axd"]
    assert await ways("a", "a") == ["a"]
    assert await ways("a", "nobody") == await ways("nobody", "a") == await ways("nobody", "nobody") == []
    assert await graph.shortest_path("42", "a", "d") == GraphPath(
        ("a", "x", "d"), (Step("a", "short", "x"), Step("x", "short", "d"))
    )
    shortest = await graph.shortest_path("42", "d", "b", direction="in")
    assert shortest is not None
    assert (shortest.length, shortest.entities, shortest.steps[0][::2]) == (2, ("d", "c", "b"), ("c", "d"))
    assert await graph.shortest_path("42", "a", "e", "next", max_length=3) is None
    assert await graph.shortest_path("42", "a", "e", "next") is not None
    longest = await graph.shortest_path("42", "b", "x", max_length=100)
    assert longest is not None
    assert longest.length == 5


@on_servers
async def test_a_search_for_paths_has_an_end(graph: AsyncGraphStore) -> None:
    """Every entity is related to every other: there are far too many paths to count."""
    ids = [str(number) for number in range(15)]
    relationships = [Relationship(source=a, type="t", target=b) for a in ids for b in ids]
    await graph.merge("42", [GraphEntity(id=one, kind="k") for one in [*ids, "far"]], relationships)
    assert len(await graph.paths("42", "0", "1", max_length=14, effort=10_000)) == 100
    for ends in (("0", "far"), ("far", "0")):  # nothing leads to the one, nor from the other
        assert await graph.paths("42", *ends, max_length=14) == []
    await graph.add_entity("42", "near", "k")
    await graph.add_relationship("42", "near", "t", "far")
    with pytest.raises(LimitExceeded, match="'0' to '1': 500 relationships"):
        await graph.paths("42", "0", "1", max_length=14, limit=100_000, effort=500)
    with pytest.raises(LimitExceeded):
        await graph.shortest_path("42", "0", "far", max_length=14, direction="both", effort=20)
    assert await graph.shortest_path("42", "0", "far", max_length=14) is None


@on_servers
async def test_lists_come_in_batches(graph: AsyncGraphStore) -> None:
    entities = [GraphEntity(id=f"{number:02}", kind="kk" if number % 2 else "k") for number in range(20)]
    relationships = [Relationship(source="00", type="t", target=one.id, properties={"n": one.id}) for one in entities]
    await graph.merge("42", entities, relationships)
    assert await listed(graph.entities("42", "k", batch_size=3)) == entities[::2]
    assert await listed(graph.entities("42", batch_size=5)) == [*entities[::2], *entities[1::2]]
    assert await listed(graph.relationships("42", batch_size=7)) == relationships
    assert await listed(graph.relationships("43")) == []


@on_servers
async def test_in_a_batch(memory: AsyncMemory, graph: AsyncGraphStore) -> None:
    async with memory.batch() as batch:
        handles: list[Any] = [
            batch.graph.add_entity("42", "a", "k"),
            batch.graph.add_relationship("42", "a", "t", "b"),
            batch.graph.add_entity("42", "b", "k"),
            batch.graph.add_relationship("42", "a", "t", "b"),
            batch.graph.count("42"),
        ]
    assert isinstance(handles[1].error(), MissingEntity)
    del handles[1]
    assert results(handles) == [True, True, True, GraphSize(2, 1)]
    assert await graph.merge("42") == GraphSize(0, 0)


@on_servers
async def test_a_write_whose_reply_is_lost_takes_place_once(
    memory: AsyncMemory, graph: AsyncGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_of(memory)
    exchange, lost = link.exchange, 0

    async def losing(commands: Sequence[Command], **options: Any) -> list[Reply]:
        """Every first reply of a script that the server has applied."""
        nonlocal lost
        replies = await exchange(commands, **options)
        if commands[-1][0] in ("EVALSHA", "EVAL") and not isinstance(replies[-1], NoScript):
            lost += 1
            if lost % 2:
                raise Fault(ConnectionResetError("cut before the reply"), unsent=False)
        return replies

    monkeypatch.setattr(link, "exchange", losing)
    monkeypatch.setattr(link, "patience", type(link.patience)(backoff_base=0.0001, backoff_cap=0.001))
    assert await graph.add_entity("42", "a", "k")
    assert await graph.merge("42", [GraphEntity(id="b", kind="k")]) == GraphSize(1, 0)
    assert await graph.add_relationship("42", "a", "t", "b")
    assert await graph.delete_relationship("42", "a", "t", "b")
    assert await graph.delete_entity("42", "a")
    assert await graph.forget("42")
    assert lost == 12


@on_servers
async def test_bad_input_is_refused_and_changes_nothing(graph: AsyncGraphStore, place: Place) -> None:
    await all_raise(
        InvalidKey,
        graph.add_entity("", "a", "k"),
        graph.add_entity("42", "", "k"),
        graph.add_entity("42", "a", ""),
        graph.add_entity("42", "a", "k", {"": 1}),
        graph.add_relationship("42", "a", "\ud800", "b"),
        graph.neighbours("42", "a", ""),
        graph.get_entity("42", "x" * 600),
    )
    await all_raise(EncodeError, graph.add_entity("42", "a", "k", {"x": object()}))
    wrong: Any = "sideways"
    await all_raise(
        ConfigError,
        graph.neighbours("42", "a", limit=0),
        graph.neighbours("42", "a", direction=wrong),
        graph.paths("42", "a", "b", max_length=0),
        graph.paths("42", "a", "b", limit=-1),
        graph.shortest_path("42", "a", "b", effort=0),
        listed(graph.entities("42", batch_size=0)),
    )
    assert place.left_over() == []


@on_servers
async def test_damage_hides_nothing_else(graph: AsyncGraphStore, place: Place) -> None:
    await chain(graph, "a", "b")
    await graph.add_entity("42", "a", "k", {"bad": 1, "good": 2, "gone": 3})
    await graph.add_relationship("42", "a", "next", "b", {"bad": 1, "good": 2})
    key = "redismem:user:{42}:graph:"
    with place.raw() as raw:
        raw.hset(f"{key}properties", mapping={"a bad": b"\xc1", "a next b bad": b"\xc1"})
        raw.hdel(f"{key}properties", "a gone")
    ((relationship, entity),) = await graph.neighbours("42", "b")
    assert relationship.properties == entity.properties == {"good": 2}
    assert entity.unreadable["bad"].key == f"{key}properties[a bad]"
    assert relationship.unreadable["bad"].key == f"{key}properties[a next b bad]"
    await graph.add_entity("42", "a", "k", {"bad": 5, "gone": 6})
    mended = await graph.get_entity("42", "a")
    assert mended is not None
    assert (mended.properties, dict(mended.unreadable)) == ({"bad": 5, "good": 2, "gone": 6}, {})
    with place.raw() as raw:
        raw.zadd(f"{key}out", {"b next nobody": 0})
        raw.zadd(f"{key}entities", {"k nobody": 0, "k %zz": 0})
    with pytest.raises(DecodeError, match=r"graph:properties\[nobody\]: .* there is none"):
        await graph.neighbours("42", "b", direction="out")
    with pytest.raises(DecodeError, match="%zz"):
        await listed(graph.entities("42"))


@on_real_servers
async def test_writes_wait_for_replicas_if_asked_to(graph: AsyncGraphStore) -> None:
    safe = Durability(replicas=1, timeout=0.01)
    await all_raise(
        NotDurable,
        graph.add_entity("42", "a", "k", durable=safe),
        graph.delete_relationship("42", "a", "t", "b", durable=safe),
        graph.delete_entity("42", "b", durable=safe),
        graph.merge("42", durable=safe),
    )
    assert await graph.count("42") == GraphSize(1, 0)


@on_real_servers
async def test_each_is_one_round_trip(place: Place) -> None:
    async with behind_a_proxy(place) as counted:
        graph = counted.memory.graph
        entities = [GraphEntity(id=str(number), kind="k", properties={"x": 1}) for number in range(100)]
        relationships = [Relationship(source="0", type="t", target=one.id) for one in entities]
        calls: Calls = {
            "merge": lambda: graph.merge("42", entities, relationships),
            "add_entity": lambda: graph.add_entity("42", "a", "k", {"x": 1}),
            "add_relationship": lambda: graph.add_relationship("42", "a", "t", "0"),
            "get_entity": lambda: graph.get_entity("42", "a"),
            "get_relationship": lambda: graph.get_relationship("42", "a", "t", "0"),
            "neighbours": lambda: graph.neighbours("42", "0"),
            "paths": lambda: graph.paths("42", "a", "50", max_length=10),
            "shortest_path": lambda: graph.shortest_path("42", "a", "50", max_length=10),
            "count": lambda: graph.count("42"),
            "entities": lambda: listed(graph.entities("42", batch_size=200)),
            "delete_relationship": lambda: graph.delete_relationship("42", "a", "t", "0"),
            "delete_entity": lambda: graph.delete_entity("42", "0"),
            "forget": lambda: graph.forget("42"),
        }
        await counted.counts(calls)  # every script is there now
        assert await counted.counts(calls) == dict.fromkeys(calls, 1)


# --- against a dictionary -------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "a b", "é"])
types = st.sampled_from(["t", "t t"])
properties = st.dictionaries(st.sampled_from(["x", "t", "a b"]), st.sampled_from([1, None, "text"]), max_size=2)
some_entities = st.lists(
    st.builds(GraphEntity, id=names, kind=st.sampled_from(["k", "t"]), properties=properties), max_size=3
)
some_relationships = st.lists(
    st.builds(Relationship, source=names, type=types, target=names, properties=properties), max_size=4
)
steps = st.one_of(
    st.tuples(st.just("merge"), some_entities, some_relationships),
    st.tuples(st.just("merge"), st.just([]), some_relationships),
    st.tuples(st.just("delete_entity"), names),
    st.tuples(st.just("delete_relationship"), names, types, names),
)


def take(graph: Any, model: Model, step: tuple[Any, ...]) -> None:
    """The same step in both, with the same outcome."""
    match step:
        case "merge", entities, relationships:
            if missing := model.missing(entities, relationships):
                with pytest.raises(MissingEntity) as refused:
                    graph.merge("42", entities, relationships)
                assert refused.value.entity_ids == missing
            else:
                assert graph.merge("42", entities, relationships) == GraphSize(*model.merge(entities, relationships))
        case "delete_entity", entity_id:
            assert graph.delete_entity("42", entity_id) == model.delete_entity(entity_id)
        case _:
            there = model.relationships.pop(step[1:], None) is not None
            assert graph.delete_relationship("42", *step[1:]) == there


def compare(graph: Any, model: Model, chosen: tuple[str, ...], direction: Any, source: str, target: str) -> None:
    """Whatever may be asked has the same answer from both."""
    assert {one.id: one for one in graph.entities("42", batch_size=2)} == model.entities
    assert sorted(graph.relationships("42", batch_size=2), key=repr) == sorted(model.relationships.values(), key=repr)
    assert graph.count("42") == GraphSize(len(model.entities), len(model.relationships))
    assert graph.get_entity("42", source) == model.entities.get(source)
    found = graph.neighbours("42", source, *chosen, direction=direction)
    assert sorted(found, key=repr) == sorted(model.neighbours(source, chosen, direction), key=repr)
    expected = list(model.paths(source, target, chosen, direction, 3))
    paths = graph.paths("42", source, target, *chosen, direction=direction, max_length=3, limit=10_000)
    assert sorted(paths, key=repr) == sorted(expected, key=repr)
    lengths = [path.length for path in paths]
    assert lengths == sorted(lengths)
    shortest = graph.shortest_path("42", source, target, *chosen, direction=direction, max_length=3)
    assert (shortest and shortest.length) == min((path.length for path in expected), default=None)


@pytest.mark.timeout(600)  # a failure takes its time to be made small
@pytest.mark.parametrize("place", [f"sync-{name}" for name in NAMES], indirect=True)
def test_a_graph_does_what_a_dictionary_does(place: Place) -> None:
    assert place.server is not None
    with Memory(place.server.url) as memory:
        place.fake.extend(server for name, server in memory._link.endpoint.options.items() if name == "server")

        @settings(max_examples=max(30, settings().max_examples // 4))
        @given(
            st.lists(steps, max_size=12),
            st.lists(types, max_size=1).map(tuple),
            st.sampled_from(["out", "in", "both"]),
            names,
            names,
        )
        def check(done: list[Any], chosen: tuple[str, ...], direction: str, source: str, target: str) -> None:
            model = Model()
            memory.graph.forget("42")
            for step in done:
                take(memory.graph, model, step)
            compare(memory.graph, model, chosen, direction, source, target)
            with place.raw() as raw:
                assert flaws(raw, "42") == []

        check()
