"""`AsyncStoreAdapter`: values under tuples, as an orchestrator of agents keeps them.

=========================  ================  ==========================================================================
tuple                      key               value
=========================  ================  ==========================================================================
``("memory", user_id)``    any               a memory of entities, such as `SimpleMemory`: merged into what is known of
                                             the user, never overwritten; there is one, whatever it is called
``("threads", thread_id)`` ``state_<id>``    the state of the thread: a checkpoint each time
any                        any               anything else: a value of the session of that name
=========================  ================  ==========================================================================

Of a user there may be both. `aget` gives the value under that key, if what was put there last was one, else the memory,
under whatever key it was put. So a value hides the memory under its own key alone, and until a memory is put there. An
empty mapping is a memory of nothing: an extraction that found nothing changes nothing.

Values are stored as plain data (`redismem.stores.plain`), and given back as that; memories as the model.
"""

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel

from redismem.config import Settings
from redismem.keys import encode_segment
from redismem.memory import AsyncMemory
from redismem.stores.crm import (
    SimpleAccount,
    SimpleCase,
    SimpleContact,
    SimpleLead,
    SimpleMemory,
    SimpleOpportunity,
    SimpleTask,
)
from redismem.stores.plain import plain

__all__ = [
    "AsyncStoreAdapter",
    "SimpleAccount",
    "SimpleCase",
    "SimpleContact",
    "SimpleLead",
    "SimpleMemory",
    "SimpleOpportunity",
    "SimpleTask",
]

_NAMESPACE: Final = "store"


class AsyncStoreAdapter:
    """Parameters as `Memory`, and `model`: what memories are. Nothing is sent before the first call."""

    def __init__(
        self, url: str | Settings | None = None, *, model: type[BaseModel] = SimpleMemory, **settings: Any
    ) -> None:
        self.memory = AsyncMemory(url, **settings)
        """What the values are in."""
        self._entities = self.memory.entities.of(model)
        self._model = model

    async def aget(self, namespace: tuple[str, ...], key: str) -> Any:
        """The value, None if there is none; of a user's memory, an empty one. One round trip.

        Raises `LinkError`, which is a ConnectionError or a TimeoutError while the server is away.
        """
        match namespace:
            case ("threads", thread_id) if key == f"state_{thread_id}":
                found = await self.memory.threads.get(thread_id)
                return None if found is None else found.state
            case ("memory", user_id):
                async with self.memory.batch() as batch:
                    value = batch.sessions.load(_session(namespace), _NAMESPACE, key)
                    known = batch.entities.of(self._model).load(user_id)
                return known.result() if value.result() is None else value.result()
            case _:
                return await self.memory.sessions.load(_session(namespace), _NAMESPACE, key)

    async def aput(self, namespace: tuple[str, ...], key: str, value: Any) -> None:
        """Store a value; what was found out about a user is merged into what is known. One round trip, of a memory two.

        A memory is one of the model, a mapping with nothing but its lists, or an object that has some of them. Raises
        `EncodeError`, pydantic's `ValidationError`, `LinkError`.
        """
        match namespace:
            case ("threads", thread_id) if key == f"state_{thread_id}":
                await self.memory.threads.put(thread_id, value)
            case ("memory", user_id) if self._is_memory(value):
                found = self._model.model_validate(value, from_attributes=True)
                await self._entities.merge(user_id, found)
                await self.memory.sessions.delete(_session(namespace), _NAMESPACE, key)
            case _:
                await self.memory.sessions.save(_session(namespace), _NAMESPACE, key, plain(value))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the memory."""
        await self.memory.aclose()

    def _is_memory(self, value: Any) -> bool:
        names = self._model.model_fields
        whole: Any = value  # which the next line does not narrow
        if isinstance(value, Mapping):
            return names.keys() >= set(whole)
        return any(hasattr(value, name) for name in names)


def _session(namespace: tuple[str, ...]) -> str:
    """One name for one tuple."""
    return "/".join(encode_segment(part, "namespace") for part in namespace)
