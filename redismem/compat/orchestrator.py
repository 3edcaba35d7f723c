"""`AsyncStoreAdapter`: values under tuples, as an orchestrator of agents keeps them.

====================================  ===================================================
``("memory", user_id)``               a `SimpleMemory`: merged, never overwritten
``("threads", thread_id)``            the state of a thread: a checkpoint each time
any other tuple                       a value of the session of that name
====================================  ===================================================
"""

from typing import Any, Final

from redismem.config import Settings
from redismem.keys import encode_segment
from redismem.memory import AsyncMemory
from redismem.stores.crm import SimpleMemory

__all__ = ["AsyncStoreAdapter", "SimpleMemory"]

_NAMESPACE: Final = "store"


class AsyncStoreAdapter:
    """Parameters as `Memory`; nothing is sent before the first call."""

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        self.memory = AsyncMemory(url, **settings)
        """What the values are in."""

    async def aget(self, namespace: tuple[str, ...], key: str) -> Any:
        """The value, None if there is none; of a user's memory, an empty one."""
        match namespace:
            case ("memory", user_id):
                return await self.memory.entities.load(user_id)
            case ("threads", thread_id):
                found = await self.memory.threads.get(thread_id)
                return None if found is None else found.state
            case _:
                return await self.memory.sessions.load(_session(namespace), _NAMESPACE, key)

    async def aput(self, namespace: tuple[str, ...], key: str, value: Any) -> None:
        """Store a value; what is found out about a user is merged into what is known."""
        match namespace:
            case ("memory", user_id):
                await self.memory.entities.merge(user_id, SimpleMemory.model_validate(value))
            case ("threads", thread_id):
                await self.memory.threads.put(thread_id, value)
            case _:
                await self.memory.sessions.save(_session(namespace), _NAMESPACE, key, value)

    async def aclose(self) -> None:
        """Close the memory."""
        await self.memory.aclose()


def _session(namespace: tuple[str, ...]) -> str:
    """One name for one tuple."""
    return "/".join(encode_segment(part, "namespace") for part in namespace)
