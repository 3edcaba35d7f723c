"""What this process learned lately about sessions that it writes to, so that it need not ask at every write.

A script that wrote to a namespace has registered it in the session's meta and seen to every expiry. For a moment,
the resolution of ``last_active``, this process may then write to the namespace with plain commands. In the same
transaction it looks whether all still is as a script would leave it; if the session ended, began anew or was touched
meanwhile, a script follows at once and sees to the rest.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from redismem.ttl import FOREVER_MS

NO_END: Final = -1
"""What PTTL says of a key that does not expire."""
ENDS: Final = -2

MOST_SESSIONS: Final = 10_000
"""More are forgotten at once: the next write to each costs a script again."""


@dataclass(slots=True)
class Leave:
    """Leave to write to one namespace with plain commands, until a moment of this process' clock."""

    until: float
    began: bytes
    """The session's `created_at`, as stored: one that ended and began anew is another session."""
    life_ms: int
    """For how long meta lives at least; NO_END: for ever; ENDS: the session, each of its keys, ends as a whole."""

    @property
    def ends(self) -> bool:
        """Whether the session ends as a whole. Then its namespaces' keys do; else meta outlives the fields."""
        return self.life_ms == ENDS

    def covers(self, ttl_ms: int, now: float) -> bool:
        """Whether a plain write with this TTL seems right; one that stays longer than meta is for a script."""
        if now >= self.until:
            return False
        return self.life_ms < 0 or FOREVER_MS < ttl_ms <= self.life_ms

    def holds(self, head: Sequence[bytes | None], left_ms: int, ttl_ms: int) -> bool:
        """Whether the write left everything as a script would have.

        `head` is meta's registration, `created_at` and `deadline`; `left_ms` the PTTL that the namespace's key had
        before the write, if the session ends as a whole, else that of meta.
        """
        registered, began, deadline = head
        if registered is None or began != self.began or self.ends != (deadline is not None):
            return False
        if self.ends:
            return left_ms >= 0
        return left_ms == NO_END or FOREVER_MS < ttl_ms <= left_ms


@dataclass(slots=True)
class Notes:
    """One session: its known namespaces, and where plain writes are right."""

    namespaces: dict[str, None] = field(default_factory=dict[str, None])
    leaves: dict[str, Leave] = field(default_factory=dict[str, Leave])
    refreshed: float = float("-inf")


class Recent:
    """Notes on sessions. Thread-safe: each method is one step on dictionaries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._notes: dict[str, Notes] = {}

    def leave(self, session_id: str, namespace: str, ttl_ms: int) -> Leave | None:
        """Leave for a plain write, if there is any."""
        notes = self._notes.get(session_id)
        leave = notes.leaves.get(namespace) if notes is not None else None
        return leave if leave is not None and leave.covers(ttl_ms, self.clock()) else None

    def learn(self, session_id: str, namespace: str, leave: Leave) -> None:
        """A script has just written to the namespace."""
        self._of(session_id).leaves[namespace] = leave

    def namespaces(self, session_id: str) -> tuple[str, ...]:
        """The namespaces of the session that this process knows of."""
        notes = self._notes.get(session_id)
        return tuple(notes.namespaces) if notes is not None else ()

    def learn_namespaces(self, session_id: str, namespaces: Iterable[str]) -> None:
        """The session has these namespaces too."""
        self._of(session_id).namespaces.update(dict.fromkeys(namespaces))

    def refresh_is_due(self, session_id: str, interval: float) -> bool:
        """Whether this process has not refreshed the session for `interval` seconds; if so, it says it will now."""
        notes, now = self._of(session_id), self.clock()
        if now - notes.refreshed < interval:
            return False
        notes.refreshed = now
        return True

    def forget_leaves(self, session_id: str) -> None:
        """The session's expiry changes: plain writes would not know."""
        if (notes := self._notes.get(session_id)) is not None:
            notes.leaves.clear()

    def forget(self, session_id: str) -> None:
        """The session has ended, or is not what this process believed."""
        self._notes.pop(session_id, None)

    def _of(self, session_id: str) -> Notes:
        if len(self._notes) >= MOST_SESSIONS and session_id not in self._notes:
            self._notes.clear()
        return self._notes.setdefault(session_id, Notes())
