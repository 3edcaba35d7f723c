"""Writes that wait for replicas and disks: what they send, what they say, and what it costs others."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from redismem import AsyncMemory, Durability, Memory, Settings, errors
from redismem.durability import NOWHERE
from tests.clusters import ask, until
from tests.conftest import emptied, started
from tests.contract.flavours import FLAVOURS, Place, eventually, results
from tests.servers import Server

ONE = Durability(replicas=1, timeout=5.0)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary with an append-only file, and its replica, in step."""
    with ExitStack() as stack:
        primary = stack.enter_context(started("valkey9", "--repl-diskless-sync-delay", "0", appendonly=True))
        following = ("--replicaof", f"127.0.0.1 {primary.port}", "--appendfsync", "always")
        replica = stack.enter_context(started("valkey9", *following, appendonly=True))
        until(lambda: ask(replica, "ROLE")[3] == b"connected")
        yield primary, replica


@pytest.fixture
def primary(pair: tuple[Server, Server]) -> Server:
    primary, replica = pair
    until(lambda: ask(primary, "CLIENT", "UNPAUSE") and ask(replica, "ROLE")[3] == b"connected")
    ask(primary, "FLUSHALL")
    ask(primary, "SCRIPT", "FLUSH")
    until(lambda: ask(primary, "WAIT", 1, 100) == 1)
    return primary


@pytest.fixture
def without_replica(pair: tuple[Server, Server], primary: Server) -> Iterator[Server]:
    """The replica has left."""
    _, replica = pair
    ask(replica, "REPLICAOF", "NO", "ONE")
    until(lambda: not ask(primary, "ROLE")[2])
    yield primary
    ask(replica, "REPLICAOF", "127.0.0.1", primary.port)


@pytest.fixture(params=FLAVOURS)
async def opened(request: pytest.FixtureRequest, primary: Server) -> AsyncIterator[Callable[..., AsyncMemory]]:
    memories: list[AsyncMemory] = []

    def open_(server: Server = primary, **settings: Any) -> AsyncMemory:
        memories.append(Place(request.param, server).open(**settings))
        return memories[-1]

    yield open_
    for memory in memories:
        await memory.aclose()


def waits(server: Server, command: str = "wait") -> int:
    """How often the server was asked to wait."""
    with redis.Redis(port=server.port) as raw:
        return int(raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def every_write(memory: AsyncMemory, **durable: Any) -> None:
    store = memory.sessions
    await store.save("s", "n", "k", 1, **durable)
    await store.save("s", "n", "k", 2, **durable)  # without a script
    await store.save_many("s", "n", {"l": 1}, **durable)
    assert await store.increment("s", "n", "k", **durable) == 3
    assert await store.compare_and_set("s", "n", "k", 3, 4, **durable)
    assert await store.update("s", "n", "k", lambda value: value + 1, **durable) == 5
    assert await store.expire("s", "n", "k", 100, **durable)
    assert await store.delete("s", "n", "l", **durable)
    assert await store.touch("s", 100, **durable)
    assert await store.end("s", **durable) == 1


async def test_every_write_waits_if_the_settings_say_so(opened: Callable[..., AsyncMemory], primary: Server) -> None:
    memory = opened(durable=ONE)
    before = waits(primary)
    await every_write(memory)
    assert waits(primary) - before >= 10
    between = waits(primary)
    await every_write(memory, durable=NOWHERE)
    await memory.sessions.load("s", "n", "k")
    assert waits(primary) == between


async def test_one_write_waits_if_it_says_so(opened: Callable[..., AsyncMemory], primary: Server) -> None:
    memory = opened()
    before = waits(primary)
    await every_write(memory)
    assert waits(primary) == before
    await every_write(memory, durable=ONE)
    assert waits(primary) - before >= 10


async def test_a_wait_costs_no_round_trip(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened()
    await memory.sessions.increment("s", "n", "k", durable=ONE)
    before = memory.stats().round_trips
    await memory.sessions.increment("s", "n", "k", durable=ONE)
    assert memory.stats().round_trips == before + 1


async def test_a_batch_waits_once(opened: Callable[..., AsyncMemory], primary: Server) -> None:
    memory = opened()
    await memory.sessions.increment("s", "n", "k")
    before = waits(primary)
    async with memory.batch() as batch:
        handles = [batch.sessions.increment("s", "n", "k", durable=ONE) for _ in range(50)]
    assert results(handles) == list(range(2, 52))
    assert waits(primary) == before + 1


async def test_not_confirmed(opened: Callable[..., AsyncMemory], without_replica: Server) -> None:
    """The write was applied; the error says how far it got. What was refused is refused, and nothing else."""
    memory, soon = opened(), Durability(replicas=1, timeout=0.05)
    store = memory.sessions
    with pytest.raises(errors.NotDurable, match=r"applied, but not confirmed within 0.05 s: 0 of 1 replicas"):
        await store.save("s", "n", "k", 1, user_id="u", durable=soon)
    assert await store.load("s", "n", "k") == 1
    with pytest.raises(errors.NotDurable):
        await store.increment("s", "n", "k", durable=soon)
    assert await store.load("s", "n", "k") == 2
    with pytest.raises(errors.OwnerMismatch):
        await store.save("s", "n", "k", 3, user_id="other", durable=soon)
    async with memory.batch() as batch:
        read = batch.sessions.load("s", "n", "k")
        written = batch.sessions.increment("s", "n", "k", durable=soon)
        easy = batch.sessions.save("s", "n", "l", 1)
    assert (read.result(), easy.result()) == (2, None)
    assert isinstance(written.error(), errors.NotDurable)
    assert await store.load("s", "n", "k") == 3


async def test_fsync(opened: Callable[..., AsyncMemory], primary: Server) -> None:
    """WAITAOF: the disk of the primary, which is written once a second, and that of the replica."""
    memory = opened(durable=Durability(replicas=1, fsync=True, timeout=10.0))
    before = waits(primary, "waitaof")
    await memory.sessions.save("s", "n", "k", 1)
    assert waits(primary, "waitaof") == before + 1
    ask(primary, "CONFIG", "SET", "appendfsync", "no")
    try:
        with pytest.raises(errors.NotDurable, match="disk"):
            await memory.sessions.save("s", "n", "k", 1, durable=Durability(fsync=True, timeout=0.05))
    finally:
        ask(primary, "CONFIG", "SET", "appendfsync", "everysec")


async def test_fsync_without_a_file(opened: Callable[..., AsyncMemory], valkey: Server) -> None:
    memory = opened(valkey, durable=Durability(fsync=True))
    with pytest.raises(errors.NotDurable, match="appendonly is disabled"):
        await memory.sessions.save("s", "n", "k", 1)


async def test_fsync_where_the_server_cannot_say(
    opened: Callable[..., AsyncMemory], shared_server: Callable[[str], Server]
) -> None:
    memory = opened(emptied(shared_server("redis70")), durable=Durability(fsync=True))
    with pytest.raises(errors.ConfigError, match="WAITAOF"):
        await memory.sessions.save("s", "n", "k", 1)
    assert await memory.sessions.load("s", "n", "k") is None


async def test_who_waits_holds_nobody_else_up(without_replica: Server) -> None:
    """A task whose write is never confirmed has a connection of its own; the others' calls go on."""
    async with AsyncMemory(without_replica.url) as memory:
        await memory.sessions.save("s", "n", "k", 1)
        waiting = asyncio.create_task(
            memory.sessions.increment("s", "n", "k", durable=Durability(replicas=1, timeout=60.0))
        )
        await eventually(functools.partial(is_two, memory))
        for number in range(100):
            await memory.sessions.save("t", "n", "k", number)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def is_two(memory: AsyncMemory) -> bool:
    return bool(await memory.sessions.load("s", "n", "k") == 2)


def test_a_wait_may_take_longer_than_the_timeout(without_replica: Server) -> None:
    with Memory(without_replica.url, timeout=0.2) as memory, pytest.raises(errors.NotDurable):
        memory.sessions.save("s", "n", "k", 1, durable=Durability(replicas=1, timeout=0.6))


def test_settings_of_durability() -> None:
    assert Settings.of("memory://", environment={"REDISMEM_DURABLE": '{"replicas": 2}'}).durable == Durability(2)
    assert Settings.of(Settings(durable=ONE)).durable == ONE
    wrong: dict[str, object]
    for wrong in (
        {"replicas": -1},
        {"replicas": 1.5},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": "1"},
        {"fsync": 1},
    ):
        with pytest.raises(errors.ConfigError):
            Durability(**wrong)
    for text in ("yes", '{"replicas": -1}', '{"copies": 1}'):
        with pytest.raises(errors.ConfigError, match="durable"):
            Settings.of("memory://", environment={"REDISMEM_DURABLE": text})


@pytest.mark.parametrize("wrong", [True, 1, {"replicas": 1}])
def test_durable_is_a_durability(valkey: Server, wrong: Any) -> None:
    with Memory(valkey.url) as memory:
        with pytest.raises(errors.ConfigError, match="Durability"):
            memory.sessions.increment("s", "n", "k", durable=wrong)
        assert memory.sessions.load("s", "n", "k") is None
