"""Connections of the caller's own: lent for a block, used again after a good end, closed after any other."""

import asyncio
import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from redismem import AsyncMemory, Memory, errors
from redismem.link.asyncio import AsyncLink
from redismem.link.base import Link, Patience, Reply
from redismem.link.blocking import BlockingLink
from redismem.link.endpoint import endpoint_of
from redismem.link.exclusive import MOST_IDLE, Exclusive
from redismem.op import run
from tests.contract.flavours import Place, eventually, on_servers, on_valkey
from tests.servers import Server


@pytest.fixture
def link(memory: AsyncMemory) -> Link:
    """The link of either flavour; a blocking one never suspends, so it may be awaited too."""
    return getattr(memory, "blocking", memory)._link


async def _clients(raw: Redis, most: int) -> bool:
    return len(raw.client_list()) <= most


async def id_of(own: Exclusive) -> Reply:
    return (await own.exchange((("CLIENT", "ID"),)))[0]


@on_servers
async def test_replies_come_in_order_and_errors_are_among_them(link: Link) -> None:
    async with link.exclusive("key") as own:
        await own.exchange((("SET", "key", "1"),))
        replies = await own.exchange((("GET", "key"), ("LPUSH", "key", "x"), ("GET", "key")))
    assert replies[::2] == [b"1", b"1"]
    assert isinstance(replies[1], errors.WrongType)


@on_servers
async def test_what_blocks_may_take_longer_than_the_links_timeout(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(timeout=0.2)
    link: Link = getattr(memory, "blocking", memory)._link
    async with link.exclusive("list") as own:
        assert await own.exchange((("BLPOP", "list", "0.4"),), timeout=10) == [None]
        await link.execute("RPUSH", "list", "x")
        assert await own.exchange((("BLPOP", "list", 0),), timeout=math.inf) == [[b"list", b"x"]]


@on_valkey
async def test_a_late_reply_is_a_timeout_and_ends_the_connections_use(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(timeout=0.1)
    link: Link = getattr(memory, "blocking", memory)._link
    async with link.exclusive("list") as own:
        first = await id_of(own)
        with pytest.raises(errors.Timeout, match="may have been applied"):
            await own.exchange((("BLPOP", "list", 0),))
        with pytest.raises(errors.Unavailable, match="nothing was sent"):
            await own.exchange((("PING",),))
    async with link.exclusive("list") as own:
        assert await id_of(own) != first


@on_valkey
async def test_a_good_end_gives_the_connection_to_the_next(link: Link) -> None:
    async with link.exclusive("a") as own:
        first = await id_of(own)
        async with link.exclusive("b") as other:
            assert await id_of(other) != first
    async with link.exclusive("c") as own:
        assert await id_of(own) == first


@on_valkey
async def test_few_connections_wait(place: Place, link: Link) -> None:
    async def lend(depth: int) -> None:
        if depth:
            async with link.exclusive("a") as own:
                await own.exchange((("PING",),))
                await lend(depth - 1)

    await lend(3 * MOST_IDLE)
    with place.raw() as raw:
        await eventually(lambda: _clients(raw, MOST_IDLE + 2))  # the link's own, and this one


@on_valkey
@pytest.mark.parametrize("opens", [("WATCH", "a"), ("MULTI",)])
async def test_state_left_behind_is_nobodys(link: Link, opens: tuple[str, ...]) -> None:
    async with link.exclusive("a") as own:
        first = await id_of(own)
        await own.exchange((opens,))
    async with link.exclusive("a") as own:
        assert await id_of(own) != first
        second = await id_of(own)
        await own.exchange((("WATCH", "a"), ("MULTI",), ("GET", "a"), ("EXEC",)))
    async with link.exclusive("a") as own:
        assert await id_of(own) == second


@on_valkey
async def test_an_exception_in_the_block_closes_the_connection(link: Link) -> None:
    first = None
    with suppress(ZeroDivisionError):
        async with link.exclusive("a") as own:
            first = await id_of(own)
            raise ZeroDivisionError
    async with link.exclusive("a") as own:
        assert await id_of(own) != first


@on_valkey
async def test_a_connection_that_the_server_hung_up_is_not_lent_again(place: Place, link: Link) -> None:
    async with link.exclusive("a") as own:
        first = await id_of(own)
    with place.raw() as raw:
        raw.execute_command("CLIENT", "KILL", "ID", first)
    while True:  # asyncio learns of it a moment later
        async with link.exclusive("a") as own:
            try:
                assert await id_of(own) != first
            except errors.Unavailable:
                continue
            return


async def test_a_cancelled_caller_leaves_no_reply_to_the_next(valkey) -> None:
    async with AsyncMemory(valkey.url) as memory:
        link = memory._link
        asked = asyncio.Event()

        async def wait() -> None:
            async with link.exclusive("list") as own:
                asked.set()
                await own.exchange((("BLPOP", "list", 0),), timeout=math.inf)

        waiting = asyncio.create_task(wait())
        await asked.wait()
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with Redis(port=valkey.port) as raw:
            await eventually(lambda: _clients(raw, 2))
        await link.execute("RPUSH", "list", "x")
        async with link.exclusive("list") as own:
            assert await own.exchange((("LPOP", "list"),)) == [b"x"]


@on_valkey
async def test_closing_closes_them_all(place: Place, memory: AsyncMemory, link: Link) -> None:
    with place.raw() as raw:
        before = len(raw.client_list())
        async with link.exclusive("a"):
            pass
        async with link.exclusive("a"), link.exclusive("b") as own:
            await memory.aclose()
            with pytest.raises(errors.LinkClosed):
                await own.exchange((("PING",),))
        with pytest.raises(errors.LinkClosed):
            async with link.exclusive("a"):
                pass
        await eventually(lambda: _clients(raw, before))


def test_an_ended_loop_leaves_nothing(valkey) -> None:
    """Warnings are errors: a connection that outlived its loop would be one."""
    memory = AsyncMemory(valkey.url)

    async def use() -> None:
        async with memory._link.exclusive("a") as own:
            assert await own.exchange((("PING",),)) == [b"PONG"]

    for _ in range(3):
        asyncio.run(use())
    asyncio.run(memory.aclose())


def test_a_forked_child_leaves_its_parents_connections_alone(valkey) -> None:
    memory = Memory(valkey.url)
    ids: list[Any] = []

    async def use() -> None:
        async with memory._link.exclusive("a") as own:
            ids.append(await id_of(own))

    async def fork() -> None:
        async with memory._link.exclusive("b") as own:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    run(use())
                    try:
                        await own.exchange((("PING",),))
                    except errors.Unavailable:
                        status = int(ids[0] == ids[1])
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222  (there is no loop)
            assert await own.exchange((("PING",),)) == [b"PONG"]

    run(use())
    run(fork())
    run(use())
    memory.close()


def test_threads_share_a_pool(valkey) -> None:
    wrong: list[Any] = []
    with Memory(valkey.url) as memory:

        async def use(tag: str) -> None:
            async with memory._link.exclusive("a") as own:
                reply = await own.exchange((("ECHO", tag),))
                if reply != [tag.encode()]:
                    wrong.append(reply)

        def work(number: int) -> None:
            for i in range(200):
                run(use(f"{number}-{i}"))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.health().connected_clients <= 2 + MOST_IDLE
    assert not wrong


async def test_a_server_that_is_not_there() -> None:
    async with AsyncMemory("redis://127.0.0.1:1", retries=1) as memory:
        with pytest.raises(errors.Unavailable, match="nothing was sent"):
            async with memory._link.exclusive("a"):
                pass
        assert memory.stats().retries == 1


@on_servers
async def test_one_server_is_one_shard(link: Link) -> None:
    assert list(await link.shards()) == [link]
    assert link.colocated("{a}", "{b}")


@pytest.mark.parametrize("kind", [BlockingLink, AsyncLink])
async def test_a_server_that_has_become_a_replica_is_left(
    new_server: Callable[..., Server], kind: type[BlockingLink | AsyncLink]
) -> None:
    """Where another server takes over: whoever was refused as by a replica does not get that connection again."""
    server = new_server("valkey9")
    link = kind(replace(endpoint_of(server.url, linger=0), fails_over=True), Patience(retries=0))
    async with link.exclusive("key") as own:
        first = await id_of(own)
        await own.exchange((("REPLICAOF", "127.0.0.1", 1),))
        assert isinstance((await own.exchange((("SET", "key", 1),)))[0], errors.ReadOnly)
        with pytest.raises(errors.Unavailable, match="nothing was sent"):
            await own.exchange((("PING",),))
    async with link.exclusive("key") as own:
        assert await id_of(own) != first
    before = await link.execute("CLIENT", "ID")
    with pytest.raises(errors.ReadOnly):
        await link.execute("SET", "key", 1)
    assert await link.execute("CLIENT", "ID") != before
    await link.aclose()
