"""Searches in forked children, whatever the threads of the parent were doing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

import pytest

from redismem import EpisodicMemory, Memory
from redismem.search import Document, Index, Query
from tests.faults.crew import in_child
from tests.servers import Server


@contextmanager
def held_elsewhere(*locks: Lock) -> Iterator[None]:
    """Another thread holds these, as in the middle of a search."""

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        done.wait()
        for lock in locks:
            lock.release()

    held, done = Event(), Event()
    thread = Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def busy(*works: Callable[[], object]) -> Iterator[None]:
    """Threads do this again and again."""
    done = Event()

    def repeat(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    threads = [Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def found(memory: Memory, query: str) -> list[str]:
    return [one.document.content for one in memory.episodes.search(query)]


@pytest.fixture
def memory(valkey: Server) -> Iterator[Memory]:
    with Memory(valkey.url) as memory:
        memory.episodes.add(EpisodicMemory(content="a trip to Lisboa"))
        assert found(memory, "Lisboa") == ["a trip to Lisboa"]
        yield memory


def test_a_forked_child_has_indexes_of_its_own(memory: Memory) -> None:
    replicas = memory.episodes._replicas
    inherited = replicas.of("default")

    def work() -> None:
        memory.episodes.add(EpisodicMemory(content="a trip to Porto"))
        assert found(memory, "Lisboa") == ["a trip to Lisboa"]
        assert found(memory, "Porto") == ["a trip to Porto"]
        assert replicas.of("default") is not inherited
        assert replicas.of("default")._index is not inherited._index

    assert in_child(work) == 0
    assert found(memory, "Porto") == ["a trip to Porto"]
    assert replicas.of("default") is inherited


def test_a_fork_in_the_middle_of_another_threads_search(memory: Memory) -> None:
    replicas = memory.episodes._replicas
    replica = replicas.of("default")
    with held_elsewhere(replicas._lock, replica._lock, replica._index._lock):
        assert in_child(lambda: found(memory, "Lisboa")) == 0
    assert found(memory, "Lisboa") == ["a trip to Lisboa"]


def test_a_child_forked_while_threads_are_in_sqlite_opens_indexes_of_its_own() -> None:
    said = [Document(str(number), f"a trip {number}") for number in range(1000)]
    inherited = Index()
    inherited.apply(said, [])

    def reopen() -> None:
        index = Index()
        index.apply(said[:50], [])
        assert len(index.search(Query("trip"))) == 10

    def work() -> None:
        reopen()
        inherited._texts.close()  # as finalizers do

    with busy(lambda: inherited.search(Query("trip")), lambda: inherited.apply(said[:50], []), reopen):
        assert [in_child(work) for _ in range(100)] == [0] * 100
    assert len(inherited.search(Query("trip"))) == 10
