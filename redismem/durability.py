"""How safe a write must be before a call returns, and whether it got there.

By itself a server acknowledges a write before its replicas and its disk have it. `Durability` asks it to wait for
them: the link sends WAIT or WAITAOF right behind the write, on the same connection. A write that is not confirmed in
time is `NotDurable`: it was applied, and may still be confirmed later or lost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from redismem.errors import ConfigError, NotDurable, RedisMemError


@dataclass(frozen=True, slots=True)
class Durability:
    """Whom a write must have reached: so many `replicas`, and with `fsync` their disks and the primary's.

    `timeout` is how many seconds to wait for them. `Durability()` asks for nothing. Raises `ConfigError` for numbers
    that cannot work. `fsync` needs a server with WAITAOF (Redis 7.2, Valkey) and its append-only file.
    """

    replicas: int = 0
    fsync: bool = False
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if type(self.replicas) is not int or self.replicas < 0:
            raise ConfigError(f"durability: replicas must be an int from 0, not {self.replicas!r}")
        if type(self.fsync) is not bool:
            raise ConfigError(f"durability: fsync must be True or False, not {self.fsync!r}")
        if type(self.timeout) not in (int, float) or not (math.isfinite(self.timeout) and self.timeout >= 0.001):
            raise ConfigError(f"durability: timeout must be seconds, at least 0.001, not {self.timeout!r}")

    def __bool__(self) -> bool:
        return self.replicas > 0 or self.fsync

    @property
    def question(self) -> tuple[str | int, ...]:
        """The command that waits."""
        milliseconds = math.ceil(self.timeout * 1000)
        if self.fsync:
            return ("WAITAOF", 1, self.replicas, milliseconds)
        return ("WAIT", self.replicas, milliseconds)

    def shortfall(self, reply: Any) -> str | None:
        """What is missing by the reply to `question`; None: nothing."""
        if isinstance(reply, RedisMemError):
            return str(reply)
        disks, replicas = reply if self.fsync else (0, reply)
        if disks < int(self.fsync):
            return "the primary's disk did not confirm"
        if replicas < self.replicas:
            return f"{replicas} of {self.replicas} replicas confirmed"
        return None


NOWHERE: Final = Durability()
"""Asks for nothing, whatever the settings ask for."""


class Receipt:
    """What became of the durability that one operation asked for."""

    def __init__(self, durability: Durability) -> None:
        self.durability = durability
        self.missing: str | None = None

    @classmethod
    def of_all(cls, receipts: Sequence["Receipt"]) -> Self:
        """One for operations that are confirmed together: the strongest of what they ask for."""
        wishes = [receipt.durability for receipt in receipts]
        return cls(
            Durability(
                replicas=max(wish.replicas for wish in wishes),
                fsync=any(wish.fsync for wish in wishes),
                timeout=max(wish.timeout for wish in wishes),
            )
        )

    def note(self, replies: Sequence[Any], confirmed: Any) -> None:
        """Take the reply to `Durability.question`, asked behind commands with these replies."""
        if not all(isinstance(reply, RedisMemError) for reply in replies):
            self.missing = self.missing or self.durability.shortfall(confirmed)

    def check(self) -> None:
        """Raises `NotDurable` if the writes were not confirmed."""
        if self.missing is not None:
            raise NotDurable(
                f"the write was applied, but not confirmed within {self.durability.timeout:g} s: {self.missing}"
            )
