"""Every operator's query. Nothing is printed here: the command line, and whatever else shows memory, use these."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redismem.errors import ConfigError, DecodeError
from redismem.link.embedded import stop_server as stop_server_of
from redismem.memory import Memory
from redismem.op import Handle
from redismem.ops.doctor import Finding, examine
from redismem.stores.sessions import SessionInfo, Values

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a namespace. `error` says why its value cannot be read, if so."""

    key: str
    value: Any
    ttl: float | None
    """Seconds; None: no expiry."""
    error: DecodeError | None = None


@dataclass(frozen=True, slots=True)
class SessionContent:
    """A session with all that it holds: namespace -> entries, both sorted by name."""

    info: SessionInfo
    namespaces: dict[str, list[Entry]]


def sessions(memory: Memory) -> Iterator[SessionInfo | DecodeError]:
    """Every session, or why it cannot be read; three round trips for about a hundred. Raises `LinkError`."""
    ids = iter(memory.sessions.scan(_PAGE))
    seen: set[str] = set()
    while page := list(islice(ids, _PAGE)):
        new = [id_ for id_ in page if id_ not in seen]
        seen.update(new)
        with memory.batch() as batch:
            infos = [batch.sessions.info(id_) for id_ in new]
        yield from (info for handle in infos if (info := _info_or_error(handle)) is not None)


def show(memory: Memory, session_id: str) -> SessionContent | None:
    """A session and all its values; None if there is none. Four round trips. Raises `LinkError`, `InvalidKey`."""
    info = memory.sessions.info(session_id)
    if info is None:
        return None
    with memory.batch() as batch:
        reads = {name: batch.sessions.get_all(session_id, name) for name in info.namespaces}
    values = {name: handle.result() for name, handle in reads.items()}
    with memory.batch() as batch:
        ttls = {
            (name, key): batch.sessions.ttl(session_id, name, key)
            for name, found in values.items()
            for key in (*found, *found.unreadable)
        }
    lives = {place: handle.result() for place, handle in ttls.items()}
    return SessionContent(info, {name: _entries(name, found, lives) for name, found in values.items()})


def doctor(memory: Memory) -> list[Finding]:
    """What is good and what is not about the server; one that does not answer is a finding too."""
    memory.health()  # the first one connects, and may start an embedded server
    return examine(min((memory.health() for _ in range(5)), key=lambda health: health.latency_ms or 0))


def stop_server(place: str) -> bool:
    """End the shared embedded server of a directory, or ``embedded:///directory``. True if there was one.

    Raises `ConfigError` for a URL without a directory, `Timeout`.
    """
    if not place.startswith("embedded://"):
        return stop_server_of(Path(place))
    parts = urlsplit(place)
    if parts.netloc or not parts.path:
        raise ConfigError(f"{place}: name a directory, as embedded:///directory; a private server ends by itself")
    return stop_server_of(Path(unquote(parts.path)))


def _info_or_error(handle: Handle[SessionInfo | None]) -> SessionInfo | DecodeError | None:
    error = handle.error()
    return error if isinstance(error, DecodeError) else handle.result()


def _entries(name: str, found: Values, lives: dict[tuple[str, str], float | None]) -> list[Entry]:
    readable = [Entry(key, value, lives[name, key]) for key, value in found.items()]
    unreadable = [Entry(key, None, lives[name, key], error) for key, error in found.unreadable.items()]
    return sorted([*readable, *unreadable], key=lambda entry: entry.key)
