"""A primary, two replicas and three sentinels, all real: who is asked, what a failover costs, and what it may lose.

`REDISMEM_LONG=1` fails over 30 times instead of once.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from redismem import AsyncMemory, Durability, Memory, errors
from redismem.durability import NOWHERE
from redismem.op import run
from tests.clusters import Watched, until
from tests.conftest import CI
from tests.contract.flavours import FLAVOURS, AwaitedMemory
from tests.faults.figures import LONG, Figures
from tests.servers import Missing

FAILOVERS = 30 if LONG else 1
DOWN_AFTER = 1.5  # with a shorter time sentinels take the next primary for dead before it has answered once
RECOVERS_WITHIN = DOWN_AFTER + (15.0 if CI else 5.0)

Open = Callable[..., AsyncMemory]


def launched() -> Watched:
    try:
        return Watched.launch(down_after=DOWN_AFTER, password="s e:same", sentinel_password="watch")  # noqa: S106
    except Missing as missing:
        if CI:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with launched() as watched:
        yield watched


@pytest.fixture
def doomed() -> Iterator[Watched]:
    """Servers of one test alone: after a failover, sentinels take ten seconds and more before they are ready again."""
    with launched() as doomed:
        yield doomed


@pytest.fixture(params=FLAVOURS)
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    memories: list[AsyncMemory] = []

    def open_(url: str, **settings: Any) -> AsyncMemory:
        kind = AsyncMemory if request.param == "async" else lambda *args, **kw: AwaitedMemory(Memory(*args, **kw))
        memories.append(cast(AsyncMemory, kind(url, **settings)))
        return memories[-1]

    yield open_
    for memory in memories:
        await memory.aclose()


def beside(memory: AsyncMemory, operation: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run an operation while the test goes on: in a thread, if it blocks."""
    if isinstance(memory, AwaitedMemory):
        return asyncio.create_task(asyncio.to_thread(run, operation))
    return asyncio.create_task(operation)


async def test_the_sentinels_say_who_is_the_primary(opened: Open, watched: Watched) -> None:
    memory = opened(watched.url)
    await memory.sessions.save("s", "n", "k", 1)
    assert await memory.sessions.increment("s", "n", "k") == 2
    assert watched.ask(watched.primary(), "HGET", "redismem:session:{s}:ns:n", "k") == b"2"
    assert (await memory.health()).role == "master"
    link = getattr(memory, "blocking", memory)._link
    async with link.exclusive("key") as own:
        assert await own.exchange((("SET", "key", 1), ("GET", "key"))) == [b"OK", b"1"]
    assert "same" not in repr(memory) + repr(link) + repr(link.endpoint)


async def test_other_databases_are_other_memories(opened: Open, watched: Watched) -> None:
    await opened(watched.url).sessions.save("s", "n", "k", 1)
    assert await opened(watched.url.replace("/0?", "/3?")).sessions.load("s", "n", "k") is None


async def test_sentinels_that_are_gone_and_services_that_nobody_knows(opened: Open, watched: Watched) -> None:
    some = opened(watched.url.replace("@127", "@127.0.0.1:1,127"))
    await some.sessions.save("s", "n", "k", 1)
    none = opened("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main/0", retries=1, timeout=30.0)
    with pytest.raises(errors.Unavailable, match="no sentinel of 'main' answers"):
        await none.sessions.load("s", "n", "k")
    stranger = opened(watched.url.replace("/main/", "/other/"), retries=1, timeout=0.1)
    with pytest.raises(errors.Unavailable, match="no sentinel knows a service 'other'"):
        await stranger.sessions.load("s", "n", "k")
    with pytest.raises(errors.ConfigError, match="name the service"):
        opened("redis+sentinel://127.0.0.1:1")


async def test_a_primary_that_becomes_a_replica_is_left(opened: Open, doomed: Watched) -> None:
    """A planned failover keeps the connections' server alive; what it refuses is sent to the new primary."""
    memory = opened(doomed.url)
    counts, wishes = [0] * 4, (NOWHERE, Durability(replicas=1, timeout=0.1))
    over = threading.Event()

    async def work(number: int) -> None:
        while not over.is_set():
            with suppress(errors.NotDurable):  # it was applied
                await memory.sessions.save("s", "n", f"k{number}", counts[number] + 1, durable=wishes[number % 2])
            counts[number] += 1

    workers = [beside(memory, work(number)) for number in range(4)]
    before = doomed.primary()
    try:
        await asyncio.to_thread(doomed.demote, before)
        after = await asyncio.to_thread(until, lambda: (now := doomed.primary()) is not before and now)
        already = list(counts)
        await asyncio.to_thread(until, lambda: all(now > then + 5 for now, then in zip(counts, already, strict=True)))
    finally:
        over.set()
        await asyncio.wait(workers)
    await asyncio.gather(*workers)
    assert doomed.ask(after, "ROLE")[0] == b"master"
    assert [await memory.sessions.load("s", "n", f"k{number}") for number in range(4)] == counts


@pytest.mark.parametrize("turn", range(FAILOVERS))
@pytest.mark.parametrize("opened", FLAVOURS if LONG else ["sync"], indirect=True)
async def test_no_confirmed_write_is_lost_when_the_primary_dies(
    opened: Open, doomed: Watched, figure: Figures, turn: int
) -> None:
    """Writers wait for a replica; the primary is killed under them. What was acknowledged is there afterwards."""
    memory = opened(doomed.url, durable=Durability(replicas=1, timeout=0.5), timeout=3.0)
    confirmed: dict[int, int] = dict.fromkeys(range(4), 0)
    over = threading.Event()

    async def work(number: int) -> None:
        value = 0
        while not over.is_set():
            value += 1
            with suppress(errors.LinkError):
                await memory.sessions.save(f"s{number}", "n", "k", value)
                confirmed[number] = value

    workers = [beside(memory, work(number)) for number in confirmed]
    try:
        await asyncio.to_thread(until, lambda: min(confirmed.values()) > 5 * (turn + 1))
        at_kill, killed_at = dict(confirmed), time.monotonic()
        doomed.primary().kill()
        await asyncio.to_thread(until, lambda: all(confirmed[one] > at_kill[one] + 20 for one in confirmed), 30.0)
        recovery = time.monotonic() - killed_at
    finally:
        over.set()
        await asyncio.wait(workers)
    await asyncio.gather(*workers)
    stored = {number: await memory.sessions.load(f"s{number}", "n", "k") for number in confirmed}
    lost = {number: (confirmed[number], stored[number]) for number in confirmed if stored[number] < confirmed[number]}
    assert not lost, f"acknowledged, and found: {lost}"
    assert recovery < RECOVERS_WITHIN, f"{recovery:.1f} s"
    fault = "SIGKILL of the primary under sentinels, writes wait for a replica"
    figure(fault, "failovers", 1)
    figure(fault, "writes", sum(confirmed.values()))
    figure(fault, "acknowledged writes lost", len(lost))
    figure(fault, f"longest until all write again, down-after {DOWN_AFTER:g} s", recovery, "s", "max")


@pytest.mark.parametrize("opened", FLAVOURS if LONG else ["async"], indirect=True)
async def test_increments_of_a_failover_are_counted_or_said_to_be_unknown(opened: Open, doomed: Watched) -> None:
    memory = opened(doomed.url, timeout=3.0)
    assert await memory.sessions.increment("s", "n", "k") == 1
    until(lambda: doomed.ask(doomed.primary(), "WAIT", 2, 100) == 2)
    before, _ = await asyncio.to_thread(doomed.failover)
    assert await memory.sessions.increment("s", "n", "k") == 2, "a connection known to be dead sends nothing"
    assert doomed.primary() is not before
