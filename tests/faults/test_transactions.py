"""What transactions go through: fields that expire all the time, connections that break, cancellations, full servers.

`REDISMEM_LONG=1` makes each of these last for minutes instead of half a second.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.coordination.transaction import Attempt, ReadLink
from redismem.errors import Conflict, LinkError, OutOfMemory, Unavailable
from tests.clusters import Cluster, ask
from tests.conftest import CI
from tests.faults.figures import LONG, Figures
from tests.servers import Missing, Server

SECONDS = 60.0 if LONG else 0.5

servers = pytest.mark.parametrize("server", ["valkey9", "valkey9-nohsetex", "redis70", "redis62"], indirect=True)
expiring = pytest.mark.parametrize("name", ["valkey9", "valkey9-nohsetex"])


@contextmanager
def meanwhile(step: Callable[[], Any]) -> Iterator[None]:
    """Repeat a step in another thread for as long as the block runs. What it raises is raised at the end."""
    over, failed = threading.Event(), list[Exception]()

    def repeat() -> None:
        try:
            while not over.is_set():
                step()
        except Exception as error:  # told in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


@pytest.fixture
def aborted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One item for each EXEC that the server aborted."""
    applied, found = ReadLink.apply, list[None]()

    async def apply(*arguments: Any) -> Any:
        reply = await applied(*arguments)
        if reply is None:
            found.append(reply)
        return reply

    monkeypatch.setattr(ReadLink, "apply", apply)
    return found


# --- expiry ---------------------------------------------------------------------------------------------------------


@expiring
@pytest.mark.parametrize("read", ["load", "get_all"])
def test_fields_that_expire_meanwhile_are_no_conflict(
    new_server: Callable[..., Server], name: str, read: str, aborted: list[None]
) -> None:
    """Each transaction takes far longer than the time between two expiries, and each gets through at once."""
    server = new_server(name)
    with Memory(server.url) as memory:
        sessions = memory.sessions
        sessions.save("s", "n", "count", 0)
        with memory.batch() as batch:
            for i in range(round(1000 * SECONDS)):  # one ends every millisecond or so
                batch.sessions.save("s", "n", f"brief{i}", i, ttl=0.1 + i / 1000)
        began, calls = time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            with memory.transaction("s") as t:
                everything = t.sessions.get_all("s", "n") if read == "get_all" else {}
                count = everything.get("count", t.sessions.load("s", "n", "count"))
                time.sleep(0.02)
                t.sessions.save("s", "n", "count", count + 1)
            calls += 1
        assert sessions.load("s", "n", "count") == calls
    assert aborted, "the server did notice that fields had expired"


@expiring
def test_no_rate_of_expiry_is_too_high(
    new_server: Callable[..., Server], figure: Figures, name: str, aborted: list[None]
) -> None:
    """Writers in the same hash, whose fields expire at once: EXEC has no chance at all."""
    server, key = new_server(name), "redismem:session:{s}:ns:n"

    def write() -> None:
        with redis.Redis(port=server.port) as raw:
            pipeline = raw.pipeline(transaction=False)
            for i in range(200):
                pipeline.hset(key, f"brief{i}", 1)
                pipeline.execute_command("HPEXPIRE", key, 1, "FIELDS", 1, f"brief{i}")
            pipeline.execute()

    with Memory(server.url) as memory, meanwhile(write):
        memory.sessions.save("s", "n", "count", 0)
        calls, until = 0, time.monotonic() + SECONDS
        while calls < 20 or time.monotonic() < until:
            with memory.transaction("s") as t:
                count = t.sessions.load("s", "n", "count")
                time.sleep(0.005)
                t.sessions.save("s", "n", "count", count + 1)
            calls += 1
        assert memory.sessions.load("s", "n", "count") == calls
    assert len(aborted) >= calls // 2
    figure("fields expire faster than transactions end", "transactions, each applied once", calls)
    figure("fields expire faster than transactions end", "times that EXEC was aborted", len(aborted))


@servers
def test_what_was_read_by_name_and_expired_is_read_again(server: Server) -> None:
    found: list[Any] = []

    def work(t: Attempt) -> None:
        found.append(t.sessions.load("s", "n", "brief"))
        memory.sessions.expire("s", "n", "brief", 0.01)
        while memory.sessions.load("s", "n", "brief") is not None:
            time.sleep(0.005)
        memory.sessions.save("s", "n", f"other{len(found)}", 1)
        t.sessions.save("s", "n", "seen", found[-1])

    with Memory(server.url) as memory:
        memory.sessions.save("s", "n", "brief", 1)
        memory.transaction("s").run(work)
        assert found == [1, None]
        assert memory.sessions.get_all("s", "n") == {"seen": None, "other1": 1, "other2": 1}


# --- connections ----------------------------------------------------------------------------------------------------


def hang_up(server: Server) -> None:
    """Close every connection but the one that says so."""
    with redis.Redis(port=server.port) as raw:
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@servers
def test_a_connection_that_breaks_between_reading_and_the_end(server: Server) -> None:
    with Memory(server.url) as memory:
        memory.sessions.save("s", "n", "k", 1)
        with memory.transaction("s") as t:
            assert t.sessions.load("s", "n", "k") == 1
            hang_up(server)
            assert t.sessions.load("s", "n", "missing") is None
            t.sessions.increment("s", "n", "k")
        assert memory.sessions.load("s", "n", "k") == 2

        def change_between(t: Attempt) -> None:
            t.sessions.load("s", "n", "k")
            hang_up(server)
            memory.sessions.increment("s", "n", "k")
            t.sessions.load("s", "n", "missing")
            t.sessions.save("s", "n", "k", "lost update")

        with pytest.raises(Conflict):
            memory.transaction("s", attempts=2).run(change_between)
        assert memory.sessions.load("s", "n", "k") == 4


@servers
def test_a_lost_end_is_told_and_not_repeated(server: Server) -> None:
    calls = 0

    def work(t: Attempt) -> None:
        nonlocal calls
        calls += 1
        t.sessions.load("s", "n", "k")
        t.sessions.increment("s", "n", "k")
        hang_up(server)

    with Memory(server.url) as memory:
        with pytest.raises(Unavailable, match="may have been applied"):
            memory.transaction("s").run(work)
        assert calls == 1
        assert memory.sessions.load("s", "n", "k") is None
        memory.transaction("s").run(lambda t: (t.sessions.load("s", "n", "k"), t.sessions.increment("s", "n", "k")))
        assert memory.sessions.load("s", "n", "k") == 1


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_scripts_that_the_server_forgets(server: Server, figure: Figures) -> None:
    def flush() -> None:
        with redis.Redis(port=server.port) as raw:
            raw.script_flush()
        time.sleep(0.001)

    def add_one(t: Attempt) -> None:
        t.sessions.save("s", "n", "k", t.sessions.get_all("s", "n").get("k", 0) + 1)
        t.sessions.increment("s", "m", "k")

    with Memory(server.url) as memory, meanwhile(flush):
        calls, until = 0, time.monotonic() + SECONDS
        while calls < 50 or time.monotonic() < until:
            memory.transaction("s").run(add_one)
            calls += 1
        assert memory.sessions.load("s", "n", "k") == memory.sessions.load("s", "m", "k") == calls
    figure("SCRIPT FLUSH every millisecond", "transactions, each applied once", calls)


async def test_cancelled_transactions_leave_all_or_nothing(valkey: Server, figure: Figures) -> None:
    async def move(t: Any) -> None:
        await asyncio.sleep(random.uniform(0, 0.002))
        left, right = await t.sessions.load("s", "left", "k"), await t.sessions.load("s", "right", "k")
        t.sessions.save("s", "left", "k", left - 1)
        t.sessions.save("s", "right", "k", right + 1)

    async with AsyncMemory(valkey.url) as memory:
        await memory.sessions.save("s", "left", "k", 1000)
        await memory.sessions.save("s", "right", "k", 0)
        until = time.monotonic() + SECONDS
        finished = cancelled = 0
        while not finished or time.monotonic() < until:
            moves = [asyncio.create_task(memory.transaction("s").run(move)) for _ in range(8)]
            await asyncio.sleep(random.uniform(0, 0.01))
            for task in moves[::2]:
                task.cancel()
            ends = await asyncio.gather(*moves, return_exceptions=True)
            finished += sum(end is None for end in ends)
            cancelled += sum(end is not None for end in ends)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
        left, right = [await memory.sessions.load("s", side, "k") for side in ("left", "right")]
        assert left + right == 1000
        assert right >= finished

        async def few() -> bool:
            return ask(valkey, "INFO", "clients")["connected_clients"] <= 8

        deadline = time.monotonic() + 10
        while not await few():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        figure("transactions are cancelled", "cancellations", cancelled)
        figure("transactions are cancelled", "transactions that were half applied", 0)


# --- servers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["valkey9", "redis70", "redis62"])
def test_a_full_server_changes_nothing(new_server: Callable[..., Server], name: str) -> None:
    """Deleting needs no memory, storing does: neither may come without the other."""
    server = new_server(name)
    with Memory(server.url) as memory:
        memory.sessions.save_many("s", "n", {"k": 1, "l": 2})
        memory.transaction("s").run(lambda t: t.sessions.delete("s", "n", "nothing"))
        ask(server, "CONFIG", "SET", "maxmemory", "1")
        for reads in (True, False):

            def work(t: Attempt, reads: bool = reads) -> None:
                if reads:
                    t.sessions.load("s", "n", "k")
                t.sessions.delete("s", "n", "k")
                t.sessions.save("s", "n", "l", 3)

            with pytest.raises(OutOfMemory):
                memory.transaction("s").run(work)
        assert memory.sessions.get_all("s", "n") == {"k": 1, "l": 2}
        ask(server, "CONFIG", "SET", "maxmemory", "0")
        memory.transaction("s").run(lambda t: t.sessions.delete("s", "n", "k"))
        assert memory.sessions.get_all("s", "n") == {"l": 2}


def test_a_restart_in_between(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9", appendonly=True)
    with Memory(server.url) as memory:
        memory.sessions.save("s", "n", "k", 1)
        with memory.transaction("s") as t:
            assert t.sessions.load("s", "n", "k") == 1
            server.restart()
            assert t.sessions.get_all("s", "n") == {"k": 1}
            t.sessions.increment("s", "n", "k")
        assert memory.sessions.load("s", "n", "k") == 2


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    try:
        cluster = Cluster.launch()
    except Missing as missing:
        if CI:
            raise
        pytest.skip(str(missing))
    with cluster:
        yield cluster


def test_a_slot_that_moves_to_and_fro(cluster: Cluster, figure: Figures) -> None:
    slot, outcomes = cluster.slot("redismem:session:{s}:meta"), list[LinkError | None]()
    places = iter(cluster.primaries() * 1000)

    def move() -> None:
        cluster.move([slot], next(place for place in places if place is not cluster.owner(slot)))

    def add_one(t: Attempt) -> None:
        t.sessions.save("s", "a", "k", t.sessions.load("s", "a", "k", 0) + 1)
        t.sessions.increment("s", "b", "k")

    with Memory(cluster.url) as memory:
        memory.transaction("s").run(lambda t: t.sessions.save_many("s", "a", {f"k{i}": i for i in range(500)}))
        with meanwhile(move):
            until = time.monotonic() + SECONDS
            while outcomes.count(None) < 50 or time.monotonic() < until:
                outcomes.append(_outcome(memory, add_one))
        unknown = [str(outcome) for outcome in outcomes if outcome is not None]
        assert all("may have been applied" in error for error in unknown), unknown
        count = memory.sessions.load("s", "a", "k")
        assert count == memory.sessions.load("s", "b", "k")
        assert outcomes.count(None) <= count <= len(outcomes)
        figure("a slot moves to and fro", "transactions, all or nothing", len(outcomes))
        figure("a slot moves to and fro", "transactions that may have been applied, and said so", len(unknown))


def _outcome(memory: Memory, work: Callable[[Attempt], None]) -> LinkError | None:
    try:
        memory.transaction("s").run(work)
    except LinkError as error:
        return error
    return None
