"""Many processes change one hash at once: redismem's script against the WATCH loop that people write themselves."""

# pyright: reportUnknownMemberType=false
# (parts of redis-py are not annotated)

import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, Final

import redis

from bench.measure import Side, race
from bench.report import Bound, Result
from bench.setting import NAMESPACE, SESSION, Bench
from redismem import Memory

PROCESSES: Final = 16
SECONDS: Final = 0.4
FIELDS: Final = tuple(f"counter:{number}" for number in range(8))
WATCHED: Final = "bare:counters"
OURS: Final = "redismem"
THEIRS: Final = "redis-py, WATCH loop"

_SPAWN = multiprocessing.get_context("spawn")
_UNTIL_ALL_WAIT = 0.02


def merges(bench: Bench) -> Iterator[Result]:
    """Increments of the fields of one hash, by all processes at once. None may be lost, on either side."""
    done: dict[str, int] = {OURS: 0, THEIRS: 0}
    with _crew(bench.url, bench.size(PROCESSES, quick=4)) as crew, Memory(bench.url) as memory:

        def side(name: str) -> Side:
            def one_round() -> float:
                merged = _together(crew, name)
                done[name] += merged
                return SECONDS / merged

            return Side(name, one_round)

        result = race(side(OURS), [side(THEIRS)], bench.size(20))
        assert sum(memory.sessions.get_all(SESSION, NAMESPACE).values()) == done[OURS]
        assert sum(map(int, bench.bare.hvals(WATCHED))) == done[THEIRS]
    yield Result(
        f"merges of {len(crew)} processes in one hash / WATCH loop",
        f"{1 / result.ours:,.0f} /s",
        f"{1 / result.theirs:,.0f} /s, {result.peer}",
        result.speed_ratio,
        Bound(5, at_least=True),
    )


@contextmanager
def _crew(url: str, size: int) -> Generator[list[Connection]]:
    """Processes that wait for orders."""
    with ExitStack() as stack:
        crew: list[Connection] = []
        for _ in range(size):
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_work, args=(url, theirs), daemon=True)
            process.start()
            theirs.close()  # a worker that dies is then an end of file
            stack.callback(process.join)
            stack.callback(ours.close)
            crew.append(ours)
        for worker in crew:
            worker.recv()
        yield crew


def _together(crew: list[Connection], name: str) -> int:
    """How many merges all of them made in one round."""
    begin = time.monotonic() + _UNTIL_ALL_WAIT  # the same clock in all processes
    for worker in crew:
        worker.send((name, begin))
    return sum(worker.recv() for worker in crew)


def _work(url: str, orders: Connection) -> None:
    """One process: merge in the ordered way for a round, say how often, wait for the next order."""
    with Memory(url) as memory, redis.Redis.from_url(url, protocol=2) as client:
        ways: dict[str, Callable[[str], object]] = {
            OURS: partial(memory.sessions.increment, SESSION, NAMESPACE),
            THEIRS: partial(_watched, client),
        }
        fields, ready = cycle(FIELDS), 0
        orders.send(ready)
        while True:
            try:
                name, begin = orders.recv()
            except EOFError:
                return
            time.sleep(max(0.0, begin - time.monotonic()))
            merged = 0
            while time.monotonic() < begin + SECONDS:
                ways[name](next(fields))
                merged += 1
            orders.send(merged)


def _watched(client: Any, field: str) -> None:
    with client.pipeline() as pipe:
        while True:
            try:
                pipe.watch(WATCHED)
                value = int(pipe.hget(WATCHED, field) or 0)
                pipe.multi()
                pipe.hset(WATCHED, field, value + 1)
                pipe.execute()
            except redis.WatchError:
                continue
            return
