"""What callers wait for: redismem against the clients that it could be replaced by, and against itself."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from itertools import count, cycle, repeat
from typing import Any

from bench import data, peers
from bench.measure import Race, each, race, storm
from bench.report import Bound, Result
from bench.setting import FIELDS, HASH, KEYS, NAMESPACE, SESSION, TTL, VALUE, Bench, hsetex, saving
from redismem import AsyncMemory, Memory

TASKS = 100


def sync_load(bench: Bench) -> Iterator[Result]:
    """One key, blocking."""
    with Memory(bench.url) as memory, peers.redis_py(bench.url) as clients:
        bench.fill(memory)
        ours = each("redismem", partial(memory.sessions.load, SESSION, NAMESPACE), cycle(KEYS), 300)
        theirs = [each(name, partial(client.hget, HASH), cycle(KEYS), 300) for name, client in clients.items()]
        yield _speed("sync load / hget", race(ours, theirs, bench.size(300)), Bound(0.9, at_least=True))


def sync_glide(bench: Bench) -> Iterator[Result]:
    """The same against the client in Rust."""
    with Memory(bench.url) as memory, peers.glide_sync(bench.url) as glide:
        bench.fill(memory)
        ours = each("redismem", partial(memory.sessions.load, SESSION, NAMESPACE), cycle(KEYS), 300)
        theirs = each("valkey-glide-sync", partial(glide.hget, HASH), cycle(KEYS), 300)
        yield _speed("sync load / hget", race(ours, [theirs], bench.size(50)))


def sync_save(bench: Bench) -> Iterator[Result]:
    """One key with a TTL, blocking."""
    with Memory(bench.url) as memory, peers.redis_py(bench.url) as clients:
        ours = each("redismem", saving(memory), cycle(KEYS), 300)
        theirs = [each(name, hsetex(client), cycle(KEYS), 300) for name, client in clients.items()]
        yield _speed("sync save with ttl / hsetex", race(ours, theirs, bench.size(300)), Bound(0.8, at_least=True))


def async_redis(bench: Bench) -> Iterator[Result]:
    """One key, 100 tasks at once, against a pool."""
    return _async_load(bench, peers.redis_asyncio(bench.url, TASKS), 40, Bound(4, at_least=True))


def async_glide(bench: Bench) -> Iterator[Result]:
    """One key, 100 tasks at once, against the multiplexed client in Rust."""
    return _async_load(bench, peers.glide(bench.url), 100, Bound(1.5, at_least=True))


def _async_load(
    bench: Bench, opening: AbstractAsyncContextManager[dict[str, peers.HGet]], laps: int, bound: Bound
) -> Iterator[Result]:
    with Memory(bench.url) as memory:
        bench.fill(memory)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> tuple[AsyncMemory, dict[str, peers.HGet]]:
            return await stack.enter_async_context(AsyncMemory(bench.url)), await stack.enter_async_context(opening)

        memory_, clients = runner.run(opened())
        ours = storm(runner, "redismem", partial(memory_.sessions.load, SESSION, NAMESPACE), KEYS[:20], TASKS)
        theirs = [storm(runner, name, partial(hget, HASH), KEYS[:20], TASKS) for name, hget in clients.items()]
        try:
            yield _speed(f"async load, {TASKS} tasks / hget", race(ours, theirs, bench.size(laps)), bound)
        finally:
            runner.run(stack.aclose())


def get_all(bench: Bench) -> Iterator[Result]:
    """A whole namespace, blocking."""
    with Memory(bench.url) as memory, peers.redis_py(bench.url) as clients:
        bench.fill(memory)
        ours = each("redismem", partial(memory.sessions.get_all, SESSION), repeat(NAMESPACE), 50)
        theirs = [each(name, client.hgetall, repeat(HASH), 50) for name, client in clients.items()]
        yield _speed(f"get_all of {FIELDS} / hgetall", race(ours, theirs, bench.size(300)), Bound(0.7, at_least=True))


def scale(bench: Bench) -> Iterator[Result]:
    """A large namespace against a small one."""
    many = data.keys(bench.size(100_000, quick=2_000))
    with Memory(bench.url) as memory:
        bench.fill(memory)
        for start in range(0, len(many), 1_000):
            memory.sessions.save_many("large", NAMESPACE, dict.fromkeys(many[start : start + 1_000], VALUE))
        verbs: dict[str, Callable[[str], Callable[[str], object]]] = {
            "load": lambda session: partial(memory.sessions.load, session, NAMESPACE),
            "save": lambda session: partial(memory.sessions.save, session, NAMESPACE, value=VALUE),
            "save with ttl": lambda session: partial(memory.sessions.save, session, NAMESPACE, value=VALUE, ttl=TTL),
        }
        for verb, of in verbs.items():
            large = each(f"{len(many):,} fields", of("large"), cycle(many), 300)
            small = each(f"{FIELDS} fields", of(SESSION), cycle(KEYS), 300)
            result = race(large, [small], bench.size(200))
            yield _speed(f"{verb}, {len(many):,} fields", result, Bound(0.9, at_least=True))


def large_value(bench: Bench) -> Iterator[Result]:
    """Five megabytes, saved and loaded."""
    values: dict[str, str | bytes] = {
        "varied text": data.text(data.LARGE_BYTES, repetitive=False),
        "repetitive text": data.text(data.LARGE_BYTES, repetitive=True),
        "random bytes": os.urandom(data.LARGE_BYTES),
    }
    with Memory(bench.url) as memory, peers.redis_py(bench.url) as clients:
        for kind, value in values.items():
            raw = value.encode() if isinstance(value, str) else value
            ours = each("redismem", partial(_save_and_load, memory), repeat(value), 1)
            theirs = [each(name, partial(_set_and_get, client), repeat(raw), 1) for name, client in clients.items()]
            measure = f"5 MB of {kind}, save and load / SET and GET"
            yield _time(measure, race(ours, theirs, bench.size(100)), Bound(1.5, at_least=False))


def _save_and_load(memory: Memory, value: Any) -> None:
    memory.sessions.save(SESSION, NAMESPACE, "large", value)
    assert len(memory.sessions.load(SESSION, NAMESPACE, "large")) == data.LARGE_BYTES


def _set_and_get(client: Any, raw: bytes) -> None:
    client.set("bare:large", raw)
    assert len(client.get("bare:large")) == data.LARGE_BYTES


def batch(bench: Bench) -> Iterator[Result]:
    """A hundred saves together, against the same ones singly."""
    fresh = map("fresh:{}".format, count())
    placements: dict[str, Iterator[list[tuple[str, str]]]] = {
        "to one session": repeat([(SESSION, key) for key in KEYS]),
        "to a fresh session": ([(session, key) for key in KEYS] for session in fresh),
        f"to {FIELDS} sessions": repeat([(f"known:{key}", key) for key in KEYS]),
        f"to {FIELDS} fresh sessions": ([(next(fresh), key) for key in KEYS] for _ in count()),
    }
    bound: Bound | None = Bound(1 / 8, at_least=False)
    with Memory(bench.url) as memory:
        for where, supply in placements.items():
            together = each("batch", partial(_save_together, memory), supply, 2)
            singly = each("single saves", partial(_save_singly, memory), supply, 2)
            yield _time(f"batch of {FIELDS} saves {where}", race(together, [singly], bench.size(100)), bound)
            bound = None


def _save_together(memory: Memory, places: list[tuple[str, str]]) -> None:
    with memory.batch() as b:
        handles = [b.sessions.save(session, NAMESPACE, key, VALUE, TTL) for session, key in places]
    handles[-1].result()


def _save_singly(memory: Memory, places: list[tuple[str, str]]) -> None:
    for session, key in places:
        memory.sessions.save(session, NAMESPACE, key, VALUE, TTL)


def _speed(measure: str, race: Race, bound: Bound | None = None) -> Result:
    """More is better."""
    return Result(
        measure,
        f"{1 / race.ours:,.0f} /s",
        f"{1 / race.theirs:,.0f} /s, {race.peer}",
        race.speed_ratio,
        bound,
    )


def _time(measure: str, race: Race, bound: Bound | None = None) -> Result:
    """Less is better."""
    return Result(
        measure,
        f"{race.ours * 1e3:.3g} ms",
        f"{race.theirs * 1e3:.3g} ms, {race.peer}",
        race.cost_ratio,
        bound,
    )
