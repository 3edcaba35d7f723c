"""Limits hold for every write, are checked with it, and a refused write changes nothing."""

from collections.abc import Callable

from redismem import AsyncMemory, AsyncSessionStore
from redismem.errors import LimitExceeded
from tests.contract.flavours import SOON, all_raise, gone, on_servers, results


async def test_a_value_may_be_so_long(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_value_bytes=100, compression="off").sessions
    await store.save("s", "n", "k", b"x" * 98)  # and two bytes of msgpack
    await all_raise(
        LimitExceeded,
        store.save("s", "n", "k", b"x" * 99),
        store.save("s", "n", "k", "x" * 5_000),
        store.save("s", "n", "k", 10**200),
        store.save_many("s", "n", {"l": 1, "k": b"x" * 99}),
        store.compare_and_set("s", "n", "k", b"x" * 98, b"x" * 99),
        store.update("s", "n", "k", lambda value: value + b"x"),
        store.save("t", "n", "k", b"x" * 99),
    )
    assert await store.get_all("s", "n") == {"k": b"x" * 98}
    assert await store.info("t") is None


async def test_the_length_is_that_of_what_is_stored(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_value_bytes=20_000, compression="gzip").sessions
    await store.save("s", "n", "k", "x" * 19_000)
    assert await store.load("s", "n", "k") == "x" * 19_000


async def test_a_namespace_may_hold_so_many_keys(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_fields=2).sessions
    await store.save("s", "n", "a", 1)
    await all_raise(
        LimitExceeded, store.save_many("s", "n", {"b": 1, "c": 1}), store.save_many("t", "n", {"a": 1, "b": 1, "c": 1})
    )
    await store.save("s", "n", "b", 1)
    await all_raise(
        LimitExceeded,
        store.save("s", "n", "c", 1),
        store.save("s", "n", "c", 1, ttl=100),
        store.save_many("s", "n", {"a": 2, "c": 1}),
        store.increment("s", "n", "c"),
        store.compare_and_set("s", "n", "c", None, 1),
        store.update("s", "n", "c", lambda _: 1),
    )
    assert await store.get_all("s", "n") == {"a": 1, "b": 1}
    assert await store.info("t") is None


async def test_a_full_namespace_takes_changes(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_fields=2).sessions
    await store.save_many("s", "n", {"a": 1, "b": 1})
    await store.save_many("s", "n", {"a": 2, "b": 2})
    await store.increment("s", "n", "a")
    assert await store.compare_and_set("s", "n", "a", 3, 4) is True
    await store.update("s", "n", "b", lambda value: value + 1)
    assert await store.expire("s", "n", "b", 100) is True
    assert await store.get_all("s", "n") == {"a": 4, "b": 3}
    await store.save_many("s", "m", {"a": 1, "b": 1})  # each namespace by itself


async def test_keys_that_go_make_room(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_fields=2).sessions
    await store.save("s", "n", "a", 1)
    await store.save("s", "n", "b", 1, ttl=SOON)
    await all_raise(LimitExceeded, store.save("s", "n", "c", 1))
    await gone(store, "b")
    await store.save("s", "n", "c", 1)
    await store.delete("s", "n", "a")
    await store.save("s", "n", "d", 1)
    assert await store.get_all("s", "n") == {"c": 1, "d": 1}


async def test_a_session_may_have_so_many_namespaces(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_namespaces=2).sessions
    await store.save("s", "a", "k", 1)
    await store.save("s", "b", "k", 1)
    await all_raise(
        LimitExceeded,
        store.save("s", "c", "k", 1, user_id="u"),
        store.save_many("s", "c", {"k": 1}),
        store.increment("s", "c", "k"),
        store.compare_and_set("s", "c", "k", None, 1),
        store.update("s", "c", "k", lambda _: 1),
    )
    assert await store.namespaces("s") == ["a", "b"]
    assert await store.get_all("s", "c") == {}
    info = await store.info("s")
    assert info is not None
    assert info.user_id is None
    await store.save("s", "a", "l", 1)
    await store.save("t", "c", "k", 1)  # each session by itself


async def test_namespaces_that_go_make_room(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_namespaces=2).sessions
    await store.save("s", "a", "k", 1)
    await store.save("s", "b", "k", 1, ttl=SOON)
    await all_raise(LimitExceeded, store.save("s", "c", "k", 1))
    await gone(store, "k", namespace="b")
    await store.save("s", "c", "k", 1)
    await store.delete("s", "a", "k")
    await store.save("s", "d", "k", 1)
    assert await store.namespaces("s") == ["c", "d"]


async def test_a_namespace_that_went_takes_its_turn_again(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_namespaces=2).sessions
    await store.save("s", "a", "k", 1)
    await store.save("s", "b", "k", 1)
    await store.delete("s", "a", "k")
    await store.save("s", "c", "k", 1)
    await all_raise(LimitExceeded, store.save("s", "a", "k", 1), store.save("s", "a", "l", 1))
    assert await store.namespaces("s") == ["b", "c"]
    assert await store.get_all("s", "a") == {}


@on_servers
async def test_limits_hold_in_a_batch(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(max_fields=2, max_namespaces=2, max_value_bytes=100)
    async with memory.batch() as batch:
        fields = [batch.sessions.save("s", "n", f"k{number}", number) for number in range(4)]
        namespaces = [batch.sessions.save("t", f"n{number}", "k", number) for number in range(4)]
        values = [batch.sessions.save("u", "n", f"k{number}", b"x" * 60 * number) for number in range(3)]
    for handles in (fields, namespaces):
        assert results(handles[:2]) == [None, None]
        assert [type(handle.error()) for handle in handles[2:]] == [LimitExceeded, LimitExceeded]
    assert [type(handle.error()) for handle in values] == [type(None), type(None), LimitExceeded]
    store: AsyncSessionStore = memory.sessions
    assert await store.get_all("s", "n") == {"k0": 0, "k1": 1}
    assert await store.namespaces("t") == ["n0", "n1"]
    assert set(await store.get_all("u", "n")) == {"k0", "k1"}
