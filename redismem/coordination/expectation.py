"""What a transaction has read, in a form that ``lua/transaction.lua`` can compare with what is there at the end.

Every read of a session is a few commands; a `Look` is one of them. It says what is sent in its stead, so that what
time alone will change is known too, and turns the replies into what the operation gets and into expectations:

==============  ==================================================================================================
``values``      these fields hold these bytes, or are not there
``all``         the namespace holds these fields and no others; one that has met its end in between may be gone
``ends``        the field ends at this moment
``meta``        as ``values``, of the session's meta: who owns it, and when it began
``registered``  the session has these namespaces and no others; one that held nothing may be gone
==============  ==================================================================================================
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redismem.errors import LinkError
from redismem.link.base import Argument, Command, Reply
from redismem.link.features import ExpiryTier
from redismem.scripts import script


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one read told, for the script to compare: see ``lua/transaction.lua``."""

    kind: str
    keys: tuple[Argument, ...]
    arguments: tuple[Argument, ...]


class Look:
    """One reading command of an operation: what is sent in its stead, and what to make of the replies."""

    def __init__(self, command: Command, tier: ExpiryTier, meta: str) -> None:
        self.command = command
        self.calls = _reading_scripts().get(command[1], "") if command[0] == "EVALSHA" else ""
        self.keys = command[3 : 3 + int(command[2])] if self.calls else command[1:2]
        self.arguments = command[3 + len(self.keys) :] if self.calls else command[2:]
        self.meta = meta
        self.is_whole = self.calls == "load" and len(self.arguments) == 1
        self.is_whole |= command[0] == "HGETALL" and command[1] != meta
        self.is_timed = command[0] == "HPTTL" or self.calls == "ttl"
        self.sent = self._sent(tier)

    def reply(self, replies: Sequence[Reply]) -> Reply:
        """What the operation gets."""
        reply = replies[int(self.is_timed)]
        return reply[0] if self.is_whole and not isinstance(reply, LinkError) else reply

    def expectations(self, replies: Sequence[Reply]) -> Iterator[Expectation]:
        """What must still be so at the end. Nothing, if the look itself failed."""
        if any(isinstance(reply, LinkError) for reply in replies):
            return
        told, keys = replies[int(self.is_timed)], tuple(self.keys)
        match (self.command[0], self.calls):
            case (_, "load") if self.is_whole:
                if told[0][0] == b"OK":
                    yield Expectation("all", keys[-2:], _whole(told[0][1:], told[1]))
            case ("HGETALL", _) if self.is_whole:
                yield Expectation("all", (*keys, *keys), _whole(*told))
            case ("HGET", _):
                yield self._values([told])
            case ("HMGET", _):
                yield self._values(told)
            case ("HGETALL", _):
                yield from self._of_meta(dict(zip(told[::2], told[1::2], strict=True)))
            case ("HPTTL", _):
                left = told[0] if told else -2
                yield Expectation("ends", (*keys, *keys), (self.arguments[-1], *_moments(left, replies)))
            case (_, "ttl") if told[0] == b"OK":
                yield Expectation("ends", keys[-2:], (self.arguments[1], *_moments(told[1], replies)))
            case (_, "load") if told[0] == b"OK":
                yield Expectation("values", keys[-2:], _states(self.arguments[1:], told[1:]))
            case (_, "namespaces"):
                yield self._registered((name, name in told) for name in self.arguments)
            case _:
                return

    def _sent(self, tier: ExpiryTier) -> tuple[Command, ...]:
        if self.is_timed:
            return (("TIME",), self.command, ("TIME",))
        return (script("all", tier).command(self.keys, self.arguments) if self.is_whole else self.command,)

    def _values(self, found: Sequence[bytes | None]) -> Expectation:
        kind = "meta" if self.keys[0] == self.meta else "values"
        return Expectation(kind, (*self.keys, *self.keys), _states(self.arguments, found))

    def _of_meta(self, head: dict[bytes, bytes]) -> Iterator[Expectation]:
        lasting = (b"user_id", b"created_at", b"schema")
        yield Expectation("meta", (self.meta,), _states(lasting, list(map(head.get, lasting))))
        yield self._registered((name, False) for name in head if name.startswith(b"ns:"))

    def _registered(self, names: Iterable[tuple[Argument, bool]]) -> Expectation:
        return Expectation(
            "registered", (self.meta,), tuple(part for name, lives in names for part in (name, int(lives)))
        )


def _states(fields: Sequence[Argument], values: Sequence[bytes | None]) -> tuple[Argument, ...]:
    states = zip(fields, values, strict=True)
    return tuple(part for field, value in states for part in (field, int(value is not None), value or b""))


def _whole(flat: Sequence[bytes], timed: Sequence[Any]) -> tuple[Argument, ...]:
    """Each field, when it ends, its value."""
    ends = dict(zip(timed[::2], timed[1::2], strict=True))
    return tuple(part for i in range(0, len(flat), 2) for part in (flat[i], ends.get(flat[i], 0), flat[i + 1]))


def _moments(left_ms: int, replies: Sequence[Any]) -> tuple[int, int]:
    """When something ends, at the earliest and at the latest, by the clock before and after; or why it never does."""
    before, _, after = replies
    return (left_ms, left_ms) if left_ms < 0 else (_ms(before) + left_ms, _ms(after) + left_ms)


def _ms(clock: Sequence[bytes]) -> int:
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


@functools.cache
def _reading_scripts() -> dict[Argument, str]:
    """The scripts that read, by SHA."""
    return {script(name, tier).sha: name for name in ("load", "ttl", "namespaces") for tier in ExpiryTier}
