"""What a cluster asks of a client, without any connection: the slot of a command, and who serves it.

A pipeline falls into units, each for one node. A keyless command goes with the keyed one that follows it (SCRIPT LOAD
with its EVAL), all from MULTI to EXEC go together, and keyless commands at the end may go to any node.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from redismem.errors import Busy, PartitionMismatch
from redismem.link.faults import Aborted, Redirected

if TYPE_CHECKING:
    from redismem.link.base import Argument, Command, Reply

Address = tuple[str, int]

_KEYLESS: Final = frozenset(
    """ACL ASKING AUTH CLIENT CLUSTER COMMAND CONFIG DBSIZE DISCARD ECHO EXEC FLUSHALL FLUSHDB FUNCTION HELLO INFO
    LASTSAVE LATENCY MULTI PING PSUBSCRIBE PUBLISH PUNSUBSCRIBE ROLE SCAN SCRIPT SLOWLOG SUBSCRIBE TIME UNSUBSCRIBE
    UNWATCH WAIT WAITAOF""".split()  # noqa: SIM905  (as a list it would take a page)
)
_COUNTED: Final = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})
_ALL: Final = frozenset({"DEL", "EXISTS", "MGET", "PFCOUNT", "PFMERGE", "SDIFF", "SINTER", "SUNION", "TOUCH", "UNLINK"})
_ALL_BUT_LAST: Final = frozenset({"BLPOP", "BRPOP", "BZPOPMAX", "BZPOPMIN"})
_TWO: Final = frozenset({"BLMOVE", "COPY", "LMOVE", "RENAME", "RENAMENX", "RPOPLPUSH", "SMOVE"})
_SECOND: Final = frozenset({"MEMORY", "OBJECT"})


def keys_of(command: "Command") -> "Sequence[Argument]":
    """The keys that a command names. Of commands that are not known, the first argument is taken for one."""
    name = command[0]
    if name in _KEYLESS:
        return ()
    if name in _COUNTED:
        return command[3 : 3 + int(command[2])]
    if name in _ALL or name == "WATCH":
        return command[1:]
    if name in _ALL_BUT_LAST:
        return command[1:-1]
    if name in _TWO:
        return command[1:3]
    return command[2:3] if name in _SECOND else command[1:2]


def slot_of(key: "Argument") -> int:
    """The slot of one key: of its hash tag, if it has one."""
    return int(key_slot(key if isinstance(key, bytes) else str(key).encode()))


@dataclass(slots=True)
class Unit:
    """Commands for one node that are applied, refused and sent again together."""

    start: int
    """Where the first of them stands in the pipeline."""
    commands: "list[Command]" = field(default_factory=list["Command"])
    slot: int | None = None
    key: int = 0
    """Position of the first command that names keys."""
    multi: int | None = None
    """Position of MULTI, if they are a transaction."""
    ask: Address | None = None
    """The node to which the slot is moving, if one said that what is asked for is there already."""
    redirections: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether no more commands belong to it."""
        if self.multi is None:
            return self.slot is not None
        return self.commands[-1][0] in ("EXEC", "DISCARD")

    def add(self, command: "Command") -> None:
        """Take one more command. Raises `PartitionMismatch` if it reaches outside the unit's slot."""
        keys = keys_of(command)
        if keys and self.slot is None:
            self.slot, self.key = slot_of(keys[0]), len(self.commands)
        if self.multi is not None or len(keys) > 1:
            for key in keys:
                if slot_of(key) != self.slot:
                    raise PartitionMismatch(_spans(command, key))
        if command[0] == "MULTI":
            self.multi = len(self.commands)
        self.commands.append(command)

    @property
    def _ask_at(self) -> int:
        """Where ASKING belongs: it holds for one command, or for a whole transaction."""
        return self.key if self.multi is None else self.multi

    def sent(self) -> "list[Command]":
        """The commands as the node is to get them."""
        if self.ask is None:
            return self.commands
        return [*self.commands[: self._ask_at], ("ASKING",), *self.commands[self._ask_at :]]

    def received(self, replies: "list[Reply]") -> "list[Reply]":
        """The replies to the commands, out of those to `sent`."""
        if self.ask is not None:
            del replies[self._ask_at]
        return replies

    def refusal(self, replies: "Sequence[Reply]") -> Redirected | Busy | None:
        """Why the node applied nothing of the unit, if that is for the cluster's state and not for the commands."""
        decisive = replies[-1 if self.slot is None or self.multi is not None else self.key]
        if not isinstance(decisive, (Redirected, Busy, Aborted)):
            return None
        return next((reply for reply in replies if isinstance(reply, (Redirected, Busy))), None)


def units(commands: "Sequence[Command]") -> Iterator[Unit]:
    """The units of a pipeline. Raises `PartitionMismatch` if one would span slots."""
    unit = None
    for position, command in enumerate(commands):
        unit = unit or Unit(position)
        unit.add(command)
        if unit.is_complete:
            yield unit
            unit = None
    if unit is not None:
        yield unit


def asking(commands: "Sequence[Command]", *, inside: bool) -> "list[Command]":
    """The commands, each with ASKING before it that names keys, a transaction as a whole; `inside` of one already."""
    asked: list[Command] = []
    for command in commands:
        if not inside and (command[0] == "MULTI" or keys_of(command)):
            asked.append(("ASKING",))
        inside = command[0] == "MULTI" or (inside and command[0] not in ("EXEC", "DISCARD"))
        asked.append(command)
    return asked


def redirection(commands: "Sequence[Command]", replies: "Sequence[Reply]") -> Redirected | None:
    """Where to go, if that is what a node answered to every command that names keys."""
    keyed = [reply for command, reply in zip(commands, replies, strict=True) if keys_of(command)]
    if keyed and all(isinstance(reply, Redirected) for reply in keyed):
        return cast(Redirected, keyed[0])
    return None


def with_sources(commands: "list[Command]", sources: "dict[Argument, Argument]") -> "list[Command]":
    """The commands for one node, where the first call of each script brings its source along, if there is one.

    `sources` are those that the whole pipeline brings: what one node is told, each needs.
    """
    known: set[Argument] = set()
    told: list[Command] = []
    for command in commands:
        if command[0] == "EVALSHA" and command[1] in sources and command[1] not in known:
            known.add(command[1])
            told.append(("EVAL", sources[command[1]], *command[2:]))
        else:
            told.append(command)
    return told


def sources_in(commands: "Sequence[Command]") -> "dict[Argument, Argument]":
    """The scripts that a pipeline brings and calls by SHA later: SHA -> source."""
    if not any(command[0] == "EVALSHA" for command in commands):
        return {}
    brought = {command[1] for command in commands if command[0] == "EVAL"}
    return {sha1(str(source).encode(), usedforsecurity=False).hexdigest(): source for source in brought}


class Topology:
    """Who serves which slot, as far as is known. Thread-safe: each method is one step."""

    def __init__(self, owners: list[Address | None], replicas: Sequence[Address] = ()) -> None:
        self._owners = owners
        self.primaries = tuple(dict.fromkeys(owner for owner in owners if owner is not None))
        self._replicas = tuple(replicas)

    @classmethod
    def of(cls, reply: Any, asked: Address) -> Self:
        """From the reply to CLUSTER SLOTS of the node `asked`, which may leave its own host out."""
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        replicas: dict[Address, None] = {}
        for start, end, primary, *others in reply:
            owners[start : end + 1] = [_address(primary, asked)] * (end + 1 - start)
            replicas |= dict.fromkeys(_address(other, asked) for other in others)
        return cls(owners, tuple(replicas))

    def owner(self, slot: int | None) -> Address | None:
        """The node that serves the slot, any for None; None if nobody is known to."""
        if slot is not None:
            return self._owners[slot]
        return random.choice(self.primaries) if self.primaries else None

    def learn(self, slot: int, address: Address) -> None:
        """A node said that the slot is with another one."""
        self._owners[slot] = address

    def nodes(self) -> list[Address]:
        """All nodes, primaries first, each group in random order."""
        return [
            *random.sample(self.primaries, len(self.primaries)),
            *random.sample(self._replicas, len(self._replicas)),
        ]


def _address(node: Sequence[Any], asked: Address) -> Address:
    host = node[0].decode() if node[0] else ""
    return (asked[0] if host in ("", "?") else host, int(node[1]))


def _spans(command: "Command", key: "Argument") -> str:
    verb, name = (part.decode(errors="replace") if isinstance(part, bytes) else part for part in (command[0], key))
    return (
        f"{verb} {name}: in a cluster, the keys of one command or transaction must share a hash tag; nothing was sent"
    )
