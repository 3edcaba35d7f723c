"""A batch: many operations, as few round trips as they need.

Operations called on a batch give handles and wait. When the ``with`` block ends, all of them are stepped together:
what they ask for goes out in one pipeline, each gets its replies, and those that need more ask again, together. A
batch of simple saves is one round trip; a batch of `update` is as many as its slowest one needs.

Each operation succeeds or fails alone, and its handle tells. If the link itself fails, the block raises as well. If
the block is left by an exception, nothing is sent. Requests of one step go out in the order of the calls, but a batch
is no transaction: others may come in between, and operations that take several steps overlap.
"""

from collections.abc import Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType, coroutine
from typing import Any, Final, Self

from redismem.errors import LinkError, Suspended
from redismem.link.base import Command, Link, Reply, Write
from redismem.link.features import Features
from redismem.op import Handle, run
from redismem.stores.sessions import SessionBatch
from redismem.stores.store import Shared


MOST_JOINED: Final = 1000
"""Fields that may leave in one command: the server does nothing else while it runs."""


@dataclass(slots=True)
class _Ask:
    """What an operation waits for: replies to a write, or time to pass."""

    write: Write
    retry: bool = True
    seconds: float = 0.0


@dataclass(slots=True)
class _Running:
    """An operation of the batch, and what it asks for now."""

    operation: Coroutine[Any, Any, Any]
    handle: Handle[Any]
    ask: _Ask


@dataclass(slots=True)
class _Group:
    """Neighbours whose writes leave as one."""

    write: Write
    pairs: list[bytes]
    members: list[_Running]

    def takes(self, write: Write) -> bool:
        """Whether this write may join."""
        return write.place is not None and write.place == self.write.place and len(self.pairs) < 2 * MOST_JOINED

    def commands(self) -> Sequence[Command]:
        """The commands of all members."""
        return self.write.commands(self.pairs)


@coroutine
def _wait_for(ask: _Ask) -> Generator[_Ask, list[Reply], list[Reply]]:
    return (yield ask)


class BatchLink(Link):
    """The link that a batch's operations see: it takes them in, and hands what they ask for to the batch."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.endpoint, link.patience)
        self._beneath = link
        self._enlisted: list[tuple[Coroutine[Any, Any, Any], Handle[Any]]] = []

    def enlist(self, operation: Coroutine[Any, Any, Any]) -> Handle[Any]:
        """Take an operation in; it runs when the batch is sent."""
        handle: Handle[Any] = Handle()
        self._enlisted.append((operation, handle))
        return handle

    def discard(self) -> None:
        """Drop every operation unsent."""
        for operation, _ in self._enlisted:
            operation.close()
        self._enlisted.clear()

    async def send(self) -> None:
        """Run every operation to its end. Raises `LinkError` if the link fails; the handles then hold it too."""
        enlisted, self._enlisted = self._enlisted, []
        self._features = await self._knowing_features(enlisted)
        running = [next_ for operation, handle in enlisted if (next_ := _step(operation, handle, None))]
        while running:
            if delay := max(one.ask.seconds for one in running):
                await self._beneath.sleep(delay)
            running = [
                next_
                for group, replies in await self._answer(_grouped(running))
                for one in group.members
                if (next_ := _step(one.operation, one.handle, replies))
            ]

    async def _knowing_features(self, enlisted: list[tuple[Coroutine[Any, Any, Any], Handle[Any]]]) -> Features:
        try:
            return await self._beneath.features()
        except LinkError as error:
            for operation, handle in enlisted:
                operation.close()
                handle.reject(error)
            raise

    async def _answer(self, groups: list[_Group]) -> Iterator[tuple[_Group, list[Reply]]]:
        """Each group and the replies to its commands, in one round trip."""
        requests = [group.commands() for group in groups]
        commands = [command for request in requests for command in request]
        running = [one for group in groups for one in group.members]
        try:
            retry = all(one.ask.retry for one in running)
            replies = iter(await self._beneath.pipeline(commands, retry=retry) if commands else ())
        except LinkError as error:
            for one in running:
                one.operation.close()
                one.handle.reject(error)
            raise
        return ((group, list(islice(replies, len(request)))) for group, request in zip(groups, requests, strict=True))

    async def write(self, write: Write, *, retry: bool = True) -> list[Reply]:
        """See `Link.write`: waits for the batch's next round trip."""
        return await _wait_for(_Ask(write, retry))

    async def pipeline(self, commands: Sequence[Command], *, retry: bool = True) -> list[Reply]:
        """See `Link.pipeline`: waits for the batch's next round trip."""
        return await _wait_for(_Ask(Write(lambda _: commands), retry))

    async def exchange(self, commands: Sequence[Command], *, fresh: bool) -> list[Reply]:
        """See `Link.exchange`."""
        return await self.pipeline(commands, retry=not fresh)

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`: the batch's next round trip waits for the longest."""
        await _wait_for(_Ask(Write(lambda _: ()), seconds=seconds))

    async def aclose(self) -> None:
        """See `Link.aclose`: the link beneath stays open."""
        self.discard()


def _grouped(running: list[_Running]) -> list[_Group]:
    """The operations in order, neighbours that write to one place together."""
    groups: list[_Group] = []
    for one in running:
        write = one.ask.write
        if groups and groups[-1].takes(write):
            groups[-1].pairs += write.pairs
            groups[-1].members.append(one)
        else:
            groups.append(_Group(write, list(write.pairs), [one]))
    return groups


def _step(operation: Coroutine[Any, Any, Any], handle: Handle[Any], replies: list[Reply] | None) -> _Running | None:
    """Run one operation until it asks for something or ends."""
    try:
        ask = operation.send(replies)
    except StopIteration as done:
        handle.resolve(done.value)
    except Exception as error:  # whatever the operation, or a caller's function in it, raises is its own outcome
        handle.reject(error)
    else:
        if isinstance(ask, _Ask):
            return _Running(operation, handle, ask)
        operation.close()
        handle.reject(Suspended(f"{operation.__qualname__}: a batch cannot wait for anything but the server"))
    return None


class BatchOperations:
    """The stores of a batch."""

    def __init__(self, shared: Shared) -> None:
        self._link = BatchLink(shared.link)
        self.sessions = SessionBatch(shared.on(self._link))
        """Sessions; every call gives a `Handle`."""


class Batch(BatchOperations):
    """``with memory.batch() as b``: see the module."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._link.discard()
        else:
            run(self._link.send())


class AsyncBatch(BatchOperations):
    """``async with memory.batch() as b``: see the module."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._link.discard()
        else:
            await self._link.send()


