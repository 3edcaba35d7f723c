"""Sessions as wholes: what they are, who owns them, which there are, and how they end."""

import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from redismem import AsyncMemory, AsyncSessionStore, SessionInfo
from redismem.errors import InvalidKey, OwnerMismatch
from tests.contract.flavours import (
    SOON,
    Place,
    all_raise,
    eventually,
    gone,
    nothing_is_left,
    on_real_servers,
    on_servers,
    once_on_each_server,
    scanned,
)
from tests.strategies import HOSTILE

# as ids, namespaces and keys: each must stay apart from all others
ODD = (
    *(
        "user1",
        "user10",
        "user",
        "User1",
        "a:b",
        "a",
        "b",
        "a:b:c",
        "{a}",
        "{a",
        "a}",
        "a}:ns:n",
        "}{",
        "*",
        "?",
        "[a-z]",
    ),
    *(
        "\\",
        "\\*",
        "%",
        "%25",
        "%2A",
        "\0",
        "\0\0",
        "\r\n",
        "\n",
        " ",
        "é",
        "e\u0301",
        "\U0001f9e0",
        "..",
        "../a",
        "meta",
    ),
    *("ns", "ttl", "session", "redismem", "x" * 170, "x" * 171),
)


# --- info -----------------------------------------------------------------------------------------------------------


async def test_info_says_what_a_session_is(store: AsyncSessionStore) -> None:
    before = datetime.now(UTC)
    await store.save("s", "n", "k", 1, user_id="u")
    await store.save("s", "m", "k", 1)
    info = await store.info("s")
    assert info is not None
    assert (info.session_id, info.user_id, info.namespaces, info.ttl, info.schema) == ("s", "u", ("m", "n"), None, 1)
    tolerance = timedelta(seconds=1)
    assert before - tolerance < info.created_at <= info.last_active < datetime.now(UTC) + tolerance
    assert info.created_at.tzinfo is info.last_active.tzinfo is UTC


async def test_info_is_frozen(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    info = await store.info("s")
    assert type(info) is SessionInfo
    with pytest.raises(FrozenInstanceError):
        info.user_id = "mallory"  # type: ignore[misc]
    assert hash(info) == hash(info)


async def test_there_is_no_info_on_what_is_no_session(store: AsyncSessionStore) -> None:
    assert await store.info("s") is None
    assert await store.namespaces("s") == []
    await store.load("s", "n", "k")
    await store.delete("s", "n", "k")
    await store.get_all("s", "n")
    assert await store.info("s") is None


async def test_info_says_how_long_a_session_has(store: AsyncSessionStore) -> None:
    async def left() -> float | None:
        info = await store.info("s")
        assert info is not None
        return info.ttl

    await store.save("s", "n", "k", 1, ttl=100)
    assert await left() == pytest.approx(101, abs=3)
    await store.save("s", "m", "k", 1, ttl=200)
    assert await left() == pytest.approx(201, abs=3)
    await store.save("s", "n", "k", 1, ttl=50)
    assert await left() == pytest.approx(201, abs=3)
    await store.touch("s", 70)
    assert await left() == pytest.approx(70, abs=3)
    await store.touch("s", None)
    assert await left() is None


async def test_last_active_advances_with_writes(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=2).sessions  # a twentieth of it is the resolution
    await store.save("s", "n", "k", 1)
    first = await store.info("s")
    assert first is not None

    async def has_advanced() -> bool:
        await store.save("s", "n", "k", 1)
        info = await store.info("s")
        assert info is not None
        assert info.created_at == first.created_at
        return info.last_active > first.last_active

    await eventually(has_advanced)


async def test_namespaces_are_those_that_hold_something(store: AsyncSessionStore) -> None:
    for namespace in ("b", "a", "c:d", "B"):
        await store.save("s", namespace, "k", 1)
    await store.save("s", "a", "l", 1)
    assert await store.namespaces("s") == ["B", "a", "b", "c:d"]
    await store.delete("s", "b", "k")
    await store.delete("s", "a", "k")
    assert await store.namespaces("s") == ["B", "a", "c:d"]


async def test_a_session_stays_when_its_keys_are_deleted(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, user_id="u")
    await store.delete("s", "n", "k")
    assert await store.namespaces("s") == []
    info = await store.info("s")
    assert info is not None
    assert (info.user_id, info.namespaces) == ("u", ())
    assert await scanned(store) == ["s"]
    assert await store.touch("s", 100) is True
    await store.save("s", "n", "k", 2)
    assert await store.namespaces("s") == ["n"]


# --- end ------------------------------------------------------------------------------------------------------------


async def test_end_forgets_the_whole_session(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2}, user_id="u")
    await store.save("s", "m", "a", 3, ttl=100)
    await store.save("t", "n", "a", 4)
    assert await store.end("s") == 3
    assert await store.end("s") == 0
    assert await store.get_all("s", "n") == await store.get_all("s", "m") == {}
    assert await store.info("s") is None
    assert await scanned(store) == ["t"]
    assert await store.get_all("t", "n") == {"a": 4}


async def test_an_ended_session_may_begin_anew(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2}, user_id="u")
    await store.touch("s", 100)
    first = await store.info("s")
    await store.end("s")
    await store.save("s", "n", "b", 3, user_id="other")
    assert await store.get_all("s", "n") == {"b": 3}
    second = await store.info("s")
    assert first is not None
    assert second is not None
    assert (second.user_id, second.ttl) == ("other", None)
    assert second.created_at >= first.created_at


async def test_end_counts_what_was_there(store: AsyncSessionStore) -> None:
    assert await store.end("s") == 0
    await store.save("s", "n", "never", 1)
    await store.save("s", "n", "soon", 1, ttl=SOON)
    await store.save("s", "m", "soon", 1, ttl=SOON)
    await gone(store, "soon")
    await gone(store, "soon", namespace="m")
    assert await store.end("s") == 1


@on_servers
async def test_end_leaves_nothing(place: Place, store: AsyncSessionStore) -> None:
    for number in range(20):
        await store.save("s", f"namespace {number}", "k", 1, ttl=100 if number % 2 else None)
    await store.delete("s", "namespace 3", "k")
    await store.increment("s", "n", "k", ttl=100)
    await store.end("s")
    await nothing_is_left(place)


# --- touch ----------------------------------------------------------------------------------------------------------


async def test_touch_says_whether_there_is_a_session(store: AsyncSessionStore) -> None:
    assert await store.touch("s", 100) is False
    assert await store.touch("s", None) is False
    assert await store.info("s") is None
    await store.save("s", "n", "k", 1)
    assert await store.touch("s", 100) is True


async def test_a_touched_session_ends_as_a_whole(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2})
    await store.save("s", "m", "a", 3, ttl=100)
    await store.save("t", "n", "a", 4)
    assert await store.touch("s", SOON * 4) is True
    await store.save("s", "n", "later", 5)
    await store.save("s", "new", "later", 6, ttl=100)
    await store.increment("s", "newer", "later")
    await gone(store, "a")
    assert await store.info("s") is None
    assert await store.namespaces("s") == []
    for namespace in ("n", "m", "new", "newer"):
        assert await store.get_all("s", namespace) == {}
    assert await scanned(store) == ["t"]


@once_on_each_server
async def test_nothing_is_left_of_a_touched_session(place: Place, store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"a": 1, "b": 2})
    await store.save("s", "m", "a", 3, ttl=100)
    await store.touch("s", SOON)
    await store.save("s", "new", "a", 4)
    await store.increment("s", "m", "counter")
    await nothing_is_left(place)


async def test_the_ttl_of_a_key_ends_with_its_session(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "never", 1)
    await store.save("s", "n", "late", 1, ttl=500)
    await store.save("s", "n", "early", 1, ttl=50)
    await store.touch("s", 100)
    assert await store.ttl("s", "n", "never") == pytest.approx(100, abs=2)
    assert await store.ttl("s", "n", "late") == pytest.approx(100, abs=2)
    assert await store.ttl("s", "n", "early") == pytest.approx(50, abs=2)
    assert await store.ttl("s", "n", "missing") is None
    await store.touch("s", None)
    assert await store.ttl("s", "n", "never") is None
    assert await store.ttl("s", "n", "late") == pytest.approx(500, abs=2)


async def test_touch_with_none_takes_the_end_away(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    await store.save("s", "m", "long", 1, ttl=100)
    await store.touch("s", SOON * 4)
    await store.save("t", "n", "sibling", 1, ttl=SOON * 4)
    assert await store.touch("s", None) is True
    await gone(store, "sibling", "t")
    assert await store.load("s", "n", "k") == 1
    assert await store.load("s", "m", "long") == 1
    assert await store.ttl("s", "n", "k") is None
    assert await store.ttl("s", "m", "long") == pytest.approx(100, abs=2)


async def test_touch_does_not_lengthen_the_life_of_a_key(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "soon", 1, ttl=SOON)
    await store.save("s", "n", "stays", 1)
    await store.touch("s", 100)
    await gone(store, "soon")
    assert await store.get_all("s", "n") == {"stays": 1}


# --- session_ttl ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"refresh_on_read": True}], ids=["on write", "on read"])
async def test_an_idle_session_ends_as_a_whole(opened: Callable[..., AsyncMemory], settings: dict[str, Any]) -> None:
    store = opened(session_ttl=SOON * 4, **settings).sessions
    await store.save("s", "n", "k", 1)
    await store.save("s", "m", "k", 1, ttl=100)

    async def has_ended() -> bool:
        return await store.info("s") is None

    await eventually(has_ended)
    assert await store.get_all("s", "n") == await store.get_all("s", "m") == {}
    assert await scanned(store) == []


@once_on_each_server
async def test_nothing_is_left_of_an_idle_session(place: Place, opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=SOON).sessions
    for namespace in ("a", "b", "c"):
        await store.save("s", namespace, "k", 1)
        await store.save("s", namespace, "l", 1, ttl=100)
    await store.delete("s", "b", "k")
    await nothing_is_left(place)


async def test_writes_keep_the_whole_session_alive(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=SOON * 6).sessions
    await store.save("s", "quiet", "k", 1)
    until = time.monotonic() + SOON * 18
    while time.monotonic() < until:
        await store.save("s", "busy", "k", 1)
    assert await store.load("s", "quiet", "k") == 1


async def test_reads_keep_the_session_alive_if_they_are_to(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=SOON * 6, refresh_on_read=True).sessions
    await store.save("s", "n", "k", 1)
    await store.save("s", "m", "k", 1)
    until = time.monotonic() + SOON * 18
    while time.monotonic() < until:
        assert await store.load("s", "n", "k") == 1
    assert await store.load("s", "m", "k") == 1


async def test_reading_makes_no_session(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=100, refresh_on_read=True).sessions
    assert await store.load("s", "n", "k") is None
    assert await store.get_all("s", "n") == {}
    assert await store.info("s") is None


async def test_every_write_counts_as_activity(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(session_ttl=100).sessions
    await store.save_many("s", "n", {"k": 1, "other": 1})
    writes: dict[str, Callable[[], Any]] = {
        "save": lambda: store.save("s", "n", "k", 1),
        "save_many": lambda: store.save_many("s", "m", {"k": 1}),
        "increment": lambda: store.increment("s", "n", "k"),
        "compare_and_set": lambda: store.compare_and_set("s", "n", "k", 2, 3),
        "update": lambda: store.update("s", "n", "k", lambda value: value),
        "expire": lambda: store.expire("s", "n", "k", 500),
        "delete": lambda: store.delete("s", "n", "k"),
    }
    refreshed = set[str]()
    for name, write in writes.items():
        await store.touch("s", 10)
        await write()
        info = await store.info("s")
        assert info is not None
        assert info.ttl is not None
        if info.ttl > 90:
            refreshed.add(name)
    assert refreshed == set(writes)


# --- scan -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
async def test_scan_meets_every_session(store: AsyncSessionStore, batch_size: int) -> None:
    ids = [f"s{number}" for number in range(120)]
    for session_id in ids:
        await store.save(session_id, "n", "k", 1, ttl=100)
    assert await scanned(store, batch_size) == sorted(ids)


async def test_a_scan_may_be_left(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    await store.save("t", "n", "k", 1)
    async for session_id in store.scan(1):
        assert session_id in ("s", "t")
        break
    assert await scanned(store) == ["s", "t"]


@on_servers
async def test_prefixes_do_not_see_each_other(opened: Callable[..., AsyncMemory]) -> None:
    prefixes = ("app", "app2", "ap", "app:session", "my-app.v1~x", "a-z", "redismem")
    stores = {prefix: opened(prefix=prefix).sessions for prefix in prefixes}
    for prefix, store in stores.items():
        await store.save("s", "n", "k", prefix)
        await store.save(f"only {prefix}", "n", "k", prefix)
    for prefix, store in stores.items():
        assert await store.load("s", "n", "k") == prefix
        assert await scanned(store) == [f"only {prefix}", "s"]
    await stores["app"].end("s")
    assert await stores["app2"].load("s", "n", "k") == "app2"


@on_real_servers
async def test_foreign_keys_do_not_disturb_a_scan(place: Place, store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    raw = place.raw()
    raw.set("redismem:session:{text}:meta", "text")
    for name in ("{not encoded}", "{%zz}", "{}", "{a}:{b}", "a"):
        raw.hset(f"redismem:session:{name}:meta", "created_at", 1)
    raw.hset("xredismem:session:{x}:meta", "created_at", 1)
    assert await scanned(store) == ["s"]


# --- apart ----------------------------------------------------------------------------------------------------------


async def test_similar_names_stay_apart(store: AsyncSessionStore) -> None:
    for name in ODD:
        await store.save(name, "n", "k", ["session", name])
        await store.save("s", name, "k", ["namespace", name])
        await store.save("s", "n", name, ["key", name])
    for name in ODD:
        assert await store.load(name, "n", "k") == ["session", name]
        assert await store.load("s", name, "k") == ["namespace", name]
        assert await store.load("s", "n", name) == ["key", name]
    assert await scanned(store) == sorted([*ODD, "s"])
    assert await store.namespaces("s") == sorted([*ODD, "n"])
    assert set(await store.get_all("s", "n")) == set(ODD)
    assert await store.end("user1") == 1
    assert await store.end("*") == 1
    assert await scanned(store) == sorted({*ODD, "s"} - {"user1", "*"})


async def test_names_that_cannot_be_change_nothing(store: AsyncSessionStore) -> None:
    impossible: list[Any] = ["", "x" * 513, "\U0001f9e0" * 129, "\ud800", None, 5, b"s", ["s"], True]
    for bad in impossible:
        await all_raise(
            InvalidKey,
            store.save(bad, "n", "k", 1),
            store.save("s", bad, "k", 1),
            store.save("s", "n", bad, 1),
            store.save_many("s", "n", {"k": 1, "x" * 513: 1}),
            store.save_many("s", bad, {"k": 1}),
            store.load(bad, "n", "k"),
            store.load_many("s", "n", ["k", "\udfff"]),
            store.load_many(bad, "n", []),
            store.get_all("s", bad),
            store.delete("s", "n", bad),
            store.increment(bad, "n", "k"),
            store.compare_and_set("s", bad, "k", None, 1),
            store.update("s", "n", bad, lambda _: 1),
            store.ttl("s", bad, "k"),
            store.expire(bad, "n", "k", 100),
            store.touch(bad, 100),
            store.end(bad),
            store.info(bad),
            store.namespaces(bad),
            *([store.save("s", "n", "k", 1, user_id=bad), store.end("s", user_id=bad)] if bad is not None else []),
        )
    assert await scanned(store) == []


@pytest.mark.parametrize("where", ["session_id", "namespace", "key", "user_id"])
async def test_hostile_names_are_refused_or_kept(store: AsyncSessionStore, where: str) -> None:
    for name in HOSTILE:
        place = {"session_id": "s", "namespace": "n", "key": "k", "user_id": "u"} | {where: name}
        try:
            await store.save(**place, value=name[:10].encode("utf-8", "replace"))
        except ValueError:
            continue
        assert await store.load(**place) == name[:10].encode()
        await store.end(place["session_id"])
    assert await scanned(store) == []


# --- owners ---------------------------------------------------------------------------------------------------------


async def test_a_session_belongs_to_the_first_writer_who_says_so(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    await store.load("s", "n", "k", user_id="reader")
    info = await store.info("s")
    assert info is not None
    assert info.user_id is None
    await store.increment("s", "m", "k", user_id="owner")
    info = await store.info("s")
    assert info is not None
    assert info.user_id == "owner"
    await store.save("s", "n", "k", 2)  # not asked
    await store.save("s", "n", "k", 3, user_id="owner")
    assert await store.load("s", "n", "k", user_id="owner") == 3


async def test_another_user_is_refused_everywhere(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100, user_id="owner")
    before = await store.info("s")
    other: dict[str, str] = {"user_id": "other"}
    await all_raise(
        OwnerMismatch,
        store.save("s", "n", "k", 2, **other),
        store.save("s", "new", "k", 2, **other),
        store.save_many("s", "n", {"k": 2, "l": 2}, **other),
        store.load("s", "n", "k", **other),
        store.load("s", "n", "missing", **other),
        store.load_many("s", "n", ["k", "l"], **other),
        store.get_all("s", "n", **other),
        store.delete("s", "n", "k", **other),
        store.increment("s", "n", "k", **other),
        store.compare_and_set("s", "n", "k", 1, 2, **other),
        store.compare_and_set("s", "n", "k", 5, 6, **other),
        store.update("s", "n", "k", lambda _: 2, **other),
        store.ttl("s", "n", "k", **other),
        store.expire("s", "n", "k", None, **other),
        store.touch("s", 500, **other),
        store.end("s", **other),
        store.info("s", **other),
        store.namespaces("s", **other),
    )
    assert await store.get_all("s", "n", user_id="owner") == {"k": 1}
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    after = await store.info("s")
    assert before is not None
    assert after is not None
    assert (after.user_id, after.namespaces, after.last_active) == ("owner", ("n",), before.last_active)


async def test_the_owner_may_do_everything(store: AsyncSessionStore) -> None:
    owner: dict[str, str] = {"user_id": "ow:ner {1}*\0"}
    await store.save("s", "n", "k", 1, **owner)
    await store.save_many("s", "n", {"l": 2}, **owner)
    assert await store.load("s", "n", "k", **owner) == 1
    assert await store.load_many("s", "n", ["k", "l"], **owner) == {"k": 1, "l": 2}
    assert await store.get_all("s", "n", **owner) == {"k": 1, "l": 2}
    assert await store.increment("s", "n", "k", **owner) == 2
    assert await store.compare_and_set("s", "n", "k", 2, 3, **owner) is True
    assert await store.update("s", "n", "k", lambda value: value + 1, **owner) == 4
    assert await store.expire("s", "n", "k", 100, **owner) is True
    assert await store.delete("s", "n", "k", **owner) is True
    assert await store.touch("s", 100, **owner) is True
    assert await store.ttl("s", "n", "l", **owner) == pytest.approx(100, abs=3)
    assert await store.namespaces("s", **owner) == ["n"]
    info = await store.info("s", **owner)
    assert info is not None
    assert info.user_id == owner["user_id"]
    assert await store.end("s", **owner) == 1


async def test_owners_are_told_apart_exactly(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, user_id="user1")
    for other in ("user10", "user", "USER1", "user1 ", "*", "user?", "\0"):
        with pytest.raises(OwnerMismatch):
            await store.load("s", "n", "k", user_id=other)


@on_real_servers
async def test_a_session_of_very_many_namespaces_can_be_touched_and_ended(opened: Callable[..., AsyncMemory]) -> None:
    """More than Lua can unpack at once, and none of them known to those that touch and end it."""
    writer, toucher, ender = opened(), opened(), opened()
    async with writer.batch() as batch:
        for number in range(9_000):
            batch.sessions.save("s", f"n{number}", "k", 1)
    assert await toucher.sessions.touch("s", 100)
    assert len(await toucher.sessions.namespaces("s")) == 9_000
    assert await ender.sessions.end("s") == 9_000
    assert await writer.sessions.info("s") is None
