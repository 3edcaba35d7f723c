"""A model as the fields of a hash: what a merge writes of a record, and how a record is read again.

The model is a pydantic model or a pydantic dataclass, and should be frozen: what is read may be shared. Its attributes
say how they merge (`redismem.stores.policy`). `lua/lib/record.lua` describes the fields.

A model may change. Every version of it has a number, 1 and one more for each of its migrations; a record remembers the
lowest number of those that wrote it, and passes through the migrations from there on when it is read. Attributes that
only older versions have stay in the record, for older workers to read, with a digest: those that are as the last
migration left them say nothing new, and are not migrated again.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from redismem.codec import Codec
from redismem.errors import DecodeError, EncodeError, SchemaError
from redismem.stores.policy import Expires, Latest, MaxBy, Min, Policy, Union
from redismem.stores.rank import inverse, rank, tie_break
from redismem.ttl import milliseconds

M = TypeVar("M")

Change = tuple[str, bytes, bytes, bytes, int]
"""How, field, value, rank, TTL in milliseconds: as lib/record.lua takes it."""
Attributes = dict[str, Any]
Migration = Callable[[Attributes], Attributes]

_NOTHING: Final = object()
_HEAD: Final = b"@"
_LEFT: Final = b"@left"
_RANK: Final = b"^"
_MEMBER: Final = b":"
_migrations: defaultdict[type, list[Migration]] = defaultdict(list)


def migration(model: type, from_: int) -> Callable[[Migration], Migration]:
    """Declares how the attributes of a record of version `from_` become those of the next version.

    The function gets what is stored, by name, and returns what is to be stored. Workers of both versions may write
    to a record side by side, so it may find the attributes of either, or of both: those of the older version were
    then written last. An attribute whose meaning changes needs a new name, or it would be migrated again and again.
    Raises `SchemaError` if a version is left out, or declared twice.
    """
    if from_ != len(_migrations[model]) + 1:
        raise SchemaError(f"{model.__name__}: the next migration is from_={len(_migrations[model]) + 1}, not {from_}")

    def declare(function: Migration) -> Migration:
        _migrations[model].append(function)
        return function

    return declare


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[M]):
    """A record at one moment."""

    record: M
    version: int
    """Counts the changes."""
    schema: int
    """The version of the model that it was stored as."""
    created_ms: int
    """Milliseconds since 1970, by the server's clock."""
    updated_ms: int
    """The same, of the last change."""


@dataclass(frozen=True)
class Attribute:
    """One attribute: its name, its type, how it merges and how long it lives."""

    name: str
    info: FieldInfo
    policy: Policy
    ttl_ms: int

    @property
    def field(self) -> bytes:
        """Its field, or what the fields of its members begin with."""
        return self.name.encode() + (_MEMBER if self.policy == Union else b"")

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Checks values."""
        return TypeAdapter(cast(Any, self.info.annotation))

    @cached_property
    def empty(self) -> Any:
        """A union of nothing."""
        nothing: tuple[Any, ...] = (frozenset[Any](), {})
        for empty in nothing:
            try:
                self.adapter.validate_python(empty)
            except ValidationError:
                continue
            return empty
        raise SchemaError(f"{self.name}: Union is for sets and for dicts")


class Shape(Generic[M]):
    """One model's attributes."""

    def __init__(self, model: type[M]) -> None:
        fields: dict[str, FieldInfo] | None = getattr(model, "__pydantic_fields__", None)
        if not fields:
            raise SchemaError(f"{model!r}: give a pydantic model, or a pydantic dataclass, that has attributes")
        self.model = model
        self.attributes = {name: _attribute(model, name, info) for name, info in fields.items()}
        self._adapter: TypeAdapter[M] = TypeAdapter(model)

    @property
    def lasts(self) -> bool:
        """Whether no attribute expires."""
        return not any(attribute.ttl_ms for attribute in self.attributes.values())

    @property
    def version(self) -> int:
        """The number of this version of the model."""
        return len(_migrations[self.model]) + 1

    # --- writing ----------------------------------------------------------------------------------------------------

    def merging(self, record: M | Mapping[str, Any], codec: Codec, *, skip_none: bool = False) -> list[Change]:
        """What a merge of this record writes: of a model, the attributes that were set; of a dataclass, all.

        A mapping has attributes by name. Raises `SchemaError` for what is no attribute or has not its type,
        `EncodeError` for what cannot be stored.
        """
        values = self._given(record)
        if skip_none:
            values = {name: value for name, value in values.items() if value is not None}
        return [change for name in values for change in merging(self.attributes[name], values, codec)]

    def replacing(self, record: M, codec: Codec) -> list[Change]:
        """What makes a record this one, whatever it was."""
        values = _attributes_of(record, self.attributes)
        return [change for name in values for change in replacing(self.attributes[name], values, codec)]

    def _given(self, record: M | Mapping[str, Any]) -> Attributes:
        if isinstance(record, Mapping):
            given = cast(Mapping[str, Any], record)
            if unknown := given.keys() - self.attributes.keys():
                raise SchemaError(f"{self.model.__name__} has no attribute {', '.join(sorted(unknown))}")
            return {name: self._checked(self.attributes[name], value) for name, value in given.items()}
        if not isinstance(record, self.model):
            raise SchemaError(f"give a {self.model.__name__}, or a mapping of its attributes, not {type(record)}")
        chosen = record.model_fields_set if isinstance(record, BaseModel) else self.attributes.keys()
        return _attributes_of(record, chosen)

    def _checked(self, attribute: Attribute, value: Any) -> Any:
        try:
            return attribute.adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise SchemaError(f"{self.model.__name__}.{attribute.name}: {problem}") from None

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, fields: Mapping[bytes, bytes], codec: Codec, key: str) -> Snapshot[M] | None:
        """The record that these fields are, migrated if need be; None if there is none.

        Raises `DecodeError`, which names `key`, if it cannot be read.
        """
        if _HEAD + b"version" not in fields:
            return None
        version, schema, created, updated = _heads(fields, key)
        if schema < self.version:
            fields = self._news(fields, codec, key)
        attributes = self._stored(fields, codec, key)
        for number, migrate in enumerate(_migrations[self.model][schema - 1 :], schema):
            try:
                attributes = dict(migrate(attributes))
            except Exception as error:
                raise DecodeError(f"its migration from version {number} failed: {error!r}", key) from error
        return Snapshot(self._made(attributes, key), version, schema, created, updated)

    def migrating(self, record: M, fields: Mapping[bytes, bytes], codec: Codec, key: str) -> list[Change]:
        """What writes a record back that was migrated from these fields."""
        changes = self.replacing(record, codec)
        if stay := self._foreign(fields):
            changes.append(("set", _LEFT, codec.encode(_left(fields, codec, key) | stay), b"", 0))
        return changes

    def _foreign(self, fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
        """A digest of each attribute that this version of the model has not."""
        digests: dict[str, Any] = {}
        for field, data in sorted(fields.items()):
            name = _attribute_in(field)
            if name is not None and name not in self.attributes:
                digest = digests.setdefault(name, hashlib.blake2b(digest_size=8))
                digest.update(b"%d %b%d %b" % (len(field), field, len(data), data))
        return {name: digest.digest() for name, digest in digests.items()}

    def _news(self, fields: Mapping[bytes, bytes], codec: Codec, key: str) -> Mapping[bytes, bytes]:
        """The fields without the attributes that are as the last migration left them for older workers to read."""
        left = _left(fields, codec, key)
        stale = {name for name, digest in self._foreign(fields).items() if left.get(name) == digest}
        return {field: data for field, data in fields.items() if _attribute_in(field) not in stale} if stale else fields

    def _stored(self, fields: Mapping[bytes, bytes], codec: Codec, key: str) -> Attributes:
        found: Attributes = {}
        for field, data in fields.items():
            name = _attribute_in(field)
            if name is None:
                continue
            _, is_member, member = field.partition(_MEMBER)
            try:
                if not is_member:
                    found[name] = codec.decode(data)
                elif data:
                    found.setdefault(name, {})[codec.decode(member)] = codec.decode(data)
                else:
                    found.setdefault(name, set()).add(codec.decode(member))
            except DecodeError as error:
                raise DecodeError(str(error), f"{key}[{field.decode(errors='backslashreplace')}]") from None
        return found

    def _made(self, attributes: Attributes, key: str) -> M:
        unions = {name: a.empty for name, a in self.attributes.items() if a.policy == Union and a.info.is_required()}
        known = {name: value for name, value in attributes.items() if name in self.attributes}
        try:
            return self._adapter.validate_python(unions | known)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise DecodeError(f"no {self.model.__name__}: {place}: {problem['msg']}", key) from None


def shape(model: type[M]) -> Shape[M]:
    """The shape of a model. Raises `SchemaError` if it cannot be stored."""
    return cast(Shape[M], _shape(cast(Any, model)))


@cache
def _shape(model: type) -> Shape[Any]:
    return Shape(model)


def _heads(fields: Mapping[bytes, bytes], key: str) -> list[int]:
    """The version, the schema and the two times of a record."""
    try:
        return [int(fields[_HEAD + name]) for name in (b"version", b"schema", b"created", b"updated")]
    except (KeyError, ValueError) as error:
        raise DecodeError(f"no record: {error!r}", key) from None


def _left(fields: Mapping[bytes, bytes], codec: Codec, key: str) -> dict[str, bytes]:
    """The digests of attributes that the last migration left for older workers."""
    try:
        return dict(codec.decode(fields[_LEFT])) if _LEFT in fields else {}
    except (DecodeError, TypeError, ValueError) as error:
        raise DecodeError(str(error), f"{key}[{_LEFT.decode()}]") from None


def _attribute_in(field: bytes) -> str | None:
    """The attribute that a field is of, None if it is of none."""
    name = field.partition(_MEMBER)[0]
    return None if field.startswith(_HEAD) or name.endswith(_RANK) else name.decode(errors="backslashreplace")


def _attribute(model: type, name: str, info: FieldInfo) -> Attribute:
    policies = [said for said in info.metadata if isinstance(said, Policy)]
    ends = [said for said in info.metadata if isinstance(said, Expires)]
    if len(policies) > 1 or len(ends) > 1:
        raise SchemaError(f"{model.__name__}.{name}: one policy, and one Expires, is enough")
    policy = policies[0] if policies else Latest
    if isinstance(policy, MaxBy) and policy.by not in cast(Any, model).__pydantic_fields__:
        raise SchemaError(f"{model.__name__}.{name}: MaxBy({policy.by!r}) is no attribute")
    attribute = Attribute(name, info, policy, milliseconds(ends[0].seconds) if ends else 0)
    if policy == Union:
        attribute.empty  # noqa: B018  (refuses what is no set and no dict)
    return attribute


def _attributes_of(record: Any, names: Iterable[str]) -> Attributes:
    return {name: getattr(record, name) for name in names}


def merging(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    """What a merge writes of one attribute, given the values of all that are merged."""
    return _MERGING[attribute.policy.name](attribute, values, codec)


def replacing(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    """What makes one attribute this one, whatever it was."""
    match attribute.policy.name:
        case "union":
            yield "drop", attribute.field, b"", b"", 0
            yield from _members(attribute, values, codec)
        case "sum":
            yield "set", attribute.field, _integer(attribute, values), b"", attribute.ttl_ms
        case "latest" | "keep-first":
            yield from _set(attribute, values, codec)
        case _:
            yield "erase", attribute.field, b"", b"", 0
            yield from merging(attribute, values, codec)


def _set(attribute: Attribute, values: Attributes, codec: Codec, how: str = "set") -> Iterator[Change]:
    yield how, attribute.field, _encoded(attribute, values[attribute.name], codec), b"", attribute.ttl_ms


def _keep_first(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    return _set(attribute, values, codec, "first")


def _fill_missing(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    return iter(()) if values[attribute.name] is None else _set(attribute, values, codec, "first")


def _add(attribute: Attribute, values: Attributes, _: Codec) -> Iterator[Change]:
    yield "add", attribute.field, _integer(attribute, values), b"", attribute.ttl_ms


def _members(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    dumped: Any = attribute.adapter.dump_python(values[attribute.name])
    members: dict[Any, Any] = cast(Any, dumped) if isinstance(dumped, dict) else dict.fromkeys(dumped, _NOTHING)
    for member, item in members.items():
        data = b"" if item is _NOTHING else codec.encode(item)
        yield "set", attribute.field + codec.encode(member), data, b"", attribute.ttl_ms


def _max(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    if (value := values[attribute.name]) is not None:
        ranked = inverse(rank(value)) if attribute.policy == Min else rank(value)
        yield "rank", attribute.field, _encoded(attribute, value, codec), ranked, attribute.ttl_ms


def _max_by(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    by = cast(MaxBy, attribute.policy).by
    if by not in values:
        raise SchemaError(f"{attribute.name} merges by {by}: give both")
    if values[by] is not None and (value := values[attribute.name]) is not None:
        data = _encoded(attribute, value, codec)
        yield "rank", attribute.field, data, rank(values[by]) + tie_break(data), attribute.ttl_ms


_MERGING: Final[Mapping[str, Callable[[Attribute, Attributes, Codec], Iterator[Change]]]] = {
    "latest": _set,
    "sum": _add,
    "max": _max,
    "min": _max,
    "max-by": _max_by,
    "union": _members,
    "keep-first": _keep_first,
    "fill-missing": _fill_missing,
}


def _integer(attribute: Attribute, values: Attributes) -> bytes:
    value = values[attribute.name]
    if type(value) is not int:
        raise SchemaError(f"{attribute.name}: Sum is for integers (of the smallest unit: cents, tokens), not {value!r}")
    return b"%d" % value


def _encoded(attribute: Attribute, value: Any, codec: Codec) -> bytes:
    """The value as Python has it, if that can be stored, else as JSON would have it."""
    plain = value.value if isinstance(value, Enum) else value
    try:
        return codec.encode(plain)
    except EncodeError as error:
        try:
            return codec.encode(attribute.adapter.dump_python(value, mode="json"))
        except PydanticSerializationError:
            raise error from None
