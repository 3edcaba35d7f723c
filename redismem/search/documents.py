"""Many documents as a table, a list for each attribute of `Document`: a scope has so many that each by itself is slow.

Whatever is in a table can be indexed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import chain
from numbers import Real
from types import NoneType
from typing import Any, Final

from redismem.search.document import Document, Vector

_MOST: Final = 2.0**62


@dataclass(slots=True, eq=False)
class Documents:
    """What stands at one place of all lists is one document. An empty list stands for what `Document` has by itself.

    Raises `TypeError` for a document of which an attribute is of another type, or a number not finite.
    """

    id: list[str] = field(default_factory=list[str])
    text: list[str] = field(default_factory=list[str])
    at: list[float] = field(default_factory=list[float])
    session: list[str | None] = field(default_factory=list[str | None])
    speaker: list[str | None] = field(default_factory=list[str | None])
    user: list[str | None] = field(default_factory=list[str | None])
    task_id: list[str | None] = field(default_factory=list[str | None])
    tags: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    importance: list[float] = field(default_factory=list[float])
    score: list[float] = field(default_factory=list[float])
    success: list[bool | None] = field(default_factory=list[bool | None])
    vector: list[Vector | None] = field(default_factory=list[Vector | None])
    order: list[int] = field(default_factory=list[int])

    @classmethod
    def of(cls, documents: "Documents | Iterable[Document]") -> "Documents":
        """These documents."""
        if isinstance(documents, Documents):
            return documents
        rows = list(documents)
        try:
            return cls._table(rows)
        except TypeError:
            for row in rows:
                cls._table([row])  # raises for the first that is damaged, and names it
            raise

    @classmethod
    def _table(cls, rows: list[Document]) -> "Documents":
        table: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _NAMES}
        table["tags"] = [tuple(row.tags) for row in rows]
        return cls(**table)

    def __post_init__(self) -> None:
        for one in fields(Document):
            if not getattr(self, one.name):
                setattr(self, one.name, [() if one.name == "tags" else one.default] * len(self))
        if not self._is_sound():
            which = repr(self.id[0]) if len(self) == 1 else f"one of {len(self)}"
            raise TypeError(f"a document has an id, texts for text, names and tags, and finite numbers: {which}")

    def __len__(self) -> int:
        return len(self.id)

    def extend(self, others: "Documents") -> None:
        """Take others in, after these."""
        for name in _NAMES:  # new lists, as several of one table may be the same
            setattr(self, name, getattr(self, name) + getattr(others, name))

    def latest(self) -> "Documents":
        """Of those with one id, the last."""
        if len(set(self.id)) == len(self):
            return self
        rows = {row[0]: row for row in zip(*(getattr(self, name) for name in _NAMES), strict=True)}
        return Documents(*map(list, zip(*rows.values(), strict=True)))

    def _is_sound(self) -> bool:
        return (
            all(len(getattr(self, name)) == len(self) for name in _NAMES)
            and all(self.id)
            and _are(tuple, self.tags)
            and _are(str, chain(self.id, self.text, *self.tags))
            and _are((str, NoneType), chain(self.session, self.speaker, self.user, self.task_id))
            and all(_are_numbers(column) for column in (self.at, self.order, self.importance, self.score))
        )


_NAMES: Final = tuple(one.name for one in fields(Documents))


def _are(kinds: type | tuple[type, ...], values: Iterable[object]) -> bool:
    return all(issubclass(kind, kinds) for kind in set(map(type, values)))


def _are_numbers(values: list[Any]) -> bool:
    return _are(Real, values) and all(-_MOST < value < _MOST for value in values)
