"""Neighbours in a batch: documents that are added one after the other leave together, in one call of the script.

Each `add` has a handle of its own and fails alone: what cannot be stored is left out, and the others leave together.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from redismem.durability import Durability
from redismem.errors import LinkError
from redismem.op import Handle
from redismem.stores.documents import DocumentOperations, Told
from redismem.stores.store import BatchedStore
from redismem.ttl import TTL

if TYPE_CHECKING:
    from redismem.batch import BatchLink

D = TypeVar("D", bound=Told)
R = TypeVar("R")

_MOST_JOINED: Final = 500

Place = tuple[str, TTL, Durability | None]
"""Scope, TTL, what the write waits for: what neighbours have in common."""


class Together(Handle[list[Any]]):
    """What operations that leave as one will give, to each its own: values, and errors as values."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Handle[Any]] = []

    def resolve(self, value: list[Any]) -> None:
        """See `Handle.resolve`."""
        super().resolve(value)
        for part, outcome in zip(self.parts, value, strict=True):
            if isinstance(outcome, Exception):
                part.reject(outcome)
            else:
                part.resolve(outcome)

    def reject(self, error: BaseException, *, told: bool = False) -> None:
        """See `Handle.reject`."""
        super().reject(error, told=True)
        for part in self.parts:
            part.reject(error, told=told)


@dataclass(slots=True)
class _Joined(Generic[D]):
    """Neighbours that leave as one."""

    place: Place
    documents: list[D]
    together: Together


class DocumentBatch(DocumentOperations[D], BatchedStore, Generic[D, R]):
    """Documents inside a batch. `_add` adds several; of each, what `add` gives."""

    _joined: _Joined[D] | None = None

    @property
    def batch(self) -> "BatchLink":
        """See `Batched.batch`: documents are told by the server's clock."""
        self._link.clock = self._shared.clock
        return self._link

    async def _add(self, documents: list[D], scope: str, ttl: TTL, durable: Durability | None) -> list[R]:
        raise NotImplementedError

    def _join(self, document: D, *place: Any) -> Handle[R]:
        """Add a document, with its neighbours."""
        joined = self._joined
        if joined is None or joined.place != place or not self._may_join(joined):
            documents: list[D] = []
            joined = self._joined = _Joined(place, documents, Together())
            self.batch.enlist(self._each(documents, *place), joined.together)
        joined.documents.append(document)
        part: Handle[R] = Handle()
        joined.together.parts.append(part)
        return part

    def _may_join(self, joined: _Joined[D]) -> bool:
        return self._link.newest() is joined.together and len(joined.documents) < _MOST_JOINED

    async def _each(self, documents: list[D], scope: str, ttl: TTL, durable: Durability | None) -> list[R | Exception]:
        """The outcome of each."""
        try:
            return list(await self._add(documents, scope, ttl, durable))
        except LinkError:
            raise
        except Exception:  # whatever one of them raises, the others do not
            refused = [await self._refusal(document, ttl) for document in documents]
            if not any(refused):
                raise
        sound = [document for document, error in zip(documents, refused, strict=True) if error is None]
        stored = iter(await self._add(sound, scope, ttl, durable))
        return [next(stored) if error is None else error for error in refused]

    async def _refusal(self, document: D, ttl: TTL) -> Exception | None:
        """Why a document cannot be stored by anybody."""
        try:
            self._arguments(await self._puts([document], ttl))
        except LinkError:
            raise
        except Exception as error:
            return error
        return None
