"""What operators see: tables and lines for people, one JSON document for programs.

Whatever comes from the server is shown without control characters, for it could otherwise drive the terminal.
"""

import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, Final, TextIO, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from redismem.coordination.holders import Holder
from redismem.ops.api import Entry, SessionContent
from redismem.ops.doctor import Finding, Status
from redismem.ops.replay.job import Outcome, Watcher
from redismem.ops.replay.verdict import Tally
from redismem.stores.sessions import SessionInfo

_MOST_DISCREPANCIES: Final = 20
_COLOURS: Final = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

_short = reprlib.Repr()
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = 6
_short.maxlevel = 4
_short.maxstring = _short.maxother = _short.maxlong = 70


def console(file: TextIO) -> Console:
    """A console on a stream. Where there is no terminal nothing is cut to a width, so that it can be searched."""
    out = Console(file=file, markup=False, highlight=False, emoji=False)
    if not out.is_terminal:
        out.width = 1_000
    return out


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(plain(document)))  # noqa: T201  (the output of a command)


class ProgressBar(Watcher):
    """Shows how far a replay or a migration is: a bar on a terminal, and a line for each event. For a `with` block."""

    def __init__(self, out: Console, what: str = "messages") -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.refresh()  # a short replay may be over before the bar was drawn
        self._progress.stop()

    def advanced(self, done: int, total: int | None) -> None:
        """See `Watcher.advanced`; None: nobody knows."""
        self._progress.update(self._task, completed=done, total=total)

    def happened(self, event: str) -> None:
        """See `Watcher.happened`."""
        self._progress.console.print(event)


def print_outcome(out: Console, outcome: Outcome) -> None:
    """The report of a replay."""
    table = _table("", "")
    table.show_header = False
    table.columns[1].justify = "right"
    bad = "bold red"
    for name, value, style in (
        ("messages", f"{outcome.messages:,}", ""),
        ("sessions", f"{outcome.sessions:,}", ""),
        ("operations", f"{outcome.operations:,}", ""),
        ("operations/s", f"{outcome.operations_per_second:,.0f}", ""),
        ("round trips", f"{outcome.round_trips:,}", ""),
        ("p50", f"{outcome.p50_ms:.2f} ms", ""),
        ("p99", f"{outcome.p99_ms:.2f} ms", ""),
        ("lost", f"{outcome.lost:,}", bad if outcome.lost else "green"),
        ("torn", f"{outcome.torn:,}", bad if outcome.torn else "green"),
        ("expired as due", f"{outcome.expired:,}", ""),
        ("workers", f"{outcome.workers}", ""),
        ("killed", f"{outcome.killed}", ""),
    ):
        table.add_row(name, Text(value, style))
    out.print(table)
    _print_memories(out, outcome.memories)


def _print_memories(out: Console, memories: Mapping[str, Tally]) -> None:
    table = _table("", "expected", "found")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (expected, found) in memories.items():
        table.add_row(name, f"{expected:,}", Text(f"{found:,}", "green" if found == expected else "bold red"))
    out.print()
    out.print(table)


def print_discrepancies(out: Console, discrepancies: Sequence[str]) -> None:
    """What a replay found lost or torn, the first of it."""
    for one in discrepancies[:_MOST_DISCREPANCIES]:
        out.print(safe(one))
    if len(discrepancies) > _MOST_DISCREPANCIES:
        out.print(f"... and {len(discrepancies) - _MOST_DISCREPANCIES:,} more")


def print_sessions(out: Console, infos: Iterable[SessionInfo]) -> None:
    """A table of sessions."""
    table = _table("session", "user", "created", "last active", "ttl", "namespaces")
    for info in infos:
        names = ", ".join(map(safe, info.namespaces))
        times = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (info.created_at, info.last_active))
        table.add_row(safe(info.session_id), safe(info.user_id or "-"), *times, duration(info.ttl), names)
    out.print(table)


def print_session(out: Console, content: SessionContent) -> None:
    """A session with all that it holds."""
    info = content.info
    out.print(f"session {safe(info.session_id)}  user {safe(info.user_id or '-')}  ttl {duration(info.ttl)}")
    out.print(f"created {info.created_at:%Y-%m-%d %H:%M:%S} UTC  last active {info.last_active:%Y-%m-%d %H:%M:%S} UTC")
    for name, entries in content.namespaces.items():
        out.print(f"\n{safe(name)}")
        print_entries(out, entries)


def print_entries(out: Console, entries: Iterable[Entry]) -> None:
    """The keys of a namespace, with values as Python writes them, shortened, and TTLs."""
    table = _table("key", "value", "ttl")
    for entry in entries:
        value = Text(brief(entry.value)) if entry.error is None else Text(safe(str(entry.error)), "bold red")
        table.add_row(safe(entry.key), value, duration(entry.ttl))
    out.print(table)


def print_key(out: Console, name: str, kind: str, entries: Iterable[Entry]) -> None:
    """One key of the server: its name, its type and its fields."""
    out.print(Text.assemble("\n", (safe(name), "bold cyan"), f"  {kind}"))
    print_entries(out, entries)


def print_locks(out: Console, held: Iterable[Holder]) -> None:
    """A table of locks, each with who holds it."""
    table = _table("id", "lock", "mode", "owner", "token", "lease left", "waiters")
    for one in held:
        mode, left = "reader" if one.shared else "writer", duration(one.left)
        table.add_row(safe(one.user_id), safe(one.name), mode, safe(one.owner), f"{one.token}", left, f"{one.waiters}")
    out.print(table)


def print_counts(out: Console, counts: Mapping[str, int]) -> None:
    """What was counted."""
    table = _table("", "")
    table.show_header = False
    table.columns[1].justify = "right"
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    out.print(table)


def print_findings(out: Console, findings: Iterable[Finding]) -> None:
    """What the doctor says."""
    table = _table("", "", "found", "advice")
    for finding in findings:
        status = Text(finding.status, _COLOURS[finding.status])
        table.add_row(finding.name, status, safe(finding.found), safe(finding.advice))
    out.print(table)


def duration(seconds: float | None) -> str:
    """A time to live in two units at most, such as ``23 h 59 min`` or ``270 ms``; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    left, words = round(seconds), list[str]()
    for size, unit in _UNITS:
        if left >= size and len(words) < 2:
            words.append(f"{left // size} {unit}")
            left %= size
    return " ".join(words)


def brief(value: Any) -> str:
    """A value as Python writes it, shortened, on one line."""
    return _short.repr(value).replace("\n", " ")


def safe(text: str) -> str:
    """A text that leaves the terminal as it is."""
    return text if text.isprintable() else repr(text)[1:-1]


def plain(value: Any) -> Any:
    """A value as JSON can say it: what JSON has no word for becomes the nearest text or list."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else repr(value)
        case bytes():
            return value.decode(errors="backslashreplace")
        case date():
            return value.isoformat()
        case dict():
            items = cast("Mapping[Any, Any]", value).items()
            return {key if isinstance(key, str) else repr(key): plain(item) for key, item in items}
        case np.ndarray():
            return plain(value.tolist())
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in cast("Iterable[Any]", value)]
        case _:
            return str(value)


def session_document(content: SessionContent) -> dict[str, Any]:
    """A session as JSON shows it; a value that cannot be read has an ``error`` in its place."""
    return asdict(content.info) | {
        "namespaces": {
            name: {
                entry.key: {"ttl": entry.ttl} | ({"error": str(entry.error)} if entry.error else {"value": entry.value})
                for entry in entries
            }
            for name, entries in content.namespaces.items()
        }
    }


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    return table
