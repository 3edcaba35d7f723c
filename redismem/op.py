"""An operation is written once, as a coroutine function; a driver runs it.

A store's body decorates its coroutines with :class:`op` (or :class:`stream`, for those that yield). Three small
classes then give the store a flavour, and each flavour runs the same coroutine in its own way:

=================  =======================================================================================
:class:`Blocking`  a plain call: the coroutine is stepped once, because a blocking link never suspends
:class:`Asyncio`   the coroutine itself, to be awaited
:class:`Batched`   a :class:`Handle`: the coroutine waits until its batch steps all of them together
=================  =======================================================================================

Every flavour is made when its class is created, so a call costs no look-up: ``SessionStore.load`` is an ordinary
function with the signature of the coroutine that it wraps. Type checkers see the same three shapes through the
overloads of ``__get__``.

An operation may have a shortcut: a plain function of the same signature that is asked first and may know the answer
already, which then costs no coroutine. Batches do not ask it: their operations take place when the batch is sent.
"""

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from enum import Enum
from typing import Any, Concatenate, Final, Generic, NoReturn, ParamSpec, Protocol, Self, TypeVar, cast, overload

from redismem.errors import NotReady, RedisMemError, Suspended

logger = logging.getLogger("redismem")

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
T = TypeVar("T")


class Unknown(Enum):
    """The type of `UNKNOWN`."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
"""What a shortcut says that does not know the answer."""


class Handle(Generic[R]):
    """What an operation of a batch will give once the batch has been sent. An error nobody asks for is logged."""

    __slots__ = ("_done", "_error", "_seen", "_value")

    def __init__(self) -> None:
        self._done = False
        self._seen = True
        self._error: BaseException | None = None
        self._value: R | None = None

    @classmethod
    def rejected(cls, error: BaseException) -> Self:
        """A handle of an operation that failed before it began."""
        handle = cls()
        handle.reject(error)
        return handle

    def result(self) -> R:
        """The operation's value. Raises the operation's own error, or `NotReady` before the batch was sent."""
        if (error := self.error()) is not None:
            raise error
        return cast(R, self._value)

    def error(self) -> BaseException | None:
        """The operation's own error, `None` if it succeeded. Raises `NotReady` before the batch was sent."""
        if not self._done:
            raise NotReady("the batch has not been sent yet: read results after its `with` block")
        self._seen = True
        return self._error

    def done(self) -> bool:
        """Whether the batch has been sent."""
        return self._done

    def resolve(self, value: R) -> None:
        """Take the operation's value; called by the batch."""
        self._value, self._done = value, True

    def reject(self, error: BaseException, *, told: bool = False) -> None:
        """Take the operation's error; called by the batch. `told`: the caller hears of it in another way too."""
        self._error, self._done, self._seen = error, True, told

    def __del__(self) -> None:
        if not self._seen:
            logger.error("an operation of a batch failed, and nobody asked its handle: %s", self._error)


class Declared:
    """A coroutine function, or an asynchronous generator function, that is an operation of its class."""

    def __init__(self, body: Callable[..., Any], shortcut: Callable[..., Any] | None = None) -> None:
        self.body = body
        self.shortcut = shortcut
        functools.update_wrapper(cast(Any, self), body)


class Flavour:
    """Turns every operation of a class into the form that this flavour's callers use."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            member = inspect.getattr_static(cls, name)
            if isinstance(member, Declared):
                setattr(cls, name, cls.flavoured(member.body, member.shortcut))

    @staticmethod
    def flavoured(body: Callable[..., Any], shortcut: Callable[..., Any] | None) -> Callable[..., Any]:
        """The function that callers of this flavour get for one operation."""
        raise NotImplementedError


class Blocking(Flavour):
    """Operations are plain calls."""

    @staticmethod
    def flavoured(body: Callable[..., Any], shortcut: Callable[..., Any] | None) -> Callable[..., Any]:
        """See `Flavour.flavoured`."""
        if shortcut is not None:
            return blocking_first(body, shortcut)
        return blocking_stream(body) if inspect.isasyncgenfunction(body) else blocking(body)


class Asyncio(Flavour):
    """Operations are awaited."""

    @staticmethod
    def flavoured(body: Callable[..., Any], shortcut: Callable[..., Any] | None) -> Callable[..., Any]:
        """See `Flavour.flavoured`."""
        return body if shortcut is None else asking_first(body, shortcut)


class Enlists(Protocol):
    """Takes operations into a batch."""

    def enlist(self, operation: Coroutine[Any, Any, R]) -> Handle[R]:
        """A handle on what the operation will give."""
        ...


class Batched(Flavour):
    """Operations give handles; the batch runs them."""

    @property
    def batch(self) -> Enlists:
        """The batch that the class belongs to."""
        raise NotImplementedError

    @staticmethod
    def flavoured(body: Callable[..., Any], shortcut: Callable[..., Any] | None) -> Callable[..., Any]:
        """See `Flavour.flavoured`."""
        return unbatchable(body) if inspect.isasyncgenfunction(body) else enlisting(body)


def blocking(body: Callable[..., Coroutine[Any, Any, R]]) -> Callable[..., R]:
    """A plain function that runs the coroutine to its end in one step."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> R:
        return run(body(*args, **kwargs))

    return call


def blocking_first(
    body: Callable[..., Coroutine[Any, Any, R]], shortcut: Callable[..., R | Unknown]
) -> Callable[..., R]:
    """A plain function that asks the shortcut, and runs the coroutine if that does not know."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> R:
        known = shortcut(*args, **kwargs)
        return run(body(*args, **kwargs)) if known is UNKNOWN else known

    return call


def asking_first(
    body: Callable[..., Coroutine[Any, Any, R]], shortcut: Callable[..., R | Unknown]
) -> Callable[..., Coroutine[Any, Any, R]]:
    """A coroutine function that asks the shortcut, and the body if that does not know."""

    @functools.wraps(body)
    async def call(*args: Any, **kwargs: Any) -> R:
        known = shortcut(*args, **kwargs)
        return await body(*args, **kwargs) if known is UNKNOWN else known

    return call


def run(operation: Coroutine[Any, Any, R]) -> R:
    """Step a coroutine once and return its value. Raises `Suspended` if it waits for anything."""
    try:
        operation.send(None)
    except StopIteration as done:
        return cast(R, done.value)
    operation.close()
    raise Suspended(
        f"{name_of(operation)} waits for an event loop, which a blocking call has not: "
        "pass plain functions, not coroutine functions, or use AsyncMemory"
    )


def name_of(operation: Coroutine[Any, Any, Any]) -> str:
    """The operation's name, for messages."""
    return str(getattr(operation, "__qualname__", operation))


def blocking_stream(body: Callable[..., AsyncIterator[R]]) -> Callable[..., Iterator[R]]:
    """A plain generator function that steps the asynchronous one."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Iterator[R]:
        items = body(*args, **kwargs)
        while True:
            try:
                yield run(_next(items))
            except StopAsyncIteration:
                return

    return call


async def _next(items: AsyncIterator[R]) -> R:
    return await anext(items)


def enlisting(body: Callable[..., Coroutine[Any, Any, R]]) -> Callable[..., Handle[R]]:
    """A function that hands the coroutine to its batch."""

    @functools.wraps(body)
    def call(self: Batched, *args: Any, **kwargs: Any) -> Handle[R]:
        return self.batch.enlist(body(self, *args, **kwargs))

    return call


def unbatchable(body: Callable[..., Any]) -> Callable[..., NoReturn]:
    """A function that says why a stream is in no batch."""

    @functools.wraps(body)
    def call(*_: Any, **__: Any) -> NoReturn:
        raise RedisMemError(f"{body.__qualname__} reads in several round trips; call it outside the batch")

    return call


class op(Declared, Generic[P, R]):  # noqa: N801  (read as a keyword: `@op async def load`)
    """Declares a coroutine function of a store's body as an operation."""

    def __init__(
        self,
        body: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        shortcut: Callable[Concatenate[Any, P], R | Unknown] | None = None,
    ) -> None:
        super().__init__(body, shortcut)

    @staticmethod
    def after(
        shortcut: Callable[Concatenate[Any, Q], T | Unknown],
    ) -> "Callable[[Callable[Concatenate[Any, Q], Coroutine[Any, Any, T]]], op[Q, T]]":
        """Declares an operation that has a shortcut."""
        return lambda body: op(body, shortcut)

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, owner: Asyncio, kind: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, owner: Batched, kind: type) -> Callable[P, Handle[R]]: ...
    def __get__(self, owner: object, kind: type) -> object:
        """The body itself: flavoured classes replace the descriptor, so only a bare body gets here."""
        return self if owner is None else cast(Any, self.body).__get__(owner, kind)


class stream(Declared, Generic[P, R]):  # noqa: N801
    """Declares an asynchronous generator function of a store's body as an operation that yields."""

    def __init__(self, body: Callable[Concatenate[Any, P], AsyncIterator[R]]) -> None:
        super().__init__(body)

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, Iterator[R]]: ...
    @overload
    def __get__(self, owner: Asyncio, kind: type) -> Callable[P, AsyncIterator[R]]: ...
    @overload
    def __get__(self, owner: Batched, kind: type) -> Callable[P, NoReturn]: ...
    def __get__(self, owner: object, kind: type) -> object:
        """As :meth:`op.__get__`."""
        return self if owner is None else cast(Any, self.body).__get__(owner, kind)


async def settle(value: Any) -> Any:
    """What a caller's callback returned: callbacks may be plain functions or coroutine functions."""
    return await value if inspect.isawaitable(value) else value
