"""The index of one scope: it takes in documents and forgets them, and finds the best ones for a query.

Thread-safe: one call at a time. A forked process must make an index of its own.
"""

import threading
from collections.abc import Iterable

from redismem.search.columns import Columns
from redismem.search.document import Document, Hit, Query
from redismem.search.ranking import Weights
from redismem.search.searching import Search
from redismem.search.texts import Stemmer, Texts
from redismem.search.vectors import Vectors


class Index:
    """Documents that can be searched. `weights` say what counts how much."""

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights or Weights()
        self._lock = threading.Lock()
        self._columns = Columns()
        self._texts = Texts()
        self._vectors = Vectors()
        self._stemmer = Stemmer()

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
            if documents or dropped:  # else what was worked out from the columns stays true
                self._apply(documents, dropped)

    def search(self, query: Query) -> list[Hit]:
        """The best documents first, `limit` at most, of at least `min_score`. Raises `SchemaError` for a bad vector."""
        with self._lock:
            if query.limit <= 0 or not len(self._columns):
                return []
            return Search(self._columns, self._texts, self._vectors, self._stemmer, self._weights, query).hits()

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
        changed = [place for place, row in enumerate(rows) if not held[place] or known[row] != hashes[place]]
        puts = sorted((rows[place], documents[place].text) for place in changed)
        self._texts.apply(puts, dropped)
        columns.drop(dropped)
        columns.put(documents, rows, hashes)
        self._vectors.drop([*dropped, *rows])
        pairs = zip(rows, documents, strict=True)
        self._vectors.put({row: document.vector for row, document in pairs if document.vector is not None})
