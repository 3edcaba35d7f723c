"""A server that is full: with `noeviction` writes are refused whole, with `allkeys-lru` keys go and the rest holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from redismem import EpisodicMemory, Memory, Settings, SimpleMemory
from redismem.errors import OutOfMemory, RedisMemError
from redismem.op import run
from redismem.stores.crm import SimpleContact
from tests.conftest import emptied
from tests.faults.figures import LONG, Figures
from tests.servers import Server

SERVERS = ["valkey9", "redis62"]
ROUNDS = 20_000 if LONG else 1_500


@contextmanager
def full(server: Server) -> Iterator[None]:
    """While the block runs, the server has no room for anything more."""
    with redis.Redis(port=server.port) as raw:
        raw.config_set("maxmemory", 1)
        try:
            yield
        finally:
            raw.config_set("maxmemory", 0)


def state(server: Server) -> dict[bytes, Any]:
    """All that is on the server, but for what is remembered of operations."""
    with redis.Redis(port=server.port) as raw:
        return {
            key: raw.hgetall(key) if raw.type(key) == b"hash" else raw.object("encoding", key)
            for key in raw.scan_iter()
            if b":ops" not in key
        }


@pytest.mark.parametrize("name", SERVERS)
def test_writes_are_refused_whole_and_the_rest_goes_on(
    name: str, new_server: Callable[..., Server], figure: Figures
) -> None:
    server = new_server(name, "--maxmemory-policy", "noeviction")
    with Memory(server.url, coherence="tracking") as memory:
        sessions = memory.sessions
        sessions.save_many("s", "n", {"a": 1, "b": 2}, ttl=1000, user_id="u")
        sessions.increment("s", "n", "count")
        memory.contexts.update_context("42", "Hi", "Hello")
        memory.entities.merge("42", SimpleMemory(contacts=[SimpleContact(name="Ann")]))
        before = state(server)
        writes: list[Callable[[], object]] = [
            lambda: sessions.save("s", "n", "a", 9),
            lambda: sessions.save("s", "new", "a", 9, ttl=5),
            lambda: sessions.save_many("t", "n", {"a": 1, "b": 2}),
            lambda: sessions.increment("s", "n", "count"),
            lambda: sessions.update("s", "n", "a", lambda value: value + 1),
            lambda: sessions.compare_and_set("s", "n", "a", 1, 5),
            lambda: memory.contexts.update_context("42", "again", "no"),
            lambda: memory.entities.merge("42", SimpleMemory(contacts=[SimpleContact(name="ann", id="7")])),
            lambda: memory.lock("42", wait=0).acquire(),
        ]
        with full(server):
            for write in writes:
                with pytest.raises(OutOfMemory):
                    write()
            assert state(server) == before
            for fresh in (False, True):
                assert sessions.get_all("s", "n", fresh=fresh) == {"a": 1, "b": 2, "count": 1}
            assert sessions.load("s", "n", "a", user_id="u") == 1
            assert memory.contexts.get_user_context("42").conversations_count == 1
            assert memory.health().ok
            assert sessions.delete("s", "n", "b")
        assert sessions.increment("s", "n", "count") == 2
        memory.contexts.update_context("42", "again", "yes")
        assert memory.contexts.get_user_context("42").conversations_count == 2
        assert memory.lock("42", wait=0).acquire()
    figure("maxmemory, noeviction", "kinds of writes refused, nothing changed", len(writes))


@pytest.mark.parametrize("name", SERVERS)
def test_what_eviction_leaves_is_consistent(name: str, new_server: Callable[..., Server], figure: Figures) -> None:
    server = new_server(name, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru")
    failed = evicted = 0
    with Memory(server.url) as memory, redis.Redis(port=server.port) as raw:
        for number in range(ROUNDS):
            session = f"s{number % 300}"
            try:
                memory.sessions.save(session, "text", f"k{number % 7}", "x" * 3_500, ttl=1000)
                assert memory.sessions.increment(session, "count", "n") >= 1
                found = memory.sessions.get_all(session, "text")
                assert set(found) <= {f"k{n}" for n in range(7)}
                for key in found:
                    if memory.sessions.ttl(session, "text", key) is None:  # it has gone, or ends with its hash
                        assert raw.pttl(f"redismem:session:{{{session}}}:ns:text") != -1
                memory.contexts.update_context(session, "Hi", "Hello")
            except RedisMemError:
                failed += 1
        evicted = raw.info("stats")["evicted_keys"]
        assert evicted > 0
        assert failed == 0
        for number in range(300):
            info = memory.sessions.info(f"s{number}")
            if info is not None:
                for namespace in info.namespaces:
                    memory.sessions.get_all(f"s{number}", namespace)
                memory.sessions.end(f"s{number}")
        raw.config_set("maxmemory", 0)
        assert memory.sessions.increment("fresh", "count", "n") == 1
    figure("maxmemory, allkeys-lru", "keys evicted", evicted)
    figure("maxmemory, allkeys-lru", "calls that failed", failed)


KEYS = ["meta", "ns:timed", "ns:count", "ttl:timed", "ops"]


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("name", [*SERVERS, "redis70"] if LONG else SERVERS)
@pytest.mark.parametrize("evicted", KEYS)
def test_each_key_may_be_evicted_by_itself(
    shared_server: Callable[[str], Server], name: str, evicted: str, lasting: bool
) -> None:
    """What is left of the session is listed, counts from what is there, and ends when it was to end."""
    latest = 51 if lasting else 101  # fields whose deadlines are gone end with their session
    with Memory(emptied(shared_server(name)).url, session_ttl=None if lasting else 100) as memory:
        sessions = memory.sessions
        with redis.Redis.from_url(shared_server(name).url) as raw:
            for key in ("a", "b"):
                sessions.save("s", "timed", key, 1, ttl=50)
            sessions.increment("s", "count", "n")
            raw.unlink(f"redismem:session:{{s}}:{evicted}")
            gone = evicted.removeprefix("ns:")
            for namespace in {"timed", "count"} - {gone}:
                assert sessions.get_all("s", namespace)
            if evicted != "meta":  # without it nobody knows of them, until they are written to again
                assert set(sessions.namespaces("s")) == {"timed", "count"} - {gone}
            sessions.save("s", "timed", "c", 1, ttl=50)
            assert sessions.increment("s", "count", "n") == (1 if gone == "count" else 2)
            assert set(sessions.namespaces("s")) == {"timed", "count"}
            for key in sessions.get_all("s", "timed"):
                assert 0 < (sessions.ttl("s", "timed", key) or 0) <= latest, f"{key} has become immortal"
            assert sessions.end("s") >= 2
            assert [key for key in raw.scan_iter() if raw.pttl(key) == -1] == []


@pytest.mark.parametrize("name", [*SERVERS, "redis70"] if LONG else SERVERS)
@pytest.mark.parametrize("evicted", ["episodes", "meta", "log", "use", "ttl", "vectors", "ttl:vectors", "ops"])
def test_each_key_of_documents_may_be_evicted_by_itself(
    shared_server: Callable[[str], Server], name: str, evicted: str
) -> None:
    """What is left is found, ends when it was to end, and stays bounded."""
    of = "" if evicted in ("episodes", "ops") else ":episodes"
    settings = Settings(url=emptied(shared_server(name)).url, embedder="hashing", max_documents=4)
    with Memory(settings) as memory, Memory(settings) as other, redis.Redis.from_url(settings.url) as raw:
        for number in range(4):
            memory.episodes.add(EpisodicMemory(memory_id=f"e{number}", content=f"booking {number}"), ttl=50)
        assert len(other.episodes.search("booking")) == 4
        raw.unlink(f"redismem:scope:{{default}}:{evicted}{of}")
        left = 0 if evicted == "episodes" else 4
        for searching in (memory, other):
            assert len(searching.episodes.search("booking")) == left
        for number in range(4, 6):
            memory.episodes.add(EpisodicMemory(memory_id=f"e{number}", content=f"booking {number}"), ttl=50)
        assert raw.hlen("redismem:scope:{default}:episodes") == (4 if left else 2)
        for searching in (memory, other):
            assert len(searching.episodes.search("booking")) == (4 if left else 2)
        stored = run(memory.episodes.read("default", [f"e{number}" for number in range(6)]))
        assert all(0 < one.left <= 51 for one in stored if one.data is not None)
