"""SCRIPT FLUSH every 10 ms, while threads and tasks run scripts of every kind: nobody notices."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis

from redismem import AsyncMemory, EpisodicMemory, Memory, UserContext
from tests.faults.figures import LONG, Figures
from tests.servers import Server

WORKERS = 4
ROUNDS = 2_000 if LONG else 60
EVERY = 0.01


@contextmanager
def flushed(server: Server) -> Iterator[list[None]]:
    """While the block runs, the server forgets its scripts again and again; one item for each time."""
    over, times = threading.Event(), list[None]()

    def flush() -> None:
        with redis.Redis(port=server.port) as raw:
            while not over.wait(EVERY):
                raw.script_flush()
                times.append(None)

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()


def work(memory: Memory, worker: int) -> None:
    for number in range(ROUNDS):
        memory.sessions.increment("s", "n", "count")
        memory.sessions.save("s", f"w{worker}", "k", number, ttl=100)
        memory.sessions.update("s", "n", "list", lambda have: [*have, 1][-5:], default=[])
        memory.contexts.update_context("42", "Hi", "Hello")
        memory.episodes.add(EpisodicMemory(memory_id=f"{worker}-{number}", content="x"))
        with memory.lock("42"):
            pass


async def work_async(memory: AsyncMemory, worker: int) -> None:
    for number in range(ROUNDS):
        await memory.sessions.increment("s", "n", "count")
        await memory.sessions.save("s", f"w{worker}", "k", number, ttl=100)
        async with memory.batch() as batch:
            batch.contexts.update_context("42", "Hi", "Hello")
            batch.sessions.increment("s", "n", "batched")
        async with memory.lock("42"):
            pass


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_no_call_notices(server: Server, figure: Figures) -> None:
    async def tasks() -> None:
        async with AsyncMemory(server.url) as memory:
            await asyncio.gather(*(work_async(memory, worker) for worker in range(WORKERS)))

    with flushed(server) as times, Memory(server.url) as memory, ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda worker: work(memory, worker), range(WORKERS)))
        asyncio.run(tasks())
        context: UserContext = memory.contexts.get_user_context("42")
        assert memory.sessions.get_all("s", "n") == {
            "count": 2 * WORKERS * ROUNDS,
            "batched": WORKERS * ROUNDS,
            "list": [1] * 5,
        }
        assert context.conversations_count == 2 * WORKERS * ROUNDS
        assert memory.episodes.count() == WORKERS * ROUNDS
        assert memory.lock("42", wait=0).acquire()
    assert len(times) > 5
    figure("SCRIPT FLUSH every 10 ms", "times", len(times))
    figure("SCRIPT FLUSH every 10 ms", "increments, merges, locks and saves", 8 * WORKERS * ROUNDS)
    figure("SCRIPT FLUSH every 10 ms", "calls that failed, effects lost or doubled", 0)
