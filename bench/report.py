"""What was measured, as a table on the terminal and as `RESULTS.md`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Spread

COLUMNS = ("measure", "redismem", "against", "ratio", "quartiles", "required", "verdict")
PACKAGES = ("redismem", "redis", "hiredis", "msgpack", "zstandard", "cashews", "valkey-glide", "valkey-glide-sync")

HOW_TO_READ = """\
Every row compares two ways to do one thing on one server, in one process, and its ratio is what counts: it changes
far less from machine to machine than the times beside it. The two sides take turns in rounds of a few milliseconds, in
random order; each turn gives a ratio, the table shows their median and quartiles, and the verdict is the median's.
Where a ratio is one of speed (more is better), it has to be at least what is required; where it is one of cost, at
most. Rows without a requirement are there to explain the others.

- Of redis-py, redis.asyncio and valkey-glide, RESP3 and RESP2 run in every race; the faster one counts.
- The peers move bytes. redismem moves values: it encodes, decodes, checks names, and keeps the session's books.
- "Server time" is what `INFO commandstats` adds up for all commands that a call causes. EXEC and EVALSHA contain the
  time of the commands inside them, which the sum counts again; the rows "inner commands once" do not. Some microseconds
  go by once a second, when `save` runs a script that looks after the session's meta.
- "Bytes in Redis" is `MEMORY USAGE key SAMPLES 0` of every key of the session, its meta included.
- The texts of 5 MB are JSON lines, as agents' runs are recorded. zstd at its fast level -5 shortens the varied one by
  40 %, the repetitive one by 80 %. Bare SET and GET take and give bytes that are encoded already.
- Rows on many items compare a store that holds so many with one that holds a hundred, each in a database of its own.
  A "get" of entities is `find_users`, one of a conversation its last ten turns, one of a graph the neighbours of an
  entity. A "write" is of a new item, which is dropped again between the rounds; of entities it is what was found out
  of a known one, and in conversations and threads it pushes the oldest out.
- "2 ms away" is through a proxy that holds back whatever passes for 1 ms each way.
- "Payload" is the bytes of the encoded values alone, without names, ids, and what Redis needs to keep them.
"""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a ratio has to be."""

    limit: float
    at_least: bool

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is within the bound."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Result:
    """One row. Without a bound it is there to explain the others."""

    measure: str
    ours: str
    theirs: str
    ratio: Spread
    bound: Bound | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether there is a bound, and the ratio is beyond it."""
        return self.bound is not None and not self.bound.holds(self.ratio.median)

    def cells(self) -> tuple[str, ...]:
        """The row, column by column."""
        ratio = self.ratio
        return (
            self.measure,
            self.ours,
            self.theirs,
            f"{ratio.median:.3g}",
            f"{ratio.low:.3g} to {ratio.high:.3g}" if ratio.low < ratio.high else "",
            str(self.bound or ""),
            "missed" if self.missed else "met" if self.bound else "",
        )


def show(results: Sequence[Result]) -> None:
    """The table on the terminal, and the notes."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"{markdown(results)}\n\n{notes(results)}")
        return
    table = Table(*COLUMNS)
    for result in results:
        style = "red" if result.missed else None if result.bound else "dim"
        table.add_row(*result.cells(), style=style)
    # a pipe has no width, and cells that are cut tell nothing
    console = Console(width=None if os.isatty(1) else 200)
    console.print(table)
    console.print(notes(results), style="dim", highlight=False)


def markdown(results: Iterable[Result]) -> str:
    """The table in Markdown, its columns aligned."""
    rows = [COLUMNS, *(result.cells() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def notes(results: Iterable[Result]) -> str:
    """What some rows have to say beyond their columns, as a list in Markdown."""
    return "\n".join(f"- {result.measure}: {result.note}" for result in results if result.note)


def write(path: Path, results: Sequence[Result], server: Mapping[str, Any], seconds: float) -> None:
    """Keep the results, with what is needed to judge them; `server` is what INFO said."""
    facts = "\n".join(f"- {name}: {fact}" for name, fact in _circumstances(server, seconds).items())
    missed = sum(result.missed for result in results)
    bounds = sum(result.bound is not None for result in results)
    parts = (
        "# Benchmarks",
        "`make bench` measures all of this in one run and writes this page. "
        f"{bounds - missed} of {bounds} requirements are met.",
        markdown(results),
        notes(results),
        "## How to read it",
        HOW_TO_READ,
        "## Where and when",
        facts,
    )
    path.write_text("\n\n".join(part.rstrip() for part in parts) + "\n", "utf-8")


def _circumstances(server: Mapping[str, Any], seconds: float) -> dict[str, str]:
    name = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}, in {seconds:.0f} seconds",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "load average": f"{os.getloadavg()[0]:.1f} at the end, of which this run is 1 to 2",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": f"{name}, allocator {server['mem_allocator']}, TCP on loopback, no persistence",
        "packages": ", ".join(_versions()),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _versions() -> Iterable[str]:
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}"
