"""What the server can do, asked with ``COMMAND INFO`` and never guessed from a version: Valkey 9 reports 7.2.4."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self


class ExpiryTier(StrEnum):
    """How fields of a hash expire on this server."""

    HSETEX = "hsetex"
    """Value and TTL in one command (Redis 8, Valkey 9)."""
    HPEXPIRE = "hpexpire"
    """A command of its own gives a field its TTL (Redis 7.4)."""
    DEADLINES = "deadlines"
    """A companion sorted set of deadlines, judged by the server's clock in scripts (Redis 6.2, 7.0)."""


@dataclass(frozen=True, slots=True)
class Features:
    """What follows from the commands that redismem looks for."""

    tier: ExpiryTier
    waitaof: bool = False
    """Whether a write can wait for its fsync."""

    QUESTION: ClassVar[tuple[str, ...]] = ("COMMAND", "INFO", "hsetex", "hpexpire", "waitaof")

    @classmethod
    def of(cls, reply: Any) -> Self:
        """From the reply to `QUESTION`: one item for each command, empty where the server lacks it."""
        hsetex, hpexpire, waitaof = (bool(item) for item in reply)
        if not hpexpire:
            return cls(ExpiryTier.DEADLINES, waitaof)
        return cls(ExpiryTier.HSETEX if hsetex else ExpiryTier.HPEXPIRE, waitaof)
