"""Reads from process memory: what they cost, how long they may be wrong, and when nothing is served from there."""

import asyncio
import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import redis

from redismem import MISSING, AsyncMemory, Memory, Stats
from redismem.cache import reads
from redismem.errors import DecodeError, LinkClosed, OwnerMismatch, RedisMemError
from redismem.link.base import Command, Link
from redismem.op import run
from tests.contract.flavours import Place, eventually, on_real_servers, on_valkey
from tests.servers import Server

Open = Callable[..., AsyncMemory]
Change = Callable[[Any], Any]

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

HASH = "redismem:session:{s}:ns:n"
BEFORE = {"k": 1, "l": {"deep": [1]}, "gone": 3}


def l1_of(memory: AsyncMemory) -> Any:
    stats: Stats = memory.stats()
    assert stats.l1 is not None
    return stats.l1


def reads_of(memory: AsyncMemory) -> Any:
    return cast(Any, memory if isinstance(memory, AsyncMemory) else cast(Any, memory).blocking)._shared.l1


async def listening(memory: AsyncMemory) -> AsyncMemory:
    """Wait until L1 is in use."""

    async def is_listening() -> bool:
        await memory.sessions.load("nobody", "n", "k")
        return bool(l1_of(memory).listening)

    await eventually(is_listening)
    return memory


async def warm(memory: AsyncMemory) -> None:
    """Have all of the namespace in L1, in each form."""
    await memory.sessions.get_all("s", "n")
    await memory.sessions.load_many("s", "n", ["k", "l", "missing"])
    for key in (*BEFORE, "missing"):
        await memory.sessions.load("s", "n", key)


async def seen(memory: AsyncMemory, **how: Any) -> list[Any]:
    """All that L1 could say of the namespace."""
    sessions = memory.sessions
    return [
        [await sessions.load("s", "n", key, **how) for key in (*BEFORE, "missing")],
        await sessions.load_many("s", "n", ["l", "k", "missing"], **how),
        await sessions.get_all("s", "n", **how),
    ]


def round_trips(memory: AsyncMemory) -> int:
    stats: Stats = memory.stats()
    return stats.round_trips


@pytest.fixture
async def tracking(opened: Open) -> AsyncMemory:
    """A memory that the server tells of changes, and three values on the server."""
    memory = await listening(opened(coherence="tracking"))
    await memory.sessions.save_many("s", "n", BEFORE)
    return memory


# --- hits -------------------------------------------------------------------------------------------------------------


@on_real_servers
async def test_what_was_read_once_is_read_from_memory(tracking: AsyncMemory) -> None:
    await eventually(lambda: quiet(tracking))
    await warm(tracking)
    before, hits = round_trips(tracking), l1_of(tracking).hits
    for _ in range(3):
        assert await seen(tracking) == [[1, {"deep": [1]}, 3, None], {"l": {"deep": [1]}, "k": 1}, BEFORE]
        assert await tracking.sessions.load("s", "n", "missing", MISSING) is MISSING
    assert round_trips(tracking) == before
    assert l1_of(tracking).hits == hits + 21


async def quiet(memory: AsyncMemory) -> bool:
    """Whether the server has told of our own last write, so that what is read now stays."""
    await memory.sessions.load("s", "n", "k")
    await asyncio.sleep(0.02)
    before = round_trips(memory)
    await memory.sessions.load("s", "n", "k")
    return round_trips(memory) == before


@on_real_servers
async def test_nobody_can_change_anothers_copy(tracking: AsyncMemory) -> None:
    await eventually(lambda: quiet(tracking))
    await warm(tracking)
    for _ in range(2):
        (await tracking.sessions.load("s", "n", "l"))["deep"].append(2)
        everything = await tracking.sessions.get_all("s", "n")
        everything["l"]["deep"].append(3)
        del everything["k"]
    assert await tracking.sessions.get_all("s", "n") == BEFORE


@on_real_servers
async def test_fresh_asks_the_server_and_tells_l1(tracking: AsyncMemory) -> None:
    await eventually(lambda: quiet(tracking))
    await warm(tracking)
    before = round_trips(tracking)
    assert await seen(tracking, fresh=True) == [[1, {"deep": [1]}, 3, None], {"l": {"deep": [1]}, "k": 1}, BEFORE]
    assert round_trips(tracking) == before + 6


@on_real_servers
async def test_a_user_is_checked_every_time(tracking: AsyncMemory) -> None:
    await tracking.sessions.save("s", "n", "k", 1, user_id="ann")
    await warm(tracking)
    bypassed = l1_of(tracking).bypassed
    for _ in range(2):
        assert await tracking.sessions.load("s", "n", "k", user_id="ann") == 1
        for reading in (
            tracking.sessions.load("s", "n", "k", user_id="bob"),
            tracking.sessions.load_many("s", "n", ["k"], user_id="bob"),
            tracking.sessions.get_all("s", "n", user_id="bob"),
        ):
            with pytest.raises(OwnerMismatch):
                await reading
    assert l1_of(tracking).bypassed == bypassed + 8


@on_real_servers
async def test_what_cannot_be_read_says_so_every_time(place: Place, tracking: AsyncMemory) -> None:
    place.raw().hset(HASH, "bad", b"\x00")
    for _ in range(3):
        with pytest.raises(DecodeError, match=r"redismem:session:\{s\}:ns:n\[bad\]"):
            await tracking.sessions.load("s", "n", "bad")
        assert set((await tracking.sessions.get_all("s", "n")).unreadable) == {"bad"}


@on_valkey
async def test_names_are_checked_every_time(tracking: AsyncMemory) -> None:
    await warm(tracking)
    for session_id, namespace, key in ((1, "n", "k"), (["s"], "n", "k"), ("s", "", "k"), ("s", "n", b"k")):
        with pytest.raises(RedisMemError):
            await tracking.sessions.load(cast(str, session_id), namespace, cast(str, key))


@pytest.mark.parametrize("place", ["sync-valkey9"], indirect=True)  # it takes seconds
async def test_reading_is_activity_where_that_is_wished_for(opened: Open) -> None:
    memory = await listening(opened(coherence="tracking", session_ttl=1.0, refresh_on_read=True))
    await memory.sessions.save("s", "n", "k", 1)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert await memory.sessions.load("s", "n", "k") == 1
        await asyncio.sleep(0.02)
    assert l1_of(memory).hits > 20


# --- one's own writes -------------------------------------------------------------------------------------------------


async def batched_save(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        batch.sessions.save("s", "n", "k", 2)
        batch.sessions.delete("s", "n", "gone")


async def transacted(memory: AsyncMemory) -> None:
    if not isinstance(memory, AsyncMemory):
        with cast(Any, memory).blocking.transaction("s") as transaction:
            transaction.sessions.save("s", "n", "k", transaction.sessions.load("s", "n", "k") + 1)
        return
    async with memory.transaction("s") as asynchronous:
        asynchronous.sessions.save("s", "n", "k", await asynchronous.sessions.load("s", "n", "k") + 1)


async def cut_short(memory: AsyncMemory) -> None:
    """A write that raises; it may have been applied."""
    with pytest.raises(ZeroDivisionError):
        await memory.sessions.update("s", "n", "k", lambda value: value / 0)
    await memory.sessions.save("s", "n", "k", 2)


CHANGES: dict[str, Change] = {
    "save": lambda memory: memory.sessions.save("s", "n", "k", 2),
    "save with ttl": lambda memory: memory.sessions.save("s", "n", "k", 2, ttl=100),
    "save_many": lambda memory: memory.sessions.save_many("s", "n", {"k": 2, "missing": 1}),
    "save for a user": lambda memory: memory.sessions.save("s", "n", "k", 2, user_id="ann"),
    "delete": lambda memory: memory.sessions.delete("s", "n", "gone"),
    "increment": lambda memory: memory.sessions.increment("s", "n", "k"),
    "compare_and_set": lambda memory: memory.sessions.compare_and_set("s", "n", "k", 1, 2),
    "update": lambda memory: memory.sessions.update("s", "n", "k", lambda value: value + 1),
    "expire": lambda memory: memory.sessions.expire("s", "n", "k", 0.001),
    "touch": lambda memory: memory.sessions.touch("s", 0.001),
    "end": lambda memory: memory.sessions.end("s"),
    "batch": batched_save,
    "transaction": transacted,
    "an error": cut_short,
}


@on_real_servers
@pytest.mark.parametrize("mode", ["tracking", "ttl"])
async def test_a_process_reads_what_it_has_written(opened: Open, mode: str) -> None:
    memory = opened(coherence=mode)
    if mode == "tracking":
        await listening(memory)
    for name, change in CHANGES.items():
        for _ in range(2):  # the second write is a plain one
            await memory.sessions.save_many("s", "n", BEFORE)
            await warm(memory)
            await change(memory)
            if name in ("expire", "touch"):
                await asyncio.sleep(0.005)
            now = await seen(memory)
            assert now == await seen(memory, fresh=True), name
            assert now[2] != BEFORE, name


@on_valkey
async def test_a_read_that_was_under_way_during_a_write_is_not_kept(tracking: AsyncMemory) -> None:
    sessions = tracking.sessions
    with overtaken(reads_of(tracking).link, lambda: write(tracking, 2)):
        assert await sessions.load("s", "n", "k", fresh=True) == 1
    assert await sessions.load("s", "n", "k") == 2


def write(memory: AsyncMemory, value: int) -> None:
    """A write of this very process, in the middle of its own read."""
    with Memory(memory.settings if isinstance(memory, AsyncMemory) else cast(Any, memory).blocking.settings) as other:
        other.sessions.save("s", "n", "k", value)
    reads_of(memory).drop(HASH)


@contextmanager
def overtaken(link: Link, then: Callable[[], object]) -> Iterator[None]:
    """The next exchange's replies are held back until something else has happened."""
    exchange = link.exchange

    async def late(commands: list[Command], **how: Any) -> list[Any]:
        cast(Any, link).exchange = exchange
        replies = await exchange(commands, **how)
        then()
        return replies

    cast(Any, link).exchange = late
    yield
    assert link.exchange == exchange, "nothing was read"


# --- others' writes ---------------------------------------------------------------------------------------------------


@on_real_servers
async def test_others_changes_are_told(tracking: AsyncMemory, opened: Open) -> None:
    other = opened()
    for name, change in CHANGES.items():
        await tracking.sessions.save_many("s", "n", BEFORE)
        await warm(tracking)
        await change(other)

        async def told() -> bool:
            now = await seen(tracking)
            return now[2] != BEFORE and now == await seen(other)

        assert await eventually(told), name


BY_HAND: dict[str, Callable[[redis.Redis], object]] = {
    "HSET": lambda raw: raw.hset(HASH, "k", 2),
    "HINCRBY": lambda raw: raw.hincrby(HASH, "k", 1),
    "HDEL": lambda raw: raw.hdel(HASH, "k"),
    "DEL": lambda raw: raw.delete(HASH),
    "PEXPIRE": lambda raw: raw.pexpire(HASH, 1),
    "RENAME": lambda raw: raw.rename(HASH, "elsewhere"),
    "FLUSHALL": lambda raw: raw.flushall(),
    "FLUSHDB": lambda raw: raw.flushdb(),
}


@on_real_servers
async def test_what_is_changed_by_hand_is_told(place: Place, tracking: AsyncMemory) -> None:
    for name, change in BY_HAND.items():
        await tracking.sessions.save_many("s", "n", BEFORE)
        await warm(tracking)
        change(place.raw())

        async def told() -> bool:
            now = await seen(tracking)
            return now[2] != BEFORE and now == await seen(tracking, fresh=True)

        assert await eventually(told), name


@on_real_servers
async def test_deadlines_kept_beside_the_fields_are_told_of_too(place: Place, tracking: AsyncMemory) -> None:
    await tracking.sessions.save_many("s", "n", {"k": 1}, ttl=100)
    await warm(tracking)
    raw = place.raw()
    if raw.exists("redismem:session:{s}:ttl:n"):
        raw.zadd("redismem:session:{s}:ttl:n", {"k": time.time() * 1000 + 1})
    else:
        raw.execute_command("HPEXPIRE", HASH, 1, "FIELDS", 1, "k")

    async def gone() -> bool:
        return await tracking.sessions.load("s", "n", "k") is None

    await eventually(gone)


@on_valkey
async def test_a_reply_that_a_notice_has_overtaken_is_not_kept(place: Place, tracking: AsyncMemory) -> None:
    """The race that caches lose: read, changed, told, and only then the reply arrives."""
    raw, l1 = place.raw(), reads_of(tracking).l1
    for number in range(2, 50):
        told = l1.invalidations

        def change(number: int = number, told: int = told) -> None:
            raw.hset(HASH, "k", number)
            wait_until(lambda: l1.invalidations > told)

        with overtaken(reads_of(tracking).link, change):
            await tracking.sessions.load("s", "n", "k", fresh=True)
        assert await tracking.sessions.load("s", "n", "k") == number


def wait_until(condition: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@on_valkey
async def test_a_notice_comes_also_when_we_write_at_the_same_moment(place: Place, tracking: AsyncMemory) -> None:
    """NOLOOP would drop the notice of a foreign write that meets one of ours in one turn of the server's loop."""
    raw, blocking = place.raw(), Memory(cast(Server, place.server).url)
    with blocking:
        blocking.sessions.load("s", "n", "k")
        for number in range(2, 12):
            await warm(tracking)
            raw.execute_command("CLIENT", "PAUSE", 100_000, "WRITE")
            foreign = threading.Thread(target=blocking.sessions.save, args=("s", "n", "k", number))
            foreign.start()
            own = asyncio.create_task(in_thread(tracking, lambda s: s.save("s", "n", "l", number)))  # noqa: B023
            await asyncio.sleep(0.02)
            raw.execute_command("CLIENT", "UNPAUSE")
            await own
            foreign.join()

            async def told(number: int = number) -> bool:
                return await tracking.sessions.load("s", "n", "k") == number

            await eventually(told)


async def in_thread(memory: AsyncMemory, call: Callable[[Any], Any]) -> Any:
    """A call that does not hold the test up, in both flavours."""
    if isinstance(memory, AsyncMemory):
        return await call(memory.sessions)
    return await asyncio.to_thread(call, cast(Any, memory).blocking.sessions)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["valkey9", "valkey9-nohsetex", "redis70", "redis62"])
async def test_nothing_is_served_past_its_deadline_although_the_server_is_slow_to_forget(
    name: str, new_server: Callable[..., Server]
) -> None:
    words = () if name == "redis62" else ("--enable-debug-command", "yes")
    server = new_server(name, *words)
    with redis.Redis(port=server.port) as raw:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    async with AsyncMemory(server.url, coherence="tracking") as memory:
        await listening(memory)
        sessions = memory.sessions
        life = 0.2
        began = time.monotonic()
        await sessions.save_many("s", "n", {"k": 1, "l": 2}, ttl=life)
        await sessions.save("s", "n", "stays", 3)
        while (now := time.monotonic()) < began + life + 0.1:
            loaded, everything = await sessions.load("s", "n", "k"), await sessions.get_all("s", "n")
            if now >= began + life + 0.02:  # by then the server's own clock has passed it too
                assert (loaded, everything) == (None, {"stays": 3})
        await sessions.save("s", "n", "k", 1)
        await sessions.touch("s", life)
        ended = time.monotonic() + life
        await warm(memory)
        while time.monotonic() < ended + 0.02:
            await seen(memory)
        assert await seen(memory) == [[None] * 4, {}, {}]
        assert l1_of(memory).hits > 20


@on_valkey
async def test_in_mode_ttl_a_value_is_read_again_after_its_time(place: Place, opened: Open) -> None:
    memory = opened(coherence="ttl", l1_ttl=0.3)
    await memory.sessions.save("s", "n", "k", 1)
    began = time.monotonic()
    assert await memory.sessions.load("s", "n", "k") == 1
    place.raw().hset(HASH, "k", 2)
    assert await memory.sessions.load("s", "n", "k") == 1 or time.monotonic() > began + 0.2
    while await memory.sessions.load("s", "n", "k") == 1:
        assert time.monotonic() < began + 20
    assert l1_of(memory).listening is False


@on_valkey
async def test_what_is_outdated_is_served_while_it_is_read_again(place: Place, opened: Open) -> None:
    memory = opened(coherence="ttl", l1_ttl=0.05, l1_stale_while_revalidate=60)
    await memory.sessions.save_many("s", "n", {"k": 1})
    assert await memory.sessions.get_all("s", "n") == {"k": 1}
    await asyncio.sleep(0.06)
    place.raw().hset(HASH, "k", 2)
    values = await memory.sessions.get_all("s", "n")
    assert values == {"k": 1}
    assert values.stale_for is not None
    assert 0 < values.stale_for < 60
    assert l1_of(memory).stale_served == 1

    async def read_again() -> bool:
        return await memory.sessions.load("s", "n", "k") == 2

    await eventually(read_again)


# --- one read for many ------------------------------------------------------------------------------------------------


def slowly(link: Link, seconds: float = 0.2) -> list[int]:
    """Every exchange of this link takes its time; how many there were."""
    exchange, count = link.exchange, [0]

    async def slow(commands: list[Command], **how: Any) -> list[Any]:
        count[0] += 1
        replies = await exchange(commands, **how)
        await link.sleep(seconds)
        return replies

    cast(Any, link).exchange = slow
    return count


@on_valkey
async def test_many_who_want_the_same_make_one_read(tracking: AsyncMemory) -> None:
    await eventually(lambda: quiet(tracking))
    count = slowly(reads_of(tracking).link)
    reads_of(tracking).l1.flush()
    calls = [in_thread(tracking, lambda s: s.load("s", "n", "k")) for _ in range(4)]
    assert await asyncio.gather(*calls) == [1] * 4
    assert count == [1]
    assert l1_of(tracking).joined == 3


async def test_a_leader_that_is_cancelled_or_fails_fails_nobody_else(valkey: Server) -> None:
    async with AsyncMemory(valkey.url, coherence="tracking") as memory:
        await memory.sessions.save("s", "n", "k", 1)
        await listening(memory)
        await eventually(lambda: quiet(memory))
        count = slowly(reads_of(memory).link)
        reads_of(memory).l1.flush()
        leader = asyncio.create_task(memory.sessions.load("s", "n", "k"))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(memory.sessions.load("s", "n", "k")) for _ in range(10)]
        await asyncio.sleep(0.05)
        leader.cancel()
        assert await asyncio.gather(*others) == [1] * 10
        assert count == [2]

        reads_of(memory).l1.flush()
        link, exchange = reads_of(memory).link, reads_of(memory).link.exchange
        left = [1]

        async def fails(commands: list[Command], **how: Any) -> list[Any]:
            await asyncio.sleep(0.1)
            left[0] -= 1
            if left[0] == 0:
                raise RedisMemError("mine")
            return cast(list[Any], await exchange(commands, **how))

        link.exchange = fails
        answers = await asyncio.gather(*(memory.sessions.load("s", "n", "k") for _ in range(5)), return_exceptions=True)
        assert sorted(map(str, answers)) == ["1"] * 4 + ["mine"]


# --- when nobody tells ------------------------------------------------------------------------------------------------


@on_real_servers
async def test_a_listener_that_is_cut_off_is_back_soon_and_nothing_is_stale(
    place: Place, tracking: AsyncMemory
) -> None:
    raw = place.raw()
    for number in range(2, 6):
        await warm(tracking)
        for client in cast(list[dict[str, str]], raw.client_list()):
            if client.get("resp") == "3" or "t" in client["flags"]:
                raw.client_kill_filter(_id=client["id"])
        raw.hset(HASH, "k", number)
        wait_until(lambda: not reads_of(tracking).l1.entries or l1_of(tracking).listening)

        async def told(number: int = number) -> bool:
            return await tracking.sessions.load("s", "n", "k") == number

        await eventually(told)
        await listening(tracking)
        assert await tracking.sessions.load("s", "n", "k") == number


@on_valkey
async def test_nothing_is_served_while_nobody_answers_the_listener(place: Place, opened: Open) -> None:
    """The process was stopped, the network swallows everything: whatever it is, the bound holds by the clock."""
    memory = await listening(opened(coherence="tracking", coherence_bound=0.3))
    await memory.sessions.save_many("s", "n", BEFORE)
    await eventually(lambda: quiet(memory))
    l1 = reads_of(memory).l1
    with silenced(reads_of(memory)):
        wait_until(lambda: reads.clock() >= l1.good_until)
        before = round_trips(memory)
        assert await memory.sessions.load("s", "n", "k") == 1
        assert round_trips(memory) == before + 1
    await listening(memory)
    assert await memory.sessions.load("s", "n", "k") == 1


@contextmanager
def silenced(of: Any) -> Iterator[None]:
    """The listener's thread stands still."""
    go = threading.Event()
    of._listener._loop.call_soon_threadsafe(go.wait)
    try:
        yield
    finally:
        go.set()


@on_valkey
async def test_a_memory_that_nobody_listens_for_any_more_is_not_kept_alive(place: Place, opened: Open) -> None:
    memory = await listening(opened(coherence="tracking"))
    assert "redismem-listener" in {thread.name for thread in threading.enumerate()}
    await memory.aclose()
    assert not reads_of(memory)._listener._thread.is_alive()
    forgotten = Memory(cast(Server, place.server).url, coherence="tracking")
    forgotten.sessions.load("s", "n", "k")
    thread = cast(Any, forgotten)._shared.l1._listener._thread
    del forgotten
    gc.collect()
    wait_until(lambda: not thread.is_alive())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_listens_for_itself(valkey: Server) -> None:
    with Memory(valkey.url, coherence="tracking") as memory:
        memory.sessions.save("s", "n", "k", 1)
        wait_until(lambda: memory.sessions.load("s", "n", "k") == 1 and memory.stats().l1.listening)  # type: ignore[union-attr]
        memory.sessions.load("s", "n", "k")
        child = os.fork()
        if not child:
            failed = 1
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # rather than hang for ever, with the files of its parent
            try:
                assert memory.stats().l1 == reads.L1Stats(*[0] * 9, listening=False)
                memory.sessions.save("s", "n", "k", 2)
                assert memory.sessions.load("s", "n", "k") == 2
                wait_until(lambda: memory.sessions.load("s", "n", "k") == 2 and memory.stats().l1.listening)  # type: ignore[union-attr]
                assert memory.sessions.load("s", "n", "k") == 2
                memory.close()
                failed = 0
            finally:
                os._exit(failed)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        wait_until(lambda: memory.sessions.load("s", "n", "k") == 2)
        assert memory.stats().l1.listening  # type: ignore[union-attr]


async def test_a_server_that_does_not_tell_is_asked_again_within_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncMemory("memory://", coherence="tracking", coherence_bound=0.2) as memory:
        await memory.sessions.save("s", "n", "k", 1)
        await memory.sessions.load("s", "n", "k")
        wait_until(lambda: reads_of(memory).l1.good_until == math.inf)
        assert await memory.sessions.load("s", "n", "k") == await memory.sessions.load("s", "n", "k") == 1
        assert l1_of(memory).hits >= 1
        assert not l1_of(memory).listening
        assert max(entry.until for entry in reads_of(memory).l1._main + reads_of(memory).l1._small) < (
            reads.clock() + 0.2
        )
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not tell of changes" in caplog.text


@pytest.mark.parametrize("allowed", [True, False])
def test_a_user_who_may_not_track(allowed: bool, valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    rules = ["on", ">secret", "~redismem:*", "+@all", *([] if allowed else ["-client|tracking"])]
    with redis.Redis(port=valkey.port) as raw:
        raw.execute_command("ACL", "SETUSER", "listener", "reset", *rules)
        try:
            url = f"redis://listener:secret@127.0.0.1:{valkey.port}/0"
            with Memory(url, coherence="tracking", coherence_bound=0.1) as memory:
                memory.sessions.load("s", "n", "k")
                wait_until(lambda: cast(Any, memory)._shared.l1.l1.good_until > 0)
                assert memory.stats().l1.listening is allowed  # type: ignore[union-attr]
                assert ("CLIENT TRACKING" in caplog.text) is not allowed
        finally:
            raw.execute_command("ACL", "DELUSER", "listener")


# --- when the server is away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tracking", "ttl"])
async def test_the_last_known_copy_when_the_server_is_away(
    mode: str, new_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server("valkey9")
    settings: dict[str, Any] = {"coherence": mode, "l1_fail_safe": 60, "retries": 0, "l1_ttl": 0.2}
    async with AsyncMemory(server.url, **settings) as memory, AsyncMemory(server.url, retries=0) as plain:
        sessions = memory.sessions
        await sessions.save_many("s", "n", BEFORE)
        await sessions.save("s", "n", "short", 4, ttl=1)
        await sessions.save("s", "m", "deleted", 5)
        if mode == "tracking":
            await listening(memory)
        saved = time.monotonic()
        everything = await sessions.get_all("s", "n")
        assert everything == BEFORE | {"short": 4}
        assert everything.stale_for is None
        assert await sessions.load("s", "n", "missing") is None
        await sessions.load("s", "m", "deleted")
        await sessions.delete("s", "m", "deleted")
        server.kill()
        with pytest.raises(RedisMemError):
            await plain.sessions.load("s", "n", "k")
        await asyncio.sleep(0.3)
        caplog.clear()
        assert await sessions.load("s", "n", "k") == 1
        assert await sessions.load("s", "n", "missing", MISSING) is MISSING
        values = await sessions.load_many("s", "n", ["k", "l"])
        assert values == {"k": 1, "l": {"deep": [1]}}
        assert values.stale_for is not None
        assert 0.2 < values.stale_for < 60
        copy = sessions.last_known("s", "n", "k")
        assert copy is not None
        assert (copy.value, copy.stale) == (1, True)
        assert 0.2 < copy.age < 60
        for lost in (sessions.load("s", "m", "deleted"), sessions.load("s", "n", "k", fresh=True)):
            with pytest.raises(RedisMemError):
                await lost
        await asyncio.sleep(max(0.0, saved + 1.1 - time.monotonic()))
        with pytest.raises(RedisMemError):
            await sessions.get_all("s", "n")  # one of its values has expired
        assert await sessions.load("s", "n", "gone") == 3
        assert l1_of(memory).stale_served == 4
        assert sum("last known" in record.message for record in caplog.records) == 1
        server.start()

        async def is_back() -> bool:
            return await sessions.load("s", "n", "k") is None

        await eventually(is_back)


async def test_without_fail_safe_an_outage_is_an_error(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9")
    async with AsyncMemory(server.url, coherence="tracking", retries=0) as memory:
        await memory.sessions.save("s", "n", "k", 1)
        await listening(memory)
        await memory.sessions.load("s", "n", "k")
        assert memory.sessions.last_known("s", "n", "k") is not None
        server.kill()
        wait_until(lambda: not l1_of(memory).listening)
        with pytest.raises(RedisMemError):
            await memory.sessions.load("s", "n", "k")
        assert memory.sessions.last_known("s", "n", "k") is None


def test_without_coherence_there_is_no_l1(valkey: Server) -> None:
    with Memory(valkey.url) as memory:
        memory.sessions.save("s", "n", "k", 1)
        for _ in range(2):
            before = memory.stats().round_trips
            assert memory.sessions.load("s", "n", "k") == 1
            assert memory.stats().round_trips == before + 1
        assert memory.stats().l1 is None
        assert memory.sessions.last_known("s", "n", "k") is None
        assert run(memory._link.shards())


@on_real_servers
@pytest.mark.parametrize("coherence", ["tracking", "ttl"])
async def test_another_memory_of_the_process_writes(opened: Open, place: Place, coherence: str) -> None:
    """What any of a process' memories wrote, all of them read."""
    reader, writer = opened(coherence=coherence), opened()
    for number in range(200):
        await reader.sessions.load("s", "n", "k")
        await writer.sessions.save("s", "n", "k", number)
        assert await reader.sessions.load("s", "n", "k") == number


@on_valkey
@pytest.mark.parametrize("coherence", ["tracking", "ttl"])
async def test_nothing_is_served_after_the_end(opened: Open, coherence: str) -> None:
    memory = opened(coherence=coherence, coherence_bound=60)
    await memory.sessions.save("s", "n", "k", 1)
    for _ in range(3):
        await memory.sessions.load("s", "n", "k")
    await memory.aclose()
    with pytest.raises(LinkClosed):
        await memory.sessions.load("s", "n", "k")
    with pytest.raises(LinkClosed):
        await memory.sessions.get_all("s", "n")
