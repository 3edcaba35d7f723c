"""The local index against bare FTS5 and bare numpy, on the same 100,000 documents of one scope, without a server."""

import random
import sqlite3
import time
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, cycle
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.measure import Race, Side, each, race
from bench.report import Bound, Result
from bench.setting import Bench
from redismem.search import Document, Index, Query

COUNT: Final = 100_000
QUICK: Final = 300
DIMENSIONS: Final = 384
TOKENIZER: Final = "porter unicode61 remove_diacritics 2"
LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"


@cache
def words() -> list[str]:
    """The most frequent first."""
    draw = random.Random(0)
    return ["".join(draw.choices(LETTERS, range(26, 0, -1), k=draw.randint(3, 10))) for _ in range(20_000)]


@cache
def documents(count: int, dimensions: int = 0) -> list[Document]:
    """Turns of 10 to 40 words, as frequent as in a language, in sessions of 50."""
    draw, numbers = random.Random(1), np.random.default_rng(1)
    frequency = list(accumulate(1 / (rank + 5) for rank in range(len(words()))))
    vectors = numbers.standard_normal((count, dimensions), np.float32) if dimensions else [None] * count
    return [
        Document(
            f"episode:{number}",
            " ".join(draw.choices(words(), cum_weights=frequency, k=draw.randint(10, 40))),
            1.7e9 + number,
            f"session:{number // 50}",
            ("user", "assistant")[number % 2],
            importance=0.5,
            vector=vectors[number],
        )
        for number in range(count)
    ]


def text(bench: Bench) -> Iterator[Result]:
    """Questions of four words, from very frequent words to rare ones."""
    chosen = documents(bench.size(COUNT, QUICK))
    index, bare = filled(chosen), bare_fts5(chosen)
    draw = random.Random(2)
    for name, low, high in (("common", 5, 50), ("medium", 50, 500), ("rare", 500, 5_000)):
        asked = [draw.sample(words()[low:high], 4) for _ in range(50)]
        result = race(
            each("redismem", lambda query: index.search(Query(" ".join(query))), cycle(asked), 5),
            [each("bare FTS5", lambda query: bare_search(bare, query), cycle(asked), 5)],
            bench.size(40),
        )
        yield cost(f"text search, 4 {name} words, {len(chosen):,} documents / bare FTS5", result, 1.5)
    asked = [words()[:5]]
    result = race(
        each("redismem", lambda query: index.search(Query(" ".join(query))), cycle(asked), 1),
        [each("bare FTS5", lambda query: bare_search(bare, query), cycle(asked), 1)],
        bench.size(20),
    )
    yield cost("text search, the 5 most frequent words only / bare FTS5", result, 1.5)


def vectors(bench: Bench) -> Iterator[Result]:
    """Exact nearest neighbours by vector alone."""
    chosen = documents(bench.size(COUNT, QUICK), DIMENSIONS)
    index = filled(chosen)
    matrix: NDArray[np.float32] = np.array([document.vector for document in chosen])
    supply = cycle(np.random.default_rng(3).standard_normal((50, DIMENSIONS), np.float32))
    result = race(
        each("redismem", lambda vector: index.search(Query(vector=vector)), supply, 5),
        [each("numpy", lambda vector: np.argpartition(matrix @ vector, -10)[-10:], supply, 5)],
        bench.size(40),
    )
    yield cost(f"vector search, {DIMENSIONS} dimensions, {len(chosen):,} documents / bare numpy", result, 1.3)


def changes(bench: Bench) -> Iterator[Result]:
    """A hundred new documents into a full index, and a hundred changed ones."""
    chosen = documents(bench.size(COUNT, QUICK))
    index, bare = filled(chosen), bare_fts5(chosen)
    numbers, draw = iter(range(len(chosen) + 1, 10**9)), random.Random(4)

    def added() -> float:
        new = [Document(f"new:{next(numbers)}", one.text, one.at, one.session) for one in draw.sample(chosen, 100)]
        return timed(lambda: index.apply(new, []))

    def replaced() -> float:
        new = [Document(one.id, one.text + " again", one.at, one.session) for one in draw.sample(chosen, 100)]
        return timed(lambda: index.apply(new, []))

    def inserted() -> float:
        new = [(next(numbers), one.text) for one in draw.sample(chosen, 100)]
        return timed(lambda: insert(bare, new))

    for name, side in (("new", added), ("changed", replaced)):
        result = race(Side("redismem", side), [Side("bare FTS5, new rows", inserted)], bench.size(60))
        yield cost(f"100 {name} documents into {len(chosen):,} / bare FTS5, new rows", result, None)


def load(bench: Bench) -> Iterator[Result]:
    """Everything, page by page, as a replica reads it."""
    chosen = documents(bench.size(COUNT, QUICK))
    rows = [(row, document.text) for row, document in enumerate(chosen, 1)]
    result = race(
        Side("redismem", lambda: timed(lambda: filled(chosen))),
        [Side("bare FTS5", lambda: timed(lambda: insert(bare_fts5([]), rows)))],
        bench.size(5),
    )
    yield cost(f"index {len(chosen):,} documents / insert into bare FTS5", result, None)


def filled(chosen: list[Document], page: int = 1_000) -> Index:
    """An index of these."""
    index = Index()
    for start in range(0, len(chosen), page):
        index.apply(chosen[start : start + page], [])
    index.search(Query(chosen[0].text))
    return index


def bare_fts5(chosen: list[Document]) -> sqlite3.Connection:
    """The same rows without redismem."""
    bare = sqlite3.connect(":memory:", isolation_level=None)
    bare.execute(f"CREATE VIRTUAL TABLE t USING fts5(text, tokenize='{TOKENIZER}')")
    insert(bare, [(row, document.text) for row, document in enumerate(chosen, 1)])
    return bare


def insert(bare: sqlite3.Connection, rows: list[tuple[int, str]]) -> None:
    bare.execute("BEGIN")
    bare.executemany("INSERT INTO t(rowid, text) VALUES (?, ?)", rows)
    bare.execute("COMMIT")


def bare_search(bare: sqlite3.Connection, query: list[str]) -> list[Any]:
    match = " OR ".join(query)
    return bare.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10", (match,)).fetchall()


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cost(measure: str, result: Race, limit: float | None) -> Result:
    """A row of times, where less is better."""
    bound = None if limit is None else Bound(limit, at_least=False)
    ours, theirs = (f"{seconds * 1e3:.3g} ms" for seconds in (result.ours, result.theirs))
    return Result(measure, ours, f"{theirs} ({result.peer})", result.cost_ratio, bound)
