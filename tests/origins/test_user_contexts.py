"""Thread-safe user contexts, as their documentation has them."""

import asyncio
import dataclasses
import gc
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import redis

from redismem.compat import memory_system as module
from redismem.compat.memory_system import MemorySystem
from tests.proxy import CountingProxy
from tests.servers import REAL, Server

on_real_servers = pytest.mark.parametrize("server", REAL, indirect=True)


@pytest.fixture
async def memory_system(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemorySystem]:
    monkeypatch.setenv("REDISMEM_URL", url)
    yield module.memory_system
    await module.memory_system.aclose()


# --- an immutable copy ----------------------------------------------------------------------------------------------


async def test_a_context_is_a_frozen_dataclass(memory_system: MemorySystem) -> None:
    ctx = await memory_system.get_user_context("user-1")
    assert dataclasses.is_dataclass(ctx)
    assert {"user_id", "conversations_count", "last_message", "last_response"} <= set(ctx.__dataclass_fields__)


async def test_assigning_raises_frozen_instance_error(memory_system: MemorySystem) -> None:
    ctx = await memory_system.get_user_context("user-1")
    for name in ctx.__dataclass_fields__:
        with pytest.raises(FrozenInstanceError):
            setattr(ctx, name, 5)
    with pytest.raises(FrozenInstanceError):
        del ctx.conversations_count  # type: ignore[misc]
    assert ctx.conversations_count == 0


async def test_a_new_user_has_no_conversations(memory_system: MemorySystem) -> None:
    ctx = await memory_system.get_user_context("user-1")
    assert (ctx.user_id, ctx.conversations_count, ctx.last_message) == ("user-1", 0, None)


async def test_an_update_counts_and_keeps_the_exchange(memory_system: MemorySystem) -> None:
    await memory_system.update_context("user-1", "Hi", "Hello")
    ctx = await memory_system.get_user_context("user-1")
    assert (ctx.conversations_count, ctx.last_message, ctx.last_response) == (1, "Hi", "Hello")
    assert (await memory_system.get_user_context("user-2")).conversations_count == 0


async def test_an_update_returns_the_context(memory_system: MemorySystem) -> None:
    counts = [(await memory_system.update_context("user-1", "Hi", "Hello")).conversations_count for _ in range(3)]
    assert counts == [1, 2, 3]


async def test_an_old_copy_stays_old_and_a_fresh_read_is_new(memory_system: MemorySystem) -> None:
    old = await memory_system.get_user_context("user-1")
    await memory_system.update_context("user-1", "Hi", "Hello")
    new = await memory_system.get_user_context("user-1")
    assert (old.conversations_count, old.last_message) == (0, None)
    assert (new.conversations_count, new.last_message) == (1, "Hi")


async def test_what_is_inside_a_copy_is_a_copy_too(memory_system: MemorySystem) -> None:
    ctx = await memory_system.get_user_context("user-1")
    ctx.preferences["tone"] = "short"
    assert (await memory_system.get_user_context("user-1")).preferences == {}


# --- serialized per user, saved at once -----------------------------------------------------------------------------


async def test_gather_keeps_both(memory_system: MemorySystem) -> None:
    await asyncio.gather(
        memory_system.update_context("user-1", "Hi", "Hello"),
        memory_system.update_context("user-1", "Bye", "See you"),
    )
    ctx = await memory_system.get_user_context("user-1")
    assert ctx.conversations_count == 2
    assert (ctx.last_message, ctx.last_response) in {("Hi", "Hello"), ("Bye", "See you")}


async def test_updates_of_a_user_take_turns(memory_system: MemorySystem) -> None:
    contexts = await asyncio.gather(
        *(memory_system.update_context("user-1", f"message {n}", f"response {n}") for n in range(50))
    )
    assert sorted(ctx.conversations_count for ctx in contexts) == list(range(1, 51))
    assert len({ctx.last_message for ctx in contexts}) == 50


async def test_users_do_not_mix(memory_system: MemorySystem) -> None:
    users = [f"user-{number}" for number in range(20)]
    await asyncio.gather(*(memory_system.update_context(user, f"I am {user}", "Hello") for user in users * 3))
    contexts = await asyncio.gather(*map(memory_system.get_user_context, users))
    assert [(ctx.user_id, ctx.conversations_count, ctx.last_message) for ctx in contexts] == [
        (user, 3, f"I am {user}") for user in users
    ]


async def test_writes_are_atomic(memory_system: MemorySystem) -> None:
    """Nobody ever reads the message of one exchange with the response to another, or a count that falls."""

    async def write(writer: int) -> None:
        for number in range(20):
            await memory_system.update_context("user-1", f"{writer}/{number}", f"{writer}/{number}")

    async def read() -> None:
        last = 0
        while last < 60:
            ctx = await memory_system.get_user_context("user-1")
            assert ctx.last_message == ctx.last_response
            assert ctx.conversations_count >= last
            last = ctx.conversations_count

    async with asyncio.timeout(30):
        await asyncio.gather(*(write(writer) for writer in range(3)), read(), read())


@on_real_servers
async def test_an_update_is_saved_at_once(memory_system: MemorySystem, server: Server) -> None:
    another = MemorySystem(server.url)
    await memory_system.update_context("user-1", "Hi", "Hello")
    assert (await another.get_user_context("user-1")).conversations_count == 1
    await another.update_context("user-1", "Bye", "See you")
    assert (await memory_system.get_user_context("user-1")).conversations_count == 2
    await another.aclose()


# --- health ---------------------------------------------------------------------------------------------------------


@on_real_servers
async def test_last_save(memory_system: MemorySystem, server: Server) -> None:
    await memory_system.update_context("user-1", "Hi", "Hello")
    with redis.Redis(port=server.port) as operator:
        operator.save()
    last_save = (await memory_system.health()).last_save
    assert last_save is not None
    assert datetime.now(UTC) - last_save < timedelta(minutes=5)


async def test_whether_the_lock_is_held(memory_system: MemorySystem) -> None:
    assert not await memory_system.is_locked("user-1")
    async with memory_system.memory.lock("user-1"):
        assert await memory_system.is_locked("user-1")
        assert not await memory_system.is_locked("user-2")
        await memory_system.update_context("user-1", "Hi", "Hello")
    assert not await memory_system.is_locked("user-1")


async def test_an_update_leaves_no_lock_held(memory_system: MemorySystem) -> None:
    await asyncio.gather(*(memory_system.update_context("user-1", "Hi", "Hello") for _ in range(10)))
    assert not await memory_system.is_locked("user-1")


# --- speed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
async def test_reads_and_updates_are_one_round_trip(server: Server) -> None:
    with CountingProxy(server.port) as proxy:
        memory_system = MemorySystem(f"redis://127.0.0.1:{proxy.port}")
        await memory_system.update_context("user-1", "Hi", "Hello")
        before = proxy.round_trips
        await memory_system.get_user_context("user-1")
        assert proxy.round_trips - before == 1
        await memory_system.update_context("user-1", "Bye", "See you")
        assert proxy.round_trips - before == 2
        await memory_system.aclose()


# --- loops, threads and leaks ---------------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@on_real_servers
def test_one_memory_system_serves_loops_one_after_the_other(server: Server) -> None:
    memory_system, process = MemorySystem(server.url), psutil.Process()

    async def work() -> int:
        return (await memory_system.update_context("user-1", "Hi", "Hello")).conversations_count

    with redis.Redis(port=server.port) as operator:

        def connections() -> int:
            return len([one for one in operator.client_list() if one["name"] == "redismem"])

        assert run(work()) == 1
        files, threads = process.num_fds(), threading.active_count()
        assert [run(work()) for _ in range(5)] == [2, 3, 4, 5, 6]
        assert (process.num_fds(), threading.active_count()) == (files, threads)
        deadline = time.monotonic() + 20
        while connections():
            assert time.monotonic() < deadline
    run(memory_system.aclose())


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_one_memory_system_serves_loops_of_many_threads(server: Server) -> None:
    memory_system = MemorySystem(server.url)

    async def work(thread: int) -> None:
        for number in range(20):
            await memory_system.update_context("user-1", f"{thread}/{number}", "Hello")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda thread: run(work(thread)), range(10)))
    assert run(memory_system.get_user_context("user-1")).conversations_count == 200
    run(memory_system.aclose())


async def test_closed_and_used_again(memory_system: MemorySystem) -> None:
    await memory_system.get_user_context("user-1")
    await memory_system.aclose()
    assert (await memory_system.update_context("user-1", "Hi", "Hello")).conversations_count == 1


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
async def test_many_users_leave_nothing_behind_in_the_process(memory_system: MemorySystem) -> None:
    async def meet(users: range) -> None:
        for first in range(users.start, users.stop, 100):
            numbers = range(first, first + 100)
            await asyncio.gather(*(memory_system.update_context(f"user-{n}", "Hi", "Hello") for n in numbers))
            await asyncio.gather(*(memory_system.get_user_context(f"user-{n}") for n in numbers))

    await meet(range(300))
    tracemalloc.start()
    try:
        await meet(range(300, 500))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await meet(range(500, 1000))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000  # bytes: a hundred for each user would be a leak
