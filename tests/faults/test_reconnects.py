"""Two thousand clients lose their connections at the same moment: all are back soon, and nothing was lost or doubled.

Each client is a memory of its own that counts through one proxy; most are `AsyncMemory` with two tasks each, and those
of the last process `Memory`, in threads. Then the proxy resets all of them, or the server goes and comes back. The
proxy counts who tries to connect meanwhile: a client tries once at a time, and longer and longer apart.

Plain runs have 200 clients; with REDISMEM_LONG=1 there are 2,000.
"""

import asyncio
import math
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.chaos import ChaosProxy
from tests.clusters import ask
from tests.faults.crew import Member, crew, gather
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(600 if LONG else 120)

CLIENTS = 2_000 if LONG else 200
PROCESSES = 4 if LONG else 2
IN_THREADS = CLIENTS // 10
TASKS = 2
AWAY = 5.0 if LONG else 1.0
"""Seconds for which the server is gone."""
PAUSE = 0.5 if LONG else 0.05
"""Seconds between two calls of one task: else one proxy would be too slow for all."""
PATIENCE = 30.0
"""Seconds for a connection or a reply: all of them share two slow cores and one proxy."""
FILES = 3 * CLIENTS + 1_000


@pytest.fixture(autouse=True)
def _enough_files() -> Iterator[None]:
    """A proxy has two for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if -1 < hard < FILES:
        pytest.skip(f"{FILES} open files are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if soft == -1 else max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- one process ------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """What one client was told."""

    session_id: str
    told: list[int] = field(default_factory=list[int])
    times: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When each call began and ended."""

    def note(self, began: float, total: int) -> None:
        self.told.append(total)
        self.times.append((began, time.monotonic()))

    def back(self, since: float) -> float:
        """When the first call ended that began after that."""
        return next((ended for began, ended in self.times if began > since), math.inf)

    def is_wrong(self) -> bool:
        """Whether anything was counted twice, or not at all."""
        return sorted(self.told) != list(range(1, len(self.told) + 1))


def work(pipe: Connection, index: int, url: str) -> None:
    """Be many clients. Told of a moment, say when the last of them was back."""
    kind, size = (by_threads, IN_THREADS) if index == 0 else (by_tasks, (CLIENTS - IN_THREADS) // (PROCESSES - 1))
    clients = [Client(f"{index}-{number}") for number in range(size)]
    over = threading.Event()
    counting = threading.Thread(target=kind, args=(clients, url, over))
    counting.start()
    wait_for(clients, -math.inf)
    pipe.send("ready")
    pipe.recv()
    since = pipe.recv()
    pipe.send(wait_for(clients, since))
    over.set()
    counting.join()
    pipe.send(
        (
            max(ended - began for client in clients for began, ended in client.times),
            {client.session_id: len(client.told) for client in clients},
            [client.session_id for client in clients if client.is_wrong()],
        )
    )
    pipe.recv()


def wait_for(clients: list[Client], since: float) -> float:
    """Wait until each has made a call since then; when the last of them had."""
    while (back := max(client.back(since) for client in clients)) == math.inf:
        time.sleep(0.05)
    return back


def by_tasks(clients: list[Client], url: str, over: threading.Event) -> None:
    async def count(memory: AsyncMemory, client: Client) -> None:
        while not over.is_set():
            client.note(time.monotonic(), await memory.sessions.increment(client.session_id, "n", "k"))
            await asyncio.sleep(PAUSE)

    async def be(client: Client) -> None:
        async with AsyncMemory(url, retries=100, timeout=PATIENCE, connect_timeout=PATIENCE) as memory:
            await asyncio.gather(*(count(memory, client) for _ in range(TASKS)))

    async def all_() -> None:
        await asyncio.gather(*map(be, clients))

    asyncio.run(all_())


def by_threads(clients: list[Client], url: str, over: threading.Event) -> None:
    def be(client: Client) -> None:
        with Memory(url, retries=100, timeout=PATIENCE, connect_timeout=PATIENCE) as memory:
            while not over.wait(PAUSE):
                client.note(time.monotonic(), memory.sessions.increment(client.session_id, "n", "k"))

    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(be, clients))


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """How many connections were tried, and how many the server had at most."""

    tried: int = 0
    peak: int = 0


@contextmanager
def watched(server: Server, proxy: ChaosProxy) -> Iterator[Watch]:
    """Look all the time."""
    watch, over, before = Watch(), threading.Event(), proxy.counts.connections

    def look() -> None:
        while not over.wait(0.02):
            with suppress(redis.RedisError, OSError):  # the server is away
                watch.peak = max(watch.peak, ask(server, "INFO", "clients")["connected_clients"])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield watch
    finally:
        over.set()
        looking.join()
        watch.tried = proxy.counts.connections - before


def reset(server: Server, proxy: ChaosProxy) -> None:
    """Every connection ends in this moment."""
    assert proxy.reset() == CLIENTS


def restart(server: Server, proxy: ChaosProxy) -> None:
    """The server goes, and comes back after a while."""
    server.stop()
    time.sleep(AWAY)
    server.start()


def losing(members: list[Member], lose: Callable[[], None]) -> float:
    """Seconds from when connecting was possible again until all were back."""
    lose()
    since = time.monotonic()
    for one in members:
        one.tell(since)
    return float(max(one.hear() for one in members) - since)


@pytest.mark.parametrize("lose", [reset, restart])
def test_all_are_back_and_nothing_is_lost(
    new_server: Callable[..., Server], figure: Figures, lose: Callable[[Server, ChaosProxy], None]
) -> None:
    server = new_server("valkey9", "--maxclients", str(2 * CLIENTS + 100), appendonly=True)
    with ChaosProxy(server.port) as proxy, crew(PROCESSES, work, proxy.url) as members:
        gather(members)
        with watched(server, proxy) as watch:
            back = losing(members, lambda: lose(server, proxy))
        reports = [one.hear() for one in members]
    told = {session_id: total for _, totals, _ in reports for session_id, total in totals.items()}
    assert [wrong for _, _, some in reports for wrong in some] == []
    with Memory(server.url) as memory:
        with memory.batch() as batch:
            stored = {session_id: batch.sessions.load(session_id, "n", "k") for session_id in told}
        assert {session_id: handle.result() for session_id, handle in stored.items()} == told
    assert len(told) == CLIENTS <= watch.tried, "not everybody lost its connection: the test proves nothing"
    assert watch.peak <= 1.1 * CLIENTS + 10, "clients had more than one connection"
    away = AWAY if lose is restart else 0.0
    tried = watch.tried / CLIENTS
    assert tried <= 1 + TASKS * (6 + 2 * away), "connecting was tried without a pause"
    fault = f"{CLIENTS:,} clients lose their connections" + (f", the server for {away:g} s" if away else "")
    figure(fault, "until all were back", back, "s", "max")
    figure(fault, "longest call", max(longest for longest, *_ in reports), "s", "max")
    figure(fault, "most connections the server had", watch.peak, fold="max")
    figure(fault, "connections tried, for each client", tried, fold="max")
    figure(fault, "increments", sum(told.values()))
    figure(fault, "increments lost or doubled, calls failed", 0)
