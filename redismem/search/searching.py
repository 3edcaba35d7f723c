"""One search of an index, in three steps.

*Reach*: the rows that hold a word of the question come from FTS5, word by word, and count as much as the word is rare;
vectors give all cosines in one product. *Choose*: the best few hundred of each, and those that stand beside them in a
conversation. *Rank*: only these are scored in full (`redismem.search.ranking`).

What a question costs is bounded: so many words, and so many rows for all of them. Of a word that is in more, the
latest rows count.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redismem.search import moments, ranking, wording
from redismem.search.columns import Columns
from redismem.search.document import Hit, Query
from redismem.search.ranking import Scores, Weights, Words
from redismem.search.texts import Rows, Stemmer, Texts
from redismem.search.vectors import Vectors

_MOST_WORDS: Final = 32
_MOST_ROWS: Final = 40_000
_CHOSEN: Final = 200
_LOOKED_INTO: Final = 100


class Search:
    """One search; nothing changes meanwhile."""

    def __init__(
        self, columns: Columns, texts: Texts, vectors: Vectors, stemmer: Stemmer, weights: Weights, query: Query
    ) -> None:
        self._columns, self._texts, self._vectors, self._stemmer = columns, texts, vectors, stemmer
        self._weights, self._query = weights, query
        self._passes = columns.passing(query)
        self._words: Words = []
        self._cosines: Scores | None = None

    def hits(self) -> list[Hit]:
        """What was found."""
        query, columns = self._query, self._columns
        lists: list[Scores] = []
        asked = wording.read(query.text, columns.speakers, self._stemmer, _MOST_WORDS)
        if asked.terms:
            self._words = self._found(asked.terms)
            lists.append(self._reached())
        if query.vector is not None and self._vectors.dimensions is not None:
            self._vectors.check(query.vector)
            lists.append(cosines := self._vectors.cosines(query.vector, len(columns.ids)))
            self._cosines = cosines
        if not lists and (query.text.strip() or query.vector is not None):
            return []  # it asks for something, but there is no word in it, or no vector here
        rows = self._chosen(lists) if lists else self._all()
        return self._ranked(rows, asked) if len(rows) else []

    # --- reach ------------------------------------------------------------------------------------------------------

    def _found(self, terms: Sequence[frozenset[str]]) -> Words:
        """The rows and the rarity of each word that is found anywhere; others tell no document from another."""
        most, count = _MOST_ROWS // len(terms), len(self._columns.ids)
        found: list[tuple[Rows, float]] = []
        for forms in terms:
            if len(rows := self._texts.rows(forms, most)):
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
            parts["turn"] = ranking.turns(self._words, windows, columns["length"], columns.mean_length, weights)
            lengths, session = columns.session_lengths, columns["session"]
            if lengths[1:].any():
                whole = ranking.sessions(self._words, session, lengths, session[rows], weights)
                parts["session"] = np.where(session[rows], whole, parts["turn"])  # who is in none is one by itself
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
            texts = map(self._texts.read, rows.tolist())
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
        found: list[tuple[float, float, str, int]] = sorted(
            (-float(scores[place]), -float(at[rows[place]]), ids[int(rows[place])], place) for place in keep.tolist()
        )
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
