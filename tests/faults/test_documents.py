"""Documents that change, expire and are searched all at once."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from redismem import EpisodicMemory, Memory
from tests.conftest import emptied
from tests.faults.figures import LONG
from tests.servers import Server

SERVERS = pytest.mark.parametrize("name", ["valkey9", "redis62"])
SECONDS = 8.0 if LONG else 1.0


@contextmanager
def busy(*jobs: Callable[[int], object]) -> Iterator[None]:
    """While the block runs, threads do these again and again."""
    over, failed = threading.Event(), list[BaseException]()

    def work(job: Callable[[int], object]) -> None:
        try:
            for number in itertools.count():
                if over.is_set():
                    return
                job(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[0]


@SERVERS
def test_a_scope_is_read_while_it_changes(shared_server: Callable[[str], Server], name: str) -> None:
    """However long that takes, and however little the log holds."""
    url = emptied(shared_server(name)).url
    with Memory(url, change_log=100) as writer, Memory(url) as reader:
        for start in range(0, 20_000, 1_000):
            writer.episodes.add_many(
                EpisodicMemory(memory_id=f"e{number}", content=f"booking {number}")
                for number in range(start, start + 1_000)
            )

        def change(number: int) -> None:
            writer.episodes.add(EpisodicMemory(memory_id=f"e{number % 500}", content=f"changed {number}"))

        with busy(change):
            assert reader.episodes.search("booking 15000", limit=1)[0].document.memory_id == "e15000"
        writer.episodes.add(EpisodicMemory(memory_id="e3", content="zebra"))
        assert [one.document.memory_id for one in reader.episodes.search("zebra")] == ["e3"]


@SERVERS
def test_what_is_found_passes(shared_server: Callable[[str], Server], name: str) -> None:
    """A search in one thread, while another takes in that a document went to somebody else."""
    url = emptied(shared_server(name)).url
    with Memory(url) as writer, Memory(url) as reader:

        def change(number: int) -> None:
            owner = str(number % 2)
            writer.episodes.add_many(
                EpisodicMemory(memory_id=f"e{one}", content=f"of {owner}", user_id=owner) for one in range(50)
            )

        def search(number: int) -> None:
            owner = str(number % 2)
            assert all(found.document.user_id == owner for found in reader.episodes.search(user_id=owner, limit=50))

        with busy(change, search, search, search):
            time.sleep(SECONDS)


@SERVERS
def test_nothing_that_expires_becomes_eternal(shared_server: Callable[[str], Server], name: str) -> None:
    """Updated, and read by who searches, in its very last milliseconds."""
    url = emptied(shared_server(name)).url
    with Memory(url) as writer, Memory(url) as other, Memory(url) as reader:
        reader.episodes.search("edge")

        def update(number: int) -> None:
            other.episodes.update(f"e{number % 40}", lambda one: one.model_copy(update={"success": True}))

        with busy(update, lambda _: reader.episodes.search("edge", limit=1)):
            end, number = time.monotonic() + SECONDS, 0
            while time.monotonic() < end:
                writer.episodes.add(EpisodicMemory(memory_id=f"e{number % 40}", content="edge"), ttl=0.002)
                number += 1
        deadline = time.monotonic() + 20
        while reader.episodes.search("edge", limit=1_000) or list(writer.episodes.stream()):
            assert time.monotonic() < deadline, "some are still there"
