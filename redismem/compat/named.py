"""Classes made of a table: each name is an operation of one store, awaited as `<name>_async` and plain as `<name>`.

The plain form is for threads, and says so with `RuntimeError` inside a running event loop.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from redismem.config import Settings
from redismem.memory import AsyncMemory, Memory


@dataclass(frozen=True, slots=True)
class Operation:
    """What a name stands for: an operation of the store, and what becomes of its result."""

    name: str
    result: Callable[[Any], Any] = lambda value: value
    streams: bool = False


def documents(results: Any) -> list[Any]:
    """What a search found, without scores."""
    return [one.document for one in results]


class Named:
    """A store under other names. Parameters as `Memory`; nothing is sent before the first call."""

    part: ClassVar[str]
    table: ClassVar[Mapping[str, Operation]]

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        self._settings = Settings.of(url, **settings)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, operation in cls.table.items():
            setattr(cls, f"{name}_async", _streamed(operation) if operation.streams else _awaited(operation))
            setattr(cls, name, _iterated(name, operation) if operation.streams else _called(name, operation))

    @functools.cached_property
    def awaited(self) -> AsyncMemory:
        """For tasks."""
        return AsyncMemory(self._settings)

    @functools.cached_property
    def blocking(self) -> Memory:
        """For threads."""
        return Memory(self._settings)

    @asynccontextmanager
    async def batch_operations(self) -> AsyncGenerator[Any]:
        """Many operations in one round trip, sent at the end of the block: calls give handles."""
        async with self.awaited.batch() as batch:
            yield _Batch(self, getattr(batch, self.part))

    def close(self) -> None:
        """Close what was opened for threads."""
        if "blocking" in vars(self):
            self.blocking.close()

    async def aclose(self) -> None:
        """Close everything."""
        self.close()
        if "awaited" in vars(self):
            await self.awaited.aclose()


class _Batch:
    """The same names, in a batch."""

    def __init__(self, named: Named, store: Any) -> None:
        self._table = named.table
        self._store = store

    def __getattr__(self, name: str) -> Any:
        plain = name.removesuffix("_async")
        if plain not in self._table:
            raise AttributeError(name)
        enlist = getattr(self._store, self._table[plain].name)
        if plain == name:
            return enlist

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return enlist(*args, **kwargs)

        return awaited


def _awaited(operation: Operation) -> Callable[..., Any]:
    async def call(self: Named, *args: Any, **kwargs: Any) -> Any:
        store = getattr(self.awaited, self.part)
        return operation.result(await getattr(store, operation.name)(*args, **kwargs))

    return call


def _called(name: str, operation: Operation) -> Callable[..., Any]:
    def call(self: Named, *args: Any, **kwargs: Any) -> Any:
        _refuse_in_a_loop(name)
        return operation.result(getattr(getattr(self.blocking, self.part), operation.name)(*args, **kwargs))

    return call


def _streamed(operation: Operation) -> Callable[..., Any]:
    async def call(self: Named, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for item in getattr(getattr(self.awaited, self.part), operation.name)(*args, **kwargs):
            yield item

    return call


def _iterated(name: str, operation: Operation) -> Callable[..., Any]:
    def call(self: Named, *args: Any, **kwargs: Any) -> Iterator[Any]:
        _refuse_in_a_loop(name)
        yield from getattr(getattr(self.blocking, self.part), operation.name)(*args, **kwargs)

    return call


def _refuse_in_a_loop(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{name} would block the running event loop: await {name}_async instead")
