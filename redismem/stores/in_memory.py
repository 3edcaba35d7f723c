"""Sessions in a plain dictionary under a lock: the contract of `redismem.stores.sessions` at its shortest.

The tests hold every server against it, and callers may use it where one process is all there is. Methods, parameters,
results and errors are those of `SessionStore`; values are kept encoded, so no caller holds another's. It differs in
two ways: ``last_active`` is exact, and it is slow on sessions of many thousands of keys, since every call looks at all
keys of its session for those that are over.

A session ends with the longest-lived value that was ever written to it, and never once one was written without a TTL
or ``touch`` was called with None. While ``touch`` or `Settings.session_ttl` gave it an end as a whole, that one holds.
"""

import copy
import math
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from redismem.codec import Codec
from redismem.config import Settings
from redismem.coordination.fence import Fenced, fence_of
from redismem.durability import Durability
from redismem.errors import Conflict, LimitExceeded, OwnerMismatch, StaleFence, WrongType
from redismem.keys import encode_segment
from redismem.keys import field as key_bytes
from redismem.op import run, settle
from redismem.stores.sessions import MISSING, SCHEMA, Copy, SessionInfo
from redismem.stores.values import Values
from redismem.ttl import FOREVER_MS, KEEP_MS, TTL, milliseconds

_INT64: Final = range(-(2**63), 2**63)
_SEQUENCES: Final[frozenset[type[Any]]] = frozenset({list, tuple})


@dataclass(slots=True)
class _Value:
    data: bytes
    until: float


@dataclass(slots=True)
class _Session:
    user_id: str | None
    created_at: float
    last_active: float
    until: float = -math.inf
    ends_as_a_whole: bool = False
    namespaces: dict[str, dict[str, _Value]] = field(default_factory=dict[str, dict[str, _Value]])
    fences: dict[str, int] = field(default_factory=dict[str, int])


class InMemorySessionStore:
    """See `SessionStore`. Thread-safe. `clock` gives the time, in seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time, settings: Settings | None = None) -> None:
        self._clock = clock
        self._settings = settings or Settings()
        chosen = self._settings
        self._codec = Codec(chosen.compress_threshold, chosen.compression, chosen.max_value_bytes)
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    # --- values -----------------------------------------------------------------------------------------------------

    def save(
        self,
        session_id: str,
        namespace: str,
        key: str,
        value: Any,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> None:
        """See `SessionStore.save`."""
        self.save_many(session_id, namespace, {_key(key): value}, ttl, user_id=user_id, fence=fence)

    def save_many(
        self,
        session_id: str,
        namespace: str,
        mapping: Mapping[str, Any],
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> None:
        """See `SessionStore.save_many`."""
        place, life = _place(session_id, namespace, user_id), milliseconds(ttl)
        new = {_key(key): self._codec.encode(value) for key, value in mapping.items()}
        with self._writing(session_id, fence):
            if new:
                self._put(*place, new, life)

    def load(
        self,
        session_id: str,
        namespace: str,
        key: str,
        default: Any = None,
        *,
        user_id: str | None = None,
        fresh: bool = False,
    ) -> Any:
        """See `SessionStore.load`; `fresh` has no meaning here."""
        return self.load_many(session_id, namespace, [key], user_id=user_id).get(_key(key), default)

    def load_many(
        self, session_id: str, namespace: str, keys: Iterable[str], *, user_id: str | None = None, fresh: bool = False
    ) -> Values:
        """See `SessionStore.load_many`; `fresh` has no meaning here."""
        wanted = set(map(_key, keys))
        return self._read(session_id, namespace, wanted.__contains__, user_id)

    def get_all(self, session_id: str, namespace: str, *, user_id: str | None = None, fresh: bool = False) -> Values:
        """See `SessionStore.get_all`; `fresh` has no meaning here."""
        return self._read(session_id, namespace, lambda _: True, user_id)

    def last_known(self, session_id: str, namespace: str, key: str) -> Copy | None:
        """See `SessionStore.last_known`: there is nothing older than what `load` gives."""
        return None

    def delete(
        self,
        session_id: str,
        namespace: str,
        key: str,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """See `SessionStore.delete`."""
        place, name = _place(session_id, namespace, user_id), _key(key)
        with self._writing(session_id, fence):
            found = self._held(*place).pop(name, None)
            if session := self._living(session_id):
                self._note_activity(session)
            return found is not None

    # --- atomic read-modify-write -----------------------------------------------------------------------------------

    def increment(
        self,
        session_id: str,
        namespace: str,
        key: str,
        by: int = 1,
        ttl: float | None = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> int:
        """See `SessionStore.increment`."""
        place, name, life = _place(session_id, namespace, user_id), _key(key), milliseconds(ttl)
        with self._writing(session_id, fence):
            held = self._held(*place).get(name)
            number = 0 if held is None else self._codec.decode(held.data)
            if type(number) is not int:
                raise WrongType(f"{namespace}[{key}]: only integers can be incremented")
            if type(by) is not int or any(each not in _INT64 for each in (by, number, number + by)):
                raise LimitExceeded(f"increment by {by!r}: steps and sums are 64-bit integers")
            self._put(*place, {name: self._codec.encode(number + by)}, life or KEEP_MS)
            return number + by

    def compare_and_set(
        self,
        session_id: str,
        namespace: str,
        key: str,
        expected: Any,
        value: Any,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """See `SessionStore.compare_and_set`."""
        place, name, life = _place(session_id, namespace, user_id), _key(key), milliseconds(ttl)
        data, wanted = self._codec.encode(value), None if expected is MISSING else self._canonical(expected)
        with self._writing(session_id, fence):
            held = self._held(*place).get(name)
            if held is None:
                matches = expected is None or expected is MISSING
            else:
                matches = self._canonical(self._codec.decode(held.data)) == wanted
            if matches:
                self._put(*place, {name: data}, life)
            return matches

    def update(
        self,
        session_id: str,
        namespace: str,
        key: str,
        fn: Callable[[Any], Any | Awaitable[Any]],
        default: Any = None,
        ttl: TTL = None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> Any:
        """See `SessionStore.update`."""
        place, name, life = _place(session_id, namespace, user_id), _key(key), milliseconds(ttl)
        for _ in range(self._settings.update_attempts):
            with self._writing(session_id, fence):
                held = self._held(*place).get(name)
            before = copy.deepcopy(default) if held is None else self._codec.decode(held.data)
            value = run(settle(fn(before)))
            data = self._codec.encode(value)
            with self._writing(session_id, fence):
                now_held = self._held(*place).get(name)
                if (now_held and now_held.data) == (held and held.data):
                    self._put(*place, {name: data}, life)
                    return value
        raise Conflict(f"{namespace}[{key}]: others changed it at each of {self._settings.update_attempts} attempts")

    # --- time to live -----------------------------------------------------------------------------------------------

    def ttl(self, session_id: str, namespace: str, key: str, *, user_id: str | None = None) -> float | None:
        """See `SessionStore.ttl`."""
        place, name = _place(session_id, namespace, user_id), _key(key)
        with self._lock:
            held, session = self._held(*place).get(name), self._living(place[0])
            if held is None or session is None:
                return None
            return self._left(min(held.until, session.until) if session.ends_as_a_whole else held.until)

    def expire(
        self,
        session_id: str,
        namespace: str,
        key: str,
        ttl: float | None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """See `SessionStore.expire`."""
        place, name, life = _place(session_id, namespace, user_id), _key(key), milliseconds(ttl)
        with self._writing(session_id, fence):
            held = self._held(*place).get(name)
            if held is not None:
                self._put(*place, {name: held.data}, life)
            return held is not None

    # --- whole sessions ---------------------------------------------------------------------------------------------

    def touch(
        self,
        session_id: str,
        ttl: float | None,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> bool:
        """See `SessionStore.touch`."""
        name, owner, life = _name(session_id, "session_id"), _owner(user_id), milliseconds(ttl)
        with self._writing(session_id, fence):
            session = self._living(name, owner)
            if session is not None:
                session.last_active = self._clock()
                session.until, session.ends_as_a_whole = self._end(life), life != FOREVER_MS
            return session is not None

    def end(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        fence: Fenced | None = None,
        durable: Durability | None = None,
    ) -> int:
        """See `SessionStore.end`."""
        name, owner = _name(session_id, "session_id"), _owner(user_id)
        with self._writing(session_id, fence):
            session = self._living(name, owner)
            self._sessions.pop(name, None)
            return sum(map(len, session.namespaces.values())) if session else 0

    def info(self, session_id: str, *, user_id: str | None = None) -> SessionInfo | None:
        """See `SessionStore.info`."""
        name, owner = _name(session_id, "session_id"), _owner(user_id)
        with self._lock:
            session = self._living(name, owner)
            if session is None:
                return None
            return SessionInfo(
                session_id=session_id,
                user_id=session.user_id,
                created_at=datetime.fromtimestamp(session.created_at, UTC),
                last_active=datetime.fromtimestamp(session.last_active, UTC),
                ttl=self._left(session.until),
                namespaces=tuple(sorted(session.namespaces)),
                schema=SCHEMA,
            )

    def namespaces(self, session_id: str, *, user_id: str | None = None) -> list[str]:
        """See `SessionStore.namespaces`."""
        info = self.info(session_id, user_id=user_id)
        return list(info.namespaces) if info else []

    def scan(self, batch_size: int = 100) -> Iterator[str]:
        """See `SessionStore.scan`; `batch_size` has no meaning here."""
        with self._lock:
            names = [name for name in list(self._sessions) if self._living(name)]
        yield from names

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside; the lock is held by those who touch sessions -------------------------------------------------------

    @contextmanager
    def _writing(self, session_id: str, fenced: Fenced | None) -> Generator[None]:
        """The lock, for a write under a fence. Raises `StaleFence`."""
        fence = fence_of(fenced)
        with self._lock:
            session = self._living(session_id)
            if fence and session and session.fences.get(fence.name, 0) > fence.token:
                raise StaleFence(f"session {session_id!r}: the lock was granted to another since; nothing was changed")
            yield
            if fence and (session := self._living(session_id)):
                session.fences[fence.name] = fence.token

    def _read(self, session_id: str, namespace: str, is_wanted: Callable[[str], bool], user_id: str | None) -> Values:
        place, values = _place(session_id, namespace, user_id), Values()
        with self._lock:
            for key, held in self._held(*place).items():
                if is_wanted(key):
                    values[key] = self._codec.decode(held.data)
            if self._settings.refresh_on_read and (session := self._living(place[0])):
                self._note_activity(session)
        return values

    def _living(self, session_id: str, user_id: str | None = None) -> _Session | None:
        """The session, without what is over; None if all of it is. Raises `OwnerMismatch`."""
        now, session = self._clock(), self._sessions.get(session_id)
        if session is None or session.until <= now:
            self._sessions.pop(session_id, None)
            return None
        if user_id is not None and session.user_id not in (None, user_id):
            raise OwnerMismatch(f"session {session_id!r} belongs to another user than the one given: nothing was done")
        living = (
            (namespace, {key: value for key, value in values.items() if value.until > now})
            for namespace, values in session.namespaces.items()
        )
        session.namespaces = {namespace: values for namespace, values in living if values}
        return session

    def _held(self, session_id: str, namespace: str, user_id: str | None) -> dict[str, _Value]:
        session = self._living(session_id, user_id)
        return session.namespaces.get(namespace, {}) if session else {}

    def _put(self, session_id: str, namespace: str, user_id: str | None, new: Mapping[str, bytes], life: int) -> None:
        """Write bytes with a life as the scripts take it, unless a limit forbids."""
        now, held = self._clock(), self._held(session_id, namespace, user_id)
        session = self._living(session_id)
        self._check_room(session, namespace, len({*held, *new}) - len(held))
        if session is None:
            session = self._sessions[session_id] = _Session(user_id, created_at=now, last_active=now)
        values = session.namespaces.setdefault(namespace, {})
        for key, data in new.items():
            until = values[key].until if life == KEEP_MS and key in values else self._end(life)
            values[key] = _Value(data, until)
            if not session.ends_as_a_whole:
                session.until = max(session.until, until)
        session.user_id = user_id if session.user_id is None else session.user_id
        self._note_activity(session)

    def _check_room(self, session: _Session | None, namespace: str, adding: int) -> None:
        """Raises `LimitExceeded`."""
        held = session.namespaces if session else {}
        most_fields, most_namespaces = self._settings.max_fields, self._settings.max_namespaces
        if most_namespaces is not None and namespace not in held and len(held) >= most_namespaces:
            raise LimitExceeded(f"{namespace!r} would pass the limit of {most_namespaces} namespaces")
        if most_fields is not None and adding and len(held.get(namespace, {})) + adding > most_fields:
            raise LimitExceeded(f"{namespace!r} would pass the limit of {most_fields} keys")

    def _note_activity(self, session: _Session) -> None:
        session.last_active = self._clock()
        if self._settings.session_ttl is not None:
            session.until, session.ends_as_a_whole = session.last_active + self._settings.session_ttl, True

    def _end(self, life: int) -> float:
        return self._clock() + life / 1000 if life > 0 else math.inf

    def _left(self, until: float) -> float | None:
        return until - self._clock() if until < math.inf else None

    def _canonical(self, value: Any) -> bytes:
        """Bytes that are equal for values that are the same, types included, whatever the order of keys."""
        return self._codec.encode(self._ordered(value))

    def _ordered(self, value: Any) -> Any:
        kind = value.__class__
        if kind is dict:
            return {key: self._ordered(value[key]) for key in sorted(value, key=self._codec.encode)}
        return kind(map(self._ordered, value)) if kind in _SEQUENCES else value


def _place(session_id: str, namespace: str, user_id: str | None) -> tuple[str, str, str | None]:
    """The checked names. Raises `InvalidKey`."""
    return _name(session_id, "session_id"), _name(namespace, "namespace"), _owner(user_id)


def _owner(user_id: str | None) -> str | None:
    return None if user_id is None else _name(user_id, "user_id")


def _key(key: str) -> str:
    return key_bytes(key).decode()


def _name(text: str, what: str) -> str:
    encode_segment(text, what)
    return str.__str__(text)  # an enum that is a str has a hash of its own
