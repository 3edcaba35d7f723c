"""Migrations of stored records, beside workers of other versions; on every server, in both flavours."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from pydantic.dataclasses import dataclass

from redismem import (
    AsyncMemory,
    AsyncRecordStore,
    Expires,
    KeepFirst,
    Max,
    MaxBy,
    Min,
    Sum,
    Union,
    UserContext,
    migration,
)
from redismem.errors import DecodeError, InvalidKey
from redismem.stores.record import Migrated
from tests.contract.flavours import Place, all_raise, lefts, on_servers, results

pytestmark = on_servers


class Person(BaseModel, frozen=True):
    name: str
    tags: Annotated[frozenset[str], Union] = frozenset()
    visits: Annotated[int, Sum] = 0


class Named(BaseModel, frozen=True):
    first: str
    last: str = ""
    labels: Annotated[frozenset[str], Union] = frozenset()
    visits: Annotated[int, Sum] = 0


@migration(Named, from_=1)
def split(attributes: dict[str, Any]) -> dict[str, Any]:
    if "name" in attributes:
        attributes["first"], _, attributes["last"] = attributes.pop("name").partition(" ")
    if "tags" in attributes:
        attributes["labels"] = attributes.get("labels", set()) | attributes.pop("tags")
    return attributes


@dataclass(frozen=True)
class Customer(UserContext):
    nick: str = ""


@migration(Customer, from_=1)
def nicknamed(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"nick": attributes["user_id"].upper(), **attributes}


@pytest.fixture
def old(memory: AsyncMemory) -> AsyncRecordStore[Person]:
    return memory.records("person", Person)


@pytest.fixture
def new(memory: AsyncMemory) -> AsyncRecordStore[Named]:
    return memory.records("person", Named)


async def schema(new: AsyncRecordStore[Named], record_id: str = "a") -> int:
    """The version that a record was last written as, once it was read."""
    found = await new.snapshot("42", record_id)
    assert found is not None
    return found.schema


# --- one record -----------------------------------------------------------------------------------------------------


async def test_one_record(old: AsyncRecordStore[Person], new: AsyncRecordStore[Named], place: Place) -> None:
    await old.merge("42", "a", Person(name="Ann Lee", visits=1))
    assert await new.migrate("42", "a", dry_run=True) is Migrated.OUTDATED
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:record:person:a", "@schema") == b"1"
    assert await new.migrate("42", "a") is Migrated.DONE
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:record:person:a", "@schema") == b"2"
        assert raw.hget("redismem:user:{42}:record:person:a", "first") == b"\xa3Ann"
    assert await new.migrate("42", "a") is await new.migrate("42", "nobody") is Migrated.CURRENT
    assert await old.migrate("42", "a") is Migrated.CURRENT, "of a later version: nothing to do"
    assert await new.get("42", "a") == Named(first="Ann", last="Lee", visits=1)
    assert await old.get("42", "a") == Person(name="Ann Lee", visits=1), "older workers go on"


async def test_what_new_workers_wrote_outlives_what_old_ones_left(
    old: AsyncRecordStore[Person], new: AsyncRecordStore[Named]
) -> None:
    """An old worker that writes something else does not bring back the name that the new ones have replaced."""
    await old.merge("42", "a", Person(name="Ann Lee", tags=frozenset({"x"}), visits=1))
    await new.migrate("42", "a")
    await new.merge("42", "a", {"first": "Bea", "labels": {"new"}})
    await old.merge("42", "a", {"visits": 1})
    assert await new.get("42", "a") == Named(first="Bea", last="Lee", labels=frozenset({"x", "new"}), visits=2)
    await old.merge("42", "a", {"visits": 1})
    assert await new.migrate("42", "a") is Migrated.DONE
    assert await new.get("42", "a") == Named(first="Bea", last="Lee", labels=frozenset({"x", "new"}), visits=3)

    await old.merge("42", "a", {"tags": {"y"}})
    assert (await new.get("42", "a")) == Named(
        first="Bea", last="Lee", labels=frozenset({"x", "y", "new"}), visits=3
    ), "what they write anew counts"
    await old.merge("42", "a", {"name": "Cid Roe"})
    assert (await new.get("42", "a")) == Named(first="Cid", last="Roe", labels=frozenset({"x", "y", "new"}), visits=3)


async def test_what_new_workers_write_is_newer_than_what_was_there(
    old: AsyncRecordStore[Person], new: AsyncRecordStore[Named], memory: AsyncMemory
) -> None:
    """They migrate a record before they merge into it, replace it or update it, even if they have never read it."""
    await old.merge_many("42", {name: Person(name="Ann Lee", visits=1) for name in "abcd"})
    await new.merge("42", "a", {"first": "Bea", "visits": 1})
    assert await new.get("42", "a") == Named(first="Bea", last="Lee", visits=2)
    await new.replace("42", "b", Named(first="Bea"))
    assert await new.get("42", "b") == Named(first="Bea")
    await new.update("42", "c", lambda found: found.model_copy(update={"first": "Bea"}))
    assert await new.get("42", "c") == Named(first="Bea", last="Lee", visits=1)
    merged = await new.merge_many("42", {"d": {"first": "Bea"}, "new": {"first": "Cid"}, "a": {"visits": 1}})
    assert [one.created for one in merged.values()] == [False, True, False]
    assert await new.get("42", "d") == Named(first="Bea", last="Lee", visits=1)
    before = memory.stats().round_trips
    await new.merge("42", "a", {"visits": 1})
    assert memory.stats().round_trips - before == 1


async def test_three_versions_at_once(old: AsyncRecordStore[Person], memory: AsyncMemory) -> None:
    class Titled(BaseModel, frozen=True):
        full: str
        visits: Annotated[int, Sum] = 0

    @migration(Titled, from_=1)
    def first_and_last(attributes: dict[str, Any]) -> dict[str, Any]:
        return split(attributes)

    @migration(Titled, from_=2)
    def whole(attributes: dict[str, Any]) -> dict[str, Any]:
        if "first" in attributes:
            attributes["full"] = f"{attributes.pop('first')} {attributes.pop('last', '')}"
        return attributes

    middle, newest = memory.records("person", Named), memory.records("person", Titled)
    await old.merge("42", "a", Person(name="Ann Lee"))
    assert await newest.get("42", "a") == Titled(full="Ann Lee")
    await old.merge("42", "a", {"name": "Bea Lee"})
    assert (await middle.get("42", "a")).first == "Bea"  # type: ignore[union-attr]
    assert await newest.get("42", "a") == Titled(full="Bea Lee")
    await newest.merge("42", "a", {"full": "Cid Roe"})
    await middle.merge("42", "a", {"visits": 1})
    await old.merge("42", "a", {"visits": 1})
    assert await newest.get("42", "a") == Titled(full="Cid Roe", visits=2)
    await middle.merge("42", "a", {"first": "Dan", "last": "Poe"})
    assert await newest.get("42", "a") == Titled(full="Dan Poe", visits=2)


async def test_others_who_write_all_the_time_lose_nothing(
    memory: AsyncMemory, old: AsyncRecordStore[Person], place: Place
) -> None:
    class Disturbed(BaseModel, frozen=True):
        name: str
        nick: str = ""

    disturbances: list[int] = []

    @migration(Disturbed, from_=1)
    def while_others_write(attributes: dict[str, Any]) -> dict[str, Any]:
        if len(disturbances) < most:
            disturbances.append(1)
            with place.raw() as raw:
                raw.hincrby("redismem:user:{42}:record:person:a", "@version", 1)
        return attributes

    await old.merge("42", "a", Person(name="Ann"))
    disturbed, most = memory.records("person", Disturbed), 1_000
    assert await disturbed.get("42", "a") == Disturbed(name="Ann")
    assert await disturbed.migrate("42", "a") is Migrated.OUTDATED
    await disturbed.merge("42", "a", {"nick": "A"})
    assert await disturbed.get("42", "a") == Disturbed(name="Ann", nick="A")
    most = len(disturbances) + 2
    assert await disturbed.migrate("42", "a") is Migrated.DONE
    assert len(disturbances) == most


async def test_what_cannot_be_migrated_is_named_and_stays(
    memory: AsyncMemory, old: AsyncRecordStore[Person], new: AsyncRecordStore[Named], place: Place
) -> None:
    class Strict(BaseModel, frozen=True):
        name: str
        visits: Annotated[int, Sum] = 0
        odd: Any = None

    @migration(Strict, from_=1)
    def refuses(attributes: dict[str, Any]) -> dict[str, Any]:
        visits, odd = {"Ann": (2, 1), "Bob": (None, 1), "Eve": (2, object())}[attributes["name"]]
        return {"visits": visits, "odd": odd, **attributes}

    strict = memory.records("person", Strict)
    await old.merge_many("42", {name[0].lower(): Person(name=name) for name in ("Ann", "Bob", "Cid", "Eve")})
    with place.raw() as raw:
        raw.hset("redismem:user:{42}:record:person:d", mapping={"@version": 1, "@schema": "x", "name": b"\xa1D"})
        before = {name: raw.hgetall(f"redismem:user:{{42}}:record:person:{name}") for name in "bcde"}
    assert await strict.migrate("42", "a") is Migrated.DONE
    with pytest.raises(DecodeError, match=r"record:person:c: its migration from version 1 failed: KeyError\('Cid'\)"):
        await strict.migrate("42", "c")
    with pytest.raises(DecodeError, match=r"record:person:d: no record: "):
        await strict.get("42", "d")
    await all_raise(DecodeError, *(strict.migrate("42", name) for name in "bcde"))
    await all_raise(DecodeError, *(strict.get("42", name) for name in "bcde"))
    with place.raw() as raw:
        assert {name: raw.hgetall(f"redismem:user:{{42}}:record:person:{name}") for name in "bcde"} == before
    await all_raise(InvalidKey, new.migrate("", "a"), new.migrate("42", ""))


async def test_what_nobody_has_told_stays_open(memory: AsyncMemory, place: Place) -> None:
    class Lead(BaseModel, frozen=True):
        name: str = ""
        origin: Annotated[str, KeepFirst] = ""
        low: Annotated[float, Min] = 0.0
        task: Annotated[str | None, Expires(6000)] = None

    class Renamed(BaseModel, frozen=True):
        first: str = ""
        origin: Annotated[str, KeepFirst] = ""
        low: Annotated[float, Min] = 0.0
        task: Annotated[str | None, Expires(6000)] = None

    @migration(Renamed, from_=1)
    def rename(attributes: dict[str, Any]) -> dict[str, Any]:
        task = {"task": attributes["task"].upper()} if "task" in attributes else {}
        return {("first" if name == "name" else name): value for name, value in attributes.items()} | task

    old, new = memory.records("lead", Lead), memory.records("lead", Renamed)
    await old.merge("42", "a", {"name": "Ann", "task": "call"})
    lefts(place, "record:lead:a", less=3000)
    assert await new.migrate("42", "a") is Migrated.DONE
    assert await new.get("42", "a") == Renamed(first="Ann", task="CALL")
    assert max(lefts(place, "record:lead:a")) < 3001
    assert (await new.merge("42", "a", {"origin": "web", "low": 5.0})).changed == {"origin", "low"}
    found = await new.snapshot("42", "a")
    assert found is not None
    assert found.told == {"first", "origin", "low", "task"}


async def test_an_attribute_of_a_new_name_begins_its_time_anew(memory: AsyncMemory, place: Place) -> None:
    class Lead(BaseModel, frozen=True):
        task: Annotated[str | None, Expires(6000)] = None

    class Renamed(BaseModel, frozen=True):
        job: Annotated[str | None, Expires(6000)] = None

    @migration(Renamed, from_=1)
    def rename(attributes: dict[str, Any]) -> dict[str, Any]:
        return {"job": attributes.pop("task")} | attributes

    await memory.records("lead", Lead).merge("42", "a", {"task": "call"})
    lefts(place, "record:lead:a", less=3000)
    assert await memory.records("lead", Renamed).get("42", "a") == Renamed(job="call")
    assert 5000 < max(lefts(place, "record:lead:a")) <= 6000


async def test_a_policy_changes(memory: AsyncMemory, place: Place) -> None:
    class Plain(BaseModel, frozen=True):
        tags: list[str] = []
        score: int = 0
        name: str = ""
        sure: float = 0.0
        notes: dict[str, int] = {}

    class Declared(BaseModel, frozen=True):
        tags: Annotated[frozenset[str], Union] = frozenset()
        score: Annotated[int, Max] = 0
        name: Annotated[str, MaxBy("sure")] = ""
        sure: Annotated[float, Max] = 0.0
        notes: Annotated[dict[str, int], Union] = {}

    plain, declared = memory.records("x", Plain), memory.records("x", Declared)
    was = Plain(tags=["a"], score=100, name="Ann", sure=0.5, notes={"x": 1})
    await plain.merge_many("42", dict.fromkeys("abc", was))
    await declared.merge("42", "a", {"score": 5, "tags": {"b"}, "name": "Bob", "sure": 0.4, "notes": {"y": 2}})
    both = {"tags": frozenset("ab"), "score": 100, "name": "Ann", "sure": 0.5, "notes": {"x": 1, "y": 2}}
    for _ in range(2):
        assert await declared.get("42", "a") == Declared(**both)
    older = await plain.get("42", "a")
    assert older is not None
    assert (sorted(older.tags), older.score, older.notes) == (["a", "b"], 100, {"x": 1, "y": 2})
    assert (await declared.merge("42", "a", {"score": 101})).changed == {"score"}

    await declared.update("42", "b", lambda found: found.model_copy(update={"tags": frozenset("c")}))
    assert (await declared.get("42", "b")).tags == {"c"}  # type: ignore[union-attr]
    assert (await plain.get("42", "b")).tags == ["c"]  # type: ignore[union-attr]
    await plain.update("42", "b", lambda found: found.model_copy(update={"tags": ["d", "d"], "score": 3}))
    assert await declared.get("42", "b") == Declared(**both | {"tags": {"d"}, "score": 3, "notes": {"x": 1}})

    await declared.replace("42", "c", Declared(tags=frozenset("e"), name="Cid"))
    assert await declared.get("42", "c") == Declared(tags=frozenset("e"), name="Cid")
    with place.raw() as raw:
        fields = set(raw.hkeys("redismem:user:{42}:record:x:c"))
    assert {field for field in fields if not field.startswith(b"@")} == {b"tags:\xa1e", b"name", b"name^"}


# --- all of them ----------------------------------------------------------------------------------------------------


async def test_a_scan_meets_every_record_of_its_name(
    opened: Callable[..., AsyncMemory], old: AsyncRecordStore[Person], memory: AsyncMemory
) -> None:
    ids = {(user, record) for user in ("ann", "b*[b]", "ç:{}") for record in ("1", "*", "a:b", "%3A")}
    for user, record in ids:
        await old.merge(user, record, {"name": "x"})
        await memory.records("person*", Person).merge(user, record, {"name": "x"})
        await memory.records("person:7", Person).merge(user, "z", {"name": "x"})
        await memory.contexts.update_context(user, "a", "b")
    await opened(prefix="other").records("person", Person).merge("ann", "other", {"name": "x"})
    assert {place async for place in old.scan()} == {place async for place in old.scan(batch_size=1)} == ids
    assert {place async for place in memory.records("person*", Person).scan()} == ids
    assert {user async for user in memory.contexts.scan()} == {user for user, _ in ids}
    assert [place async for place in memory.records("p*", Person).scan()] == []


async def test_many_in_few_round_trips(memory: AsyncMemory, old: AsyncRecordStore[Person]) -> None:
    for user in range(5):
        await old.merge_many(f"u{user}", {str(number): Person(name="Ann Lee") for number in range(20)})
    places = [place async for place in old.scan(1000)]
    before = memory.stats().round_trips
    async with memory.batch() as batch:
        people = batch.records("person", Named)
        handles = [people.migrate(*place) for place in places]
    assert results(handles) == [Migrated.DONE] * 100
    assert memory.stats().round_trips - before == 2


async def test_contexts(memory: AsyncMemory) -> None:
    await memory.contexts.update_context("ann", "Hi", "Hello")
    customers = memory.contexts.of(Customer)
    assert await customers.migrate("ann", dry_run=True) is Migrated.OUTDATED
    assert await customers.migrate("ann") is Migrated.DONE
    assert await customers.migrate("ann") is await customers.migrate("bob") is Migrated.CURRENT
    assert (await customers.get_user_context("ann")).nick == "ANN"
    assert [user async for user in customers.scan()] == ["ann"]
