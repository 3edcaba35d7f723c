"""The pluggable session store, as its documentation has it."""

import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redismem.compat.sessions import MemoryStore, create_store
from tests.servers import REAL, Server


@pytest.fixture
def store(url: str) -> Iterator[MemoryStore]:
    with create_store(url) as store:
        yield store


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- API contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("save", {"session_id": ..., "namespace": ..., "key": ..., "value": ..., "ttl": None}),
        ("load", {"session_id": ..., "namespace": ..., "key": ...}),
        ("get_all", {"session_id": ..., "namespace": ...}),
        ("delete", {"session_id": ..., "namespace": ..., "key": ...}),
    ],
)
def test_signatures(method: str, parameters: dict[str, Any]) -> None:
    _, *given = inspect.signature(getattr(MemoryStore, method)).parameters.values()
    required = {one.name: ... if one.default is one.empty else one.default for one in given[: len(parameters)]}
    assert required == parameters
    assert all(one.default is not one.empty for one in given[len(parameters) :])


def test_save_and_load(store: MemoryStore) -> None:
    assert store.save("session-1", "conversation", "topic", "flight booking") is None
    assert store.load("session-1", "conversation", "topic") == "flight booking"


def test_parameters_by_name(store: MemoryStore) -> None:
    store.save(session_id="session-1", namespace="conversation", key="topic", value="refund", ttl=None)
    assert store.load(session_id="session-1", namespace="conversation", key="topic") == "refund"
    assert store.get_all(session_id="session-1", namespace="conversation") == {"topic": "refund"}
    store.delete(session_id="session-1", namespace="conversation", key="topic")
    assert store.load(session_id="session-1", namespace="conversation", key="topic") is None


def test_load_is_none_when_missing(store: MemoryStore) -> None:
    assert store.load("session-1", "conversation", "topic") is None
    store.save("session-1", "conversation", "topic", "refund")
    assert store.load("session-1", "conversation", "tone") is None
    assert store.load("session-1", "flags", "topic") is None
    assert store.load("session-2", "conversation", "topic") is None


def test_save_replaces(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "topic", "refund")
    store.save("session-1", "conversation", "topic", {"name": "refund", "open": True})
    assert store.load("session-1", "conversation", "topic") == {"name": "refund", "open": True}


def test_get_all_is_one_namespace_of_one_session(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "topic", "refund")
    store.save("session-1", "conversation", "turns", 3)
    store.save("session-1", "flags", "beta", True)
    store.save("session-2", "conversation", "topic", "greeting")
    assert store.get_all("session-1", "conversation") == {"topic": "refund", "turns": 3}
    assert store.get_all("session-1", "flags") == {"beta": True}
    assert store.get_all("session-3", "conversation") == {}


def test_delete_is_one_key(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "topic", "refund")
    store.save("session-1", "conversation", "turns", 3)
    store.delete("session-1", "conversation", "topic")
    store.delete("session-1", "conversation", "never there")
    assert store.load("session-1", "conversation", "topic") is None
    assert store.get_all("session-1", "conversation") == {"turns": 3}


def test_whoever_changes_a_loaded_value_changes_their_own_copy(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "slots", {"from": ["FRA"]})
    store.load("session-1", "conversation", "slots")["from"].append("JFK")
    store.get_all("session-1", "conversation")["slots"] = None
    assert store.load("session-1", "conversation", "slots") == {"from": ["FRA"]}


# --- TTL expiry -----------------------------------------------------------------------------------------------------


def test_ttl_is_in_seconds(store: MemoryStore) -> None:
    began = time.monotonic()
    store.save("session-1", "conversation", "typing", True, ttl=0.3)
    store.save("session-1", "conversation", "topic", "refund", ttl=3600)
    wait_for(lambda: store.load("session-1", "conversation", "typing") is None)
    assert time.monotonic() - began > 0.25
    assert store.load("session-1", "conversation", "topic") == "refund"


def test_what_has_expired_is_in_nothing(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "typing", True, ttl=0.05)
    store.save("session-1", "conversation", "topic", "refund")
    wait_for(lambda: store.get_all("session-1", "conversation") == {"topic": "refund"})
    assert store.load("session-1", "conversation", "typing") is None


def test_without_ttl_a_value_stays(store: MemoryStore) -> None:
    store.save("session-1", "conversation", "topic", "refund", ttl=0.05)
    store.save("session-1", "conversation", "topic", "greeting")
    store.save("session-1", "conversation", "typing", True, ttl=0.06)
    wait_for(lambda: store.load("session-1", "conversation", "typing") is None)
    assert store.load("session-1", "conversation", "topic") == "greeting"


# --- concurrency ----------------------------------------------------------------------------------------------------


def test_threads_lose_nothing(store: MemoryStore) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.save("session-1", "writes", f"{thread}-{number}", [thread, number])

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(write, range(10)))
    expected = {f"{thread}-{number}": [thread, number] for thread in range(10) for number in range(20)}
    assert store.get_all("session-1", "writes") == expected


def test_threads_never_see_half_a_value(store: MemoryStore) -> None:
    def write(thread: int) -> None:
        for _ in range(20):
            store.save("session-1", "conversation", "slots", {"by": thread, "copy": [thread] * 100})

    def read(_: int) -> bool:
        seen = [store.load("session-1", "conversation", "slots") for _ in range(20)]
        return all(one is None or one["copy"] == [one["by"]] * 100 for one in seen)

    with ThreadPoolExecutor(6) as pool:
        writing, whole = pool.map(write, range(3)), list(pool.map(read, range(3)))
        list(writing)
    assert whole == [True] * 3


def test_threads_keep_their_sessions_apart(store: MemoryStore) -> None:
    def work(thread: int) -> Any:
        for number in range(20):
            store.save(f"session-{thread}", "n", "k", number)
            store.save(f"session-{thread}", "n", f"k{number}", thread)
            store.delete(f"session-{thread}", "n", f"k{number - 1}")
        return store.get_all(f"session-{thread}", "n")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [{"k": 19, "k19": thread} for thread in range(8)]


# --- the adapter is chosen at run time ------------------------------------------------------------------------------


class Assistant:
    """A service that is given its store."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def greet(self, session_id: str) -> str:
        times = (self.store.load(session_id, "assistant", "times") or 0) + 1
        self.store.save(session_id, "assistant", "times", times, ttl=3600)
        return f"Hello for the {times}. time"


def test_development_and_production_run_the_same_code(url: str) -> None:
    for where in ("memory://", url):
        with create_store(where) as store:
            assistant = Assistant(store)
            assert [assistant.greet("session-1") for _ in range(2)] == [
                "Hello for the 1. time",
                "Hello for the 2. time",
            ]
            assert isinstance(store, MemoryStore)


def test_the_environment_chooses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISMEM_URL", url)
    with create_store() as store:
        assert Assistant(store).greet("session-1") == "Hello for the 1. time"


def test_development_needs_no_server_and_leaves_nothing() -> None:
    with create_store("memory://") as one, create_store("memory://") as other:
        one.save("session-1", "conversation", "topic", "refund")
        assert other.load("session-1", "conversation", "topic") is None


@pytest.mark.parametrize("server", REAL, indirect=True)
def test_production_is_shared(server: Server) -> None:
    with create_store(server.url) as one, create_store(server.url) as other:
        one.save("session-1", "conversation", "topic", "refund")
        assert other.load("session-1", "conversation", "topic") == "refund"


def test_a_url_that_cannot_work_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match="unknown URL scheme 'mongodb'"):
        create_store("mongodb://localhost")
