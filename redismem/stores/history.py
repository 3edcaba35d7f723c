"""Histories: what was said, by whom and when, in the conversations of a user.

Contract
    The script that appends a turn numbers it, from 1 on: turns of any number of writers have one order, without gaps
    or duplicates, and `extend` appends its turns one after the other, with nobody's in between. A conversation may be
    bounded by turns, bytes and tokens (`Settings.history_max_turns` and so on, or for one call); the oldest turns go in
    the same script, so no reader ever finds more, and no more goes than must. The times are the server's, and never go
    back from one turn to the next. A conversation that was cleared, or has expired, begins again at 1.
    Of a turn, the bytes are those that its content and metadata take as they are stored, and the tokens those that the
    caller says; if it says nothing, one for every four bytes of text, rounded up.

Round trips
    One for each operation, which is one script; as many turns as are asked for come with it.

Errors
    `SchemaError` for what is no turn, `LimitExceeded` for a turn that does not fit the bounds by itself, `ConfigError`
    for arguments that cannot work, `InvalidKey`, `InvalidTTL`, `EncodeError`, `LinkError`. Turns that cannot be read
    are in `Turns.unreadable`, and hide none of the others.
    A write that raises has changed nothing, except that after `Unavailable` and `Timeout` it may have been applied.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError

from redismem.durability import Durability
from redismem.errors import ConfigError, DecodeError, LimitExceeded, SchemaError, problems
from redismem.link.base import Argument
from redismem.op import Asyncio, Blocking, op
from redismem.scripts import script
from redismem.stores.arguments import moment, natural
from redismem.stores.effects import Effects
from redismem.stores.store import BatchedStore
from redismem.ttl import KEEP_TTL, TTL, milliseconds

DEFAULT: Final = "default"
"""The conversation of a user who has but one."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

Tokens = Annotated[int, Field(ge=0, lt=2**31)]


class NewTurn(BaseModel, frozen=True, extra="forbid"):
    """What somebody says."""

    role: Annotated[str, Field(strict=True, min_length=1, max_length=100)]
    """Who: such as `user`, `assistant`, `tool`."""
    content: Annotated[str, Field(strict=True)]
    tokens: Tokens | None = None
    """None: they are estimated."""
    metadata: dict[str, Any] = {}
    """Whatever else there is to say: values of any type that can be stored."""


class Turn(NewTurn, frozen=True):
    """What somebody said."""

    number: int
    """Its place in the conversation, from 1 on."""
    at: datetime
    """When, by the server's clock, in UTC."""
    tokens: Tokens = 0  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen: it is only read)


class Turns(list[Turn]):
    """Turns from the oldest to the latest. `unreadable` reports those that cannot be read: number -> `DecodeError`."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: dict[int, DecodeError] = {}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a conversation is kept; 0 is without bound."""

    turns: int
    bytes: int
    tokens: int


class HistoryOperations(Effects):
    """Every operation on histories, written once.

    `HistoryStore` and `AsyncHistoryStore` are what callers use; `HistoryBatch` is the same inside a batch.
    """

    # --- writing ----------------------------------------------------------------------------------------------------

    @op
    async def append(
        self,
        user_id: str,
        role: str,
        content: str,
        *,
        conversation: str = DEFAULT,
        tokens: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        max_turns: int | None = None,
        max_bytes: int | None = None,
        max_tokens: int | None = None,
        ttl: TTL = KEEP_TTL,
        durable: Durability | None = None,
    ) -> Turn:
        """Append a turn. What it became is returned: it has a number and a time.

        Bounds that are None are those of the settings. `ttl` is for how many seconds the conversation lives from now
        on, None for ever; `KEEP_TTL` is `Settings.history_ttl`, or, without that, as long as it would anyway.
        """
        turn = {"role": role, "content": content, "tokens": tokens, "metadata": metadata or {}}
        bounds = self._bounds(max_turns, max_bytes, max_tokens)
        return (await self._append(user_id, conversation, [turn], bounds, ttl, durable))[0]

    @op
    async def extend(
        self,
        user_id: str,
        turns: Iterable[NewTurn | Mapping[str, Any]],
        *,
        conversation: str = DEFAULT,
        max_turns: int | None = None,
        max_bytes: int | None = None,
        max_tokens: int | None = None,
        ttl: TTL = KEEP_TTL,
        durable: Durability | None = None,
    ) -> list[Turn]:
        """Append turns one after the other, all or none: as `append`. Mappings have the attributes of `NewTurn`."""
        bounds = self._bounds(max_turns, max_bytes, max_tokens)
        return await self._append(user_id, conversation, turns, bounds, ttl, durable)

    @op
    async def clear(self, user_id: str, *, conversation: str = DEFAULT, durable: Durability | None = None) -> int:
        """Forget a conversation: how many turns it had."""
        keys = self._written(user_id, conversation)
        return int((await self._effect("history_clear", keys, [conversation], durable))[1])

    @op
    async def expire(
        self, user_id: str, ttl: float | None, *, conversation: str = DEFAULT, durable: Durability | None = None
    ) -> bool:
        """Let a conversation end after so many seconds, or never. False if there is none."""
        _, *keys = self._written(user_id, conversation)
        arguments: list[Argument] = [conversation, milliseconds(ttl)]
        return bool((await self._effect("history_expire", keys, arguments, durable, once=False))[1] == b"1")

    # --- reading ----------------------------------------------------------------------------------------------------

    @op
    async def turns(
        self,
        user_id: str,
        last: int | None = None,
        *,
        since: int | datetime | None = None,
        max_tokens: int | None = None,
        conversation: str = DEFAULT,
    ) -> Turns:
        """The latest turns, from the oldest of them on; without bounds, all that there are.

        At most the `last` so many; those after turn number `since`, or from that time on; as many as have at most
        `max_tokens` together.
        """
        return await self._turns(user_id, conversation, last, since, max_tokens)

    @op
    async def context_text(
        self,
        user_id: str,
        *,
        max_turns: int | None = None,
        max_tokens: int | None = None,
        conversation: str = DEFAULT,
    ) -> str:
        """The latest turns as text for a prompt: a line `role: content` for each. Only whole turns, "" if none fits."""
        found = await self._turns(user_id, conversation, max_turns, None, max_tokens)
        return "\n".join(f"{turn.role}: {turn.content}" for turn in found)

    @op
    async def count(self, user_id: str, *, conversation: str = DEFAULT) -> int:
        """How many turns there are."""
        return int(await self._link.execute("XLEN", self._keys.history(user_id, conversation)))

    @op
    async def conversations(self, user_id: str) -> list[str]:
        """The names of the user's conversations, sorted."""
        call = script("history_conversations", (await self._link.features()).tier)
        names = await call(self._link, (self._keys.conversations(user_id),), ())
        return sorted(name.decode(errors="backslashreplace") for name in names)

    # --- what they are made of --------------------------------------------------------------------------------------

    async def _append(
        self,
        user_id: str,
        conversation: str,
        turns: Iterable[NewTurn | Mapping[str, Any]],
        bounds: Bounds,
        ttl: TTL,
        durable: Durability | None,
    ) -> list[Turn]:
        keys = self._written(user_id, conversation)
        given = [_checked(turn) for turn in turns]
        if not given:
            return []
        arguments: list[Argument] = [conversation, self._lives(ttl), bounds.turns, bounds.bytes, bounds.tokens]
        for turn in given:
            arguments += self._stored(turn, bounds)
        reply = await self._effect("history_append", keys, arguments, durable)
        first, at = map(int, reply[1].split())
        return [
            Turn.model_construct(None, **{**dict(turn), "tokens": _tokens(turn), "number": number, "at": _time(at)})
            for number, turn in enumerate(given, first)
        ]

    def _stored(self, turn: NewTurn, bounds: Bounds) -> tuple[Argument, ...]:
        """A turn as the script takes it. Raises `LimitExceeded`."""
        content, tokens = self._codec.encode(turn.content), _tokens(turn)
        metadata = self._codec.encode(turn.metadata) if turn.metadata else b""
        for has, most, what in (
            (len(content) + len(metadata), bounds.bytes, "bytes"),
            (tokens, bounds.tokens, "tokens"),
        ):
            if 0 < most < has:
                raise LimitExceeded(f"a turn of {has} {what} does not fit a history of {most}: nothing was appended")
        return turn.role, content, tokens, metadata

    async def _turns(
        self, user_id: str, conversation: str, last: int | None, since: int | datetime | None, max_tokens: int | None
    ) -> Turns:
        key = self._keys.history(user_id, conversation)
        bounds = [*_since(since), _bound("last", last), _bound("max_tokens", max_tokens)]
        call = script("history_read", (await self._link.features()).tier)
        found = Turns()
        for name, flat in await call(self._link, (key,), bounds):
            number, at = map(int, name.split(b"-"))
            try:
                found.append(self._read(number, at, dict(zip(flat[::2], flat[1::2], strict=True))))
            except DecodeError as error:
                found.unreadable[number] = DecodeError(error.message, f"{key}[{number}]")
        return found

    def _read(self, number: int, at: int, has: Mapping[bytes, bytes]) -> Turn:
        said: dict[str, Any] = {
            "role": has.get(b"role", b"").decode(errors="backslashreplace"),
            "content": self._codec.decode(has.get(b"content", b"")),
            "metadata": self._codec.decode(has[b"metadata"]) if b"metadata" in has else {},
            "tokens": has.get(b"tokens"),
        }
        try:
            return Turn(**said, number=number, at=_time(at))
        except ValidationError as error:
            raise DecodeError(f"no turn: {problems(error)[0]}") from None

    def _bounds(self, turns: int | None, bytes_: int | None, tokens: int | None) -> Bounds:
        settings = self._settings
        return Bounds(
            _bound("max_turns", settings.history_max_turns if turns is None else turns),
            _bound("max_bytes", settings.history_max_bytes if bytes_ is None else bytes_),
            _bound("max_tokens", settings.history_max_tokens if tokens is None else tokens),
        )

    def _lives(self, ttl: TTL) -> int:
        settings = self._settings
        return milliseconds(settings.history_ttl if ttl is KEEP_TTL and settings.history_ttl else ttl)

    def _written(self, user_id: str, conversation: str) -> Sequence[str]:
        keys = self._keys
        return keys.user_operations(user_id), keys.history(user_id, conversation), keys.conversations(user_id)


class HistoryStore(HistoryOperations, Blocking):
    """Histories for threads: every operation of `HistoryOperations` as a plain call."""


class AsyncHistoryStore(HistoryOperations, Asyncio):
    """Histories for tasks: every operation of `HistoryOperations`, to be awaited."""


class HistoryBatch(HistoryOperations, BatchedStore):
    """Histories inside a batch: every operation of `HistoryOperations`, giving a `Handle`."""


def _checked(turn: NewTurn | Mapping[str, Any]) -> NewTurn:
    """What is to be appended, of what was given. Raises `SchemaError`."""
    try:
        if isinstance(turn, Turn):  # one that was read: its number and time were those of another conversation
            return NewTurn(role=turn.role, content=turn.content, tokens=turn.tokens, metadata=turn.metadata)
        return NewTurn.model_validate(turn)
    except ValidationError as error:
        raise SchemaError(f"no turn: {problems(error)[0]}; nothing was appended") from None


def _tokens(turn: NewTurn) -> int:
    return math.ceil(len(turn.content.encode()) / 4) if turn.tokens is None else turn.tokens


def _time(milliseconds_: int) -> datetime:
    return _EPOCH + milliseconds_ * _MILLISECOND


def _since(since: int | datetime | None) -> tuple[int, int]:
    """The number and the time, in milliseconds, from which on turns are wanted."""
    if since is None:
        return 0, 0
    if isinstance(since, datetime):
        return 0, max(0, -((_EPOCH - moment("since", since)) // _MILLISECOND))  # rounded up
    if type(since) is int and 0 <= since < 2**53:
        return since + 1, 0
    raise ConfigError(f"since={since!r}: give a turn's number, or a datetime")


def _bound(what: str, bound: int | None) -> int:
    return 0 if bound is None else natural(what, bound)
