"""The index of one scope: it takes in documents and forgets them, and finds the best ones for a query.

A search has three steps. *Reach*: rows that hold the question's words come from FTS5 by word, and are weighed by how
rare the words are; vectors give all cosines in one product. *Choose*: the best few hundred of each, and those that stand
beside them in a conversation. *Rank*: only these are scored in full (`redismem.search.ranking`).

What a question costs is bounded: so many words, and so many rows for all of them. Of a word that is in more, the
latest rows count. Thread-safe: one call at a time. A forked process must make an index of its own.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redismem.search import moments, ranking, wording
from redismem.search.columns import Columns
from redismem.search.document import Document, Hit, Query
from redismem.search.ranking import Scores, Weights
from redismem.search.texts import Rows, Stemmer, Texts
from redismem.search.vectors import Vectors

_MOST_WORDS: Final = 32
_MOST_ROWS: Final = 40_000
_CHOSEN: Final = 200
_LOOKED_INTO: Final = 100

_Words = list[tuple[Rows, float]]


class Index:
    """Documents that can be searched. `weights` say what counts how much."""

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights or Weights()
        self._lock = threading.Lock()
        self._columns = Columns()
        self._texts = Texts()
        self._vectors = Vectors()
        self._stemmer = Stemmer()
        self._session_lengths: Scores | None = None
        self._length = 0

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes, about."""
        with self._lock:
            return self._texts.nbytes + self._vectors.nbytes + self._columns.nbytes

    def close(self) -> None:
        """Free the memory. Nothing else may be called any more."""
        with self._lock:
            self._texts.close()
            self._stemmer.close()
            self._columns, self._vectors = Columns(), Vectors()

    def apply(self, upserts: Iterable[Document], deletes: Iterable[str]) -> None:
        """Forget documents by id, then take others in, replacing those of the same id: all of it, or nothing.

        Of several upserts with one id the last counts. Raises `SchemaError` for a vector that is not finite, or not as
        long as the first one was.
        """
        with self._lock:
            documents = list({document.id: document for document in upserts}.values())
            self._check(documents)
            gone = set(deletes).difference(document.id for document in documents)
            dropped = sorted(row for one in gone if (row := self._columns.rows.get(one)))
            self._apply(documents, dropped)

    def search(self, query: Query) -> list[Hit]:
        """The best documents first, `limit` at most, of at least `min_score`. Raises `SchemaError` for a bad vector."""
        with self._lock:
            if query.limit <= 0 or not len(self._columns):
                return []
            return _Search(self, query).hits()

    # --- changes ----------------------------------------------------------------------------------------------------

    def _check(self, documents: Iterable[Document]) -> None:
        length = None
        for document in documents:
            if document.vector is not None:
                length = self._vectors.check(document.vector, length)

    def _apply(self, documents: list[Document], dropped: list[int]) -> None:
        columns = self._columns
        rows = columns.plan(documents)
        hashes = [hash(document.text) for document in documents]
        known, top = columns["text_hash"], len(columns.ids)
        is_there = columns["alive"]
        held = [row < top and bool(is_there[row]) for row in rows]
        changed = [
            place for place, row in enumerate(rows) if not held[place] or known[row] != hashes[place]
        ]
        puts = sorted((rows[place], documents[place].text) for place in changed)
        stale = sorted([*dropped, *(rows[place] for place in changed if held[place])])
        self._texts.apply(puts, stale)
        self._length -= int(columns["length"][dropped].sum() + columns["length"][_where(rows, held)].sum())
        columns.drop(dropped)
        columns.put(documents, rows, hashes)
        self._length += int(columns["length"][rows].sum())
        having = [place for place, document in enumerate(documents) if document.vector is not None]
        self._vectors.drop([*dropped, *rows])
        self._vectors.put([rows[place] for place in having], [documents[place].vector for place in having])
        self._session_lengths = None

    # --- for `_Search` ----------------------------------------------------------------------------------------------

    def _lengths_of_sessions(self) -> Scores:
        if self._session_lengths is None:
            columns = self._columns
            self._session_lengths = np.bincount(
                columns["session"], columns["length"] * columns["alive"], len(columns.names["session"])
            )
        return self._session_lengths


def _where(rows: Sequence[int], held: Sequence[bool]) -> list[int]:
    return [row for row, is_held in zip(rows, held, strict=True) if is_held]


class _Search:
    """One search of an index whose lock is held."""

    def __init__(self, index: Index, query: Query) -> None:
        self._index, self._query = index, query
        self._columns, self._weights = index._columns, index._weights
        self._passes = self._columns.passing(query)
        self._words: _Words = []
        self._cosines: Scores | None = None

    def hits(self) -> list[Hit]:
        """What was found."""
        query, columns = self._query, self._columns
        lists: list[Scores] = []
        asked = wording.read(query.text, columns.speakers(), self._index._stemmer, _MOST_WORDS)
        if asked.terms:
            self._words = self._found(asked.terms)
            lists.append(self._reached())
        if query.vector is not None:
            self._index._vectors.check(query.vector)
            self._cosines = self._index._vectors.cosines(query.vector, len(columns.ids))
            lists.append(self._cosines)
        if not lists and query.text.strip():
            return []  # it asks for something, but there is no word in it
        rows = self._chosen(lists) if lists else self._all()
        return self._ranked(rows, asked) if len(rows) else []

    # --- reach ------------------------------------------------------------------------------------------------------

    def _found(self, terms: Sequence[frozenset[str]]) -> _Words:
        """The rows and the rarity of each word that is found anywhere; others tell no document from another."""
        most, count = _MOST_ROWS // len(terms), len(self._columns.ids)
        found: _Words = []
        for forms in terms:
            if len(rows := self._index._texts.rows(forms, most)):
                # those that were not read are taken to be as frequent as those that were
                share = 1.0 if len(rows) < most else count / (count - int(rows[-1]))
                found.append((rows, ranking.rarity(len(self._columns), len(rows) * share)))
        return found

    def _reached(self) -> Scores:
        scores = np.zeros(len(self._columns.ids))
        for rows, weight in self._words:
            scores[rows] += weight
        return scores

    # --- choose -----------------------------------------------------------------------------------------------------

    def _chosen(self, lists: Iterable[Scores]) -> Rows:
        """The best of each list, with their neighbours; of those that pass the filters the best as well."""
        most = max(_CHOSEN, 4 * self._query.limit)
        chosen = [_best(scores, most) for scores in lists]
        around = self._columns.windows(np.concatenate(chosen)).ravel()
        if self._passes is None:
            return _different(around, len(self._columns.ids))
        chosen = [_best(np.where(self._passes, scores, 0), most) for scores in lists]
        around = np.concatenate((around[self._passes[around]], *chosen))
        return _different(around, len(self._columns.ids))

    def _all(self) -> Rows:
        return np.flatnonzero(self._columns["alive"] if self._passes is None else self._passes)

    # --- rank -------------------------------------------------------------------------------------------------------

    def _ranked(self, rows: Rows, asked: wording.Wording) -> list[Hit]:
        parts = self._parts(rows)
        if parts and asked.expected is not None:
            # texts are read only of those that are good already
            first = ranking.together(parts, {}, self._weights, len(rows))
            kept = _best(first, max(_LOOKED_INTO, 2 * self._query.limit))
            rows, parts = rows[kept], {name: part[kept] for name, part in parts.items()}
        lifts = self._lifts(rows, asked)
        scores = ranking.together(parts, lifts, self._weights, len(rows))
        return self._listed(rows, scores, parts | lifts)

    def _parts(self, rows: Rows) -> dict[str, Scores]:
        columns, weights, parts = self._columns, self._weights, dict[str, Scores]()
        if not self._words and self._cosines is None:
            return parts
        windows = columns.windows(rows)
        if self._words:
            mean = self._index._length / len(columns)
            parts["turn"] = ranking.turns(self._words, windows, columns["length"], mean, weights)
            if weights.session and len(columns.names["session"]) > 1:
                lengths, session = self._index._lengths_of_sessions(), columns["session"]
                parts["session"] = ranking.sessions(self._words, session, lengths, session[rows], weights)
        if self._cosines is not None:
            parts["vector"] = ranking.in_context(self._cosines, windows, weights)
        if "vector" in parts and "turn" in parts:
            parts["fusion"] = ranking.fusion([parts["turn"], parts["vector"]], weights)
        return parts

    def _lifts(self, rows: Rows, asked: wording.Wording) -> dict[str, Scores]:
        columns, query, lifts = self._columns, self._query, dict[str, Scores]()
        at = columns["at"][rows]
        now = columns.span[1] if query.now is None else query.now
        if asked.speakers:
            named = [columns.names["speaker"][name] for name in asked.speakers]
            lifts["speaker"] = np.isin(columns["speaker"][rows], named).astype(np.float64)
        if query.text and (intervals := moments.mentioned(query.text, now, columns.span[0])):
            lifts["time"] = ranking.in_time(at, intervals)
        if asked.expected is not None and (self._words or self._cosines is not None):
            texts = map(self._index._texts.read, rows.tolist())
            lifts["answer"] = np.array([float(asked.expected.search(text) is not None) for text in texts])
        lifts["recency"] = ranking.recency(at, now, self._weights)
        lifts["importance"] = np.clip(columns["importance"][rows].astype(np.float64), 0, 1)
        return lifts

    def _listed(self, rows: Rows, scores: Scores, parts: dict[str, Scores]) -> list[Hit]:
        """The best, as hits; of those with one score the newest first, and then by id."""
        ids, at, query = self._columns.ids, self._columns["at"], self._query
        keep = np.flatnonzero(scores >= query.min_score)
        if self._words or self._cosines is not None:
            keep = keep[scores[keep] > 0]
        if len(keep) > query.limit:
            least = np.partition(scores[keep], len(keep) - query.limit)[len(keep) - query.limit]
            keep = keep[scores[keep] >= least]
        found = sorted((-float(scores[place]), -float(at[rows[place]]), ids[rows[place]], int(place)) for place in keep)
        return [
            Hit(one, -score, {name: float(part[place]) for name, part in parts.items()})
            for score, _, one, place in found[: query.limit]
        ]


def _best(scores: NDArray[Any], most: int) -> Rows:
    """The places of the highest scores above zero."""
    places = np.flatnonzero(scores > 0)
    if len(places) <= most:
        return places
    return places[np.argpartition(scores[places], len(places) - most)[len(places) - most :]]


def _different(rows: Rows, count: int) -> Rows:
    """Each row once, without row 0."""
    is_there = np.zeros(count, np.bool_)
    is_there[rows] = True
    is_there[0] = False
    return np.flatnonzero(is_there)
