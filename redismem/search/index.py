"""The index of one scope: it takes in documents and forgets them, and finds the best ones for a query.

Thread-safe: one call at a time, but `load` goes on beside `load_texts`. A forked process must make an index of its
own.
"""

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from redismem.search.columns import Columns
from redismem.search.document import Document, Hit, Query
from redismem.search.documents import Documents
from redismem.search.ranking import Weights
from redismem.search.searching import Search
from redismem.search.texts import Stemmer, Texts
from redismem.search.vectors import Vectors

Hashes: TypeAlias = NDArray[np.int64]


class Index:
    """Documents that can be searched. `weights` say what counts how much."""

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights or Weights()
        self._loading = threading.RLock()
        self._lock = threading.Lock()
        self._columns = Columns()
        self._texts = Texts()
        self._vectors = Vectors()
        self._stemmer = Stemmer()
        self._waiting: dict[int, str] = {}
        self._letters = 0

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes, about."""
        with self._alone():
            return self._texts.nbytes + self._vectors.nbytes + self._columns.nbytes

    def close(self) -> None:
        """Free the memory. Nothing else may be called any more."""
        with self._alone():
            self._texts.close()
            self._stemmer.close()
            self._columns, self._vectors = Columns(), Vectors()

    def apply(self, upserts: Documents | Iterable[Document], deletes: Iterable[str]) -> None:
        """Forget documents by id, then take others in, replacing those of the same id: all of it, or nothing.

        Of several upserts with one id the last counts. Raises `TypeError` for a document that is none (see
        `Documents`), and `SchemaError` for a vector that is not finite, or not as long as the first one was.
        """
        documents = Documents.of(upserts).latest()
        with self._alone():
            self._check(documents)
            gone = set(deletes).difference(documents.id)
            dropped = sorted(row for one in gone if (row := self._columns.rows.get(one)))
            if documents or dropped:  # else what was worked out from the columns stays true
                self._apply(documents, dropped)

    def load(self, documents: Documents) -> int:
        """Take documents in as `apply` does, all but their texts; how many letters of texts wait now.

        The next call takes them in. When there are many, let that be `load_texts`, in another thread, and go on to
        load: FTS5 takes as long as all else, and leaves the interpreter to others.
        """
        documents = documents.latest()
        with self._lock:
            self._check(documents)
            rows, hashes, texts = self._planned(documents)
            self._waiting |= texts
            self._letters += sum(map(len, texts.values()))
            self._put(documents, rows, hashes)
            return self._letters

    def load_texts(self) -> None:
        """Take in the texts that wait."""
        with self._loading:
            with self._lock:
                texts, self._waiting, self._letters = self._waiting, {}, 0
            try:
                self._texts.apply(sorted(texts.items()), [])
            except BaseException:
                with self._lock:
                    self._waiting = texts | self._waiting
                raise

    def search(self, query: Query) -> list[Hit]:
        """The best documents first, `limit` at most, of at least `min_score`. Raises `SchemaError` for a bad vector."""
        with self._alone():
            if query.limit <= 0 or not len(self._columns):
                return []
            return Search(self._columns, self._texts, self._vectors, self._stemmer, self._weights, query).hits()

    @contextmanager
    def _alone(self) -> Generator[None]:
        """With all texts taken in, and nobody beside."""
        with self._loading:
            if self._waiting:
                self.load_texts()
            with self._lock:
                yield

    # --- changes ----------------------------------------------------------------------------------------------------

    def _check(self, documents: Documents) -> None:
        length = None
        for vector in documents.vector:
            if vector is not None:
                length = self._vectors.check(vector, length)

    def _apply(self, documents: Documents, dropped: list[int]) -> None:
        rows, hashes, texts = self._planned(documents)
        self._texts.apply(sorted(texts.items()), dropped)
        self._columns.drop(dropped)
        self._vectors.drop(dropped)
        self._put(documents, rows, hashes)

    def _planned(self, documents: Documents) -> tuple[list[int], Hashes, dict[int, str]]:
        """The rows of documents, the hashes of their texts, and the texts that are not there yet."""
        rows = self._columns.plan(documents.id)
        hashes = np.fromiter(map(hash, documents.text), np.int64, len(documents))
        changed = np.flatnonzero(~self._columns.has(rows, hashes)).tolist()
        return rows, hashes, {rows[place]: documents.text[place] for place in changed}

    def _put(self, documents: Documents, rows: list[int], hashes: Hashes) -> None:
        self._columns.put(documents, rows, hashes)
        self._vectors.drop(rows)
        vectors = zip(rows, documents.vector, strict=True)
        self._vectors.put({row: vector for row, vector in vectors if vector is not None})
