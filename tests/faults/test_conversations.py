"""Real processes append to one conversation, and some are killed; others write checkpoints of one thread late."""

import random
from multiprocessing.connection import Connection
from typing import Any

import pytest

from redismem import Memory
from redismem.codec import Codec
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.servers import Server

WORKERS = 4
TURNS = 3_000 if LONG else 60
BOUND = 40
TEXT = "word " * 4
BYTES = 25 * len(Codec().encode(TEXT))
"""Room for 25 of the longest turns, and for more of the others."""
servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)


def speak(pipe: Connection, index: int, url: str) -> None:
    """Append turns, alone and in pairs, and say which numbers they got; unbounded first, then bounded."""
    with Memory(url) as memory:
        history = memory.history
        memory.health()
        pipe.send("ready")
        pipe.recv()
        given: list[tuple[int, str]] = []
        for count in range(TURNS):
            pair = [{"role": f"worker {index}", "content": f"{count} {part}"} for part in "ab"]
            given += ((turn.number, turn.content) for turn in history.extend("42", pair))
            cut = TEXT[: 1 + (count * 7 + index) % len(TEXT)]
            history.append("42", "user", cut, conversation="short", max_turns=BOUND, max_bytes=BYTES)
        pipe.send(given)
        pipe.recv()


def kept_is_right(turns: list[Any]) -> bool:
    """Whether the turns follow one another and are within the bounds."""
    numbers = [turn.number for turn in turns]
    size = sum(len(Codec().encode(turn.content)) for turn in turns)
    return numbers == list(range(numbers[0], numbers[0] + len(turns))) and len(turns) <= BOUND and size <= BYTES


@servers
def test_turns_of_many_writers_have_one_order(server: Server, figure: Figures) -> None:
    looks = 0
    with Memory(server.url) as memory, crew(WORKERS, speak, server.url) as members:
        history = memory.history
        gather(members)
        while not members[0].pipe.poll():
            turns = history.turns("42", conversation="short")
            assert not turns or kept_is_right(turns)
            if looks == 3:
                members[-1].kill()
            looks += 1
        said = {one.index: one.hear() for one in members[:-1]}
        turns = history.turns("42")
        assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))
        for first, second in zip(turns[::2], turns[1::2], strict=True):
            assert (first.role, first.content[:-1]) == (second.role, second.content[:-1]), "a pair is never parted"
        for index, given in said.items():
            mine = [(turn.number, turn.content) for turn in turns if turn.role == f"worker {index}"]
            assert mine == given, "what was acknowledged, in the order in which it was said, and each once"
            assert len(mine) == 2 * TURNS
        short = history.turns("42", conversation="short")
        assert kept_is_right(short)
        sizes = [len(Codec().encode(turn.content)) for turn in short]
        assert len(short) == BOUND or sum(sizes) + len(Codec().encode(TEXT)) > BYTES, "no more went than must"
    fault = "writers of one conversation, of which one is killed"
    figure(fault, "turns appended", len(turns))
    figure(fault, "turns lost, doubled or out of order", 0)
    figure(fault, "looks at a bounded conversation, each within its bounds", looks)


def checkpoint(pipe: Connection, index: int, url: str) -> None:
    """Write versions index + 1, index + 1 + WORKERS ..., each as late as chance has it."""
    rng = random.Random(index)
    versions = list(range(1 + index, 1 + index + WORKERS * TURNS, WORKERS))
    with Memory(url) as memory:
        memory.health()
        pipe.send("ready")
        pipe.recv()
        while versions:
            version = versions.pop(rng.randrange(min(5, len(versions))))
            written = memory.threads.put("t", {"version": version}, version=version)
            assert written.latest >= version
        pipe.send("done")
        pipe.recv()


@servers
def test_a_late_writer_never_moves_a_thread_back(server: Server, figure: Figures) -> None:
    latest, looks, late = 0, 0, 0
    with Memory(server.url) as memory, crew(WORKERS, checkpoint, server.url) as members:
        threads = memory.threads
        for one in members:
            assert one.hear() == "ready"
        for one in members[1:]:
            one.tell()
        is_late = True
        while is_late or not members[late].pipe.poll():
            if is_late and all(one.pipe.poll() for one in members[1:]):  # it begins when the others are through
                members[late].tell()
                is_late = False
            found = threads.get("t")
            assert found is None or found.state == {"version": found.version}
            before, latest = latest, 0 if found is None else found.version
            assert latest >= before
            looks += 1
        assert members[late].hear() == "done"
        total = WORKERS * TURNS
        found = threads.get("t")
        assert found is not None
        assert (found.version, found.state) == (total, {"version": total})
        assert [version.number for version in threads.versions("t")] == list(range(total, 0, -1))
    figure("writers of one thread, of which one is late", "times that the latest checkpoint went back", 0)
    figure("writers of one thread, of which one is late", "looks at the latest checkpoint", looks)


def count(pipe: Connection, index: int, url: str) -> None:
    """Add to what the thread says."""
    with Memory(url, update_attempts=10_000) as memory:
        memory.health()
        pipe.send("ready")
        pipe.recv()
        for _ in range(TURNS // 3):
            memory.threads.update("t", lambda state: {"sum": state["sum"] + 1}, {"sum": 0}, keep=5)
        pipe.send("done")
        pipe.recv()


@servers
def test_updates_of_a_thread_lose_nothing(server: Server, figure: Figures) -> None:
    with Memory(server.url) as memory, crew(WORKERS, count, server.url) as members:
        gather(members)
        for one in members:
            assert one.hear() == "done"
        found = memory.threads.get("t")
        assert found is not None
        assert (found.version, found.state["sum"]) == (WORKERS * (TURNS // 3),) * 2
        assert len(memory.threads.versions("t")) == 5
    figure("updates of one thread by several processes", "updates", found.version)
    figure("updates of one thread by several processes", "updates lost", 0)
