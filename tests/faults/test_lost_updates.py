"""Ten processes write to one session at once, twenty times each: 200 of 200, every time."""

import multiprocessing

import pytest

from redismem import Memory

PROCESSES, WRITES, RUNS = 10, 20, 20
SPAWN = multiprocessing.get_context("spawn")


def by_update(memory: Memory, session: str) -> None:
    memory.sessions.update(session, "n", "count", lambda value: value + 1, default=0)


def by_increment(memory: Memory, session: str) -> None:
    memory.sessions.increment(session, "n", "count")


def by_compare_and_set(memory: Memory, session: str) -> None:
    done = False
    while not done:
        current = memory.sessions.load(session, "n", "count")
        done = memory.sessions.compare_and_set(session, "n", "count", current, (current or 0) + 1)


WAYS = {"update": by_update, "increment": by_increment, "compare_and_set": by_compare_and_set}


def work(url: str, way: str, start) -> None:
    """One process: the same work for every run, all processes starting each run together."""
    with Memory(url, update_attempts=1000) as memory:
        memory.sessions.load("warm", "n", "k")
        for run in range(RUNS):
            start.wait()
            for _ in range(WRITES):
                WAYS[way](memory, f"{way}-{run}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["valkey9", "redis62"])
def test_nothing_is_lost(new_server, name, way):
    server = new_server(name)
    start = SPAWN.Barrier(PROCESSES)
    processes = [SPAWN.Process(target=work, args=(server.url, way, start)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with Memory(server.url) as memory:
        counts = [memory.sessions.load(f"{way}-{run}", "n", "count") for run in range(RUNS)]
    assert counts == [PROCESSES * WRITES] * RUNS
