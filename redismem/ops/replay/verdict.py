"""What a check has found: what was lost, what was torn, and of each kind of memory how much there is."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

AT_ONCE: Final = 50
"""How many sessions, users or conversations one batch reads."""


class Tally(NamedTuple):
    """How much there must be of something, and how much of that there is, as it must be."""

    expected: int
    found: int


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
    memories: dict[str, Tally] = field(default_factory=dict[str, Tally], compare=False)
    """What the memories hold, by what it is."""

    def lose(self, place: str, how: str = "is missing", times: int = 1) -> None:
        """Note lost values."""
        self.lost += times
        self._note("lost", place, how, times)

    def tear(self, place: str, how: str, times: int = 1) -> None:
        """Note torn values."""
        self.torn += times
        self._note("torn", place, how, times)

    def compare(
        self,
        place: str,
        wanted: Mapping[Any, Any],
        found: Mapping[Any, Any],
        unreadable: Mapping[Any, Exception] | None = None,
    ) -> int:
        """Note what differs, is missing or unreadable, and what is too much. How many values are as they must be."""
        damaged = unreadable or {}
        for key, error in damaged.items():
            self.tear(f"{place}[{key}]", f"cannot be read: {error}")
        for key in found.keys() - wanted.keys():
            self.tear(f"{place}[{key}]", "was never written")
        for key in wanted.keys() - found.keys() - damaged.keys():
            self.lose(f"{place}[{key}]")
        there = wanted.keys() & found.keys()
        differing = [key for key in there if not _same(wanted[key], found[key])]
        for key in differing:
            self.tear(f"{place}[{key}]", f"is {reprlib.repr(found[key])}, not {reprlib.repr(wanted[key])}")
        return len(there) - len(differing)

    def tell(self, what: str, expected: int, found: int) -> None:
        """Add to what is told of a kind of memory."""
        before = self.memories.get(what, Tally(0, 0))
        self.memories[what] = Tally(before.expected + expected, before.found + found)

    def _note(self, what: str, place: str, how: str, times: int) -> None:
        if times:
            self.findings.append(f"{what}: {place} {how}" + (f" ({times} times)" if times > 1 else ""))


@dataclass(frozen=True, slots=True)
class OneOf:
    """Stands for any of these: several wrote at the same time, and nobody knows who was the last."""

    values: frozenset[Any]

    def __repr__(self) -> str:
        return " or ".join(sorted(map(repr, self.values)))


def _same(one: Any, other: Any) -> bool:
    """Equal in type as well, at every depth: to Python alone, 1, 1.0 and True are the same."""
    if isinstance(one, OneOf):
        return any(_same(value, other) for value in one.values)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = cast("dict[str, Any]", one).items()
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in pairs)
    if isinstance(one, list):
        items = cast("Sequence[Any]", one)
        return len(items) == len(other) and all(map(_same, items, other))
    return bool(one == other)
