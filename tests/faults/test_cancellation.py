"""Hundreds of tasks are cancelled at random moments, for as long as it takes: nothing of them is left.

Each takes its turn at everything that a memory does: saves, increments, updates, locks, transactions, reads through L1,
batches. No answer is another question's, no two hold a lock at once, no transaction is half done. Afterwards no lock is
held and nobody queues for one, no task of the memory's and no connection is left over, and everything works.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import redis

from redismem import AsyncMemory
from redismem.link.exclusive import MOST_IDLE
from tests.clusters import ask
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(300 if LONG else 120)

TASKS = 300 if LONG else 100
SECONDS = 60.0 if LONG else 1.0
LEAST = 10_000 if LONG else 500
"""Cancellations, and calls that came to their end, however slow the machine is."""
TAGS = {f"k{number}": f"tag {number}" for number in range(100)}
WITHIN = 30.0
"""Seconds in which what was left would have gone."""
USERS = [str(number) for number in range(8)]
COINS = 1_000

FAULT = f"{TASKS} tasks are cancelled at random moments"


class Stormer:
    """One task after the other, of which most are cancelled. What one expects of its answers it asserts."""

    def __init__(self, memory: AsyncMemory, number: int, inside: set[str], tally: Counter[str]) -> None:
        self._memory = memory
        self._sessions = memory.sessions
        self._own = f"own{number}"
        self._dice = random.Random(number)
        self._inside = inside
        self._tally = tally
        self._count = 0
        self._turns: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.saves,
            self.increments,
            self.reads,
            self.reads_many,
            self.reads_in_a_batch,
            self.updates,
            self.locks,
            self.moves,
        ]

    async def until(self, over: Callable[[], bool]) -> None:
        """Take turns."""
        while not over():
            await self.turn()

    async def turn(self) -> None:
        """Begin something, and cancel it, let it run out of time, or leave it alone."""
        work = self._dice.choice(self._turns)
        match self._dice.randrange(4):
            case 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._dice.uniform(0, 0.02)):
                        await work()
                        self._tally["answered"] += 1
                        return
                self._tally["cancelled"] += 1
                return
            case 1:
                task = asyncio.create_task(work())
                await asyncio.sleep(self._dice.uniform(0, 0.02))
                task.cancel()
            case 2:
                task = asyncio.create_task(work())
                for _ in range(self._dice.randrange(8)):
                    await asyncio.sleep(0)
                task.cancel()
            case _:
                task = asyncio.create_task(work())
        try:
            await task
            self._tally["answered"] += 1
        except asyncio.CancelledError:
            self._tally["cancelled"] += 1

    # --- what is cancelled --------------------------------------------------------------------------------------------

    async def saves(self) -> None:
        mine = self._dice.random()
        await self._sessions.save(self._own, "n", "saved", mine)
        assert await self._sessions.load(self._own, "n", "saved") == mine
        await self._sessions.save("tags", "n", self._own, mine)  # and L1 forgets all tags

    async def increments(self) -> None:
        total = await self._sessions.increment(self._own, "n", "count")
        assert total > self._count
        self._count = total

    async def updates(self) -> None:
        updated = await self._sessions.update(self._own, "n", "list", lambda past: [*past[-3:], self._own], default=[])
        assert set(updated) == {self._own}

    async def reads(self) -> None:
        key = self._dice.choice([*TAGS])
        assert await self._sessions.load("tags", "n", key, fresh=self._dice.random() < 0.5) == TAGS[key]

    async def reads_many(self) -> None:
        wanted = self._dice.sample([*TAGS], 5)
        assert await self._sessions.load_many("tags", "n", wanted) == {key: TAGS[key] for key in wanted}

    async def reads_in_a_batch(self) -> None:
        async with self._memory.batch() as batch:
            handles = {key: batch.sessions.load("tags", "n", key) for key in self._dice.sample([*TAGS], 5)}
        assert {key: handle.result() for key, handle in handles.items()} == {key: TAGS[key] for key in handles}

    async def locks(self) -> None:
        user = self._dice.choice(USERS)
        async with self._memory.lock(user, lease=60, wait=WITHIN):
            assert user not in self._inside, "two hold the lock at once"
            self._inside.add(user)
            try:
                await self.reads()
            finally:
                self._inside.remove(user)

    async def moves(self) -> None:
        async def move(t: Any) -> None:
            left, right = await t.sessions.load("coins", "left", "k"), await t.sessions.load("coins", "right", "k")
            t.sessions.save("coins", "left", "k", left - 1)
            t.sessions.save("coins", "right", "k", right + 1)

        await self._memory.transaction("coins", attempts=1_000).run(move)


# --- the storm --------------------------------------------------------------------------------------------------------


def of_memory() -> Counter[str]:
    """The tasks of this loop that the memory made."""
    return Counter(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("redismem"))


def of_locks(server: Server) -> list[bytes]:
    """What locks have left on the server, but for their counters."""
    with redis.Redis(port=server.port) as raw:
        return [key for key in raw.scan_iter("redismem:user:*") if not re.search(rb"}:fence:", key)]


async def eventually(condition: Callable[[], bool], what: Callable[[], Any]) -> None:
    until = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < until, what()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("coherence", ["tracking", "off"])
async def test_a_storm_of_cancellations_leaves_nothing(valkey: Server, figure: Figures, coherence: str) -> None:
    tally: Counter[str] = Counter()
    inside: set[str] = set()
    async with AsyncMemory(valkey.url, coherence=coherence) as memory:
        await memory.sessions.save_many("tags", "n", TAGS)
        await memory.sessions.save("coins", "left", "k", COINS)
        await memory.sessions.save("coins", "right", "k", 0)
        await memory.sessions.load("tags", "n", "k0")
        if coherence == "tracking":
            await eventually(lambda: memory.stats().l1.listening, memory.stats)
        tasks, clients = of_memory(), connected(valkey)
        began = time.monotonic()

        def over() -> bool:
            enough = min(tally["cancelled"], tally["answered"]) >= LEAST
            return enough and time.monotonic() > began + SECONDS

        stormers = [Stormer(memory, number, inside, tally) for number in range(TASKS)]
        await asyncio.gather(*(stormer.until(over) for stormer in stormers))

        await eventually(lambda: of_memory() == tasks, of_memory)
        await eventually(lambda: of_locks(valkey) == [], lambda: of_locks(valkey))
        await eventually(lambda: connected(valkey) <= clients + MOST_IDLE, lambda: connected(valkey))
        for user in USERS:
            async with memory.lock(user, wait=0):
                pass
        for stormer in stormers[:10]:
            for work in stormer._turns:
                await work()
        assert await memory.sessions.load_many("tags", "n", TAGS) == TAGS
        left, right = [await memory.sessions.load("coins", side, "k") for side in ("left", "right")]
        assert left + right == COINS
        figure(FAULT, "cancellations", tally["cancelled"])
        figure(FAULT, "calls that came to their end", tally["answered"])
        figure(FAULT, "answers to another's question, locks or places in a queue left, tasks left", 0)
        figure(FAULT, "connections more than before", connected(valkey) - clients, fold="max")


def connected(server: Server) -> int:
    return int(ask(server, "INFO", "clients")["connected_clients"])
