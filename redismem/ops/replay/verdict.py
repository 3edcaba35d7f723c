"""Whether a memory holds exactly what the recordings say: every value is compared, and every leftover is found."""

import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final, cast

from redismem.memory import Memory
from redismem.op import Handle
from redismem.ops.replay.agent import FLAGS_TTL, message_key, open_calls
from redismem.ops.replay.recording import Recording, called_tools
from redismem.stores.sessions import SessionInfo
from redismem.stores.values import Values

SESSIONS_AT_ONCE: Final = 50
"""How many sessions one batch reads or ends."""
Namespaces = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Expected:
    """What one session must hold, after its short-lived keys are gone."""

    user_id: str | None
    namespaces: Namespaces
    timed_flags: tuple[str, ...] = ()
    """The flags that must have a TTL."""
    short_lived: int = 0
    """How many keys were written to ``presence``; all must have expired."""


@dataclass(slots=True)
class Verdict:
    """What a check found."""

    lost: int = 0
    """Values that are missing, and short-lived ones that are still there."""
    torn: int = 0
    """Values that differ or cannot be read, and what nobody wrote."""
    expired: int = 0
    """Short-lived values that are gone, as they must be."""
    findings: list[str] = field(default_factory=list[str])
    """Each lost or torn value, in words."""

    def lose(self, place: str, how: str = "is missing", times: int = 1) -> None:
        """Note lost values."""
        self.lost += times
        self._note("lost", place, how, times)

    def tear(self, place: str, how: str, times: int = 1) -> None:
        """Note torn values."""
        self.torn += times
        self._note("torn", place, how, times)

    def _note(self, what: str, place: str, how: str, times: int) -> None:
        if times:
            self.findings.append(f"{what}: {place} {how}" + (f" ({times} times)" if times > 1 else ""))


def expected(recordings: Sequence[Recording]) -> dict[str, Expected]:
    """What memory must hold after the recordings were replayed, by session id."""
    sessions = {recording.session_id: _of_run(recording) for recording in recordings}
    for recording in recordings:
        if recording.user_session_id is not None:
            user = sessions.setdefault(recording.user_session_id, Expected(recording.user_id, {}))
            shared = user.namespaces.setdefault("shared", {"progress": {}})
            shared["progress"][recording.session_id] = len(recording.messages)
            shared[f"messages:{recording.session_id}"] = len(recording.messages)
    return sessions


def check(memory: Memory, recordings: Sequence[Recording]) -> Verdict:
    """Compare memory with the recordings, from the first message to the last leftover. Raises `LinkError`."""
    verdict, sessions = Verdict(), expected(recordings)
    for session_id, found in _read(memory, sessions):
        _check_session(verdict, session_id, sessions[session_id], found)
    for session_id in set(memory.sessions.scan(1000)) - sessions.keys():
        verdict.tear(session_id, "was never written")
    return verdict


@dataclass(slots=True)
class _Found:
    """What one session holds."""

    info: Handle[SessionInfo | None]
    namespaces: dict[str, Handle[Values]]
    flag_ttls: dict[str, Handle[float | None]]
    presence: Handle[Values]


def _of_run(recording: Recording) -> Expected:
    messages = recording.messages
    tools = [tool for message in messages for tool in called_tools(message)]
    flags = {"status": "done", "awaiting_tool": reduce(open_calls, messages, list[str]()), "position": len(messages)}
    namespaces: Namespaces = {
        "messages": {message_key(index): message for index, message in enumerate(messages)},
        "counters": dict(Counter([f"role:{m['role']}" for m in messages] + [f"tool:{tool}" for tool in tools])),
        "flags": flags,
    }
    return Expected(recording.user_id, namespaces, ("status", "awaiting_tool"), short_lived=len(messages))


def _read(memory: Memory, sessions: Mapping[str, Expected]) -> Iterator[tuple[str, _Found]]:
    """What the sessions hold, in a few round trips for many of them."""
    ids = list(sessions)
    for start in range(0, len(ids), SESSIONS_AT_ONCE):
        some = ids[start : start + SESSIONS_AT_ONCE]
        with memory.batch() as batch:
            found = [
                _Found(
                    batch.sessions.info(id_),
                    {name: batch.sessions.get_all(id_, name) for name in sessions[id_].namespaces},
                    {key: batch.sessions.ttl(id_, "flags", key) for key in sessions[id_].timed_flags},
                    batch.sessions.get_all(id_, "presence"),
                )
                for id_ in some
            ]
        yield from zip(some, found, strict=True)


def _check_session(verdict: Verdict, session_id: str, wanted: Expected, found: _Found) -> None:
    info = found.info.result()
    if info is not None and info.user_id != wanted.user_id:
        verdict.tear(session_id, f"belongs to {info.user_id!r}")
    for name in set(info.namespaces if info else ()) - wanted.namespaces.keys() - {"presence"}:
        verdict.tear(f"{session_id}/{name}", "was never written")
    for name, values in wanted.namespaces.items():
        _check_values(verdict, f"{session_id}/{name}", values, found.namespaces[name].result())
    for key, ttl in found.flag_ttls.items():
        if not 0 < (ttl.result() or 0) <= FLAGS_TTL and key in found.namespaces["flags"].result():
            verdict.tear(f"{session_id}/flags[{key}]", f"has a TTL of {ttl.result()} s")
    for key in (left := _keys(found.presence.result())):
        verdict.lose(f"{session_id}/presence[{key}]", "should have expired")
    verdict.expired += wanted.short_lived - len(left)


def _check_values(verdict: Verdict, place: str, wanted: Mapping[str, Any], found: Values) -> None:
    for key, error in found.unreadable.items():
        verdict.tear(f"{place}[{key}]", f"cannot be read: {error}")
    for key in found.keys() - wanted.keys():
        verdict.tear(f"{place}[{key}]", "was never written")
    for key in wanted.keys() - _keys(found):
        verdict.lose(f"{place}[{key}]")
    for key in wanted.keys() & found.keys():
        if not _same(wanted[key], found[key]):
            verdict.tear(f"{place}[{key}]", f"is {reprlib.repr(found[key])}, not {reprlib.repr(wanted[key])}")


def _keys(values: Values) -> set[str]:
    return values.keys() | values.unreadable.keys()


def _same(one: Any, other: Any) -> bool:
    """Equal in type as well, at every depth: to Python alone, 1, 1.0 and True are the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = cast("dict[str, Any]", one).items()
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in pairs)
    if isinstance(one, list):
        items = cast("Sequence[Any]", one)
        return len(items) == len(other) and all(map(_same, items, other))
    return bool(one == other)
