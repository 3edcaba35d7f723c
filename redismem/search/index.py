"""The index of one scope: it takes in documents and forgets them, and finds the best ones for a query.

Thread-safe: one call at a time, but `load` goes on beside `load_waiting`. A forked process must make an index of its
own.
"""

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from redismem.search import wording
from redismem.search.columns import Columns
from redismem.search.document import Document, Hit, Query, Vector
from redismem.search.documents import Documents
from redismem.search.ranking import Weights
from redismem.search.searching import Search
from redismem.search.texts import Stemmer, Texts
from redismem.search.vectors import Vectors

Hashes: TypeAlias = NDArray[np.int64]


@dataclass
class Waiting:
    """What is still to be taken in, by row; `size` is about how many bytes."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    vectors: dict[int, Vector | None] = field(default_factory=dict[int, Vector | None])
    size: int = 0


class Index:
    """Documents that can be searched. `weights` say what counts how much."""

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights or Weights()
        self._loading = threading.RLock()
        self._lock = threading.RLock()
        self._columns = Columns()
        self._texts = Texts()
        self._vectors = Vectors()
        self._stemmer = Stemmer()
        self._waiting = Waiting()

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes, about."""
        with self._alone():
            return self._texts.nbytes + self._vectors.nbytes + self._columns.nbytes

    def close(self) -> None:
        """Free the memory. Nothing else may be called any more."""
        with self._loading, self._lock:
            self._texts.close()
            self._stemmer.close()
            self._columns, self._vectors, self._waiting = Columns(), Vectors(), Waiting()

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
        """Take documents in as `apply` does, all but their texts and vectors; how many bytes wait now, about.

        The next call takes them in. When there are many, let that be `load_waiting`, in another thread, and go on to
        load: FTS5 takes as long as all else, and leaves the interpreter to others.
        """
        documents = documents.latest()
        with self._lock:
            self._vectors.dimensions = self._check(documents) or self._vectors.dimensions
            rows, hashes, texts = self._planned(documents)
            self._columns.put(documents, rows, hashes)
            self._waiting.texts |= texts
            self._waiting.size += sum(map(len, texts.values()))
            if dimensions := self._vectors.dimensions:
                self._waiting.vectors.update(zip(rows, documents.vector, strict=True))
                self._waiting.size += len(rows) * dimensions * 4
            return self._waiting.size

    def load_waiting(self) -> None:
        """Take in the texts and vectors that wait."""
        with self._loading:
            with self._lock:
                waiting, self._waiting = self._waiting, Waiting()
            self._take_in(waiting)

    def nameless(self, question: str) -> str:
        """A question as an embedder is to see it: without the names of those who speak in these documents."""
        with self._alone():
            return wording.nameless(question, self._columns.bearers)

    def search(self, query: Query) -> list[Hit]:
        """The best documents first, `limit` at most, of at least `min_score`. Raises `SchemaError` for a bad vector."""
        with self._alone():
            if query.limit <= 0 or not len(self._columns):
                return []
            return Search(self._columns, self._texts, self._vectors, self._stemmer, self._weights, query).hits()

    @contextmanager
    def _alone(self) -> Generator[None]:
        """With all that waited taken in, and nobody beside."""
        with self._loading, self._lock:
            if self._waiting.texts or self._waiting.vectors:
                waiting, self._waiting = self._waiting, Waiting()
                self._take_in(waiting)
            yield

    def _take_in(self, waiting: Waiting) -> None:
        try:
            self._texts.apply(sorted(waiting.texts.items()), [])
            self._vectors.replace(waiting.vectors)
        except BaseException:
            with self._lock:
                self._waiting.texts = waiting.texts | self._waiting.texts
                self._waiting.vectors = waiting.vectors | self._waiting.vectors
            raise

    # --- changes ----------------------------------------------------------------------------------------------------

    def _check(self, documents: Documents) -> int | None:
        """How long vectors are, as far as these tell."""
        length = None
        for vector in documents.vector:
            if vector is not None:
                length = self._vectors.check(vector, length)
        return length

    def _apply(self, documents: Documents, dropped: list[int]) -> None:
        rows, hashes, texts = self._planned(documents)
        self._texts.apply(sorted(texts.items()), dropped)
        self._columns.drop(dropped)
        self._columns.put(documents, rows, hashes)
        self._vectors.drop(dropped)
        self._vectors.replace(dict(zip(rows, documents.vector, strict=True)))

    def _planned(self, documents: Documents) -> tuple[list[int], Hashes, dict[int, str]]:
        """The rows of documents, the hashes of their texts, and the texts that are not there yet."""
        rows = self._columns.plan(documents.id)
        hashes = np.fromiter(map(hash, documents.text), np.int64, len(documents))
        changed = np.flatnonzero(~self._columns.has(rows, hashes)).tolist()
        return rows, hashes, {rows[place]: documents.text[place] for place in changed}
