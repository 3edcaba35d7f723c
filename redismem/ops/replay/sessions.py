"""Whether the sessions hold exactly what the recordings say: every value is compared, and every leftover is found."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from redismem.memory import Memory
from redismem.op import Handle
from redismem.ops.replay.agent import FLAGS_TTL, message_key, open_calls
from redismem.ops.replay.recording import Recording, called_tools
from redismem.ops.replay.verdict import AT_ONCE, Verdict
from redismem.stores.sessions import SessionInfo
from redismem.stores.values import Values

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


def check_sessions(verdict: Verdict, memory: Memory, recordings: Sequence[Recording]) -> None:
    """Compare the sessions with the recordings, from the first message to the last leftover. Raises `LinkError`."""
    sessions = expected(recordings)
    for session_id, found in _read(memory, sessions):
        _check_session(verdict, session_id, sessions[session_id], found)
    for session_id in set(memory.sessions.scan(1000)) - sessions.keys():
        verdict.tear(session_id, "was never written")


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
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
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
        there = found.namespaces[name].result()
        verdict.compare(f"{session_id}/{name}", values, there, there.unreadable)
    for key, ttl in found.flag_ttls.items():
        if not 0 < (ttl.result() or 0) <= FLAGS_TTL and key in found.namespaces["flags"].result():
            verdict.tear(f"{session_id}/flags[{key}]", f"has a TTL of {ttl.result()} s")
    presence = found.presence.result()
    for key in (left := presence.keys() | presence.unreadable.keys()):
        verdict.lose(f"{session_id}/presence[{key}]", "should have expired")
    verdict.expired += wanted.short_lived - len(left)
