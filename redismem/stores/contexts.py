"""Contexts: what is known of a user at a glance, one frozen record each, that every worker may update.

Contract
    ``memory.contexts.get_user_context("42")`` gives a frozen copy that stays as it is; a later call gives what is true
    then. ``update_context("42", message, response)`` notes one exchange: none is lost, however many workers note
    theirs at once. Teams add attributes, with defaults, in a subclass of `UserContext` and say how they merge
    (`redismem.stores.policy`); ``memory.contexts.of(MyContext)`` is the store of it.

Round trips
    One each, atomic; none for a context that L1 has (`Settings.coherence`). Errors as in `redismem.stores.record`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import field
from typing import Annotated, Any, Generic, TypeVar

from pydantic.dataclasses import dataclass

from redismem.durability import Durability
from redismem.errors import InvalidKey, SchemaError
from redismem.link.scan import scanned
from redismem.op import Asyncio, Blocking, op, stream
from redismem.stores.attribute import Attributes
from redismem.stores.policy import KeepFirst, Sum, Union
from redismem.stores.record import Merged, Migrated, Place, RecordStoreBase, Write
from redismem.stores.shape import Snapshot
from redismem.stores.store import BatchedStore, Shared


@dataclass(frozen=True)
class UserContext:
    """A user, as the last exchange left them."""

    user_id: Annotated[str, KeepFirst]
    conversations_count: Annotated[int, Sum] = 0
    """How many exchanges there were."""
    last_message: str | None = None
    last_response: str | None = None
    preferences: Annotated[dict[str, Any], Union] = field(default_factory=dict[str, Any])
    """The latest value of each."""


C = TypeVar("C", bound=UserContext)
D = TypeVar("D", bound=UserContext)


class ContextOperations(RecordStoreBase[C], Generic[C]):
    """Every operation on contexts, written once."""

    def __init__(self, shared: Shared, model: type[C]) -> None:
        super().__init__(shared, model)
        self.model = model
        for name, attribute in self._shape.attributes.items():
            if name != "user_id" and attribute.info.is_required():
                raise SchemaError(f"{model.__name__}.{name}: give it a default, which somebody new has")

    @op
    async def get_user_context(self, user_id: str, *, fresh: bool = False) -> C:
        """The user's context as it is now; of somebody new, one that says nothing yet (`SchemaError` if none can).

        With `Settings.coherence`, from L1 unless `fresh`.
        """
        found = (await self._read(user_id, [self._place(user_id)], fresh=fresh))[0]
        return self._new(user_id) if found is None else found.record

    @op
    async def update_context(
        self,
        /,
        user_id: str,
        message: str,
        response: str,
        *,
        durable: Durability | None = None,
        **attributes: Any,
    ) -> Merged:
        """Note an exchange, and merge other `attributes` of the context by their policies."""
        noted = {"conversations_count": 1, "last_message": message, "last_response": response}
        if said := noted.keys() & attributes.keys():
            raise SchemaError(f"an exchange says what becomes of {', '.join(sorted(said))}; use merge()")
        return await self._merge(user_id, attributes | noted, durable)

    @op
    async def merge(self, user_id: str, attributes: Mapping[str, Any], *, durable: Durability | None = None) -> Merged:
        """Merge attributes by their policies, without an exchange."""
        return await self._merge(user_id, attributes, durable)

    @op
    async def update(self, user_id: str, fn: Callable[[C], Any], *, durable: Durability | None = None) -> C:
        """Replace the context by `fn(context)`, if nobody changed it meanwhile, else start over.

        `fn` may be called several times; for `AsyncMemory` it may be a coroutine function. Returns what was stored.
        Raises `Conflict` after `Settings.update_attempts` attempts.
        """
        place, new = self._place(user_id), self._new(user_id)
        return await self._update(user_id, place, lambda found: fn(found or new), durable)

    @op
    async def forget(self, user_id: str, *, durable: Durability | None = None) -> bool:
        """Forget the user's context. True if there was one."""
        return await self._delete(user_id, [self._place(user_id)], durable) > 0

    @stream
    async def scan(self, batch_size: int = 100) -> AsyncIterator[str]:
        """The ids of all users who have a context, in no order and never all in memory: as `sessions.scan`.

        About `batch_size` keys of the server, of whatever kind, are looked at for each round trip.
        """
        async for names in scanned(self._link, self._keys.context_pattern(), "hash", batch_size):
            for name in names:
                with suppress(InvalidKey):  # not a key of ours: no id is written like that
                    yield self._keys.context_id_of(name)

    @op
    async def migrate(self, user_id: str, *, dry_run: bool = False) -> Migrated:
        """Bring the user's context to the model's version: as `RecordOperations.migrate`."""
        return await self._migrate(user_id, self._place(user_id), dry_run=dry_run)

    def _new(self, user_id: str) -> C:
        return self._shape.made({"user_id": user_id})

    def _place(self, user_id: str) -> Place:
        key = self._keys.context(user_id)
        return Place(key, key, "")

    def _whole(self, user_id: str, record: C, before: Snapshot[C] | None) -> Attributes:
        told = super()._whole(user_id, record, before)
        _refuse_another(user_id, told["user_id"])
        return told

    async def _merge(self, user_id: str, attributes: Mapping[str, Any], durable: Durability | None) -> Merged:
        _refuse_another(user_id, attributes.get("user_id", user_id))
        changes = self._shape.merging({"user_id": user_id, **attributes}, self._codec)
        return (await self._write(user_id, [Write(self._place(user_id), changes)], durable))[0]


class ContextStore(ContextOperations[C], Blocking):
    """Contexts for threads: every operation of `ContextOperations` as a plain call."""

    def of(self, model: type[D]) -> "ContextStore[D]":
        """The same store for contexts of your own."""
        return ContextStore(self._shared, model)


class AsyncContextStore(ContextOperations[C], Asyncio):
    """Contexts for tasks: every operation of `ContextOperations`, to be awaited."""

    def of(self, model: type[D]) -> "AsyncContextStore[D]":
        """The same store for contexts of your own."""
        return AsyncContextStore(self._shared, model)


class ContextBatch(ContextOperations[C], BatchedStore):
    """Contexts inside a batch: every operation of `ContextOperations`, giving a `Handle`."""

    def of(self, model: type[D]) -> "ContextBatch[D]":
        """The same store for contexts of your own."""
        return ContextBatch(self._shared, model)


def _refuse_another(user_id: str, told: Any) -> None:
    if told != user_id:
        raise SchemaError(f"the context of user {user_id!r} is of no other: {told!r}")
