"""Workers whose clocks are an hour off, or jump: no deadline, lease or promise moves, for all time is the server's.

The clock that is wrong is the one that people set (CLOCK_REALTIME). What counts seconds since the start goes right on
such machines, and is left alone here.
"""

import glob
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from redismem import EpisodicMemory, Memory
from tests.conftest import CI
from tests.faults.crew import Member, crew, member
from tests.faults.figures import LONG, Figures
from tests.servers import Server

CLOCKS = ["+1h", "-1h", "+0 x50"] if LONG else ["+1h", "-1h"]
"""As libfaketime says it; the last one runs fifty times too fast."""
ROUNDS = 200 if LONG else 10
TTL = 100.0


@pytest.fixture(scope="module")
def library() -> str:
    """Where libfaketime is."""
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1") + glob.glob("/usr/*/lib/faketime/libfaketime.*.dylib")
    if not found:
        if CI:
            pytest.fail("libfaketime is not installed: apt-get install libfaketime")
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")
    return found[0]


def wrong(library: str, clock: str) -> dict[str, str]:
    """An environment in which programs have another idea of the time of day."""
    return {"LD_PRELOAD": library, "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}


def work(pipe: Connection, index: int, url: str) -> None:
    """Say what time it is; save with TTLs, count under a lock, add an episode; say what this worker sees of it."""
    with Memory(url, coherence="tracking", coherence_bound=0.5, session_ttl=TTL) as memory:
        pipe.send(time.time())
        pipe.recv()
        for number in range(ROUNDS):
            memory.sessions.save("s", "n", f"{index}-{number}", number, ttl=TTL)
            with memory.lock("42", lease=5) as lock:
                count = memory.sessions.load("s", "n", "count", 0, fresh=True)
                memory.sessions.save("s", "n", "count", count + 1, fence=lock)
        memory.episodes.add(EpisodicMemory(memory_id=f"e{index}", content="now"), ttl=TTL)
        pipe.send(None)
        pipe.recv()
        pipe.send((memory.sessions.load("s", "n", "last"), memory.sessions.ttl("s", "n", f"{index}-0")))
        pipe.recv()


def seen(workers: list[Member]) -> list[Any]:
    return [worker.hear() for worker in workers]


def test_no_deadline_moves(valkey: Server, library: str, figure: Figures) -> None:
    with crew(1, work, valkey.url) as workers, Memory(valkey.url) as memory, redis.Redis(port=valkey.port) as raw:
        workers += [
            member(number, work, valkey.url, environment=wrong(library, clock))
            for number, clock in enumerate(CLOCKS, 1)
        ]
        right, *others = seen(workers)
        assert all(abs(other - right) > 600 for other in others[:2]), "their clocks are not wrong at all"
        for worker in workers:
            worker.tell()
        seen(workers)
        total = len(workers) * ROUNDS
        assert memory.sessions.load("s", "n", "count") == total
        lefts = [memory.sessions.ttl("s", "n", f"{index}-{n}") for index in range(len(workers)) for n in range(ROUNDS)]
        assert all(left is not None and 0 < left <= TTL for left in lefts)
        created = [one.document.created_at for one in memory.episodes.search()]
        server = raw.time()[0]
        off = max(abs(moment.timestamp() - server) for moment in created if moment is not None)
        assert len(created) == len(workers)
        assert off < 60

        memory.sessions.save("s", "n", "last", "word")
        time.sleep(0.5)  # the bound that was promised
        for worker in workers:
            worker.tell()
        assert all(word == "word" and left is not None and 0 < left <= TTL for word, left in seen(workers))
    figure("worker clocks an hour off", "writes with TTLs and under locks, all as with the right time", 2 * total)
