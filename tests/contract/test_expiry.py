"""Keys expire when they are told to, alone, and nothing is left of them.

What must still be there after a moment is looked at once a sibling that ends at that moment, or later, is gone.
"""

from collections.abc import Callable
from typing import Any

import pytest

from redismem import KEEP_TTL, MISSING, AsyncSessionStore
from redismem.errors import InvalidTTL
from tests.contract.flavours import (
    ORACLE,
    SOON,
    Place,
    all_raise,
    eventually,
    gone,
    nothing_is_left,
    on_real_servers,
    once_on_each_server,
)


async def test_ttl_is_the_time_left(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100)
    left = await store.ttl("s", "n", "k")
    assert type(left) is float
    assert 95 < left <= 100
    await store.save("s", "n", "short", 1, ttl=20.5)
    left = await store.ttl("s", "n", "short")
    assert left is not None
    assert 15 < left <= 20.5


async def test_ttl_of_what_never_expires_or_is_not_there_is_none(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    assert await store.ttl("s", "n", "k") is None
    assert await store.ttl("s", "n", "missing") is None
    assert await store.ttl("s", "missing", "k") is None
    assert await store.ttl("missing", "n", "k") is None


async def test_expire_gives_another_ttl(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"k": 1, "other": 2})
    assert await store.expire("s", "n", "k", 100) is True
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)
    assert await store.expire("s", "n", "k", 200) is True
    assert await store.ttl("s", "n", "k") == pytest.approx(200, abs=2)
    assert await store.ttl("s", "n", "other") is None
    assert await store.load("s", "n", "k") == 1


async def test_expire_takes_the_ttl_away(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100)
    assert await store.expire("s", "n", "k", None) is True
    assert await store.ttl("s", "n", "k") is None
    assert await store.expire("s", "n", "k", None) is True


async def test_expire_of_what_is_not_there_makes_nothing(store: AsyncSessionStore) -> None:
    assert await store.expire("s", "n", "k", 100) is False
    assert await store.info("s") is None
    await store.save("s", "n", "k", 1)
    assert await store.expire("s", "n", "missing", 100) is False
    assert await store.expire("s", "missing", "k", None) is False
    assert await store.namespaces("s") == ["n"]


async def test_keep_ttl_keeps_each_key_its_own(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "a", 1, ttl=100)
    await store.save("s", "n", "b", 1, ttl=200)
    await store.save("s", "n", "c", 1)
    await store.save_many("s", "n", {"a": 2, "b": 2, "c": 2, "new": 2}, ttl=KEEP_TTL)
    assert await store.get_all("s", "n") == {"a": 2, "b": 2, "c": 2, "new": 2}
    assert await store.ttl("s", "n", "a") == pytest.approx(100, abs=2)
    assert await store.ttl("s", "n", "b") == pytest.approx(200, abs=2)
    assert await store.ttl("s", "n", "c") is None
    assert await store.ttl("s", "n", "new") is None
    await store.save("s", "n", "a", 3, ttl=KEEP_TTL)
    assert await store.ttl("s", "n", "a") == pytest.approx(100, abs=2)


async def test_a_ttl_that_is_none_changes_nothing(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100)
    bad: list[Any] = [0, 0.0, -1, -0.5, float("nan"), float("inf"), -float("inf"), True, "5", b"5", 10**10, [1]]
    for ttl in bad:
        await all_raise(
            InvalidTTL,
            store.save("s", "n", "k", 2, ttl),
            store.save_many("s", "n", {"k": 2, "l": 2}, ttl),
            store.increment("s", "n", "k", 1, ttl),
            store.compare_and_set("s", "n", "k", 1, 2, ttl),
            store.update("s", "n", "k", lambda _: 2, None, ttl),
            store.expire("s", "n", "k", ttl),
            store.touch("s", ttl),
        )
    assert await store.get_all("s", "n") == {"k": 1}
    assert await store.ttl("s", "n", "k") == pytest.approx(100, abs=2)


# --- when it happens ------------------------------------------------------------------------------------------------


async def test_an_expired_key_is_gone_for_every_operation(store: AsyncSessionStore) -> None:
    keys = ("load", "all", "many", "ttl", "delete", "increment", "set", "update", "expire", "keep")
    await store.save("s", "n", "stays", 0)
    await store.save_many("s", "n", dict.fromkeys(keys, 5), ttl=SOON)
    await gone(store, "load")
    assert await store.get_all("s", "n") == {"stays": 0}
    assert await store.load_many("s", "n", keys) == {}
    assert await store.ttl("s", "n", "ttl") is None
    assert await store.delete("s", "n", "delete") is False
    assert await store.expire("s", "n", "expire", 100) is False
    assert await store.increment("s", "n", "increment") == 1
    assert await store.compare_and_set("s", "n", "set", 5, 6) is False
    assert await store.compare_and_set("s", "n", "set", MISSING, 6) is True
    assert await store.update("s", "n", "update", lambda value: value, default="default") == "default"
    await store.save("s", "n", "keep", 7, ttl=KEEP_TTL)
    assert await store.get_all("s", "n") == {"stays": 0, "increment": 1, "set": 6, "update": "default", "keep": 7}
    for key in ("increment", "set", "update", "keep"):
        assert await store.ttl("s", "n", key) is None


async def test_a_key_expires_without_its_neighbours(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "never", 1)
    await store.save("s", "n", "late", 2, ttl=100)
    await store.save("s", "n", "soon", 3, ttl=SOON)
    await store.save("s", "m", "soon", 4, ttl=100)
    await gone(store, "soon")
    assert await store.get_all("s", "n") == {"never": 1, "late": 2}
    assert await store.get_all("s", "m") == {"soon": 4}


async def test_what_comes_after_a_ttl_replaces_it(store: AsyncSessionStore) -> None:
    await store.save_many(
        "s", "n", dict.fromkeys(("saved", "set", "updated", "told", "kept", "counted"), 1), ttl=SOON * 4
    )
    await store.save("s", "n", "saved", 2)
    await store.compare_and_set("s", "n", "set", 1, 2, ttl=100)
    await store.update("s", "n", "updated", lambda value: value + 1)
    await store.expire("s", "n", "told", None)
    await store.save("s", "n", "kept", 2, ttl=KEEP_TTL)
    await store.increment("s", "n", "counted", ttl=100)
    await store.save("s", "n", "sibling", 1, ttl=SOON * 4)
    await gone(store, "kept")
    await gone(store, "sibling")
    assert await store.get_all("s", "n") == {"saved": 2, "set": 2, "updated": 2, "told": 1, "counted": 2}


async def test_a_key_saved_again_after_its_end_lives(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=SOON)
    await gone(store, "k")
    await store.save("s", "n", "k", 2)
    await store.save("s", "n", "sibling", 1, ttl=SOON)
    await gone(store, "sibling")
    assert await store.load("s", "n", "k") == 2
    assert await store.ttl("s", "n", "k") is None


@pytest.mark.parametrize("place", ["async-valkey9", "sync-redis62", ORACLE], indirect=True)  # it takes seconds
async def test_a_session_ends_with_its_last_key(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "a", 1, ttl=SOON)
    await store.save("s", "m", "b", 1, ttl=SOON * 2)
    await store.save("t", "n", "a", 1)

    async def has_ended() -> bool:
        return await store.info("s") is None

    await eventually(has_ended)
    assert await store.namespaces("s") == []
    assert [session_id async for session_id in store.scan()] == ["t"]
    assert await store.touch("s", 100) is False
    assert await store.end("s") == 0


async def test_a_namespace_ends_with_its_last_key(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "a", 1, ttl=SOON)
    await store.save("s", "m", "b", 1)
    await gone(store, "a")

    async def is_gone() -> bool:
        info = await store.info("s")
        return await store.namespaces("s") == ["m"] and info is not None and info.namespaces == ("m",)

    await eventually(is_gone)


@pytest.mark.parametrize("place", ["sync-valkey9", "sync-valkey9-nohsetex"], indirect=True)
async def test_a_key_that_the_server_has_not_reaped_counts_for_nothing(
    place: Place, new_server: Callable[..., Any]
) -> None:
    assert place.server is not None
    arguments = (*place.server.arguments[:-2], "--enable-debug-command", "local")
    place.server = new_server("valkey9", *arguments)
    memory = place.open(max_fields=2, max_namespaces=1)
    store = memory.sessions
    place.raw().execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    await store.save_many("s", "n", {"a": 1, "b": 1}, ttl=SOON)
    await gone(store, "b")
    assert place.raw().hlen("redismem:session:{s}:ns:n") == 2
    assert await store.namespaces("s") == []
    await store.save("s", "m", "k", 1)
    assert await store.namespaces("s") == ["m"]
    await store.save_many("s", "m", {"a": 1}, ttl=SOON)
    await gone(store, "a", namespace="m")
    await store.save("s", "m", "b", 1)
    assert await store.end("s") == 2
    await memory.aclose()


@pytest.mark.parametrize("place", ["sync-redis70", "sync-redis62"], indirect=True)
async def test_no_key_outlives_a_ttl_that_ends_while_the_next_write_is_on_its_way(place: Place) -> None:
    memory = place.open()
    for begin in range(0, 10_000, 50):
        ids = [f"s{begin + one}" for one in range(50)]
        async with memory.batch() as batch:
            for session_id in ids:
                batch.sessions.save(session_id, "n", "k", 1, ttl=0.001)
                batch.sessions.save(session_id, "n", "other", 1)
        await gone(memory.sessions, "k", ids[-1])
        async with memory.batch() as batch:
            found = [batch.sessions.load(session_id, "n", "k", MISSING) for session_id in ids]
        assert all(value.result() is MISSING for value in found)
    await memory.aclose()


# --- nothing is left ------------------------------------------------------------------------------------------------


@once_on_each_server
async def test_nothing_is_left_when_everything_has_expired(place: Place, store: AsyncSessionStore) -> None:
    await store.save("a", "n", "k", 1, SOON, user_id="u")
    await store.save_many("b", "n", {"k": 1, "l": 2}, SOON)
    await store.save_many("b", "m", {"k": 1, "l": 2}, SOON * 2)
    await store.increment("c", "n", "k", 1, SOON)
    await store.increment("c", "n", "k")
    await store.compare_and_set("d", "n", "k", None, 1, SOON)
    await store.update("e", "n", "k", lambda _: 1, ttl=SOON)
    await store.save("e", "n", "k", 2, ttl=KEEP_TTL)
    await store.save("f", "n", "k", 1, ttl=100)
    await store.expire("f", "n", "k", SOON)
    await store.delete("f", "n", "missing")
    await store.save("g", "n", "k", 1, ttl=SOON)
    await store.delete("g", "n", "k")
    await store.touch("f", SOON)
    await nothing_is_left(place)


@on_real_servers
async def test_a_ttl_reaches_the_server(place: Place, store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, ttl=100)
    raw = place.raw()
    assert all(
        0 < raw.pttl(name) <= 105_000 for name in place.left_over() if raw.type(name) == b"zset" or b"meta" in name
    )
    if place.server is not None and place.server.name.startswith("valkey"):
        assert raw.execute_command("HPTTL", "redismem:session:{s}:ns:n", "FIELDS", 1, "k")[0] in range(95_000, 100_001)
    else:
        assert raw.pttl("redismem:session:{s}:ns:n") in range(95_000, 100_001)
