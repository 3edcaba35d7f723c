"""Locks between real processes that are stopped and killed."""

import asyncio
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.chaos import ChaosProxy
from redismem.coordination.fence import Fence
from redismem.errors import LockLost, StaleFence
from tests.faults.figures import Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(120)

LONG = bool(os.environ.get("REDISMEM_LONG"))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])  # imported once, and not by each of 32
LEASE = 0.5
QUEUE = "redismem:user:{42}:queue:default"
WITHIN = 60.0


@contextmanager
def crew(size: int, work: Callable[..., None], *args: Any) -> Iterator[list[tuple[BaseProcess, Connection]]]:
    """Processes that run `work(pipe, *args)`; what is left of them is killed at the end."""
    members: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(size):
            ours, theirs = PROCESSES.Pipe()
            process = PROCESSES.Process(target=work, args=(theirs, *args), daemon=True)
            process.start()
            theirs.close()
            members.append((process, ours))
        yield members
    finally:
        for process, pipe in members:
            process.kill()
            process.join()
            pipe.close()


def hear(pipe: Connection) -> Any:
    """What the process says next."""
    assert pipe.poll(WITHIN), "the process says nothing"
    return pipe.recv()


# --- one at a time, in order ----------------------------------------------------------------------------------------


def count_under_the_lock(pipe: Connection, url: str, rounds: int) -> None:
    """Read and write without any atomicity but the lock's; say when the lock was held, and with which token."""
    held: list[tuple[int, float, float]] = []
    with Memory(url) as memory:
        pipe.send("ready")
        pipe.recv()
        for _ in range(rounds):
            with memory.lock("42") as lock:
                began = time.monotonic()
                count = memory.sessions.load("42", "n", "count", 0)
                memory.sessions.save("42", "n", "count", count + 1, fence=lock)
                held.append((lock.token, began, time.monotonic()))
        pipe.send(held)
        pipe.recv()


@pytest.mark.parametrize("size", [8, 32])
def test_one_at_a_time_and_tokens_in_order(valkey: Server, figure: Figures, size: int) -> None:
    rounds = 100 if LONG else 160 // size
    with crew(size, count_under_the_lock, valkey.url, rounds) as members, Memory(valkey.url) as memory:
        for _, pipe in members:
            assert hear(pipe) == "ready"
        for _, pipe in members:
            pipe.send("go")
        held = sorted(each for _, pipe in members for each in hear(pipe))
        assert memory.sessions.load("42", "n", "count") == size * rounds == len(held)
    for (token, _, ended), (next_token, began, _) in itertools.pairwise(held):
        assert token < next_token
        assert ended < began, "two held the lock at once"
    figure("8 and 32 processes at one lock", "turns, one at a time, with tokens in order", len(held))


def take_in_turn(pipe: Connection, url: str, number: int) -> None:
    """Wait for the lock, once; when it comes, put the number down where all do."""
    with Memory(url) as memory, memory.lock("42") as lock:
        order = memory.sessions.load("42", "n", "order", [])
        memory.sessions.save("42", "n", "order", [*order, number], fence=lock)
    pipe.send("done")


def wait_for_queue(valkey: Server, length: int) -> None:
    """Until so many wait."""
    until = time.monotonic() + WITHIN
    with redis.Redis(port=valkey.port) as raw:
        while raw.zcard(QUEUE) < length:
            assert time.monotonic() < until, "nobody joins the queue"
            time.sleep(0.005)


@pytest.mark.parametrize("size", [8, 32] if LONG else [8])
def test_processes_are_served_in_the_order_in_which_they_came(valkey: Server, size: int) -> None:
    with ExitStack() as stack, Memory(valkey.url) as memory:
        members: list[tuple[BaseProcess, Connection]] = []
        with memory.lock("42"):
            for number in range(size):
                members += stack.enter_context(crew(1, take_in_turn, valkey.url, number))
                wait_for_queue(valkey, number + 1)
        assert [hear(pipe) for _, pipe in members] == ["done"] * size
        assert memory.sessions.load("42", "n", "order") == list(range(size))


# --- lost replies ---------------------------------------------------------------------------------------------------


def test_lost_replies_take_and_give_a_lock_once(valkey: Server) -> None:
    """Scripts are run and not answered, up to three times one after the other."""
    rounds = 100 if LONG else 10
    with ChaosProxy(valkey.port, seed=0) as proxy, Memory(proxy.url, retries=10) as memory, Memory(valkey.url) as other:
        for number in range(rounds):
            lock = memory.lock("42")
            proxy.cut_replies(to=b"user:{42}:lock", times=number % 3 + 1)
            assert lock.acquire()
            lock.check()
            assert other.lock("42", wait=0).acquire() is False
            proxy.cut_replies(to=b"user:{42}:lock", times=number % 3 + 1)
            lock.release()  # and no LockLost
            with other.lock("42", wait=0):
                pass
        assert proxy.counts.cuts >= 2 * rounds


async def test_lost_replies_to_those_who_wait(valkey: Server) -> None:
    """The wake-up itself is lost now and then; whoever was handed the lock finds out by asking again."""
    size = 100 if LONG else 20

    async def one(memory: AsyncMemory, plain: AsyncMemory) -> None:
        async with memory.lock("42") as lock:
            count = await plain.sessions.load("42", "n", "count", 0)
            await plain.sessions.save("42", "n", "count", count + 1, fence=lock)

    with ChaosProxy(valkey.port, seed=0) as proxy:
        async with AsyncMemory(valkey.url) as plain, AsyncMemory(proxy.url, retries=20) as memory:
            proxy.cut_replies(0.2, to=b"user:{42}:")
            await asyncio.gather(*(one(memory, plain) for _ in range(size)))
            proxy.cut_replies(0)
            assert await plain.sessions.load("42", "n", "count") == size
            assert proxy.counts.cuts > 0
            async with plain.lock("42", wait=0):
                pass


# --- stopped and killed ---------------------------------------------------------------------------------------------


def hold(pipe: Connection, url: str) -> None:
    """Hold the lock, and write under it when told to, whatever has become of it."""
    with Memory(url) as memory:
        lock = memory.lock("42", lease=LEASE)
        lock.acquire()
        pipe.send(lock.fence)
        while pipe.recv() == "write":
            try:
                memory.sessions.save("a", "n", "by", os.getpid(), fence=lock)
            except (StaleFence, LockLost) as error:
                pipe.send(type(error).__name__)
            else:
                pipe.send("written")


def wait_in_the_queue(pipe: Connection, url: str) -> None:
    with Memory(url) as memory:
        pipe.send("waits")
        with memory.lock("42", lease=LEASE):
            pipe.send("held")


@pytest.mark.parametrize("run", range(1_000 if LONG else 8))
def test_a_stopped_holder_writes_nothing_once_another_has_the_lock(valkey: Server, figure: Figures, run: int) -> None:
    with crew(1, hold, valkey.url) as [(process, pipe)], Memory(valkey.url) as memory:
        old: Fence = hear(pipe)
        pipe.send("write")
        assert hear(pipe) == "written"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with memory.lock("42") as lock:
            waited = time.monotonic() - began
            assert lock.token > old.token
            pipe.send("write")
            os.kill(process.pid, signal.SIGCONT)
            assert hear(pipe) == "StaleFence"
            assert memory.sessions.load("a", "n", "by") == process.pid
            memory.sessions.save("a", "n", "by", "us", fence=lock)
            pipe.send("write")
            assert hear(pipe) == "StaleFence"
        assert memory.sessions.load("a", "n", "by") == "us"
        assert waited < LEASE + 10, "its lease delays the others, and nothing else does"
    figure("SIGSTOP of lock holders", "writes of a stopped holder, refused", 2)
    figure("SIGSTOP of lock holders", "writes of a stopped holder, taken", 0)
    figure("SIGSTOP of lock holders", f"longest wait for the lock, lease {LEASE:g} s", waited, "s", "max")


def take_when_woken(pipe: Connection, url: str) -> None:
    """Wait for the lock, and say what this process believes when it has it."""
    with Memory(url) as memory:
        lock = memory.lock("42", lease=LEASE)
        lock.acquire()
        pipe.send((lock.lost, lock.token))
        pipe.recv()
        lock.release()


def test_a_waiter_that_was_stopped_does_not_believe_in_a_lease_that_went(valkey: Server) -> None:
    """It is handed the lock while it is stopped, and the lease ends before it can know."""
    with Memory(valkey.url) as memory:
        first = memory.lock("42")
        first.acquire()
        with crew(1, take_when_woken, valkey.url) as [(process, pipe)]:
            wait_for_queue(valkey, 1)
            time.sleep(0.05)  # now it is blocked
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            first.release()
            with memory.lock("42") as ours:
                os.kill(process.pid, signal.SIGCONT)
                assert not pipe.poll(2 * LEASE), "two believe to hold the lock"
                before = ours.token
            lost, token = hear(pipe)
            assert not lost
            assert token > before
            pipe.send("go on")
            process.join(WITHIN)
            assert process.exitcode == 0


def test_a_killed_holder_delays_the_others_by_its_lease(valkey: Server, figure: Figures) -> None:
    with crew(1, hold, valkey.url) as [(process, pipe)], Memory(valkey.url) as memory:
        hear(pipe)
        process.kill()
        process.join()
        began = time.monotonic()
        assert memory.lock("42", wait=WITHIN).acquire()
        waited = time.monotonic() - began
    figure("SIGKILL of a lock holder", f"wait for the lock, lease {LEASE:g} s", waited, "s", "max")


def test_killed_waiters_are_passed_over(valkey: Server) -> None:
    with crew(3, wait_in_the_queue, valkey.url) as members, Memory(valkey.url) as memory:
        with memory.lock("42"):
            for _, pipe in members:
                assert hear(pipe) == "waits"
            time.sleep(0.2)
            for process, _ in members[:2]:
                process.kill()
                process.join()
        assert hear(members[2][1]) == "held"
        with memory.lock("42", wait=WITHIN):
            pass
