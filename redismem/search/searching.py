"""One search of an index, in three steps.

*Reach*: the rows that hold a word of the question come from FTS5, word by word, and count as much as the word is rare;
vectors give all cosines in one product. *Choose*: the best few hundred of each, and those that stand beside them in a
conversation. *Rank*: only these are scored in full (`redismem.search.ranking`).

What a question costs is bounded: so many letters, so many words, and without a filter so many rows for all of them,
which rare words are given first. Of a word that is in more rows than are left for it, those with the highest numbers
count. Up to a limit of `_CHOSEN`, what is looked at does not depend on the limit, so the first ten of a hundred are
those of a limit of ten.
"""

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from redismem.search import moments, ranking, wording
from redismem.search.columns import Columns
from redismem.search.document import Hit, Query
from redismem.search.ranking import Scores, Weights, Words
from redismem.search.texts import Rows, Stemmer, Term, Texts
from redismem.search.vectors import Vectors

_MOST_LETTERS: Final = 4_000
_MOST_WORDS: Final = 32
_MOST_ROWS: Final = 200_000
_CHOSEN: Final = 200
_LOOKED_INTO: Final = 100
_MEANT: Final = 0.5
"""How relevant is what somebody said, or what was said at some time, when nothing else of a question is known."""

_Key: TypeAlias = Callable[[Rows], NDArray[Any]]
"""What places in a list are ordered by, the highest first."""


class Search:
    """One search; nothing changes meanwhile."""

    def __init__(
        self, columns: Columns, texts: Texts, vectors: Vectors, stemmer: Stemmer, weights: Weights, query: Query
    ) -> None:
        self._columns, self._texts, self._vectors = columns, texts, vectors
        self._weights, self._query = weights, query
        self._passes = columns.passing(query)
        self._words: Words = []
        self._cosines: Scores | None = None
        oldest, newest = columns.span
        self._now = newest if query.now is None else query.now
        told, rest = moments.mentioned(query.text[:_MOST_LETTERS], self._now, oldest)
        self._intervals = [interval for moment in told for interval in moment.intervals]
        # what was said then says "yesterday", or nothing; of another time it can only be found by its words
        then = [one.said for one in told if any(start <= newest and end > oldest for start, end in one.intervals)]
        other = [one.said for one in told if one.said not in then]
        self._asked = wording.read(" ".join((rest, *other)), then, columns.bearers, stemmer, _MOST_WORDS)

    def hits(self) -> list[Hit]:
        """What was found."""
        query = self._query
        lists: list[Scores] = []
        if self._asked.terms:
            self._words = self._found(self._asked.terms)
            lists.append(self._reached())
        if query.vector is not None and self._vectors.dimensions is not None:
            self._vectors.check(query.vector)
            lists.append(cosines := self._vectors.cosines(query.vector, len(self._columns.ids)))
            self._cosines = cosines
        rows = self._chosen(lists) if lists else self._all()
        if not self._words and self._cosines is None and (query.text.strip() or query.vector is not None):
            rows = self._meant()
        return self._ranked(rows) if len(rows) else []

    # --- reach ------------------------------------------------------------------------------------------------------

    def _found(self, terms: Sequence[Term]) -> Words:
        """The rows and the rarity of each word that is found anywhere; others tell no document from another."""
        count, documents = len(self._columns.ids), len(self._columns)
        found: list[tuple[Rows, float]] = []
        for rows, most in self._postings(terms):
            if len(rows):
                # those that were not read are taken to be as frequent as those that were
                share = 1.0 if len(rows) < most else count / (count - int(rows[-1]))
                found.append((rows, ranking.rarity(documents, len(rows) * share)))
        return found

    def _postings(self, terms: Sequence[Term]) -> Iterator[tuple[Rows, int]]:
        """The rows of each word, and how many could be read: as many as there are if a filter leaves out most of them.

        Without a filter each word has the same share, and what rare ones leave goes to the others.
        """
        if self._passes is not None:
            most = len(self._columns.ids)
            yield from ((self._texts.rows(term, most), most) for term in terms)
            return
        share = _MOST_ROWS // len(terms)
        first = [self._texts.rows(term, share) for term in terms]
        cut = sum(len(rows) >= share for rows in first)
        more = share + sum(share - len(rows) for rows in first) // max(cut, 1)
        for term, rows in zip(terms, first, strict=True):
            is_cut = len(rows) >= share
            yield (self._texts.rows(term, more), more) if is_cut and more > share else (rows, share)

    def _reached(self) -> Scores:
        scores = np.zeros(len(self._columns.ids))
        for rows, weight in self._words:
            scores[rows] += weight
        return scores

    # --- choose -----------------------------------------------------------------------------------------------------

    def _chosen(self, lists: Iterable[Scores]) -> Rows:
        """The best of each list, with their neighbours; of those that pass the filters the best as well."""
        chosen = [self._highest(scores) for scores in lists]
        around = self._columns.windows(np.concatenate(chosen)).ravel()
        if self._passes is None:
            return _different(around, len(self._columns.ids))
        chosen = [self._highest(np.where(self._passes, scores, 0)) for scores in lists]
        around = np.concatenate((around[self._passes[around]], *chosen))
        return _different(around, len(self._columns.ids))

    def _highest(self, scores: Scores) -> Rows:
        """The rows with the highest scores above zero; of equals those that the lifts will put first."""

        def lifted(places: Rows) -> Scores:
            return ranking.together({}, self._lifts(rows[places]), self._weights, len(places))

        rows = np.flatnonzero(scores > 0)
        return rows[self._best(rows, max(_CHOSEN, self._query.limit), scores[rows].__getitem__, lifted)]

    def _best(self, rows: Rows, most: int, *keys: _Key) -> Rows:
        """The places of so many rows: by the first key, of equals by the next one, then the newest, then by id."""

        def newest(places: Rows) -> Scores:
            return self._columns["at"][rows[places]]

        def identity(place: int) -> str:
            return self._columns.ids[int(rows[place])]

        places, best = np.arange(len(rows)), list[Rows]()
        for key in (*keys, newest):
            if len(places) <= most:
                break
            values = key(places)
            least = np.partition(values, len(values) - most)[len(values) - most]
            best.append(places[values > least])
            places, most = places[values == least], most - len(best[-1])
        if len(places) > most:
            places = np.array(heapq.nsmallest(most, places.tolist(), identity), np.int64)
        return np.concatenate((*best, places))

    def _meant(self) -> Rows:
        """What a question means of which no word is here: what somebody said, or what was said at some time."""
        rows, speakers = self._all(), self._asked.speakers
        if not (speakers or self._intervals):
            return rows[:0]
        if speakers:
            rows = rows[np.isin(self._columns["speaker"][rows], list(speakers))]
        if self._intervals:
            rows = rows[ranking.in_time(self._columns["at"][rows], self._intervals) == 1]
        return rows

    def _all(self) -> Rows:
        return np.flatnonzero(self._columns["alive"] if self._passes is None else self._passes)

    # --- rank -------------------------------------------------------------------------------------------------------

    def _ranked(self, rows: Rows) -> list[Hit]:
        parts, lifts = self._parts(rows), self._lifts(rows)
        scores = ranking.together(parts, lifts, self._weights, len(rows))
        if parts and self._asked.expected is not None:
            lifts["answer"] = self._answers(rows, scores, self._asked.expected)
            scores = ranking.together(parts, lifts, self._weights, len(rows))
        return self._listed(rows, scores, parts | lifts)

    def _parts(self, rows: Rows) -> dict[str, Scores]:
        columns, weights, parts = self._columns, self._weights, dict[str, Scores]()
        if not self._words and self._cosines is None:
            return {"turn": np.full(len(rows), _MEANT)} if self._query.text.strip() else parts
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

    def _lifts(self, rows: Rows) -> dict[str, Scores]:
        """What can be said of many rows."""
        columns, lifts = self._columns, dict[str, Scores]()
        at = columns["at"][rows]
        if self._asked.speakers:
            lifts["speaker"] = np.isin(columns["speaker"][rows], list(self._asked.speakers)).astype(np.float64)
        if self._intervals:
            lifts["time"] = ranking.in_time(at, self._intervals)
        lifts["recency"] = ranking.recency(at, self._now, self._weights)
        lifts["importance"] = columns["importance"][rows].astype(np.float64)
        return lifts

    def _answers(self, rows: Rows, scores: Scores, expected: re.Pattern[str]) -> Scores:
        """Which texts have what the question asks for. Only the beginnings of the best ones are read."""
        found = np.zeros(len(rows))
        for place in self._best(rows, _LOOKED_INTO, scores.__getitem__).tolist():
            found[place] = expected.search(self._texts.read(int(rows[place])), 0, _MOST_LETTERS) is not None
        return found

    def _listed(self, rows: Rows, scores: Scores, parts: dict[str, Scores]) -> list[Hit]:
        """The best, as hits; of those with one score the newest first, and then by id."""
        keep = scores >= self._query.min_score
        if self._words or self._cosines is not None:
            keep &= scores > 0
        kept = np.flatnonzero(keep)
        best = kept[self._best(rows[kept], self._query.limit, scores[kept].__getitem__)]
        found: list[int] = rows[best].tolist()
        ids, age = [self._columns.ids[row] for row in found], -self._columns["at"][found]
        made = zip(*(part[best].tolist() for part in parts.values()), strict=True)
        ranked = sorted(zip((-scores[best]).tolist(), age.tolist(), ids, made, strict=True))
        return [Hit(id_, -score, dict(zip(parts, values, strict=True))) for score, _, id_, values in ranked]


def _different(rows: Rows, count: int) -> Rows:
    """Each row once, without row 0."""
    is_there = np.zeros(count, np.bool_)
    is_there[rows] = True
    is_there[0] = False
    return np.flatnonzero(is_there)
