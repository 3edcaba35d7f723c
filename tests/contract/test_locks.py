"""Locks: one writer or many readers, in order of arrival, and nothing left behind."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.coordination.fence import Fence
from redismem.coordination.lock import AsyncLock, Lock
from redismem.errors import InvalidKey, InvalidTTL, LockError, LockLost, LockTimeout, StaleFence
from tests.contract.flavours import Place, eventually, on_real_servers, on_servers, once_on_each_server
from tests.faults.crew import in_child
from tests.servers import Server

T = TypeVar("T")

pytestmark = pytest.mark.timeout(120)

LOCK, QUEUE, WAITING, FENCE = (f"redismem:user:{{42}}:{what}:default" for what in ("lock", "queue", "waiting", "fence"))
BRIEF = 0.3
"""Seconds: a lease short enough to wait for its end."""


class Desk:
    """Takes and gives locks of one memory, of either flavour; blocking ones in threads of their own."""

    def __init__(self, memory: AsyncMemory) -> None:
        self._memory: Any = getattr(memory, "blocking", memory)
        self._threads = ThreadPoolExecutor(32)

    async def _in_a_thread(self, call: Callable[[], T]) -> T:
        """Not in one of the loop's own few threads, all of which may be waiting for a lock."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def lock(self, user_id: str = "42", *args: Any, **kwargs: Any) -> Any:
        return self._memory.lock(user_id, *args, **kwargs)

    async def take(self, lock: Lock | AsyncLock) -> bool:
        return await self._in_a_thread(lock.acquire) if isinstance(lock, Lock) else await lock.acquire()

    async def give(self, lock: Lock | AsyncLock) -> None:
        await self._in_a_thread(lock.release) if isinstance(lock, Lock) else await lock.release()

    @asynccontextmanager
    async def holding(self, **kwargs: Any) -> AsyncIterator[Any]:
        lock = self.lock(**kwargs)
        assert await self.take(lock)
        yield lock
        await self.give(lock)


@pytest.fixture
def desk(memory: AsyncMemory) -> Desk:
    return Desk(memory)


async def queue_length(place: Place, length: int) -> None:
    """Wait until so many wait."""

    async def is_so() -> bool:
        return int(place.raw().zcard(QUEUE)) == length

    await eventually(is_so)


def only_the_fence_is_left(place: Place) -> bool:
    return place.left_over() == [FENCE.encode()]


# --- one at a time --------------------------------------------------------------------------------------------------


@on_servers
async def test_a_lock_is_held_by_one_and_its_tokens_grow(place: Place, desk: Desk) -> None:
    tokens = []
    for _ in range(3):
        async with desk.holding() as lock:
            tokens.append(lock.token)
            assert lock.fence == Fence(FENCE, lock.token)
            assert int(place.raw().get(FENCE)) == lock.token
            assert await desk.take(desk.lock(wait=0)) is False
            assert await desk.take(desk.lock("43", wait=0)) is True
            assert await desk.take(desk.lock(name="other", wait=0)) is True
            assert not lock.lost
            lock.check()
            place.raw().delete("redismem:user:{43}:lock:default", "redismem:user:{42}:lock:other")
    assert tokens == sorted(set(tokens))
    with pytest.raises(LockError):
        _ = lock.token
    place.raw().delete("redismem:user:{43}:fence:default", "redismem:user:{42}:fence:other")
    assert only_the_fence_is_left(place)


@on_servers
async def test_health_tells_what_this_memory_holds_and_waits_for(memory: AsyncMemory, desk: Desk) -> None:
    began = datetime.now(UTC)

    async def told() -> set[tuple[str, str, bool, int | None]]:
        trips = memory.stats().round_trips
        locks = (await memory.health()).locks
        assert memory.stats().round_trips - trips <= 2, "one, and one to know the features"
        assert all(began <= one.since <= datetime.now(UTC) for one in locks)
        return {(one.user_id, one.name, one.shared, one.token) for one in locks}

    assert await told() == set()
    async with desk.holding() as lock, desk.holding(user_id="43", name="other", shared=True) as reader:
        held = {("42", "default", False, lock.token), ("43", "other", True, reader.token)}
        assert await told() == held
        waiter = asyncio.ensure_future(desk.take(desk.lock("43", "other", wait=60)))

        async def waits() -> bool:
            return await told() == {*held, ("43", "other", False, None)}

        await eventually(waits)
        impatient = desk.lock(wait=0)
        assert await desk.take(impatient) is False
        assert await waits()
    assert await waiter
    assert {(user_id, token is None) for user_id, *_, token in await told()} == {("43", False)}


def test_a_forked_child_holds_nothing_of_its_parents(valkey: Server) -> None:
    def work() -> None:
        assert memory.health().locks == ()
        with memory.lock("child") as own:
            assert [(one.user_id, one.token) for one in memory.health().locks] == [("child", own.token)]

    with Memory(valkey.url) as memory, ThreadPoolExecutor(1) as threads, memory.lock("42"), memory.lock("43"):
        threads.submit(memory.lock("42", wait=5).acquire)
        deadline = time.monotonic() + 20
        while len(memory.health().locks) < 3:
            assert time.monotonic() < deadline
        assert in_child(work) == 0
        assert len(memory.health().locks) == 3
        threads.shutdown(wait=False)


@on_servers
async def test_waiting_ends_after_wait_and_leaves_nothing(place: Place, desk: Desk) -> None:
    async with desk.holding():
        for wait in (0, 0.05):
            impatient = desk.lock(wait=wait)
            assert await desk.take(impatient) is False
            assert place.raw().exists(QUEUE, WAITING) == 0
            with pytest.raises(LockError):
                impatient.check()
    assert only_the_fence_is_left(place)


async def test_with_says_that_the_wait_was_in_vain(valkey: Server) -> None:
    with Memory(valkey.url) as memory, memory.lock("42"):
        with pytest.raises(LockTimeout, match="42"), memory.lock("42", wait=0):
            pytest.fail("never entered")
        async with AsyncMemory(valkey.url) as other:
            with pytest.raises(LockTimeout):
                async with other.lock("42", wait=0.01):
                    pytest.fail("never entered")


@on_servers
async def test_the_order_is_that_of_arrival(place: Place, desk: Desk) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        async with desk.holding():
            order.append(number)

    async with desk.holding():
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(one(number)))
            await queue_length(place, number + 1)
    await asyncio.gather(*tasks)
    assert order == list(range(6))
    assert only_the_fence_is_left(place)


@on_real_servers
async def test_who_waits_is_woken_and_does_not_ask_again_and_again(place: Place, desk: Desk) -> None:
    def scripts_run() -> int:
        return int(place.raw().info("commandstats")["cmdstat_evalsha"]["calls"])

    async with desk.holding():
        waiting = asyncio.create_task(desk.take(second := desk.lock()))
        await queue_length(place, 1)
        before = scripts_run()
        await asyncio.sleep(0.5)
        assert scripts_run() == before
    assert await waiting
    await desk.give(second)


# --- leases ---------------------------------------------------------------------------------------------------------


@once_on_each_server
async def test_a_lease_lasts_while_its_holder_lives(place: Place, desk: Desk) -> None:
    async with desk.holding(lease=BRIEF) as lock:
        await asyncio.sleep(4 * BRIEF)
        assert not lock.lost
        assert await desk.take(desk.lock(wait=0)) is False


@on_servers
async def test_a_holder_whose_lease_went_is_told(place: Place, desk: Desk, memory: AsyncMemory) -> None:
    lost, fence = desk.lock(lease=BRIEF), desk.lock()
    assert await desk.take(lost)
    old = lost.fence
    place.raw().delete(LOCK)  # as if the process had been stopped for longer than its lease
    assert await desk.take(fence)
    with pytest.raises(LockLost, match="42"):
        await desk.give(lost)
    await memory.sessions.save("42", "n", "k", "new", fence=fence)
    for stale in (memory.sessions.save("42", "n", "k", "old", fence=old), memory.sessions.end("42", fence=old)):
        with pytest.raises(StaleFence):
            await stale
    assert await memory.sessions.load("42", "n", "k") == "new"
    await desk.give(fence)


@on_servers
async def test_the_next_one_waits_for_the_lease_of_a_dead_holder_and_no_longer(place: Place, desk: Desk) -> None:
    script_of_another = await take_by_script(desk, "dead", lease_ms=int(BRIEF * 1000))
    assert script_of_another[0] == b"HELD"
    lock = desk.lock()
    assert await asyncio.wait_for(desk.take(lock), 20)
    await desk.give(lock)
    assert only_the_fence_is_left(place)


@on_servers
async def test_a_dead_waiter_is_passed_over(place: Place, desk: Desk) -> None:
    async with desk.holding():
        assert (await take_by_script(desk, "dead", lease_ms=50))[0] == b"WAIT"
        waiting = asyncio.create_task(desk.take(living := desk.lock()))
        await queue_length(place, 2)
        await asyncio.sleep(0.1)
    assert await asyncio.wait_for(waiting, 20)
    await desk.give(living)
    await eventually_only_the_fence(place)


async def eventually_only_the_fence(place: Place) -> None:
    async def is_so() -> bool:
        return only_the_fence_is_left(place)

    await eventually(is_so)


async def take_by_script(desk: Desk, owner: str, *, lease_ms: int, mode: str = "w") -> Any:
    """What another process would send, without anything that keeps it alive."""
    place = desk.lock()._place
    return await place.call("lock_acquire", owner, owner, mode, lease_ms, 1)


@on_servers
async def test_asking_again_changes_nothing(place: Place, desk: Desk) -> None:
    first = await take_by_script(desk, "a", lease_ms=60_000)
    assert (first[0], await take_by_script(desk, "a", lease_ms=60_000)) == (b"HELD", [b"HELD", first[1], 60_000])
    assert (await take_by_script(desk, "b", lease_ms=60_000))[0] == b"WAIT"
    assert (await take_by_script(desk, "b", lease_ms=60_000))[0] == b"WAIT"
    assert place.raw().zcard(QUEUE) == 1
    scripted = desk.lock()._place
    assert await scripted.leave("a") == [b"OK"]
    assert await scripted.leave("a") == [b"LOST"]
    assert (await take_by_script(desk, "b", lease_ms=60_000))[0] == b"HELD"
    assert await scripted.leave("b") == [b"OK"]
    assert only_the_fence_is_left(place)


@on_servers
async def test_tokens_grow_even_if_the_counter_is_lost(place: Place, desk: Desk) -> None:
    async with desk.holding() as lock:
        before = lock.token
    place.raw().delete(FENCE)
    async with desk.holding() as lock:
        assert lock.token > before
    place.raw().set(FENCE, before + 10**9)
    async with desk.holding() as lock:
        assert lock.token == before + 10**9 + 1


# --- readers and writers --------------------------------------------------------------------------------------------


@on_servers
async def test_readers_share_and_a_writer_is_not_starved(place: Place, desk: Desk) -> None:
    order: list[str] = []

    async def one(name: str, *, shared: bool) -> None:
        async with desk.holding(shared=shared):
            order.append(name)

    async with desk.holding(shared=True), desk.holding(shared=True):
        writer = asyncio.create_task(one("writer", shared=False))
        await queue_length(place, 1)
        assert await desk.take(desk.lock(shared=True, wait=0)) is False, "it would overtake the writer"
        readers = [asyncio.create_task(one("reader", shared=True)) for _ in range(2)]
        await queue_length(place, 3)
        assert order == []
    await asyncio.gather(writer, *readers)
    assert order == ["writer", "reader", "reader"]
    assert only_the_fence_is_left(place)


@on_servers
async def test_neighbouring_readers_are_let_in_together(place: Place, desk: Desk) -> None:
    both = asyncio.Barrier(2)

    async def one() -> None:
        async with desk.holding(shared=True):
            await asyncio.wait_for(both.wait(), 20)

    async with desk.holding():
        readers = [asyncio.create_task(one()) for _ in range(2)]
        await queue_length(place, 2)
    await asyncio.gather(*readers)


# --- one after the other in one thread or task ----------------------------------------------------------------------


def test_a_thread_may_enter_again_where_it_says_so(valkey: Server) -> None:
    with Memory(valkey.url) as memory:
        with memory.lock("42", reentrant=True) as outer:
            with memory.lock("42", reentrant=True) as inner:
                assert inner.token == outer.token
            assert not memory.lock("42", wait=0).acquire()
            outer.check()
        assert memory.lock("42", wait=0).acquire()
        with memory.lock("43", shared=True, reentrant=True), pytest.raises(LockError, match="reader"):
            memory.lock("43", reentrant=True).acquire()


async def test_a_task_may_enter_again_and_another_may_not(valkey: Server) -> None:
    async with (
        AsyncMemory(valkey.url) as memory,
        memory.lock("42", reentrant=True) as outer,
        memory.lock("42", reentrant=True) as inner,
    ):
        assert inner.token == outer.token
        other = memory.lock("42", reentrant=True, wait=0)
        assert await asyncio.create_task(other.acquire()) is False


def test_what_another_thread_gave_back_is_not_entered_again(valkey: Server) -> None:
    with Memory(valkey.url) as memory:
        given = memory.lock("42", reentrant=True)
        given.acquire()
        thread = threading.Thread(target=given.release)
        thread.start()
        thread.join()
        with memory.lock("42"):
            assert memory.lock("42", reentrant=True, wait=0).acquire() is False


@on_servers
async def test_what_cannot_work_is_said_at_once(place: Place, desk: Desk) -> None:
    with pytest.raises(InvalidKey):
        desk.lock("")
    for lease in (0, None, "1"):
        with pytest.raises(InvalidTTL):
            desk.lock(lease=lease)
    with pytest.raises(LockError):
        desk.lock(wait=-1)
    async with desk.holding() as lock:
        with pytest.raises(LockError, match="already"):
            await desk.take(lock)
    with pytest.raises(LockError):
        await desk.give(lock)


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["async-valkey9", "async-redis62"], indirect=True)
async def test_a_cancelled_task_leaves_nothing(place: Place, memory: AsyncMemory) -> None:
    async def one() -> None:
        async with memory.lock("42"):
            await asyncio.sleep(0.001)

    for delay in range(60):
        tasks = [asyncio.create_task(one()) for _ in range(4)]
        await asyncio.sleep(delay / 20_000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await eventually_only_the_fence(place)
    async with memory.lock("42", wait=0):
        pass


@pytest.mark.parametrize("place", ["async-valkey9"], indirect=True)
async def test_a_block_whose_lease_goes_is_cancelled(place: Place, memory: AsyncMemory) -> None:
    async def hold() -> None:
        async with memory.lock("42", lease=BRIEF):
            place.raw().delete(LOCK)
            await asyncio.sleep(20)

    with pytest.raises(LockLost):
        await hold()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_is_over_is_not_cancelled(valkey: Server) -> None:
    async with AsyncMemory(valkey.url) as memory:
        outer = memory.lock("42", lease=BRIEF, reentrant=True)
        await outer.acquire()
        async with memory.lock("42", reentrant=True):
            pass
        with redis.Redis(port=valkey.port) as raw:
            raw.delete(LOCK)

        async def is_lost() -> bool:
            return outer.lost

        await eventually(is_lost)
        await asyncio.sleep(BRIEF)
        with pytest.raises(LockLost):
            await outer.release()


async def test_a_block_is_cancelled_in_time_though_the_server_is_silent(new_server: Callable[..., Server]) -> None:
    server = new_server()
    process = server.process
    assert process is not None

    async def work() -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(60)
        finally:
            process.send_signal(signal.SIGCONT)

    async with AsyncMemory(server.url, timeout=30) as memory:
        began = time.monotonic()
        with pytest.raises(LockLost):
            async with memory.lock("42", lease=BRIEF):
                await work()
        assert time.monotonic() - began < 20


async def test_an_error_of_the_block_comes_through(valkey: Server) -> None:
    def fail(memory: Memory) -> None:
        with memory.lock("42") as lock:
            lock._held()._went = True
            raise ZeroDivisionError

    with Memory(valkey.url) as memory, pytest.raises(ZeroDivisionError):
        fail(memory)


async def test_one_object_is_one_holder_even_if_several_ask_at_once(valkey: Server) -> None:
    async with AsyncMemory(valkey.url) as memory:
        lock = memory.lock("42", shared=True, lease=BRIEF)

        async def reader() -> None:
            async with lock:
                await asyncio.sleep(0.01)

        outcomes = await asyncio.gather(reader(), reader(), return_exceptions=True)
        assert sorted(map(type, outcomes), key=str) == sorted([type(None), LockError], key=str)

        async def is_free() -> bool:
            return await memory.lock("42", wait=0).acquire()

        assert await eventually(is_free)


def test_a_wait_is_a_number(valkey: Server) -> None:
    with Memory(valkey.url) as memory:
        for wait in ("1", -1, float("nan"), True):
            with pytest.raises(LockError):
                memory.lock("42", wait=wait)  # type: ignore[arg-type]


async def test_nobody_renews_after_the_end_of_a_memory(valkey: Server) -> None:
    memory = Memory(valkey.url)
    memory.lock("42", lease=BRIEF).acquire()
    memory.close()

    async def is_over() -> bool:
        return not [thread for thread in threading.enumerate() if thread.name == "redismem-watchdog"]

    await eventually(is_over)
