"""Records: how attributes merge, versions, migrations; on every server, in both flavours."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic.dataclasses import dataclass

from redismem import (
    AsyncMemory,
    AsyncRecordStore,
    Expires,
    FillMissing,
    KeepFirst,
    Max,
    MaxBy,
    Merged,
    Min,
    Sum,
    Union,
    UserContext,
    migration,
)
from redismem.chaos import Fate, inject
from redismem.errors import Conflict, DecodeError, EncodeError, InvalidKey, LimitExceeded, SchemaError, WrongType
from tests.contract.flavours import SOON, Place, all_raise, eventually, lefts, on_servers, results

pytestmark = on_servers


class Stage(Enum):
    NEW = "new"
    WON = "won"


class Lead(BaseModel, frozen=True):
    name: str
    stage: Stage = Stage.NEW
    visits: Annotated[int, Sum] = 0
    tags: Annotated[frozenset[str], Union] = frozenset()
    answers: Annotated[dict[str, int | None], Union] = {}
    source: Annotated[str | None, KeepFirst] = None
    email: Annotated[str | None, FillMissing] = None
    best: Annotated[float | None, Max] = None
    first_seen: Annotated[datetime | None, Min] = None
    segment: Annotated[str | None, MaxBy("confidence")] = None
    confidence: Annotated[float, Max] = 0.0
    task: Annotated[str | None, Expires(SOON)] = None


@pytest.fixture
def leads(memory: AsyncMemory) -> AsyncRecordStore[Lead]:
    return memory.records("lead", Lead)


async def merged(leads: AsyncRecordStore[Lead], *writes: dict[str, Any]) -> Lead:
    """What becomes of these, one after the other."""
    for write in ({"name": "Ann"}, *writes):
        await leads.merge("42", "a", write)
    found = await leads.get("42", "a")
    assert found is not None
    return found


async def test_a_record_comes_back(leads: AsyncRecordStore[Lead]) -> None:
    lead = Lead(
        name="Ann",
        stage=Stage.WON,
        visits=3,
        tags=frozenset({"vip", "é\0:^"}),
        answers={"age": 5, "size": None},
        source="web",
        email="a@b.c",
        best=-2.5,
        first_seen=datetime(2024, 5, 6, tzinfo=UTC),
        segment="A",
        confidence=0.5,
    )
    assert (await leads.merge("42", "a", lead)).created
    assert await leads.get("42", "a") == lead
    assert await leads.get("42", "b") is await leads.get("43", "a") is None


async def test_types_that_need_json_come_back(memory: AsyncMemory) -> None:
    class Inner(BaseModel, frozen=True):
        amount: Decimal

    class Odd(BaseModel, frozen=True):
        stage: Stage
        inner: Inner
        several: tuple[Inner, ...]
        uid: UUID
        raw: bytes

    odd = Odd(
        stage=Stage.WON,
        inner=Inner(amount=Decimal("1.10")),
        several=(Inner(amount=Decimal(2)),),
        uid=UUID(int=7),
        raw=b"\xff",
    )
    records = memory.records("odd", Odd)
    await records.merge("42", "a", odd)
    assert await records.get("42", "a") == odd


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([{"visits": 2}, {"visits": -5}, {"visits": 2**53}], {"visits": 2**53 - 3}),
        ([{"tags": {"a"}}, {"tags": {"b", "a"}}, {"tags": set()}], {"tags": {"a", "b"}}),
        ([{"answers": {"x": 1, "y": 2}}, {"answers": {"x": 3}}], {"answers": {"x": 3, "y": 2}}),
        ([{"source": None}, {"source": "late"}], {"source": None}),
        ([{"source": "first"}, {"source": "late"}], {"source": "first"}),
        ([{"email": None}, {"email": "first"}, {"email": "late"}, {"email": None}], {"email": "first"}),
        ([{"best": -1.5}, {"best": -10}, {"best": None}], {"best": -1.5}),
        ([{"best": 10}, {"best": 9.5}], {"best": 10}),
        (
            [{"first_seen": datetime(2024, 1, month, tzinfo=UTC)} for month in (3, 2, 9)],
            {"first_seen": datetime(2024, 1, 2, tzinfo=UTC)},
        ),
        (
            [{"segment": name, "confidence": sure} for name, sure in (("A", 0.5), ("B", 0.9), ("C", 0.7))],
            {"segment": "B", "confidence": 0.9},
        ),
        ([{"stage": "won"}, {"stage": Stage.NEW}], {"stage": Stage.NEW}),
    ],
)
async def test_each_policy(leads: AsyncRecordStore[Lead], writes: list[Any], expected: dict[str, Any]) -> None:
    found = await merged(leads, *writes)
    assert {name: getattr(found, name) for name in expected} == expected


async def test_between_equals_the_order_makes_no_difference(leads: AsyncRecordStore[Lead]) -> None:
    writes = [{"segment": name, "confidence": 0.5} for name in ("A", "B", "C")]
    one = (await merged(leads, *writes)).segment
    await leads.delete("42", "a")
    assert (await merged(leads, *reversed(writes))).segment == one


async def test_what_was_not_set_is_left_alone(leads: AsyncRecordStore[Lead]) -> None:
    await leads.merge("42", "a", Lead(name="Ann", stage=Stage.WON))
    again = await leads.merge("42", "a", Lead(name="Bob"))
    assert again == Merged(version=2, created=False, changed=frozenset({"name"}))
    found = await leads.get("42", "a")
    assert found is not None
    assert (found.name, found.stage) == ("Bob", Stage.WON)


async def test_a_merge_that_changes_nothing_is_no_new_version(leads: AsyncRecordStore[Lead]) -> None:
    lead = Lead(name="Ann", tags=frozenset({"a"}), best=3.0, source="x", email="e")
    await leads.merge("42", "a", lead)
    assert await leads.merge("42", "a", lead) == Merged(version=1, created=False, changed=frozenset())


async def test_an_attribute_expires_and_its_neighbours_do_not(leads: AsyncRecordStore[Lead]) -> None:
    await leads.merge("42", "a", Lead(name="Ann", task="call"))

    async def is_over() -> bool:
        found = await leads.get("42", "a")
        return found is not None and found.task is None

    await eventually(is_over)
    found = await leads.get("42", "a")
    assert found is not None
    assert found.name == "Ann"


async def test_many_at_once_all_or_none(leads: AsyncRecordStore[Lead]) -> None:
    await leads.merge("42", "b", Lead(name="Bob", visits=2**63 - 1))
    with pytest.raises(LimitExceeded, match=r"lead:b\[visits\]"):
        await leads.merge_many("42", {"a": Lead(name="Ann", visits=1), "b": {"visits": 1}, "c": {"name": "Cid"}})
    assert await leads.ids("42") == ["b"]
    done = await leads.merge_many("42", {name: Lead(name=name) for name in "abc"})
    assert [done[name].created for name in "abc"] == [True, False, True]
    assert sorted(await leads.get_all("42")) == await leads.ids("42") == ["a", "b", "c"]
    assert list(await leads.get_many("42", ["c", "x", "a", "c"])) == ["c", "a"]
    assert await leads.merge_many("42", {}) == await leads.get_many("42", []) == {}


async def test_versions(leads: AsyncRecordStore[Lead]) -> None:
    await leads.merge("42", "a", Lead(name="Ann"), if_version=0)
    await all_raise(
        Conflict,
        leads.merge("42", "a", {"name": "Bob"}, if_version=0),
        leads.merge("42", "a", {"name": "Bob"}, if_version=2),
        leads.replace("42", "b", Lead(name="Bob"), if_version=1),
    )
    await leads.merge("42", "a", {"visits": 1}, if_version=1)
    snapshot = await leads.snapshot("42", "a")
    assert snapshot is not None
    assert (snapshot.version, snapshot.record.name, snapshot.schema) == (2, "Ann", 1)
    assert snapshot.created_ms <= snapshot.updated_ms
    assert await leads.snapshot("42", "b") is None


async def test_replacing_leaves_nothing_of_before(leads: AsyncRecordStore[Lead]) -> None:
    before = Lead(name="Ann", tags=frozenset({"a", "b"}), best=9.0, email="e", visits=4, segment="S", confidence=0.9)
    await leads.merge("42", "a", before)
    after = Lead(name="Ann", tags=frozenset({"c"}), best=1.0, segment="T", confidence=0.2)
    await leads.replace("42", "a", after)
    assert await leads.get("42", "a") == after
    await leads.merge("42", "a", {"segment": "U", "confidence": 0.3})
    found = await leads.get("42", "a")
    assert found is not None
    assert found.segment == "U"


async def test_update_starts_over_when_others_were_faster(leads: AsyncRecordStore[Lead], place: Place) -> None:
    await leads.merge("42", "a", Lead(name="Ann"))
    seen: list[int] = []
    with place.raw() as raw:

        def step(lead: Lead | None) -> Lead:
            assert lead is not None
            seen.append(lead.visits)
            if len(seen) < 3:
                raw.hincrby("redismem:user:{42}:record:lead:a", "@version", 1)
                raw.hincrby("redismem:user:{42}:record:lead:a", "visits", 10)
            return lead.model_copy(update={"visits": lead.visits + 1})

        assert (await leads.update("42", "a", step)).visits == 21
    assert seen == [0, 10, 20]
    assert (await leads.update("42", "new", lambda lead: lead or Lead(name="New"))).name == "New"


async def test_update_gives_up(opened: Callable[..., AsyncMemory], place: Place) -> None:
    leads = opened(update_attempts=3).records("lead", Lead)
    await leads.merge("42", "a", Lead(name="Ann"))

    def disturbed(lead: Lead | None) -> Lead:
        assert lead is not None
        with place.raw() as raw:
            raw.hincrby("redismem:user:{42}:record:lead:a", "@version", 1)
        return lead

    with pytest.raises(Conflict, match="each of 3 attempts"):
        await leads.update("42", "a", disturbed)


async def test_deleting(leads: AsyncRecordStore[Lead], place: Place) -> None:
    await leads.merge_many("42", {name: Lead(name=name, task="t") for name in "abc"})
    assert await leads.delete("42", "a", "x") == 1
    assert await leads.ids("42") == ["b", "c"]
    assert await leads.delete("42", "b", "c") == 2
    assert await leads.delete("42") == 0

    async def is_clean() -> bool:
        return not place.left_over()

    await eventually(is_clean)


async def test_bad_input_is_refused_and_changes_nothing(leads: AsyncRecordStore[Lead], place: Place) -> None:
    await all_raise(
        SchemaError,
        leads.merge("42", "a", {"nmae": "Ann"}),
        leads.merge("42", "a", {"visits": "many"}),
        leads.merge("42", "a", {"best": float("nan")}),
        leads.merge("42", "a", {"segment": "A"}),
        leads.merge("42", "a", {"stage": "lost"}),
    )
    await all_raise(InvalidKey, leads.merge("", "a", Lead(name="x")), leads.get("42", ""), leads.get_all("\ud800"))
    assert place.left_over() == []


async def test_a_damaged_record_is_named(leads: AsyncRecordStore[Lead], place: Place) -> None:
    await leads.merge_many("42", {"a": Lead(name="Ann"), "b": Lead(name="Bob")})
    with place.raw() as raw:
        raw.hset("redismem:user:{42}:record:lead:a", "name", b"\xc1")
        raw.hset("redismem:user:{42}:record:lead:b", "visits", b"\xa1x")
    with pytest.raises(DecodeError, match=r"record:lead:a\[name\]"):
        await leads.get("42", "a")
    with pytest.raises(DecodeError, match=r"record:lead:b: no Lead: visits"):
        await leads.get("42", "b")
    with pytest.raises(WrongType, match=r"lead:b\[visits\]"):
        await leads.merge("42", "b", {"visits": 1, "name": "Changed"})
    with place.raw() as raw:
        assert raw.hget("redismem:user:{42}:record:lead:b", "name") == b"\xa3Bob"


async def test_in_a_batch(memory: AsyncMemory, leads: AsyncRecordStore[Lead]) -> None:
    async with memory.batch() as batch:
        records = batch.records("lead", Lead)
        handles = [records.merge("42", "a", {"name": "Ann", "visits": 1}) for _ in range(5)]
    assert [one.version for one in results(handles)] == [1, 2, 3, 4, 5]
    found = await leads.get("42", "a")
    assert found is not None
    assert found.visits == 5


async def test_models_change_while_workers_of_both_versions_run(memory: AsyncMemory) -> None:
    class Person(BaseModel, frozen=True):
        name: str
        visits: Annotated[int, Sum] = 0

    class Named(BaseModel, frozen=True):
        first: str
        last: str = ""
        visits: Annotated[int, Sum] = 0

    @migration(Named, from_=1)
    def split(attributes: dict[str, Any]) -> dict[str, Any]:
        if "name" in attributes:
            attributes["first"], _, attributes["last"] = attributes.pop("name").partition(" ")
        return attributes

    with pytest.raises(SchemaError, match="from_=2"):
        migration(Named, from_=1)

    old, new = memory.records("person", Person), memory.records("person", Named)
    await old.merge("42", "a", Person(name="Ann Lee", visits=1))
    assert await new.get("42", "a") == Named(first="Ann", last="Lee", visits=1)
    snapshot = await new.snapshot("42", "a")
    assert snapshot is not None
    assert (snapshot.schema, snapshot.version) == (2, 2)  # written back, once

    await old.merge("42", "a", {"name": "Ann Doe", "visits": 1})
    await new.merge("42", "a", {"visits": 1})
    assert await new.get("42", "a") == Named(first="Ann", last="Doe", visits=3)


async def test_contexts(memory: AsyncMemory) -> None:
    fresh = await memory.contexts.get_user_context("42")
    assert (fresh.user_id, fresh.conversations_count) == ("42", 0)
    await memory.contexts.update_context("42", "Hi", "Hello", preferences={"language": "de"})
    await memory.contexts.update_context("42", "Bye", "See you")
    context = await memory.contexts.get_user_context("42")
    assert (context.conversations_count, context.last_message, context.last_response) == (2, "Bye", "See you")
    assert context.preferences == {"language": "de"}
    assert fresh.conversations_count == 0
    with pytest.raises(FrozenInstanceError):
        context.conversations_count = 9  # type: ignore[misc]
    assert await memory.contexts.forget("42")
    assert not await memory.contexts.forget("42")


async def test_contexts_of_ones_own(memory: AsyncMemory) -> None:
    @dataclass(frozen=True)
    class Customer(UserContext):
        orders: Annotated[int, Sum] = 0

    customers = memory.contexts.of(Customer)
    await customers.update_context("42", "buy", "done", orders=2)
    await customers.merge("42", {"orders": 1})
    assert (await customers.get_user_context("42")).orders == 3
    assert (await memory.contexts.get_user_context("42")).conversations_count == 1
    updated = await customers.update("42", lambda found: Customer(user_id=found.user_id, orders=found.orders * 2))
    assert updated.orders == 6
    with pytest.raises(SchemaError):
        await customers.update_context("42", "a", "b", unknown=1)


async def test_a_context_that_somebody_new_could_not_have_is_refused(memory: AsyncMemory) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Subscriber(UserContext):
        plan: str

    with pytest.raises(SchemaError, match=r"Subscriber\.plan: give it a default"):
        memory.contexts.of(Subscriber)


async def test_a_context_that_somebody_new_is_refused_says_which(memory: AsyncMemory) -> None:
    @dataclass(frozen=True)
    class Member(UserContext):
        plan: str = ""

        def __post_init__(self) -> None:
            if not self.plan:
                raise ValueError("a plan is wanted")

    members = memory.contexts.of(Member)
    await all_raise(SchemaError, members.get_user_context("new"), members.update("new", lambda found: found))
    await members.merge("42", {"plan": "gold"})
    assert (await members.get_user_context("42")).plan == "gold"


async def test_an_exchange_and_the_user_are_not_to_be_told(memory: AsyncMemory) -> None:
    contexts = memory.contexts
    await contexts.update_context("42", "Hi", "Hello")
    await all_raise(
        SchemaError,
        contexts.update_context("42", "Hi", "Hello", conversations_count=10),
        contexts.merge("42", {"user_id": "43"}),
        contexts.merge("new", {"user_id": "43"}),
        contexts.update("42", lambda found: replace(found, user_id="43")),
    )
    assert (await contexts.merge("42", {"user_id": "42"})).changed == frozenset()
    context = await contexts.get_user_context("42")
    assert (context.user_id, context.conversations_count) == ("42", 1)
    assert (await contexts.get_user_context("new")).user_id == "new"


# --- what was never told --------------------------------------------------------------------------------------------


class Note(BaseModel, frozen=True):
    title: str = ""
    origin: Annotated[str, KeepFirst] = ""
    email: Annotated[str, FillMissing] = ""
    low: Annotated[float | None, Min] = 100.0
    count: Annotated[int | None, Sum] = None
    labels: Annotated[frozenset[str] | None, Union] = None


@pytest.fixture
def notes(memory: AsyncMemory) -> AsyncRecordStore[Note]:
    return memory.records("note", Note)


def titled(title: str) -> Callable[[Note], Note]:
    return lambda found: found.model_copy(update={"title": title})


async def test_an_update_leaves_open_what_nobody_has_told(notes: AsyncRecordStore[Note]) -> None:
    await notes.merge("42", "a", {"title": "old"})
    assert await notes.update("42", "a", titled("new")) == Note(title="new")
    told = {"origin": "web", "email": "a@b", "low": 200.0, "count": 1, "labels": {"x"}}
    assert (await notes.merge("42", "a", told)).changed == told.keys()
    assert (await notes.merge("42", "a", {"origin": "late", "email": "late", "low": 300.0})).changed == frozenset()
    await notes.update("42", "a", titled("newer"))
    told_now = Note(title="newer", origin="web", email="a@b", low=200.0, count=1, labels=frozenset({"x"}))
    assert await notes.get("42", "a") == told_now
    assert (await notes.merge("42", "a", {"origin": "late", "low": 300.0})).changed == frozenset()


async def test_a_replaced_record_leaves_open_what_it_does_not_say(notes: AsyncRecordStore[Note]) -> None:
    await notes.merge("42", "a", Note(title="a", origin="web", email="a@b", low=1.0, count=5, labels=frozenset({"x"})))
    replaced = await notes.replace("42", "a", Note(title="b", low=1.0))
    assert replaced.changed == {"title", "origin", "email", "count", "labels"}
    assert await notes.get("42", "a") == Note(title="b", low=1.0)
    assert (await notes.replace("42", "a", Note(title="b", low=1.0))).changed == frozenset()
    assert (await notes.merge("42", "a", {"origin": "late"})).changed == {"origin"}


async def test_none_says_nothing(notes: AsyncRecordStore[Note]) -> None:
    nothing = {"email": None, "low": None, "count": None, "labels": None}
    with pytest.raises(SchemaError):
        await notes.merge("42", "a", nothing)
    del nothing["email"]
    await notes.merge("42", "a", {"title": "a", "low": 5.0, "count": 1, "labels": {"x"}})
    assert (await notes.merge("42", "a", nothing)).changed == frozenset()
    updated = await notes.update("42", "a", lambda found: found.model_copy(update=nothing))
    assert await notes.get("42", "a") == updated == Note(title="a", low=None)
    assert (await notes.merge("42", "a", {"low": 500.0})).changed == {"low"}


async def test_what_an_update_leaves_alone_lives_no_longer(memory: AsyncMemory, place: Place) -> None:
    class Task(BaseModel, frozen=True):
        step: int = 0
        lease: Annotated[str | None, Expires(6000)] = None
        shares: Annotated[frozenset[int], Union, Expires(6000)] = frozenset()

    tasks = memory.records("task", Task)
    await tasks.merge("42", "a", {"lease": "me", "shares": {1}})
    assert max(lefts(place, "record:task:a", less=3000)) < 3001
    updated = await tasks.update(
        "42", "a", lambda found: found.model_copy(update={"step": 1, "shares": found.shares | {2}})
    )
    assert updated.shares == {1, 2}
    assert sorted(left > 3001 for left in lefts(place, "record:task:a")) == [False, False, True]


# --- what is refused ------------------------------------------------------------------------------------------------


class Age(BaseModel, frozen=True):
    name: str = ""
    age: Annotated[int, Field(ge=0)] = 0
    mail: str = ""

    @field_validator("mail")
    @classmethod
    def has_an_at(cls, value: str) -> str:
        if value and "@" not in value:
            raise ValueError("no address")
        return value.lower()


class Loose(BaseModel, frozen=True, extra="allow"):
    name: str = ""


class Older(Age, frozen=True):
    more: str = ""


async def test_poison_does_not_get_in(memory: AsyncMemory, place: Place) -> None:
    ages = memory.records("age", Age)
    await ages.merge("42", "a", {"age": 1, "mail": "A@B"})
    assert await ages.get("42", "a") == Age(age=1, mail="a@b")
    copied = Age().model_copy(update={"name": None})
    await all_raise(
        SchemaError,
        ages.merge("42", "a", {"age": -1}),
        ages.merge("42", "a", {"mail": "nobody"}),
        ages.merge("42", "a", copied),
        ages.replace("42", "a", copied),
        ages.replace("42", "a", {"name": "Ann"}),
        ages.replace("42", "a", Older(more="more")),
        ages.merge("42", "a", Older(more="more")),
        ages.merge("42", "a", Age.model_construct(age=-1)),
        ages.update("42", "a", lambda found: found.model_copy(update={"name": None})),
        ages.update("42", "a", lambda found: None),
        memory.records("loose", Loose).merge("42", "a", Loose(name="a", other=1)),
    )
    for version in (True, -1, "1", 1.0):
        await all_raise(SchemaError, ages.merge("42", "a", {"age": 2}, if_version=version))
    assert await ages.get("42", "a") == Age(age=1, mail="a@b")
    assert (await ages.update("42", "a", lambda found: found.model_copy(update={"age": "7"}))).age == 7
    with place.raw() as raw:
        assert not raw.exists("redismem:user:{42}:record:loose:a")


async def test_what_would_come_back_as_something_else_is_refused(memory: AsyncMemory) -> None:
    class Odd(BaseModel, frozen=True):
        secret: SecretStr | None = None
        anything: Any = None
        stages: Annotated[frozenset[Stage], Union] = frozenset()
        waits: Annotated[dict[str, timedelta], Union] = {}
        ages: Annotated[frozenset[Age], Union] = frozenset()

    odd = memory.records("odd", Odd)
    await all_raise(
        EncodeError,
        odd.merge("42", "a", {"secret": SecretStr("x")}),
        odd.merge("42", "a", {"anything": {1: timedelta(5)}}),
        odd.merge("42", "a", {"anything": Stage.WON}),
        odd.merge("42", "a", {"ages": {Age()}}),
    )
    kept = Odd(stages=frozenset(Stage), waits={"a": timedelta(seconds=1.5)}, anything={1: Decimal(2)})
    await odd.merge("42", "a", kept)
    assert await odd.get("42", "a") == kept


async def test_one_bad_record_hides_no_other(leads: AsyncRecordStore[Lead], place: Place) -> None:
    await leads.merge_many("42", {name: Lead(name=name) for name in "abcd"})
    with place.raw() as raw:
        raw.hset("redismem:user:{42}:record:lead:b", "name", b"\xc1")
        raw.hset("redismem:user:{42}:record:lead:c", b"tags:\x90", b"")
    found = await leads.get_all("42")
    assert sorted(found) == ["a", "d"]
    assert sorted(found.unreadable) == ["b", "c"]
    some = await leads.get_many("42", ["b", "a", "x"])
    assert list(some) == ["a"]
    assert "record:lead:b[name]" in str(some.unreadable["b"])
    assert (await leads.get_many("42", ["a"])).unreadable == {}


async def test_sums_beyond_64_bits_and_sums_of_nothing(leads: AsyncRecordStore[Lead]) -> None:
    await all_raise(
        LimitExceeded,
        leads.merge("42", "a", {"visits": 2**70}),
        leads.replace("42", "a", Lead(name="Ann", visits=-(2**70))),
    )
    assert await leads.get("42", "a") is None
    assert (await leads.merge("42", "a", {"name": "Ann", "visits": 0})).changed == {"name", "visits"}
    assert await leads.merge("42", "a", {"visits": 0}) == Merged(version=1, created=False, changed=frozenset())


async def test_a_merge_that_fails_leaves_ttls_alone(memory: AsyncMemory, place: Place) -> None:
    class Counts(BaseModel, frozen=True):
        short: Annotated[int, Sum, Expires(6000)] = 0
        full: Annotated[int, Sum] = 0

    counts = memory.records("counts", Counts)
    await counts.merge("42", "a", {"short": 1, "full": 2**63 - 1})
    lefts(place, "record:counts:a", less=3000)
    with pytest.raises(LimitExceeded):
        await counts.merge("42", "a", {"short": 1, "full": 1})
    (left,) = lefts(place, "record:counts:a")
    assert left < 3001
    assert (await counts.get("42", "a")) == Counts(short=1, full=2**63 - 1)


async def test_a_lost_reply_does_not_forget_that_a_record_is_new(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(retries=5)
    leads = memory.records("lead", Lead)
    await leads.merge("42", "warm", {"visits": 1})
    with inject(getattr(memory, "blocking", memory), [Fate.UNANSWERED]):
        merged = await leads.merge_many("42", {"warm": {"visits": 1}, "new": {"visits": 1}})
    assert [one.created for one in merged.values()] == [False, True]
    assert [one.version for one in merged.values()] == [2, 1]


async def test_equals_are_ranked_too(memory: AsyncMemory) -> None:
    class Best(BaseModel, frozen=True):
        value: Annotated[Any, Max] = None

    best, moment = memory.records("best", Best), datetime(2024, 1, 1)
    pairs = [
        (Decimal("0.1"), Decimal("0.1000000000000000000001")),
        (moment, moment.replace(tzinfo=UTC)),
        (1, 1.0),
    ]
    for pair in pairs:
        for record_id, values in (("a", pair), ("b", pair[::-1])):
            for value in values:
                await best.merge("42", record_id, {"value": value})
        one, other = await best.get("42", "a"), await best.get("42", "b")
        assert repr(one) == repr(other)
        await best.delete("42", "a", "b")
