"""A batch: many operations, as few round trips as they need.

Operations called on a batch give handles and wait. When the ``with`` block ends, all of them are stepped together:
what they ask for goes out in one pipeline, each gets its replies, and those that need more ask again, together. A
batch of simple saves is one round trip; a batch of `update` is as many as its slowest one needs.

Each operation succeeds or fails alone, and its handle tells. If the link itself fails, the block raises as well. If
the block is left by an exception, nothing is sent. Requests of one step go out in the order of the calls, but a batch
is no transaction: others may come in between, and operations that take several steps overlap.

A batch may be one step of a job that somebody else takes over when its worker dies:
``memory.batch(job="run-7", step=12)``. Whoever does not know whether it was sent makes the same calls again, in the
same order, under the same name and number: what was applied is not applied again (for `Settings.operation_memory`
seconds), and what was not is. The steps of a job are done one after another, and their numbers grow.
"""

from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType, coroutine
from typing import Any, Self, TypeVar

from redismem.durability import Receipt
from redismem.errors import LinkError, NotReady, Suspended
from redismem.link.base import Command, Link, Reply
from redismem.link.exclusive import Exclusive
from redismem.link.features import Features
from redismem.op import Handle, name_of, run
from redismem.operations import StepOperations
from redismem.scripts import surely
from redismem.stores.contexts import ContextBatch, UserContext
from redismem.stores.crm import SimpleMemory
from redismem.stores.entities import EntityBatch
from redismem.stores.episodes import EpisodeBatch
from redismem.stores.graph import GraphBatch
from redismem.stores.history import HistoryBatch
from redismem.stores.preferences import PreferenceBatch
from redismem.stores.record import RecordBatch
from redismem.stores.semantics import SemanticBatch
from redismem.stores.sessions import SessionBatch
from redismem.stores.skills import SkillBatch
from redismem.stores.states import StateBatch
from redismem.stores.store import ServerClock, Shared
from redismem.stores.temporal import TemporalBatch
from redismem.stores.threads import ThreadBatch

R = TypeVar("R")
M = TypeVar("M")


@dataclass(slots=True)
class _Ask:
    """What an operation waits for: replies to commands, or time to pass."""

    commands: Sequence[Command]
    retry: bool = True
    seconds: float = 0.0
    durable: Receipt | None = None


@dataclass(slots=True)
class _Running:
    """An operation of the batch, which one it is, and what it asks for now."""

    number: int
    operation: Coroutine[Any, Any, Any]
    handle: Handle[Any]
    ask: _Ask


@coroutine
def _wait_for(ask: _Ask) -> Generator[_Ask, list[Reply], list[Reply]]:
    return (yield ask)


class BatchLink(Link):
    """The link that a batch's operations see: it takes them in, and hands what they ask for to the batch."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.endpoint, link.patience)
        self._beneath = link
        self._enlisted: list[tuple[Coroutine[Any, Any, Any], Handle[Any]]] = []
        self.is_open = True
        self.running = 0
        """Which operation is running, by the order of the calls."""
        self.clock: ServerClock | None = None
        """What operations tell the time by; asked before they run, since one that asks by itself would run late."""

    def enlist(self, operation: Coroutine[Any, Any, R], handle: Handle[R] | None = None) -> Handle[R]:
        """Take an operation in; it runs when the batch is sent, and the handle is told."""
        if not self.is_open:
            operation.close()
            raise NotReady("calls on a batch belong inside its `with` block")
        handle = handle or Handle()
        self._enlisted.append((operation, handle))
        return handle

    def newest(self) -> Handle[Any] | None:
        """The handle of the operation taken in last."""
        return self._enlisted[-1][1] if self._enlisted else None

    def discard(self) -> None:
        """Drop every operation unsent."""
        for operation, _ in self._enlisted:
            operation.close()
        self._enlisted.clear()

    async def send(self) -> None:
        """Run every operation to its end. Raises `LinkError` if the link fails; the handles then hold it too."""
        enlisted, self._enlisted = self._enlisted, []
        self.known = await self._prepared(enlisted)
        running = [
            next_
            for number, (operation, handle) in enumerate(enlisted)
            if (next_ := self._step(number, operation, handle, None))
        ]
        while running:
            if delay := max(one.ask.seconds for one in running):
                await self._beneath.sleep(delay)
            replies = iter(await self._answer(running))
            running = [
                next_
                for one in running
                if (next_ := self._step(one.number, one.operation, one.handle, _take(replies, one.ask)))
            ]

    def _step(
        self, number: int, operation: Coroutine[Any, Any, Any], handle: Handle[Any], replies: list[Reply] | None
    ) -> _Running | None:
        """Run one operation until it asks for something or ends."""
        self.running = number
        try:
            ask = operation.send(replies)
        except StopIteration as done:
            handle.resolve(done.value)
        except Exception as error:  # whatever the operation, or a caller's function in it, raises is its own outcome
            handle.reject(error)
        else:
            if isinstance(ask, _Ask):
                return _Running(number, operation, handle, ask)
            operation.close()
            handle.reject(Suspended(f"{name_of(operation)}: a batch cannot wait for anything but the server"))
        return None

    async def _prepared(self, enlisted: list[tuple[Coroutine[Any, Any, Any], Handle[Any]]]) -> Features:
        """What every operation has to know before it runs."""
        try:
            if self.clock is not None:
                await self.clock.asked(self._beneath)
            return await self._beneath.features()
        except LinkError as error:
            _fail(enlisted, error)
            raise
        except BaseException:  # nothing was sent
            self._enlisted = enlisted
            self.discard()
            raise

    async def _answer(self, running: list[_Running]) -> list[Reply]:
        """The replies to all that is asked, in one round trip."""
        commands = list(surely(command for one in running for command in one.ask.commands))
        if not commands:
            return []
        receipts = [one.ask.durable for one in running if one.ask.durable is not None]
        durable = Receipt.of_all(receipts) if receipts else None
        try:
            replies = await self._beneath.pipeline(
                commands, retry=all(one.ask.retry for one in running), durable=durable
            )
            for receipt in receipts:
                receipt.missing = durable.missing if durable is not None else None
            return replies
        except LinkError as error:
            _fail([(one.operation, one.handle) for one in running], error)
            raise

    async def pipeline(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> list[Reply]:
        """See `Link.pipeline`: waits for the batch's next round trip, whose strongest durability is everyone's."""
        return await _wait_for(_Ask(commands, retry, durable=durable))

    async def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> list[Reply]:
        """See `Link.exchange`."""
        return await self.pipeline(commands, retry=not fresh)

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`: the batch's next round trip waits for the longest."""
        await _wait_for(_Ask((), seconds=seconds))

    def exclusive(self, key: str) -> AbstractAsyncContextManager[Exclusive]:
        """See `Link.exclusive`: the link beneath lends it."""
        return self._beneath.exclusive(key)

    async def shards(self) -> Sequence[Link]:
        """See `Link.shards`."""
        return await self._beneath.shards()

    def colocated(self, *keys: str) -> bool:
        """See `Link.colocated`."""
        return self._beneath.colocated(*keys)

    async def aclose(self) -> None:
        """See `Link.aclose`: the link beneath stays open."""
        self.discard()


def _fail(unfinished: Iterable[tuple[Coroutine[Any, Any, Any], Handle[Any]]], error: LinkError) -> None:
    """End operations that the link has failed; the block raises the error too."""
    for operation, handle in unfinished:
        operation.close()
        handle.reject(error, told=True)


def _take(replies: Iterator[Reply], ask: _Ask) -> list[Reply]:
    """What answers it."""
    return list(islice(replies, len(ask.commands)))


class BatchOperations:
    """The stores of a batch."""

    def __init__(self, shared: Shared, job: str | None = None, step: int = 0) -> None:
        link = self._link = BatchLink(shared.link)
        self._link.is_open = False
        self._shared = shared.on(link)
        if job is not None:
            mine = StepOperations(shared.settings.operation_memory, job, step, lambda: link.running)
            self._shared = replace(self._shared, operations=mine)
        self.sessions = SessionBatch(self._shared)
        """Sessions; every call gives a `Handle`."""
        self.contexts = ContextBatch(self._shared, UserContext)
        """Contexts; every call gives a `Handle`."""
        self.entities = EntityBatch(self._shared, SimpleMemory)
        """Entities; every call gives a `Handle`."""
        self.episodes = EpisodeBatch(self._shared)
        """Episodes; every call gives a `Handle`."""
        self.semantics = SemanticBatch(self._shared)
        """Facts; every call gives a `Handle`."""
        self.skills = SkillBatch(self._shared)
        """Skills; every call gives a `Handle`."""
        self.graph = GraphBatch(self._shared)
        """Graphs; every call gives a `Handle`."""
        self.history = HistoryBatch(self._shared)
        """Conversations; every call gives a `Handle`."""
        self.threads = ThreadBatch(self._shared)
        """Threads of work; every call gives a `Handle`."""
        self.states = StateBatch(self._shared)
        """States; every call gives a `Handle`."""
        self.preferences = PreferenceBatch(self._shared)
        """Preferences; every call gives a `Handle`."""
        self.temporal = TemporalBatch(self._shared)
        """Temporal values; every call gives a `Handle`."""

    def records(self, name: str, model: type[M]) -> RecordBatch[M]:
        """See `Memory.records`; every call gives a `Handle`."""
        return RecordBatch(self._shared, name, model)


class Batch(BatchOperations):
    """``with memory.batch() as b``: see the module."""

    def __enter__(self) -> Self:
        self._link.is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._link.is_open = False
        if kind is not None:
            self._link.discard()
        else:
            run(self._link.send())


class AsyncBatch(BatchOperations):
    """``async with memory.batch() as b``: see the module."""

    async def __aenter__(self) -> Self:
        self._link.is_open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._link.is_open = False
        if kind is not None:
            self._link.discard()
        else:
            await self._link.send()
