"""Embeddings of documents: what the embedder of this process makes of texts, and how the server keeps it.

An embedding is raw little-endian float32, beside its document, in a hash of its own. A scope has embeddings of one
embedder, since those of two cannot be compared: what another embedder's worker writes has none, and is found by its
words, until `embed` makes one.
"""

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np

from redismem.errors import ConfigError, EmbedderFailed, RedisMemError, SchemaError
from redismem.link.base import Link
from redismem.search.document import Vector
from redismem.search.embedder import Embedder, Matrix, numbers

_FLOAT32: Final = np.dtype("<f4")


class Embeddings:
    """What one embedder makes; nothing, without one."""

    def __init__(self, embedder: Embedder | None, link: Link) -> None:
        self._embedder = embedder
        self._link = link

    def __bool__(self) -> bool:
        return self._embedder is not None

    @property
    def name(self) -> str:
        """Which embedder; '' without one."""
        return "" if self._embedder is None else self._embedder.name

    async def of(self, texts: Sequence[str]) -> Matrix:
        """A row for each text.

        Raises `ConfigError` without an embedder, `EmbedderFailed` if it raises an error, `SchemaError` if it gives
        anything else.
        """
        if self._embedder is None:
            raise ConfigError("there is no embedder: make the memory with one, such as embedder=Hashing()")
        made = await self._link.offload(functools.partial(_made, self._embedder, texts))
        wanted = len(texts), self._embedder.dimensions
        if made.shape != wanted or not np.isfinite(made).all():
            raise SchemaError(f"embedder {self.name}: it must give {wanted} finite numbers, and gave {made.shape}")
        return made

    async def stored(self, texts: Sequence[str]) -> list[bytes]:
        """What the server keeps for each text; b'' without an embedder."""
        if not self:
            return [b""] * len(texts)
        return [row.astype(_FLOAT32).tobytes() for row in await self.of(texts)]

    def read(self, data: bytes | None) -> Vector | None:
        """An embedding as the server has it; None if this embedder cannot have made it."""
        if self._embedder is None or data is None or len(data) != self._embedder.dimensions * _FLOAT32.itemsize:
            return None
        vector = np.frombuffer(data, _FLOAT32).astype(np.float32, copy=False)
        return vector if np.isfinite(vector).all() else None


def _made(embedder: Embedder, texts: Sequence[str]) -> Matrix:
    """What an embedder gives. Errors name neither the texts nor what the embedder says, which may quote them."""
    try:
        return numbers(embedder.embed(texts), embedder.name)
    except RedisMemError:
        raise
    except Exception as error:
        raise EmbedderFailed(f"embedder {embedder.name}: it raised {type(error).__name__}") from error
