"""States: what an agent is about in a session: its task, what it was about before, and its variables.

Contract
    A state belongs to an id, of a session or of a user. It is one hash, so whatever workers write at once is kept:
    each variable by itself, and the stack whole. `push` and `pop` are scripts: what is popped goes to one worker, once,
    even if a reply is lost and the call is repeated. The stack is never deeper than `Settings.state_max_depth`, or than
    one call wants. The times are the server's. ``last_active`` moves with every write.
    A state ends as a whole: `ttl` is for how many seconds it lives from a write on, None for ever; `KEEP_TTL` is
    `Settings.state_ttl`, or, without that, as long as it would anyway.

Round trips
    One for each call.

Errors
    `LimitExceeded` for a stack that is full and a sum beyond 64 bits, `WrongType` for adding to what is no integer,
    `ConfigError`, `InvalidKey`, `InvalidTTL`, `EncodeError`, `LinkError`; `DecodeError`, which names the place, where a
    value cannot be read. What `pop` cannot read is gone from the stack all the same.
    Any other write that raises has changed nothing, except that after `Unavailable` and `Timeout` it may have been
    applied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from redismem.durability import Durability
from redismem.errors import ConfigError, DecodeError, LimitExceeded, WrongType
from redismem.keys import field
from redismem.link.base import Argument, Reply
from redismem.op import Asyncio, Blocking, op
from redismem.scripts import script
from redismem.stores.effects import Effects
from redismem.stores.store import BatchedStore
from redismem.stores.values import Values, by_field, decoded
from redismem.ttl import KEEP_TTL, TTL, milliseconds

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT64: Final = range(-(2**63), 2**63)
_TASK: Final = "task"
_VARIABLE: Final = "variable:"
_CONTEXT: Final = "context:"


@dataclass(frozen=True, slots=True)
class SessionState:
    """A state as it was in one moment."""

    session_id: str
    task: Any
    """None if there is none."""
    context_stack: tuple[Any, ...]
    """From the bottom to the top."""
    variables: Mapping[str, Any]
    last_active: datetime | None
    """When it was last written to, by the server's clock, in UTC; None: nobody ever did, or it has ended."""
    ttl: float | None
    """For how many seconds it lives if nobody writes to it; None: it has no end."""
    unreadable: Mapping[str, DecodeError]
    """What could not be read, and is missing above: field -> why."""


class StateOperations(Effects):
    """Every operation on states, written once.

    `StateStore` and `AsyncStateStore` are what callers use; `StateBatch` is the same inside a batch.
    """

    # --- as a whole -------------------------------------------------------------------------------------------------

    @op
    async def get(self, session_id: str) -> SessionState:
        """The state; where there is none, one that says nothing."""
        key = self._keys.state(session_id)
        flat, left = await self._link.transaction((("HGETALL", key), ("PTTL", key)))
        found = Values.of(by_field(flat).items(), self._codec, key)
        places = range(1, _number(found, "depth") + 1)
        at = _number(found, "last_active")
        return SessionState(
            session_id=session_id,
            task=found.get(_TASK),
            context_stack=tuple(found[name] for place in places if (name := f"{_CONTEXT}{place}") in found),
            variables={
                name.removeprefix(_VARIABLE): value for name, value in found.items() if name.startswith(_VARIABLE)
            },
            last_active=_EPOCH + timedelta(milliseconds=at) if at else None,
            ttl=left / 1000 if left >= 0 else None,
            unreadable=found.unreadable,
        )

    @op
    async def touch(self, session_id: str, ttl: TTL = KEEP_TTL, *, durable: Durability | None = None) -> bool:
        """Note that the state is active, and give it another TTL. True if there is one."""
        return bool((await self._put(session_id, {}, ttl, durable))[1])

    @op
    async def clear(self, session_id: str, *, durable: Durability | None = None) -> bool:
        """Forget the state. True if there was one."""
        return bool(int((await self._change("state_drop", session_id, KEEP_TTL, (), durable))[1]))

    # --- task and variables -----------------------------------------------------------------------------------------

    @op
    async def set_task(
        self, session_id: str, task: Any, ttl: TTL = KEEP_TTL, *, durable: Durability | None = None
    ) -> None:
        """Say what the agent is about; None: nothing."""
        await self._put(session_id, {_TASK: task}, ttl, durable)

    @op
    async def set_variable(
        self, session_id: str, name: str, value: Any, ttl: TTL = KEEP_TTL, *, durable: Durability | None = None
    ) -> None:
        """Set one variable."""
        await self._put(session_id, {_variable(name): value}, ttl, durable)

    @op
    async def set_variables(
        self, session_id: str, variables: Mapping[str, Any], ttl: TTL = KEEP_TTL, *, durable: Durability | None = None
    ) -> None:
        """Set several variables, all or none."""
        if variables:
            await self._put(session_id, {_variable(name): value for name, value in variables.items()}, ttl, durable)

    @op
    async def get_variable(self, session_id: str, name: str, default: Any = None) -> Any:
        """The value of one variable, `default` where there is none."""
        key, place = self._keys.state(session_id), _variable(name)
        data = await self._link.execute("HGET", key, place)
        return default if data is None else decoded(data, self._codec, key, place)

    @op
    async def increment_variable(
        self, session_id: str, name: str, by: int = 1, ttl: TTL = KEEP_TTL, *, durable: Durability | None = None
    ) -> int:
        """Add to a variable and return the sum; a missing one counts as 0."""
        if type(by) is not int or by not in _INT64:
            raise LimitExceeded(f"increment by {by!r}: give a 64-bit int")
        place = _variable(name)
        reply = await self._change("state_increment", session_id, ttl, (place, by), durable)
        if reply[0] == b"OVERFLOW":
            raise LimitExceeded(f"{self._keys.state(session_id)}[{place}]: the sum would not fit in 64 bits")
        if reply[0] == b"TYPE":
            raise WrongType(f"{self._keys.state(session_id)}[{place}]: no integer; nothing was changed")
        return int(reply[1])

    @op
    async def delete_variable(self, session_id: str, name: str, *, durable: Durability | None = None) -> bool:
        """Forget one variable. True if there was one."""
        return bool(int((await self._change("state_drop", session_id, KEEP_TTL, (_variable(name),), durable))[1]))

    # --- the context stack ------------------------------------------------------------------------------------------

    @op
    async def push(
        self,
        session_id: str,
        context: Any,
        ttl: TTL = KEEP_TTL,
        *,
        max_depth: int | None = None,
        durable: Durability | None = None,
    ) -> int:
        """Push onto the stack, and return how deep it is then.

        `max_depth` is how deep it may be, None for `Settings.state_max_depth`; else it is `LimitExceeded`.
        """
        deepest = self._settings.state_max_depth if max_depth is None else max_depth
        if type(deepest) is not int or deepest < 1:
            raise ConfigError(f"max_depth={deepest!r}: give a whole number of at least 1")
        reply = await self._change("state_push", session_id, ttl, (deepest, self._codec.encode(context)), durable)
        if reply[0] == b"FULL":
            raise LimitExceeded(f"{self._keys.state(session_id)}: its stack may be {deepest} deep; nothing was pushed")
        return int(reply[1])

    @op
    async def pop(
        self, session_id: str, default: Any = None, ttl: TTL = KEEP_TTL, *, durable: Durability | None = None
    ) -> Any:
        """Take the top off the stack, and return it; `default` where nothing is left."""
        reply = await self._change("state_pop", session_id, ttl, (), durable)
        return default if reply[0] == b"EMPTY" else self._context(session_id, reply[1])

    @op
    async def peek(self, session_id: str, default: Any = None) -> Any:
        """The top of the stack, which stays there; `default` where there is none."""
        call = script("state_peek", (await self._link.features()).tier)
        data = await call(self._link, (self._keys.state(session_id),), ())
        return default if data is None else self._context(session_id, data)

    # --- what they are made of --------------------------------------------------------------------------------------

    def _context(self, session_id: str, data: bytes) -> Any:
        return decoded(data, self._codec, self._keys.state(session_id), "context")

    async def _put(self, session_id: str, values: Mapping[str, Any], ttl: TTL, durable: Durability | None) -> Reply:
        pairs = [data for name, value in values.items() for data in (name, self._codec.encode(value))]
        return await self._change("state_put", session_id, ttl, pairs, durable, once=False)

    async def _change(
        self,
        verb: str,
        session_id: str,
        ttl: TTL,
        arguments: Sequence[Argument],
        durable: Durability | None,
        *,
        once: bool = True,
    ) -> Reply:
        settings = self._settings
        lives = milliseconds(settings.state_ttl if ttl is KEEP_TTL and settings.state_ttl else ttl)
        keys = self._keys.session_operations(session_id), self._keys.state(session_id)
        return await self._effect(verb, keys, (lives, *arguments), durable, once=once)


class StateStore(StateOperations, Blocking):
    """States for threads: every operation of `StateOperations` as a plain call."""


class AsyncStateStore(StateOperations, Asyncio):
    """States for tasks: every operation of `StateOperations`, to be awaited."""


class StateBatch(StateOperations, BatchedStore):
    """States inside a batch: every operation of `StateOperations`, giving a `Handle`."""


def _variable(name: str) -> str:
    """The field of a variable. Raises `InvalidKey`."""
    return f"{_VARIABLE}{field(name).decode()}"


def _number(found: Mapping[str, Any], name: str) -> int:
    """A number of the store's own; 0 where there is none, or none that can be read."""
    number = found.get(name, 0)
    return number if type(number) is int else 0
