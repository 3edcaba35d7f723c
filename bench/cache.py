"""Reads from process memory: what a hit costs, what a miss costs more, and how soon and cheaply a change is known.

A hit is compared with the least that it could be, a look-up in a dict and the decoding of what is found there, and
with the client-side caches of other libraries. The value is a message as agents exchange them, of a kilobyte.
"""

# pyright: reportUnknownMemberType=false, reportPrivateUsage=false
# (parts of redis-py are not annotated; L1 itself is measured, not only its stores)

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle, islice, repeat
from statistics import quantiles
from typing import Any, Final

from msgpack import packb, unpackb

from bench import data, peers
from bench.measure import Race, Side, Spread, each, race
from bench.report import Bound, Result
from bench.setting import NAMESPACE, SESSION, Bench
from redismem import AsyncMemory, Memory
from redismem.cache.l1 import L1

MESSAGE: Final = {
    "role": "tool",
    "tool_call_id": "call_9Q0rYpS2mWdXcVfTgB",
    "name": "get_reservation_details",
    "content": data.text(900, repetitive=False),
}
CALLING: Final = {
    "role": "assistant",
    "content": data.text(600, repetitive=False),
    "tool_calls": [
        {
            "id": "call_9Q0rYpS2mWdXcVfTgB",
            "type": "function",
            "function": {"name": "search_direct_flight", "arguments": data.text(240, repetitive=True)},
        }
    ],
}
KEY: Final = "17"
HITS: Final = 1_000
TASKS: Final = 50
FULL: Final = 100
SMALL, LARGE = 1_000, 100_000


def hit(bench: Bench) -> Iterator[Result]:
    """A value in L1 against a dict of msgpack documents."""
    for kind, message in (("flat", MESSAGE), ("nested", CALLING)):
        place = f"redismem:session:{{{SESSION}}}:ns:{NAMESPACE}", KEY
        documents = {place: packb(message)}

        def decoded(key: tuple[str, str], documents: dict[tuple[str, str], bytes] = documents) -> Any:
            return unpackb(documents[key])

        theirs = each("dict and unpackb", decoded, repeat(place), HITS)
        with _filled(bench, message) as memory:
            ours = each("redismem", partial(memory.sessions.load, SESSION, NAMESPACE), repeat(KEY), HITS)
            result = race(ours, [theirs], bench.size(200))
            yield _time(f"L1 hit, {kind} message / dict and unpackb", result, Bound(2, at_least=False))
        with asyncio.Runner() as runner:
            asynchronous = runner.run(_filled_async(bench))
            ours = _awaited(runner, "redismem", partial(asynchronous.sessions.load, SESSION, NAMESPACE), KEY)
            result = race(ours, [theirs], bench.size(200))
            yield _time(f"L1 hit, async, {kind} message / dict and unpackb", result, Bound(2, at_least=False))
            runner.run(asynchronous.aclose())


def hit_peers(bench: Bench) -> Iterator[Result]:
    """The same against other client-side caches."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        memory = runner.run(_entered(stack, bench))
        with Memory(bench.url) as other:
            other.sessions.save(SESSION, NAMESPACE, KEY, MESSAGE)
        cashews = runner.run(stack.enter_async_context(peers.cashews(bench.url)))
        runner.run(cashews.set("message", MESSAGE))
        ours = _awaited(runner, "redismem", partial(memory.sessions.load, SESSION, NAMESPACE), KEY)
        theirs = _awaited(runner, "cashews, client-side", cashews.get, "message")
        yield _speed("L1 hits, async / cashews", race(ours, [theirs], bench.size(200)), Bound(1.5, at_least=True))
        runner.run(stack.aclose())
    with _filled(bench, MESSAGE) as blocking, peers.redis_py_cached(bench.url) as cached:
        bench.bare.hset("bare:message", KEY, packb(MESSAGE))
        ours = each("redismem", partial(blocking.sessions.load, SESSION, NAMESPACE), repeat(KEY), HITS)
        theirs = each("redis-py's cache", partial(cached.hget, "bare:message"), repeat(KEY), 100)
        yield _speed(
            "L1 hits / redis-py's client-side cache",
            race(ours, [theirs], bench.size(100)),
            Bound(10, at_least=True),
            "redis-py takes Redis 7.4 and newer only; here it was made to take Valkey. It gives bytes.",
        )


def miss(bench: Bench) -> Iterator[Result]:
    """Keys that are not in L1, with and without it."""
    keys = data.keys(bench.size(40_000, quick=1_000))
    with Memory(bench.url) as off:
        for start in range(0, len(keys), 1_000):
            off.sessions.save_many(SESSION, NAMESPACE, dict.fromkeys(keys[start : start + 1_000], MESSAGE))
        with _on(bench, l1_entries=FULL) as full, _on(bench) as roomy:
            for key in keys[:FULL]:
                full.sessions.load(SESSION, NAMESPACE, key)
            plain = each("off", partial(off.sessions.load, SESSION, NAMESPACE), cycle(keys), 200)
            ours = each("on", partial(full.sessions.load, SESSION, NAMESPACE), cycle(keys), 200)
            result = race(ours, [plain], bench.size(150))
            yield _speed("load that misses a full L1 / L1 off", result, Bound(0.85, at_least=True))
            ours = each("on", partial(roomy.sessions.load, SESSION, NAMESPACE), iter(keys), 200)
            result = race(ours, [plain], bench.size(150))
            yield _speed("load that misses an L1 with room, and fills it / L1 off", result)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        off_ = runner.run(stack.enter_async_context(AsyncMemory(bench.url)))
        on = runner.run(_entered(stack, bench, l1_entries=FULL))
        supply = cycle(keys)

        def storm(name: str, memory: AsyncMemory) -> Side:
            async def task(mine: Sequence[str]) -> None:
                for key in mine:
                    await memory.sessions.load(SESSION, NAMESPACE, key)

            async def one_round(asked: list[str]) -> float:
                began = time.perf_counter()
                await asyncio.gather(*(task(asked[start::TASKS]) for start in range(TASKS)))
                return (time.perf_counter() - began) / len(asked)

            return Side(name, lambda: runner.run(one_round(list(islice(supply, 10 * TASKS)))))

        result = race(storm("on", on), [storm("off", off_)], bench.size(80))
        yield _speed(f"the same, async, {TASKS} tasks, a full L1 / L1 off", result, Bound(0.85, at_least=True))
        runner.run(stack.aclose())


def receipt(bench: Bench) -> Iterator[Result]:
    """From before another client's write until L1 has dropped the hash."""
    with _filled(bench, MESSAGE) as memory:
        l1 = _l1_of(memory)
        told, invalidate, moment = threading.Event(), l1.invalidate, [0.0]

        def noting(name: str) -> None:
            invalidate(name)
            moment[0] = time.perf_counter()
            told.set()

        l1.invalidate = noting  # type: ignore[method-assign]
        seconds: list[float] = []
        for number in range(bench.size(2_000, quick=20)):
            told.clear()
            began = time.perf_counter()
            bench.bare.hset(f"redismem:session:{{{SESSION}}}:ns:{NAMESPACE}", "other", number)
            assert told.wait(20)
            seconds.append(moment[0] - began)
            time.sleep(0.001)
    cuts = quantiles(seconds, n=100, method="inclusive")
    for name, found, allowed in (("p50", cuts[49], 1e-3), ("p99", cuts[98], 10e-3)):
        yield Result(
            f"receipt of a change, {name}",
            f"{found * 1e3:.3g} ms",
            f"{allowed * 1e3:g} ms allowed",
            Spread.of([found / allowed]),
            Bound(1, at_least=False),
        )


def drop(bench: Bench) -> Iterator[Result]:
    """What a change costs the process that hears of it, by how much is in its L1."""
    large = bench.size(LARGE, quick=2_000)
    few, many = _with_hashes(SMALL // 10), _with_hashes(large // 10)
    result = race(_dropping("many", many, 10), [_dropping("few", few, 10)], bench.size(200))
    yield _time(f"a change with {large:,} entries in L1 / {SMALL:,}", result, Bound(2, at_least=False))
    thin, thick = _with_hashes(1, SMALL), _with_hashes(1, large)
    result = race(_dropping("thick", thick, large, 1), [_dropping("thin", thin, SMALL, 1)], bench.size(10))
    yield _time(f"a change of a hash with {large:,} entries / {SMALL:,}", result)


# --- sides ----------------------------------------------------------------------------------------------------------


def _on(bench: Bench, **settings: Any) -> Memory:
    """A memory whose L1 is in use."""
    memory = Memory(bench.url, coherence="tracking", coherence_bound=60, l1_ttl=3600, **settings)
    while not _is_listening(memory):
        memory.sessions.load("nobody", NAMESPACE, KEY)
    return memory


def _filled(bench: Bench, message: Any) -> Memory:
    """The same, with the message in L1."""
    with Memory(bench.url) as other:
        other.sessions.save(SESSION, NAMESPACE, KEY, message)
    memory = _on(bench)
    assert memory.sessions.load(SESSION, NAMESPACE, KEY) == memory.sessions.load(SESSION, NAMESPACE, KEY) == message
    return memory


async def _filled_async(bench: Bench, **settings: Any) -> AsyncMemory:
    memory = AsyncMemory(bench.url, coherence="tracking", coherence_bound=60, l1_ttl=3600, **settings)
    while not _is_listening(memory):
        await memory.sessions.load("nobody", NAMESPACE, KEY)
    return memory


async def _entered(stack: AsyncExitStack, bench: Bench, **settings: Any) -> AsyncMemory:
    return await stack.enter_async_context(await _filled_async(bench, **settings))


def _is_listening(memory: Memory | AsyncMemory) -> bool:
    l1 = memory.stats().l1
    return l1 is not None and l1.listening


def _l1_of(memory: Memory) -> L1[Any]:
    reads = memory._shared.l1
    assert reads is not None
    return reads.l1


def _awaited(runner: asyncio.Runner, name: str, call: Callable[[str], Any], key: str) -> Side:
    """Seconds for one call that is awaited."""

    async def one_round() -> float:
        began = time.perf_counter()
        for _ in range(HITS):
            await call(key)
        return (time.perf_counter() - began) / HITS

    return Side(name, lambda: runner.run(one_round()))


def _with_hashes(hashes: int, fields: int = 10) -> L1[int]:
    """An L1 of so many hashes, of so many fields each."""
    l1: L1[int] = L1(hashes * fields * 2, 10**9, lambda: 0.0)
    l1.good_until = math.inf
    for number in range(hashes):
        _put(l1, number, fields)
    return l1


def _put(l1: L1[int], number: int, fields: int) -> None:
    names = tuple(b"%d" % field for field in range(fields))
    fill, _ = l1.fill(f"redismem:session:{{{number}}}:ns:{NAMESPACE}", names, math.inf)
    l1.end(fill, dict.fromkeys(names, (1, math.inf, 100)))


def _dropping(name: str, l1: L1[int], fields: int, changes: int = 50) -> Side:
    """Seconds for one change; what it drops is put back outside the time."""
    numbers = cycle(range(len(l1._units)))

    def one_round() -> float:
        chosen = list(islice(numbers, changes))
        names = [f"redismem:session:{{{number}}}:ns:{NAMESPACE}" for number in chosen]
        began = time.perf_counter()
        for each_name in names:
            l1.invalidate(each_name)
        seconds = (time.perf_counter() - began) / changes
        for number in chosen:
            _put(l1, number, fields)
        return seconds

    return Side(name, one_round)


def _speed(measure: str, result: Race, bound: Bound | None = None, note: str = "") -> Result:
    """More is better."""
    theirs = f"{1 / result.theirs:,.0f} /s, {result.peer}"
    return Result(measure, f"{1 / result.ours:,.0f} /s", theirs, result.speed_ratio, bound, note)


def _time(measure: str, result: Race, bound: Bound | None = None) -> Result:
    """Less is better."""
    theirs = f"{result.theirs * 1e6:.3g} us, {result.peer}"
    return Result(measure, f"{result.ours * 1e6:.3g} us", theirs, result.cost_ratio, bound)
