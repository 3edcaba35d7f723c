"""Episodes through the store: found, followed, read anew, written together, read side by side; and what they take.

The documents are those of `bench.search`, so what is measured there without a server is measured here with one.
"""

# pyright: reportUnknownMemberType=false
# (parts of redis-py and of msgpack are not annotated)

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count, cycle
from typing import Any, Final

import msgpack
import redis

from bench.measure import Race, Side, Spread, each, race
from bench.report import Bound, Result
from bench.search import COUNT, QUICK, bare_fts5, bare_search, cost, documents, insert, timed, words
from bench.setting import Bench
from redismem import AsyncMemory, EpisodicMemory, Memory, SimpleMemory
from redismem.chaos import ChaosProxy, Faults
from redismem.compat.architecture import AsyncEpisodicMemoryStore
from redismem.search import Document
from redismem.stores.crm import SimpleContact

SCOPE: Final = "bench"
COLLECTION: Final = "redismem:scope:{bench}:episodes"
RARE: Final = words()[-1]
TOGETHER: Final = 100
SIDE_BY_SIDE: Final = 5
DELAY: Final = 0.001
"""Seconds that a network may take for one way."""
ALLOWED: Final = 0.01
"""Seconds for taking in a hundred changes."""

_PAGE: Final = 1_000

# --- searching ------------------------------------------------------------------------------------------------------


def search(bench: Bench) -> Iterator[Result]:
    """Warm searches, end to end, with L1's listener and without: questions of four words, and of common ones only."""
    chosen = documents(bench.size(COUNT, QUICK))
    fill(bench, chosen)
    bare, draw = bare_fts5(chosen), random.Random(2)
    with Memory(bench.url) as asking, Memory(bench.url, coherence="tracking") as told:
        for l1, memory in (("off", asking), ("on", told)):
            for name, low, high in (("common", 5, 50), ("medium", 50, 500), ("rare", 500, 5_000)):
                asked = [draw.sample(words()[low:high], 4) for _ in range(50)]
                measure = f"episodes.search, 4 {name} words, {len(chosen):,} episodes, L1 {l1} / bare FTS5"
                yield cost(measure, race(*_searching(memory, bare, asked, 5), bench.size(40)), 1.5)
            # these are in most documents: the index looks at the latest rows only, so it owes more than a tie
            measure = f"episodes.search, the 5 most frequent words, {len(chosen):,} episodes, L1 {l1} / bare FTS5"
            yield cost(measure, race(*_searching(memory, bare, [words()[:5]], 1), bench.size(20)), 0.5)


def _searching(memory: Memory, bare: Any, asked: list[list[str]], times: int) -> tuple[Side, list[Side]]:
    ours = each("redismem", lambda query: memory.episodes.search(" ".join(query), scope=SCOPE), cycle(asked), times)
    return ours, [each("bare FTS5", lambda query: bare_search(bare, query), cycle(asked), times)]


def changes(bench: Bench) -> Iterator[Result]:
    """The first search after a hundred writes of somebody else, against what it may take."""
    chosen = documents(bench.size(COUNT, QUICK))
    fill(bench, chosen)
    draw, fresh = random.Random(4), count(len(chosen))
    with Memory(bench.url) as writer, Memory(bench.url) as reader:
        reader.episodes.search(RARE, scope=SCOPE)

        def after(change: Callable[[Document], EpisodicMemory]) -> float:
            writer.episodes.add_many(map(change, draw.sample(chosen, TOGETHER)), scope=SCOPE)
            return timed(lambda: reader.episodes.search(RARE, scope=SCOPE))

        changed: dict[str, Callable[[Document], EpisodicMemory]] = {
            "new": lambda one: episode(one, id_=f"new:{next(fresh)}"),
            "changed": lambda one: episode(one, text=f"{one.text} again"),
        }
        for name, change in changed.items():
            ours, allowed = Side("redismem", lambda change=change: after(change)), Side("allowed", lambda: ALLOWED)
            result = race(ours, [allowed], bench.size(60))
            yield cost(f"episodes.search after {TOGETHER} {name} ones among {len(chosen):,} / 10 ms", result, 1)


def load(bench: Bench) -> Iterator[Result]:
    """The first search of a scope by a memory that knows nothing, against reading the same values without indexing."""
    chosen = documents(bench.size(COUNT, QUICK))
    fill(bench, chosen)

    def first_search() -> None:
        with Memory(bench.url) as memory:
            memory.episodes.search(RARE, scope=SCOPE)

    rows = [(row, document.text) for row, document in enumerate(chosen, 1)]
    scan = Side("HSCAN and msgpack", lambda: timed(lambda: scanned(bench.url)))
    result = race(Side("redismem", lambda: timed(first_search)), [scan], bench.size(7))
    yield cost(f"first episodes.search of {len(chosen):,} / HSCAN and unpack", result, 4)
    alone = race(Side("bare FTS5", lambda: timed(lambda: insert(bare_fts5([]), rows))), [scan], bench.size(7))
    yield cost(f"of that, {len(chosen):,} texts into bare FTS5 / HSCAN and unpack", alone, None)


def scanned(url: str) -> int:
    """Read and unpack every episode with a bare client; how many."""
    cursor, found = 0, 0
    client: Any
    with redis.Redis.from_url(url, protocol=2) as client:
        while True:
            cursor, page = client.hscan(COLLECTION, cursor, count=_PAGE)
            unpacked: list[Any] = [msgpack.unpackb(value, timestamp=3) for value in page.values()]
            found += len(unpacked)
            if not cursor:
                return found


# --- together -------------------------------------------------------------------------------------------------------


def batch(bench: Bench) -> Iterator[Result]:
    """A hundred adds together, against the same ones singly."""
    bound, laps = Bound(1 / 8, at_least=False), bench.size(30)
    supply = _fresh_pages()
    with Memory(bench.url) as memory:
        singly = each("single adds", lambda page: [memory.episodes.add(one, scope=SCOPE) for one in page], supply, 1)
        ways: dict[str, tuple[Callable[[list[EpisodicMemory]], object], Bound | None]] = {
            "batch": (lambda page: _batched(memory, page), bound),
            "add_many": (lambda page: memory.episodes.add_many(page, scope=SCOPE), None),
        }
        for way, (call, limit) in ways.items():
            result = race(each(way, call, supply, 1), [singly], laps)
            yield _time(f"{way} of {TOGETHER} episodes", result, limit)
    with asyncio.Runner() as runner:
        store = AsyncEpisodicMemoryStore(bench.url)
        together = each("batch", lambda page: runner.run(_architecture_batch(store, page)), supply, 1)
        singly = each("single adds", lambda page: runner.run(_architecture_singly(store, page)), supply, 1)
        yield _time(f"batch_operations of {TOGETHER} add_episode_async", race(together, [singly], laps), bound)
        runner.run(store.aclose())


def _batched(memory: Memory, page: list[EpisodicMemory]) -> None:
    with memory.batch() as b:
        handles = [b.episodes.add(one, scope=SCOPE) for one in page]
    handles[-1].result()


async def _architecture_batch(store: AsyncEpisodicMemoryStore, page: list[EpisodicMemory]) -> None:
    async with store.batch_operations() as b:
        for one in page:
            await b.add_episode_async(one, scope=SCOPE)


async def _architecture_singly(store: AsyncEpisodicMemoryStore, page: list[EpisodicMemory]) -> None:
    for one in page:
        await store.add_episode_async(one, scope=SCOPE)


def _fresh_pages() -> Iterator[list[EpisodicMemory]]:
    """New episodes without end, a hundred at a time."""
    numbers = count()
    while True:
        yield [episode(one, id_=f"new:{next(numbers)}") for one in documents(TOGETHER)]


def parallel(bench: Bench) -> Iterator[Result]:
    """Five reads side by side, against one after the other; on loopback, and where a reply takes its time.

    Side by side, tasks wait for the network together, and compute one after the other as ever. On loopback nothing is
    waited for, and a search is mostly computing; so it is gets over a network that have to be faster.
    """
    fill(bench, chosen := documents(bench.size(1_000, QUICK)))
    port = int(bench.url.rpartition(":")[2].partition("/")[0])
    with ChaosProxy(port) as slow, asyncio.Runner() as runner:
        slow.requests = slow.replies = Faults(latency=DELAY)
        ids = cycle([one.id for one in chosen])
        for where, url, bound in (
            ("on loopback", bench.url, None),
            (f"{2_000 * DELAY:g} ms away", slow.url, Bound(1 / 4, at_least=False)),
        ):
            memory = AsyncMemory(url)
            reads: dict[str, tuple[Callable[[], Awaitable[object]], Bound | None]] = {
                "get": (lambda memory=memory: memory.episodes.get(next(ids), scope=SCOPE), bound),
                "search": (lambda memory=memory: memory.episodes.search(RARE, scope=SCOPE), None),
            }
            for name, (read, limit) in reads.items():
                together = _repeated(runner, "at once", lambda read=read: _at_once(read))
                singly = _repeated(runner, "one by one", lambda read=read: _one_by_one(read))
                measure = f"{SIDE_BY_SIDE} parallel episodes.{name} {where} / one by one"
                yield _time(measure, race(together, [singly], bench.size(60)), limit)
            runner.run(memory.aclose())


async def _at_once(read: Callable[[], Awaitable[object]]) -> None:
    await asyncio.gather(*(read() for _ in range(SIDE_BY_SIDE)))


async def _one_by_one(read: Callable[[], Awaitable[object]]) -> None:
    for _ in range(SIDE_BY_SIDE):
        await read()


def _repeated(runner: asyncio.Runner, name: str, call: Callable[[], Awaitable[object]], times: int = 5) -> Side:
    async def one_round() -> float:
        began = time.perf_counter()
        for _ in range(times):
            await call()
        return (time.perf_counter() - began) / times

    return Side(name, lambda: runner.run(one_round()))


# --- memory ---------------------------------------------------------------------------------------------------------


def memory_usage(bench: Bench) -> Iterator[Result]:
    """Bytes of all keys, for each episode and each entity, against the bytes of their values alone."""
    fill(bench, chosen := documents(bench.size(COUNT, QUICK)))
    payload = sum(len(value) for _, value in bench.bare.hscan_iter(COLLECTION, count=_PAGE))
    yield _bytes(bench, "episode", len(chosen), payload)

    bench.bare.flushall()
    users, each_ = bench.size(100), 100
    with Memory(bench.url) as memory:
        for user in range(users):
            memory.entities.merge(f"user:{user}", SimpleMemory(contacts=[_contact(user, n) for n in range(each_)]))
    hashes = bench.bare.scan_iter("redismem:user:*:entities:contacts")
    payload = sum(len(value) for key in hashes for field, value in bench.bare.hgetall(key).items() if _is_told(field))
    yield _bytes(bench, "entity", users * each_, payload)


def _contact(user: int, number: int) -> SimpleContact:
    return SimpleContact(
        id=f"003{user:06}{number:06}",
        name=" ".join(words()[one] for one in (1_000 + user, 2_000 + number)),
        account_id=f"001{number // 10:012}",
        account_name=f"{words()[number]} & {words()[number + 1]} Ltd",
    )


def _is_told(field: bytes) -> bool:
    """Whether a field of entities holds an attribute, and nothing that redismem adds."""
    return re.fullmatch(rb"\d+\.[a-z_]+", field) is not None


def _bytes(bench: Bench, what: str, items: int, payload: int) -> Result:
    by_part = _by_part(bench.bare)
    ours, bare = sum(by_part.values()) / items, payload / items
    return Result(
        f"bytes in Redis for an {what}, of {items:,}",
        f"{ours:,.0f} bytes",
        f"{bare:,.0f} bytes, payload",
        Spread.of([ours / bare]),
        note="; ".join(f"{part} {size / items:,.1f} bytes" for part, size in by_part.items()),
    )


def _by_part(client: Any) -> Mapping[str, int]:
    """Bytes by what keys hold, the most first."""
    sizes: Counter[str] = Counter()
    for key in client.scan_iter("redismem:*", count=_PAGE):
        sizes[re.sub(r":?\{.*\}:", " ", key.decode().partition(":")[2])] += client.memory_usage(key, samples=0)
    return dict(sizes.most_common())


# --- what all of them use -------------------------------------------------------------------------------------------


def episode(document: Document, *, id_: str = "", text: str = "") -> EpisodicMemory:
    """The episode whose index entry this is, or another one like it."""
    return EpisodicMemory(
        memory_id=id_ or document.id,
        content=text or document.text,
        task_id=f"task:{round(document.at) % 100}",
        session_id=document.session,
        tags=frozenset(document.text.split()[:2]),
        success=round(document.at) % 3 > 0,
        score=0.75,
        speaker=document.speaker,
        created_at=datetime.fromtimestamp(document.at, UTC),
    )


def fill(bench: Bench, chosen: list[Document]) -> None:
    """Store these as the only episodes."""
    with Memory(bench.url) as memory:
        for start in range(0, len(chosen), _PAGE):
            memory.episodes.add_many(map(episode, chosen[start : start + _PAGE]), scope=SCOPE)


def _time(measure: str, result: Race, bound: Bound | None) -> Result:
    theirs = f"{result.theirs * 1e3:.3g} ms, {result.peer}"
    return Result(measure, f"{result.ours * 1e3:.3g} ms", theirs, result.cost_ratio, bound)
