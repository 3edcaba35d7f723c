"""Four processes work on the same keys through connections that break: what they were told is one store's story.

Every call is written down before it is made; afterwards `tests.faults.linearizability` looks for an order. Two planted
bugs show that it would find none for a store that remembers what it should not, or does twice what it should once.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from redismem import Memory, SessionStore
from redismem.chaos import ChaosProxy
from redismem.errors import LinkError
from tests.faults.crew import crew, gather, member
from tests.faults.figures import LONG, Figures
from tests.faults.linearizability import Operation, Recorder, recorded, violations
from tests.servers import Server

pytestmark = pytest.mark.timeout(900 if LONG else 120)

PROCESSES = 4
CALLS = 20_000 if LONG else 800
KEYS = CALLS // 160
KILLS = 100 if LONG else 4


class Remembering:
    """A planted bug: what was read once is read so for ever."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions
        self._known: dict[str, Any] = {}

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._sessions, verb)

    def load(self, session_id: str, namespace: str, key: str) -> Any:
        if key not in self._known:
            self._known[key] = self._sessions.load(session_id, namespace, key)
        return self._known[key]


class Repeating(Remembering):
    """A planted bug: an increment whose reply was lost is made again."""

    def load(self, session_id: str, namespace: str, key: str) -> Any:
        return self._sessions.load(session_id, namespace, key)

    def increment(self, session_id: str, namespace: str, key: str, by: int) -> int:
        while True:
            with suppress(LinkError):
                return self._sessions.increment(session_id, namespace, key, by)


def sound(sessions: SessionStore) -> SessionStore:
    """No planted bug."""
    return sessions


Flaw = Callable[[SessionStore], Any]


def work(pipe: Connection, index: int, url: str, logs: Path, retries: int, flaw: Flaw) -> None:
    """Do this and that, and write it down."""
    dice = random.Random(index)
    with Memory(url, retries=retries) as memory, Recorder(flaw(memory.sessions), "s", "n", logs / str(index)) as log:
        memory.sessions.load("s", "n", "warm")
        pipe.send("ready")
        pipe.recv()
        for number in range(CALLS):
            if number % 200 == 0:
                pipe.send("working")  # a slow machine takes longer than a worker may be silent
            one_call(log, dice, index * 1_000_000 + number, own=f"of {index % PROCESSES}" if retries else "k0")
        pipe.send("done")
        pipe.recv()


def one_call(log: Recorder, dice: random.Random, unique: int, own: str) -> None:
    """With retries, a save is repeated when its reply was lost; so only one process saves each `own` key."""
    key = f"k{dice.randrange(KEYS)}"
    match dice.randrange(10):
        case 0 | 1:
            log.call("load", key)
        case 2:
            log.call("load", f"of {dice.randrange(PROCESSES)}")
        case 3:
            log.call("save", own, unique)
        case 4:
            log.call("delete", key)
        case 5 | 6:
            log.call("compare_and_set", key, log.call("load", key), unique)
        case _:
            log.call("increment", key, 1)


def history(logs: Path) -> list[Operation]:
    return [operation for log in logs.iterdir() for operation in recorded(log)]


def through_cuts(server: Server, logs: Path, retries: int, flaw: Flaw = sound) -> tuple[list[Operation], int]:
    """What four processes were told while one reply in a hundred was cut off, and how many were."""
    with ChaosProxy(server.port, seed=7) as proxy, crew(PROCESSES, work, proxy.url, logs, retries, flaw) as members:
        gather(members)
        proxy.cut_replies(0.01, to=b"redismem:session:")
        for one in members:
            while one.hear() != "done":
                pass
        return history(logs), proxy.counts.cuts


FAULT = "connections cut between server and reply"


@pytest.mark.parametrize("retries", [0, 10])
@pytest.mark.parametrize("name", ["valkey9", "redis62"] if LONG else ["valkey9"])
def test_through_cuts(
    new_server: Callable[..., Server], tmp_path: Path, figure: Figures, name: str, retries: int
) -> None:
    operations, cuts = through_cuts(new_server(name), tmp_path, retries)
    pending = sum(operation.is_pending for operation in operations)
    assert cuts > len(operations) // 400, "hardly a connection was cut: the test proves nothing"
    assert pending > cuts // 2 if retries == 0 else pending == 0
    assert violations(operations) == []
    figure(FAULT, "cuts, under 4 processes", cuts)
    figure(FAULT, "recorded calls that together are no story of one store", 0)
    figure(FAULT, "recorded calls, per key linearizable", len(operations))


@pytest.mark.parametrize(("flaw", "retries"), [(Remembering, 10), (Repeating, 0)])
def test_a_planted_bug_is_found(valkey: Server, tmp_path: Path, flaw: Flaw, retries: int) -> None:
    operations, _ = through_cuts(valkey, tmp_path, retries, flaw)
    assert violations(operations)


def test_workers_that_are_killed(valkey: Server, tmp_path: Path, figure: Figures) -> None:
    """SIGKILL in the middle of a call: it happened or it did not, once and as a whole."""
    dice = random.Random(7)
    with crew(PROCESSES, work, valkey.url, tmp_path, 3, sound) as members:
        gather(members)
        for number in range(KILLS):
            fresh = member(PROCESSES + number, work, valkey.url, tmp_path, 3, sound)
            members.append(fresh)
            assert fresh.hear() == "ready"
            fresh.tell()
            time.sleep(dice.uniform(0.01, 0.1))
            members[number].kill()
    operations = history(tmp_path)
    assert violations(operations) == []
    figure("SIGKILL of workers", "recorded calls, per key linearizable", len(operations))
    figure("SIGKILL of workers", "kills", KILLS)
