"""Entities: which mentions are one, what is known of it, and what an operator finds; everywhere, in both flavours."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict

from redismem import AsyncEntityStore, AsyncMemory, Expires, Id, MaxBy, NaturalKey, SimpleMemory, Sum, Union
from redismem.errors import LimitExceeded, SchemaError, WrongType
from redismem.stores.crm import (
    SimpleAccount,
    SimpleCase,
    SimpleContact,
    SimpleLead,
    SimpleOpportunity,
    SimpleTask,
)
from tests.contract.flavours import SOON, Place, eventually, nothing_is_left, on_servers, results

pytestmark = on_servers


class Flight(BaseModel):
    model_config = ConfigDict(frozen=True)

    number: Annotated[str, NaturalKey]
    day: Annotated[str, NaturalKey]
    uid: Annotated[int | None, Id] = None
    seats: Annotated[int, Sum] = 0
    tags: Annotated[frozenset[str], Union] = frozenset()
    gate: Annotated[str | None, MaxBy("sure")] = None
    sure: float | None = None
    delay: Annotated[str | None, Expires(SOON)] = None


class Travel(BaseModel):
    flights: list[Flight] = []


@pytest.fixture
def entities(memory: AsyncMemory) -> AsyncEntityStore[SimpleMemory]:
    return memory.entities


@pytest.fixture
def travel(memory: AsyncMemory) -> AsyncEntityStore[Travel]:
    return memory.entities.of(Travel)


def contacts(*each: dict[str, Any]) -> SimpleMemory:
    return SimpleMemory(contacts=[SimpleContact(**one) for one in each])


async def known(entities: AsyncEntityStore[SimpleMemory]) -> list[dict[str, Any]]:
    """What is known of the user's contacts."""
    return [one.model_dump(exclude_none=True) for one in (await entities.load("42")).contacts]


async def counted(entities: AsyncEntityStore[SimpleMemory], *each: dict[str, Any]) -> dict[str, int]:
    """What a merge has done, without zeros."""
    counts = (await entities.merge("42", contacts(*each))).counts()
    return {outcome: count for outcome, count in counts.items() if count}


async def test_an_extraction_comes_back(entities: AsyncEntityStore[SimpleMemory]) -> None:
    everything = SimpleMemory(
        accounts=[SimpleAccount(id="a", name="Acme")],
        contacts=[SimpleContact(id="c", name="Ann", account_id="a")],
        opportunities=[SimpleOpportunity(id="o", name="Deal", amount=10.5, account_id="a")],
        cases=[SimpleCase(id="s", subject="Broken", priority="high")],
        tasks=[SimpleTask(subject="Call", due_date="2026-01-01")],
        leads=[SimpleLead(name="Bob", email="b@c.d")],
    )
    report = await entities.merge("42", everything)
    assert report.counts() == {"added": 6, "updated": 0, "unchanged": 0, "linked": 0}
    assert report.added["tasks"] == everything.tasks
    assert await entities.load("42") == everything
    assert (await entities.merge("42", everything)).counts()["unchanged"] == 6
    assert await entities.load("43") == SimpleMemory()
    assert (await entities.merge("42", SimpleMemory())).counts()["added"] == 0


async def test_names_are_one_whatever_their_case_and_spaces(entities: AsyncEntityStore[SimpleMemory]) -> None:
    names = ("Ann  Straße", " ann strasse ", "\uff21\uff2e\uff2e STRASSE", "Ann\tStraße")
    for name in names:
        await entities.merge("42", contacts({"name": name}))
    assert [one["name"] for one in await known(entities)] == [names[-1]]


async def test_an_id_found_later_joins_the_record_without(entities: AsyncEntityStore[SimpleMemory]) -> None:
    assert await counted(entities, {"name": "Ann", "account_name": "Acme"}) == {"added": 1}
    assert await counted(entities, {"name": "ann", "id": "7"}) == {"linked": 1}
    assert await counted(entities, {"name": "Ann Lee", "id": "7"}) == {"updated": 1}
    assert await counted(entities, {"name": "ANN LEE"}) == {"updated": 1}  # the spelling
    assert await counted(entities, {"name": "Ann", "account_id": "a"}) == {"updated": 1}
    assert await known(entities) == [{"id": "7", "name": "Ann", "account_name": "Acme", "account_id": "a"}]


async def test_different_ids_are_never_one(entities: AsyncEntityStore[SimpleMemory]) -> None:
    await entities.merge("42", contacts({"name": "Ann", "id": "1"}, {"name": "Ann", "id": "2"}))
    assert await counted(entities, {"name": "ann", "account_id": "a"}) == {"updated": 1}
    assert [one["id"] for one in await known(entities)] == ["1", "2"]


async def test_two_records_that_are_one_are_joined_without_loss(travel: AsyncEntityStore[Travel]) -> None:
    by_id = Flight(number="LH1", day="1", uid=7, seats=3, tags=frozenset({"a"}), gate="A1", sure=0.2)
    by_name = Flight(number="LH1", day="2", seats=4, tags=frozenset({"b", "x^"}), gate="B2", sure=0.9)
    await travel.merge("42", Travel(flights=[by_id, by_name]))
    report = await travel.merge("42", Travel(flights=[Flight(number="lh1", day="2", uid=7)]))
    assert report.counts() == {"added": 0, "updated": 0, "unchanged": 0, "linked": 1}
    (flight,) = (await travel.load("42")).flights
    assert (flight.uid, flight.seats, flight.tags, flight.gate) == (7, 7, {"a", "b", "x^"}, "B2")
    assert (await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1")]))).counts()["added"] == 0
    assert await travel.validate("42") == []


async def test_parts_of_a_natural_key_are_kept_apart(travel: AsyncEntityStore[Travel]) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="a b", day="c"), Flight(number="a", day="b c")]))
    assert len((await travel.load("42")).flights) == 2


async def test_none_erases_nothing(entities: AsyncEntityStore[SimpleMemory]) -> None:
    await entities.merge("42", contacts({"name": "Ann", "account_id": "a"}))
    assert await counted(entities, {"name": "Ann", "account_id": None}) == {"unchanged": 1}
    assert await known(entities) == [{"name": "Ann", "account_id": "a"}]


async def test_an_attribute_of_an_entity_expires(travel: AsyncEntityStore[Travel]) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1", delay="1 h")]))

    async def is_over() -> bool:
        return [flight.delay for flight in (await travel.load("42")).flights] == [None]

    await eventually(is_over)


async def test_sums_that_cannot_be_are_refused_and_nothing_is_changed(
    travel: AsyncEntityStore[Travel], place: Place
) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1", seats=10**14)]))
    before = await travel.load("42")
    more = [Flight(number="LH2", day="1", seats=1), Flight(number="LH1", day="1", seats=10**16)]
    with pytest.raises(LimitExceeded, match=r"entities:flights\[seats\]"):
        await travel.merge("42", Travel(flights=more))
    with place.raw() as raw:
        raw.hset("redismem:user:{42}:entities:flights", "1.seats", "many")
    with pytest.raises(WrongType, match=r"entities:flights\[seats\]"):
        await travel.merge("42", Travel(flights=[more[0], Flight(number="LH1", day="1", seats=1)]))
    with place.raw() as raw:
        raw.hset("redismem:user:{42}:entities:flights", "1.seats", 10**14)
    assert await travel.load("42") == before


async def test_who_knows_an_entity(entities: AsyncEntityStore[SimpleMemory]) -> None:
    ann = SimpleContact(name="Ann", id="7")
    for user in ("42", "é}", "9"):
        await entities.merge(user, SimpleMemory(contacts=[ann]))
    await entities.merge("8", contacts({"name": "Bob"}))
    assert await entities.find_users(ann) == ["42", "9", "é}"]
    assert await entities.find_users(SimpleContact(name="ANN")) == ["42", "9", "é}"]
    assert await entities.forget("9") == 1
    assert await entities.find_users(ann) == ["42", "é}"]
    assert await entities.find_users(SimpleContact(name="Cid")) == []
    with pytest.raises(SchemaError):
        await entities.find_users(Flight(number="LH1", day="1"))


async def test_a_damaged_record_hides_nobody_and_is_put_aside(
    entities: AsyncEntityStore[SimpleMemory], place: Place
) -> None:
    await entities.merge("42", contacts({"name": "Ann"}, {"name": "Bob"}, {"name": "Cid"}))
    key = "redismem:user:{42}:entities:contacts"
    with place.raw() as raw:
        raw.hset(key, "2.name", b"\xc1")
        raw.hdel(key, "key=cid")
        raw.hset(key, "key=nobody", 99)
    assert [one["name"] for one in await known(entities)] == ["Ann", "Cid"]
    problems = await entities.validate("42")
    assert [(one.kind, one.number) for one in problems] == [("contacts", "2"), ("contacts", "99"), ("contacts", "3")]
    assert len(await entities.repair("42")) == 3
    assert await entities.validate("42") == await entities.repair("42") == []
    assert await counted(entities, {"name": "cid"}, {"name": "Bob"}) == {"updated": 1, "added": 1}
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:quarantine:contacts", "2.name") == b"\xc1"


async def test_names_that_are_nearly_alike_are_pointed_out(entities: AsyncEntityStore[SimpleMemory]) -> None:
    names = ("Jonathan Meyer", "Jonathan Meier", "Ann", "Bob")
    await entities.merge("42", contacts(*({"name": name} for name in names)))
    assert [(one.name, other.name) for one, other in await entities.duplicates("42")] == [names[:2]]  # type: ignore[attr-defined]


async def test_what_has_no_identity_is_refused(memory: AsyncMemory, entities: AsyncEntityStore[SimpleMemory]) -> None:
    class Thing(BaseModel):
        name: str

    class Things(BaseModel):
        things: list[Thing] = []

    with pytest.raises(SchemaError):
        memory.entities.of(Things)
    with pytest.raises(SchemaError, match="neither an id nor a natural key"):
        await entities.merge("42", contacts({"name": " "}))


async def test_in_a_batch_and_forgotten(memory: AsyncMemory, place: Place) -> None:
    async with memory.batch() as batch:
        handles = [batch.entities.merge("42", contacts({"name": "Ann", "id": "7"})) for _ in range(3)]
    assert [report.counts()["added"] for report in results(handles)] == [1, 0, 0]
    assert await memory.entities.forget("42") == 1
    with place.raw() as raw:
        raw.delete(*(key for key in raw.scan_iter() if b":users" in key))
    await nothing_is_left(place)


async def test_a_merge_of_which_the_index_cannot_be_told_changes_nothing(
    entities: AsyncEntityStore[SimpleMemory], place: Place
) -> None:
    with place.raw() as raw:
        raw.set("redismem:entity:{contacts%3Akey%3Dann}:users", "no set")
    with pytest.raises(WrongType):
        await entities.merge("42", contacts({"name": "Bob"}, {"name": "Ann"}))
    assert await known(entities) == []
    assert await entities.find_users(SimpleContact(name="Bob")) == []
