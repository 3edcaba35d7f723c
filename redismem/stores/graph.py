"""A graph for each user: entities, and typed relationships between them.

Contract
    An entity has an id, a kind and properties; a relationship leads from one entity to another, has a type, and
    properties of its own. There is one of a type between two entities: adding it again adds nothing. What is added
    again merges: of each property the latest value stays, by the server's order.
    Both ends of a relationship exist, at every moment and for every reader: what would add another is refused, and
    deleting an entity deletes its relationships with it.

Round trips
    One for each operation, whatever its size, and one for each batch of `entities` and `relationships`. Each is one
    script: it tells of one moment, and changes all that it was given, or nothing. So too for paths of any length.

Errors
    `MissingEntity` when an end of a relationship does not exist, `LimitExceeded` when a search for paths would have to
    look at too much, `InvalidKey`, `EncodeError`, `LinkError`. What cannot be read of the properties is in
    `unreadable`, and hides nothing else; a name that redismem cannot have written is a `DecodeError`.
    A write that raises has changed nothing, except that after `Unavailable` and `Timeout` it may have been applied.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, PrivateAttr

from redismem.durability import Durability
from redismem.errors import ConfigError, DecodeError, InvalidKey, LimitExceeded, MissingEntity
from redismem.keys import decode_segment, encode_segment
from redismem.link.base import Argument, Reply
from redismem.op import Asyncio, Blocking, op, stream
from redismem.scripts import script
from redismem.stores.arguments import natural
from redismem.stores.effects import Effects
from redismem.stores.store import BatchedStore

Direction = Literal["out", "in", "both"]
"""Of relationships, as one entity sees them: those that begin at it, those that end at it, or all."""

ALL: Final = -1


class Described(BaseModel, frozen=True):
    """What has properties, some of which may be damaged."""

    _unreadable: dict[str, DecodeError] = PrivateAttr(default_factory=dict[str, DecodeError])

    @property
    def unreadable(self) -> Mapping[str, DecodeError]:
        """The properties that are stored and cannot be read, and why."""
        return self._unreadable

    @classmethod
    def as_read(cls, unreadable: Mapping[str, DecodeError], **attributes: Any) -> Self:
        """What the server has; it was checked when it was written."""
        read = cls.model_construct(**attributes)
        read._unreadable.update(unreadable)
        return read


class GraphEntity(Described, frozen=True):
    """Somebody or something."""

    id: str
    kind: str
    properties: dict[str, Any] = {}
    """Name -> value, of any type that can be stored."""


class Relationship(Described, frozen=True):
    """What one entity is to another: ids, and a type such as `works_at`."""

    source: str
    type: str
    target: str
    properties: dict[str, Any] = {}
    """Name -> value, of any type that can be stored."""


class Neighbour(NamedTuple):
    """An entity that another one is related to, and how."""

    relationship: Relationship
    entity: GraphEntity


class Step(NamedTuple):
    """One relationship of a path, without its properties."""

    source: str
    type: str
    target: str


@dataclass(frozen=True, slots=True)
class GraphPath:
    """A way from one entity to another."""

    entities: tuple[str, ...]
    """The ids on the way, those of both ends among them."""
    steps: tuple[Step, ...]
    """Each leads from one of `entities` to the next, or, if relationships are followed both ways, back."""

    @property
    def length(self) -> int:
        """How many steps there are."""
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class GraphSize:
    """How many there are, or are new."""

    entities: int
    relationships: int


class GraphOperations(Effects):
    """Every operation on graphs, written once.

    `GraphStore` and `AsyncGraphStore` are what callers use; `GraphBatch` is the same inside a batch.
    """

    # --- writing ----------------------------------------------------------------------------------------------------

    @op
    async def merge(
        self,
        user_id: str,
        entities: Iterable[GraphEntity] = (),
        relationships: Iterable[Relationship] = (),
        *,
        durable: Durability | None = None,
    ) -> GraphSize:
        """Add entities and relationships, and merge their properties: all or none. How many are new.

        An end of a relationship is one of these entities, or is there already; else `MissingEntity`.
        """
        return await self._merge(user_id, list(entities), list(relationships), durable)

    @op
    async def add_entity(
        self,
        user_id: str,
        entity_id: str,
        kind: str,
        properties: Mapping[str, Any] | None = None,
        *,
        durable: Durability | None = None,
    ) -> bool:
        """Add an entity, or merge into the one that there is; of the kind, too, the latest stays. True if it is new."""
        entity = GraphEntity.model_construct(id=entity_id, kind=kind, properties=properties or {})
        return (await self._merge(user_id, [entity], [], durable)).entities > 0

    @op
    async def add_relationship(
        self,
        user_id: str,
        source: str,
        type_: str,
        target: str,
        properties: Mapping[str, Any] | None = None,
        *,
        durable: Durability | None = None,
    ) -> bool:
        """Relate two entities, or merge into the relationship that there is. True if it is new.

        Raises `MissingEntity` unless both exist.
        """
        related = Relationship.model_construct(source=source, type=type_, target=target, properties=properties or {})
        return (await self._merge(user_id, [], [related], durable)).relationships > 0

    @op
    async def delete_entity(self, user_id: str, entity_id: str, *, durable: Durability | None = None) -> bool:
        """Delete an entity and every relationship that it is an end of. True if there was one."""
        return await self._delete("graph_delete_entity", user_id, [_word(entity_id)], durable)

    @op
    async def delete_relationship(
        self, user_id: str, source: str, type_: str, target: str, *, durable: Durability | None = None
    ) -> bool:
        """Delete a relationship; its ends stay. True if there was one."""
        return await self._delete(
            "graph_delete_relationship", user_id, [b" ".join(_triple(source, type_, target))], durable
        )

    @op
    async def forget(self, user_id: str, *, durable: Durability | None = None) -> bool:
        """Forget the whole graph of a user. True if there was one."""
        return await self._delete("graph_forget", user_id, [], durable)

    # --- reading ----------------------------------------------------------------------------------------------------

    @op
    async def get_entity(self, user_id: str, entity_id: str) -> GraphEntity | None:
        """The entity, None if there is none."""
        word = _word(entity_id)
        reply = await self._ask("graph_entity", user_id, [word])
        return self._entity(self._keys.graph_properties(user_id), word, reply) if reply and reply[0] else None

    @op
    async def get_relationship(self, user_id: str, source: str, type_: str, target: str) -> Relationship | None:
        """The relationship, None if there is none."""
        exactly = b"[" + b" ".join(_triple(source, type_, target))
        reply = await self._ask("graph_list", user_id, ["relationships", exactly, exactly, 1])
        return self._relationship(self._keys.graph_properties(user_id), *reply[0]) if reply else None

    @op
    async def neighbours(
        self, user_id: str, entity_id: str, *types: str, direction: Direction = "both", limit: int | None = 100
    ) -> list[Neighbour]:
        """The relationships of an entity, and the entities at their other ends; at most `limit`, None for all.

        Of `types` if some are given. Those that begin at the entity come first; then they are sorted by type and id,
        percent-encoded. Nobody's, if there is no such entity.
        """
        most = ALL if limit is None else natural("limit", limit)
        arguments = [_word(entity_id), most, _direction(direction), *_words(types)]
        key = self._keys.graph_properties(user_id)
        return [
            Neighbour(self._relationship(key, member, has), self._entity(key, other, other_has))
            for member, has, other, other_has in await self._ask("graph_neighbours", user_id, arguments)
        ]

    @op
    async def paths(
        self,
        user_id: str,
        source: str,
        target: str,
        *types: str,
        max_length: int = 4,
        limit: int = 100,
        direction: Direction = "out",
        effort: int = 20_000,
    ) -> list[GraphPath]:
        """The paths from one entity to another that pass none twice: the shortest first, `limit` at most.

        They have at most `max_length` steps, of `types` if some are given. `direction` says whether relationships are
        followed from source to target, from target to source, or both ways. Other clients wait while the server looks,
        so it looks at `effort` relationships at most, and it is `LimitExceeded` if that is too few. From an entity to
        itself there is one path, of no steps.
        """
        return await self._paths(user_id, source, target, types, max_length, limit, direction, effort)

    @op
    async def shortest_path(
        self,
        user_id: str,
        source: str,
        target: str,
        *types: str,
        max_length: int = 4,
        direction: Direction = "out",
        effort: int = 20_000,
    ) -> GraphPath | None:
        """The first of `paths`, None if there is none."""
        found = await self._paths(user_id, source, target, types, max_length, 1, direction, effort)
        return found[0] if found else None

    @op
    async def count(self, user_id: str) -> GraphSize:
        """How many entities and relationships there are."""
        entities, out, *_ = self._keys.graph(user_id)
        return GraphSize(*await self._link.transaction([("ZCARD", entities), ("ZCARD", out)]))

    @stream
    async def entities(
        self, user_id: str, kind: str | None = None, batch_size: int = 100
    ) -> AsyncIterator[GraphEntity]:
        """The entities, of one kind if one is given, sorted by kind and id, percent-encoded.

        `batch_size` of them for each round trip, and never all in memory. What is there throughout is met once.
        """
        key = self._keys.graph_properties(user_id)
        word = b"" if kind is None else _word(kind, "kind")
        first, end = (b"[%b " % word, b"(%b!" % word) if word else (b"-", b"+")
        async for member, has in self._list("entities", user_id, first, end, batch_size):
            yield self._entity(key, member.rpartition(b" ")[2], has)

    @stream
    async def relationships(self, user_id: str, batch_size: int = 100) -> AsyncIterator[Relationship]:
        """The relationships, sorted by source, type and target, percent-encoded; as `entities`."""
        key = self._keys.graph_properties(user_id)
        async for member, has in self._list("relationships", user_id, b"-", b"+", batch_size):
            yield self._relationship(key, member, has)

    # --- what they are made of --------------------------------------------------------------------------------------

    async def _merge(
        self,
        user_id: str,
        entities: Sequence[GraphEntity],
        relationships: Sequence[Relationship],
        durable: Durability | None,
    ) -> GraphSize:
        arguments: list[Argument] = [len(entities)]
        for entity in entities:
            arguments += _word(entity.id), _word(entity.kind, "kind"), *self._described(entity.properties)
        for one in relationships:
            arguments += *_triple(one.source, one.type, one.target), *self._described(one.properties)
        status, *said = await self._effect("graph_merge", self._written(user_id), arguments, durable)
        if status == b"MISSING":
            raise MissingEntity(_name(word, self._keys.graph_properties(user_id)) for word in said)
        return GraphSize(*map(int, said[0].split()))

    async def _delete(self, verb: str, user_id: str, arguments: Sequence[Argument], durable: Durability | None) -> bool:
        return bool((await self._effect(verb, self._written(user_id), arguments, durable))[1] == b"1")

    async def _paths(
        self,
        user_id: str,
        source: str,
        target: str,
        types: Sequence[str],
        max_length: int,
        limit: int,
        direction: Direction,
        effort: int,
    ) -> list[GraphPath]:
        bounds = natural("max_length", max_length), natural("limit", limit), natural("effort", effort)
        arguments = [_word(source), _word(target), *bounds, _direction(direction), *_words(types)]
        status, *found = await self._ask("graph_paths", user_id, arguments)
        if status == b"EFFORT":
            raise LimitExceeded(
                f"{source!r} to {target!r}: {effort} relationships were looked at, and there are more; "
                "ask for shorter paths, or for some types only, or raise effort"
            )
        key = self._keys.graph_properties(user_id)
        return [_path(source, [Step(*_names(member, key)) for member in members]) for members in found]

    async def _list(
        self, which: str, user_id: str, first: bytes, end: bytes, batch_size: int
    ) -> AsyncIterator[tuple[bytes, Sequence[Any]]]:
        while True:
            page = await self._ask("graph_list", user_id, [which, first, end, natural("batch_size", batch_size)])
            for member, has in page:
                yield member, has
            if len(page) < batch_size:
                return
            first = b"(" + page[-1][0]

    async def _ask(self, verb: str, user_id: str, arguments: Sequence[Argument]) -> Reply:
        tier = (await self._link.features()).tier
        return await script(verb, tier)(self._link, self._keys.graph(user_id), arguments)

    def _written(self, user_id: str) -> list[Argument]:
        return [*self._keys.graph(user_id), self._keys.user_operations(user_id)]

    def _described(self, properties: Mapping[str, Any]) -> list[Argument]:
        """How many properties there are, and name and value of each."""
        arguments: list[Argument] = [len(properties)]
        for name, value in properties.items():
            arguments += _word(name, "property"), self._codec.encode(value)
        return arguments

    def _entity(self, key: str, word: bytes, has: Sequence[Any]) -> GraphEntity:
        """An entity, of what lib/graph.lua's `described` gives."""
        if not has or not has[0]:
            raise DecodeError("something leads to this entity, and there is none", f"{key}[{word.decode()}]")
        kind, properties, unreadable = self._read(key, word, has)
        return GraphEntity.as_read(unreadable, id=_name(word, key), kind=_name(kind, key), properties=properties)

    def _relationship(self, key: str, member: bytes, has: Sequence[Any]) -> Relationship:
        source, type_, target = _names(member, key)
        _, properties, unreadable = self._read(key, member, has)
        return Relationship.as_read(unreadable, source=source, type=type_, target=target, properties=properties)

    def _read(self, key: str, field: bytes, has: Sequence[Any]) -> tuple[bytes, dict[str, Any], dict[str, DecodeError]]:
        """The first word of what it has, the properties, and those that cannot be read."""
        label, *words = (has[0] if has and has[0] else b"").split(b" ")
        properties: dict[str, Any] = {}
        unreadable: dict[str, DecodeError] = {}
        for word, data in zip(words, has[1:], strict=True):
            name = _name(word, key)
            try:
                if data is not None:  # else somebody deleted it by hand
                    properties[name] = self._codec.decode(data)
            except DecodeError as error:
                unreadable[name] = DecodeError(error.message, f"{key}[{field.decode()} {word.decode()}]")
        return label, properties, unreadable


class GraphStore(GraphOperations, Blocking):
    """Graphs for threads: every operation of `GraphOperations` as a plain call."""


class AsyncGraphStore(GraphOperations, Asyncio):
    """Graphs for tasks: every operation of `GraphOperations`, to be awaited."""


class GraphBatch(GraphOperations, BatchedStore):
    """Graphs inside a batch: every operation of `GraphOperations`, giving a `Handle`."""


def _path(source: str, steps: Sequence[Step]) -> GraphPath:
    entities = [source]
    for step in steps:
        entities.append(step.target if step.source == entities[-1] else step.source)
    return GraphPath(tuple(entities), tuple(steps))


# --- names and words ------------------------------------------------------------------------------------------------


def _word(name: str, what: str = "entity_id") -> bytes:
    return encode_segment(name, what).encode()


def _words(types: Iterable[str]) -> list[bytes]:
    return [_word(name, "type") for name in dict.fromkeys(types)]


def _triple(source: str, type_: str, target: str) -> tuple[bytes, bytes, bytes]:
    return _word(source), _word(type_, "type"), _word(target)


def _name(word: bytes, key: str) -> str:
    try:
        return decode_segment(word.decode())
    except (InvalidKey, UnicodeDecodeError):
        raise DecodeError(f"{word!r} is no name that redismem wrote", key) from None


def _names(member: bytes, key: str) -> list[str]:
    words = member.split(b" ")
    if len(words) != 3:
        raise DecodeError(f"{member!r} is no relationship that redismem wrote", key)
    return [_name(word, key) for word in words]


def _direction(direction: Direction) -> Direction:
    if direction in get_args(Direction):
        return direction
    raise ConfigError(f"direction={direction!r}: give one of {', '.join(get_args(Direction))}")
