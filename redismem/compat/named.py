"""Classes made of a table: each line names an operation of one store, awaited as `<name>_async` and plain as `<name>`.

A name has the parameters of its operation, some of them under another name too. The plain form is for threads, and
says so with `RuntimeError` inside a running event loop.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar, overload

from redismem.config import Settings
from redismem.memory import AsyncMemory, Memory
from redismem.op import Declared, Handle, op, stream
from redismem.stores.documents import Result, Told

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Told)
F = TypeVar("F", bound=Callable[..., Any])
Make = Callable[["Name[Any]", str], Callable[..., Any]]


class Name(Generic[F]):
    """One name of an operation; the class that it is in gets the function that `make` makes of it.

    `result` is what becomes of the operation's result; `like` has its parameters, under other names.
    """

    def __init__(
        self,
        operation: Declared,
        make: Make,
        result: Callable[[Any], Any] = lambda value: value,
        like: Callable[..., Any] | None = None,
    ) -> None:
        self._body = operation.body
        self._make = make
        self._signature = inspect.signature(operation.body)
        self._parameters: dict[str, str] = {}
        if like is not None:
            _, *theirs = self._signature.parameters.values()
            ours = inspect.signature(like).parameters
            self._parameters = {name: one.name for name, one in zip(ours, theirs, strict=True) if name != one.name}
        self.result = result

    def __set_name__(self, owner: "type[Named]", name: str) -> None:
        function: Any = self._make(self, name)
        functools.update_wrapper(function, self._body)
        function.__name__, function.__qualname__ = name, f"{owner.__qualname__}.{name}"
        function.__signature__ = self._renamed()
        setattr(owner, name, function)
        owner.table = {**owner.table, name: self}

    def call(self, store: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the operation of this store."""
        return self.bound(store)(*args, **kwargs)

    def bound(self, store: Any) -> Callable[..., Any]:
        """The operation of this store."""
        operation: Callable[..., Any] = getattr(store, self._body.__name__)
        if not self._parameters:
            return operation

        def renaming(*args: Any, **kwargs: Any) -> Any:
            return operation(*args, **{self._parameters.get(name, name): value for name, value in kwargs.items()})

        return renaming

    def _renamed(self) -> inspect.Signature:
        ours = {theirs: name for name, theirs in self._parameters.items()}
        every = self._signature.parameters.values()
        return self._signature.replace(parameters=[one.replace(name=ours.get(one.name, one.name)) for one in every])

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: object, kind: type) -> F: ...
    def __get__(self, owner: object, kind: type) -> object:
        """For type checkers: what is in the class is the function."""
        raise NotImplementedError


Awaited = Name[Callable[P, Coroutine[Any, Any, R]]]
Plain = Name[Callable[P, R]]


class Named:
    """A store under other names. Parameters as `Memory`; nothing is sent before the first call.

    `memory` is the `AsyncMemory` that it is part of, with the other stores and names.
    """

    part: ClassVar[str]
    table: ClassVar[dict[str, Name[Any]]] = {}

    def __init__(self, url: str | Settings | None = None, **settings: Any) -> None:
        self.memory = AsyncMemory(url, **settings)
        self._blocking = Memory(self.memory)
        self._store = getattr(self.memory, self.part)
        self._blocking_store = getattr(self._blocking, self.part)

    @asynccontextmanager
    async def batch_operations(self) -> AsyncGenerator["NamedBatch"]:
        """Many operations in as few round trips as they need, sent at the end of the block.

        If an exception ends the block, nothing is sent. If operations fail, the others take effect all the same, and
        the block raises the error of the first; each one's `result()` tells of its own.
        """
        async with self.memory.batch() as batch:
            names = NamedBatch(self.table, getattr(batch, self.part))
            yield names
        names.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Close what was opened for threads; a private embedded server ends."""
        self._blocking.close()

    async def aclose(self) -> None:
        """Close everything."""
        self.close()
        await self.memory.aclose()


class NamedBatch:
    """The same names, awaited or not, giving handles."""

    def __init__(self, table: dict[str, Name[Any]], store: Any) -> None:
        self._table = table
        self._store = store
        self._enlisted: list[Enlisted] = []

    def __getattr__(self, name: str) -> Callable[..., "Enlisted"]:
        if name not in self._table:
            raise AttributeError(name)
        operation, result = self._table[name].bound(self._store), self._table[name].result

        def enlist(*args: Any, **kwargs: Any) -> Enlisted:
            enlisted = Enlisted(operation(*args, **kwargs), result)
            self._enlisted.append(enlisted)
            return enlisted

        setattr(self, name, enlist)  # it is found sooner the next time
        return enlist

    def check(self) -> None:
        """Raise the error of the first operation that failed; who does not look at results must hear of it."""
        failed = [error for one in self._enlisted if (error := one.error()) is not None]
        if failed:
            failed[0].add_note(f"{len(failed)} of the {len(self._enlisted)} operations of the batch failed")
            raise failed[0]


class Enlisted:
    """An operation of a batch. It is in the batch already; awaiting it gives itself."""

    __slots__ = ("_handle", "_result")

    def __init__(self, handle: Handle[Any], result: Callable[[Any], Any]) -> None:
        self._handle = handle
        self._result = result

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    def result(self) -> Any:
        """See `Handle.result`."""
        return self._result(self._handle.result())

    def error(self) -> BaseException | None:
        """See `Handle.error`."""
        return self._handle.error()


@overload
def named(operation: op[P, R]) -> tuple[Awaited[P, R], Plain[P, R]]: ...
@overload
def named(operation: op[..., R], like: Callable[P, R]) -> tuple[Awaited[P, R], Plain[P, R]]: ...
def named(operation: Any, like: Callable[..., Any] | None = None) -> Any:
    """The names of an operation; `like` is a function that has its parameters, under other names."""
    return Name(operation, _awaited, like=like), Name(operation, _called, like=like)


def searching(operation: op[P, list[Result[D]]]) -> tuple[Awaited[P, list[D]], Plain[P, list[D]]]:
    """The names of a search, which tell what was found without scores."""
    return Name(operation, _awaited, _documents), Name(operation, _called, _documents)


def streaming(operation: stream[P, R]) -> tuple[Name[Callable[P, AsyncIterator[R]]], Plain[P, Iterator[R]]]:
    """The names of a stream."""
    return Name(operation, _streamed), Name(operation, _called)


def _documents(found: Any) -> list[Any]:
    return [one.document for one in found]


def _awaited(named: Name[Any], _: str) -> Callable[..., Any]:
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return named.result(await named.call(self._store, *args, **kwargs))

    return call


def _called(named: Name[Any], name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_in_a_loop(name)
        return named.result(named.call(self._blocking_store, *args, **kwargs))

    return call


def _streamed(named: Name[Any], _: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return named.call(self._store, *args, **kwargs)

    return call


def _refuse_in_a_loop(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{name} would block the running event loop: await {name}_async instead")
