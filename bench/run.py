"""Measure redismem against its peers, on a Valkey 9 of its own: `make bench`, or `python bench/run.py --help`.

A full run takes some minutes and writes `bench/RESULTS.md`. The exit status is 1 when a requirement is missed.
"""

# pyright: reportUnknownMemberType=false
# (parts of redis-py are not annotated)

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script's own path begins with its directory

from bench import cache, locks, merges, recall, report, search, server, sizes, speed, stores
from bench.report import Result
from bench.setting import Bench
from tests.servers import launch

RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
CASES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "sync-load": speed.sync_load,
    "sync-glide": speed.sync_glide,
    "sync-save": speed.sync_save,
    "async-redis": speed.async_redis,
    "async-glide": speed.async_glide,
    "get-all": speed.get_all,
    "scale": speed.scale,
    "large-value": speed.large_value,
    "batch": speed.batch,
    "server-time": server.server_time,
    "memory": server.memory_usage,
    "locks": locks.locks,
    "merges": merges.merges,
    "l1-hit": cache.hit,
    "l1-peers": cache.hit_peers,
    "l1-miss": cache.miss,
    "l1-receipt": cache.receipt,
    "l1-drop": cache.drop,
    "search-text": search.text,
    "search-vectors": search.vectors,
    "search-changes": search.changes,
    "search-load": search.load,
    "recall": recall.context,
    "recall-model": recall.model,
    **sizes.cases(),
    "store-search": stores.search,
    "store-changes": stores.changes,
    "store-load": stores.load,
    "store-batch": stores.batch,
    "store-parallel": stores.parallel,
    "store-memory": stores.memory_usage,
}


def main(arguments: list[str] | None = None) -> int:
    """Run, show and keep; the exit status."""
    options = _options(arguments)
    chosen = options.only or list(CASES)
    began = time.monotonic()
    with launch("valkey9") as valkey, redis.Redis.from_url(valkey.url, protocol=2) as bare:
        results = [result for name in chosen for result in measured(name, Bench(valkey.url, bare, options.quick))]
        report.show(results)
        if not (options.no_write or options.only or options.quick):
            report.write(RESULTS, results, bare.info(), time.monotonic() - began)
    return int(any(result.missed for result in results))


def measured(name: str, bench: Bench) -> list[Result]:
    """One case's results, on an empty server."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    bench.bare.flushall()
    return list(CASES[name](bench))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that everything runs")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone, as --only and --quick do")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
