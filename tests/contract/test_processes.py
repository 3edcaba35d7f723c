"""Several processes on one session: what each of them learned must never outlive what the others do.

`store` is one process, `rival` another one. A process remembers for a moment what it learned of a session that it
wrote to, so these bodies do not wait: whatever the rival does happens within that moment.
"""

from collections.abc import Callable
from typing import Any

import pytest

from redismem import AsyncMemory, AsyncSessionStore, SessionStore
from redismem.errors import OwnerMismatch
from tests.contract.flavours import SOON, Place, gone, nothing_is_left, on_servers, once_on_each_server, scanned


@on_servers
async def test_each_sees_what_the_other_writes(store: AsyncSessionStore, rival: SessionStore) -> None:
    for number in range(10):
        await store.save("s", "n", "k", number)
        assert rival.load("s", "n", "k") == number
        rival.save("s", "n", "k", -number, ttl=100)
        assert await store.load("s", "n", "k") == -number
        assert await store.ttl("s", "n", "k") is not None
        assert await store.increment("s", "m", "k") == number * 2 + 1
        assert rival.increment("s", "m", "k") == number * 2 + 2
        assert await store.delete("s", "n", "k") is True
        assert rival.delete("s", "n", "k") is False


@on_servers
async def test_a_session_that_the_other_ended_begins_anew(
    place: Place, store: AsyncSessionStore, rival: SessionStore
) -> None:
    await store.save("s", "n", "old", 1, user_id="u")
    await store.save("s", "n", "old", 1)
    assert rival.end("s") == 1
    await store.save("s", "n", "new", 2)
    info = await store.info("s")
    assert info is not None
    assert (info.user_id, info.namespaces, info.ttl) == (None, ("n",), None)
    assert await scanned(store) == ["s"]
    assert rival.get_all("s", "n") == {"new": 2}
    assert rival.end("s") == 1
    await nothing_is_left(place)


@on_servers
async def test_end_knows_the_namespaces_of_the_other(
    place: Place, store: AsyncSessionStore, rival: SessionStore
) -> None:
    await store.save("s", "mine", "k", 1)
    rival.save("s", "theirs", "k", 1)
    rival.save_many("s", "theirs too", {"a": 1, "b": 2})
    assert await store.end("s") == 4
    await nothing_is_left(place)


@once_on_each_server
async def test_touch_knows_the_namespaces_of_the_other(
    place: Place, store: AsyncSessionStore, rival: SessionStore
) -> None:
    await store.save("s", "mine", "k", 1)
    rival.save("s", "theirs", "k", 1)
    await store.touch("s", SOON)
    await nothing_is_left(place)


@once_on_each_server
async def test_an_idle_session_ends_with_the_namespaces_of_the_other(
    place: Place, opened: Callable[..., AsyncMemory]
) -> None:
    memory = opened(session_ttl=SOON * 4)
    rival: Any = place.open_rival(memory, session_ttl=SOON * 4)
    await memory.sessions.save("s", "mine", "k", 1)
    rival.save("s", "theirs", "k", 1)
    await memory.sessions.save("s", "mine", "k", 2)
    await nothing_is_left(place)
    rival.close()


@once_on_each_server
async def test_an_end_that_the_other_set_holds(place: Place, store: AsyncSessionStore, rival: SessionStore) -> None:
    await store.save("s", "n", "k", 1)
    rival.touch("s", SOON * 4)
    await store.save("s", "n", "later", 2)
    await store.save("s", "n", "later too", 2, ttl=100)
    await store.save("s", "new", "k", 2)
    await nothing_is_left(place)


@once_on_each_server
async def test_an_end_that_the_other_set_holds_for_a_namespace_that_was_empty(
    place: Place, store: AsyncSessionStore, rival: SessionStore
) -> None:
    await store.save("s", "n", "k", 1)
    rival.expire("s", "n", "k", SOON)
    rival.touch("s", SOON * 6)
    await gone(store, "k")
    await store.save("s", "n", "later", 2)
    await nothing_is_left(place)


@once_on_each_server
async def test_an_end_that_the_other_set_holds_for_a_namespace_that_it_deleted(
    place: Place, store: AsyncSessionStore, rival: SessionStore
) -> None:
    await store.save("s", "n", "k", 1)
    rival.delete("s", "n", "k")
    rival.touch("s", SOON * 4)
    await store.save("s", "n", "later", 2)
    await nothing_is_left(place)


@on_servers
async def test_a_session_that_the_other_began_anew_is_its_session(
    store: AsyncSessionStore, rival: SessionStore
) -> None:
    """The rival's session ends soon by itself; what is written to it for ever keeps it."""
    await store.save("s", "n", "k", 1)
    rival.end("s")
    rival.save("s", "n", "theirs", 1, ttl=100)
    await store.save("s", "n", "mine", 1)
    info = await store.info("s")
    assert info is not None
    assert info.ttl is None


@on_servers
async def test_a_session_that_the_other_claimed_is_not_ours(store: AsyncSessionStore, rival: SessionStore) -> None:
    await store.save("s", "n", "k", 1)
    rival.save("s", "n", "k", 2, user_id="rival")
    with pytest.raises(OwnerMismatch):
        await store.save("s", "n", "k", 3, user_id="us")
    assert await store.load("s", "n", "k", user_id="rival") == 2
