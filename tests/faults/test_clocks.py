"""Workers whose clocks are an hour off, or jump: no deadline, lease or promise moves, for all time is the server's.

The clock that is wrong is the one that people set (CLOCK_REALTIME). What counts seconds since the start goes right on
such machines, and is left alone here; so it can tell what happened when, in all processes.
"""

import itertools
import select
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import redis

from redismem import EpisodicMemory, Memory
from redismem.chaos import ChaosProxy, Faults
from tests.conftest import CI
from tests.faults.crew import Member, crew, member
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(600 if LONG else 120)

HOUR = 3600.0
CLOCKS = ("+1h", "-1h")
TTL = 5.0 if LONG else 0.6
LEASE = 1.0 if LONG else 0.4
TURNS = 500 if LONG else 15
BOUND = 0.3
SECONDS = 30.0 if LONG else 2.0
SLACK = 0.1
"""Seconds by which a server may be late to see that time has passed."""

FAULT = "worker clocks an hour off, or jumping by hours"

# --- the workers ------------------------------------------------------------------------------------------------------


def slept(seconds: float) -> None:
    """libfaketime's clock_nanosleep is for programs all of whose clocks are wrong, and refuses others."""
    select.select([], [], [], seconds)


def obey(pipe: Connection, index: int) -> None:
    """Tell the time, then do whatever is asked: a function and its arguments."""
    time.sleep = slept  # type: ignore[assignment]
    pipe.send(time.time())
    while True:
        function, *arguments = pipe.recv()
        pipe.send(function(*arguments))


@pytest.fixture(scope="module")
def library() -> Path:
    """Where libfaketime is. The one for threads, since a listener and a watchdog are."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so*"))
    if not found:
        (pytest.fail if CI else pytest.skip)("libfaketime is missing: apt-get install libfaketime (Debian 12)")
    return found[0]


class Clock:
    """The clock of the worker whose clock jumps."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.jump("+25h")

    def jump(self, offset: str) -> None:
        """From now on it is that much off."""
        new = self.file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.replace(self.file)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture
def jumps(clock: Clock) -> Iterator[None]:
    """The clock jumps by hours, forwards and back, all the time."""
    over, offsets = threading.Event(), itertools.cycle(("+1h", "+0", "-1h", "+25h"))

    def jump() -> None:
        while not over.wait(0.05):
            clock.jump(next(offsets))

    thread = threading.Thread(target=jump)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.fixture(scope="module")
def workers(library: Path, clock: Clock) -> Iterator[list[Member]]:
    """One whose clock is right, two whose clocks are wrong, and one whose clock jumps."""
    preloaded = {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    wrong = [{"FAKETIME": clock} for clock in CLOCKS]
    wrong.append({"FAKETIME_TIMESTAMP_FILE": str(clock.file), "FAKETIME_NO_CACHE": "1"})
    with crew(1, obey) as members:
        members += [member(index, obey, environment=preloaded | clock) for index, clock in enumerate(wrong, 1)]
        right, *others = [one.hear() for one in members]
        for said, off in zip(others, (HOUR, -HOUR, 25 * HOUR), strict=True):
            assert abs(said - right - off) < HOUR / 4, "the clock is not wrong: the test proves nothing"
        yield members


def all_do(workers: list[Member], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What each of them makes of it, all at once; the function gets the worker's number too."""
    for one in workers:
        one.tell((function, one.index, *arguments))
    return [one.hear() for one in workers]


# --- deadlines --------------------------------------------------------------------------------------------------------

Span = tuple[float, float]


def write_with_ends(index: int, url: str) -> Span:
    """A key that ends by itself, one by `expire`, a session that ends as a whole; between which moments."""
    began = time.monotonic()
    with Memory(url) as memory:
        memory.sessions.save("s", "n", f"{index}", 1, ttl=TTL)
        memory.sessions.save("s", "n", f"{index} expires", 1)
        memory.sessions.expire("s", "n", f"{index} expires", TTL)
        memory.sessions.save(f"t{index}", "n", "k", 1)
        memory.sessions.touch(f"t{index}", TTL)
    return began, time.monotonic()


def watch_them_end(_: int, url: str, size: int) -> list[tuple[str, bool, float, float]]:
    """Whether each key was there, asked and answered when, until all of them are gone."""
    places = [("s", f"{i}{how}") for i in range(size) for how in ("", " expires")]
    places += [(f"t{i}", "k") for i in range(size)]
    seen, is_any_left = list[tuple[str, bool, float, float]](), True
    with Memory(url, coherence="tracking") as memory:
        while is_any_left:
            is_any_left = False
            for session_id, key in places:
                asked = time.monotonic()
                is_there = memory.sessions.load(session_id, "n", key) is not None
                seen.append((session_id if key == "k" else key, is_there, asked, time.monotonic()))
                is_any_left |= is_there
            time.sleep(0.002)
    return seen


@pytest.mark.usefixtures("jumps")
@pytest.mark.parametrize("server", ["valkey9", "redis70", "redis62"] if LONG else ["valkey9", "redis62"], indirect=True)
def test_deadlines(server: Server, workers: list[Member], figure: Figures) -> None:
    size = len(workers)
    written = all_do(workers, write_with_ends, server.url)
    looks = [look for seen in all_do(workers, watch_them_end, server.url, size) for look in seen]
    for key, is_there, asked, answered in looks:
        first, last = written[int(key.removeprefix("t").removesuffix(" expires"))]
        if is_there:
            assert asked < last + TTL + SLACK, f"{key} has outlived its deadline"
        else:
            assert answered > first + TTL - SLACK, f"{key} went before its deadline"
    assert any(is_there for _, is_there, *_ in looks), "they were not even looked at in time"
    figure(FAULT, "reads of keys with a TTL, there before their ends and gone after them", len(looks))


def add_episode(index: int, url: str) -> None:
    with Memory(url) as memory:
        memory.episodes.add(EpisodicMemory(memory_id=f"e{index}", content="now"), ttl=100)


@pytest.mark.usefixtures("jumps")
def test_times_that_are_stored(valkey: Server, workers: list[Member]) -> None:
    all_do(workers, add_episode, valkey.url)
    all_do(workers, write_with_ends, valkey.url)
    with Memory(valkey.url) as memory, redis.Redis(port=valkey.port) as raw:
        sessions = [info for info in map(memory.sessions.info, memory.sessions.scan()) if info is not None]
        moments = [episode.document.created_at for episode in memory.episodes.search()]
        moments += [moment for info in sessions for moment in (info.created_at, info.last_active)]
        assert len(moments) > len(workers)
        for moment in moments:
            assert moment is not None
            assert abs(moment.timestamp() - raw.time()[0]) < 120


# --- locks ------------------------------------------------------------------------------------------------------------


def count_under_the_lock(_: int, url: str) -> list[tuple[int, float, float]]:
    """Reads and writes with no atomicity but the lock's; each turn's token, and when the lock was held."""
    held: list[tuple[int, float, float]] = []
    with Memory(url) as memory:
        for _ in range(TURNS):
            with memory.lock("42") as lock:
                began = time.monotonic()
                count = memory.sessions.load("42", "n", "count", 0)
                memory.sessions.save("42", "n", "count", count + 1, fence=lock)
                held.append((lock.token, began, time.monotonic()))
    return held


@pytest.mark.usefixtures("jumps")
def test_one_at_a_time(valkey: Server, workers: list[Member], figure: Figures) -> None:
    held = sorted(turn for turns in all_do(workers, count_under_the_lock, valkey.url) for turn in turns)
    for (token, _, ended), (next_token, began, _) in itertools.pairwise(held):
        assert token < next_token
        assert ended < began, "two held the lock at once"
    with Memory(valkey.url) as memory:
        assert memory.sessions.load("42", "n", "count") == len(held) == TURNS * len(workers)
    figure(FAULT, "turns at a lock, one at a time, with tokens in order", len(held))


def hold_for_long(_: int, url: str) -> bool:
    """Hold the lock for three leases; whether it was held all the time, and by nobody else."""
    with Memory(url) as memory, Memory(url) as other, memory.lock("42", lease=LEASE) as lock:
        until, alone = time.monotonic() + 3 * LEASE, True
        while time.monotonic() < until:
            lock.check()
            alone = alone and not other.lock("42", wait=0).acquire()
            time.sleep(0.02)
        return alone


def die_with_it(_: int, url: str) -> Span:
    """Take the lock and never give it back; between which moments."""
    began = time.monotonic()
    with Memory(url) as memory:
        assert memory.lock("42", lease=LEASE).acquire()
        return began, time.monotonic()


def take(_: int, url: str) -> float:
    with Memory(url) as memory, memory.lock("42"):
        return time.monotonic()


@pytest.mark.usefixtures("jumps")
def test_leases(valkey: Server, workers: list[Member], figure: Figures) -> None:
    """Each keeps the lock for as long as it lives, and delays the next one by its lease if it does not."""
    longest = 0.0
    for holder, next_one in zip(workers, workers[1:] + workers[:1], strict=True):
        began, ended = all_do([holder], die_with_it, valkey.url)[0]
        taken = all_do([next_one], take, valkey.url)[0]
        assert began + LEASE - SLACK < taken < ended + LEASE + 20
        longest = max(longest, taken - ended)
    for holder in workers[1:] if LONG else workers[-1:]:
        assert all_do([holder], hold_for_long, valkey.url) == [True]
    figure(FAULT, f"wait for the lock of a dead holder, lease {LEASE:g} s", longest, "s", "max")


# --- L1 ---------------------------------------------------------------------------------------------------------------


def read_on_and_on(_: int, url: str) -> tuple[list[tuple[int, float]], int]:
    """What was read, and when it was asked for; how often L1 answered."""
    reads: list[tuple[int, float]] = []
    with Memory(url, coherence="tracking", coherence_bound=BOUND) as memory:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            asked = time.monotonic()
            reads.append((memory.sessions.load("s", "n", "k"), asked))
            time.sleep(0.0005)
        return reads, memory.stats().l1.hits


def test_the_bound_of_l1(valkey: Server, workers: list[Member], clock: Clock, figure: Figures) -> None:
    """Listeners hear nothing, again and again: only their clocks tell how old the values are that they keep.

    Just then one clock goes back by 26 hours.
    """
    acks: list[float] = []
    with ChaosProxy(valkey.port) as proxy, Memory(valkey.url) as memory:
        proxy.only = lambda sent: b"TRACKING" in sent
        memory.sessions.save("s", "n", "k", 0)
        for one in workers:
            one.tell((read_on_and_on, one.index, proxy.url))
        while not all(one.pipe.poll() for one in workers):
            match len(acks) % 50:
                case 0:
                    proxy.replies = Faults()
                    clock.jump("+25h")
                case 20:
                    proxy.replies = Faults(black_hole=True)
                    clock.jump("-1h")
            memory.sessions.save("s", "n", "k", len(acks) + 1)
            acks.append(time.monotonic())
            time.sleep(0.02)
        heard = [one.hear() for one in workers]
    for reads, hits in heard:
        assert hits > len(reads) / 20, "L1 had no part in this"
        for version, asked in reads:
            assert version == len(acks) or acks[version] > asked - BOUND, "older than the bound"
    figure(FAULT, f"reads through L1, none older than the bound of {BOUND:g} s", sum(len(reads) for reads, _ in heard))
