"""Values of sessions: what is saved is loaded, exactly, and every change is whole or none.

Each body runs in both flavours on every server, and on the oracle.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy
import pytest

from redismem import KEEP_TTL, MISSING, AsyncMemory, AsyncSessionStore, SessionStore, Values
from redismem.errors import Conflict, EncodeError, LimitExceeded, RedisMemError, Suspended, WrongType
from tests.contract.flavours import Place, all_raise, on_servers

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "beyond a double": 2**53 + 1,
    "beyond 64 bits": -(2**64),
    "negative zero": -0.0,
    "infinity": float("inf"),
    "empty text": "",
    "digits": "5",
    "text": "NUL \0, CRLF \r\n, \U0001f9e0",
    "bytes": b"\0\xff\r\n",
    "empty list": [],
    "empty dict": {},
    "nested": {"a": [{"b": None}, [1, 2.5, "x"]], "é": {}},
    "int keys": {1: "a", 2: "b"},
    "tuple": (1, (2, "x")),
    "set": {1, 2, 3},
    "frozenset": frozenset({"a", "b"}),
    "datetime": datetime(2024, 2, 29, 12, 30, 15, 123456, UTC),
    "date": date(2024, 2, 29),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "decimal": Decimal("1.10"),
    "compressed": "long and dull " * 1000,
}


def exactly(values: dict[str, Any]) -> dict[str, str]:
    """Values in a form that tells -0.0 from 0.0, True from 1, and a tuple from a list."""
    return {key: repr(value) for key, value in values.items()}


# --- save and load --------------------------------------------------------------------------------------------------


async def test_what_is_saved_is_loaded(store: AsyncSessionStore) -> None:
    for key, value in VALUES.items():
        await store.save("s", "n", key, value)
    assert exactly({key: await store.load("s", "n", key) for key in VALUES}) == exactly(VALUES)
    assert exactly(await store.get_all("s", "n")) == exactly(VALUES)
    assert exactly(await store.load_many("s", "n", VALUES)) == exactly(VALUES)


async def test_an_array_comes_back_as_it_was(store: AsyncSessionStore) -> None:
    array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    await store.save("s", "n", "array", array)
    loaded = await store.load("s", "n", "array")
    assert loaded.dtype == array.dtype
    numpy.testing.assert_array_equal(loaded, array)


async def test_a_missing_key_gives_the_default(store: AsyncSessionStore) -> None:
    default = object()
    assert await store.load("s", "n", "k") is None
    assert await store.load("s", "n", "k", default) is default
    await store.save("s", "n", "other", 1)
    assert await store.load("s", "n", "k", default=default) is default
    assert await store.load("s", "other", "other", default) is default
    assert await store.load("t", "n", "other", default) is default


async def test_none_is_a_value(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", None)
    assert await store.load("s", "n", "k", "default") is None
    assert await store.get_all("s", "n") == {"k": None}
    assert await store.load_many("s", "n", ["k"]) == {"k": None}
    assert await store.delete("s", "n", "k")


async def test_saving_replaces_the_value_and_its_ttl(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", "first", ttl=100)
    await store.save("s", "n", "k", "second")
    assert await store.load("s", "n", "k") == "second"
    assert await store.ttl("s", "n", "k") is None
    await store.save("s", "n", "k", "third", 200)
    assert await store.ttl("s", "n", "k") == pytest.approx(200, abs=2)


async def test_nobody_holds_a_stored_value(store: AsyncSessionStore) -> None:
    mine = {"items": [1]}
    await store.save("s", "n", "k", mine)
    mine["items"].append(2)
    (await store.load("s", "n", "k"))["items"].append(3)
    (await store.get_all("s", "n"))["k"]["items"].append(4)
    assert await store.load("s", "n", "k") == {"items": [1]}


async def test_a_value_without_a_stored_form_changes_nothing(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", "before", ttl=100)
    for value in (object(), {"a": [{1, 2}, object()]}, "\ud800", print):
        await all_raise(
            EncodeError,
            store.save("s", "n", "k", value),
            store.save_many("s", "n", {"other": 1, "k": value}),
            store.compare_and_set("s", "n", "k", "before", value),
            store.update("s", "n", "k", lambda _, value=value: value),
        )
    assert await store.get_all("s", "n") == {"k": "before"}
    assert await store.ttl("s", "n", "k") is not None


@pytest.mark.parametrize("incompressible", [True, False])
async def test_five_megabytes_are_a_value(store: AsyncSessionStore, incompressible: bool) -> None:
    value = random.Random(1).randbytes(5_000_000) if incompressible else b"x" * 5_000_000
    await store.save("s", "n", "k", value)
    assert await store.load("s", "n", "k") == value


# --- many at once ---------------------------------------------------------------------------------------------------


async def test_save_many_saves_all(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "a", "old", ttl=100)
    await store.save_many("s", "n", {"a": 1, "b": [2]})
    assert await store.get_all("s", "n") == {"a": 1, "b": [2]}
    assert await store.ttl("s", "n", "a") is None


@pytest.mark.parametrize("ttl", [None, 100, KEEP_TTL])
async def test_save_many_takes_thousands(store: AsyncSessionStore, ttl: Any) -> None:
    values = {f"key {number}": number for number in range(6_000)}
    await store.save("s", "n", "key 0", "old", ttl=200)
    await store.save_many("s", "n", values, ttl)
    assert await store.get_all("s", "n") == values
    expected = {None: (None, None), 100: (100, 100), KEEP_TTL: (200, None)}[ttl]
    for key, seconds in zip(("key 0", "key 5999"), expected, strict=True):
        left = await store.ttl("s", "n", key)
        assert left is None if seconds is None else left == pytest.approx(seconds, abs=20)


async def test_save_many_of_nothing_does_nothing(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {})
    assert await store.info("s") is None


async def test_get_all_gives_one_namespace_of_one_session(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    await store.save("s", "m", "k", 2)
    await store.save("t", "n", "k", 3)
    assert await store.get_all("s", "n") == {"k": 1}
    assert await store.get_all("s", "nothing") == {}
    assert await store.get_all("nobody", "n") == {}


async def test_load_many_leaves_out_what_is_not_there(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2, "c": 3})
    found = await store.load_many("s", "n", iter(["a", "x", "c", "a"]))
    assert type(found) is Values
    assert found == {"a": 1, "c": 3}
    assert found.unreadable == {}
    assert await store.load_many("s", "n", ["x"]) == {}
    assert await store.load_many("s", "n", []) == {}
    assert await store.load_many("nobody", "n", ["a", "b"]) == {}


async def test_delete_tells_whether_there_was_a_key(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2}, ttl=100)
    assert await store.delete("s", "n", "a") is True
    assert await store.delete("s", "n", "a") is False
    assert await store.delete("s", "m", "b") is False
    assert await store.delete("t", "n", "b") is False
    assert await store.get_all("s", "n") == {"b": 2}


async def test_a_deleted_key_leaves_no_ttl_behind(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100)
    await store.delete("s", "n", "k")
    await store.save("s", "n", "k", 2, ttl=KEEP_TTL)
    assert await store.ttl("s", "n", "k") is None


# --- increment ------------------------------------------------------------------------------------------------------


async def test_increment_counts_from_nothing(store: AsyncSessionStore) -> None:
    assert await store.increment("s", "n", "k") == 1
    assert await store.increment("s", "n", "k", 10) == 11
    assert await store.increment("s", "n", "k", by=-12) == -1
    assert await store.increment("s", "n", "k", 0) == -1
    assert await store.load("s", "n", "k") == -1
    await store.save("s", "n", "saved", 40)
    assert await store.increment("s", "n", "saved", 2) == 42


async def test_increment_is_exact_in_64_bits(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 2**53)
    assert await store.increment("s", "n", "k") == 2**53 + 1
    assert await store.increment("s", "n", "high", 2**62) == 2**62
    assert await store.increment("s", "n", "high", 2**62 - 1) == 2**63 - 1
    assert await store.increment("s", "n", "low", -(2**63)) == -(2**63)
    assert await store.get_all("s", "n") == {"k": 2**53 + 1, "high": 2**63 - 1, "low": -(2**63)}


async def test_an_increment_beyond_64_bits_changes_nothing(store: AsyncSessionStore) -> None:
    attempts = [(2**63 - 1, 1), (-(2**63), -1), (0, 2**63), (0, -(2**63) - 1), (5, 2**70), (2**64, 1), (-(10**30), 1)]
    for number, by in attempts:
        await store.save("s", "n", "k", number, ttl=100)
        with pytest.raises(LimitExceeded):
            await store.increment("s", "n", "k", by, ttl=500)
        assert await store.load("s", "n", "k") == number
        assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)


async def test_an_increment_is_by_an_integer(store: AsyncSessionStore) -> None:
    not_integers: list[Any] = [1.5, True, "1", None]
    await all_raise(RedisMemError, *(store.increment("s", "n", "k", by) for by in not_integers))
    assert await store.info("s") is None


async def test_only_integers_are_incremented(store: AsyncSessionStore) -> None:
    for value in ["5", 5.0, True, None, b"5", [5], "x" * 10_000]:
        await store.save_many("s", "n", {"k": value, "other": 1}, ttl=100)
        with pytest.raises(WrongType):
            await store.increment("s", "n", "k", ttl=500)
        assert exactly(await store.get_all("s", "n")) == exactly({"k": value, "other": 1})
        assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)


async def test_increment_keeps_the_ttl_unless_it_is_given_one(store: AsyncSessionStore) -> None:
    await store.increment("s", "n", "k", ttl=100)
    await store.increment("s", "n", "k")
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    await store.increment("s", "n", "k", ttl=200)
    assert await store.ttl("s", "n", "k") == pytest.approx(200, abs=2)
    await store.increment("s", "n", "other")
    assert await store.ttl("s", "n", "other") is None


# --- compare_and_set ------------------------------------------------------------------------------------------------


async def test_compare_and_set_writes_if_the_value_is_as_expected(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", "a")
    assert await store.compare_and_set("s", "n", "k", "b", "c") is False
    assert await store.load("s", "n", "k") == "a"
    assert await store.compare_and_set("s", "n", "k", "a", "c") is True
    assert await store.load("s", "n", "k") == "c"


async def test_expecting_none_allows_a_missing_key_and_a_stored_none(store: AsyncSessionStore) -> None:
    assert await store.compare_and_set("s", "n", "k", None, "first") is True
    assert await store.compare_and_set("s", "n", "k", None, "second") is False
    assert await store.load("s", "n", "k") == "first"
    await store.save("s", "n", "none", None)
    assert await store.compare_and_set("s", "n", "none", None, "set") is True
    assert await store.load("s", "n", "none") == "set"


async def test_expecting_missing_allows_a_missing_key_alone(store: AsyncSessionStore) -> None:
    assert await store.compare_and_set("s", "n", "k", MISSING, None) is True
    assert await store.compare_and_set("s", "n", "k", MISSING, "second") is False
    assert await store.load("s", "n", "k", "default") is None


async def test_expecting_a_value_does_not_allow_a_missing_key(store: AsyncSessionStore) -> None:
    for expected in (0, "", False, []):
        assert await store.compare_and_set("s", "n", "k", expected, 1) is False
    assert await store.info("s") is None


async def test_the_same_value_in_other_bytes_is_as_expected(store: AsyncSessionStore) -> None:
    same: list[tuple[Any, Any]] = [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        ({3, 1, 2}, {2, 3, 1}),
        (numpy.arange(3), numpy.arange(3)),
        ("dull " * 5_000, "dull " * 5_000),
        (2**64, 2**64),
    ]
    for stored, expected in same:
        await store.save("s", "n", "k", stored)
        assert await store.compare_and_set("s", "n", "k", expected, "new") is True
        assert await store.load("s", "n", "k") == "new"


async def test_another_type_is_not_as_expected(store: AsyncSessionStore) -> None:
    others: list[tuple[Any, Any]] = [
        (1, True),
        (True, 1),
        (0, False),
        (1, 1.0),
        (1.0, 1),
        (5, "5"),
        ("x", b"x"),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ("", None),
        ([1], [True]),
        ({"a": 1}, {"a": 1.0}),
        ({"a": (1,)}, {"a": [1]}),
        ({1: "x"}, {True: "x"}),
        (numpy.array([1], "<i4"), numpy.array([1], "<i8")),
        (Decimal("1.0"), Decimal("1.00")),
    ]
    for stored, expected in others:
        await store.save("s", "n", "k", stored)
        taken = await store.compare_and_set("s", "n", "k", expected, "new")
        assert not taken, f"{stored!r} was taken for {expected!r}"
        assert repr(await store.load("s", "n", "k")) == repr(stored)


async def test_compare_and_set_gives_the_ttl_that_it_is_told(store: AsyncSessionStore) -> None:
    await store.compare_and_set("s", "n", "k", None, 1, ttl=100)
    assert await store.compare_and_set("s", "n", "k", 5, 6, ttl=500) is False
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    await store.compare_and_set("s", "n", "k", 1, 2, ttl=KEEP_TTL)
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    await store.compare_and_set("s", "n", "k", 2, 3)
    assert await store.ttl("s", "n", "k") is None


@on_servers
async def test_how_values_are_compressed_does_not_matter(opened: Callable[..., AsyncMemory]) -> None:
    zstd, off = opened(compression="zstd").sessions, opened(compression="off").sessions
    long = "long and dull " * 1000
    await off.save("s", "n", "k", long)
    assert await zstd.load("s", "n", "k") == long
    assert await zstd.compare_and_set("s", "n", "k", long, long * 2) is True
    assert await off.compare_and_set("s", "n", "k", long * 2, long) is True


# --- update ---------------------------------------------------------------------------------------------------------


async def test_update_stores_and_returns_what_the_function_makes(store: AsyncSessionStore) -> None:
    assert await store.update("s", "n", "k", lambda value: [value]) == [None]
    assert await store.update("s", "n", "k", lambda value: [value]) == [[None]]
    assert await store.load("s", "n", "k") == [[None]]
    assert await store.update("s", "n", "other", lambda value: value + 1, default=41) == 42


async def test_update_may_change_its_copy(store: AsyncSessionStore) -> None:
    default: list[int] = []

    def add(items: list[int]) -> list[int]:
        items.append(len(items))
        return items

    for _ in range(3):
        await store.update("s", "n", "k", add, default=default)
    assert await store.load("s", "n", "k") == [0, 1, 2]
    assert default == []


async def test_update_starts_over_when_another_was_faster(store: AsyncSessionStore, rival: SessionStore) -> None:
    seen: list[Any] = []

    def add(items: list[str]) -> list[str]:
        seen.append(list(items))
        if len(seen) == 1:
            rival.save("s", "n", "k", ["rival"])
        elif len(seen) == 2:
            rival.delete("s", "n", "k")
        items.append("mine")
        return items

    assert await store.update("s", "n", "k", add, default=["default"]) == ["default", "mine"]
    assert seen == [["default"], ["rival"], ["default"]]  # no attempt sees what an earlier one did to the default
    assert await store.load("s", "n", "k") == ["default", "mine"]


async def test_update_gives_up_after_so_many_attempts(opened: Callable[..., AsyncMemory], place: Place) -> None:
    memory = opened(update_attempts=3)
    rival: SessionStore = place.open_rival(memory)
    calls: list[Any] = []

    def interfere(value: Any) -> Any:
        calls.append(value)
        rival.save("s", "n", "k", len(calls), ttl=100)
        return "mine"

    with pytest.raises(Conflict, match="n"):
        await memory.sessions.update("s", "n", "k", interfere)
    assert calls == [None, 1, 2]
    assert await memory.sessions.load("s", "n", "k") == 3
    assert await memory.sessions.ttl("s", "n", "k") is not None
    rival.close()


async def test_an_error_of_the_function_changes_nothing(store: AsyncSessionStore) -> None:
    def fail(value: Any) -> Any:
        raise ZeroDivisionError(value)

    with pytest.raises(ZeroDivisionError):
        await store.update("s", "n", "k", fail)
    assert await store.info("s") is None
    await store.save("s", "n", "k", "before", ttl=100)
    with pytest.raises(ZeroDivisionError, match="before"):
        await store.update("s", "n", "k", fail)
    assert await store.load("s", "n", "k") == "before"
    assert await store.ttl("s", "n", "k") is not None


async def test_the_function_may_be_a_coroutine_function_where_it_can_wait(
    store: AsyncSessionStore, place: Place
) -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0.001)
        return value + 1

    await store.save("s", "n", "k", 1)
    if place.flavour == "async":
        assert await store.update("s", "n", "k", later) == 2
    else:
        with pytest.raises(Suspended, match="AsyncMemory"):
            await store.update("s", "n", "k", later)
        assert await store.load("s", "n", "k") == 1


async def test_update_gives_the_ttl_that_it_is_told(store: AsyncSessionStore) -> None:
    await store.update("s", "n", "k", lambda _: 1, ttl=100)
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    await store.update("s", "n", "k", lambda _: 2, ttl=KEEP_TTL)
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    await store.update("s", "n", "k", lambda _: 3)
    assert await store.ttl("s", "n", "k") is None


async def test_updates_at_the_same_time_are_all_applied(store: AsyncSessionStore) -> None:
    await asyncio.gather(*(store.update("s", "n", "k", lambda value: value + 1, default=0) for _ in range(20)))
    assert await store.load("s", "n", "k") == 20


# --- together -------------------------------------------------------------------------------------------------------


async def test_every_error_is_one_of_redismem(store: AsyncSessionStore) -> None:
    await all_raise(
        RedisMemError,
        store.save("", "n", "k", 1),
        store.save("s", "n", "k", object()),
        store.save("s", "n", "k", 1, ttl=-1),
        store.increment("s", "n", "k", 2**70),
    )
    assert await store.info("s") is None
