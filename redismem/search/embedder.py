"""Texts to vectors. The default needs no model: it hashes words and parts of words, the same in every process.

Any model is an `Embedder`: `Callable` takes a function, `SentenceTransformers` a model of that library.
"""

import importlib
import inspect
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable as Function
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from redismem.errors import ConfigError, SchemaError
from redismem.search.texts import words

Matrix: TypeAlias = NDArray[np.float32]

_NGRAM: Final = 4
_NGRAM_WEIGHT: Final = 0.3


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors of texts. Vectors of different `name` are not comparable: it says model and version."""

    @property
    def name(self) -> str:
        """Which model this is."""
        ...

    @property
    def dimensions(self) -> int:
        """How long its vectors are."""
        ...

    def embed(self, texts: Sequence[str]) -> Matrix:
        """One row for each text. May be slow, and may be called from any thread."""
        ...


class Hashing:
    """Words and their parts of four letters, hashed to signed places: what is spelled alike is alike.

    It knows no meaning. Case and diacritics do not count, and a word counts less the oftener it is in the text.
    """

    def __init__(self, dimensions: int = 256) -> None:
        if dimensions < 1:
            raise ConfigError(f"dimensions must be at least 1, not {dimensions}")
        self.dimensions = dimensions
        self.name = f"hashing-1-{dimensions}"

    def embed(self, texts: Sequence[str]) -> Matrix:
        """One row of length 1 for each text; zero where there is no word."""
        matrix = np.zeros((len(texts), self.dimensions), np.float32)
        for number, text in enumerate(texts):
            row = matrix[number]
            for feature, count in Counter(_features(text)).items():
                place = zlib.crc32(feature.encode("utf-8", "replace"))
                weight = _NGRAM_WEIGHT if feature[0] == "#" else 1.0
                row[place % self.dimensions] += (1 if place & 0x80000000 else -1) * weight * (1 + np.log(count))
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        return np.asarray(matrix / np.where(lengths, lengths, 1), np.float32)


class Callable:
    """A function from texts to rows of numbers, as an embedder."""

    def __init__(self, function: Function[[Sequence[str]], ArrayLike], dimensions: int, name: str) -> None:
        if _is_asynchronous(function):
            raise ConfigError(f"embedder {name}: give a plain function; it is called in a thread of its own")
        self._function = function
        self.dimensions = dimensions
        self.name = name

    def embed(self, texts: Sequence[str]) -> Matrix:
        """What the function gives. Raises `SchemaError` if that is not a row of `dimensions` numbers for each text."""
        made: Any = self._function(texts) if texts else np.empty((0, self.dimensions))
        matrix = numbers(made, self.name)
        if matrix.shape != (len(texts), self.dimensions):
            raise SchemaError(
                f"embedder {self.name}: {len(texts)} texts gave {matrix.shape}, not {(len(texts), self.dimensions)}"
            )
        return matrix


class SentenceTransformers(Callable):
    """A model of the library sentence-transformers: its name or path, or one that is loaded already."""

    def __init__(self, model: Any = "all-MiniLM-L6-v2") -> None:
        loaded = _loaded(model) if isinstance(model, str) else model
        name = model if isinstance(model, str) else type(model).__name__
        super().__init__(loaded.encode, np.shape(loaded.encode(["how long?"]))[1], f"sentence-transformers-{name}")


def embedder_of(value: Any) -> Any:
    """The embedder that a name stands for: ``hashing``, or ``sentence-transformers:<model>``; others as they are.

    Raises `ConfigError` for a name that stands for none, or for what is not installed.
    """
    match value:
        case "hashing":
            return Hashing()
        case str() if value.startswith("sentence-transformers:"):
            return SentenceTransformers(value.partition(":")[2])
        case str():
            raise ConfigError(f"embedder {value!r}: 'hashing' or 'sentence-transformers:<model>', or an Embedder")
        case _ if _is_asynchronous(getattr(value, "embed", None)):
            raise ConfigError(
                f"embedder {value!r}: embed must be a plain function; it is called in a thread of its own"
            )
        case _:
            return value


def numbers(made: Any, name: str) -> Matrix:
    """What an embedder gave. Raises `SchemaError` if that is no array of numbers, such as what is to be awaited."""
    if inspect.iscoroutine(made):
        made.close()
    try:
        return np.asarray(made, np.float32)
    except (TypeError, ValueError):
        raise SchemaError(f"embedder {name}: it must give rows of numbers, not a {type(made).__name__}") from None


def _is_asynchronous(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _loaded(name: str) -> Any:
    try:
        library: Any = importlib.import_module("sentence_transformers")
    except ImportError:
        raise ConfigError("this embedder needs the package sentence-transformers, which is not installed") from None
    return library.SentenceTransformer(name)


def _features(text: str) -> Iterator[str]:
    """Words as they are, and their parts marked with #, which no word has."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(letter)
    )
    for word in words(plain):
        yield word
        padded = f"_{word}_"
        for start in range(max(1, len(padded) - _NGRAM + 1)):
            yield f"#{padded[start : start + _NGRAM]}"
