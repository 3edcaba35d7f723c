"""The cluster's link: one ordinary link for each primary, and the knowledge which slot is where.

A pipeline is split into units (`redismem.link.slots`) and goes to all nodes at once: tasks wait for all of them
together, threads write to each before they read from the first. The replies come back in the order of the commands.

What the cluster refuses is sent again, for it was not applied: after MOVED and ASK where they say, at most
``MOST_REDIRECTIONS`` times; after TRYAGAIN, CLUSTERDOWN and LOADING, and after a node that failed, for as long as
`redismem.link.base.Tries` has patience for a failover. Only what may have been applied, and may not be applied twice,
is an error at once. An error of one node is the reply of the commands that went there; if every node failed, it is
raised.

The map of the slots is asked anew, from any node, after faults and redirections.
"""

import asyncio
import functools
import random
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Generic, TypeVar, cast

from redis.connection import AbstractConnection

from redismem.durability import Receipt
from redismem.errors import Busy, LinkError, ServerError
from redismem.link.asyncio import AsyncLink
from redismem.link.base import Command, Link, Patience, Reply, Traffic, Tries
from redismem.link.blocking import BlockingLink, broken
from redismem.link.endpoint import Endpoint
from redismem.link.exclusive import Exclusive, Own
from redismem.link.faults import Deserted, Fault, Redirected
from redismem.link.slots import (
    Address,
    Topology,
    Unit,
    asking,
    redirection,
    slot_of,
    sources_in,
    units,
    with_sources,
)

MOST_REDIRECTIONS: Final = 16
"""How often one unit follows MOVED and ASK. Two are usual in a slot's move; more wait a little each."""
_AT_ONCE: Final = 3
_RECENT: Final = 0.05
"""Seconds for which the map of slots is not asked for again."""

T = TypeVar("T")
N = TypeVar("N", bound="BlockingLink | AsyncLink")
Request = tuple[N, list[Command]]


class ClusterLink(Link, Generic[N]):
    """A way to a cluster; `N` is the link to one node. Shares what that shares."""

    def __init__(self, endpoint: Endpoint, patience: Patience) -> None:
        super().__init__(endpoint, patience)
        self._nodes: dict[Address, N] = {}
        self._topology = Topology([])
        self._asked_at = float("-inf")
        self._is_stale = True
        self._silent: set[Address] = set()

    # --- what flavours differ in ------------------------------------------------------------------------------------

    @abstractmethod
    def new_node(self, endpoint: Endpoint, traffic: Traffic) -> N:
        """A link to one node."""

    @abstractmethod
    async def exchange_all(self, requests: Sequence[Request[N]], *, fresh: bool, blocks: float) -> list[Any]:
        """Several exchanges at once: for each its replies, or its `Fault`."""

    # --- what callers use -------------------------------------------------------------------------------------------

    async def pipeline(
        self, commands: Sequence[Command], *, retry: bool = True, durable: Receipt | None = None
    ) -> list[Reply]:
        """See `Link.pipeline`: a round trip to all nodes at once; `durable` asks each of them.

        Raises `PartitionMismatch`, before anything is sent, for a command or transaction whose keys span slots.
        """
        call = _Call(self, commands, retry, durable)
        while call.waiting:
            await call.round()
        return call.replies()

    async def exchange(self, commands: Sequence[Command], *, fresh: bool, blocks: float = 0.0) -> list[Reply]:
        """See `Link.exchange`: commands of one slot, or keyless ones."""
        (unit,) = units(commands)
        address = await self.locate(unit.slot)
        return await self.node(address).exchange(commands, fresh=fresh, blocks=blocks)

    @asynccontextmanager
    async def exclusive(self, key: str) -> AsyncGenerator[Exclusive]:
        """See `Link.exclusive`. It follows the key's slot as long as neither WATCH nor MULTI ties it to a node."""
        async with AsyncExitStack() as stack:
            follower = _Follower(self, slot_of(key), stack)
            await follower.connect()
            yield follower

    async def shards(self) -> Sequence[Link]:
        """See `Link.shards`: the primaries of this moment. One round trip, to ask who they are."""
        tries: Tries | None = None
        while True:
            try:
                await self.refresh()
                return tuple(map(self.node, self._topology.primaries))
            except Fault as fault:
                tries = tries or self.tries()
                if not tries.another(fault.cause):
                    raise fault.as_error(self.endpoint.name, applied_unknown=False) from fault.cause
            await self.sleep(tries.delay)

    def colocated(self, *keys: str) -> bool:
        """See `Link.colocated`: whether the keys are in one slot."""
        return len({slot_of(key) for key in keys}) <= 1

    async def aclose(self) -> None:
        """See `Link.aclose`."""
        self.closed = True
        for node in list(self._nodes.values()):
            await node.aclose()

    # --- who is where -----------------------------------------------------------------------------------------------

    def node(self, address: Address) -> N:
        """The link to a node."""
        node = self._nodes.get(address)
        if node is None:
            self.refuse_if_closed()
            node = self._nodes.setdefault(address, self.new_node(self.endpoint.node(*address), self.traffic))
        return node

    async def locate(self, slot: int | None) -> Address:
        """The node that serves a slot, any for None. Raises `Fault` if none is known to, or no node answers."""
        if not self._topology.primaries or (self._is_stale and time.monotonic() - self._asked_at > _RECENT):
            await self.refresh()
        owner = self._topology.owner(slot)
        if owner is None:
            self._is_stale = True
            raise Fault(Busy(f"{self.endpoint.name}: no node serves the slot {slot} now"), unsent=True)
        return owner

    async def refresh(self) -> None:
        """Ask the nodes, until one answers, who serves what. Raises `Fault`; `ServerError` if it is no cluster."""
        self.refuse_if_closed()
        self._asked_at, self._is_stale = time.monotonic(), False
        last: Exception = Deserted(f"{self.endpoint.name}: no node answers")
        for address in self._candidates():
            try:
                reply = (await self.node(address).exchange((("CLUSTER", "SLOTS"),), fresh=True))[0]
            except Fault as fault:
                self.refuse_if_closed()
                self._silent.add(address)
                error = fault.as_error(f"{self.endpoint.name}: {address[0]}:{address[1]}", applied_unknown=False)
                last = error if isinstance(error, ServerError) else Deserted(str(error))
                continue
            self._silent.discard(address)
            if isinstance(reply, Busy):
                last = reply
            elif isinstance(reply, LinkError):
                raise reply
            else:
                return self._adopt(Topology.of(reply, address))
        self._is_stale = True
        raise Fault(last, unsent=True)

    def distrust(self, address: Address) -> None:
        """A node has failed: others know whether another takes over."""
        self._silent.add(address)
        self._is_stale, self.known = True, None

    def follow(self, redirected: Redirected, said_by: Address) -> Address:
        """Where a node says that a slot is. The rest of the map may be old as well."""
        address = (redirected.host or said_by[0], redirected.port)
        if not redirected.asking:
            self._topology.learn(redirected.slot, address)
            self._is_stale = True
        return address

    def _candidates(self) -> list[Address]:
        """Whom to ask for the map: those that answered last time come first."""
        seeds = random.sample(self.endpoint.seeds, len(self.endpoint.seeds))
        return sorted(dict.fromkeys([*self._topology.nodes(), *seeds]), key=self._silent.__contains__)

    def _adopt(self, topology: Topology) -> None:
        self._topology = topology
        for address in self._nodes.keys() - topology.primaries:
            self._nodes.pop(address, None)  # unclosed: another thread or task may be in the middle of a call
        self._silent.intersection_update({*topology.nodes(), *self.endpoint.seeds})


class _Call(Generic[N]):
    """One pipeline on its way: what still waits for replies, and what came back."""

    def __init__(self, link: ClusterLink[N], commands: Sequence[Command], retry: bool, durable: Receipt | None) -> None:
        self.waiting = list(units(commands))
        self._sources = sources_in(commands) if len(self.waiting) > 1 else {}
        self._link = link
        self._retry = retry
        self._durable = durable
        self._replies: list[Reply] = [None] * len(commands)
        self._errors: dict[int, LinkError] = {}
        self._count = len(self.waiting)
        self._tries: Tries | None = None
        self._sent = False
        self._pause = 0.0
        self._has_failed = False

    def replies(self) -> list[Reply]:
        """What came back. Raises `LinkError` if nothing did."""
        if self._errors and len(self._errors) == self._count:
            raise next(iter(self._errors.values()))
        return self._replies

    async def round(self) -> None:
        """Send everything that waits, to all nodes at once; what they refused waits for the next round."""
        waiting, self.waiting, self._pause = self.waiting, [], 0.0
        self._has_failed = False
        groups = await self._by_node(waiting)
        requests = [(self._link.node(address), self._sent_to(group)) for address, group in groups.items()]
        blocks = self._durable.durability.timeout if self._durable is not None else 0.0
        answers = await self._link.exchange_all(requests, fresh=not self._retry, blocks=blocks)
        for (address, group), answer in zip(groups.items(), answers, strict=True):
            if isinstance(answer, Fault):
                self._failed(address, group, answer)
            else:
                self._answered(address, group, answer)
        if self.waiting:
            self._link.traffic.count("retries")
            if self._pause:
                await self._link.sleep(self._pause)

    async def _by_node(self, waiting: list[Unit]) -> dict[Address, list[Unit]]:
        """The units by the node that they go to; those for which there is none now wait for the next round."""
        groups: dict[Address, list[Unit]] = {}
        for unit in waiting:
            try:
                address = unit.ask or await self._link.locate(unit.slot)
            except Fault as fault:
                self._link.refuse_if_closed()
                self._again_or_end([unit], fault, unsent=True)
            else:
                groups.setdefault(address, []).append(unit)
        return groups

    def _sent_to(self, group: list[Unit]) -> list[Command]:
        commands = [command for unit in group for command in unit.sent()]
        if self._sources:
            commands = with_sources(commands, self._sources)
        return commands if self._durable is None else [*commands, self._durable.durability.question]

    def _answered(self, address: Address, group: list[Unit], replies: list[Reply]) -> None:
        if self._durable is not None:
            self._durable.note(replies, replies.pop())
        position = 0
        for unit in group:
            length = len(unit.sent())
            own = unit.received(replies[position : position + length])
            position += length
            refusal = unit.refusal(own)
            if refusal is None or not self._goes_on(unit, address, refusal):
                self._replies[unit.start : unit.start + len(own)] = own

    def _goes_on(self, unit: Unit, address: Address, refusal: Redirected | Busy) -> bool:
        """Whether a unit that a node refused is sent again."""
        if isinstance(refusal, Redirected):
            target = self._link.follow(refusal, address)
            unit.ask = target if refusal.asking else None
            unit.redirections += 1
            if unit.redirections > MOST_REDIRECTIONS:
                return False
            if unit.redirections > _AT_ONCE:
                self._wait(self._link.patience.delay(unit.redirections - _AT_ONCE))
        else:
            unit.ask = None
            self._link.distrust(address)
            if not self._another(refusal):
                return False
        self.waiting.append(unit)
        return True

    def _failed(self, address: Address, group: list[Unit], fault: Fault) -> None:
        self._link.refuse_if_closed()
        self._link.distrust(address)
        for unit in group:
            unit.ask = None
        self._sent = self._sent or not fault.unsent
        self._again_or_end(group, fault, unsent=fault.unsent)

    def _again_or_end(self, group: list[Unit], fault: Fault, *, unsent: bool) -> None:
        if (self._retry or unsent) and self._another(fault.cause):
            self.waiting += group
            return
        error = fault.as_error(self._link.endpoint.name, applied_unknown=self._sent)
        for unit in group:
            self._errors[unit.start] = error
            self._replies[unit.start : unit.start + len(unit.commands)] = [error] * len(unit.commands)

    def _another(self, cause: Exception) -> bool:
        """Whether there is patience for another attempt; once for each round."""
        if self._has_failed:
            return True
        self._tries = self._tries or self._link.tries()
        if not self._tries.another(cause):
            return False
        self._has_failed = True
        self._wait(self._tries.delay)
        return True

    def _wait(self, seconds: float) -> None:
        self._pause = max(self._pause, seconds)


class _Follower(Exclusive):
    """A connection of one caller to the node that serves one slot, wherever that is."""

    def __init__(self, link: ClusterLink[Any], slot: int, stack: AsyncExitStack) -> None:
        self._link = link
        self._slot = slot
        self._stack = stack
        self._asking = False
        self._address: Address = ("", 0)
        self._own: Own

    async def connect(self, address: Address | None = None) -> None:
        """Borrow a connection to the node, by default that which serves the slot. Raises `LinkError`."""
        tries: Tries | None = None
        while True:
            try:
                self._address = address or await self._link.locate(self._slot)
                node = self._link.node(self._address)
                self._own = await self._stack.enter_async_context(node.exclusive(""))
                return
            except Fault as fault:
                self._link.refuse_if_closed()
                cause: Exception = fault.as_error(self._link.endpoint.name, applied_unknown=False)
            except LinkError as error:
                self._link.refuse_if_closed()
                self._link.distrust(self._address)
                cause = error
            address, tries = None, tries or self._link.tries()
            if not tries.another(cause):
                raise cause
            await self._link.sleep(tries.delay)

    async def exchange(self, commands: Sequence[Command], *, timeout: float | None = None) -> list[Reply]:
        """See `Exclusive.exchange`. What the node sends elsewhere as a whole is sent there."""
        replies: list[Reply] = []
        for _ in range(MOST_REDIRECTIONS):
            own = self._own
            is_free = own.is_as_new
            replies = await self._exchange(own, commands, timeout)
            redirected = redirection(commands, replies)
            if redirected is None:
                break
            address = self._link.follow(redirected, self._address)
            if not is_free:
                break  # a WATCH or a MULTI would stay behind
            self._asking = redirected.asking
            await self.connect(address)
        return replies

    async def _exchange(self, own: Own, commands: Sequence[Command], timeout: float | None) -> list[Reply]:
        if not self._asking:
            return await own.exchange(commands, timeout=timeout)
        sent = asking(commands, inside=own.is_in_transaction)
        replies = await own.exchange(sent, timeout=timeout)
        return [reply for command, reply in zip(sent, replies, strict=True) if command != ("ASKING",)]


class BlockingClusterLink(ClusterLink[BlockingLink]):
    """For threads: each has a connection to each node that it needs. Thread-safe and fork-safe."""

    def new_node(self, endpoint: Endpoint, traffic: Traffic) -> BlockingLink:
        """See `ClusterLink.new_node`."""
        return BlockingLink(endpoint, self.patience, traffic)

    async def exchange_all(
        self, requests: Sequence[Request[BlockingLink]], *, fresh: bool, blocks: float
    ) -> list[list[Reply] | Fault]:
        """See `ClusterLink.exchange_all`: write to each node, then read from each."""
        talks = [_Talk(node, commands, fresh=fresh) for node, commands in requests]
        try:
            for talk in talks:
                talk.send()
            return [talk.receive(blocks) for talk in talks]
        except BaseException:
            for talk in talks:
                talk.hang_up()  # as in a link to one server: no later caller may get these replies
            raise

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        time.sleep(seconds)  # noqa: ASYNC251  (this flavour blocks)


class _Talk:
    """One exchange of several at once. A `Fault` takes the place of its replies."""

    def __init__(self, node: BlockingLink, commands: list[Command], *, fresh: bool) -> None:
        self._node = node
        self._commands = commands
        self._connection: AbstractConnection | None = None
        self._fault: Fault | None = None
        try:
            self._connection = node.connected(fresh=fresh)
        except Fault as fault:
            self._fault = fault

    def send(self) -> None:
        if self._connection is not None:
            self._or_fault(functools.partial(self._node.send, self._connection, self._commands))

    def receive(self, blocks: float) -> list[Reply] | Fault:
        replies: list[Reply] | None = None
        if self._connection is not None and self._fault is None:
            receive = functools.partial(self._node.receive, self._connection, self._commands, blocks=blocks)
            replies = self._or_fault(receive)
        return cast(Fault, self._fault) if replies is None else replies

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()

    def _or_fault(self, part: Callable[[], T]) -> T | None:
        try:
            return part()
        except Exception as error:
            failure = broken(error)
            if not isinstance(failure, Fault):
                raise
            self.hang_up()
            self._fault = failure
            return None


class AsyncClusterLink(ClusterLink[AsyncLink]):
    """For tasks: one connection to each node for each event loop, shared by all tasks. As `AsyncLink` otherwise."""

    def new_node(self, endpoint: Endpoint, traffic: Traffic) -> AsyncLink:
        """See `ClusterLink.new_node`."""
        return AsyncLink(endpoint, self.patience, traffic)

    async def exchange_all(
        self, requests: Sequence[Request[AsyncLink]], *, fresh: bool, blocks: float
    ) -> list[list[Reply] | Fault]:
        """See `ClusterLink.exchange_all`."""
        exchanges = [_outcome(node, commands, fresh=fresh, blocks=blocks) for node, commands in requests]
        if len(exchanges) == 1:
            return [await exchanges[0]]
        return await asyncio.gather(*exchanges)

    async def sleep(self, seconds: float) -> None:
        """See `Link.sleep`."""
        await asyncio.sleep(seconds)

    async def offload(self, work: Callable[[], T]) -> T:
        """See `Link.offload`."""
        return await asyncio.to_thread(work)


async def _outcome(node: AsyncLink, commands: Sequence[Command], **how: Any) -> list[Reply] | Fault:
    try:
        return await node.exchange(commands, **how)
    except Fault as fault:
        return fault


def blocking_link(endpoint: Endpoint, patience: Patience) -> Link:
    """The link for threads to what the endpoint names: one server, or a cluster."""
    return BlockingClusterLink(endpoint, patience) if endpoint.seeds else BlockingLink(endpoint, patience)


def async_link(endpoint: Endpoint, patience: Patience) -> Link:
    """The link for tasks to what the endpoint names: one server, or a cluster."""
    return AsyncClusterLink(endpoint, patience) if endpoint.seeds else AsyncLink(endpoint, patience)
