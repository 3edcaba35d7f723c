"""Embeddings by row number: one float32 matrix of unit vectors, so that a product is the cosine.

It grows by doubling. A row without a vector is zero, and as similar to everything as to nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from redismem.errors import SchemaError

Numbers: TypeAlias = NDArray[Any] | Sequence[float]


class Vectors:
    """Unit vectors by row number, all as long as the first one. Not thread-safe."""

    def __init__(self) -> None:
        self.dimensions: int | None = None
        self._matrix = np.zeros((0, 0), np.float32)

    def check(self, vector: Numbers, length: int | None = None) -> int:
        """A vector's length. Raises `SchemaError` unless it is finite, flat, and as long as `length` or the others."""
        array = np.asarray(vector)
        wanted = length or self.dimensions or array.size
        if array.shape != (wanted,) or not wanted or not np.isfinite(array).all():
            raise SchemaError(f"a vector must be {wanted or 'some'} finite numbers, not of shape {array.shape}")
        return wanted

    def replace(self, vectors: Mapping[int, Numbers | None]) -> None:
        """What rows have now: a vector that has been checked, or none."""
        self.drop(list(vectors))
        some = {row: vector for row, vector in vectors.items() if vector is not None}
        if some:
            array = np.asarray(list(some.values()))
            self._grow(max(some) + 1, array.shape[1])
            self._matrix[list(some)] = units(array)

    def drop(self, rows: Sequence[int]) -> None:
        """These rows have no vector any more."""
        self._matrix[[row for row in rows if row < len(self._matrix)]] = 0

    def cosines(self, vector: Numbers, count: int) -> NDArray[Any]:
        """The cosine of rows 0 to `count` - 1 with a vector, to six places; below zero as zero.

        Products of float32 differ in their last digits from row to row.
        """
        found = np.zeros(count, np.float32)
        held = self._matrix[:count]
        if held.size:
            np.maximum(held @ units(np.asarray(vector)[None])[0], 0, out=found[: len(held)])
        return np.round(found, 6)

    @property
    def nbytes(self) -> int:
        """Bytes that the matrix takes."""
        return self._matrix.nbytes

    def _grow(self, least: int, dimensions: int) -> None:
        self.dimensions = dimensions
        if least > len(self._matrix):
            grown = np.zeros((max(least, 2 * len(self._matrix), 64), dimensions), np.float32)
            if self._matrix.size:
                grown[: len(self._matrix)] = self._matrix
            self._matrix = grown


def units(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """The rows at length 1; zero stays zero."""
    array = np.asarray(vectors, np.float64)
    largest = np.abs(array).max(axis=1, keepdims=True)
    scaled = array / np.where(largest, largest, 1)  # so that squares neither overflow nor vanish
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return (scaled / np.where(length, length, 1)).astype(np.float32)
