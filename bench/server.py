"""What the server spends: its own time for a call, and its memory for a session."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count, cycle, islice, product
from typing import Any

from bench import data
from bench.measure import Side, Spread, race
from bench.report import Bound, Result
from bench.setting import HASH, KEYS, NAMESPACE, RAW, SESSION, TTL, TTL_MS, VALUE, Bench, hsetex, saving
from redismem import Memory

Stats = Mapping[str, Mapping[str, float]]
Calls = tuple[Callable[[str], object], Iterator[str]]
"""What to call, and what with, endlessly."""

SESSION_FIELDS = 20
SESSIONS = 50
_ASKING = {"cmdstat_info", "cmdstat_config|resetstat"}
_OUTER = {"cmdstat_multi", "cmdstat_exec", "cmdstat_evalsha", "cmdstat_eval"}


def server_time(bench: Bench) -> Iterator[Result]:
    """By INFO commandstats, summed over the commands that a call causes."""
    with Memory(bench.url) as memory:
        bench.fill(memory)
        load = partial(memory.sessions.load, SESSION, NAMESPACE), cycle(KEYS)
        hget = partial(bench.bare.hget, HASH), cycle(KEYS)
        yield _compared(bench, "server time, load / HGET", load, hget, plain_sum, Bound(2, at_least=False))

        save, bare_save = (saving(memory), cycle(KEYS)), (hsetex(bench.bare), cycle(KEYS))
        bound = Bound(4, at_least=False)
        yield _compared(bench, "server time, save with ttl / HSETEX", save, bare_save, plain_sum, bound)
        yield _compared(bench, "the same, inner commands once", save, bare_save, inner_once)

        begin = partial(_begin, memory), map("fresh:{}".format, count())
        bare_begin = partial(_bare_begin, bench.bare), map("bare:{}".format, count())
        yield _compared(bench, "server time, first save of a session / HSETEX", begin, bare_begin, plain_sum)
        yield _compared(bench, "the same, inner commands once", begin, bare_begin, inner_once)


def _begin(memory: Memory, session: str) -> None:
    memory.sessions.save(session, NAMESPACE, "first", VALUE, TTL)


def _bare_begin(client: Any, name: str) -> None:
    client.hsetex(name, "first", RAW, px=TTL_MS)


def plain_sum(stats: Stats) -> float:
    """Microseconds of all commands; those inside a transaction or script count twice, as they do in its time."""
    return sum(each["usec"] for each in stats.values())


def inner_once(stats: Stats) -> float:
    """The same without the double count: where there are transactions or scripts, all else ran inside them."""
    return sum(stats[name]["usec"] for name in _OUTER & stats.keys()) or plain_sum(stats)


def _compared(
    bench: Bench, measure: str, ours: Calls, theirs: Calls, summed: Callable[[Stats], float], bound: Bound | None = None
) -> Result:
    seen: dict[str, Stats] = {}
    calls = bench.size(2_000, quick=100)

    def side(name: str, call: Callable[[str], object], supply: Iterator[str]) -> Side:
        def one_round() -> float:
            chosen = list(islice(supply, calls))
            bench.bare.config_resetstat()
            for item in chosen:
                call(item)
            seen[name] = _commandstats(bench.bare)
            return summed(seen[name]) / calls

        return Side(name, one_round)

    result = race(side("redismem", *ours), [side("bare", *theirs)], bench.size(30))
    return Result(
        measure,
        f"{result.ours:.2f} us",
        f"{result.theirs:.2f} us, bare",
        result.cost_ratio,
        bound,
        _by_command(seen["redismem"], calls) if summed is plain_sum else "",
    )


def _commandstats(client: Any) -> Stats:
    stats: Stats = client.info("commandstats")
    return {name: each for name, each in stats.items() if name not in _ASKING}


def _by_command(stats: Stats, calls: int) -> str:
    commands = sorted(stats.items(), key=lambda item: -item[1]["usec"])
    return "; ".join(
        f"{name.removeprefix('cmdstat_')} {each['calls'] / calls:.3g} x {each['usec_per_call']:.2f} us"
        for name, each in commands
    )


def memory_usage(bench: Bench) -> Iterator[Result]:
    """Bytes of a session of 20 fields, meta included, against a bare hash of the same fields."""
    keys = data.keys(SESSION_FIELDS)
    with Memory(bench.url) as memory:
        for what, ttl in ("without TTLs", None), ("with field TTLs", TTL):
            bench.bare.flushall()
            for number, key in product(range(SESSIONS), keys):
                memory.sessions.save(f"{what}:{number}", NAMESPACE, key, VALUE, ttl)
                _bare_save(bench.bare, f"bare:{number}", key, ttl)
            by_part, bare = _bytes_of(bench.bare, "redismem:*"), _bytes_of(bench.bare, "bare:*")
            ours, theirs = sum(by_part.values()), sum(bare.values())
            yield Result(
                f"bytes of a session of {SESSION_FIELDS} fields, {what}",
                f"{ours:,.0f} bytes",
                f"{theirs:,.0f} bytes, bare hash",
                Spread.of([ours / theirs]),
                Bound(1.3, at_least=False),
                "; ".join(f"{part} {size:,.0f} bytes" for part, size in sorted(by_part.items())),
            )


def _bare_save(client: Any, name: str, key: str, ttl: float | None) -> None:
    if ttl is None:
        client.hset(name, key, RAW)
    else:
        client.hsetex(name, key, RAW, px=TTL_MS)


def _bytes_of(client: Any, pattern: str) -> dict[str, float]:
    """Bytes for one session, by what its keys hold; the mean, because the size of a table depends on a random seed."""
    sizes: Counter[str] = Counter()
    for key in client.scan_iter(pattern):
        sizes[key.decode().partition("}:")[2]] += client.memory_usage(key, samples=0)
    return {part: size / SESSIONS for part, size in sizes.items()}
