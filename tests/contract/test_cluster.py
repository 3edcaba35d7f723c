"""A real cluster, both flavours: the contract, slots that move, primaries that die, nodes that forget scripts.

`REDISMEM_LONG=1` moves 1,000 slots under writes instead of 50.
"""

import asyncio
import gc
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, islice, product, repeat
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import trustme

from redismem import AsyncMemory, Memory, SimpleMemory, errors
from redismem.chaos import Fate, inject
from redismem.coordination.fence import Fence
from redismem.link.base import Link, only
from redismem.link.exclusive import Exclusive
from redismem.link.slots import slot_of
from redismem.op import run
from redismem.ops import api
from redismem.stores.crm import SimpleContact
from redismem.stores.record import Migrated
from tests.clusters import Cluster, ask, until
from tests.conftest import CI
from tests.contract.flavours import FLAVOURS, AwaitedMemory, eventually, results, scanned
from tests.contract.test_migrations import Customer, Named, Person
from tests.faults.figures import LONG, Figures
from tests.servers import Missing, Server, _free_port

SLOTS = 1000 if LONG else 50

Open = Callable[..., AsyncMemory]


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[Cluster]:
    try:
        cluster = Cluster.launch()
    except Missing as missing:
        if CI:
            raise
        pytest.skip(str(missing))
    with cluster:
        yield cluster


@pytest.fixture
def cluster(one_cluster: Cluster) -> Cluster:
    """Empty, and whole."""
    for server in one_cluster.servers:
        server.start()
    one_cluster.settle()
    one_cluster.flush()
    return one_cluster


@pytest.fixture(params=FLAVOURS)
async def opened(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Open]:
    memories: list[AsyncMemory] = []

    def open_(url: str | None = None, **settings: Any) -> AsyncMemory:
        kind = AsyncMemory if request.param == "async" else lambda *args, **kw: AwaitedMemory(Memory(*args, **kw))
        memories.append(cast(AsyncMemory, kind(url or cluster.url, **settings)))
        return memories[-1]

    yield open_
    for memory in memories:
        await memory.aclose()


@pytest.fixture
def memory(opened: Open) -> AsyncMemory:
    return opened()


@pytest.fixture
def link(memory: AsyncMemory) -> Link:
    return link_of(memory)


def link_of(memory: AsyncMemory) -> Link:
    return cast(Link, getattr(memory, "blocking", memory)._link)


def slot(session_id: str) -> int:
    return slot_of(f"{{{session_id}}}")


def ids(how_many: int, wanted: Callable[[int], bool] = lambda _: True) -> list[str]:
    """Session ids whose slots are wanted."""
    return list(islice((f"s{number}" for number in count() if wanted(slot(f"s{number}"))), how_many))


def one_per_node(cluster: Cluster) -> list[str]:
    return [ids(1, lambda at, low=low, high=high: low <= at <= high)[0] for low, high, *_ in cluster.slots()]


# --- the contract -----------------------------------------------------------------------------------------------------


async def test_a_fence_counts_on_every_node(memory: AsyncMemory, cluster: Cluster) -> None:
    """By the lock's counter where the session is in its slot, elsewhere by what has written to the session."""
    earlier, later = (Fence("redismem:user:{42}:fence:default", token) for token in (1, 2))
    ask(cluster.owner(slot("42")), "SET", later.name, later.token)
    for session_id in ("42", *one_per_node(cluster)):
        await memory.sessions.save(session_id, "n", "k", 1)
        if session_id != "42":
            assert await memory.sessions.increment(session_id, "n", "k", fence=later) == 2
        with pytest.raises(errors.StaleFence):
            await memory.sessions.increment(session_id, "n", "k", fence=earlier)
        assert await memory.sessions.increment(session_id, "n", "other", fence=later) == 1


async def test_sessions_on_every_node(memory: AsyncMemory) -> None:
    store = memory.sessions
    for number, session_id in enumerate(ids(20)):
        await store.save(session_id, "n", "k", number, user_id="u")
        await store.save(session_id, "n", "k", number)
        await store.save_many(session_id, "m", {"a": 1, "b": [2]}, ttl=100)
        assert await store.load(session_id, "n", "k") == number
        assert await store.load(session_id, "n", "k", user_id="u") == number
        assert await store.get_all(session_id, "m") == {"a": 1, "b": [2]}
        assert await store.increment(session_id, "n", "k", 2) == number + 2
        assert await store.update(session_id, "n", "list", lambda value: [*value, 1], default=[]) == [1]
        assert await store.compare_and_set(session_id, "n", "list", [1], [2])
        assert await store.ttl(session_id, "m", "a") == pytest.approx(100, abs=5)
        assert await store.expire(session_id, "m", "a", 50)
        assert await store.touch(session_id, 60)
        info = await store.info(session_id)
        assert info is not None
        assert (info.user_id, info.namespaces) == ("u", ("m", "n"))
        with pytest.raises(errors.OwnerMismatch):
            await store.load(session_id, "n", "k", user_id="other")
        assert await store.delete(session_id, "m", "b")
    assert await scanned(store) == sorted(ids(20))
    assert [await store.end(session_id) for session_id in ids(20)] == [3] * 20
    assert await scanned(store) == []


async def test_a_batch_over_all_nodes_gives_what_single_calls_give(memory: AsyncMemory) -> None:
    everyone = ids(60)
    async with memory.batch() as batch:
        sums = [batch.sessions.increment(session_id, "n", "k", number) for number, session_id in enumerate(everyone)]
        again = [batch.sessions.update(session_id, "n", "k", lambda value: value + 1) for session_id in everyone]
        owners = [batch.sessions.save(session_id, "n", "l", "x", user_id="u") for session_id in everyone]
    assert results(sums) == list(range(60))
    assert results(again) == list(range(1, 61))
    assert results(owners) == [None] * 60
    async with memory.batch() as batch:
        loads = [batch.sessions.get_all(session_id, "n") for session_id in everyone]
        wrong = [batch.sessions.load(session_id, "n", "l", user_id="other") for session_id in everyone]
        infos = [batch.sessions.info(session_id) for session_id in everyone]
    assert results(loads) == [{"k": number + 1, "l": "x"} for number in range(60)]
    assert all(isinstance(handle.error(), errors.OwnerMismatch) for handle in wrong)
    assert all(info is not None and info.user_id == "u" for info in results(infos))


async def test_a_batch_is_one_exchange_with_each_node(memory: AsyncMemory) -> None:
    everyone = ids(60)
    for _ in range(2):  # the first one asks who is where, and brings the scripts
        before = memory.stats().round_trips
        async with memory.batch() as batch:
            for session_id in everyone:
                batch.sessions.increment(session_id, "n", "k")
        round_trips = memory.stats().round_trips - before
    assert round_trips == 3


def beside(memory: AsyncMemory, operation: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run an operation while the test goes on: in a thread, if it blocks."""
    if isinstance(memory, AwaitedMemory):
        return asyncio.create_task(asyncio.to_thread(run, operation))
    return asyncio.create_task(operation)


async def save_all(memory: AsyncMemory, everyone: list[str], value: Any) -> None:
    async with memory.batch() as batch:
        handles = [batch.sessions.save(session_id, "n", "k", value) for session_id in everyone]
    results(handles)


async def test_all_nodes_get_their_part_before_the_first_one_answers(memory: AsyncMemory, cluster: Cluster) -> None:
    """Whichever node is held up, the others have their part meanwhile."""
    places = {one: cluster.owner(slot(one)) for one in one_per_node(cluster)}
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # it has its connections before
    await beside(memory, save_all(memory, [*places], 0))
    for turn, (held_up, server) in enumerate(places.items(), 1):
        with stopped(server):
            waiting = beside(memory, save_all(memory, [*places], turn))
            for other in places.keys() - {held_up}:
                await eventually(lambda other=other, turn=turn: holds(places[other], other, turn))
            assert not waiting.done()
        await waiting


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


async def holds(server: Server, session_id: str, value: int) -> bool:
    return bool(ask(server, "HGET", f"redismem:session:{{{session_id}}}:ns:n", "k") == str(value).encode())


# --- slots that move --------------------------------------------------------------------------------------------------


async def test_no_write_is_lost_while_slots_move(opened: Open, cluster: Cluster, figure: Figures) -> None:
    """Every acknowledged increment is there, exactly once, and nobody saw an error."""
    low, high, *_ = cluster.slots()[0]
    target = next(server for server in cluster.primaries() if server is not cluster.owner(low))
    moving = range(low, min(low + SLOTS, high))
    everyone = ids(max(40, SLOTS // 5), moving.__contains__)
    memory, over = opened(), threading.Event()
    counts = dict.fromkeys(everyone, 0)

    async def work(mine: list[str]) -> None:
        while not over.is_set():
            async with memory.batch() as batch:
                handles = [batch.sessions.increment(session_id, "n", "k", 2) for session_id in mine]
            results(handles)
            for session_id in mine:
                counts[session_id] += 3
                assert await memory.sessions.increment(session_id, "n", "k") == counts[session_id]
                await memory.sessions.save(session_id, "n", "l", counts[session_id], ttl=100)
                assert await memory.sessions.load(session_id, "n", "l", user_id="u") == counts[session_id]

    workers = [beside(memory, work(everyone[number::4])) for number in range(4)]
    try:
        await asyncio.to_thread(cluster.move, moving, target)
    finally:
        over.set()
        await asyncio.wait(workers)
    await asyncio.gather(*workers)
    assert {one: await memory.sessions.load(one, "n", "k") for one in everyone} == counts
    assert min(counts.values()) > 0
    assert memory.stats().retries > 0, "nobody met a slot that moved: the test proves nothing"
    figure("slots of a cluster move under writes", "slots", len(moving))
    figure("slots of a cluster move under writes", "increments acknowledged", sum(counts.values()))
    figure("slots of a cluster move under writes", "increments lost or doubled, errors", 0)


@contextmanager
def moving_slot(cluster: Cluster, session_id: str, *keys: str) -> Iterator[Callable[[], None]]:
    """The session's slot is on its way, and these keys are there already; what is given moves the rest."""
    at = slot(session_id)
    target = next(server for server in cluster.primaries() if server is not cluster.owner(at))
    source = cluster.begin_move(at, target)
    for key in keys:
        ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)

    def finish() -> None:
        cluster.move_keys(at, source, target)
        cluster.end_move(at, source, target)

    yield finish
    finish()


async def test_asking(memory: AsyncMemory, cluster: Cluster) -> None:
    """Half of a slot has moved: what is there already is found there, and what is new goes there."""
    store, link = memory.sessions, link_of(memory)
    await store.save("x", "n", "k", 1, user_id="u")
    with moving_slot(cluster, "x"):
        assert await store.load("x", "n", "k") == 1  # all of it is where it was
        assert await link.execute("INCR", "{x}new") == 1
        assert await link.execute("INCR", "{x}new") == 2
    with moving_slot(cluster, "x", "redismem:session:{x}:meta", "redismem:session:{x}:ns:n"):
        assert await store.load("x", "n", "k") == 1
        assert await store.load("x", "n", "k", user_id="u") == 1
        async with memory.batch() as batch:
            handles = [batch.sessions.load("x", "n", "k"), batch.sessions.load("x", "n", "k", user_id="u")]
        assert results(handles) == [1, 1]
        replies = await link.transaction((("HINCRBY", "redismem:session:{x}:ns:n", "k", 1),), retry=False)
        assert list(replies) == [2]
    assert await store.get_all("x", "n") == {"k": 2}
    assert await link.execute("GET", "{x}new") == b"2"


async def test_keys_that_are_apart_while_their_slot_moves_are_waited_for(memory: AsyncMemory, cluster: Cluster) -> None:
    """TRYAGAIN: of a script's keys, some are there already and some are not."""
    store = memory.sessions
    await store.save("x", "n", "k", 1)
    retries = memory.stats().retries
    with moving_slot(cluster, "x", "redismem:session:{x}:meta") as finish:
        waiting = beside(memory, store.increment("x", "n", "k"))
        await eventually(lambda: is_true(memory.stats().retries > retries + 1))
        assert not waiting.done()
        await asyncio.to_thread(finish)
        assert await waiting == 2


async def is_true(value: bool) -> bool:
    return value


# --- nodes that go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", FLAVOURS if LONG else ["sync"], indirect=True)
async def test_a_replica_takes_over(opened: Open, cluster: Cluster) -> None:
    """The primary is killed: calls that may be repeated wait for its replica, the others of that moment say so."""
    memory = opened(timeout=3.0)
    everyone = one_per_node(cluster)
    await save_all(memory, everyone, 0)
    victim = cluster.owner(slot(everyone[0]))
    replica = next(server for server in cluster.living() if replicates(server, victim))
    until(lambda: ask(victim, "WAIT", 1, 1000))
    victim.kill()
    for number in range(1, 4):
        await save_all(memory, everyone, number)
        for session_id in everyone:
            assert await memory.sessions.load(session_id, "n", "k") == number
    assert ask(replica, "ROLE")[0] == b"master"
    assert await memory.sessions.increment(everyone[0], "n", "k") == 4


def replicates(server: Server, primary: Server) -> bool:
    role = ask(server, "ROLE")
    return bool(role[0] == b"slave" and role[2] == primary.port)


async def test_a_planned_failover_loses_nothing(memory: AsyncMemory, cluster: Cluster) -> None:
    """The replica asks for the primary's place, under load: no error, no increment lost or counted twice."""
    everyone = ids(12)
    over, counts = threading.Event(), dict.fromkeys(everyone, 0)

    async def work(mine: list[str]) -> None:
        while not over.is_set():
            for session_id in mine:
                counts[session_id] += 1
                assert await memory.sessions.increment(session_id, "n", "k") == counts[session_id]

    workers = [beside(memory, work(everyone[number::2])) for number in range(2)]
    replicas = [server for server in cluster.living() if server not in cluster.primaries()]
    try:
        for replica in replicas:
            ask(replica, "CLUSTER", "FAILOVER")
            until(lambda replica=replica: ask(replica, "ROLE")[0] == b"master")
            await asyncio.sleep(0.05)
    finally:
        over.set()
        await asyncio.wait(workers)
    await asyncio.gather(*workers)
    assert {one: await memory.sessions.load(one, "n", "k") for one in everyone} == counts


async def test_scripts_that_every_node_forgets(memory: AsyncMemory, cluster: Cluster) -> None:
    everyone = ids(12)
    for number in range(1, 4):
        for server in cluster.primaries():
            ask(server, "SCRIPT", "FLUSH")
        if number % 2:
            assert [await memory.sessions.increment(one, "n", "k") for one in everyone] == [number] * 12
        else:
            async with memory.batch() as batch:
                handles = [batch.sessions.increment(one, "n", "k") for one in everyone]
            assert results(handles) == [number] * 12


async def test_seeds_that_are_gone(opened: Open, cluster: Cluster) -> None:
    memory = opened(f"redis+cluster://127.0.0.1:1,localhost:{cluster.servers[1].port}")
    await save_all(memory, ids(5), 1)
    nobody = opened("redis+cluster://127.0.0.1:1,127.0.0.1:2", retries=1, timeout=30.0)
    with pytest.raises(errors.Unavailable, match=r"redis\+cluster://127.0.0.1:1,127.0.0.1:2"):
        await nobody.sessions.load("s", "n", "k")
    assert not (await nobody.health()).ok


async def test_closed(memory: AsyncMemory) -> None:
    await save_all(memory, ids(5), 1)
    await memory.aclose()
    with pytest.raises(errors.LinkClosed):
        await memory.sessions.load("s", "n", "k")


def test_a_forked_child_has_connections_of_its_own(cluster: Cluster) -> None:
    with Memory(cluster.url) as memory:
        everyone = ids(6)
        assert [memory.sessions.increment(one, "n", "k") for one in everyone] == [1] * 6
        connects = memory.stats().connects
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = int([memory.sessions.increment(one, "n", "k") for one in everyone] != [2] * 6)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert [memory.sessions.increment(one, "n", "k") for one in everyone] == [3] * 6
        assert memory.stats().connects == connects, "the parent lost a connection to its child"


async def test_a_storm_of_cancellations(cluster: Cluster) -> None:
    async with AsyncMemory(cluster.url) as memory:
        everyone = ids(30)
        async with memory.batch() as batch:
            for one in everyone:
                batch.sessions.save(one, "n", "k", one)
        connects = memory.stats().connects
        for turn in range(300):
            loads = [asyncio.create_task(memory.sessions.load(one, "n", "k")) for one in everyone]
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            for load in loads[turn % 3 :: 2]:
                load.cancel()
            for one, load in zip(everyone, loads, strict=True):
                with suppress(asyncio.CancelledError):
                    assert await load == one
        assert memory.stats().connects == connects, "the storm broke a connection"


async def forever(call: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> NoReturn:
    while True:
        await asyncio.sleep(0)
        await call(*arguments)


async def test_batches_while_the_memory_closes_leave_nothing_behind(cluster: Cluster) -> None:
    left: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(str(context)))
    everyone = ids(60)
    for _ in range(3):
        memory = AsyncMemory(cluster.url)
        await save_all(memory, everyone, 1)
        closing = asyncio.create_task(memory.aclose())
        with pytest.raises(errors.LinkClosed):
            await forever(save_all, memory, everyone, 2)
        await closing
        gc.collect()
    assert left == []


# --- what else links do -----------------------------------------------------------------------------------------------


async def test_keys_in_several_slots_are_refused_before_anything_is_sent(memory: AsyncMemory, link: Link) -> None:
    await link.execute("SET", "a", "1")
    before = memory.stats()
    with pytest.raises(errors.PartitionMismatch):
        await link.pipeline((("SET", "a", "2"), ("DEL", "a", "b")))
    with pytest.raises(errors.PartitionMismatch):
        await link.transaction((("SET", "a", "2"), ("SET", "b", "2")))
    assert memory.stats() == before
    assert link.colocated("{a}1", "{a}2")
    assert not link.colocated("a", "b")


async def test_replies_come_in_the_order_of_the_commands(link: Link) -> None:
    keys = [f"key{number}" for number in range(100)]
    only(await link.pipeline([("SET", key, key) for key in keys]))
    replies = await link.pipeline(
        [("ECHO", "first"), *(("GET", key) for key in keys), ("LPUSH", "key0", "x"), ("PING",)]
    )
    assert replies[:-2] == [b"first", *map(str.encode, keys)]
    assert isinstance(replies[-2], errors.WrongType)
    assert replies[-1] == b"PONG"


async def test_shards_are_the_primaries(link: Link, cluster: Cluster) -> None:
    ports = {int((await shard.execute("CONFIG", "GET", "port"))[1]) for shard in await link.shards()}
    assert ports == {server.port for server in cluster.primaries()}


async def test_exclusive_goes_where_the_key_is(link: Link, cluster: Cluster) -> None:
    for key in one_per_node(cluster):
        async with link.exclusive(f"{{{key}}}") as own:
            assert await own.exchange((("BLPOP", f"{{{key}}}", "0.01"),), timeout=5) == [None]
            await link.execute("RPUSH", f"{{{key}}}", "x")
            reply = await own.exchange((("BLPOP", f"{{{key}}}", 0),), timeout=math.inf)
            assert reply == [[f"{{{key}}}".encode(), b"x"]]


async def test_exclusive_follows_a_slot(memory: AsyncMemory, link: Link, cluster: Cluster) -> None:
    await link.execute("SET", "{x}k", "1")
    async with link.exclusive("{x}k") as own:
        assert await own.exchange((("GET", "{x}k"),)) == [b"1"]
        with moving_slot(cluster, "x", "{x}k"):
            assert await rewritten(own, b"1") == [b"OK", [b"OK"]]  # ASK
            assert await own.exchange((("GET", "{x}k"), ("PING",))) == [b"2", b"PONG"]
        assert await own.exchange((("GET", "{x}k"),)) == [b"2"]
        with moving_slot(cluster, "x"):
            pass
        assert await rewritten(own, b"2") == [b"OK", [b"OK"]]  # MOVED
        await own.exchange((("WATCH", "{x}k"),))
        with moving_slot(cluster, "x"):
            pass
        replies = await own.exchange((("MULTI",), ("SET", "{x}k", "4"), ("EXEC",)))
        assert isinstance(replies[1], errors.ServerError)  # a watched key cannot be followed: begin anew
    async with link.exclusive("{x}k") as own:
        assert await rewritten(own, b"3") == [b"OK", [b"OK"]]


async def rewritten(own: Exclusive, old: bytes) -> list[Any]:
    """The replies to WATCH and EXEC of a transaction that adds one."""
    watched, found = await own.exchange((("WATCH", "{x}k"), ("GET", "{x}k")))
    assert found == old
    replies = await own.exchange((("MULTI",), ("SET", "{x}k", str(int(old) + 1)), ("EXEC",)))
    return [watched, replies[-1]]


async def test_records_and_contexts_of_every_node_are_migrated(memory: AsyncMemory) -> None:
    old, new = memory.records("person", Person), memory.records("person", Named)
    users = ids(20)
    for user in users:
        await old.merge_many(user, {"a": Person(name="Ann Lee"), "b": Person(name="Bob Roe")})
        await memory.contexts.update_context(user, "Hi", "Hello")
    places = [place async for place in new.scan()]
    assert sorted(places) == sorted((user, record) for user in users for record in "ab")
    assert sorted([user async for user in memory.contexts.scan(batch_size=3)]) == sorted(users)
    before = memory.stats().round_trips
    async with memory.batch() as batch:
        people, customers = batch.records("person", Named), batch.contexts.of(Customer)
        handles = [people.migrate(*place) for place in places] + [customers.migrate(user) for user in users]
    assert results(handles) == [Migrated.DONE] * 60
    assert memory.stats().round_trips - before <= 2 * 3, "to each node, for reading and for writing"
    assert {await new.migrate(*place) for place in places} == {Migrated.CURRENT}


def test_locks_of_every_node(cluster: Cluster) -> None:
    with Memory(cluster.url) as memory:
        locks = {user: memory.lock(user) for user in ids(20)}
        assert all(lock.acquire() for lock in locks.values())
        held = {one.user_id: one.token for one in api.locks(memory)}
        assert held == {user: lock.token for user, lock in locks.items()}
        for lock in locks.values():
            lock.release()
        assert list(api.locks(memory)) == []


@pytest.mark.parametrize("fates", list(product((Fate.PASSES, Fate.UNSENT), repeat=4)))
def test_a_merge_that_is_cut_off_hides_nobody(cluster: Cluster, fates: tuple[Fate, ...]) -> None:
    """What a process had sent when it was killed: whoever knows an entity is found, and nobody else."""
    with Memory(cluster.url) as memory, Memory(cluster.url, retries=0) as killed:
        entities = killed.entities
        for user in one_per_node(cluster):
            warm = SimpleContact(name=f"{user} warm")
            entities.merge(user, SimpleMemory(contacts=[warm]))  # every node is connected and knows the script
            found = [SimpleContact(name=f"{user} {number}", id=f"{user}-{number}") for number in range(4)]
            with inject(killed, [*fates, *repeat(Fate.UNSENT, 100)]), suppress(errors.LinkError):
                entities.merge(user, SimpleMemory(contacts=found))
            known = {contact.id for contact in memory.entities.load(user).contacts if contact != warm}
            assert {one.id for one in found if memory.entities.find_users(one) == [user]} == known
            assert {one.id for one in found if memory.entities.find_users(SimpleContact(name=one.name))} == known
            memory.entities.merge(user, SimpleMemory(contacts=found))
            assert all(memory.entities.find_users(one) == [user] for one in found), "the next one puts it right"


def test_an_entity_is_told_of_before_it_is_merged(cluster: Cluster) -> None:
    """One of the nodes refuses what it is told: then nothing is merged."""
    with Memory(cluster.url) as memory:
        contact = SimpleContact(name="Ann")
        key = memory._shared.keys.entity_users("contacts", "key=ann")
        ask(cluster.owner(slot_of(key)), "SET", key, "no set")
        user = ids(1, lambda at: cluster.owner(at) is not cluster.owner(slot_of(key)))[0]
        with pytest.raises(errors.WrongType):
            memory.entities.merge(user, SimpleMemory(contacts=[contact]))
        assert memory.entities.load(user).contacts == []
        ask(cluster.owner(slot_of(key)), "DEL", key)
        memory.entities.merge(user, SimpleMemory(contacts=[contact]))
        assert memory.entities.find_users(contact) == [user]
        memory.entities.forget(user)
        assert memory.entities.find_users(contact) == []
        assert ask(cluster.owner(slot_of(key)), "EXISTS", key) == 0


@pytest.mark.parametrize("again", ["forget", "repair"])
@pytest.mark.parametrize("passing", range(6))
def test_to_forget_cut_off_leaves_what_others_clear(cluster: Cluster, passing: int, again: str) -> None:
    """What a process had sent when it was killed: whoever still knows an entity is found, and the index is cleared."""
    with Memory(cluster.url) as memory, Memory(cluster.url, retries=0) as killed:
        names = [f"Ann {number}" for number in range(6)]
        contacts = [SimpleContact(name=name) for name in names]
        for one in (memory, killed):  # every node is connected and knows the scripts
            one.entities.merge("42", SimpleMemory(contacts=contacts))
            one.entities.forget("42")
        memory.entities.merge("42", SimpleMemory(contacts=contacts))
        with inject(killed, [*[Fate.PASSES] * passing, *[Fate.UNSENT] * 100]), suppress(errors.LinkError):
            killed.entities.forget("42")
        memory.entities.merge("42", SimpleMemory(contacts=contacts[:2]))
        known = {one.name for one in memory.entities.load("42").contacts}
        assert {one.name for one in contacts if memory.entities.find_users(one) == ["42"]} == known
        getattr(memory.entities, again)("42")
        left = known if again == "repair" else set[str]()
        sets = {name: memory._shared.keys.entity_users("contacts", f"key={name.lower()}") for name in names}
        assert {name for name, key in sets.items() if ask(cluster.owner(slot_of(key)), "EXISTS", key)} == left


def test_who_is_told_of_while_somebody_forgets_is_found(cluster: Cluster) -> None:
    """Sets of the index are on other nodes: forgetting and merging come in between each other."""
    names = [f"Ann {number}" for number in range(6)]
    with Memory(cluster.url) as memory, Memory(cluster.url) as rival, ThreadPoolExecutor(4) as threads:
        for turn in range(40 if LONG else 10):
            works = [
                threads.submit(rival.entities.forget, "42")
                if number % 2
                else threads.submit(memory.entities.merge, "42", SimpleMemory(contacts=[SimpleContact(name=name)]))
                for number, name in enumerate(names * 4)
            ]
            for work in works:
                work.result()
            there = {one.name for one in memory.entities.load("42").contacts}
            found = {name for name in names if memory.entities.find_users(SimpleContact(name=name))}
            assert found == there, f"turn {turn}"
        memory.entities.forget("42")
        sets = [memory._shared.keys.entity_users("contacts", f"key={name.lower()}") for name in names]
        assert [ask(cluster.owner(slot_of(key)), "EXISTS", key) for key in sets] == [0] * len(names)


async def test_health_is_that_of_all_primaries(memory: AsyncMemory) -> None:
    await save_all(memory, ids(5), 1)
    health = await memory.health()
    assert (health.ok, health.shards, health.role, health.eviction_policy) == (True, 3, "master", "noeviction")
    assert health.used_memory_bytes is not None
    assert health.used_memory_bytes > 3_000_000


async def test_a_server_that_is_no_cluster(opened: Open, valkey: Server) -> None:
    memory = opened(f"redis+cluster://127.0.0.1:{valkey.port}")
    with pytest.raises(errors.ServerError, match="cluster support disabled"):
        await memory.sessions.load("s", "n", "k")


async def test_a_node_by_itself_says_which_url_to_use(opened: Open, cluster: Cluster) -> None:
    stranger = next(one for one in ids(9) if cluster.owner(slot(one)) is not cluster.servers[0])
    memory = opened(cluster.servers[0].url)
    with pytest.raises(errors.ServerError, match=r"MOVED .*redis\+cluster://"):
        await memory.sessions.load(stranger, "n", "k")


def tls_node(new_server: Callable[..., Server], *words: str) -> int:
    """The port of a new one; launching tries other ports for itself alone."""
    for attempt in range(5):
        port = _free_port()
        listening = ("--port", "0", "--tls-port", str(port), "--tls-cluster", "yes", "--cluster-enabled", "yes")
        try:
            new_server("redis70", *listening, *words)
        except RuntimeError:
            if attempt == 4:
                raise
        else:
            return port
    raise AssertionError


def test_tls(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """One node: it speaks TLS only, asks for a certificate and a password, and leaves its host out of the map."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, cert, ca = (str(tmp_path / name) for name in ("key.pem", "cert.pem", "ca.pem"))
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(ca)
    files = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
    port = tls_node(new_server, *files, "--requirepass", "sesame")
    query = f"ssl_ca_certs={ca}&ssl_certfile={cert}&ssl_keyfile={key}"
    with Memory(f"rediss://:sesame@127.0.0.1:{port}?{query}") as memory:
        run(memory._link.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16383))
        until(lambda: b"cluster_state:ok" in run(memory._link.execute("CLUSTER", "INFO")))
    with Memory(f"rediss+cluster://:sesame@127.0.0.1:{port}?{query}") as memory:
        memory.sessions.save("s", "n", "k", "through")
        assert memory.sessions.load("s", "n", "k") == "through"
        assert "sesame" not in repr(memory._link)
