"""Connections are cut between the server and its reply, thousands of times: what counts is counted once."""

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from redismem import AsyncMemory, Memory, SessionStore
from redismem.chaos import ChaosProxy
from tests.faults.figures import LONG, Figures
from tests.servers import Server

PROCESSES = 8 if LONG else 4
CALLS = 10_000 if LONG else 200
KEYS = CALLS // 3
SPAWN = multiprocessing.get_context("spawn")

FAULT = "replies that are lost"


def by_increment(sessions: SessionStore) -> list[int]:
    """Every sum that it was told."""
    return [sessions.increment("s", "n", "increment") for _ in range(CALLS)]


def by_update(sessions: SessionStore) -> list[int]:
    """Every value that it stored."""
    return [sessions.update("s", "n", "update", lambda n: n + 1, default=0) for _ in range(CALLS // 4)]


def by_compare_and_set(sessions: SessionStore) -> list[int]:
    """Every value that it stored."""
    stored: list[int] = []
    while len(stored) < CALLS // 4:
        current = sessions.load("s", "n", "compare_and_set")
        if sessions.compare_and_set("s", "n", "compare_and_set", current, (current or 0) + 1):
            stored.append((current or 0) + 1)
    return stored


def by_delete(sessions: SessionStore) -> list[int]:
    """Every key that it deleted; all try to delete all of them."""
    order = random.sample(range(1, KEYS + 1), KEYS)
    return [key for key in order if sessions.delete("s", "keys", str(key))]


WAYS: dict[str, tuple[Callable[[SessionStore], list[int]], int]] = {
    "increment": (by_increment, PROCESSES * CALLS),
    "update": (by_update, PROCESSES * (CALLS // 4)),
    "compare_and_set": (by_compare_and_set, PROCESSES * (CALLS // 4)),
    "delete": (by_delete, KEYS),
}


def work(url: str, told: Connection) -> None:
    with Memory(url, retries=30, update_attempts=10_000) as memory:
        for way, _ in WAYS.values():
            told.send(way(memory.sessions))


@pytest.mark.timeout(1200 if LONG else 120)
@pytest.mark.parametrize("name", ["valkey9", "redis62"])
def test_each_effect_takes_place_once(new_server: Callable[..., Server], figure: Figures, name: str) -> None:
    """Every number from 1 up is told to exactly one caller; and that is what is stored."""
    server = new_server(name)
    with Memory(server.url) as memory, ChaosProxy(server.port, seed=7) as proxy:
        proxy.cut_replies(0.03, to=b"{s}")
        memory.sessions.save_many("s", "keys", {str(key): key for key in range(1, KEYS + 1)})
        pipes = [SPAWN.Pipe(duplex=False) for _ in range(PROCESSES)]
        processes = [SPAWN.Process(target=work, args=(proxy.url, end)) for _, end in pipes]
        for process, (_, end) in zip(processes, pipes, strict=True):
            process.start()
            end.close()
        for way, (_, total) in WAYS.items():
            told = Counter(number for ours, _ in pipes for number in ours.recv())
            assert told == Counter(range(1, total + 1)), way
        for process in processes:
            process.join()
        counters = {way: total for way, (_, total) in WAYS.items() if way != "delete"}
        assert memory.sessions.get_all("s", "n") == counters
        assert memory.sessions.get_all("s", "keys") == {}
        assert proxy.counts.cuts > CALLS * PROCESSES // 100, "hardly a connection was cut: the test proves nothing"
        figure(FAULT, f"connections cut under {PROCESSES} processes", proxy.counts.cuts)
    figure(FAULT, "increments, updates, compare_and_sets, deletes", sum(total for _, total in WAYS.values()))
    figure(FAULT, "of these doubled or lost", 0)


@pytest.mark.timeout(1200 if LONG else 120)
async def test_each_effect_of_many_tasks_takes_place_once(valkey: Server, figure: Figures) -> None:
    """A cut fails all calls in flight, of which some were done: each is sent again, alone and in batches."""
    with ChaosProxy(valkey.port, seed=7) as proxy:
        proxy.cut_replies(0.1, to=b"{s}")
        async with AsyncMemory(proxy.url, retries=30) as memory:

            async def task() -> list[int]:
                sums = [await memory.sessions.increment("s", "n", "k") for _ in range(CALLS // 10)]
                async with memory.batch() as batch:
                    handles = [batch.sessions.increment("s", "n", "k") for _ in range(20)]
                return sums + [handle.result() for handle in handles]

            told = Counter[int]()
            while proxy.counts.cuts <= 3:  # else hardly a connection was cut: the test would prove nothing
                told.update(number for sums in await asyncio.gather(*(task() for _ in range(50))) for number in sums)
        assert told == Counter(range(1, told.total() + 1))
        assert told.total() % (50 * (CALLS // 10 + 20)) == 0
        figure(FAULT, "connections cut under 50 tasks", proxy.counts.cuts)
    figure(FAULT, "increments of tasks, alone and in batches, each counted once", told.total())
