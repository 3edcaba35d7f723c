"""What the contract tests do not see of the store in a dictionary: its clock, its lock, and that it is up to date."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

from redismem import MISSING, SessionStore, Settings
from redismem.op import Declared
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.sessions import SessionOperations

OPERATIONS = [name for name, member in vars(SessionOperations).items() if isinstance(member, Declared)]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("name", [*OPERATIONS, "close", "__enter__", "__exit__"])
def test_it_has_the_interface_of_the_store(name: str) -> None:
    model, store = (inspect.signature(getattr(kind, name)) for kind in (InMemorySessionStore, SessionStore))
    assert list(model.parameters.values()) == list(store.parameters.values())


def test_time_is_what_the_clock_says() -> None:
    store = InMemorySessionStore(clock := Clock())
    store.save("s", "n", "k", 1, ttl=10)
    store.save("s", "n", "l", 1, ttl=20)
    clock.now += 9.75
    assert store.ttl("s", "n", "k") == 0.25
    assert store.load("s", "n", "k") == 1
    clock.now += 0.25
    assert store.load("s", "n", "k", MISSING) is MISSING
    assert store.namespaces("s") == ["n"]
    clock.now += 10
    assert store.info("s") is None
    assert list(store.scan()) == []


def test_an_idle_session_ends_by_the_clock() -> None:
    store = InMemorySessionStore(clock := Clock(), Settings(session_ttl=10))
    for _ in range(5):
        store.save("s", "n", "k", 1)
        clock.now += 9
        assert store.load("s", "n", "k") == 1
    clock.now += 1
    assert store.load("s", "n", "k") is None
    assert store.info("s") is None


def test_threads_lose_nothing() -> None:
    store = InMemorySessionStore()

    def work(number: int) -> None:
        for _ in range(100):
            store.increment("s", "n", "increments")
            store.update("s", "n", "updates", lambda value: value + 1, default=0)
            store.save("s", "n", f"own {number}", number, ttl=100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    expected = {f"own {number}": number for number in range(8)}
    assert store.get_all("s", "n") == {"increments": 800, "updates": 800, **expected}


def test_each_is_a_store_of_its_own() -> None:
    one, other = InMemorySessionStore(), InMemorySessionStore()
    one.save("s", "n", "k", 1)
    assert other.load("s", "n", "k") is None
    one.close()
    assert one.load("s", "n", "k") is None
