"""One attribute of a model: how it merges, what it may be, and which fields of a record's hash hold it.

`lua/lib/record.lua` describes the fields, and the changes to them.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import NoneType
from typing import Any, Final, Self, TypeVar, cast, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from redismem.codec import Codec
from redismem.errors import EncodeError, LimitExceeded, SchemaError
from redismem.stores.policy import Expires, Latest, MaxBy, Min, Policy, Union, parts
from redismem.stores.rank import inverse, rank, tie_break
from redismem.ttl import milliseconds

T = TypeVar("T")

Change = tuple[str, bytes, bytes, bytes, int]
"""How, field, value, rank, TTL in milliseconds: as lib/record.lua takes it."""
Attributes = dict[str, Any]

KEEP: Final = -1
"""As a TTL: what is left of the field's own."""
MEMBER: Final = b":"
RANK: Final = b"^"

_NOTHING: Final = object()
_UNRANKED: Final = (Set, Mapping, list, tuple, bytes, BaseModel)


@dataclass(frozen=True)
class Attribute:
    """Its name, its type, how it merges and how long it lives."""

    name: str
    info: FieldInfo
    policy: Policy
    ttl_ms: int

    @classmethod
    def of(cls, name: str, info: FieldInfo) -> Self:
        """An attribute as its model declares it. Raises `SchemaError` if it cannot be stored like that."""
        said = [*info.metadata, *(mark for _, marks in parts(info.annotation) for mark in marks)]
        policies = list({mark for mark in said if isinstance(mark, Policy)})
        ends = list({mark for mark in said if isinstance(mark, Expires)})
        if len(policies) > 1 or len(ends) > 1:
            raise SchemaError(f"{name}: one policy, and one Expires, is enough")
        if ends and info.is_required():
            raise SchemaError(f"{name} expires: say what it is then, by a default")
        ttl_ms = milliseconds(ends[0].seconds) if ends else 0
        attribute = cls(name, info, policies[0] if policies else Latest, ttl_ms)
        if problem := attribute.mismatch(attribute.policy):
            raise SchemaError(f"{name}: {problem}")
        return attribute

    def mismatch(self, policy: Policy) -> str | None:
        """Why it cannot merge by a policy; of `MaxBy`, why others cannot merge by it."""
        match policy.name:
            case "sum" if any(kind is not int for kind in self.kinds):
                return "Sum is for integers (of the smallest unit: cents, tokens)"
            case "union" if not all(issubclass(kind, (Set, Mapping)) for kind in self.kinds):
                return "Union is for sets and for dicts"
            case "max" | "min" if any(issubclass(kind, _UNRANKED) for kind in self.kinds):
                return "Max and Min are for what has an order"
            case _:
                return None

    @property
    def kinds(self) -> list[type]:
        """The classes of which it may be, None apart."""
        kinds = (get_origin(kind) or kind for kind, _ in parts(self.info.annotation))
        return [kind for kind in kinds if isinstance(kind, type) and kind not in (NoneType, Any, object)]

    @property
    def field(self) -> bytes:
        """Its field, or what the fields of its members begin with."""
        return self.name.encode() + (MEMBER if self.policy == Union else b"")

    @property
    def empty(self) -> Any:
        """A union of nothing."""
        return {} if any(issubclass(kind, Mapping) for kind in self.kinds) else frozenset[Any]()

    @property
    def default(self) -> Any:
        """What it is where nobody says so; of those that have none, or make it of other attributes, nothing else."""
        factory = cast(Callable[[], Any] | None, self.info.default_factory)
        try:
            return self.info.default if factory is None else factory()
        except TypeError:
            return _NOTHING

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Checks its type."""
        return TypeAdapter(cast(Any, self.info.annotation))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of one type. Arrays never are."""
    try:
        return type(one) is type(other) and bool(one == other)
    except ValueError:
        return False


def merging(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    """What a merge writes of one attribute, given the values of all that are merged."""
    return _MERGING[attribute.policy.name](attribute, values, codec)


def replacing(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    """What makes one attribute this one, if nothing else is there: fields that are set."""
    value = values[attribute.name]
    match attribute.policy.name:
        case "union":
            yield from _members(attribute, values, codec)
        case "latest" | "keep-first":
            yield from _set(attribute, values, codec)
        case "max" | "min" | "max-by":
            data = _encoded(attribute, value, codec)
            yield "set", attribute.field, data, b"", attribute.ttl_ms
            yield "set", attribute.field + RANK, _rank(attribute, values, data), b"", attribute.ttl_ms
        case _ if value is None:  # and so nothing: the next that is told stays
            return
        case "sum":
            yield "set", attribute.field, _integer(attribute, value), b"", attribute.ttl_ms
        case _:
            yield from _set(attribute, values, codec)


def _set(attribute: Attribute, values: Attributes, codec: Codec, how: str = "set") -> Iterator[Change]:
    yield how, attribute.field, _encoded(attribute, values[attribute.name], codec), b"", attribute.ttl_ms


def _keep_first(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    return _set(attribute, values, codec, "first")


def fill_missing(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    """What a merge writes of one attribute where nothing is yet."""
    return iter(()) if values[attribute.name] is None else _set(attribute, values, codec, "first")


def _add(attribute: Attribute, values: Attributes, _: Codec) -> Iterator[Change]:
    if (value := values[attribute.name]) is not None:
        yield "add", attribute.field, _integer(attribute, value), b"", attribute.ttl_ms


def _max(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    if isinstance(attribute.policy, MaxBy) and attribute.policy.by not in values:
        raise SchemaError(f"{attribute.name} merges by {attribute.policy.by}: give both")
    if (value := values[attribute.name]) is not None:
        data = _encoded(attribute, value, codec)
        if ranked := _rank(attribute, values, data):
            yield "rank", attribute.field, data, ranked, attribute.ttl_ms


def _rank(attribute: Attribute, values: Attributes, data: bytes) -> bytes:
    """The rank of a value, which no other value has; of None, and of what is ranked by None, less than any."""
    value = values[attribute.name]
    by = values.get(attribute.policy.by) if isinstance(attribute.policy, MaxBy) else value
    if value is None or by is None:
        return b""
    return (inverse(rank(by)) if attribute.policy == Min else rank(by)) + tie_break(data)


def _members(attribute: Attribute, values: Attributes, codec: Codec) -> Iterator[Change]:
    value: Any = values[attribute.name]
    if value is None:
        return
    if not isinstance(value, Set | Mapping):
        raise SchemaError(f"{attribute.name}: Union is for sets and for dicts, not {value!r}")
    for one in _singles(value):
        name, data = _member(attribute, one, codec)
        yield "set", attribute.field + name, data, b"", attribute.ttl_ms


def _singles(value: Any) -> Iterator[Any]:
    """A set or a dict as several, of one member each."""
    for member in value:
        if isinstance(value, Mapping):
            yield {member: cast(Any, value)[member]}
        else:
            yield {member} if isinstance(value, set) else frozenset((member,))


_MERGING: Final[Mapping[str, Callable[[Attribute, Attributes, Codec], Iterator[Change]]]] = {
    "latest": _set,
    "sum": _add,
    "max": _max,
    "min": _max,
    "max-by": _max,
    "union": _members,
    "keep-first": _keep_first,
    "fill-missing": fill_missing,
}


def _integer(attribute: Attribute, value: Any) -> bytes:
    if type(value) is not int:
        raise SchemaError(f"{attribute.name}: Sum is for integers (of the smallest unit: cents, tokens), not {value!r}")
    if not -(2**63) <= value < 2**63:
        raise LimitExceeded(f"{attribute.name}: sums have 64 bits")
    return b"%d" % value


def _encoded(attribute: Attribute, value: Any, codec: Codec) -> bytes:
    return _as_stored(attribute, value, codec.encode)


def _member(attribute: Attribute, one: Any, codec: Codec) -> tuple[bytes, bytes]:
    """What stands in the field's name, and in the field, of a union of one member."""

    def encode(one: Any) -> tuple[bytes, bytes]:
        (member,) = one
        if isinstance(one, Mapping):
            return codec.encode(member), codec.encode(cast(Any, one)[member])
        if isinstance(member, dict | list):  # what JSON has for it is no member of a set
            raise EncodeError(f"{attribute.name}: such a member cannot be stored")
        return codec.encode(member), b""

    return _as_stored(attribute, one, encode)


def _as_stored(attribute: Attribute, value: Any, encode: Callable[[Any], T]) -> T:
    """The value as it is, if that can be stored, else what JSON has for it, if the value is made of that again."""
    try:
        return encode(value)
    except EncodeError:
        try:
            plain = value.value if isinstance(value, Enum) else attribute.adapter.dump_python(value, mode="json")
            again = attribute.adapter.validate_python(plain, strict=False)
        except (PydanticSerializationError, ValidationError):
            again = plain = _NOTHING
        if not same(again, value):
            raise
        return encode(plain)
