"""Writes under a lock that another has been granted since are refused, and change nothing."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from redismem import AsyncMemory, AsyncSessionStore, Memory
from redismem.coordination.fence import Fence
from redismem.coordination.transaction import Attempt
from redismem.errors import LockError, OwnerMismatch, StaleFence
from tests.contract.flavours import Place, all_raise, on_servers
from tests.servers import Server

COUNTER = "redismem:user:{42}:fence:default"
EARLIER, LATER = Fence(COUNTER, 1_700_000_000_000_001), Fence(COUNTER, 1_700_000_000_000_002)

Write = Callable[[AsyncSessionStore, Any], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "save": lambda s, fence: s.save("s", "n", "k", 2, fence=fence),
    "save with ttl": lambda s, fence: s.save("s", "n", "k", 2, 100, fence=fence),
    "save_many": lambda s, fence: s.save_many("s", "n", {"k": 2, "l": 2}, fence=fence),
    "delete": lambda s, fence: s.delete("s", "n", "k", fence=fence),
    "increment": lambda s, fence: s.increment("s", "n", "k", fence=fence),
    "compare_and_set": lambda s, fence: s.compare_and_set("s", "n", "k", 1, 2, fence=fence),
    "update": lambda s, fence: s.update("s", "n", "k", lambda _: 2, fence=fence),
    "expire": lambda s, fence: s.expire("s", "n", "k", 100, fence=fence),
    "touch": lambda s, fence: s.touch("s", 100, fence=fence),
    "end": lambda s, fence: s.end("s", fence=fence),
}


async def state(store: AsyncSessionStore) -> Any:
    info = await store.info("s")
    left = await store.ttl("s", "n", "k")
    return dict(await store.get_all("s", "n")), left, info and (info.ttl, info.namespaces)


def every(fence: Any, store: AsyncSessionStore) -> list[Awaitable[Any]]:
    return [write(store, fence) for write in WRITES.values()]


async def test_a_session_knows_the_latest_token_that_wrote_to_it(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, fence=LATER)
    before = await state(store)
    await all_raise(StaleFence, *every(EARLIER, store))
    assert await state(store) == before
    await store.save("s", "n", "k", 1, fence=LATER)
    await store.save("s", "n", "k", 1)
    await store.save("s", "n", "k", 1, fence=Fence(COUNTER, LATER.token + 1))
    await all_raise(StaleFence, *every(LATER, store))


@pytest.mark.parametrize("name", [name for name in WRITES if name != "end"])
async def test_every_write_leaves_its_token(store: AsyncSessionStore, name: str) -> None:
    await store.save("s", "n", "k", 1)
    await store.save("s", "n", "stays", 1)
    await WRITES[name](store, LATER)
    await all_raise(StaleFence, *every(EARLIER, store))


@on_servers
@pytest.mark.parametrize("name", WRITES)
async def test_a_grant_counts_before_its_holder_has_written(store: AsyncSessionStore, place: Place, name: str) -> None:
    """The lock's own counter is asked too, if it is on the same server."""
    await store.save("s", "n", "k", 1)
    place.raw().set(COUNTER, LATER.token)
    before = await state(store)
    await all_raise(StaleFence, WRITES[name](store, EARLIER))
    assert await state(store) == before
    await WRITES[name](store, LATER)


@on_servers
async def test_a_holder_that_was_stopped_cannot_bring_an_ended_session_back(
    store: AsyncSessionStore, place: Place
) -> None:
    await store.save("s", "n", "k", 1, fence=EARLIER)
    place.raw().set(COUNTER, LATER.token)
    assert await store.end("s", fence=LATER) == 1
    await all_raise(
        StaleFence, store.save("s", "n", "k", 2, fence=EARLIER), store.increment("s", "n", "k", fence=EARLIER)
    )
    assert await store.info("s") is None


@on_servers
async def test_a_lately_prepared_plain_save_does_not_get_around_it(store: AsyncSessionStore, place: Place) -> None:
    for _ in range(3):
        await store.save("s", "n", "k", 1)
    place.raw().set(COUNTER, LATER.token)
    await all_raise(StaleFence, store.save("s", "n", "k", 2, fence=EARLIER))
    assert await store.load("s", "n", "k") == 1


async def test_locks_have_tokens_of_their_own(store: AsyncSessionStore) -> None:
    other = Fence("redismem:user:{42}:fence:other", 5)
    await store.save("s", "n", "k", 1, fence=LATER)
    await store.save("s", "n", "k", 2, fence=other)
    await store.save("t", "n", "k", 3, fence=EARLIER)
    await all_raise(StaleFence, store.save("s", "n", "k", 4, fence=Fence(other.name, 4)))
    assert await store.load("s", "n", "k") == 2


async def test_tokens_are_no_namespaces_and_count_for_no_limit(opened: Callable[..., AsyncMemory]) -> None:
    store = opened(max_namespaces=1, max_fields=1).sessions
    await store.save("s", "n", "k", 1, fence=LATER)
    await store.save("s", "n", "k", 2, fence=Fence("redismem:user:{ns:x}:fence:ns:x", 1))
    info = await store.info("s")
    assert info is not None
    assert info.namespaces == ("n",)
    assert await store.namespaces("s") == ["n"]
    assert await store.end("s", fence=LATER) == 1


async def test_what_was_refused_leaves_no_token(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1, user_id="u")
    await all_raise(OwnerMismatch, store.save("s", "n", "k", 2, user_id="v", fence=LATER))
    await store.save("s", "n", "k", 3, fence=EARLIER)
    assert await store.load("s", "n", "k") == 3


async def test_under_a_fence_what_is_not_there_stays_away(store: AsyncSessionStore) -> None:
    assert await store.delete("s", "n", "k", fence=LATER) is False
    assert await store.expire("s", "n", "k", 10, fence=LATER) is False
    assert await store.touch("s", 10, fence=LATER) is False
    assert await store.end("s", fence=LATER) == 0
    assert await store.info("s") is None
    assert [session_id async for session_id in store.scan()] == []


async def test_what_is_no_fence_is_an_error(store: AsyncSessionStore) -> None:
    await store.save("s", "n", "k", 1)
    for wrong in (5, "lock", object(), (COUNTER, 1), type("Lock", (), {"fence": 5})()):
        await all_raise(LockError, *every(wrong, store))
    assert dict(await store.get_all("s", "n")) == {"k": 1}


@on_servers
async def test_batches(memory: AsyncMemory) -> None:
    await memory.sessions.save("s", "n", "k", 1, fence=LATER)
    async with memory.batch() as batch:
        refused = [write(cast(Any, batch.sessions), EARLIER) for write in WRITES.values()]
        saved = [batch.sessions.save("s", "n", f"k{i}", i, fence=LATER if i % 2 else None) for i in range(4)]
        wrong = batch.sessions.save("s", "n", "k", 2, fence=cast(Any, 5))
    assert {type(cast(Any, handle).error()) for handle in refused} == {StaleFence}
    assert [handle.error() for handle in saved] == [None] * 4
    assert isinstance(wrong.error(), LockError)
    assert await memory.sessions.get_all("s", "n") == {"k": 1, "k0": 0, "k1": 1, "k2": 2, "k3": 3}


def test_a_holder_whose_lease_went_is_refused(valkey: Server) -> None:
    with Memory(valkey.url) as memory:
        first, second = memory.lock("42", wait=0), memory.lock("42", wait=5)
        assert first.acquire()
        stale = first.fence
        memory.sessions.save("s", "n", "k", "first", fence=first)
        first.release()
        with second:
            with pytest.raises(StaleFence):
                memory.sessions.save("s", "n", "k", "stale", fence=stale)
            memory.sessions.save("s", "n", "k", "second", fence=second)
        with pytest.raises(StaleFence):
            memory.transaction("s").run(lambda t: _two_saves(t, stale))
        assert memory.sessions.load("s", "n", "k") == "second"
        assert memory.sessions.namespaces("s") == ["n"]


def _two_saves(attempt: Attempt, fence: Fence) -> None:
    attempt.sessions.save("s", "m", "k", "not even this")
    attempt.sessions.save("s", "n", "k", "stale", fence=fence)
