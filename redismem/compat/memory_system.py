"""`memory_system`: user contexts, on the server of ``REDISMEM_URL``.

from redismem.compat.memory_system import memory_system

context = await memory_system.get_user_context("42")
await memory_system.update_context("42", "Hi", "Hello")

Many workers may update one user at once: the server takes one update after the other, so nobody holds a lock.
"""

import threading
from typing import Any, Self

from redismem.config import Settings
from redismem.health import Health
from redismem.memory import AsyncMemory
from redismem.stores.contexts import UserContext

__all__ = ["MemorySystem", "UserContext", "memory_system"]


class MemorySystem:
    """Thread-safe contexts of users. Parameters as `Memory`, looked at by the first call; for any number of loops."""

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        self._url, self._settings = url, settings
        self._memory: AsyncMemory | None = None
        self._opening = threading.Lock()

    @property
    def memory(self) -> AsyncMemory:
        """What the contexts are in."""
        with self._opening:
            if self._memory is None:
                self._memory = AsyncMemory(self._url, **self._settings)
            return self._memory

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    async def get_user_context(self, user_id: str) -> UserContext:
        """A copy that stays as it is; one round trip."""
        return await self.memory.contexts.get_user_context(user_id)

    async def update_context(self, user_id: str, message: str, response: str) -> UserContext:
        """Note an exchange; the context as it is then. One round trip."""
        async with self.memory.batch() as batch:
            noted = batch.contexts.update_context(user_id, message, response)
            context = batch.contexts.get_user_context(user_id)
        for error in (noted.error(), context.error()):
            if error is not None:
                raise error
        return context.result()

    async def health(self) -> Health:
        """How the server is, such as its `last_save`."""
        return await self.memory.health()

    async def is_locked(self, user_id: str) -> bool:
        """Whether somebody holds the user's lock, of `Memory.lock`. Contexts can be read and updated all the same."""
        return await self.memory.lock(user_id).locked()

    async def aclose(self) -> None:
        """Close the memory; another call opens it anew."""
        with self._opening:
            memory, self._memory = self._memory, None
        if memory is not None:
            await memory.aclose()


memory_system = MemorySystem()
