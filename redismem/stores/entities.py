"""Entities: what workers find out about people and things, one record each, however often and by whomever it is found.

Contract
    ``memory.entities.merge("42", SimpleMemory(...))`` merges a whole extraction into what is known of user 42. Two
    mentions are one entity if they have one id, or, where one of them has none, one natural key
    (`redismem.stores.identity`). An id that is found later joins the record that had none; where that shows that two
    records are one, they are joined, and nothing that was known of either is lost. What is None says nothing, and
    erases nothing, nor does a blank id or name; what both say merges by the attribute's policy
    (`redismem.stores.policy`).
    ``memory.entities.of(MyMemory)`` are entities of your own: a frozen model whose attributes are lists of entities.

Round trips
    `merge` and `load`: one each, however many entities; in a cluster `merge` takes two, for it first tells the index,
    which is on other servers, and four when the user has forgotten entities of late. A merge is one script, atomic over
    the whole extraction. `validate` takes two, for it asks the index; `repair` mends in another script, and tells the
    index in one for each 1,000 identities. `forget` takes two, for the index is told afterwards, and three in a
    cluster, or more while others merge. `find_users` asks the index, then whoever may know the entity.

Errors
    Those of `redismem.stores.record`. A damaged record never hides its neighbours: `load` leaves it out and logs it,
    `validate` reports it, `repair` moves it to quarantine.
"""

import difflib
import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from types import NoneType
from typing import Any, Final, Generic, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from redismem.durability import Durability
from redismem.errors import DecodeError, LimitExceeded, LinkError, SchemaError, WrongType
from redismem.link.base import Argument
from redismem.link.features import ExpiryTier
from redismem.op import Asyncio, Blocking, op
from redismem.scripts import script
from redismem.stores.attribute import Attribute
from redismem.stores.effects import Effects
from redismem.stores.identity import NaturalKey, blank, identities, is_entity, marked
from redismem.stores.policy import Latest, Sum
from redismem.stores.shape import Shape, shape
from redismem.stores.store import BatchedStore, Shared
from redismem.ttl import milliseconds

logger = logging.getLogger("redismem")

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T", bound=BaseModel)

_ALIKE: Final = 0.85
_NEIGHBOURS: Final = 10
"""With how many of those that come next in an order a name is compared."""
_WORDS: Final = 4
"""From how many of its words on a name is looked at."""
_TOLD: Final = 1_000
_SEVERAL: Final = (Set, Mapping, Sequence)
_JOINING: Final = {"sum": "sum", "keep-first": "first", "fill-missing": "first"}
_LISTS: Final[tuple[tuple[object, tuple[object, ...]], ...]] = ((list, ()), (Sequence, ()), (tuple, (...,)))


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge has done: entities by kind, each in the order in which they were given."""

    added: Mapping[str, Sequence[Any]]
    """Nobody knew them."""
    updated: Mapping[str, Sequence[Any]]
    """Something was found out."""
    unchanged: Mapping[str, Sequence[Any]]
    """All was known."""
    linked: Mapping[str, Sequence[Any]]
    """Their id was found, or two records turned out to be one."""

    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {
            outcome: sum(map(len, getattr(self, outcome).values()))
            for outcome in ("added", "updated", "unchanged", "linked")
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with what is stored."""

    kind: str
    number: str
    """Which record."""
    message: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One list of entities: its name, what is in it."""

    name: str
    model: type[BaseModel]
    is_tuple: bool

    @property
    def shape(self) -> Shape[BaseModel]:
        """How these are stored."""
        return shape(self.model)

    @property
    def joining(self) -> list[str]:
        """The attributes that are joined unlike others, each with how: as entity_merge.lua takes it."""
        attributes = self.shape.attributes
        policies = ((name, attribute.policy.name) for name, attribute in attributes.items())
        unlike = [word for name, policy in policies if policy in _JOINING for word in (name, _JOINING[policy])]
        is_last = all(attributes[name].policy == Latest for name in marked(self.model, NaturalKey))
        return [*unlike, "@key", "last"] if is_last else unlike


class EntityOperations(Effects, Generic[S]):
    """Every operation on entities, written once."""

    def __init__(self, shared: Shared, model: type[S]) -> None:
        super().__init__(shared)
        self.model = model
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise SchemaError(f"{model!r} is no model of entities: give a pydantic model with lists of them")
        self._kinds = _kinds_of(model)

    @op
    async def merge(self, user_id: str, found: S, *, durable: Durability | None = None) -> MergeReport:
        """Merge what was found into what is known of a user, all or nothing.

        Raises `SchemaError` for another model, and for an entity that has neither an id nor a natural key.
        """
        if not isinstance(found, self.model):
            raise SchemaError(f"a {self.model.__name__} is wanted, not a {type(found).__name__}")
        mentions = [(kind, entity) for kind in self._kinds for entity in getattr(found, kind.name) or ()]
        if not mentions:
            return _report((), ())
        known = [identities(entity) for _, entity in mentions]
        numbers = {kind: number for number, kind in enumerate(self._kinds, 1)}
        index = self._index(mentions, known)
        sets = list(index.values()) if self._is_near(user_id, index) else []
        if not sets:  # before anything is so: nobody who knows an entity is ever missing
            await self._tell(user_id, index, index, durable)
        arguments: list[Argument] = [user_id, len(sets)]
        for kind in self._kinds:
            arguments += [kind.shape.version, len(kind.joining) // 2, *kind.joining]
        for (kind, entity), (by_id, by_key) in zip(mentions, known, strict=True):
            changes = kind.shape.merging(entity, self._codec, skip_none=True, blank=blank(entity))
            arguments += [numbers[kind], by_id, by_key, len(changes)]
            for change in changes:
                arguments += change
        keys = [self._keys.user_operations(user_id), *self._hashes(user_id), *sets]
        reply = await self._effect("entity_merge", keys, arguments, durable)
        if reply[-1] == b"SETTLE":
            await self._settle(user_id, index, index, durable)
        return _report(mentions, self._outcomes(user_id, mentions, reply))

    @op
    async def load(self, user_id: str) -> S:
        """All that is known of a user; what cannot be read is left out, and logged.

        If the model refuses all of it together, such as for a length, it comes unchecked: that is for extractions.
        """
        entities, problems = self._read(await self._fields(user_id))
        for problem in problems:
            logger.error("an entity of user %r cannot be read: %s %s", user_id, problem.kind, problem.message)
        known: dict[str, Any] = {}
        for kind in self._kinds:
            each = (one for _, one in entities[kind.name])
            known[kind.name] = tuple(each) if kind.is_tuple else list(each)
        try:
            return self.model(**known)
        except ValidationError:
            return self.model.model_construct(**known)

    @op
    async def find_users(self, entity: BaseModel) -> list[str]:
        """The ids of the users who know an entity: two round trips.

        With an id, who knows one of its natural key knows it if theirs has no id: a round trip more, where that is so.
        """
        kind, (by_id, by_key) = self._kind_of(entity), identities(entity)
        asked = [("SMEMBERS", self._keys.entity_users(kind.name, one)) for one in (by_id, by_key) if one]
        users = sorted({user.decode() for reply in _checked(await self._link.pipeline(asked)) for user in reply})
        if not users:
            return []
        there = [("HMGET", self._keys.entities(user, kind.name), by_id, by_key) for user in users]
        led = {
            user: led for user, led in zip(users, _checked(await self._link.pipeline(there)), strict=True) if any(led)
        }
        doubtful = {user: number for user, (sure, number) in led.items() if by_id and not sure}
        if not doubtful:
            return list(led)
        ids = [("HEXISTS", self._keys.entities(user, kind.name), number + b".@id") for user, number in doubtful.items()]
        is_another = dict(zip(doubtful, _checked(await self._link.pipeline(ids)), strict=True))
        return [user for user in led if not is_another.get(user)]

    @op
    async def duplicates(self, user_id: str) -> list[tuple[BaseModel, BaseModel]]:
        """Pairs of entities whose names are so alike that they may be one: somebody should look.

        Each name is compared with some that begin or end alike, or have a word in common: not all pairs are found
        where very many names are alike. Tasks go on meanwhile.
        """
        fields = await self._fields(user_id)
        return await self._link.offload(partial(self._duplicates, fields))

    @op
    async def validate(self, user_id: str) -> list[Problem]:
        """What is not consistent: records that cannot be read, identities that lead astray, what the index misses."""
        fields = await self._fields(user_id)
        entities, problems = self._read(fields)
        return [*problems, *self._astray(fields, entities), *await self._untold(user_id, fields)]

    @op
    async def repair(self, user_id: str) -> list[Problem]:
        """Mend what `validate` finds, and return it: what cannot be read goes to quarantine, byte for byte.

        What others change meanwhile is left as it is. The index is told of all that is there, and forgets what leads
        nowhere any more, and what a worker that was killed while it forgot has left there.
        """
        fields = await self._fields(user_id)
        entities, unreadable = self._read(fields)
        problems = [*unreadable, *self._astray(fields, entities), *await self._untold(user_id, fields)]
        steps: list[Argument] = []
        named: set[bytes] = set(await self._link.execute("SMEMBERS", self._keys.forgotten(user_id)))
        for number, kind in enumerate(self._kinds, 1):
            of_kind = fields[kind.name]
            damaged = [problem.number for problem in unreadable if problem.kind == kind.name]
            for step, record, pairs in _mending(of_kind, damaged, entities[kind.name]):
                steps += number, step, record, len(pairs), *chain.from_iterable(pairs)
            told = {one.encode() for _, entity in entities[kind.name] for one in identities(entity) if one}
            named |= {f"{kind.name}:".encode() + one for one in told | _pointers(of_kind).keys()}
        if steps:
            keys: list[Argument] = [self._keys.user_operations(user_id)]
            for kind in self._kinds:
                key = self._keys.entities(user_id, kind.name)
                keys += key, self._keys.deadlines(key), self._keys.quarantine(user_id, kind.name)
            await self._effect("entity_repair", keys, steps, None, once=False)
        ordered = sorted(named)
        for start in range(0, len(ordered), _TOLD):
            await self._retell(user_id, ordered[start : start + _TOLD], None)
        return problems

    @op
    async def forget(self, user_id: str, *, durable: Durability | None = None) -> int:
        """Forget every entity that a user knows; how many there were."""
        keys = [self._keys.user_operations(user_id), self._keys.forgotten(user_id), *self._hashes(user_id)]
        reply = await self._effect("entity_forget", keys, [kind.name for kind in self._kinds], durable)
        await self._retell(user_id, reply[2], durable)
        return int(reply[1])

    # --- storage ----------------------------------------------------------------------------------------------------

    def _hashes(self, user_id: str) -> list[str]:
        keys: list[str] = []
        for kind in self._kinds:
            key = self._keys.entities(user_id, kind.name)
            keys += key, self._keys.deadlines(key)
        return keys

    def _kind_of(self, entity: BaseModel) -> Kind:
        for kind in self._kinds:
            if type(entity) is kind.model:
                return kind
        raise SchemaError(f"{self.model.__name__} has no list of {type(entity).__name__}")

    def _index(self, mentions: Sequence[tuple[Kind, Any]], known: Sequence[tuple[str, str]]) -> dict[bytes, str]:
        """`<kind>:<identity>` of what is mentioned, and the sets of who may know it."""
        return {
            f"{kind.name}:{identity}".encode(): self._keys.entity_users(kind.name, identity)
            for (kind, _), pair in zip(mentions, known, strict=True)
            for identity in filter(None, pair)
        }

    def _is_near(self, user_id: str, index: Mapping[bytes, str]) -> bool:
        """Whether a script that changes a user's entities can tell the index as well: not in a cluster."""
        return self._link.colocated(self._keys.user_operations(user_id), *index.values())

    async def _tell(
        self, user_id: str, index: Mapping[bytes, str], known: Container[bytes], durable: Durability | None
    ) -> None:
        """Tell sets of the index, which are on other servers, whether a user knows what they are about."""
        receipt = await self._receipt(durable)
        told = [("SADD" if one in known else "SREM", key, user_id) for one, key in index.items()]
        _checked(await self._link.pipeline(told, durable=receipt))
        if receipt is not None:
            receipt.check()

    async def _retell(self, user_id: str, named: Iterable[bytes], durable: Durability | None) -> None:
        """Tell the index whether a user knows these entities: `<kind>:<identity>`, of any kinds."""
        index: dict[bytes, str] = {}
        for one in named:
            kind, _, identity = one.decode(errors="backslashreplace").partition(":")
            if any(kind == mine.name for mine in self._kinds):
                index[one] = self._keys.entity_users(kind, identity)
        await self._settle(user_id, index, (), durable)

    async def _untold(self, user_id: str, fields: Mapping[str, Mapping[bytes, bytes]]) -> list[Problem]:
        """Identities that lead to a record, while the index does not know it."""
        leading = list[tuple[str, str, str]]()
        for kind in self._kinds:
            numbers = _numbers(fields[kind.name])
            pointers = _pointers(fields[kind.name]).items()
            leading += ((kind.name, one.decode(errors="backslashreplace"), to) for one, to in pointers if to in numbers)
        asked = [("SISMEMBER", self._keys.entity_users(kind, identity), user_id) for kind, identity, _ in leading]
        told = _checked(await self._link.pipeline(asked)) if asked else ()
        return [
            Problem(kind, number, f"find_users does not find {identity}")
            for (kind, identity, number), is_told in zip(leading, told, strict=True)
            if not is_told
        ]

    async def _settle(
        self, user_id: str, index: Mapping[bytes, str], known: Container[bytes], durable: Durability | None
    ) -> None:
        """See to it that the index says of these entities whether a user knows them; `known` are believed to be.

        Where no script can look and tell at once, in a cluster, it is told, and told otherwise while that is not so:
        whoever comes in between settles too, so what is told last is right.
        """
        numbers = {kind.name: number for number, kind in enumerate(self._kinds, 1)}
        hashes = self._keys.user_operations(user_id), self._keys.forgotten(user_id), *self._hashes(user_id)[::2]
        is_near = self._is_near(user_id, index)
        while index:
            if not is_near:
                await self._tell(user_id, index, known, durable)
            arguments: list[Argument] = [user_id, len(numbers), milliseconds(self._settings.operation_memory)]
            for one in index:
                arguments += numbers[one.partition(b":")[0].decode()], one, int(one in known)
            keys = [*hashes, *(index.values() if is_near else ())]
            _, wrong = await self._effect("entity_settle", keys, arguments, durable, once=False)
            known = {one for one in wrong if one not in known}
            index = {one: index[one] for one in wrong}

    async def _fields(self, user_id: str) -> dict[str, dict[bytes, bytes]]:
        """The hashes of all kinds, in one round trip."""
        tier = (await self._link.features()).tier
        if tier is ExpiryTier.DEADLINES:
            replies = await script("record_read", tier)(self._link, self._hashes(user_id), ())
        else:
            asked = [("HGETALL", self._keys.entities(user_id, kind.name)) for kind in self._kinds]
            replies = _checked(await self._link.pipeline(asked))
        return {
            kind.name: dict(zip(reply[::2], reply[1::2], strict=True))
            for kind, reply in zip(self._kinds, replies, strict=True)
        }

    def _read(
        self, fields: Mapping[str, Mapping[bytes, bytes]]
    ) -> tuple[dict[str, list[tuple[str, BaseModel]]], list[Problem]]:
        """Every entity that can be read, with the number of its record, and what is wrong with the others."""
        entities: dict[str, list[tuple[str, BaseModel]]] = {}
        problems: list[Problem] = []
        for kind in self._kinds:
            found = entities[kind.name] = []
            for number, record in sorted(_records(fields[kind.name]).items()):
                try:
                    found.append((str(number), self._entity(kind, record, f"{kind.name}.{number}")))
                except DecodeError as error:
                    problems.append(Problem(kind.name, str(number), str(error)))
        return entities, problems

    def _entity(self, kind: Kind, record: Mapping[bytes, bytes], place: str) -> BaseModel:
        """The entity that these fields are. Raises `DecodeError`, also if nobody could find it."""
        snapshot = kind.shape.read(record, self._codec, place)
        if snapshot is None:
            raise DecodeError("it has no version", place)
        try:
            identities(snapshot.record)
        except SchemaError:
            raise DecodeError("it has neither an id nor a natural key", place) from None
        return snapshot.record

    def _astray(
        self, fields: Mapping[str, Mapping[bytes, bytes]], entities: Mapping[str, Sequence[tuple[str, BaseModel]]]
    ) -> Iterator[Problem]:
        """Identities that lead nowhere, and records to which none leads."""
        for kind in self._kinds:
            numbers, pointers = _numbers(fields[kind.name]), _pointers(fields[kind.name])
            for identity, number in pointers.items():
                if number not in numbers:
                    name = identity.decode(errors="backslashreplace")
                    yield Problem(kind.name, number, f"{name} leads to a record that is not there")
            for number, entity in entities[kind.name]:
                own = [one for one in identities(entity) if one]
                if not any(pointers.get(one.encode()) == number for one in own):
                    yield Problem(kind.name, number, "no identity leads to this record")
                elif lost := [one for one in own if one.encode() not in pointers]:
                    yield Problem(kind.name, number, f"{' and '.join(lost)} should lead to this record")

    def _duplicates(self, fields: Mapping[str, Mapping[bytes, bytes]]) -> list[tuple[BaseModel, BaseModel]]:
        entities, _ = self._read(fields)
        return [pair for kind in self._kinds for pair in _alike([one for _, one in entities[kind.name]])]

    def _outcomes(self, user_id: str, mentions: Sequence[tuple[Kind, Any]], reply: Sequence[Any]) -> list[str]:
        if reply[0] in (b"OK", b"AGAIN"):
            return [str(outcome) for outcome in reply[1].decode().split()]
        *before, (kind, _) = mentions[: int(reply[1])]
        which = f"{kind.name}[{sum(other is kind for other, _ in before)}]"
        place = f"{which}: {self._keys.entities(user_id, kind.name)}[{reply[2].decode()}]"
        if reply[0] == b"OVERFLOW":
            raise LimitExceeded(f"{place}: sums of entities have at most 15 digits; nothing was changed")
        raise WrongType(f"{place}: no integer; nothing was changed")


class EntityStore(EntityOperations[S], Blocking):
    """Entities for threads: every operation of `EntityOperations` as a plain call."""

    def of(self, model: type[T]) -> "EntityStore[T]":
        """The same store for entities of your own."""
        return EntityStore(self._shared, model)


class AsyncEntityStore(EntityOperations[S], Asyncio):
    """Entities for tasks: every operation of `EntityOperations`, to be awaited."""

    def of(self, model: type[T]) -> "AsyncEntityStore[T]":
        """The same store for entities of your own."""
        return AsyncEntityStore(self._shared, model)


class EntityBatch(EntityOperations[S], BatchedStore):
    """Entities inside a batch: every operation of `EntityOperations`, giving a `Handle`."""

    def of(self, model: type[T]) -> "EntityBatch[T]":
        """The same store for entities of your own."""
        return EntityBatch(self._shared, model)


@cache  # each batch asks
def _kinds_of(model: type[BaseModel]) -> tuple[Kind, ...]:
    """The lists of entities of a model. Raises `SchemaError` if it has none, or anything else."""
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    if not by_name and any(info.validation_alias is not None for info in model.model_fields.values()):
        raise SchemaError(f"{model.__name__} has an alias: have it accept names too, by populate_by_name")
    kinds = tuple(_kind(model, name, info.annotation) for name, info in model.model_fields.items())
    if not kinds:
        raise SchemaError(f"{model.__name__} has no list of entities; see redismem.stores.identity")
    return kinds


def _kind(model: type[BaseModel], name: str, annotation: Any) -> Kind:
    """A list of entities, or one that may be None. Raises `SchemaError` if it is none, or they cannot be kept."""
    alternatives = [one for one in get_args(annotation) if one is not NoneType]
    if len(alternatives) == 1 and NoneType in get_args(annotation):
        annotation = alternatives[0]
    inner: Any
    inner, *more = get_args(annotation) or (None,)
    if (get_origin(annotation), tuple(more)) not in _LISTS or not is_entity(inner):
        raise SchemaError(f"{model.__name__}.{name} is no list of entities, as all that it has must be")
    if shape(inner).version > 1:
        raise SchemaError(
            f"{inner.__name__} has migrations, which records of entities do not pass through: "
            "give new attributes new names and defaults, and leave the old ones"
        )
    for attribute in map(shape(inner).attributes.__getitem__, marked(inner)):
        if problem := _unfit(attribute):
            raise SchemaError(f"{inner.__name__}.{attribute.name} {problem}")
    return Kind(name, cast(type[BaseModel], inner), get_origin(annotation) is tuple)


def _unfit(attribute: Attribute) -> str | None:
    """Why an entity cannot be told by an attribute."""
    if attribute.ttl_ms:
        return "expires: nobody could find the entity then"
    if attribute.policy == Sum:
        return "is a sum: with each mention it would be another entity"
    if any(issubclass(kind, _SEVERAL) and not issubclass(kind, str | bytes) for kind in attribute.kinds):
        return "has members: an entity is told by single values; several attributes can be its natural key together"
    return None


def _records(fields: Mapping[bytes, bytes]) -> dict[int, dict[bytes, bytes]]:
    """The fields of each record, by its number."""
    records: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
    for field, value in fields.items():
        number, is_attribute, attribute = field.partition(b".")
        if is_attribute and number.isdigit():
            records[int(number)][attribute] = value
    return records


def _pointers(fields: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Identities, and the numbers to which they lead."""
    return {
        field: value.decode(errors="backslashreplace")
        for field, value in fields.items()
        if field.startswith((b"id=", b"key="))
    }


def _numbers(fields: Mapping[bytes, bytes]) -> set[str]:
    """The numbers of the records, as pointers have them."""
    return set(map(str, _records(fields)))


def _mending(
    fields: Mapping[bytes, bytes], damaged: Iterable[str], entities: Iterable[tuple[str, BaseModel]]
) -> Iterator[tuple[str, str, list[tuple[Argument, Argument]]]]:
    """The steps of entity_repair.lua for one kind: what, the number of a record, and pairs."""
    records, pointers, gone = _records(fields), _pointers(fields), set(damaged)
    whole = _numbers(fields) - gone
    for number in gone:
        yield "aside", number, [(f"{number}.".encode() + name, data) for name, data in records[int(number)].items()]
    stray = {identity: number for identity, number in pointers.items() if number not in whole}
    for identity, number in stray.items():
        yield "stray", number, [(identity, "")]
    for number, entity in entities:
        missing = [one for one in identities(entity) if one and pointers.get(one.encode()) not in whole]
        if missing:
            yield "lead", number, [(identity, records[int(number)][b"@created"]) for identity in missing]


def _alike(entities: Sequence[BaseModel]) -> list[tuple[BaseModel, BaseModel]]:
    """Pairs of those that come close to each other in some order of their names, and are alike."""
    names = [identities(entity)[1].removeprefix("key=") for entity in entities]
    candidates: set[tuple[int, int]] = set()
    for order in (_from_each_word(names), sorted((name[::-1], place) for place, name in enumerate(names) if name)):
        for at, (_, place) in enumerate(order):
            near = (other for _, other in order[at + 1 : at + 1 + _NEIGHBOURS] if other != place)
            candidates.update((min(place, other), max(place, other)) for other in near)
    return [
        (entities[one], entities[other]) for one, other in sorted(candidates) if _is_alike(names[one], names[other])
    ]


def _from_each_word(names: Iterable[str]) -> list[tuple[str, int]]:
    """Names in order, each from its first word on, from its second word on, and so forth, and where they were."""
    turned: list[tuple[str, int]] = []
    for place, words in enumerate(map(str.split, names)):
        turned += ((" ".join((*words[at:], *words[:at])), place) for at in range(min(len(words), _WORDS)))
    return sorted(turned)


def _is_alike(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, one, other)
    return all(ratio() >= _ALIKE for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))


def _report(mentions: Sequence[tuple[Kind, Any]], outcomes: Sequence[str]) -> MergeReport:
    sorted_: dict[str, defaultdict[str, list[Any]]] = {
        outcome: defaultdict(list) for outcome in ("added", "updated", "unchanged", "linked")
    }
    for (kind, entity), outcome in zip(mentions, outcomes, strict=True):
        sorted_[outcome][kind.name].append(entity)
    return MergeReport(**{outcome: dict(of_kind) for outcome, of_kind in sorted_.items()})


def _checked(replies: Iterable[Any]) -> list[Any]:
    """Replies of a pipeline, none of which is an error."""
    checked = list(replies)
    for reply in checked:
        if isinstance(reply, LinkError):
            raise reply
    return checked
