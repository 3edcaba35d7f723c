"""SIGKILL: of workers in the middle of what they do, and of the server under their feet.

Workers write down what they begin and what they are told, in files that outlive them. Of a worker that is killed, each
call happened as a whole or not at all; what was acknowledged happened once. Of a server that is killed, what was
acknowledged is there again as far as its append-only file promises, and all workers go on by themselves.

SIGKILL ends a process and not its machine: what the server has handed to the kernel is safe, so that less is lost with
`appendfsync everysec` than the second or two that a power failure may take.
"""

import asyncio
import math
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from redismem import AsyncMemory, Durability, Memory
from redismem.errors import LinkError, LockError
from tests.clusters import until
from tests.faults.crew import WITHIN, Member, crew, member
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(600 if LONG else 120)

# --- workers that are killed ------------------------------------------------------------------------------------------

WORKERS, KILLS = (4, 80) if LONG else (3, 5)
RESERVE = 3
"""Workers that stand by, since starting one takes longer than it is to live."""
NAMESPACES = [f"n{number}" for number in range(5)]


def by_increment(memory: Memory) -> int:
    return memory.sessions.increment("s", "counts", "increment")


def by_update(memory: Memory) -> int:
    return int(memory.sessions.update("s", "counts", "update", lambda n: n + 1, default=0))


def by_lock(memory: Memory) -> int:
    """Reads and writes with no atomicity but the lock's. Who is killed with it delays the others by its lease."""
    with memory.lock("s", lease=0.2) as lock:
        count = int(memory.sessions.load("s", "counts", "lock", 0)) + 1
        memory.sessions.save("s", "counts", "lock", count, fence=lock)
        return count


def by_transaction(memory: Memory) -> int:
    """Reads one count and writes three, in two namespaces."""

    def move(t: Any) -> int:
        count = int(t.sessions.load("s", "counts", "transaction", 0)) + 1
        t.sessions.save("s", "counts", "transaction", count)
        t.sessions.increment("s", "more", "one")
        t.sessions.increment("s", "more", "two", 2)
        return count

    return int(memory.transaction("s", attempts=10_000).run(move))


def by_saves(memory: Memory) -> int:
    """Several fields of several namespaces, in one call."""
    number = random.getrandbits(60)
    with memory.transaction("s") as t:
        for namespace in NAMESPACES:
            t.sessions.save_many("s", namespace, {"by": number, "text": 20 * str(number)}, ttl=600)
    return number


COUNTING: Final = {"increment": by_increment, "update": by_update, "lock": by_lock, "transaction": by_transaction}


def merge(pipe: Connection, index: int, url: str, logs: Path) -> None:
    """Everything in turn, each call between two lines of a file, until killed."""
    with Memory(url, update_attempts=10_000) as memory, (logs / str(index)).open("ab", buffering=0) as log:
        memory.sessions.load("s", "counts", "warm")
        pipe.send("ready")
        pipe.recv()
        while True:
            for way, call in (*COUNTING.items(), ("saves", by_saves)):
                log.write(f"{way} ?\n".encode())
                with suppress(LockError):  # a stalled machine may take the lease
                    log.write(f"{way} {call(memory)}\n".encode())


def kill_one_after_the_other(members: list[Member], look: Callable[[], None], *args: Any) -> None:
    """Each is replaced first by one that stands by, until none does. A look after each kill."""
    dice = random.Random(7)
    for number in range(WORKERS):
        assert members[number].hear() == "ready"
        members[number].tell()
    for number in range(KILLS):
        if number + WORKERS < KILLS:
            fresh = members[number + WORKERS]
            assert fresh.hear() == "ready"
            fresh.tell()
        time.sleep(dice.uniform(0.01, 0.15))
        members[number].kill()
        look()
        if len(members) < KILLS:
            members.append(member(len(members), merge, *args))


def noted(logs: Path) -> tuple[Counter[str], dict[str, list[int]]]:
    """Of each way: how often it was begun, and what was told."""
    begun, told = Counter[str](), {way: list[int]() for way in (*COUNTING, "saves")}
    for log in logs.iterdir():
        for line in log.read_text().splitlines():
            way, said = line.split()
            if said == "?":
                begun[way] += 1
            else:
                told[way].append(int(said))
    return begun, told


def are_saved_together(raw: "redis.Redis") -> None:
    """All namespaces hold what one call put there, at one moment."""
    pipeline = raw.pipeline(transaction=True)
    for namespace in NAMESPACES:
        pipeline.hmget(f"redismem:session:{{s}}:ns:{namespace}", "by", "text")
    found = pipeline.execute()
    by, text = found[0]
    assert found == [[by, text]] * len(NAMESPACES)
    assert by is None or text.endswith(20 * by)


def left_over(raw: "redis.Redis") -> list[str]:
    """Keys, other than the session's own, that are not known to end."""
    keys = [key.decode() for key in raw.scan_iter(count=1000)]
    kept = [key for key in keys if not key.startswith(("redismem:session:{s}:ns:", "redismem:session:{s}:ttl:"))]
    brief = [key for key in kept if key != "redismem:session:{s}:meta"]
    lasting = [key for key in brief if raw.pttl(key) == -1]
    return lasting + [key for key in brief if not key.endswith((":ops", ":fence:default"))]


@pytest.mark.parametrize("name", ["valkey9", "redis70", "redis62"] if LONG else ["valkey9", "redis62"])
def test_workers(new_server: Callable[..., Server], tmp_path: Path, figure: Figures, name: str) -> None:
    server = new_server(name)
    with redis.Redis(port=server.port) as raw, Memory(server.url) as memory:
        with crew(min(WORKERS + RESERVE, KILLS), merge, server.url, tmp_path) as members:
            kill_one_after_the_other(members, lambda: are_saved_together(raw), server.url, tmp_path)
        begun, told = noted(tmp_path)
        counts = memory.sessions.get_all("s", "counts")
        for way in COUNTING:
            assert len(set(told[way])) == len(told[way]) > 0, f"{way}: two were told the same"
            assert len(told[way]) <= counts[way] <= begun[way], way
            assert max(told[way]) <= counts[way], way
        unknown = sum(begun[way] - len(told[way]) for way in begun if way != "lock")
        assert unknown <= KILLS
        assert memory.sessions.get_all("s", "more") == {"one": counts["transaction"], "two": 2 * counts["transaction"]}
        are_saved_together(raw)
        assert len(set(told["saves"])) == len(told["saves"]) > 0
        until(lambda: left_over(raw) == [])
    fault = "SIGKILL of workers in the middle of a merge"
    figure(fault, "kills", KILLS)
    figure(fault, "acknowledged increments, updates, transactions, each counted once", sum(map(len, told.values())))
    figure(fault, "calls cut off by the kill, of which each happened as a whole or not at all", unknown)
    figure(fault, "acknowledged calls lost or doubled", 0)


# --- servers that are killed ------------------------------------------------------------------------------------------

RESTARTS = 25 if LONG else 2
TASKS = 8
FAILED: Final = 0
"""Stands for a sum that the writer was not told: the call may have been applied."""
RECORD: Final = struct.Struct("dq")
FSYNC: Final = Durability(fsync=True, timeout=10.0)

Told = list[tuple[float, int]]
"""The sums that one writer was told, and when, by the clock of this machine."""


class Log:
    """Where a writer puts down what it is told."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, total: int) -> None:
        self._file.write(RECORD.pack(time.monotonic(), total))


def count(pipe: Connection, index: int, url: str, logs: Path, durable: Durability | None) -> None:
    """Count on and on, whatever happens; one process in turn, the other in tasks."""
    if index == 0:
        in_turn(pipe, url, logs, durable)
    else:
        asyncio.run(in_tasks(pipe, url, logs, durable))
    pipe.send("done")
    pipe.recv()


def in_turn(pipe: Connection, url: str, logs: Path, durable: Durability | None) -> None:
    """One counter, and its sum in two namespaces."""
    log = Log(logs / "w")
    with Memory(url, durable=durable) as memory:
        log.note(memory.sessions.increment("w", "n", "count"))
        pipe.send("ready")
        while not pipe.poll():
            total = FAILED
            with suppress(LinkError):
                total = memory.sessions.increment("w", "n", "count")
            log.note(total)
            with suppress(LinkError), memory.transaction("w") as t:
                t.sessions.save("w", "left", "sum", total)
                t.sessions.save("w", "right", "sum", total)


async def in_tasks(pipe: Connection, url: str, logs: Path, durable: Durability | None) -> None:
    """A counter for each task."""

    async def task(name: str) -> None:
        log = Log(logs / name)
        log.note(await memory.sessions.increment(name, "n", "count"))
        ready.set()
        while not pipe.poll():
            total = FAILED
            with suppress(LinkError):
                total = await memory.sessions.increment(name, "n", "count")
            log.note(total)

    ready = asyncio.Event()
    async with AsyncMemory(url, durable=durable) as memory, asyncio.TaskGroup() as group:
        for number in range(TASKS):
            group.create_task(task(f"w{number}"))
        await ready.wait()
        pipe.send("ready")


def told_in(log: Path) -> Told:
    data = log.read_bytes()
    return [(moment, total) for moment, total in RECORD.iter_unpack(data) if total != FAILED]


def is_writing_since(log: Path, moment: float) -> bool:
    """Whether the last thing that the writer noted is a sum, told after that."""
    with log.open("rb") as file:
        file.seek(-RECORD.size, 2)
        told_at, total = RECORD.unpack(file.read(RECORD.size))
    return bool(told_at > moment and total != FAILED)


def undone(told: Told) -> tuple[int, float]:
    """How many acknowledged increments a later sum knows nothing of; the most seconds that were lost at a time."""
    living, lost, seconds = Told(), 0, 0.0
    for moment, total in told:
        latest = living[-1][0] if living else 0.0
        while living and living[-1][1] >= total:
            gone, _ = living.pop()
            lost, seconds = lost + 1, max(seconds, latest - gone)
        living.append((moment, total))
    return lost, seconds


def restart_again_and_again(server: Server, logs: list[Path], memory: Memory) -> list[float]:
    """Kill the server, and start it again after a while; returns when it was back, each time when all wrote again."""
    dice, backs = random.Random(7), list[float]()
    for _ in range(RESTARTS):
        time.sleep(dice.uniform(0.1, 0.4))
        server.kill()
        time.sleep(dice.uniform(0, 0.4))
        server.start()
        backs.append(time.monotonic())
        until(lambda: all(is_writing_since(log, backs[-1]) for log in logs), WITHIN)
        sums = memory.transaction("w").run(lambda t: [t.sessions.load("w", side, "sum") for side in ("left", "right")])
        assert sums[0] == sums[1], "a transaction was half written"
    return backs


@dataclass
class Outcome:
    """What became of all writers of one server."""

    told: int
    failed: int
    lost: int
    seconds_lost: float
    recovery: list[float]
    """Seconds after each restart until the last writer was told a sum."""


def outcome(server: Server, directory: Path, durable: Durability | None) -> Outcome:
    """Two processes write to a server that is killed again and again."""
    logs = [directory / name for name in ("w", *(f"w{number}" for number in range(TASKS)))]
    with crew(2, count, server.url, directory, durable) as members, Memory(server.url, retries=10) as memory:
        assert [one.hear() for one in members] == ["ready", "ready"]
        until(lambda: all(is_writing_since(log, 0) for log in logs), WITHIN)
        backs = restart_again_and_again(server, logs, memory)
        for one in members:
            one.tell("end")
        assert [one.hear() for one in members] == ["done", "done"]
        stored = {log: memory.sessions.load(log.name, "n", "count") for log in logs}
    told = {log: told_in(log) for log in logs}
    failed = {log: log.stat().st_size // RECORD.size - len(told[log]) for log in logs}
    losses = {log: undone([*told[log], (math.inf, stored[log] + 1)]) for log in logs}
    for log in logs:
        assert stored[log] <= len(told[log]) - losses[log][0] + failed[log], "an increment was counted twice"
    return Outcome(
        told=sum(map(len, told.values())),
        failed=sum(failed.values()),
        lost=sum(lost for lost, _ in losses.values()),
        seconds_lost=max(seconds for _, seconds in losses.values()),
        recovery=[max(first_after(told[log], back) for log in logs) - back for back in backs],
    )


def first_after(told: Told, moment: float) -> float:
    return next(at for at, _ in told if at > moment)


CASES = [("valkey9", "always", None), ("valkey9", "everysec", None), ("valkey9", "everysec", FSYNC)]
CASES += [(name, policy, None) for name in ("redis70", "redis62") for policy in ("always", "everysec") if LONG]


@pytest.mark.parametrize(("name", "policy", "durable"), CASES)
def test_servers(
    new_server: Callable[..., Server],
    tmp_path: Path,
    figure: Figures,
    name: str,
    policy: str,
    durable: Durability | None,
) -> None:
    found = outcome(new_server(name, "--appendfsync", policy, appendonly=True), tmp_path, durable)
    if policy == "everysec" and durable is None:
        assert found.seconds_lost <= 3.0
    else:
        assert found.lost == 0
    fault = f"SIGKILL of the server, appendfsync {policy}" + (", durable=Durability(fsync=True)" if durable else "")
    figure(fault, "kills", RESTARTS)
    figure(fault, "increments acknowledged", found.told)
    figure(fault, "of these lost", found.lost)
    if policy == "everysec" and durable is None:
        figure(fault, "most that was lost at a time", 1000 * found.seconds_lost, "ms", "max")
    figure(fault, "calls that failed, and said so", found.failed)
    figure(fault, "until all writers were told sums again, after the server was back", max(found.recovery), "s", "max")


def test_a_server_that_forgets_everything(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """Without an append-only file all is lost, and that is noticed; the workers go on, and what they write is whole."""
    server = new_server("valkey9")
    found = outcome(server, tmp_path, None)
    assert found.lost >= RESTARTS * TASKS
    with Memory(server.url) as memory:
        info = memory.sessions.info("w")
        assert info is not None
        assert set(info.namespaces) == {"n", "left", "right"}
