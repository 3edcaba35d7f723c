"""What is known of documents beside text and vector, as numpy columns by row number, and who stands beside whom.

Row 0 stands for "none": it is never alive, and where a conversation ends, its neighbour is row 0. Rows of documents
that were dropped are given out again. Neighbours and the rows of tags are found anew, for what changed, when they are
next asked for.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redismem.search.document import Query
from redismem.search.documents import Documents
from redismem.search.texts import Rows, words
from redismem.search.wording import STOP_WORDS

REACH: Final = 2
"""How many neighbours on each side count."""
_NAMED: Final = ("session", "speaker", "user", "task_id")
_MOST_BEARERS: Final = 32
_TYPES: Final[dict[str, Any]] = {
    "at": np.float64,
    "order": np.int64,
    "importance": np.float32,
    "score": np.float64,
    "success": np.bool_,
    "alive": np.bool_,
    "length": np.int32,
    "text_hash": np.int64,
    "before": np.int32,
    "after": np.int32,
    **dict.fromkeys(_NAMED, np.int32),
}
_ID_BYTES: Final = 250  # a str, two slots of a dict and one of a list


class Codes(dict[str | None, int]):
    """Numbers of names. Who asks for a new name's has it numbered."""

    def __missing__(self, name: str | None) -> int:
        self[name] = code = len(self)
        return code


class Columns:
    """Documents by row number, from 1. Not thread-safe."""

    def __init__(self) -> None:
        self.ids: list[str] = [""]
        self.rows: dict[str, int] = {}
        self.names = {name: Codes({None: 0}) for name in _NAMED}
        self._columns: dict[str, NDArray[Any]] = {name: np.zeros(64, kind) for name, kind in _TYPES.items()}
        self._free: list[int] = []
        self._tags: dict[int, tuple[str, ...]] = {}
        self._tagged: defaultdict[str, set[int]] = defaultdict(set)
        self._new_tags: set[int] = set()
        self._changed: set[int] = set()
        self._span: tuple[float, float] | None = None
        self._bearers: dict[str, array[int]] = {}
        self._heard = 0
        self._speaking: NDArray[np.bool_] | None = None
        self._session_lengths: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column, up to the last row that was ever given out."""
        return self._columns[name][: len(self.ids)]

    # --- changes ----------------------------------------------------------------------------------------------------

    def plan(self, ids: Iterable[str]) -> list[int]:
        """The rows that documents with these ids have, or will be given by `put`; nothing changes yet."""
        free, end, planned = iter(reversed(self._free)), len(self.ids), list[int]()
        for id_ in ids:
            row = self.rows.get(id_) or next(free, 0)
            if not row:
                row, end = end, end + 1
            planned.append(row)
        return planned

    def has(self, rows: Sequence[int], hashes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether these rows, of those that `plan` gave, hold a text with this hash."""
        has, at = np.zeros(len(rows), np.bool_), np.asarray(rows, np.int64)
        there = np.flatnonzero(at < len(self.ids))
        at = at[there]
        has[there] = self["alive"][at] & (self["text_hash"][at] == hashes[there])
        return has

    def drop(self, rows: Sequence[int]) -> None:
        """Forget documents."""
        self._untag(rows)
        for row in rows:
            del self.rows[self.ids[row]]
            self.ids[row] = ""
        self._free.extend(rows)
        self._leave(np.asarray(rows, np.int64))
        self._columns["alive"][rows] = False
        self._span = self._speaking = self._session_lengths = None

    def put(self, documents: Documents, rows: Sequence[int], hashes: NDArray[np.int64]) -> None:
        """Keep these documents in the rows that `plan` gave, all of them different. `hashes`: of their texts."""
        self._grow(max(rows, default=0) + 1)
        for row, id_ in zip(rows, documents.id, strict=True):
            self.ids[row] = id_
        self.rows.update(zip(documents.id, rows, strict=True))
        self._tag(rows, documents.tags)
        free = set(self._free).intersection(rows) if self._free else ()
        self._free = [row for row in self._free if row not in free] if free else self._free
        into, columns = np.asarray(rows, np.int64), self._columns
        self._leave(into)
        for name in ("at", "order", "score"):
            columns[name][into] = getattr(documents, name)
        columns["importance"][into] = np.clip(documents.importance, 0, 1)
        columns["success"][into] = [success is True for success in documents.success]
        columns["length"][into] = [text.count(" ") + 1 for text in documents.text]
        columns["text_hash"][into] = hashes
        columns["alive"][into] = True
        for name, codes in self.names.items():
            columns[name][into] = list(map(codes.__getitem__, getattr(documents, name)))
        self._changed.update(columns["session"][into].tolist())
        self._span = self._speaking = self._session_lengths = None
        self._forget_names()
        self._hear()

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[float, float]:
        """When the oldest document was said, and when the newest."""
        if self._span is None:
            at = self["at"][self["alive"]]
            self._span = float(at.min(initial=np.inf)), float(at.max(initial=-np.inf))
        return self._span

    @property
    def session_lengths(self) -> NDArray[np.float64]:
        """Words in each session, by its code; with code 0, those in none."""
        if self._session_lengths is None:
            codes = self.names["session"]
            words = (self["length"] * self["alive"]).astype(np.float64)
            self._session_lengths = np.bincount(self["session"], words, len(codes)).astype(np.float64)
        return self._session_lengths

    @property
    def mean_length(self) -> float:
        """Words in a document."""
        return float(self.session_lengths.sum()) / (len(self) or 1)

    def bearers(self, word: str) -> list[int]:
        """The codes of speakers with this word in their name; none if they are many: it tells none from another."""
        if word not in self._bearers:
            return []
        if self._speaking is None:
            self._speaking = np.bincount(self["speaker"], self["alive"], len(self.names["speaker"])) > 0
        codes = np.array(self._bearers[word], np.int64)
        codes = codes[self._speaking[codes]]
        return codes.tolist() if len(codes) <= _MOST_BEARERS else []

    def passing(self, query: Query) -> NDArray[np.bool_] | None:
        """Whether each row passes the query's filters; None: all documents do."""
        passes: list[NDArray[np.bool_]] = []
        for name, codes in self.names.items():
            if (wanted := getattr(query, name)) is not None:
                passes.append(self[name] == codes.get(wanted, -1))
        if query.since is not None:
            passes.append(self["at"] >= query.since)
        if query.until is not None:
            passes.append(self["at"] < query.until)
        if query.min_reward is not None:
            passes.append(self["score"] >= query.min_reward)
        if query.success_only:
            passes.append(self["success"])
        if query.tags:
            passes.append(self._marked(set[int].intersection(*map(self._bearing, query.tags))))
        if query.any_tags:
            passes.append(self._marked(set[int]().union(*map(self._bearing, query.any_tags))))
        return np.logical_and.reduce([self["alive"], *passes]) if passes else None

    def windows(self, rows: Rows) -> Rows:
        """The rows that are `REACH` before each one, and so on, to those `REACH` after it; 0: the conversation ends.

        A line for each step, which numpy reads in two thirds of the time that a line for each row takes.
        """
        self._link()
        before, after = self["before"], self["after"]
        found = np.empty((2 * REACH + 1, len(rows)), np.int64)
        found[REACH] = rows
        for step in range(REACH):
            found[REACH - step - 1] = before[found[REACH - step]]
            found[REACH + step + 1] = after[found[REACH + step]]
        return found

    @property
    def nbytes(self) -> int:
        """Bytes that all of this takes, about."""
        return sum(column.nbytes for column in self._columns.values()) + _ID_BYTES * len(self.ids)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _grow(self, least: int) -> None:
        self.ids.extend([""] * (least - len(self.ids)))
        if least > len(self._columns["at"]):
            for name, column in self._columns.items():
                grown = np.zeros(max(least, 2 * len(column)), column.dtype)
                grown[: len(column)] = column
                self._columns[name] = grown

    def _tag(self, rows: Sequence[int], tags: Sequence[tuple[str, ...]]) -> None:
        self._untag(rows)
        new = {row: some for row, some in zip(rows, tags, strict=True) if some}
        self._tags |= new
        self._new_tags.update(new)

    def _untag(self, rows: Iterable[int]) -> None:
        for row in self._tags.keys() & rows:
            tags = self._tags.pop(row)
            if row in self._new_tags:
                self._new_tags.discard(row)
                continue
            for tag in tags:
                self._tagged[tag].discard(row)
                if not self._tagged[tag]:
                    del self._tagged[tag]

    def _bearing(self, tag: str) -> set[int]:
        """The rows that have a tag."""
        while self._new_tags:
            row = self._new_tags.pop()
            for one in self._tags[row]:
                self._tagged[one].add(row)
        return self._tagged.get(tag, set())

    def _marked(self, rows: Iterable[int]) -> NDArray[np.bool_]:
        marked = np.zeros(len(self.ids), np.bool_)
        marked[list(rows)] = True
        return marked

    def _leave(self, rows: Rows) -> None:
        """The rows leave their conversations."""
        self._changed.update(self._columns["session"][rows].tolist())
        for name in ("session", "before", "after"):
            self._columns[name][rows] = 0

    def _link(self) -> None:
        """Order the conversations that changed."""
        self._changed.discard(0)
        if not self._changed:
            return
        session, at, order = self["session"], self["at"], self["order"]
        is_changed = np.zeros(len(self.names["session"]), np.bool_)
        is_changed[list(self._changed)] = True
        rows = np.flatnonzero(is_changed[session])
        rows = rows[np.lexsort((order[rows], at[rows], session[rows]))]
        same = session[rows[1:]] == session[rows[:-1]]
        if (ties := same & (at[rows[1:]] == at[rows[:-1]]) & (order[rows[1:]] == order[rows[:-1]])).any():
            rows = self._untied(rows, ties)
        before, after = self["before"], self["after"]
        before[rows[:1]] = after[rows[-1:]] = 0
        before[rows[1:]] = np.where(same, rows[:-1], 0)
        after[rows[:-1]] = np.where(same, rows[1:], 0)
        self._changed.clear()

    def _untied(self, rows: Rows, ties: NDArray[np.bool_]) -> Rows:
        """Order what was said at one instant by id, so that every process comes to the same."""
        group = np.concatenate(([0], np.cumsum(~ties)))
        tied = np.flatnonzero(np.concatenate((ties, [False])) | np.concatenate(([False], ties)))
        order = sorted(tied.tolist(), key=lambda place: (int(group[place]), *shortlex(self.ids[int(rows[place])])))
        rows[tied] = rows[order]
        return rows

    def _hear(self) -> None:
        """Take in the words of new speakers' names."""
        codes = self.names["speaker"]
        for name, code in islice(reversed(codes.items()), len(codes) - self._heard):
            parts = {word.lower() for word in words(name or "")}
            for word in parts - STOP_WORDS or parts:  # "a" is not who "Speaker A" is
                self._bearers.setdefault(word, array("q")).append(code)
        self._heard = len(codes)

    def _forget_names(self) -> None:
        """Names that no document has any more are forgotten when they are the most."""
        for name, codes in self.names.items():
            if len(codes) > 2 * len(self) + 1000:
                if name == "session":
                    self._link()
                kept = np.unique(np.append(self[name], 0))
                by_code = list(codes)
                self.names[name] = Codes({by_code[code]: number for number, code in enumerate(kept.tolist())})
                self[name][:] = np.searchsorted(kept, self[name])
                if name == "speaker":
                    self._bearers, self._heard = {}, 0


def shortlex(text: str) -> tuple[int, str]:
    """Shorter first, then alphabetical: what ends in 9 comes before what ends in 10."""
    return len(text), text
