"""Four processes read each other's writes through L1 while everything happens to those who listen for them.

Each key has one writer, which writes ever larger numbers and notes when each was acknowledged; readers note what they
read, and when the read began, all by the one clock of this machine. A proxy delays the listeners' connections, swallows
all that is said on them, and cuts them; processes are stopped and go on. Afterwards three things are counted:

- reads older than the bound: than what was acknowledged that long before they began;
- reads after a reconnect that are older than what was acknowledged when the listener was back;
- reads of what the process itself had written, older than that.

Plain runs last some seconds; with REDISMEM_LONG=1 each of the four processes makes 100,000 reads.
"""

import json
import logging
import math
import multiprocessing
import os
import random
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redismem import Memory
from redismem.cache.l1 import L1
from redismem.cache.tracking import Listener
from redismem.chaos import ChaosProxy, Faults
from tests.clusters import Cluster, ask, until
from tests.faults.figures import LONG, Figures
from tests.servers import Server

READS, SECONDS = (100_000, 60.0) if LONG else (1_000, 3.0)
"""How many of each process, and for how long, at least."""

PROCESSES, KEYS, HASHES = 4, 24, 8
BOUND = 0.4
WRITE_EVERY = 0.01
SPAWN = multiprocessing.get_context("spawn")

Wrong = dict[str, list[Any]]


def place(key: int) -> tuple[str, str, str]:
    return f"s{key % HASHES}", "n", f"k{key}"


# --- one process ------------------------------------------------------------------------------------------------------


def work(url: str, index: int, fault: str, least: tuple[int, float], log: str, start: Any) -> None:
    """Write the keys that are mine, read all, and note everything."""
    logging.getLogger("redismem").setLevel(logging.ERROR)  # it would tell of each cut
    ons = noting_when_it_listens()
    FAULTS_OF_OURS[fault]()
    mine = [key for key in range(KEYS) if key % PROCESSES == index]
    dice, versions = random.Random(index), dict.fromkeys(mine, 0)
    acks: list[tuple[int, int, float]] = []
    reads: list[tuple[int, int, float]] = []
    with Memory(url, coherence="tracking", coherence_bound=BOUND, l1_ttl=30) as memory:
        for key in mine:
            memory.sessions.save(*place(key), 0)
        while not memory.stats().l1.listening:
            memory.sessions.load(*place(0))
        start.wait()
        began = written = time.monotonic()
        while len(reads) < least[0] or time.monotonic() < began + least[1]:
            key = dice.randrange(KEYS)
            session_id, namespace, name = place(key)
            now = time.monotonic()
            match dice.randrange(12):
                case 0:
                    value = memory.sessions.load_many(session_id, namespace, [name])[name]
                case 1:
                    value = memory.sessions.get_all(session_id, namespace)[name]
                case _:
                    value = memory.sessions.load(session_id, namespace, name)
            reads.append((key, value, now))
            if now > written + WRITE_EVERY:
                written, key = now, dice.choice(mine)
                versions[key] += 1
                memory.sessions.save(*place(key), versions[key])
                acks.append((key, versions[key], time.monotonic()))
            time.sleep(0.0002)
        stats = memory.stats().l1
        noted = {"acks": acks, "reads": reads, "ons": ons, "hits": stats.hits, "invalidations": stats.invalidations}
    Path(log).write_text(json.dumps(noted), "utf-8")


def noting_when_it_listens() -> list[float]:
    """The moments at which L1 began to be used, from now on."""
    ons: list[float] = []
    answered = Listener.answered

    def noting(listener: Listener) -> None:
        now, was_on = time.monotonic(), listener._is_on
        answered(listener)
        if listener._is_on and not was_on:
            ons.append(now)

    Listener.answered = noting  # type: ignore[method-assign]
    return ons


def ignore_the_bound() -> None:
    """Serve for as long as nothing is heard of a cut."""
    answered = Listener.answered

    def believing(listener: Listener) -> None:
        answered(listener)
        if listener._is_on:
            listener._l1.good_until = 1e15

    Listener.answered = believing  # type: ignore[method-assign]


def keep_all() -> None:
    """Keep what was read before a cut."""
    L1.flush = lambda _: None  # type: ignore[method-assign]


def keep_own() -> None:
    """Do not drop what one has written."""
    drop = L1.drop
    L1.invalidate = lambda self, name: drop(self, name)  # type: ignore[method-assign,assignment,return-value]
    L1.drop = lambda *_: False  # type: ignore[method-assign]


FAULTS_OF_OURS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "bound": ignore_the_bound,
    "reconnect": keep_all,
    "own": keep_own,
}


# --- what happens to them ---------------------------------------------------------------------------------------------


def troubles(proxy: ChaosProxy, processes: list[Any]) -> Iterator[None]:
    """One thing after the other happens to those who listen, or to a process; for ever."""
    dice = random.Random(5)
    while True:
        proxy.replies = Faults(black_hole=True)  # comes when all have had time to listen
        time.sleep(BOUND * 1.5)
        proxy.replies = Faults(slices=3)
        yield
        proxy.refusing = True
        proxy.reset()
        time.sleep(0.2)
        proxy.refusing = False
        time.sleep(0.2)
        yield
        proxy.reset()
        proxy.replies = Faults(latency=dice.uniform(0, 0.1), jitter=0.1)
        time.sleep(0.3)
        yield
        if (stopped := dice.choice(processes)).is_alive():
            os.kill(stopped.pid, signal.SIGSTOP)
            time.sleep(BOUND * 1.5)
            os.kill(stopped.pid, signal.SIGCONT)
        yield
        proxy.replies = Faults()
        time.sleep(0.3)
        yield


@contextmanager
def working(url: str, faults: list[str], least: tuple[int, float], directory: Path) -> Iterator[list[Any]]:
    """All processes at work; at the end of the block they are waited for."""
    start = SPAWN.Barrier(PROCESSES + 1)
    processes: list[Any] = [
        SPAWN.Process(target=work, args=(url, index, fault, least, str(directory / f"{index}.json"), start))
        for index, fault in enumerate(faults)
    ]
    for process in processes:
        process.start()
    try:
        start.wait(60)
        yield processes
        for process in processes:
            process.join(600)
        assert [process.exitcode for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
            process.join()


def wrong_reads(logs: list[dict[str, Any]]) -> Wrong:
    """What must not be: each as (process, key, version read, version that it had to be at least, when)."""
    versions: list[list[int]] = [[0] for _ in range(KEYS)]
    moments: list[list[float]] = [[-math.inf] for _ in range(KEYS)]
    for log in logs:
        for key, version, moment in log["acks"]:
            versions[key].append(version)
            moments[key].append(moment)
    wrong: Wrong = {"bound": [], "reconnect": [], "own": []}
    for process, log in enumerate(logs):
        ons = log["ons"]
        for key, version, began in log["reads"]:
            latest_on = ons[bisect_right(ons, began) - 1]
            until_ = {"bound": began - BOUND, "reconnect": latest_on}
            if key % PROCESSES == process:
                until_["own"] = began
            for rule, moment in until_.items():
                least = versions[key][bisect_right(moments[key], moment) - 1]
                if version < least:
                    wrong[rule].append((process, key, version, least, began))
    return wrong


def logs_of(server: Server, faults: list[str], least: tuple[int, float], directory: Path) -> list[dict[str, Any]]:
    """What the processes noted, after all that happened to them."""
    with ChaosProxy(server.port, seed=5) as proxy:
        proxy.only = lambda sent: b"TRACKING" in sent
        with working(proxy.url, faults, least, directory) as processes:
            for _ in troubles(proxy, processes):
                if not any(process.is_alive() for process in processes):
                    break
    return [json.loads((directory / f"{index}.json").read_text("utf-8")) for index in range(PROCESSES)]


@pytest.mark.timeout(1800)
def test_nothing_is_older_than_was_promised(valkey: Server, tmp_path: Path, figure: Figures) -> None:
    logs = logs_of(valkey, ["none"] * PROCESSES, (READS, SECONDS), tmp_path)
    assert wrong_reads(logs) == {"bound": [], "reconnect": [], "own": []}
    reads = sum(len(log["reads"]) for log in logs)
    assert reads >= PROCESSES * READS
    assert sum(log["hits"] for log in logs) > reads / 10, "L1 had no part in this"
    assert sum(log["invalidations"] for log in logs) > 100
    ons = sum(len(log["ons"]) for log in logs)
    assert ons > PROCESSES, "nothing was cut"
    fault = "listeners delayed, silenced and cut, processes stopped"
    figure(fault, "times that 4 processes listened again", ons - PROCESSES)
    figure(fault, "reads", reads)
    figure(fault, f"reads older than the bound of {BOUND:g} s, than a reconnect, than own writes", 0)


def test_whoever_breaks_the_promise_is_found_out(valkey: Server, tmp_path: Path) -> None:
    """On a machine that is too slow to be found out at once, later."""
    faults = ["none", "bound", "reconnect", "own"]
    unseen = set(faults) - {"none"}
    for _ in range(5):
        for rule, reads in wrong_reads(logs_of(valkey, faults, (1_000, 3.0), tmp_path)).items():
            guilty = {faults[process] for process, *_ in reads}
            assert "none" not in guilty, rule
            if rule in guilty:
                unseen.discard(rule)
        if not unseen:
            return
    raise AssertionError(f"nobody noticed: {unseen}")


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_every_primary_of_a_cluster_is_listened_to() -> None:
    """Also those that slots move to, and those that take over."""
    ids = [f"s{number}" for number in range(12)]
    with (
        Cluster.launch() as cluster,
        Memory(cluster.url, coherence="tracking") as memory,
        Memory(cluster.url) as other,
    ):

        def all_are_told(version: int) -> None:
            until(lambda: memory.sessions.load("s0", "n", "k") and memory.stats().l1.listening)
            for session_id in ids:
                memory.sessions.load(session_id, "n", "k")
            for session_id in ids:
                other.sessions.save(session_id, "n", "k", version)
            for session_id in ids:
                began = time.monotonic()
                until(lambda session_id=session_id: memory.sessions.load(session_id, "n", "k") == version)
                assert time.monotonic() < began + memory.settings.coherence_bound

        for session_id in ids:
            other.sessions.save(session_id, "n", "k", 1)
        all_are_told(2)
        hits = memory.stats().l1.hits
        assert [memory.sessions.load(session_id, "n", "k") for session_id in ids] == [2] * len(ids)
        assert memory.stats().l1.hits >= hits
        slot = cluster.slot("redismem:session:{s0}:ns:n")
        source = cluster.owner(slot)
        cluster.move([slot], next(primary for primary in cluster.primaries() if primary is not source))
        all_are_told(3)
        replica = next(server for server in cluster.servers if server not in cluster.primaries())
        ask(replica, "CLUSTER", "FAILOVER")
        until(lambda: replica in cluster.primaries())
        cluster.settle()
        all_are_told(4)
