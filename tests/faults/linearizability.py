"""Whether what many processes were told can be the story of one store that does one thing at a time.

`violations` looks at each key alone: it searches for an order of the operations in which each comes after all that had
returned before it was called, and gives what its caller was told (Wing and Gong, 1993; configurations that were seen
before are not searched again, after Lowe, 2017). An operation without an outcome may have happened at any time since
its call, or never.

`Recorder` writes down what a process does, by the clock that all processes of a machine share, each call before it is
made; so the call of a process that was killed is known as well, and is one without an outcome.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from redismem.errors import LinkError

MOST: Final = 1_000_000
"""Steps of one search. Only false histories with many operations without an outcome need as many."""

Value = int | str | None
"""What a key holds; None: nothing."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a session store on one key, and what came of it. Times are nanoseconds of one clock."""

    key: str
    verb: str
    arguments: tuple[Any, ...]
    called: int
    returned: float = math.inf
    result: Any = None

    @property
    def is_pending(self) -> bool:
        """Whether nobody knows what became of it."""
        return self.returned == math.inf

    @property
    def effect(self) -> tuple[str, tuple[Any, ...]]:
        """What it would do."""
        return self.verb, self.arguments


@dataclass(frozen=True, slots=True)
class Violation:
    """A key for whose operations no order was found, and those that were next where the search came furthest."""

    key: str
    explained: int
    operations: int
    stuck_at: tuple[Operation, ...]
    value: Value
    is_certain: bool
    """Whether all orders were searched, and not only as many as there is time for."""


def step(value: Value, operation: Operation) -> tuple[Value, Any]:
    """What one store would hold after the operation, and say."""
    match operation.effect:
        case "load", ():
            return value, value
        case "save", (new,):
            return new, None
        case "delete", ():
            return None, value is not None
        case "increment", (by,):
            total = int(value or 0) + by
            return total, total
        case "compare_and_set", (expected, new):
            return (new, True) if value == expected else (value, False)
        case effect:
            raise ValueError(effect)


def violations(history: Iterable[Operation]) -> list[Violation]:
    """The keys whose story cannot be true; none, if the history is linearizable."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in sorted(history, key=lambda one: one.called):
        by_key[operation.key].append(operation)
    found = (_Search(key, operations).violation() for key, operations in by_key.items())
    return [violation for violation in found if violation is not None]


@dataclass(frozen=True, slots=True)
class _Here:
    """Where a search is: which operations have their place in the order, and what the key holds after them.

    An operation without an outcome is worth a place only directly before one that would else have had another result:
    elsewhere it could be left out or moved on. So after one, the search remembers what was `before` it.
    """

    low: int = 0
    """All returned operations before this one have a place."""
    done: int = 0
    """Bits: those from there on that have one."""
    taken: int = 0
    """Bits: the pending ones that have one."""
    value: Value = None
    before: tuple[Value, ...] = ()

    @property
    def explained(self) -> int:
        return self.low + self.done.bit_count()


class _Search:
    """Through all orders of one key's operations."""

    def __init__(self, key: str, operations: Sequence[Operation]) -> None:
        self._key = key
        self._returned = [one for one in operations if not one.is_pending]
        self._pending = [one for one in operations if one.is_pending]

    def violation(self) -> Violation | None:
        furthest = _Here()
        seen: defaultdict[_Here, list[int]] = defaultdict(list)
        waiting, searched = [furthest], 0
        while waiting and searched < MOST:
            searched += 1
            here = waiting.pop()
            ways = seen[replace(here, taken=0)]
            if any(way & here.taken == way for way in ways):
                continue  # with no more of the pending ones, the same was reached before
            ways.append(here.taken)
            if here.low == len(self._returned):
                return None
            furthest = max(furthest, here, key=lambda one: one.explained)
            waiting += self._after_pending(here)
            waiting += reversed(list(self._after_returned(here)))
        next_ = tuple(self._returned[furthest.low + ahead] for ahead in self._next(furthest))
        return Violation(self._key, furthest.explained, len(self._returned), next_, furthest.value, not waiting)

    def _next(self, here: _Here) -> Iterator[int]:
        """Which returned operations, from `low` on, may be next: none that is left had returned before their call."""
        first_return = math.inf
        for ahead in range(len(self._returned) - here.low):
            operation = self._returned[here.low + ahead]
            if operation.called > first_return:
                return
            if not here.done >> ahead & 1:
                first_return = min(first_return, operation.returned)
                yield ahead

    def _after_returned(self, here: _Here) -> Iterator[_Here]:
        for ahead in self._next(here):
            operation = self._returned[here.low + ahead]
            value, said = step(here.value, operation)
            if said == operation.result and all(step(before, operation)[1] != said for before in here.before):
                yield _Here(*_forward(here.low, here.done | 1 << ahead), here.taken, value)

    def _after_pending(self, here: _Here) -> Iterator[_Here]:
        until = min(self._returned[here.low + ahead].returned for ahead in self._next(here))
        tried: set[tuple[str, tuple[Any, ...]]] = set()
        for number, operation in enumerate(self._pending):
            if operation.called > until:
                return
            # of those that would do the same, the one called first will do
            if here.taken >> number & 1 or operation.effect in tried:
                continue
            tried.add(operation.effect)
            value, _ = step(here.value, operation)
            if value != here.value and all(step(before, operation)[0] != value for before in here.before):
                yield _Here(here.low, here.done, here.taken | 1 << number, value, (here.value,))


def _forward(low: int, done: int) -> tuple[int, int]:
    while done & 1:
        low, done = low + 1, done >> 1
    return low, done


# --- recording --------------------------------------------------------------------------------------------------------


class Recorder:
    """A session store whose calls are written down, a line before and a line after each."""

    def __init__(self, sessions: Any, session_id: str, namespace: str, log: Path) -> None:
        self._sessions = sessions
        self._place = session_id, namespace
        self._log = log.open("ab", buffering=0)  # a killed process must have written what it had said
        self._number = 0

    def call(self, verb: str, key: str, *arguments: Any) -> Any:
        """What the store says; None, and no outcome in the log, if the link failed."""
        self._number += 1
        self._note([self._number, time.monotonic_ns(), key, verb, arguments])
        try:
            result = getattr(self._sessions, verb)(*self._place, key, *arguments)
        except LinkError:
            return None
        self._note([self._number, time.monotonic_ns(), result])
        return result

    def _note(self, line: list[Any]) -> None:
        self._log.write(json.dumps(line).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()


def recorded(log: Path) -> Iterator[Operation]:
    """What a recorder wrote down."""
    calls: dict[int, tuple[str, str, tuple[Any, ...], int]] = {}
    for line in log.read_bytes().splitlines():
        match json.loads(line):
            case [number, called, key, verb, arguments]:
                calls[number] = key, verb, tuple(arguments), called
            case [number, returned, result]:
                yield Operation(*calls.pop(number), returned, result)
    yield from (Operation(*call) for call in calls.values())
