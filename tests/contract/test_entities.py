"""Entities: which mentions are one, what is known of it, and what an operator finds; everywhere, in both flavours."""

import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, model_validator

from redismem import (
    AsyncEntityStore,
    AsyncMemory,
    Expires,
    Id,
    KeepFirst,
    MaxBy,
    Memory,
    NaturalKey,
    SimpleMemory,
    Sum,
    Union,
    migration,
)
from redismem.chaos import Fate, inject
from redismem.errors import InvalidKey, LimitExceeded, SchemaError, Unavailable, WrongType
from redismem.link.base import Command, Reply
from redismem.link.faults import Fault
from redismem.stores import entities as entities_module
from redismem.stores.crm import (
    SimpleAccount,
    SimpleCase,
    SimpleContact,
    SimpleLead,
    SimpleOpportunity,
    SimpleTask,
)
from redismem.stores.entities import EntityOperations
from tests.contract.flavours import SOON, Place, eventually, nothing_is_left, on_real_servers, on_servers, results
from tests.contract.test_effects import link_of

CONTACTS = "redismem:user:{42}:entities:contacts"
FLIGHTS = "redismem:user:{42}:entities:flights"


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


class Person(BaseModel, frozen=True):
    id: Annotated[str, Id] | None = None
    name: Annotated[str, NaturalKey]
    city: str | None = None
    source: Annotated[str | None, KeepFirst] = None
    likes: Annotated[dict[str, int], Union] = {}


class People(BaseModel):
    people: list[Person] | None = None


class Sign(BaseModel, frozen=True):
    uid: Annotated[str | None, Id] = None
    name: Annotated[str | None, NaturalKey] = None


class Signs(BaseModel):
    signs: list[Sign] = []


@pytest.fixture
def entities(memory: AsyncMemory) -> AsyncEntityStore[SimpleMemory]:
    return memory.entities


@pytest.fixture
def travel(memory: AsyncMemory) -> AsyncEntityStore[Travel]:
    return memory.entities.of(Travel)


@pytest.fixture
def people(memory: AsyncMemory) -> AsyncEntityStore[People]:
    return memory.entities.of(People)


def contacts(*each: dict[str, Any]) -> SimpleMemory:
    return SimpleMemory(contacts=[SimpleContact(**one) for one in each])


async def known(entities: AsyncEntityStore[SimpleMemory]) -> list[dict[str, Any]]:
    """What is known of the user's contacts."""
    return [one.model_dump(exclude_none=True) for one in (await entities.load("42")).contacts]


async def counted(entities: AsyncEntityStore[SimpleMemory], *each: dict[str, Any]) -> dict[str, int]:
    """What a merge has done, without zeros."""
    counts = (await entities.merge("42", contacts(*each))).counts()
    return {outcome: count for outcome, count in counts.items() if count}


@on_servers
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


@on_servers
async def test_names_are_one_whatever_their_case_and_spaces(entities: AsyncEntityStore[SimpleMemory]) -> None:
    names = ("Ann  Straße", " ann strasse ", "\uff21\uff2e\uff2e STRASSE", "Ann\tStraße")
    for name in names:
        await entities.merge("42", contacts({"name": name}))
    assert [one["name"] for one in await known(entities)] == [names[-1]]


@on_servers
async def test_an_id_found_later_joins_the_record_without(entities: AsyncEntityStore[SimpleMemory]) -> None:
    assert await counted(entities, {"name": "Ann", "account_name": "Acme"}) == {"added": 1}
    assert await counted(entities, {"name": "ann", "id": "7"}) == {"linked": 1}
    assert await counted(entities, {"name": "Ann Lee", "id": "7"}) == {"updated": 1}
    assert await counted(entities, {"name": "ANN LEE"}) == {"updated": 1}  # the spelling
    assert await counted(entities, {"name": "Ann", "account_id": "a"}) == {"updated": 1}
    assert await known(entities) == [{"id": "7", "name": "Ann", "account_name": "Acme", "account_id": "a"}]


@on_servers
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_name_is_of_the_first_who_has_it_now(people: AsyncEntityStore[People], at_once: bool) -> None:
    renamed = [Person(id="1", name="Bob"), Person(id="1", name="Robert")]
    joined = [Person(name="Bob"), Person(id="1", name="Robert"), Person(id="1", name="Bob"), renamed[1]]
    for user, before in (("42", renamed), ("43", joined)):
        told = [*before, Person(id="2", name="bob"), Person(name="BOB", city="Rome")]
        for each in [told] if at_once else [[person] for person in told]:
            await people.merge(user, People(people=each))
        known = [Person(id="1", name="Robert"), Person(id="2", name="BOB", city="Rome")]
        assert (await people.load(user)).people == known
        await people.merge(user, People(people=[Person(id="1", name="BOB"), Person(name="BOB", source="late")]))
        assert [one.source for one in (await people.load(user)).people or ()] == [None, "late"]
        assert await people.validate(user) == []


@on_servers
async def test_a_name_that_stays_is_not_taken(memory: AsyncMemory) -> None:
    class Ship(BaseModel, frozen=True):
        id: Annotated[str | None, Id] = None
        name: Annotated[str, NaturalKey, KeepFirst]
        port: str | None = None

    class Ships(BaseModel):
        ships: list[Ship] = []

    ships = memory.entities.of(Ships)
    for ship in (Ship(id="1", name="A"), Ship(id="1", name="B"), Ship(id="2", name="A"), Ship(name="A", port="Oslo")):
        await ships.merge("42", Ships(ships=[ship]))
    assert (await ships.load("42")).ships == [Ship(id="1", name="A", port="Oslo"), Ship(id="2", name="A")]


@on_servers
async def test_different_ids_are_never_one(entities: AsyncEntityStore[SimpleMemory]) -> None:
    await entities.merge("42", contacts({"name": "Ann", "id": "1"}, {"name": "Ann", "id": "2"}))
    assert await counted(entities, {"name": "ann", "account_id": "a"}) == {"updated": 1}
    assert [one["id"] for one in await known(entities)] == ["1", "2"]


@on_servers
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


@on_servers
async def test_parts_of_a_natural_key_are_kept_apart(travel: AsyncEntityStore[Travel]) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="a b", day="c"), Flight(number="a", day="b c")]))
    assert len((await travel.load("42")).flights) == 2


@on_servers
async def test_none_erases_nothing(entities: AsyncEntityStore[SimpleMemory]) -> None:
    await entities.merge("42", contacts({"name": "Ann", "account_id": "a"}))
    assert await counted(entities, {"name": "Ann", "account_id": None}) == {"unchanged": 1}
    assert await known(entities) == [{"name": "Ann", "account_id": "a"}]


@on_servers
async def test_an_attribute_of_an_entity_expires(travel: AsyncEntityStore[Travel]) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1", delay="1 h")]))

    async def is_over() -> bool:
        return [flight.delay for flight in (await travel.load("42")).flights] == [None]

    await eventually(is_over)


@on_servers
async def test_sums_that_cannot_be_are_refused_and_nothing_is_changed(
    travel: AsyncEntityStore[Travel], place: Place
) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1", seats=10**14)]))
    before = await travel.load("42")
    more = [Flight(number="LH2", day="1", seats=1), Flight(number="LH1", day="1", seats=10**16)]
    with pytest.raises(LimitExceeded, match=r"flights\[1\]: .*entities:flights\[seats\]"):
        await travel.merge("42", Travel(flights=more))
    with place.raw() as raw:
        raw.hset(FLIGHTS, "1.seats", "many")
    with pytest.raises(WrongType, match=r"flights\[1\]: .*entities:flights\[seats\]"):
        await travel.merge("42", Travel(flights=[more[0], Flight(number="LH1", day="1", seats=1)]))
    with place.raw() as raw:
        raw.hset(FLIGHTS, "1.seats", 10**14)
    assert await travel.load("42") == before


@on_servers
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


@on_servers
async def test_a_damaged_record_hides_nobody_and_is_put_aside(
    entities: AsyncEntityStore[SimpleMemory], place: Place
) -> None:
    await entities.merge("42", contacts({"name": "Ann"}, {"name": "Bob"}, {"name": "Cid"}))
    with place.raw() as raw:
        raw.hset(CONTACTS, "2.name", b"\xc1")
        raw.hdel(CONTACTS, "key=cid")
        raw.hset(CONTACTS, "key=nobody", 99)
        raw.sadd("redismem:entity:{contacts%3Akey%3Dnobody}:users", "42")
    assert [one["name"] for one in await known(entities)] == ["Ann", "Cid"]
    problems = await entities.validate("42")
    assert [(one.kind, one.number) for one in problems] == [("contacts", "2"), ("contacts", "99"), ("contacts", "3")]
    assert len(await entities.repair("42")) == 3
    assert await entities.validate("42") == await entities.repair("42") == []
    assert await counted(entities, {"name": "cid"}, {"name": "Bob"}) == {"updated": 1, "added": 1}
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:quarantine:contacts", "1.2.name") == b"\xc1"
        assert not raw.exists("redismem:entity:{contacts%3Akey%3Dnobody}:users")


@on_servers
async def test_a_record_that_nobody_could_find_hides_nobody_and_is_put_aside(memory: AsyncMemory, place: Place) -> None:
    signs = memory.entities.of(Signs)
    await signs.merge("42", Signs(signs=[Sign(name="Ann"), Sign(uid="1", name="Bob"), Sign(uid="2", name="Bobb")]))
    with place.raw() as raw:
        raw.hdel("redismem:user:{42}:entities:signs", "1.name")
    (problem,) = await signs.validate("42")
    assert (problem.number, problem.message) == ("1", "signs.1: it has neither an id nor a natural key")
    known = [Sign(uid="1", name="Bob"), Sign(uid="2", name="Bobb")]
    assert (await signs.load("42")).signs == known
    assert await signs.duplicates("42") == [tuple(known)]
    assert await signs.repair("42") == [problem]
    assert await signs.validate("42") == []
    assert (await signs.load("42")).signs == known
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:quarantine:signs", "1.1.@version") == b"1"


@on_servers
async def test_names_that_are_nearly_alike_are_pointed_out(entities: AsyncEntityStore[SimpleMemory]) -> None:
    names = ("Jonathan Meyer", "Jonathan Meier", "Ann", "Bob")
    await entities.merge("42", contacts(*({"name": name} for name in names)))
    assert [(one.name, other.name) for one, other in await entities.duplicates("42")] == [names[:2]]  # type: ignore[attr-defined]


@on_servers
async def test_what_has_no_identity_is_refused(memory: AsyncMemory, entities: AsyncEntityStore[SimpleMemory]) -> None:
    class Thing(BaseModel):
        name: str

    class Things(BaseModel):
        things: list[Thing] = []

    with pytest.raises(SchemaError):
        memory.entities.of(Things)
    with pytest.raises(SchemaError, match="neither an id nor a natural key"):
        await entities.merge("42", contacts({"name": " "}))


@on_servers
@pytest.mark.parametrize("wrong", [{"number": "\ud800"}, {"day": "x" * 300 + "\udfff"}])
async def test_an_identity_that_is_no_text_is_refused(travel: AsyncEntityStore[Travel], wrong: dict[str, Any]) -> None:
    flights = [Flight(number="SK1", day="monday"), Flight(**{"number": "SK2", "day": "friday", **wrong})]
    with pytest.raises(InvalidKey, match="lone surrogate"):
        await travel.merge("42", Travel(flights=flights))
    with pytest.raises(InvalidKey, match="lone surrogate"):
        await travel.find_users(flights[1])
    assert (await travel.load("42")).flights == []


@on_servers
async def test_what_is_no_extraction_is_refused(entities: AsyncEntityStore[SimpleMemory]) -> None:
    for wrong in ({"contacts": [{"name": "Ann"}]}, [SimpleContact(name="Ann")], Travel(), None):
        with pytest.raises(SchemaError, match="a SimpleMemory is wanted"):
            await entities.merge("42", wrong)  # type: ignore[arg-type]


@on_servers
async def test_blank_texts_say_nothing(
    entities: AsyncEntityStore[SimpleMemory], travel: AsyncEntityStore[Travel], people: AsyncEntityStore[People]
) -> None:
    await entities.merge("42", contacts({"id": "7", "name": "Bob", "account_name": "Acme"}))
    assert await counted(entities, {"id": "", "name": "Bob", "account_name": "  "}) == {"unchanged": 1}
    assert await known(entities) == [{"id": "7", "name": "Bob", "account_name": "Acme"}]
    await people.merge("42", People(people=[Person(id="1", name="Ann", city="Oslo")]))
    for blank in (Person(id=" ", name="ann", city=""), Person(id="1", name="\0 ")):
        await people.merge("42", People(people=[blank]))
    (ann,) = (await people.load("42")).people or ()
    assert (ann.id, ann.name, ann.city) == ("1", "ann", ""), "a user's own model says what a blank city means"
    await people.merge("42", People(people=[Person(id="2", name="")]))
    assert [one.id for one in (await people.load("42")).people or ()] == ["1", "2"]
    assert await people.validate("42") == []


@on_servers
async def test_an_index_that_was_lost_is_told_anew(entities: AsyncEntityStore[SimpleMemory], place: Place) -> None:
    found = contacts({"id": "7", "name": "Bob"}, {"name": "Ann"})
    await entities.merge("42", found)
    with place.raw() as raw:
        raw.delete(*raw.keys("redismem:entity:*"))
    assert await entities.find_users(found.contacts[0]) == []
    problems = {(one.kind, one.message) for one in await entities.validate("42")}
    assert problems == {("contacts", f"find_users does not find {one}") for one in ("id=7", "key=bob", "key=ann")}
    assert len(await entities.repair("42")) == 3
    assert await entities.validate("42") == []
    for one in found.contacts:
        assert await entities.find_users(one) == ["42"]


@on_servers
async def test_looking_after_many_entities_takes_each_once(
    entities: AsyncEntityStore[SimpleMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    await entities.merge("42", contacts(*({"id": str(number), "name": f"Ann {number}"} for number in range(300))))
    records, looks = entities_module._records, 0

    def counted(fields: Any) -> Any:
        nonlocal looks
        looks += 1
        return records(fields)

    monkeypatch.setattr(entities_module, "_records", counted)
    assert await entities.validate("42") == await entities.repair("42") == []
    assert looks <= 10 * len(SimpleMemory.model_fields)


@on_servers
async def test_a_name_that_was_lost_leads_to_its_record_again(
    entities: AsyncEntityStore[SimpleMemory], place: Place
) -> None:
    await entities.merge("42", contacts({"id": "7", "name": "Bob"}))
    with place.raw() as raw:
        raw.hdel(CONTACTS, "key=bob")
    (problem,) = await entities.validate("42")
    assert problem.message == "key=bob should lead to this record"
    assert await entities.repair("42") == [problem]
    assert await entities.validate("42") == []
    assert await counted(entities, {"name": "BOB"}) == {"updated": 1}


@on_servers
async def test_in_a_batch_and_forgotten(memory: AsyncMemory, place: Place) -> None:
    async with memory.batch() as batch:
        handles = [batch.entities.merge("42", contacts({"name": "Ann", "id": "7"})) for _ in range(3)]
    assert [report.counts()["added"] for report in results(handles)] == [1, 0, 0]
    assert await memory.entities.forget("42") == 1
    await nothing_is_left(place)


@on_servers
async def test_the_index_forgets_who_has_forgotten(memory: AsyncMemory, place: Place) -> None:
    entities, travel, long = memory.entities, memory.entities.of(Travel), {"name": "long " * 99, "id": "é\n:" * 99}
    for user in ("42", "é}"):
        await entities.merge(user, contacts({"name": "Ann"}, {"name": "Bob", "id": "8"}, long))
        await entities.merge(user, contacts({"name": "Ann", "id": "7"}, {"name": "Joe", "id": "8"}))
    await travel.merge("42", Travel(flights=[Flight(number="a\0b", day="c", uid=7)]))
    before = indexed(place)
    assert await entities.forget("é}") == 3
    assert indexed(place) == {key: [b"42"] for key in before}
    assert await entities.forget("42") == 3
    assert len(indexed(place)) == 2, "what this model has no list for stays"
    assert await travel.forget("42") == 1
    assert await travel.forget("42") == 0
    await nothing_is_left(place)


@on_servers
async def test_who_is_told_of_while_somebody_forgets_is_found(memory: AsyncMemory, place: Place) -> None:
    names, merged = [f"Ann {number}" for number in range(3)], threading.Event()

    def forgetting() -> None:
        assert place.server is not None
        with place._joined(Memory(place.server.url)) as rival:
            while not merged.is_set():
                rival.entities.forget("42")

    for _ in range(8):
        merged.clear()
        thread = threading.Thread(target=forgetting)
        thread.start()
        try:
            for turn in range(12):
                await memory.entities.merge("42", contacts(*({"name": name, "city": str(turn)} for name in names)))
        finally:
            merged.set()
            thread.join()
        await memory.entities.merge("42", contacts({"name": names[0]}))
        there = {one["name"] for one in await known(memory.entities)}
        assert {name for name in names if await memory.entities.find_users(SimpleContact(name=name))} == there
        assert len(indexed(place)) == len(there)


@on_servers
@pytest.mark.parametrize("again", ["forget", "repair"])
async def test_who_is_killed_while_it_forgets_leaves_what_others_clear(
    memory: AsyncMemory, place: Place, again: str, opened: Callable[..., AsyncMemory]
) -> None:
    await memory.entities.merge("42", contacts({"name": "Ann", "id": "7"}, {"name": "Bob"}))
    killed = opened(retries=0)
    await killed.entities.forget("nobody")  # the server knows the script
    with inject(getattr(killed, "blocking", killed), [Fate.PASSES, *[Fate.UNSENT] * 9]), pytest.raises(Unavailable):
        await killed.entities.forget("42")
    assert len(indexed(place)) == 3
    assert await memory.entities.find_users(SimpleContact(name="Ann")) == []
    await memory.entities.merge("42", contacts({"name": "Bob"}))
    await getattr(memory.entities, again)("42")
    assert len(indexed(place)) == (1 if again == "repair" else 0)
    assert await memory.entities.forget("42") == (1 if again == "repair" else 0)
    await nothing_is_left(place)


@on_servers
async def test_a_merge_of_which_the_index_cannot_be_told_changes_nothing(
    entities: AsyncEntityStore[SimpleMemory], place: Place
) -> None:
    with place.raw() as raw:
        raw.set("redismem:entity:{contacts%3Akey%3Dann}:users", "no set")
    with pytest.raises(WrongType):
        await entities.merge("42", contacts({"name": "Bob"}, {"name": "Ann"}))
    assert await known(entities) == []
    assert await entities.find_users(SimpleContact(name="Bob")) == []


def indexed(place: Place) -> dict[bytes, list[bytes]]:
    """All that the index has, whoever it is about."""
    with place.raw() as raw:
        return {key: sorted(raw.smembers(key)) for key in raw.scan_iter("redismem:entity:*")}


async def a_moment_later(place: Place) -> None:
    """The server's clock shows another millisecond."""
    with place.raw() as raw:
        before = raw.time()[1] // 1000

        async def is_later() -> bool:
            return bool(raw.time()[1] // 1000 != before)

        await eventually(is_later)


@on_servers
async def test_marks_within_a_union_are_marks(people: AsyncEntityStore[People]) -> None:
    await people.merge("42", People(people=[Person(id="1", name="Bob"), Person(id="2", name="Bob")]))
    await people.merge("42", People(people=None))
    assert [one.id for one in (await people.load("42")).people or ()] == ["1", "2"]


@on_servers
@pytest.mark.parametrize("model", [int, [SimpleMemory], SimpleMemory(), "contacts"])
async def test_what_is_no_model_is_refused(memory: AsyncMemory, model: Any) -> None:
    with pytest.raises(SchemaError, match="no model of entities"):
        memory.entities.of(model)


@on_servers
async def test_what_a_memory_would_lose_is_refused(memory: AsyncMemory) -> None:
    class Dictionary(BaseModel):
        flights: dict[str, Flight] = {}

    class Summary(BaseModel):
        summary: str
        flights: list[Flight] = []

    class Several(BaseModel):
        flights: list[Flight | Person] = []

    class Migrated(BaseModel, frozen=True):
        name: Annotated[str, NaturalKey]

    class Renamed(BaseModel):
        flights: list[Flight] = Field([], alias="trips")

    migration(Migrated, from_=1)(dict)

    class OfMigrated(BaseModel):
        each: list[Migrated] = []

    refused = {
        Dictionary: "flights",
        Summary: "summary",
        Several: "flights",
        Renamed: "alias",
        OfMigrated: "migrations",
    }
    for model, why in refused.items():
        with pytest.raises(SchemaError, match=why):
            memory.entities.of(model)


@on_servers
async def test_an_identity_by_which_nothing_could_be_found_again_is_refused(memory: AsyncMemory) -> None:
    refused: list[Any] = [
        Annotated[frozenset[str], NaturalKey],
        Annotated[frozenset[str], NaturalKey, Union],
        Annotated[dict[str, str] | None, NaturalKey],
        Annotated[Sequence[str], NaturalKey],
        Annotated[int, NaturalKey, Sum],
        Annotated[int | None, Id, Sum],
        Annotated[str | None, NaturalKey, Expires(1)],
        Annotated[str | None, Id, Expires(1)],
    ]
    for mark in refused:
        lot = create_model("Lot", number=(Annotated[str, NaturalKey], ""), mark=(mark, None))
        with pytest.raises(SchemaError, match=r"Lot\.mark"):
            memory.entities.of(create_model("Lots", lots=(list[lot], [])))  # type: ignore[valid-type]


class Catch(BaseModel):
    """An extraction that has a length, and looks at what it has."""

    signs: Annotated[tuple[Sign, ...], Field(min_length=1, max_length=2)]
    _names: set[str | None] = PrivateAttr(default_factory=set)

    @model_validator(mode="after")
    def look(self) -> Self:
        self._names |= {sign.name for sign in self.signs}
        return self


@on_servers
async def test_what_is_said_of_one_extraction_need_not_be_so_of_all_that_is_known(memory: AsyncMemory) -> None:
    catches = memory.entities.of(Catch)
    assert (await catches.load("42")).signs == ()
    every = tuple(Sign(name=name) for name in "abc")
    await catches.merge("42", Catch(signs=every[:2]))
    assert (await catches.load("42"))._names == {"a", "b"}
    await catches.merge("42", Catch(signs=every[2:]))
    assert (await catches.load("42")).signs == every


@on_servers
async def test_of_two_records_that_are_one_the_later_change_wins(
    people: AsyncEntityStore[People], place: Place
) -> None:
    for person in (
        Person(name="Ann", source="first", likes={"x": 1}),
        Person(id="1", name="Anna", city="old", source="second", likes={"x": 2}),
        Person(name="Ann", city="new", likes={"y": 1}),
        Person(id="1", name="Ann"),
    ):
        await people.merge("42", People(people=[person]))
        await a_moment_later(place)
    assert (await people.load("42")).people == [
        Person(id="1", name="Ann", city="new", source="first", likes={"x": 1, "y": 1})
    ]
    for person in (Person(name="Bob", city="old"), Person(id="2", name="Rob", city="new"), Person(id="2", name="Bob")):
        await people.merge("43", People(people=[person]))
        await a_moment_later(place)
    assert (await people.load("43")).people == [Person(id="2", name="Bob", city="new")]


@on_servers
async def test_all_in_one_extraction_is_as_one_after_the_other(people: AsyncEntityStore[People], place: Place) -> None:
    told = [
        Person(name="Ann", city="a"),
        Person(id="1", name="Anna", city="b"),
        Person(id="1", name="Ann", source="x"),
        Person(name="ann", city="c"),
        Person(id="2", name="Ann", city="d"),
        Person(name="ANNA", likes={"z": 1}),
    ]
    report = await people.merge("42", People(people=told))
    assert report.counts() == {"added": 3, "updated": 2, "unchanged": 0, "linked": 1}
    for person in told:
        await people.merge("43", People(people=[person]))
        await a_moment_later(place)
    assert (await people.load("42")).people == (await people.load("43")).people
    assert [(one.id, one.city) for one in (await people.load("42")).people or ()] == [("1", "c"), ("2", "d")]
    assert await people.validate("42") == []


@on_servers
async def test_a_damaged_sum_is_not_joined_and_nothing_is_changed(
    travel: AsyncEntityStore[Travel], place: Place
) -> None:
    await travel.merge(
        "42", Travel(flights=[Flight(number="LH1", day="1", seats=5), Flight(number="LH2", day="2", uid=7)])
    )
    with place.raw() as raw:
        for damaged, error in ((b"many", WrongType), (b"%d" % 10**15, LimitExceeded)):
            raw.hset(FLIGHTS, "1.seats", damaged)
            before = raw.hgetall(FLIGHTS)
            with pytest.raises(error, match=r"entities:flights\[seats\]"):
                await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1", uid=7)]))
            assert raw.hgetall(FLIGHTS) == before


@on_servers
async def test_a_record_whose_changes_cannot_be_counted_is_not_half_changed(
    travel: AsyncEntityStore[Travel], place: Place
) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="LH1", day="1"), Flight(number="LH2", day="2")]))
    with place.raw() as raw:
        raw.hset(FLIGHTS, "2.@version", "many")
        before = raw.hgetall(FLIGHTS)
        more = [Flight(number=number, day=number[-1], seats=1) for number in ("LH1", "LH2")]
        with pytest.raises(WrongType, match="@version"):
            await travel.merge("42", Travel(flights=more))
        assert raw.hgetall(FLIGHTS) == before


@on_real_servers
async def test_a_merge_of_very_many_fields_is_whole(travel: AsyncEntityStore[Travel]) -> None:
    tags = frozenset(map(str, range(9000)))
    flights = [Flight(number="LH1", day="1", tags=tags), Flight(number="LH1", day="1", uid=7, seats=1)]
    report = await travel.merge("42", Travel(flights=[*flights, Flight(number="LH2", day="1", uid=8)]))
    assert report.counts() == {"added": 2, "updated": 0, "unchanged": 0, "linked": 1}
    await travel.merge("43", Travel(flights=[flights[0], Flight(number="LH2", day="1", uid=7, seats=1)]))
    await travel.merge("43", Travel(flights=[Flight(number="LH1", day="1", uid=7)]))
    for user in ("42", "43"):
        assert [(one.seats, one.tags) for one in (await travel.load(user)).flights if one.uid == 7] == [(1, tags)]


@on_real_servers
async def test_joins_of_one_merge_look_at_the_kind_once(entities: AsyncEntityStore[SimpleMemory], place: Place) -> None:
    calls: list[int] = []
    with place.raw() as raw:
        for user, size in (("42", 100), ("43", 1000)):
            named = [{"name": f"n{number}"} for number in range(size)]
            await entities.merge(user, contacts(*named, *({"name": f"m{n}", "id": str(n)} for n in range(20))))
            raw.config_resetstat()
            joins = contacts(*({"name": f"n{n}", "id": str(n)} for n in range(20)))
            assert (await entities.merge(user, joins)).counts()["linked"] == 20
            stats = raw.info("commandstats")
            assert stats["cmdstat_hkeys"]["calls"] == 1
            assert "cmdstat_hgetall" not in stats
            calls.append(sum(stats[f"cmdstat_{name}"]["calls"] for name in ("hget", "hmget", "hset", "hdel")))
    assert calls[0] == calls[1]


@on_servers
async def test_who_knows_another_of_that_name(entities: AsyncEntityStore[SimpleMemory]) -> None:
    await entities.merge("42", contacts({"name": "Bob", "id": "8"}))
    await entities.merge("43", contacts({"name": "Bob"}))
    await entities.merge("44", contacts({"name": "Rob", "id": "100"}))
    await entities.merge("44", contacts({"name": "Bob", "id": "9"}))
    assert await entities.find_users(SimpleContact(name="Bob", id="8")) == ["42", "43"]
    assert await entities.find_users(SimpleContact(name="Bob", id="100")) == ["43", "44"]
    assert await entities.find_users(SimpleContact(name="bob")) == ["42", "43", "44"]


@on_servers
async def test_repair_leaves_alone_what_was_written_meanwhile(
    entities: AsyncEntityStore[SimpleMemory], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await entities.merge("42", contacts({"name": "Ann", "id": "1", "account_name": "Acme"}, {"name": "Bob"}))
    read = EntityOperations._fields

    async def others_write_after(self: Any, user_id: str) -> Any:
        fields = await read(self, user_id)
        raw.hset(CONTACTS, mapping={"1.account_name": b"\xa3New", "1.@version": 2})
        raw.hset(CONTACTS, mapping={"99.name": b"\xa3Cid", "99.@version": 1, "key=nobody": 3})
        return fields

    with place.raw() as raw:
        raw.hset(CONTACTS, mapping={"1.account_name": b"\xc1", "key=cid": 99, "key=nobody": 98})
        with monkeypatch.context() as patched:
            patched.setattr(EntityOperations, "_fields", others_write_after)
            assert len(await entities.repair("42")) == 3
        assert (raw.hget(CONTACTS, "key=cid"), raw.hget(CONTACTS, "key=nobody")) == (b"99", b"3")
        assert not raw.exists("redismem:user:{42}:quarantine:contacts")
    assert await known(entities) == [{"id": "1", "name": "Ann", "account_name": "New"}, {"name": "Bob"}]


@on_servers
async def test_names_in_quarantine_are_never_used_again(entities: AsyncEntityStore[SimpleMemory], place: Place) -> None:
    with place.raw() as raw:
        for name in (b"\xc1one", b"\xc1two"):
            await entities.merge("42", contacts({"name": "Ann"}))
            raw.hset(CONTACTS, "1.name", name)
            assert len(await entities.repair("42")) == 1
            await entities.forget("42")
        await entities.merge("42", contacts({"name": "Ann"}))
        raw.hdel(CONTACTS, "1.@version")
        assert [problem.message for problem in await entities.repair("42")] == ["contacts.1: it has no version"]
        aside = raw.hgetall("redismem:user:{42}:quarantine:contacts")
    names = {field: value for field, value in aside.items() if field.endswith(b".name")}
    assert names == {b"1.1.name": b"\xc1one", b"2.1.name": b"\xc1two", b"3.1.name": b"\xa3Ann"}


@on_servers
async def test_the_search_for_duplicates_grows_with_the_names_and_lets_tasks_go_on(
    entities: AsyncEntityStore[SimpleMemory], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_alike, compared = entities_module._is_alike, list[int]()

    def noted(one: str, other: str) -> bool:
        compared.append(threading.get_ident())
        return is_alike(one, other)

    monkeypatch.setattr(entities_module, "_is_alike", noted)
    streets = [{"name": f"{chr(97 + n % 26) * 9} {n:04} street"} for n in range(400)]
    await entities.merge("42", contacts(*streets, {"name": "Jonathan Meyer"}, {"name": "Ionathan Meyer"}))
    found = [(one.name, other.name) for one, other in await entities.duplicates("42")]  # type: ignore[attr-defined]
    assert ("Jonathan Meyer", "Ionathan Meyer") in found
    assert len(compared) < 40 * 402
    assert (threading.get_ident() in compared) == (place.flavour == "sync")


@on_servers
async def test_natural_keys_of_several_parts_are_never_mistaken(travel: AsyncEntityStore[Travel]) -> None:
    await travel.merge("42", Travel(flights=[Flight(number="a\0b", day="c"), Flight(number="a", day="b\0c")]))
    assert len((await travel.load("42")).flights) == 2


@on_servers
async def test_to_forget_is_sent_again_and_spares_what_came_since(
    memory: AsyncMemory, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities, link = memory.entities, link_of(memory)
    await entities.merge("42", contacts({"name": "Ann"}, {"name": "Bob"}))
    exchange, lost = link.exchange, list[Command]()

    async def losing(commands: Sequence[Command], **options: Any) -> list[Reply]:
        replies = await exchange(commands, **options)
        if not lost and not raw.exists(CONTACTS):
            lost.append(commands[-1])
            raw.hset(CONTACTS, "key=cid", 1)
            raise Fault(ConnectionResetError("cut before the reply"), unsent=False)
        return replies

    with place.raw() as raw:
        monkeypatch.setattr(link, "exchange", losing)
        assert await entities.forget("42") == 2
        assert raw.hgetall(CONTACTS) == {b"key=cid": b"1"}
        assert indexed(place) == {}
