"""Ten minutes of coming and going, and nothing has grown: no thread, task, connection, file, byte or key.

One process opens and closes memories, uses two that stay in new threads, new event loops and forked children, takes
locks, runs transactions, misses L1, is cancelled, and loses all its connections, again and again. After each cycle it
measures itself. The least of what it needs soon after the start is compared with the least at the end: what is given
back a little later counts as nothing, and what is never given back counts in each cycle.

Plain runs last three seconds; with REDISMEM_LONG=1 it is ten minutes, and the second one is compared with the last.
"""

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.coordination import watchdog
from redismem.link.exclusive import MOST_IDLE
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(900 if LONG else 120)

SECONDS, PART = (600.0, 1 / 10) if LONG else (2.5, 1 / 3)
"""How long it lasts, and which part of that is compared."""
LEAST = 12
"""Cycles, however slow the machine is."""
IDS = 50 if LONG else 3
"""Sessions and users there are: what is remembered of each for a minute must not look like growth."""
FAULT = f"{SECONDS:g} s of churn"


@dataclass(frozen=True)
class Sample:
    """What the process has, and what it has the server keep."""

    threads: int
    files: int
    tasks: int
    connections: int
    blocks: int
    """Pieces of memory that Python has given out."""
    resident: float
    """MiB."""
    keys: int


WHAT = {
    "threads": "threads",
    "tasks": "tasks",
    "open files": "files",
    "connections of the server": "connections",
    "pieces of memory that Python has given out": "blocks",
    "MiB resident": "resident",
    "keys on the server": "keys",
}
SLACK = {"files": MOST_IDLE, "connections": MOST_IDLE, "blocks": 1_500, "resident": 3.0, "keys": 4 * IDS}
"""By how much more at the end is no growth: pools keep up to some idle connections."""


# --- the process that is looked at ------------------------------------------------------------------------------------


class Churn:
    """What stays while all else comes and goes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.memory = Memory(url, coherence="tracking")
        self.runner = asyncio.Runner()
        self.async_memory = AsyncMemory(url, coherence="tracking")
        self.process = psutil.Process()

    def cycle(self, number: int) -> None:
        """Everything once."""
        id_ = str(number % IDS)
        with Memory(self.url, coherence="tracking") as memory:
            use(memory, id_)
        asyncio.run(use_once(self.url, id_))
        self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        in_a_thread(lambda: use(self.memory, id_))
        in_a_thread(lambda: asyncio.run(use_async(self.async_memory, id_)))
        in_a_child(lambda: use(self.memory, id_))
        self.runner.run(use_async(self.async_memory, id_))

    def sample(self) -> Sample:
        """What there is, once L1 is listened for again and what is garbage has gone."""
        while not (self.memory.stats().l1.listening and self.async_memory.stats().l1.listening):
            time.sleep(0.001)
        gc.collect()
        return Sample(
            self.process.num_threads(),
            self.process.num_fds(),
            len(asyncio.all_tasks(self.runner.get_loop())),
            self.ask("INFO", "clients")["connected_clients"],
            sys.getallocatedblocks(),
            self.process.memory_info().rss / 2**20,
            self.ask("DBSIZE"),
        )

    def ask(self, *words: str) -> Any:
        with redis.Redis.from_url(self.url) as raw:
            return raw.execute_command(*words)


def use(memory: Memory, id_: str) -> None:
    """Each kind of call, blocking."""
    sessions = memory.sessions
    sessions.save(id_, "n", "k", [id_], ttl=60)
    sessions.load(id_, "n", "k")
    sessions.get_all(id_, "n")
    with memory.lock(id_) as lock:
        sessions.increment(id_, "n", "count", fence=lock)
        memory.lock(id_, wait=0.001).acquire()
    with memory.transaction(id_) as t:
        t.sessions.save(id_, "n", "k", t.sessions.load(id_, "n", "k"))
    with memory.batch() as batch:
        batch.sessions.load(id_, "n", "k")
    sessions.end(id_)


async def use_async(memory: AsyncMemory, id_: str) -> None:
    """Each kind of call, of many tasks, some of which are cancelled."""

    async def one(number: int) -> None:
        mine = f"{id_}-{number}"
        await memory.sessions.save(mine, "n", "k", [id_], ttl=60)
        await memory.sessions.load(mine, "n", "k")
        async with memory.lock(id_) as lock:
            await memory.sessions.increment(mine, "n", "count", fence=lock)
        async with memory.transaction(mine) as t:
            t.sessions.save(mine, "n", "k", await t.sessions.load(mine, "n", "k"))
        async with memory.batch() as batch:
            batch.sessions.load(mine, "n", "k")
        await memory.sessions.end(mine)

    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    await tasks[0]
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def use_once(url: str, id_: str) -> None:
    async with AsyncMemory(url, coherence="tracking") as memory:
        await use_async(memory, id_)


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def in_a_child(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def churn(pipe: Connection, _: int, url: str, leaks: bool) -> None:
    """Go on until told otherwise, and say what there is after each cycle."""
    logging.getLogger("redismem").setLevel(logging.ERROR)  # it would tell of each cut
    watchdog.LINGER = 0.01  # type: ignore[misc]  # or idle threads of closed memories would stay for a second
    here, leaked, number = Churn(url), list[Any](), 0
    pipe.send("ready")
    pipe.recv()
    while not pipe.poll():
        here.cycle(number)
        pipe.send(here.sample())
        number += 1
        if leaks:
            leaked.append(Memory(url, coherence="tracking"))
            leaked[-1].sessions.load("s", "n", "k")


# --- who looks at it --------------------------------------------------------------------------------------------------


def compared(server: Server, *, leaks: bool = False) -> tuple[Sample, Sample, int]:
    """What there was at least in an early part of the time, and in the last; and after how many cycles."""
    samples: list[Sample] = []
    with crew(1, churn, server.url, leaks) as [process]:
        gather([process])
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or len(samples) < LEAST:
            samples.append(process.hear())
    part = round(len(samples) * PART)
    return least(samples[part : 2 * part]), least(samples[-part:]), len(samples)


def least(samples: list[Sample]) -> Sample:
    """The least of everything."""
    return Sample(*(min(values) for values in zip(*map(astuple, samples), strict=True)))


def grown(early: Sample, late: Sample) -> set[str]:
    """What there is too much of at the end."""
    before, after = asdict(early), asdict(late)
    return {name for name in before if after[name] > before[name] + SLACK.get(name, 0)}


def test_nothing_grows(new_server: Callable[..., Server], figure: Figures) -> None:
    early, late, cycles = compared(new_server("valkey9"))
    figure(FAULT, "cycles", cycles)
    for what, name in WHAT.items():
        figure(FAULT, f"{what}, early", getattr(early, name), fold="max")
        figure(FAULT, f"{what}, at the end", getattr(late, name), fold="max")
    assert grown(early, late) == set(), (early, late)


@pytest.mark.skipif(LONG, reason="seconds are enough to find it")
def test_a_memory_that_is_never_closed_is_found(new_server: Callable[..., Server]) -> None:
    early, late, _ = compared(new_server("valkey9"), leaks=True)
    assert {"threads", "files"} <= grown(early, late), (early, late)
