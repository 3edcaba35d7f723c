"""Which rows hold a word: SQLite's FTS5, in memory.

Stemming is Porter's, diacritics and case do not count. What users write never becomes FTS5 syntax: a query is cut into
words of letters and digits here, and each is quoted.

FTS5 keeps only rows by word, without positions or counts (`detail=none`), as a word counts once for each text. That is
a third less to insert and to keep, and rows can be read without ranking them, which is what takes FTS5 its time.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticSerializationError, to_json

from redismem.search.database import Database

_TOKENIZER: Final = "porter unicode61 remove_diacritics 2"
_MOST_KNOWN: Final = 1_000
_MOST_LETTERS: Final = 4_000_000
_WORD: Final = re.compile(r"[^\W_]+")
_NEWEST: Final = (
    "SELECT group_concat(rowid) FROM (SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rowid DESC LIMIT ?)"
)
_ROWS: Final = "INTO texts(rowid, text) SELECT CAST(key AS INTEGER), value FROM json_each(?)"

Rows = NDArray[np.int64]
Term: TypeAlias = tuple[frozenset[str], ...]
"""What counts as one word: one form of each of these, in one text."""


def words(text: str) -> list[str]:
    """The words of a text, as written."""
    return _WORD.findall(composed(text))


def composed(text: str) -> str:
    """A text whose letters have their marks with them, as marks by themselves are no letters."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Stemmer:
    """The stems that FTS5 makes of words. Not thread-safe."""

    def __init__(self) -> None:
        self._database = Database()
        self._database.execute(f"CREATE VIRTUAL TABLE stems USING fts5(word, content='', tokenize='{_TOKENIZER}')")
        self._database.execute("CREATE VIRTUAL TABLE stemmed USING fts5vocab(stems, instance)")
        self._known: dict[str, str] = {}

    def stems(self, given: Sequence[str]) -> list[str]:
        """One stem for each word. A word that FTS5 takes for none, or for several, has the stem ''."""
        if len(self._known) + len(given) > _MOST_KNOWN:
            self._known.clear()
        if new := [word for word in dict.fromkeys(given) if word not in self._known]:
            self._known.update(zip(new, self._made(new), strict=True))
        return [self._known[word] for word in given]

    def _made(self, given: Sequence[str]) -> list[str]:
        found: list[list[str]] = [list[str]() for _ in given]
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT INTO stems(rowid, word) VALUES (?, ?)", enumerate(given))
            for row, stem in self._database.execute("SELECT doc, term FROM stemmed"):
                found[int(row)].append(str(stem))
        finally:
            self._database.execute("ROLLBACK")
        return [one[0] if len(one) == 1 else "" for one in found]

    def close(self) -> None:
        """Free its memory; forgetting it does so too."""
        self._database.close()


class Texts:
    """Texts by row number, from 1. Not thread-safe."""

    def __init__(self) -> None:
        self._database = Database()
        self._database.execute(
            f"CREATE VIRTUAL TABLE texts USING fts5(text, detail=none, columnsize=0, tokenize='{_TOKENIZER}')"
        )
        self._top = 0

    def apply(self, puts: Iterable[tuple[int, str]], drops: Iterable[int]) -> None:
        """Forget rows, then take rows in: all or nothing. Both ascending, which FTS5 merges ten times faster.

        Many rows are one statement, so that other threads go on meanwhile. To replace costs a fifth more than to
        insert, even where nothing is yet.
        """
        top = self._top
        self._database.execute("BEGIN")
        try:
            self._database.executemany("DELETE FROM texts WHERE rowid = ?", ((row,) for row in drops))
            for some in _pieces(puts):
                verb = "INSERT" if min(some) > top else "REPLACE"
                self._database.execute(f"{verb} {_ROWS}", (_storable(some),))
                top = max(top, *some)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self._top = top

    def rows(self, term: Term, most: int) -> Rows:
        """The rows that hold a term, from the highest down, so many at most."""
        match = " AND ".join("({})".format(" OR ".join(f'"{form}"' for form in forms)) for forms in term)
        ((listed,),) = self._database.execute(_NEWEST, (match, most))
        return np.fromstring(listed, np.int64, sep=",") if listed else np.empty(0, np.int64)

    def read(self, row: int) -> str:
        """The text of a row; '' where none is."""
        found = self._database.execute("SELECT text FROM texts WHERE rowid = ?", (row,))
        return str(found[0][0]) if found else ""

    @property
    def nbytes(self) -> int:
        """Bytes that the texts and their index take."""
        ((pages,),), ((size,),) = (self._database.execute(f"PRAGMA {name}") for name in ("page_count", "page_size"))
        return int(pages) * int(size)

    def close(self) -> None:
        """Free its memory; forgetting it does so too."""
        self._database.close()


def _pieces(puts: Iterable[tuple[int, str]]) -> Iterator[dict[int, str]]:
    """Rows together, as far as one parameter may be long."""
    some, letters = dict[int, str](), 0
    for row, text in puts:
        some[row] = text
        letters += len(text)
        if letters > _MOST_LETTERS:
            yield some
            some, letters = {}, 0
    if some:
        yield some


def _storable(texts: dict[int, str]) -> str:
    """As JSON. There a zero ends a text, and lone surrogates, which UTF-8 cannot hold, would keep all others out."""
    try:
        listed = to_json(texts).decode()
        if "\\u0000" not in listed:
            return listed
    except PydanticSerializationError:
        pass
    plain = {row: text.replace("\0", " ").encode("utf-8", "replace").decode() for row, text in texts.items()}
    return to_json(plain).decode()
