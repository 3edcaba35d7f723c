"""`memory_system`: user contexts, on the server of ``REDISMEM_URL``.

from redismem.compat.memory_system import memory_system

context = await memory_system.get_user_context("42")
await memory_system.update_context("42", "Hi", "Hello")
"""

import functools
from typing import Any

from redismem.config import Settings
from redismem.memory import AsyncMemory
from redismem.stores.contexts import UserContext

__all__ = ["MemorySystem", "UserContext", "memory_system"]


class MemorySystem:
    """Thread-safe contexts of users. Parameters as `Memory`; nothing is sent before the first call."""

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        self._url, self._settings = url, settings

    @functools.cached_property
    def memory(self) -> AsyncMemory:
        """What the contexts are in."""
        return AsyncMemory(self._url, **self._settings)

    async def get_user_context(self, user_id: str) -> UserContext:
        """A copy that stays as it is."""
        return await self.memory.contexts.get_user_context(user_id)

    async def update_context(self, user_id: str, message: str, response: str) -> UserContext:
        """Note an exchange; the context as it is then."""
        await self.memory.contexts.update_context(user_id, message, response)
        return await self.memory.contexts.get_user_context(user_id, fresh=True)

    async def aclose(self) -> None:
        """Close the memory."""
        await self.memory.aclose()


memory_system = MemorySystem()
