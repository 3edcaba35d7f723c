"""Many processes want one lock at once: handed over in order, against redis-py's lock, which polls.

In a round every process takes the lock once, all asking at the same moment. A handover is the time from when one
holder is done to when the next one of the round begins; a wait the time from asking to having.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from statistics import quantiles
from typing import Final

import redis

from bench.measure import Spread
from bench.report import Bound, Result
from bench.setting import Bench
from redismem import Memory

ROUNDS: Final = 30
HOLD: Final = 0.0005
OURS: Final = "redismem"
THEIRS: Final = "redis-py Lock"
_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE: Final = 60

Turn = tuple[float, float, float]
"""When a process asked, began and was done, by the clock that all processes share."""


def locks(bench: Bench) -> Iterator[Result]:
    """Handovers and waits with few and with many processes."""
    for size in (2,) if bench.quick else (8, 32):
        rounds = bench.size(ROUNDS)
        ours, theirs = (_turns(bench.url, size, name, rounds) for name in (OURS, THEIRS))
        yield _limit(f"lock handover p50, {size} processes / 0.5 ms", _handovers(ours), is_bound=size == 8)
        yield _row(f"lock handover p50, {size} processes", _handovers(ours), _handovers(theirs), 50, None)
        yield _row(f"lock handover p99, {size} processes", _handovers(ours), _handovers(theirs), 99, 1 / 20)
        yield _row(f"longest wait for a lock, {size} processes", _waits(ours), _waits(theirs), 100, 1 / 10)


def _row(measure: str, ours: list[float], theirs: list[float], percent: int, limit: float | None) -> Result:
    mine, other = _percentile(ours, percent), _percentile(theirs, percent)
    bound = None if limit is None else Bound(limit, at_least=False)
    return Result(measure, f"{mine * 1e3:.2f} ms", f"{other * 1e3:.2f} ms, {THEIRS}", Spread.of([mine / other]), bound)


def _limit(measure: str, ours: list[float], *, is_bound: bool) -> Result:
    mine = _percentile(ours, 50)
    bound = Bound(1, at_least=False) if is_bound else None
    return Result(measure, f"{mine * 1e3:.2f} ms", "0.50 ms", Spread.of([mine / 0.0005]), bound)


def _percentile(values: list[float], percent: int) -> float:
    return max(values) if percent == 100 else quantiles(values, n=100, method="inclusive")[percent - 1]


def _handovers(rounds: list[list[Turn]]) -> list[float]:
    gaps = [
        began - done
        for turns in rounds
        for (_, _, done), (_, began, _) in itertools.pairwise(sorted(turns, key=lambda turn: turn[1]))
    ]
    assert min(gaps) > 0, "two held the lock at once"
    return gaps


def _waits(rounds: list[list[Turn]]) -> list[float]:
    return [began - asked for turns in rounds for asked, began, _ in turns]


def _turns(url: str, size: int, name: str, rounds: int) -> list[list[Turn]]:
    """The turns of all processes, round by round."""
    pipes: list[Connection] = []
    processes = []
    all_ready = _SPAWN.Barrier(size)
    for _ in range(size):
        ours, theirs = _SPAWN.Pipe()
        processes.append(_SPAWN.Process(target=_work, args=(url, name, rounds, all_ready, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    turns: list[list[Turn]] = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return [list(turn) for turn in zip(*turns, strict=True)]


def _work(url: str, name: str, rounds: int, all_ready: Barrier, results: Connection) -> None:
    with Memory(url) as memory, redis.Redis.from_url(url, protocol=2) as client:
        ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
            OURS: lambda: memory.lock("bench"),
            THEIRS: lambda: client.lock("bare:lock", timeout=30),
        }
        turns: list[Turn] = []
        memory.sessions.load("warm", "n", "k")
        client.ping()
        for _ in range(rounds + 1):
            all_ready.wait(_PATIENCE)
            asked = time.monotonic()
            with ways[name]():
                began = time.monotonic()
                time.sleep(HOLD)
                turns.append((asked, began, time.monotonic()))
        all_ready.wait(_PATIENCE)  # the end of a process takes the time of those that still wait
        results.send(turns[1:])  # the first round connected, and brought the scripts
