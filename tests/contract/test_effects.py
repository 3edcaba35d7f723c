"""What is applied once, however often the link sends it: replies are lost here, and copies of calls come late."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from redismem import MISSING, AsyncMemory, AsyncSessionStore, Memory, SessionStore
from redismem.errors import LimitExceeded, OwnerMismatch, RedisMemError, Unavailable, WrongType
from redismem.link.base import Command, Link, Reply
from redismem.link.faults import Fault
from redismem.operations import Operations
from redismem.scripts import surely
from tests.contract.flavours import Place, nothing_is_left, on_servers, results
from tests.servers import Server

OPS = "redismem:session:{s}:ops"


class Lossy:
    """Loses the replies to the next `lose` calls that write, after the server has applied them; keeps the calls."""

    def __init__(self, link: Link) -> None:
        self.lose = 0
        self.calls: list[Command] = []
        self._exchange = link.exchange
        link.exchange = self.exchange  # type: ignore[method-assign]

    async def exchange(self, commands: Sequence[Command], **options: Any) -> list[Reply]:
        replies = await self._exchange(commands, **options)
        if b"NOSCRIPT" not in b"".join(str(reply).encode() for reply in replies):
            self.calls += [command for command in commands if command[0] in ("EVALSHA", "EVAL")]
            if self.lose and any(OPS in command for command in commands):
                self.lose -= 1
                raise Fault(ConnectionResetError("cut before the reply"), unsent=False)
        return replies

    async def again(self, call: Command) -> Reply:
        """A copy of a call arrives, held up on its way."""
        return (await self._exchange(list(surely([call])), fresh=False))[0]


def link_of(memory: AsyncMemory) -> Link:
    return cast(Link, getattr(memory, "blocking", memory)._link)


@pytest.fixture
def lossy(memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch) -> Lossy:
    link = link_of(memory)
    monkeypatch.setattr(link, "patience", type(link.patience)(backoff_base=0.0001, backoff_cap=0.001))
    return Lossy(link)


@pytest.fixture
def memory(opened: Callable[..., AsyncMemory]) -> AsyncMemory:
    return opened(operation_memory=60)


@pytest.fixture
def rival(place: Place, memory: AsyncMemory) -> Iterator[SessionStore]:
    rival = place.open_rival(memory, operation_memory=60)
    yield rival
    rival.close()


Effects = dict[str, tuple[Callable[[AsyncSessionStore], Awaitable[Any]], Any]]
"""What is done to {"n": 5, "text": "x", "huge": 2**62}, and what it must give."""

EFFECTS: Effects = {
    "increment": (lambda s: s.increment("s", "n", "n", 3), 8),
    "increment down": (lambda s: s.increment("s", "n", "n", -5), 0),
    "increment of nothing": (lambda s: s.increment("s", "n", "new", ttl=100), 1),
    "increment beyond what Lua counts": (lambda s: s.increment("s", "n", "huge", 2**53 + 1), 2**62 + 2**53 + 1),
    "delete": (lambda s: s.delete("s", "n", "n"), True),
    "delete of nothing": (lambda s: s.delete("s", "n", "missing"), False),
    "compare_and_set": (lambda s: s.compare_and_set("s", "n", "n", 5, {"now": 6}), True),
    "compare_and_set of another": (lambda s: s.compare_and_set("s", "n", "n", 7, 6), False),
    "compare_and_set of nothing": (lambda s: s.compare_and_set("s", "n", "new", MISSING, "AGAIN"), True),
    "update": (lambda s: s.update("s", "n", "n", lambda n: n + 1), 6),
    "end": (lambda s: s.end("s"), 3),
}
REFUSED: Effects = {
    "increment of text": (lambda s: s.increment("s", "n", "text"), WrongType),
    "increment too far": (lambda s: s.increment("s", "n", "huge", 2**62), LimitExceeded),
    "delete of another's": (lambda s: s.delete("s", "n", "n", user_id="v"), OwnerMismatch),
    "end of another's": (lambda s: s.end("s", user_id="v"), OwnerMismatch),
}


async def state(store: AsyncSessionStore) -> Any:
    return dict(await store.get_all("s", "n")), await store.namespaces("s")


async def prepared(store: AsyncSessionStore) -> None:
    await store.save_many("s", "n", {"n": 5, "text": "x", "huge": 2**62}, user_id="u")


async def outcome(call: Awaitable[Any]) -> Any:
    """The value, or the type of the error."""
    try:
        return await call
    except RedisMemError as error:
        return type(error)


@on_servers
@pytest.mark.parametrize("name", [*EFFECTS, *REFUSED])
async def test_a_lost_reply_makes_no_difference(store: AsyncSessionStore, lossy: Lossy, name: str) -> None:
    call, expected = (EFFECTS | REFUSED)[name]
    await prepared(store)
    assert await outcome(call(store)) == expected
    once = await state(store)

    await store.end("s")
    await prepared(store)
    for lost in (1, 2, 3):
        lossy.lose = lost
        assert await outcome(call(store)) == expected
        assert lossy.lose == 0, "no reply was lost"
        assert await state(store) == once
        await store.end("s")
        await prepared(store)


@on_servers
@pytest.mark.parametrize("name", [*EFFECTS, *REFUSED])
async def test_a_copy_that_comes_late_changes_nothing(
    store: AsyncSessionStore, rival: SessionStore, lossy: Lossy, name: str
) -> None:
    """Not even where what was refused then would be granted now."""
    call, _ = (EFFECTS | REFUSED)[name]
    await prepared(store)
    before = len(lossy.calls)
    await outcome(call(store))
    copies = lossy.calls[before:]
    assert copies

    rival.end("s")
    rival.save_many("s", "n", {"n": 5, "text": 1, "huge": 1, "missing": 1}, user_id="v")
    if name == "compare_and_set of another":
        rival.save("s", "n", "n", 7)
    for _ in range(3):
        then = await state(store)
        for copy in copies:
            await lossy.again(copy)
        assert await state(store) == then
        await store.increment("s", "n", "text")  # the sender goes on: now the copies are older than its latest
        await store.save("s", "n", "n", 7)


@on_servers
async def test_beyond_its_patience_a_call_was_applied_once(store: AsyncSessionStore, lossy: Lossy) -> None:
    await store.save("s", "n", "n", 5)
    lossy.lose = 4
    with pytest.raises(Unavailable, match="may have been applied"):
        await store.increment("s", "n", "n")
    assert await store.load("s", "n", "n") == 6
    assert await store.increment("s", "n", "n") == 7


@on_servers
async def test_batches(memory: AsyncMemory, lossy: Lossy) -> None:
    await memory.sessions.save("s", "n", "n", 0)
    for lost in (1, 2, 3):
        lossy.lose = lost
        async with memory.batch() as batch:
            counted = [batch.sessions.increment("s", "n", "n") for _ in range(50)]
            deleted = [batch.sessions.delete("s", "n", "n") for _ in range(2)]
            updated = [batch.sessions.update("s", "n", f"u{i}", lambda n: n + 1, default=i) for i in range(10)]
        assert results(counted) == list(range(1, 51))
        assert results(deleted) == [True, False]
        assert results(updated) == [i + lost for i in range(10)]
        assert lossy.lose == 0
    assert await memory.sessions.load("s", "n", "n") is None


@on_servers
async def test_a_session_with_an_idle_time_is_refreshed_as_a_whole(
    opened: Callable[..., AsyncMemory], place: Place
) -> None:
    """What the lost reply said of namespaces that this process does not know is made good."""
    memory, rival = opened(session_ttl=100), place.open_rival(opened(), session_ttl=100)
    lossy = Lossy(link_of(memory))
    rival.save("s", "theirs", "k", 1)
    rival.close()
    place.raw().pexpire("redismem:session:{s}:ns:theirs", 50_000)
    lossy.lose = 1
    assert await memory.sessions.increment("s", "ours", "k") == 1
    assert lossy.lose == 0
    assert place.raw().pttl("redismem:session:{s}:ns:theirs") > 90_000


# --- what is remembered ---------------------------------------------------------------------------------------------


@on_servers
async def test_as_much_is_remembered_as_goes_on_at_a_time(store: AsyncSessionStore, place: Place) -> None:
    for _ in range(20):
        await store.increment("s", "n", "k")
        await store.delete("s", "n", "other")
    assert place.raw().hlen(OPS) == 1
    if place.flavour == "async":
        await asyncio.gather(*(store.increment("s", "n", "k") for _ in range(30)))
        assert place.raw().hlen(OPS) == 30
    assert 55_000 < place.raw().pttl(OPS) <= 60_000


@on_servers
async def test_plain_writes_are_not_remembered(store: AsyncSessionStore, place: Place) -> None:
    await store.save("s", "n", "k", 1, user_id="u")
    await store.expire("s", "n", "k", 100)
    await store.touch("s", 100)
    assert not place.raw().exists(OPS)


@on_servers
async def test_many_senders_one_after_the_other_are_forgotten(store: AsyncSessionStore, place: Place) -> None:
    old = {f"sender{number}.0": "7 1000000000 1" for number in range(511)}
    place.raw().hset(OPS, mapping=cast(dict[Any, Any], old))
    await store.increment("s", "n", "k")
    assert place.raw().hlen(OPS) == 1


@on_servers
async def test_it_is_forgotten_after_its_time(opened: Callable[..., AsyncMemory], place: Place) -> None:
    store = opened(operation_memory=0.1).sessions
    await store.increment("s", "n", "k")
    await store.end("s")
    await nothing_is_left(place)


@on_servers
async def test_an_ended_session_leaves_only_this(store: AsyncSessionStore, place: Place) -> None:
    await store.increment("s", "n", "k")
    assert await store.end("s") == 1
    assert place.left_over() == [OPS.encode()]
    assert [session_id async for session_id in store.scan()] == []
    assert await store.info("s") is None


# --- ids ------------------------------------------------------------------------------------------------------------


def test_ids_of_what_goes_on_at_a_time_differ_and_generations_grow() -> None:
    operations = Operations(1.5)
    with operations.one("increment") as (first, early, memory), operations.one("increment") as (second, later, _):
        assert first != second
        assert cast(int, early) < cast(int, later)
        assert memory == 1500
    with operations.one("increment") as (again, latest, _):
        assert again in (first, second)
        assert cast(int, latest) > cast(int, later)


def test_two_memories_are_two_clients(valkey: Server) -> None:
    with Memory(valkey.url) as one, Memory(valkey.url) as other:
        for memory in (one, other, one):
            memory.sessions.increment("s", "n", "k")
        assert one.sessions.load("s", "n", "k") == 3


def test_a_forked_child_is_another_client(valkey: Server) -> None:
    """Both go on counting from the same generation; neither is taken for the other."""
    with Memory(valkey.url) as memory:
        memory.sessions.increment("s", "n", "k")
        children = [_forked(memory.sessions) for _ in range(3)]
        for _ in range(50):
            memory.sessions.increment("s", "n", "k")
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
        assert memory.sessions.load("s", "n", "k") == 201


def _forked(sessions: SessionStore) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(50):
                sessions.increment("s", "n", "k")
            status = 0
        finally:
            os._exit(status)
    return child


@on_servers
async def test_sums_are_exact_at_every_size(store: AsyncSessionStore, lossy: Lossy) -> None:
    for edge in (10**14, 2**53, 2**63 - 1):
        for start in (edge - 3, -edge):
            await store.save("s", "n", "k", start)
            for step in range(1, 4):
                lossy.lose = 1
                assert await store.increment("s", "n", "k") == start + step
