"""Fencing tokens: what makes a write under a lock safe even when its holder was stopped and the lease went.

Each time a lock is granted, its token is greater than any before. A write that is given the token is refused by the
server once it has seen a greater one: `StaleFence`. The lock by itself is only a hint; the token is the guarantee.
"""

from dataclasses import dataclass
from typing import Protocol

from redismem.errors import LockError


@dataclass(frozen=True, slots=True)
class Fence:
    """One grant of one lock."""

    name: str
    """The key of the lock's token counter, which outlives the lock."""
    token: int

    @property
    def fence(self) -> "Fence":
        """Itself: what takes a lock takes its fence too, such as in another process."""
        return self


class Fenced(Protocol):
    """Something that has a fence, such as a lock that is held."""

    @property
    def fence(self) -> Fence:
        """The fence of the grant under which writes are made."""
        ...


def fence_of(fenced: Fenced | None) -> Fence | None:
    """The fence that a caller gave, if any. Raises `LockError` for what is none, or a lock that is not held."""
    fence = None if fenced is None else getattr(fenced, "fence", None)
    if fenced is not None and not isinstance(fence, Fence):
        raise LockError(f"fence={type(fenced).__name__}: give a lock that is held, or its fence")
    return fence
