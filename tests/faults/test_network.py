"""Everything that a bad network does, while many write: what they were told stays one store's story.

A proxy partitions, in one direction or both, half-opens, delays, slices and resets connections, one after the other, in
turn. Processes that write down every call are checked by `tests.faults.linearizability`; tasks that count must be told
every number once; and no call lasts longer than its memory's settings say.

Without retries every kind of call is made, and one that failed may have happened at any time since. With retries all
but saves are: a copy of a save that was left in the network may land after a later one (ADR 9), so only those calls are
one store's story that carry an id.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from redismem import AsyncMemory, Memory
from redismem.chaos import ChaosProxy, Faults
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.faults.linearizability import Recorder, violations
from tests.faults.test_histories import history
from tests.servers import Server

pytestmark = pytest.mark.timeout(900 if LONG else 120)

PROCESSES = 4 if LONG else 3
TASKS = 20
KEYS = 30 if LONG else 5
ROUNDS = 10 if LONG else 1
"""How often each trouble comes."""
TIMEOUT, CALM = (0.5, 1.5) if LONG else (0.15, 0.1)
"""Seconds for a connection or a reply; and how long the network works between two troubles."""
RETRIES = 1_000
"""More than a trouble lasts: no call may fail."""
STALL = 10.0
"""Seconds by which a loaded machine may hold up a call, beyond what its settings say."""

FAULT = "partitions, half-open connections, latency, slices and resets"
LONGEST = f"longest call {{}}, each timeout {TIMEOUT:g} s, partitions of {3 * TIMEOUT:g} s"


# --- the network ------------------------------------------------------------------------------------------------------


def partition(proxy: ChaosProxy) -> None:
    """Nothing arrives, on either side."""
    proxy.requests = proxy.replies = Faults(black_hole=True)
    time.sleep(3 * TIMEOUT)


def deaf_clients(proxy: ChaosProxy) -> None:
    """The server gets everything, and its replies do not arrive."""
    proxy.replies = Faults(black_hole=True)
    time.sleep(1.5 * TIMEOUT)


def half_open(proxy: ChaosProxy) -> None:
    """The server's side is closed, and no client is told."""
    proxy.half_open()
    time.sleep(TIMEOUT / 2)


def latency(proxy: ChaosProxy) -> None:
    """What is on the way is late, by different times, and some is late by too much."""
    proxy.requests, proxy.replies = Faults(latency=TIMEOUT / 10, jitter=TIMEOUT / 10), Faults(jitter=TIMEOUT)
    time.sleep(2 * TIMEOUT)


def slices(proxy: ChaosProxy) -> None:
    """A byte or three at a time."""
    proxy.requests, proxy.replies = Faults(slices=3), Faults(slices=1)
    time.sleep(TIMEOUT)


def resets(proxy: ChaosProxy) -> None:
    """All connections, ten times; and each by itself, in the middle of a message."""
    proxy.requests, proxy.replies = Faults(reset_after=5_000), Faults(reset_after=5_000)
    for _ in range(10):
        time.sleep(TIMEOUT / 10)
        proxy.reset()


TROUBLES = (partition, half_open, latency, deaf_clients, slices, resets)


def troubles(proxy: ChaosProxy) -> None:
    """All of them; in between, the network works."""
    for _ in range(ROUNDS):
        for trouble in TROUBLES:
            trouble(proxy)
            proxy.heal()
            time.sleep(CALM)


# --- processes that write everything down -----------------------------------------------------------------------------


def work(pipe: Connection, index: int, url: str, logs: Path, retries: int) -> None:
    """Do this and that until told otherwise; say how long the longest call took, and how many succeeded at the end."""
    dice, longest, number = random.Random(index), 0.0, 0
    with (
        Memory(url, retries=retries, timeout=TIMEOUT, connect_timeout=TIMEOUT) as memory,
        Recorder(memory.sessions, "s", "n", logs / str(index)) as log,
    ):
        log.call("load", "k0")
        pipe.send("ready")
        pipe.recv()
        while not pipe.poll():
            number += 1
            began = time.monotonic()
            one_call(log, dice, index * 1_000_000 + number, with_saves=not retries)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.001)
        pipe.recv()
        pipe.send(longest)
        pipe.recv()


def one_call(log: Recorder, dice: random.Random, unique: int, *, with_saves: bool) -> None:
    key = f"k{dice.randrange(KEYS)}"
    match dice.randrange(8):
        case 0 | 1:
            log.call("load", key)
        case 2:
            log.call("compare_and_set", key, None, unique)
        case 3:
            log.call("delete", key)
        case 4 if with_saves:
            log.call("save", key, unique)
        case _:
            log.call("increment", key, 1)


@pytest.mark.parametrize("retries", [0, RETRIES])
def test_what_was_told_is_one_stores_story(valkey: Server, tmp_path: Path, figure: Figures, retries: int) -> None:
    with ChaosProxy(valkey.port, seed=7) as proxy, crew(PROCESSES, work, proxy.url, tmp_path, retries) as members:
        gather(members)
        troubles(proxy)
        for one in members:
            one.tell("stop")
        longest = max(one.hear() for one in members)
    operations = history(tmp_path)
    pending = sum(operation.is_pending for operation in operations)
    assert violations(operations) == []
    if retries:
        assert pending == 0
        assert longest < 5 * TIMEOUT + 1.0 + STALL, "a partition, a try, and the longest pause between two"
    else:
        assert pending >= PROCESSES * ROUNDS, "hardly a call failed: the test proves nothing"
        assert longest < 2 * TIMEOUT + STALL
    said = "with retries" if retries else "without retries"
    figure(FAULT, f"recorded calls {said}, per key linearizable", len(operations))
    figure(FAULT, f"calls that failed, {said}", pending)
    figure(FAULT, LONGEST.format(said), longest, "s", "max")


# --- tasks that count -------------------------------------------------------------------------------------------------


async def test_each_increment_of_many_tasks_is_counted_once(valkey: Server, figure: Figures) -> None:
    """Every number from 1 up is told to exactly one task; and the last one is what is stored."""
    over, longest = threading.Event(), 0.0

    with ChaosProxy(valkey.port, seed=7) as proxy:
        async with AsyncMemory(proxy.url, retries=RETRIES, timeout=TIMEOUT, connect_timeout=TIMEOUT) as memory:

            async def count() -> list[int]:
                nonlocal longest
                told: list[int] = []
                while not over.is_set():
                    began = time.monotonic()
                    told.append(await memory.sessions.increment("s", "n", "k"))
                    longest = max(longest, time.monotonic() - began)
                    await asyncio.sleep(0.002)
                return told

            counting = asyncio.gather(*(count() for _ in range(TASKS)))
            await asyncio.to_thread(troubles, proxy)
            over.set()
            told = Counter(number for numbers in await counting for number in numbers)
            assert memory.stats().retries > 2 * TASKS * ROUNDS, "hardly a connection broke: the test proves nothing"
            assert told == Counter(range(1, told.total() + 1))
            assert await memory.sessions.load("s", "n", "k") == told.total()
    assert longest < 5 * TIMEOUT + 1.0 + STALL
    figure(FAULT, "increments of tasks, each counted once", told.total())
    figure(FAULT, "increments lost or doubled", 0)
    figure(FAULT, LONGEST.format("with retries"), longest, "s", "max")
