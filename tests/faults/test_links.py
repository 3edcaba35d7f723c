"""What connections go through: cancellations, lost scripts, restarts, forks, threads and loops."""

import asyncio
import gc
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redismem import AsyncMemory, Memory, errors
from redismem.link import asyncio as asyncio_link

CANCELLATIONS = 100_000


async def test_no_reply_crosses_in_a_storm_of_cancellations(valkey):
    """Every task asks for its own tag and is cancelled at a random moment, or not; no answer is another's."""
    dice = random.Random(7)
    outcomes = {"answered": 0, "cancelled": 0}
    async with AsyncMemory(valkey.url) as memory:
        tags = {f"k{number}": f"tag {number}" for number in range(500)}
        await memory.sessions.save_many("storm", "n", tags)

        async def ask(key: str) -> None:
            assert await memory.sessions.load("storm", "n", key) == tags[key]

        async def storm(asks: int) -> None:
            for _ in range(asks):
                task = asyncio.create_task(ask(f"k{dice.randrange(500)}"))
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                    outcomes["answered"] += 1
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1

        await asyncio.gather(*(storm(CANCELLATIONS // 100) for _ in range(100)))
        assert memory.stats().connects == 1, "the storm broke the connection"
        assert await memory.sessions.load_many("storm", "n", tags) == tags
    assert sum(outcomes.values()) == CANCELLATIONS
    assert outcomes["cancelled"] > CANCELLATIONS / 20, outcomes
    assert outcomes["answered"] > CANCELLATIONS / 20, outcomes


async def test_commands_of_one_tick_leave_in_one_write(valkey, monkeypatch):
    writes: list[int] = []
    taken_off = asyncio_link._Channel._take_off

    def counted(channel):
        pieces = taken_off(channel)
        if pieces:
            writes.append(len(pieces))
        return pieces

    async with AsyncMemory(valkey.url) as memory:
        await memory.sessions.load("s", "n", "k")
        monkeypatch.setattr(asyncio_link._Channel, "_take_off", counted)
        await asyncio.gather(*(memory.sessions.load("s", "n", f"k{i}") for i in range(50)))
    assert writes == [50]


async def test_a_call_cancelled_before_the_write_is_never_sent(valkey):
    async with AsyncMemory(valkey.url) as memory:
        await memory.sessions.save("s", "n", "k", "old")
        task = asyncio.create_task(memory.sessions.save("s", "n", "k", "new"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await memory.sessions.load("s", "n", "k") == "old"


async def test_callers_wait_for_room(valkey, monkeypatch):
    """With room for few calls, many callers all come through, cancelled ones give their place up."""
    monkeypatch.setattr(asyncio_link, "MAX_CALLS", 4)
    async with AsyncMemory(valkey.url) as memory:
        await memory.sessions.save("s", "n", "k", "v")
        tasks = [asyncio.create_task(memory.sessions.load("s", "n", "k")) for _ in range(200)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(answer == "v" for answer in answers) >= 200 - len(tasks[::3])
        assert all(answer == "v" or isinstance(answer, asyncio.CancelledError) for answer in answers)


def test_one_async_memory_serves_loops_one_after_the_other_and_at_once(valkey):
    memory = AsyncMemory(valkey.url)  # made outside any loop

    async def work(number: int) -> None:
        await asyncio.gather(*(memory.sessions.increment("s", "n", "count") for _ in range(20)))

    for number in range(3):
        asyncio.run(work(number))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(work(number)), range(8)))

    async def end() -> int:
        async with memory:
            return await memory.sessions.load("s", "n", "count")

    assert asyncio.run(end()) == 11 * 20


async def test_a_closed_memory_says_so(valkey):
    memory = AsyncMemory(valkey.url)
    await memory.sessions.save("s", "n", "k", 1)
    await memory.aclose()
    await memory.aclose()
    with pytest.raises(errors.LinkClosed):
        await memory.sessions.load("s", "n", "k")
    blocking = Memory(valkey.url)
    blocking.sessions.load("s", "n", "k")
    blocking.close()
    blocking.close()
    with pytest.raises(errors.LinkClosed):
        blocking.sessions.load("s", "n", "k")


async def test_closing_ends_callers_that_wait(new_server):
    server = new_server("valkey9")
    memory = AsyncMemory(server.url, retries=0)
    await memory.sessions.load("s", "n", "k")
    os.kill(server.process.pid, signal.SIGSTOP)  # SIGSTOP: nobody answers
    try:
        waiting = [asyncio.create_task(memory.sessions.load("s", "n", "k")) for _ in range(5)]
        await asyncio.sleep(0.01)
        await memory.aclose()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, errors.LinkClosed) for answer in answers), answers
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_a_server_that_does_not_answer_is_a_timeout(new_server):
    server = new_server("valkey9")
    with Memory(server.url, timeout=0.2, retries=1) as memory:
        memory.sessions.save("s", "n", "k", 1)
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(errors.Timeout, match="may have been applied"):
            memory.sessions.increment("s", "n", "k")
        os.kill(server.process.pid, signal.SIGCONT)
        assert memory.sessions.load("s", "n", "k") in (1, 2)


async def test_a_server_that_does_not_answer_is_a_timeout_for_tasks(new_server):
    server = new_server("valkey9")
    async with AsyncMemory(server.url, timeout=0.2, retries=1) as memory:
        await memory.sessions.save("s", "n", "k", 1)
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(errors.Timeout, match="may have been applied"):
            await memory.sessions.increment("s", "n", "k")
        os.kill(server.process.pid, signal.SIGCONT)
        assert await memory.sessions.load("s", "n", "k") in (1, 2)


def test_a_server_that_is_not_there():
    with Memory("redis://127.0.0.1:1", retries=1) as memory:
        with pytest.raises(errors.Unavailable, match=r"redis://127.0.0.1:1.*nothing was sent"):
            memory.sessions.load("s", "n", "k")
        assert memory.health().ok is False
        assert memory.stats().retries == 2


def test_no_password_in_any_text(new_server):
    server = new_server("valkey9", "--requirepass", "sesame")
    url = server.url.replace("redis://", "redis://:open-{}@")
    with Memory(url.format("nonsense")) as memory:
        with pytest.raises(errors.AuthenticationFailed) as caught:
            memory.sessions.load("s", "n", "k")
        for text in (str(caught.value), repr(memory), repr(memory.sessions), repr(memory.settings), repr(memory._link)):
            assert "nonsense" not in text
    with Memory(server.url.replace("redis://", "redis://:sesame@")) as memory:
        assert memory.sessions.load("s", "n", "k") is None
    with Memory(server.url) as memory, pytest.raises(errors.AuthenticationFailed):
        memory.sessions.load("s", "n", "k")


@pytest.mark.parametrize("name", ["valkey9", "redis62"])
def test_script_flush_in_a_loop_hurts_nobody(new_server, name):
    server = new_server(name)
    stop = threading.Event()

    def flush() -> None:
        with Memory(server.url) as other:
            while not stop.is_set():
                asyncio.run(_execute(other, "SCRIPT", "FLUSH"))

    def work(number: int) -> None:
        for i in range(150):
            memory.sessions.save(f"s{number}-{i}", "n", "k", i, ttl=60)
            assert memory.sessions.load(f"s{number}-{i}", "n", "k") == i
            memory.sessions.increment("all", "n", "count")
            memory.sessions.update("all", "n", "list", lambda value: value + 1, default=0)

    async def work_async() -> None:
        async with AsyncMemory(server.url) as memory:
            for i in range(150):
                await asyncio.gather(*(memory.sessions.increment("all", "n", "count") for _ in range(5)))
                async with memory.batch() as batch:
                    handles = [batch.sessions.increment("all", "n", "batched") for _ in range(5)]
                assert all(handle.error() is None for handle in handles), i

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        with Memory(server.url) as memory, ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
            asyncio.run(work_async())
            assert memory.sessions.get_all("all", "n") == {"count": 600 + 750, "list": 600, "batched": 750}
    finally:
        stop.set()
        flusher.join()


async def _execute(memory: Memory, *command: str) -> None:
    await memory._link.execute(*command)


def test_a_restart_under_load_gives_typed_errors_and_then_recovery(new_server):
    server = new_server("valkey9", appendonly=True)
    stop = threading.Event()
    foreign: list[BaseException] = []
    failures: list[errors.LinkError] = []
    after = threading.Event()
    recovered = [0, 0]

    def work() -> None:
        with Memory(server.url, retries=0) as memory:
            while not stop.is_set():
                try:
                    memory.sessions.increment("s", "n", "sync")
                    recovered[0] += after.is_set()
                except errors.LinkError as error:
                    failures.append(error)
                except BaseException as error:
                    foreign.append(error)

    async def work_async() -> None:
        async with AsyncMemory(server.url, retries=0) as memory:

            async def loop() -> None:
                while not stop.is_set():
                    try:
                        await memory.sessions.increment("s", "n", "async")
                        recovered[1] += after.is_set()
                    except errors.LinkError as error:
                        failures.append(error)
                        await asyncio.sleep(0.001)

            await asyncio.gather(*(loop() for _ in range(10)))

    threads = [threading.Thread(target=work) for _ in range(2)] + [
        threading.Thread(target=lambda: asyncio.run(work_async()))
    ]
    for thread in threads:
        thread.start()
    try:
        with Memory(server.url) as watch:
            _until(lambda: (watch.sessions.load("s", "n", "async", 0)) > 50)
            server.restart()
            after.set()
            _until(lambda: min(recovered) > 50)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not foreign, foreign
    assert failures, "the restart was not noticed: the test proves nothing"


def test_an_idempotent_call_survives_a_restart_by_itself(new_server):
    server = new_server("valkey9", appendonly=True)
    with Memory(server.url) as memory:
        memory.sessions.save("s", "n", "k", 1)
        server.restart()
        assert memory.sessions.load("s", "n", "k") == 1
        server.restart()
        assert memory.sessions.increment("s", "n", "k") == 2, "a connection known to be dead sends nothing"


def test_a_forked_child_has_connections_of_its_own(valkey):
    memory = Memory(valkey.url)
    memory.sessions.save("s", "n", "count", 0)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(50):
                    memory.sessions.increment("s", "n", "count")
                    assert memory.sessions.load("s", "n", f"mine{number}", "none") == "none"
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for _ in range(50):
        memory.sessions.increment("s", "n", "count")
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert memory.sessions.load("s", "n", "count") == 250
    assert memory.stats().connects == 1, "the parent lost its connection to a child"
    memory.close()


class Stop(BaseException):
    """What a handler of signals raises, such as KeyboardInterrupt."""


# redis-py drops a socket unclosed when it is interrupted between making and keeping it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_reply_crosses_when_signals_interrupt_calls_and_handshakes(valkey):
    """An interrupt in mid-call costs the connection; one in the handshake that follows must cost that one too."""
    with Memory(valkey.url) as memory:
        tags = {f"k{number}": f"tag {number}" for number in range(50)}
        memory.sessions.save_many("storm", "n", tags)
        outcomes = {"answered": 0, "stopped": 0}
        armed = False

        def stop(*_: object) -> None:
            # once per call: a late signal, or a second one while the first is dealt with, must not end the loop
            nonlocal armed
            if armed:
                armed = False
                raise Stop

        before = signal.signal(signal.SIGALRM, stop)
        begun = time.monotonic()
        try:
            while time.monotonic() < begun + 4 or (outcomes["stopped"] <= 100 and time.monotonic() < begun + 60):
                key = f"k{outcomes['answered'] % 50}"
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0003))
                    answer = memory.sessions.load("storm", "n", key)
                    armed = False
                except Stop:
                    outcomes["stopped"] += 1
                else:
                    assert answer == tags[key]
                    outcomes["answered"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert memory.sessions.load_many("storm", "n", tags) == tags
    assert min(outcomes.values()) > 100, outcomes


def test_a_threads_connection_ends_with_it(valkey):
    with Memory(valkey.url) as memory:
        memory.sessions.load("s", "n", "k")
        before = memory.health().connected_clients
        for _ in range(20):
            thread = threading.Thread(target=memory.sessions.load, args=("s", "n", "k"))
            thread.start()
            thread.join()
        gc.collect()
        _until(lambda: memory.health().connected_clients <= before + 1)


async def test_a_forgotten_async_memory_leaves_no_task(valkey):
    memory = AsyncMemory(valkey.url)
    await memory.sessions.load("s", "n", "k")
    del memory
    gc.collect()
    for _ in range(100):
        if not [task for task in asyncio.all_tasks() if task.get_name().startswith("redismem")]:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"still running: {asyncio.all_tasks()}")


def _until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
