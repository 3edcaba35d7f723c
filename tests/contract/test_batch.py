"""Batches on every server: what each call gives, in which order they take effect, and what fails with what."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from redismem import MISSING, AsyncMemory, AsyncSessionStore, SessionStore
from redismem.errors import (
    DecodeError,
    EncodeError,
    InvalidKey,
    InvalidTTL,
    LimitExceeded,
    NotReady,
    OwnerMismatch,
    RedisMemError,
    Suspended,
    Unavailable,
    WrongType,
)
from tests.contract.flavours import FLAVOURS, Place, on_real_servers, on_servers, on_valkey, results, scanned
from tests.servers import Server


@on_servers
async def test_a_batch_gives_what_single_calls_give(memory: AsyncMemory) -> None:
    store = memory.sessions
    await store.save_many("s", "n", {"a": 1, "b": [2], "c": "x"}, user_id="u")
    await store.save("ended", "n", "k", 1)
    async with memory.batch() as batch:
        sessions = batch.sessions
        handles: list[Any] = [
            sessions.load("s", "n", "a"),
            sessions.load("s", "n", "missing", "default"),
            sessions.load_many("s", "n", ["b", "missing"]),
            sessions.get_all("s", "n", user_id="u"),
            sessions.save("s", "m", "k", {"v": 1}, ttl=100),
            sessions.save_many("s", "m", {"l": 1, "o": 2}),
            sessions.save_many("s", "m", {}),
            sessions.increment("s", "n", "a", 41),
            sessions.compare_and_set("s", "n", "b", [2], [3]),
            sessions.compare_and_set("s", "n", "b", [2], [4]),
            sessions.compare_and_set("s", "n", "new", MISSING, None),
            sessions.delete("s", "n", "c"),
            sessions.delete("s", "n", "c"),
            sessions.expire("s", "n", "a", 100),
            sessions.expire("s", "n", "missing", 100),
            sessions.update("t", "n", "k", lambda value: value + 1, default=1),
            sessions.touch("missing", 100),
            sessions.end("ended"),
            sessions.end("missing"),
            sessions.namespaces("missing"),
            sessions.info("missing"),
        ]
    first, many = {"a": 1, "b": [2], "c": "x"}, {"b": [2]}
    expected = [1, "default", many, first, None, None, None, 42, True, False, True, True, False, True, False, 2]
    assert results(handles) == [*expected, False, 1, 0, [], None]
    assert await store.get_all("s", "n") == {"a": 42, "b": [3], "new": None}
    assert await store.get_all("s", "m") == {"k": {"v": 1}, "l": 1, "o": 2}
    assert await store.ttl("s", "n", "a") is not None
    assert await store.ttl("s", "m", "k") is not None
    assert await store.ttl("s", "m", "l") is None
    assert await store.load("t", "n", "k") == 2
    assert await scanned(store) == ["s", "t"]


@on_servers
async def test_ttl_info_and_namespaces_in_a_batch(memory: AsyncMemory) -> None:
    await memory.sessions.save("s", "n", "k", 1, ttl=100, user_id="u")
    async with memory.batch() as batch:
        ttl, info = batch.sessions.ttl("s", "n", "k"), batch.sessions.info("s")
        namespaces, touched = batch.sessions.namespaces("s"), batch.sessions.touch("s", 200)
    assert ttl.result() == pytest.approx(100, abs=2)
    found = info.result()
    assert found is not None
    assert (found.session_id, found.user_id, found.namespaces) == ("s", "u", ("n",))
    assert namespaces.result() == ["n"]
    assert touched.result() is True


# --- order ----------------------------------------------------------------------------------------------------------


async def in_order(memory: AsyncMemory, session_id: str = "s") -> None:
    """Calls on one key take effect in the order in which they were made."""
    async with memory.batch() as batch:
        sessions = batch.sessions
        handles: list[Any] = [
            sessions.save(session_id, "n", "k", 1, ttl=100),
            sessions.save(session_id, "n", "k", 10),
            sessions.increment(session_id, "n", "k"),
            sessions.load(session_id, "n", "k"),
            sessions.compare_and_set(session_id, "n", "k", 11, 12),
            sessions.load(session_id, "n", "k"),
            sessions.delete(session_id, "n", "k"),
            sessions.load(session_id, "n", "k", "deleted"),
            sessions.save(session_id, "n", "k", 5, ttl=100),
            sessions.save(session_id, "n", "l", 6, ttl=100),
            sessions.increment(session_id, "n", "k"),
            sessions.delete(session_id, "n", "l"),
            sessions.get_all(session_id, "n"),
        ]
    expected = [None, None, 11, 11, True, 12, True, "deleted", None, None, 6, True, {"k": 6}]
    assert results(handles) == expected
    assert await memory.sessions.get_all(session_id, "n") == {"k": 6}


@on_servers
async def test_calls_take_effect_in_their_order(memory: AsyncMemory) -> None:
    await in_order(memory)
    await in_order(memory)
    await memory.sessions.save("s", "n", "k", 1)
    await in_order(memory)


@on_servers
async def test_the_order_holds_when_the_namespace_was_emptied(memory: AsyncMemory) -> None:
    store = memory.sessions
    await store.save("s", "n", "k", 1)
    await store.delete("s", "n", "k")
    await in_order(memory)


@on_servers
async def test_the_order_holds_when_another_process_ended_the_session(memory: AsyncMemory, rival: SessionStore) -> None:
    await memory.sessions.save("s", "n", "k", 1)
    rival.end("s")
    await in_order(memory)
    await memory.sessions.save("s", "n", "k", 1)
    rival.touch("s", 100)
    await in_order(memory)


@on_real_servers
async def test_the_order_holds_when_the_server_forgot_some_scripts(place: Place, memory: AsyncMemory) -> None:
    store = memory.sessions
    await in_order(memory)
    for number, call in enumerate(
        (
            lambda: store.increment("t", "n", "k"),
            lambda: store.delete("t", "n", "k"),
            lambda: store.compare_and_set("t", "n", "k", 5, 6),
            lambda: store.save("u", "n", "k", 1),
        )
    ):
        place.raw().script_flush()
        await call()  # the only script that the server knows
        await in_order(memory, f"s{number}")


@on_servers
async def test_increments_come_back_in_order(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        handles = [batch.sessions.increment("s", "n", "k") for _ in range(100)]
    assert results(handles) == list(range(1, 101))


@on_servers
async def test_thousands_of_saves_are_one_batch(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        handles = [batch.sessions.save("s", "n", f"k{number % 4000}", number, ttl=100) for number in range(5000)]
    assert results(handles) == [None] * 5000
    expected = {f"k{number}": number if number >= 1000 else number + 4000 for number in range(4000)}
    assert await memory.sessions.get_all("s", "n") == expected


@on_servers
async def test_neighbours_keep_their_own_ttl(memory: AsyncMemory) -> None:
    ttls = [None, 100, 100, 200, None, 200]
    for _ in range(2):
        async with memory.batch() as batch:
            for number, ttl in enumerate(ttls):
                batch.sessions.save("s", "n", f"k{number}", number, ttl)
        for number, ttl in enumerate(ttls):
            left = await memory.sessions.ttl("s", "n", f"k{number}")
            assert left is None if ttl is None else left == pytest.approx(ttl, abs=2)


# --- errors ---------------------------------------------------------------------------------------------------------


@on_servers
async def test_each_call_fails_by_itself(place: Place, opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(max_fields=50)
    store = memory.sessions
    await store.save_many("s", "n", {"text": "x", "k": 1})
    await store.save("owned", "n", "k", 1, user_id="u")
    place.raw().hset("redismem:session:{s}:ns:n", "poison", b"\xc1")
    raised: dict[str, Any] = {}
    async with memory.batch() as batch:
        sessions = batch.sessions
        raised = {
            "WrongType": sessions.increment("s", "n", "text"),
            "InvalidKey": sessions.load("s", "", "k"),
            "InvalidKey in save": sessions.save("s", "", "k", 1),
            "EncodeError": sessions.save("s", "n", "k", {"deep": object()}),
            "InvalidTTL": sessions.save("s", "n", "k", 2, ttl=timedelta(seconds=5)),  # type: ignore[arg-type]
            "OwnerMismatch": sessions.save("owned", "n", "k", 2, user_id="v"),
            "OwnerMismatch in load": sessions.load("owned", "n", "k", user_id="v"),
            "LimitExceeded": sessions.save_many("t", "n", {str(number): 1 for number in range(51)}),
            "DecodeError": sessions.load("s", "n", "poison"),
            "ZeroDivisionError": sessions.update("s", "n", "k", lambda _: 1 / 0),
        }
        fine = [sessions.save("s", "n", "fine", 1), sessions.increment("s", "n", "k"), sessions.load("s", "n", "text")]
    kinds = {
        WrongType,
        InvalidKey,
        EncodeError,
        InvalidTTL,
        OwnerMismatch,
        LimitExceeded,
        DecodeError,
        ZeroDivisionError,
    }
    assert {name: type(handle.error()) for name, handle in raised.items()} == {
        name: next(kind for kind in kinds if kind.__name__ == name.split()[0]) for name in raised
    }
    with pytest.raises(EncodeError, match=r"\$\.deep"):
        raised["EncodeError"].result()
    with pytest.raises(DecodeError, match="poison"):
        raised["DecodeError"].result()
    assert results(fine) == [None, 2, "x"]
    assert await store.info("t") is None
    assert await store.load("owned", "n", "k") == 1


@on_valkey
async def test_a_stream_is_in_no_batch(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        with pytest.raises(RedisMemError, match="outside the batch"):
            batch.sessions.scan()


@on_servers
async def test_a_body_that_raises_sends_nothing(memory: AsyncMemory) -> None:
    await memory.sessions.save("s", "n", "k", 1)
    before = memory.stats()
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012  (what is raised inside the block is the matter)
        async with memory.batch() as batch:
            handles: list[Any] = [
                batch.sessions.save("s", "n", "k", 2),
                batch.sessions.save("s", "m", "k", 2),
                batch.sessions.increment("s", "n", "k"),
                batch.sessions.update("s", "n", "k", lambda _: 3),
                batch.sessions.end("s"),
            ]
            raise KeyError("mine")
    assert memory.stats() == before
    assert await memory.sessions.get_all("s", "n") == {"k": 1}
    assert await memory.sessions.namespaces("s") == ["n"]
    for handle in handles:
        assert not handle.done()
        with pytest.raises(NotReady):
            handle.result()


@on_servers
async def test_a_result_is_not_ready_inside_the_block(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        handles: list[Any] = [batch.sessions.save("s", "n", "k", 1), batch.sessions.load("s", "n", "k")]
        for handle in handles:
            assert not handle.done()
            with pytest.raises(NotReady, match="with"):
                handle.result()
    assert results(handles) == [None, 1]


@on_servers
async def test_an_empty_batch_is_nothing(memory: AsyncMemory) -> None:
    await memory.sessions.load("s", "n", "k")
    before = memory.stats()
    async with memory.batch():
        pass
    assert memory.stats() == before


# --- update ---------------------------------------------------------------------------------------------------------


@on_servers
async def test_updates_of_one_key_in_a_batch_are_all_applied(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        handles = [
            batch.sessions.update("s", "n", "k", lambda items, number=number: [*items, number], default=[])
            for number in range(10)
        ]
    longest = max(results(handles), key=len)
    assert sorted(longest) == list(range(10))
    assert await memory.sessions.load("s", "n", "k") == longest


@on_servers
async def test_an_update_in_a_batch_cannot_wait(memory: AsyncMemory) -> None:
    async def later(_: Any) -> int:
        await asyncio.sleep(0)
        return 1

    await memory.sessions.save("s", "n", "k", "before")
    async with memory.batch() as batch:
        waiting = batch.sessions.update("s", "n", "k", later)
        other = batch.sessions.load("s", "n", "k")
    assert type(waiting.error()) is Suspended
    assert other.result() == "before"
    assert await memory.sessions.load("s", "n", "k") == "before"


@on_servers
async def test_batches_at_the_same_time_do_not_mix(memory: AsyncMemory) -> None:
    async def one(number: int) -> list[Any]:
        async with memory.batch() as batch:
            handles: list[Any] = []
            for key in range(10):
                handles.append(batch.sessions.save(f"s{number}", "n", f"k{key}", (number, key)))
                await asyncio.sleep(0)
                handles.append(batch.sessions.load(f"s{number}", "n", f"k{key}"))
        return results(handles)[1::2]

    got = await asyncio.gather(*(one(number) for number in range(10)))
    assert got == [[(number, key) for key in range(10)] for number in range(10)]


# --- the link fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("is_warm", [True, False])
async def test_a_server_that_went_away_fails_the_block_and_every_handle(
    flavour: str, is_warm: bool, new_server: Callable[..., Server]
) -> None:
    server = new_server("valkey9")
    memory = Place(flavour, server).open(retries=0)
    store: AsyncSessionStore = memory.sessions
    if is_warm:
        await store.save("s", "n", "k", 1)
    server.kill()
    handles: list[Any] = []
    with pytest.raises(Unavailable):  # noqa: PT012  (it is the end of the block that raises)
        async with memory.batch() as batch:
            handles = [batch.sessions.save("s", "n", "k", 1), batch.sessions.increment("s", "n", "l")]
            handles.append(batch.sessions.load("s", "n", "k"))
    assert [type(handle.error()) for handle in handles] == [Unavailable] * 3
    server.start()
    async with memory.batch() as batch:
        handles = [batch.sessions.save("s", "n", "k", 2), batch.sessions.load("s", "n", "k")]
    assert results(handles) == [None, 2]
    await memory.aclose()
