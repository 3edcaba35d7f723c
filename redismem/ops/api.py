"""Every operator's query. Nothing is printed here: the command line, and whatever else shows memory, use these."""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from redismem.batch import BatchOperations
from redismem.coordination.holders import Holder, holders
from redismem.errors import ConfigError, DecodeError
from redismem.keys import Keys
from redismem.link.embedded import stop_server as stop_server_of
from redismem.memory import Memory
from redismem.op import Handle, blocking_stream
from redismem.ops.doctor import Finding, examine
from redismem.stores.contexts import UserContext
from redismem.stores.record import Migrated
from redismem.stores.sessions import SessionInfo
from redismem.stores.shape import shape
from redismem.stores.values import Values

_PAGE = 100

T = TypeVar("T")


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
    seen: set[str] = set()
    for page in _pages(memory.sessions.scan(_PAGE), _PAGE):
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


def locks(memory: Memory) -> Iterator[Holder]:
    """Whoever holds a lock now, on all servers; two round trips for about a hundred keys. Raises `LinkError`."""
    link = memory._link  # pyright: ignore[reportPrivateUsage]
    return blocking_stream(holders)(link, Keys(memory.settings.prefix), _PAGE)


def model(place: str) -> type:
    """The class that ``package.module:Model`` names; modules of the current directory are found too.

    Raises `ConfigError` if there is none, or if importing the module fails.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ConfigError(f"{place!r}: name a model as package.module:Model")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = reduce(getattr, name.split("."), cast(Any, importlib.import_module(module)))
    except Exception as error:
        raise ConfigError(f"{place}: cannot be imported: {error!r}") from error
    if not isinstance(found, type):
        raise ConfigError(f"{place}: is no class, and so no model")
    return found


def is_migrated(model: type) -> bool:
    """Whether the model has any migration. Raises `SchemaError` for what is no model."""
    return shape(model).version > 1


def migratable(memory: Memory, model: type, name: str | None) -> int:
    """How many records `migrate` would look at now, about; a round trip for each thousand keys. Raises as that."""
    return sum(1 for _ in _store(memory, model, name).scan(1000))


def migrate(
    memory: Memory, model: type, name: str | None, *, dry_run: bool = False, batch_size: int = _PAGE
) -> Iterator[Migrated | DecodeError]:
    """Bring all records of a name, or all contexts, to the version of the model: of each what was done, or why not.

    Three round trips for each batch, and two more for those that others wrote to meanwhile. It may be broken off and
    begun again, and workers of both versions may run. With `dry_run` nothing is changed.
    Raises `ConfigError` if there is no name and the model is no context, `SchemaError` for what is no model,
    `InvalidKey`, `LinkError`.
    """
    found: Iterator[str | tuple[str, str]] = _store(memory, model, name).scan(batch_size)
    for page in _pages(found, batch_size):
        with memory.batch() as batch:
            store, places = _store(batch, model, name), dict.fromkeys(page)
            ids = ((place,) if isinstance(place, str) else place for place in places)
            handles = [store.migrate(*each, dry_run=dry_run) for each in ids]
        for handle in handles:
            error = handle.error()
            yield error if isinstance(error, DecodeError) else handle.result()


def _store(memory: Memory | BatchOperations, model: type[Any], name: str | None) -> Any:
    """The records of this name; without one, the contexts."""
    if name is not None:
        return memory.records(name, model)
    if not issubclass(model, UserContext):
        raise ConfigError(f"{model.__name__} is no UserContext: say --name, which memory.records() is given too")
    return memory.contexts.of(model)


def _pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while page := list(islice(left, size)):
        yield page


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
