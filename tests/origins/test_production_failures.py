"""What failed in production, one failure each, and what worked there and must go on working."""

import asyncio
import gc
import logging
import os
import random
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from redismem import AsyncMemory
from redismem.compat.architecture import AsyncEpisodicMemoryStore, EpisodicMemory
from redismem.compat.memory_system import MemorySystem
from redismem.compat.sessions import MemoryStore, create_store
from redismem.errors import (
    Conflict,
    DecodeError,
    InvalidKey,
    LimitExceeded,
    OwnerMismatch,
    PermissionDenied,
    ReadOnly,
    Unavailable,
)
from tests.proxy import CountingProxy
from tests.servers import REAL, Server

on_real_servers = pytest.mark.parametrize("server", REAL, indirect=True)
on_two_servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
on_valkey = pytest.mark.parametrize("server", ["valkey9"], indirect=True)


@pytest.fixture
def store(url: str) -> Iterator[MemoryStore]:
    with create_store(url) as store:
        yield store


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run it in so many threads, which begin together."""
    together = threading.Barrier(count)

    def begin(thread: int) -> Any:
        together.wait()
        return work(thread)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- lost updates: 1 of 200 was kept --------------------------------------------------------------------------------


@on_real_servers
def test_ten_threads_by_twenty_updates_keep_200(server: Server) -> None:
    memory_system = MemorySystem(server.url)

    async def work(thread: int) -> None:
        for number in range(20):
            await memory_system.update_context("user-1", f"{thread}/{number}", "Hello")

    async def count() -> int:
        ctx = await memory_system.get_user_context("user-1")
        await memory_system.aclose()
        return ctx.conversations_count

    in_threads(10, lambda thread: asyncio.run(work(thread)))
    assert asyncio.run(count()) == 200


def test_ten_threads_by_twenty_saves_keep_200(store: MemoryStore) -> None:
    in_threads(10, lambda thread: [store.save("session-1", "n", f"{thread}/{number}", 1) for number in range(20)])
    assert len(store.get_all("session-1", "n")) == 200


def test_a_conflict_is_retried(store: MemoryStore) -> None:
    def work(thread: int) -> None:
        for number in range(20):
            store.update("session-1", "n", "memories", lambda known: [*known, f"{thread}/{number}"], default=[])  # noqa: B023

    in_threads(5, work)
    memories = store.load("session-1", "n", "memories")
    assert sorted(memories) == sorted(f"{thread}/{number}" for thread in range(5) for number in range(20))


def test_a_conflict_that_does_not_end_is_reported(url: str) -> None:
    with create_store(url, update_attempts=2) as store:
        with pytest.raises(Conflict, match=r"n\[memories\].* each of 2 attempts"):
            store.update("session-1", "n", "memories", lambda _: store.increment("session-1", "n", "memories"))
        assert store.load("session-1", "n", "memories") == 2


def test_concurrency_bugs_are_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A failure in a batch that nobody looked at."""

    async def work() -> None:
        async with AsyncMemory(url) as memory, memory.batch() as batch:
            batch.episodes.add(EpisodicMemory(content="Hello"), scope="")

    with caplog.at_level(logging.ERROR, "redismem"):
        asyncio.run(work())
        gc.collect()
    assert "an operation of a batch failed, and nobody asked" in caplog.text


# --- speed fell 16-fold between 100 and 2,000 memories --------------------------------------------------------------


@on_two_servers
def test_2000_memories_are_as_fast_as_100(server: Server) -> None:
    """Neither round trips nor what is sent grow with what is there."""
    with CountingProxy(server.port) as proxy, redis.Redis(port=server.port) as operator:
        url = f"redis://127.0.0.1:{proxy.port}"
        with create_store(url) as store:
            episodes: Any = AsyncEpisodicMemoryStore(url)

            def work(number: int) -> None:
                store.save("session-1", "n", f"memory {number:5}", "Hello")
                assert store.load("session-1", "n", f"memory {number:5}") == "Hello"
                episodes.add_episode(EpisodicMemory(memory_id=f"e{number:5}", content="Hello"))
                assert episodes.get_episode(f"e{number:5}").content == "Hello"
                assert episodes.search_episodes("Hello", limit=1)

            def cost(number: int) -> tuple[int, int, int]:
                work(number)
                before = operator.info("stats"), proxy.round_trips
                work(number + 1)
                after = operator.info("stats"), proxy.round_trips
                sent, got = (after[0][f"total_net_{way}_bytes"] - before[0][f"total_net_{way}_bytes"] for way in WAYS)
                return after[1] - before[1], sent, got

            def fill(numbers: range) -> None:
                store.save_many("session-1", "n", {f"memory {number:5}": "Hello" for number in numbers})
                batch = [EpisodicMemory(memory_id=f"e{number:5}", content="Hello") for number in numbers]
                episodes.add_episodes(batch)

            fill(range(100))
            trips, *sizes = cost(10_000)
            fill(range(100, 2000))
            trips_then, *sizes_then = cost(20_000)
            assert trips_then == trips == 5
            assert [then < size * 1.2 for then, size in zip(sizes_then, sizes, strict=True)] == [True, True]
            episodes.close()


WAYS = ("input", "output")


@on_two_servers
def test_updates_are_incremental(server: Server) -> None:
    """A change sends what changed, not the document that it is in."""
    with create_store(server.url) as store, redis.Redis(port=server.port) as operator:
        store.save_many("session-1", "n", {f"key {number}": os.urandom(1000) for number in range(1000)})
        store.save("session-1", "n", "key 1", "small")
        before = operator.info("stats")["total_net_input_bytes"]
        store.save("session-1", "n", "key 1", "other")
        assert operator.info("stats")["total_net_input_bytes"] - before < 2_000


# --- corruption lost the session id and mixed sessions --------------------------------------------------------------


@on_real_servers
def test_corruption_of_one_session_stays_there(server: Server) -> None:
    with create_store(server.url) as store, redis.Redis(port=server.port) as operator:
        for session in range(10):
            store.save_many(f"session-{session}", "n", {"whose": session, "topic": "refund"})
        (damaged,) = operator.keys("*{session-3}:ns:n")
        operator.hset(damaged, "topic", b"\xc1 no value")
        for session in range(10):
            assert store.load(f"session-{session}", "n", "whose") == session
        with pytest.raises(DecodeError, match="session-3") as damage:
            store.load("session-3", "n", "topic")
        assert isinstance(damage.value, ValueError)
        found = store.get_all("session-3", "n")
        assert (dict(found), list(found.unreadable)) == ({"whose": 3}, ["topic"])
        assert store.get_all("session-4", "n") == {"whose": 4, "topic": "refund"}
        info = store.info("session-3")
        assert info is not None
        assert (info.session_id, info.namespaces) == ("session-3", ("n",))
        store.save("session-3", "n", "topic", "mended")
        assert store.get_all("session-3", "n") == {"whose": 3, "topic": "mended"}


@on_real_servers
def test_corruption_of_one_memory_hides_no_other(server: Server) -> None:
    episodes: Any = AsyncEpisodicMemoryStore(server.url)
    episodes.add_episodes(EpisodicMemory(memory_id=f"e{number}", content="Hello") for number in range(5))
    with redis.Redis(port=server.port) as operator:
        (documents,) = [
            key for key in operator.scan_iter() if operator.type(key) == b"hash" and operator.hexists(key, "e3")
        ]
        operator.hset(documents, "e3", b"\xc1 no value")
    assert len(episodes.search_episodes("Hello")) == 4
    assert sum(map(len, episodes.stream_episodes())) == 4
    with pytest.raises(DecodeError, match="e3"):
        episodes.get_episode("e3")
    episodes.close()


def test_similar_session_ids_do_not_mix(store: MemoryStore) -> None:
    ids = ["s", "s1", "S1", "s1:n", "s1}", "{s1", "s*", "s?", "s%31", "s1 ", " s1", "s1\0", "s1\n", "ś1", "s\u03011"]
    for number, session in enumerate(ids):
        store.save(session, "n", "whose", number)
    assert [store.load(session, "n", "whose") for session in ids] == list(range(len(ids)))
    store.end("s*")
    assert sorted(store.scan()) == sorted(set(ids) - {"s*"})


# --- worked, and must go on working ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, 1_000_000, 5_000_000])
def test_values_up_to_5_mb(store: MemoryStore, size: int) -> None:
    for value in (random.Random(size).randbytes(size), "ü" * (size // 2), ["word"] * (size // 5)):
        store.save("session-1", "n", "k", value)
        assert store.load("session-1", "n", "k") == value


async def test_messages_of_5_mb(url: str) -> None:
    memory_system, message = MemorySystem(url), random.Random(5).randbytes(2_500_000).hex()
    await memory_system.update_context("user-1", message, "too long")
    assert (await memory_system.get_user_context("user-1")).last_message == message
    await memory_system.aclose()


TEXTS = {
    "unicode": "Grüße, 你好, שלום, e\u0301, \U0010ffff",
    "emoji": "👩\u200d👩\u200d👧\u200d👦 🇪🇺 🧠",
    "json": '{"a": ["\\"b\\"", null]}',
    "quotes": "'; DROP TABLE memories; --",
    "NUL": "a\0b\0",
    "newlines": "a\nb\r\nc\u2028",
    "controls": "\x01\x1b[31m\x7f",
    "separators": "a:b{c}d*e?[f]%25 /\\|",
    "spaces": "  \t ",
}
on_each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@on_each_text
def test_any_text_is_a_value_and_a_name(store: MemoryStore, text: str) -> None:
    store.save(text, text, text, text)
    store.save("session-1", "n", "k", {text: [text]})
    assert store.load(text, text, text) == text
    assert store.get_all(text, text) == {text: text}
    assert store.load("session-1", "n", "k") == {text: [text]}
    assert (store.namespaces(text), set(store.scan())) == ([text], {text, "session-1"})
    assert store.load(text + "x", text, text) is None
    store.delete(text, text, text)
    assert store.get_all(text, text) == {}


@on_each_text
async def test_any_text_is_a_message_and_a_user(url: str, text: str) -> None:
    memory_system = MemorySystem(url)
    await memory_system.update_context(text, text, text)
    ctx = await memory_system.get_user_context(text)
    assert (ctx.user_id, ctx.last_message, ctx.last_response) == (text, text, text)
    await memory_system.aclose()


@on_each_text
def test_any_text_is_an_episode(url: str, text: str) -> None:
    episodes: Any = AsyncEpisodicMemoryStore(url)
    told = EpisodicMemory(
        memory_id=text, content=text, task_id=text, session_id=text, tags=frozenset({text}), metadata={text: text}
    )
    episodes.add_episode(told)
    assert episodes.get_episode(text).model_copy(update={"created_at": None}) == told
    assert [one.memory_id for one in episodes.search_episodes(None, text, text, [text])] == [text]
    episodes.search_episodes(text)
    episodes.close()


@on_valkey
def test_long_runs_leave_nothing_behind(server: Server) -> None:
    with create_store(server.url, operation_memory=0.05) as store, redis.Redis(port=server.port) as operator:

        def live(session: int) -> None:
            store.save(f"session-{session}", "n", "k", "Hello")
            store.update(f"session-{session}", "n", "k", str.upper)
            assert store.load(f"session-{session}", "n", "k") == "HELLO"
            store.end(f"session-{session}")

        def growth(times: int) -> int:
            before, _ = tracemalloc.get_traced_memory()
            for time_ in range(times):
                live(time_ % 50)
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        tracemalloc.start()
        try:
            growth(200)
            # bytes: fifty for each time would be a leak; what grows once is none
            assert min(growth(400) for _ in range(3)) < 20_000
        finally:
            tracemalloc.stop()
        wait_for(lambda: operator.dbsize() == 0)


# --- storage that is read-only or missing is reported clearly -------------------------------------------------------


async def refused(url: str, kind: type[Exception], match: str) -> None:
    """Every way of writing says why it cannot."""
    memory_system, episodes = MemorySystem(url, retries=0), AsyncEpisodicMemoryStore(url, retries=0)
    with create_store(url, retries=0) as store, pytest.raises(kind, match=match):
        store.save("session-1", "n", "k", "new")
    with pytest.raises(kind, match=match):
        await memory_system.update_context("user-1", "Hi", "Hello")
    with pytest.raises(kind, match=match):
        await episodes.add_episode_async(EpisodicMemory(content="new"))
    await memory_system.aclose()
    await episodes.aclose()


@pytest.mark.parametrize("name", REAL)
async def test_a_server_that_is_a_replica(new_server: Callable[..., Server], name: str) -> None:
    server = new_server(name)
    with create_store(server.url) as store, redis.Redis(port=server.port) as operator:
        store.save("session-1", "n", "k", "old")
        operator.execute_command("REPLICAOF", "127.0.0.1", "1")
        await refused(server.url, ReadOnly, "read only replica.*connect to the primary")
        assert store.load("session-1", "n", "k") == "old"
        operator.execute_command("REPLICAOF", "NO", "ONE")
        store.save("session-1", "n", "k", "new")
        assert store.load("session-1", "n", "k") == "new"


@on_real_servers
async def test_a_user_who_may_only_read(server: Server) -> None:
    with create_store(server.url) as store, redis.Redis(port=server.port) as operator:
        store.save("session-1", "n", "k", "old")
        operator.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-@write")
        url = f"redis://reader:secret@127.0.0.1:{server.port}"
        try:
            await refused(url, PermissionDenied, "(?s)^(?!.*secret)")
            with create_store(url) as reader:
                assert reader.load("session-1", "n", "k") == "old"
        finally:
            operator.execute_command("ACL", "DELUSER", "reader")
        assert store.load("session-1", "n", "k") == "old"


@pytest.mark.parametrize("name", ["valkey9", "redis62"])
async def test_a_disk_that_went_away(new_server: Callable[..., Server], tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    server = new_server(name, "--dir", str(disk))
    with create_store(server.url) as store, redis.Redis(port=server.port) as operator:
        store.save("session-1", "n", "k", "old")
        operator.config_set("save", "3600 1000")
        shutil.rmtree(disk)
        operator.bgsave()
        wait_for(lambda: operator.info("persistence")["rdb_last_bgsave_status"] == "err")
        await refused(server.url, ReadOnly, "cannot persist: look at its log and disk")
        assert store.load("session-1", "n", "k") == "old"
        operator.config_set("save", "")


async def test_a_server_that_is_not_there(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9")
    server.stop()
    await refused(server.url, Unavailable, f"127.0.0.1:{server.port}.*nothing was sent.*check that the server is up")
    await refused(server.url, ConnectionError, f"127.0.0.1:{server.port}")
    memory_system = MemorySystem(server.url, retries=0)
    health = await memory_system.health()
    assert not health.ok
    assert "check that the server is up" in str(health.error)
    await memory_system.aclose()


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ValueError, match="is not a directory"):
        create_store(f"embedded://{tmp_path}/file")


# --- asked for: limits, validation, cleanup, compaction, monitoring -------------------------------------------------


def test_limits_on_size(url: str) -> None:
    with create_store(url, max_value_bytes=1000) as store:
        store.save("session-1", "n", "k", "old")
        with pytest.raises(LimitExceeded, match="=1000: store less, or raise the limit"):
            store.save("session-1", "n", "k", random.Random(1).randbytes(1001))
        assert store.load("session-1", "n", "k") == "old"


def test_limits_on_count(url: str) -> None:
    with create_store(url, max_fields=2, max_namespaces=2) as store:
        store.save_many("session-1", "n", {"a": 1, "b": 2})
        store.save("session-1", "m", "a", 1)
        with pytest.raises(LimitExceeded, match="2 keys"):
            store.save("session-1", "n", "c", 3)
        with pytest.raises(LimitExceeded, match="2 namespaces"):
            store.save("session-1", "o", "a", 1)
        store.save("session-1", "n", "b", 3)
        assert store.get_all("session-1", "n") == {"a": 1, "b": 3}


def test_memories_are_bounded_and_the_unused_go(url: str) -> None:
    episodes: Any = AsyncEpisodicMemoryStore(url, max_documents=10)
    episodes.add_episode(EpisodicMemory(memory_id="kept", content="Hello", importance=1.0))
    for number in range(30):
        episodes.add_episode(EpisodicMemory(memory_id=f"e{number}", content="Hello", importance=0.0))
    left = {one.memory_id for one in episodes.search_episodes(limit=100)}
    assert len(left) == 10
    assert "kept" in left
    episodes.close()


def test_old_sessions_are_cleaned_up(url: str) -> None:
    with create_store(url, session_ttl=0.2) as store:
        store.save("session-1", "n", "k", 1)
        store.save("session-1", "m", "k", 1, ttl=3600)
        wait_for(lambda: store.info("session-1") is None)
        assert (store.get_all("session-1", "n"), store.get_all("session-1", "m")) == ({}, {})
        wait_for(lambda: list(store.scan()) == [])


def test_a_session_can_be_ended(store: MemoryStore) -> None:
    store.save_many("session-1", "n", {"a": 1, "b": 2})
    store.save("session-2", "n", "a", 1)
    assert store.end("session-1") == 2
    assert store.info("session-1") is None
    assert list(store.scan()) == ["session-2"]


def test_sessions_are_validated(store: MemoryStore) -> None:
    broken: list[Any] = ["", "x" * 1000, "\ud800", None, 7, b"session"]
    for session in broken:
        with pytest.raises(InvalidKey, match="session_id"):
            store.save(session, "n", "k", 1)
        with pytest.raises(InvalidKey, match="session_id"):
            store.load(session, "n", "k")
    assert list(store.scan()) == []


def test_a_session_belongs_to_one_user(store: MemoryStore) -> None:
    store.save("session-1", "n", "k", "private", user_id="ann")
    with pytest.raises(OwnerMismatch):
        store.load("session-1", "n", "k", user_id="ben")
    with pytest.raises(OwnerMismatch):
        store.save("session-1", "n", "k", "stolen", user_id="ben")
    assert store.load("session-1", "n", "k", user_id="ann") == "private"


@on_two_servers
def test_what_is_written_over_and_over_takes_its_place_once(server: Server) -> None:
    episodes: Any = AsyncEpisodicMemoryStore(server.url, change_log=100, operation_memory=0.05)
    with create_store(server.url, operation_memory=0.05) as store, redis.Redis(port=server.port) as operator:

        def write() -> int:
            for number in range(300):
                store.save("session-1", "n", "k", f"{number:5}" * 100)
                episodes.add_episode(EpisodicMemory(memory_id="e", content=f"{number:5}" * 100))
            return sum(operator.memory_usage(key) or 0 for key in operator.scan_iter() if b"op" not in key)

        assert write() * 1.1 > write()
    episodes.close()


@on_real_servers
async def test_monitoring(server: Server) -> None:
    memory_system = MemorySystem(server.url)
    await memory_system.update_context("user-1", "Hi", "Hello")
    health = await memory_system.health()
    assert (health.ok, health.error, health.role) == (True, None, "master")
    assert health.used_memory_bytes is not None
    assert health.latency_ms is not None
    assert memory_system.memory.stats().round_trips > 0
    await memory_system.aclose()
