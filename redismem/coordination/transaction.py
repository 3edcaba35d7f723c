"""Transactions: read and write several keys of one partition, as if nobody else were there.

Contract
    A partition is what one id holds, such as all namespaces of one session; in a cluster it is in one slot. A call
    that reaches outside is `PartitionMismatch`, before anything of it is sent. Reads answer at once, from the server:
    they do not see the transaction's own writes. Writes are queued and give a `Handle` each. At the end of the block
    all writes are applied at one moment at which everything that was read is still so, or none is: because others
    changed what was read (`Conflict`), because one write was refused (its own error), or because the block raised.
    A lost connection at the end is a `LinkError` that says that the transaction may have been applied.

How
    The keys that are read are WATCHed on a connection of the transaction's own, and the writes go out as one script
    between MULTI and EXEC. The server aborts that for much that is no conflict: another field of the same hash was
    written, or a field of it expired. So what EXEC aborts is sent once more to the same script, now with what was read:
    it compares, and applies in the same step. Only that can tell of a conflict, and it cannot be kept from
    telling, however fast fields expire. What a lost connection had watched is compared in this way too.

Round trips
    One for each read, one for the end, one more where EXEC aborts. A transaction without reads needs no connection of
    its own.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from types import coroutine
from typing import Any, Final, Generic, TypeVar, cast

from redismem.coordination.expectation import Expectation, Look
from redismem.durability import Receipt
from redismem.errors import ConfigError, Conflict, LinkError, NotReady, PartitionMismatch, RedisMemError, Suspended
from redismem.keys import Keys, encode_segment
from redismem.link.base import Argument, Command, Link, Reply, only
from redismem.link.exclusive import Exclusive
from redismem.link.faults import NoScript, translated
from redismem.link.features import ExpiryTier, Features
from redismem.op import Batched, Handle, name_of, run, settle
from redismem.scripts import script, surely
from redismem.stores.recent import Recent
from redismem.stores.sessions import AsyncSessionStore, SessionOperations, SessionStore
from redismem.stores.store import Shared

R = TypeVar("R")

VERBS: Final = ("save", "delete", "increment", "expire")
"""The scripts that a transaction may apply: ``lua/transaction.lua`` has them all."""


@functools.cache
def _verbs() -> dict[Argument, str]:
    """These scripts, by SHA and by source: a call may name one in either way."""
    scripts = [script(verb, tier) for verb in VERBS for tier in ExpiryTier]
    return {called: each.name for each in scripts for called in (each.sha, each.source)}


@dataclass(frozen=True)
class PartitionKeys(Keys):
    """The names of one partition's keys. Another id is a `PartitionMismatch`."""

    partition: str = ""

    def _session(self, session_id: str, part: str, *names: str) -> str:
        name = super()._session(session_id, part, *names)
        if session_id != self.partition:
            raise PartitionMismatch(
                f"the transaction is on {self.partition!r} and cannot reach {session_id!r}: "
                "keys that change together belong to one id"
            )
        return name


def partition_of(partition_ids: Sequence[str]) -> str:
    """The one id that all of these are. Raises `PartitionMismatch`, `InvalidKey`."""
    for partition_id in partition_ids:
        encode_segment(partition_id, "partition_id")
    if len(set(partition_ids)) != 1:
        raise PartitionMismatch(
            f"a transaction is on one id, not {len(set(partition_ids))}: keys of others may be on another server"
        )
    return partition_ids[0]


# --- the links that operations see ------------------------------------------------------------------------------------


class _PartLink(Link):
    """What the two links of a transaction have in common: they stand on another one, and on what it knows."""

    def __init__(self, beneath: Link) -> None:
        super().__init__(beneath.endpoint, beneath.patience, beneath.traffic)
        self.beneath = beneath

    async def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> list[Reply]:
        """See `Link.exchange`."""
        return await self.pipeline(commands, retry=not fresh)

    async def features(self) -> Features:
        """See `Link.features`."""
        return self.known or await self.beneath.features()

    def exclusive(self, key: str) -> AbstractAsyncContextManager[Exclusive]:
        """See `Link.exclusive`."""
        return self.beneath.exclusive(key)

    def colocated(self, *keys: str) -> bool:
        """See `Link.colocated`."""
        return self.beneath.colocated(*keys)

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        await self.beneath.sleep(seconds)

    async def aclose(self) -> None:
        """See `Link.aclose`: the link beneath stays open."""


class ReadLink(_PartLink):
    """Answers at once, watches every key that is read, and keeps what was told."""

    def __init__(self, beneath: Link, meta: str) -> None:
        super().__init__(beneath)
        self.expectations: list[Expectation] = []
        self.is_open = False
        self._meta = meta
        self._stack = AsyncExitStack()
        self._own: Exclusive | None = None
        self._read: set[Argument] = set()
        self._turn = asyncio.Lock()  # the connection is for one task at a time; without others it never waits

    async def pipeline(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> list[Reply]:
        """See `Link.pipeline`. A round trip, on the transaction's own connection."""
        if not self.is_open:
            raise NotReady("calls on a transaction belong inside its block")
        tier = (await self.features()).tier
        looks = [Look(command, tier, self._meta) for command in commands]
        async with self._turn:
            replies = iter(await self._answers(looks))
        told = [[next(replies) for _ in look.sent] for look in looks]
        for look, replies_to_it in zip(looks, told, strict=True):
            self.expectations += look.expectations(replies_to_it)
        return [look.reply(replies_to_it) for look, replies_to_it in zip(looks, told, strict=True)]

    async def transaction(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> Sequence[Reply]:
        """See `Link.transaction`: that nothing changed in between is what the whole transaction sees to."""
        return only(await self.pipeline(commands))

    async def apply(self, command: Command, durable: Receipt | None) -> Reply:
        """The reply to a script between MULTI and EXEC; None: nothing was applied, for whatever reason.

        Raises `LinkError` if the connection breaks: then the script may have been run.
        """
        own, self._own = self._own, None
        if own is None:
            return None
        commands: list[Command] = [("MULTI",), command, ("EXEC",)]
        if durable is not None:
            commands.append(durable.durability.question)
        replies = await own.exchange(commands, timeout=durable.durability.timeout if durable else None)
        executed = replies[2]
        if executed is None or isinstance(executed, LinkError):
            return None
        (reply,) = translated(executed)
        if isinstance(reply, NoScript):
            return None
        if durable is not None:
            durable.note((reply,), replies[3])
        return only((reply,))[0]

    async def end(self, error: BaseException | None = None) -> None:
        """Give the connection back, or close it after an error."""
        self.is_open = False
        await self._stack.__aexit__(type(error) if error else None, error, None)

    async def _answers(self, looks: Sequence[Look]) -> list[Reply]:
        commands = list(surely(command for look in looks for command in look.sent))
        new = tuple(dict.fromkeys(key for look in looks for key in look.keys if key not in self._read))
        watch: tuple[Command, ...] = (("WATCH", *new),) if new else ()
        try:
            if not self._read:
                self._own = await self._stack.enter_async_context(self.beneath.exclusive(self._meta))
            self._read.update(new)
            if self._own is not None:
                return list(only(await self._own.exchange((*watch, *commands)))[len(watch) :])
        except LinkError:
            self._read.update(new)
        self._own = None  # what was watched is compared at the end; the link has more patience with whatever it was
        return await self.beneath.pipeline(commands)


@dataclass(frozen=True, slots=True)
class _Ask:
    commands: Sequence[Command]
    retry: bool
    durable: Receipt | None


@coroutine
def _wait_for(ask: _Ask) -> Generator[_Ask, list[Reply], list[Reply]]:
    return (yield ask)


@dataclass(slots=True)
class _Write:
    """A queued operation, its handle, and what it asks for: a verb's script, until that was applied."""

    operation: Coroutine[Any, Any, Any]
    handle: Handle[Any]
    ask: _Ask


class WriteLink(_PartLink):
    """Takes operations in up to the script that they would run, and runs all these scripts as one."""

    def __init__(self, beneath: Link) -> None:
        super().__init__(beneath)
        self.writes: list[_Write] = []
        self.is_open = False

    def enlist(self, operation: Coroutine[Any, Any, R]) -> Handle[R]:
        """Take an operation in. What is wrong with it by itself is raised here."""
        if not self.is_open:
            operation.close()
            raise NotReady("calls on a transaction belong inside its block")
        handle: Handle[R] = Handle()
        if (ask := _step(operation, handle, None)) is not None:
            self.writes.append(_Write(operation, handle, ask))
        return handle

    def discard(self) -> None:
        """Drop every operation unsent."""
        self.is_open = False
        for write in self.writes:
            write.operation.close()
        self.writes.clear()

    async def pipeline(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> list[Reply]:
        """See `Link.pipeline`: waits for the end of the transaction."""
        return await _wait_for(_Ask(commands, retry, durable))

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        raise Suspended("a queued write cannot wait")

    async def applied(self, reads: ReadLink) -> bool:
        """Apply all writes if what was read is still so; whether it is. Raises a refused write's error, `LinkError`."""
        while self.writes or reads.expectations:
            match await self._run(reads):
                case [b"OK", replies]:
                    await self._finish(replies)
                    return True
                case [b"REFUSED", int(which), refusal]:
                    await self._hear(self.writes[which], refusal)
                case _:
                    return False
        return True

    async def _run(self, reads: ReadLink) -> Reply:
        whole = script("transaction", tier := (await self.features()).tier)
        receipts = [write.ask.durable for write in self.writes if write.ask.durable is not None]
        durable = Receipt.of_all(receipts) if receipts else None
        reply = await reads.apply(whole.command(*self._arguments(tier, ())), durable)
        if reply is None:
            keys, arguments = self._arguments(tier, reads.expectations)
            reply = await whole(self.beneath, keys, arguments, retry=False, durable=durable)
        for receipt in receipts:
            receipt.missing = durable.missing if durable is not None else None
        return reply

    def _arguments(
        self, tier: ExpiryTier, expectations: Sequence[Expectation]
    ) -> tuple[list[Argument], list[Argument]]:
        """KEYS and ARGV of ``lua/transaction.lua``."""
        keys: list[Argument] = []
        arguments: list[Argument] = [tier, len(expectations)]

        def add(kind: str, its_keys: Sequence[Argument], its_arguments: Sequence[Argument]) -> None:
            keys.extend(its_keys)
            arguments.extend((kind, len(its_keys), len(its_arguments), *its_arguments))

        for each in expectations:
            add(each.kind, each.keys, each.arguments)
        arguments.append(len(self.writes))
        for write in self.writes:
            _, called, count, *rest = write.ask.commands[0]
            add(_verbs()[called], rest[: int(count)], rest[int(count) :])
        return keys, arguments

    async def _hear(self, write: _Write, refusal: Reply) -> None:
        """Tell a write that it was refused: it raises, or looks again and asks for the same once more."""
        ask = _step(write.operation, write.handle, list(translated([refusal], write.ask.commands[0])))
        while ask is not None and not self._is_verb(ask):
            ask = _step(write.operation, write.handle, await self._answer(ask))
        if ask is None:
            raise NotReady(f"{name_of(write.operation)} was refused, and did not say why")
        write.ask = ask

    async def _finish(self, replies: Sequence[Reply]) -> None:
        """Give every write its reply, and whatever else it asks for. What then fails is raised when all are done."""
        failed: Exception | None = None
        for write, reply in zip(self.writes, replies, strict=True):
            try:
                ask = _step(write.operation, write.handle, [reply])
                while ask is not None:
                    ask = _step(write.operation, write.handle, await self._answer(ask))
            except RedisMemError as error:
                failed = failed or error
        self.writes.clear()
        if failed is not None:
            raise failed

    async def _answer(self, ask: _Ask) -> list[Reply]:
        return await self.beneath.pipeline(list(surely(ask.commands)), retry=ask.retry, durable=ask.durable)

    @staticmethod
    def _is_verb(ask: _Ask) -> bool:
        return ask.commands[0][0] in ("EVALSHA", "EVAL") and ask.commands[0][1] in _verbs()


def _step(operation: Coroutine[Any, Any, Any], handle: Handle[Any], replies: list[Reply] | None) -> _Ask | None:
    """Run one operation until it asks for something; None: it has ended. Its own errors are raised."""
    try:
        ask = operation.send(replies)
    except StopIteration as done:
        handle.resolve(done.value)
        return None
    except BaseException as error:
        handle.reject(error, told=True)
        raise
    if isinstance(ask, _Ask):
        return ask
    operation.close()
    raise Suspended(f"{name_of(operation)}: a queued write cannot wait for anything but the server")


# --- what callers use -------------------------------------------------------------------------------------------------


class SessionQueue(SessionOperations, Batched):
    """The writes of a transaction."""

    _link: WriteLink

    @property
    def batch(self) -> WriteLink:
        """See `Batched.batch`."""
        return self._link


class _Writes:
    """The writes of `SessionOperations`, queued: each gives a `Handle` on what it gives at the end."""

    def __init__(self, writes: SessionQueue) -> None:
        self.save = writes.save
        self.save_many = writes.save_many
        self.delete = writes.delete
        self.increment = writes.increment
        self.expire = writes.expire


class TransactionSessions(_Writes):
    """Sessions in a transaction: reads answer at once, writes are queued."""

    def __init__(self, reads: SessionStore, writes: SessionQueue) -> None:
        super().__init__(writes)
        self.load = reads.load
        self.load_many = reads.load_many
        self.get_all = reads.get_all
        self.ttl = reads.ttl
        self.info = reads.info
        self.namespaces = reads.namespaces


class AsyncTransactionSessions(_Writes):
    """As `TransactionSessions`, but reads are awaited; writes are queued by plain calls here too."""

    def __init__(self, reads: AsyncSessionStore, writes: SessionQueue) -> None:
        super().__init__(writes)
        self.load = reads.load
        self.load_many = reads.load_many
        self.get_all = reads.get_all
        self.ttl = reads.ttl
        self.info = reads.info
        self.namespaces = reads.namespaces


class _Attempt:
    """What was read, what is to be written, and how it ends."""

    def __init__(self, shared: Shared, partition: str) -> None:
        keys = PartitionKeys(shared.keys.prefix, partition)
        self._reads = ReadLink(shared.link, keys.session_meta(partition))
        self._writes = WriteLink(shared.link)
        # reads must not write; and for every write to be one script, it may rely on nothing that was learned before
        settings, recent = shared.settings.model_copy(update={"refresh_on_read": False}), Recent()
        recent.learn_namespaces(partition, shared.recent.namespaces(partition))
        self._reading = replace(shared, settings=settings, keys=keys, link=self._reads)
        self._writing = SessionQueue(replace(shared, recent=recent, keys=keys, link=self._writes))

    async def begin(self) -> None:
        """Ready for calls."""
        self._writes.known = await self._writes.features()
        self._reads.is_open = self._writes.is_open = True

    async def commit(self) -> bool:
        """Apply the writes; false if what was read has changed. Raises a refused write's error, `LinkError`."""
        self._reads.is_open = self._writes.is_open = False
        try:
            applied = await self._writes.applied(self._reads)
        except BaseException as error:
            await self.roll_back(error)
            raise
        await self.roll_back(None)
        return applied

    async def roll_back(self, error: BaseException | None) -> None:
        """What has not been applied never will be."""
        self._reads.is_open = False
        self._writes.discard()
        await self._reads.end(error)


class Attempt(_Attempt):
    """What the block or the function of a transaction gets. For one thread."""

    def __init__(self, shared: Shared, partition: str) -> None:
        super().__init__(shared, partition)
        self.sessions = TransactionSessions(SessionStore(self._reading), self._writing)
        """Sessions: only the transaction's own."""


class AsyncAttempt(_Attempt):
    """As `Attempt`, for tasks."""

    def __init__(self, shared: Shared, partition: str) -> None:
        super().__init__(shared, partition)
        self.sessions = AsyncTransactionSessions(AsyncSessionStore(self._reading), self._writing)
        """Sessions: only the transaction's own."""


A = TypeVar("A", bound=_Attempt)


class TransactionOperations(Generic[A]):
    """What both flavours of a transaction share."""

    def __init__(self, shared: Shared, partition_ids: Sequence[str], attempts: int | None) -> None:
        self._shared = shared
        self._partition = partition_of(partition_ids)
        if attempts is not None and (type(attempts) is not int or attempts < 1):
            raise ConfigError(f"attempts={attempts!r}: give an int from 1, or None for `update_attempts`")
        self._attempts = shared.settings.update_attempts if attempts is None else attempts
        self._entered: list[A] = []

    async def _enter(self, attempt: A) -> A:
        await attempt.begin()
        self._entered.append(attempt)
        return attempt

    async def _exit(self, error: BaseException | None) -> None:
        attempt = self._entered.pop()
        if error is not None:
            await attempt.roll_back(error)
        elif not await attempt.commit():
            raise self._conflict(1)

    async def _run(self, kind: Callable[[Shared, str], A], fn: Callable[[A], Any]) -> Any:
        for number in range(self._attempts):
            attempt = kind(self._shared, self._partition)
            await attempt.begin()
            try:
                result = await settle(fn(attempt))
            except BaseException as error:
                await attempt.roll_back(error)
                raise
            if await attempt.commit():
                return result
            await self._shared.link.sleep(random.uniform(0, 0.001 * 2 ** min(number, 9)))
        raise self._conflict(self._attempts)

    def _conflict(self, attempts: int) -> Conflict:
        return Conflict(
            f"the transaction on {self._partition!r}: others changed what it had read, at every attempt ({attempts}); "
            "read less, keep the time between reading and the end short, or allow more attempts"
        )


class Transaction(TransactionOperations[Attempt]):
    """``with memory.transaction(id) as t``, one attempt; or ``memory.transaction(id).run(fn)``: see the module."""

    def __enter__(self) -> Attempt:
        return run(self._enter(Attempt(self._shared, self._partition)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        run(self._exit(error))

    def run(self, fn: Callable[[Attempt], R]) -> R:
        """What `fn(t)` returns, once its writes are applied; it starts over when others changed what it had read.

        So `fn` may be called several times; between attempts the call waits for a short, random time, longer each
        time. Raises `Conflict` after as many attempts as were allowed, by default `Settings.update_attempts`; what
        `fn` raises, and what refuses one of its writes, at once.
        """
        return cast(R, run(self._run(Attempt, fn)))


class AsyncTransaction(TransactionOperations[AsyncAttempt]):
    """As `Transaction`, for tasks: ``async with``, and ``await ... .run(fn)``."""

    async def __aenter__(self) -> AsyncAttempt:
        return await self._enter(AsyncAttempt(self._shared, self._partition))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self._exit(error)

    async def run(self, fn: Callable[[AsyncAttempt], Awaitable[R]]) -> R:
        """See `Transaction.run`; `fn` is a coroutine function."""
        return cast(R, await self._run(AsyncAttempt, fn))
