"""How much of the evidence is among the first ten, in dialogues written by hand, without a server.

Against bare FTS5, which ranks turns by their words alone. The bound is what context is worth on recorded conversations
of many sessions (0.70 where words alone find 0.55); the rows that ask in other words have none, since there it is the
model that finds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bench.measure import Spread
from bench.report import Bound, Result
from bench.search import bare_fts5, bare_search
from bench.setting import Bench
from redismem.search import Callable, Document, Embedder, Hashing, Query
from redismem.search.texts import words
from tests.conversations import Talk, recall
from tests.dialogues import PAIRS, dialogue

CONTEXT: Final = 0.70 / 0.55


def context(bench: Bench) -> Iterator[Result]:
    """Words with their context, and what hashing adds."""
    yield from _rows(bench, "words and context", None, CONTEXT)
    yield from _rows(bench, "words, context and Hashing", Hashing(), None)


def model(bench: Bench) -> Iterator[Result]:
    """With a small static model, which its package brings along."""
    package: Any = import_module("wordllama")
    loaded = package.WordLlama.load(cache_dir=Path(package.__file__).parent, disable_download=True)
    embedder = Callable(lambda texts: loaded.embed(list(texts), norm=True), 256, "wordllama-256")
    yield from _rows(bench, "words, context and a static model", embedder, None)


def _rows(bench: Bench, name: str, embedder: Embedder | None, bound: float | None) -> Iterator[Result]:
    for other_words in (False, True):
        dialogues = [dialogue(seed, other_words=other_words) for seed in range(bench.size(2 * len(PAIRS), quick=1))]
        ours, bare = _recall(dialogues, embedder), _bare_recall(dialogues)
        asked = "in other words" if other_words else "in words of the talk"
        yield Result(
            f"recall of the first 10, asked {asked}: {name} / bare FTS5",
            f"{ours:.3f}",
            f"{bare:.3f} (bare FTS5)",
            Spread.of([ours / bare]),
            None if bound is None or other_words else Bound(round(bound, 2), at_least=True),
        )


def _recall(dialogues: Sequence[Talk], embedder: Embedder | None) -> float:
    if embedder is None:
        return recall(dialogues)
    talks = [(_embedded(documents, embedder), questions) for documents, questions in dialogues]
    return recall(talks, asking=lambda index, text: Query(text, vector=embedder.embed([index.nameless(text)])[0]))


def _embedded(documents: list[Document], embedder: Embedder) -> list[Document]:
    vectors = embedder.embed([document.text for document in documents])
    return [replace(document, vector=vector) for document, vector in zip(documents, vectors, strict=True)]


def _bare_recall(dialogues: Sequence[Talk]) -> float:
    found = asked = 0
    for documents, questions in dialogues:
        bare = bare_fts5(documents)
        for question in questions:
            rows = bare_search(bare, [f'"{word}"' for word in words(question.text)])
            found += question.evidence in [documents[row - 1].id for (row,) in rows]
        asked += len(questions)
    return found / asked
