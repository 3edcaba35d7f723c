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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import get_annotations, signature
from typing import Annotated, Any, Final, Generic, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from redismem.codec import Codec
from redismem.errors import DecodeError, SchemaError, problems
from redismem.stores.attribute import (
    KEEP,
    MEMBER,
    RANK,
    Attribute,
    Attributes,
    Change,
    fill_missing,
    merging,
    replacing,
    same,
)
from redismem.stores.policy import Max, MaxBy, Union

M = TypeVar("M")
T = TypeVar("T")

Migration = Callable[[Attributes], Attributes]

_NOTHING: Final = object()
_HEAD: Final = b"@"
_LEFT: Final = b"@left"
_VALIDATORS: Final = {
    "before": BeforeValidator,
    "after": AfterValidator,
    "plain": PlainValidator,
    "wrap": WrapValidator,
}
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
    told: frozenset[str]
    """The attributes that somebody has told; the others have their defaults."""


class Shape(Generic[M]):
    """One model's attributes."""

    def __init__(self, model: type[M]) -> None:
        fields = _fields_of(model)
        if not fields:
            raise SchemaError(f"{model!r}: give a pydantic model, or a pydantic dataclass, that has attributes")
        if lost := _unseen(model):
            raise SchemaError(
                f"{model.__name__}: pydantic does not know {', '.join(lost)}; use its dataclass decorator"
            )
        self.model = model
        self.attributes = {name: self._attribute(name, info) for name, info in fields.items()}
        for attribute in self.attributes.values():
            self._check_order(attribute)
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

    def merging(
        self, record: M | Mapping[str, Any], codec: Codec, *, skip_none: bool = False, blank: Container[str] = ()
    ) -> list[Change]:
        """What a merge of this record writes: of a model, the attributes that were set; of a dataclass, all.

        A mapping has attributes by name. What is `blank` is written only where nothing is. Raises `SchemaError` for
        what is no attribute or not allowed for it, `EncodeError` for what cannot be stored, `LimitExceeded` for sums
        beyond 64 bits.
        """
        if isinstance(record, Mapping):
            given = dict(cast(Mapping[str, Any], record))
            self._refuse_unknown(given)
        else:
            given = self._values(record, _said_by(self._mine(record)))
        values = self._valid(self._some, given)
        if skip_none:
            values = {name: value for name, value in values.items() if value is not None}
        return [
            change
            for name in values
            for change in (fill_missing if name in blank else merging)(self.attributes[name], values, codec)
        ]

    def told(self, record: M, before: Snapshot[M] | None) -> Attributes:
        """What is to be stored of a whole record: what was told before, is told now, or is not as it was.

        If nothing was there `before`: or is not as it would be by default. Raises `SchemaError`.
        """
        record = self._mine(record)
        names = _said_by(record) if isinstance(record, BaseModel) else set[str]()
        if before is not None:
            names |= before.told
        for name, attribute in self.attributes.items():
            was = attribute.default if before is None else getattr(before.record, name)
            if not same(getattr(record, name, _NOTHING), was):
                names.add(name)
        made = self.made(self._values(record, names))
        return {name: getattr(made, name) for name in names}

    def made(self, told: Attributes) -> M:
        """The record of which this is told. Raises `SchemaError`."""
        return self._valid(self._adapter, told)

    def replacing(self, told: Attributes, codec: Codec) -> list[Change]:
        """What makes a record this one, whatever it was."""
        sets = [change for name in told for change in replacing(self.attributes[name], told, codec)]
        return [("only", b"", ",".join(self.attributes).encode(), b"%d" % len(sets), 0), *sets]

    def changing(
        self, told: Attributes, fields: Mapping[bytes, bytes], codec: Codec, *, keep_ttl: bool = False
    ) -> list[Change]:
        """What makes the record that has these fields this one: what is as it was is left alone, and its TTL too.

        `keep_ttl`: so is the TTL of what changes.
        """
        sets = {name: list(replacing(self.attributes[name], told, codec)) for name in told}
        news = {name for name in told if any(self._is_news(name, change, fields) for change in sets[name])}
        changes: list[Change] = []
        for name, each in sets.items():
            policy = self.attributes[name].policy
            if policy == Union:
                changes += (change for change in each if self._is_news(name, change, fields))
            elif name in news or (isinstance(policy, MaxBy) and policy.by in news):
                changes += each
        if keep_ttl:
            changes = [(*change[:4], KEEP) if change[1] in fields else change for change in changes]
        wanted = {change[1] for each in sets.values() for change in each}
        gone = (field for field in fields if field not in wanted and _owner(field) in self.attributes)
        return [*changes, *(("erase", field, b"", b"", 0) for field in gone)]

    def _is_news(self, name: str, change: Change, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a field would change. What merges by another attribute keeps the rank that this had at the time."""
        _, field, data, _, _ = change
        if field.endswith(RANK) and isinstance(self.attributes[name].policy, MaxBy):
            return field not in fields
        return fields.get(field) != data

    def _mine(self, record: object) -> M:
        if not isinstance(record, self.model):
            raise SchemaError(f"give an instance of {self.model.__name__}, not of {type(record).__name__}")
        self._refuse_unknown(_said_by(record))  # of a subclass, or of a model that allows others
        return record

    def _values(self, record: M, names: Iterable[str]) -> Attributes:
        return {name: getattr(record, name) for name in names if hasattr(record, name)}

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        if unknown := set(names) - self.attributes.keys():
            raise SchemaError(f"{self.model.__name__} has no attribute {', '.join(sorted(map(str, unknown)))}")

    def _valid(self, adapter: TypeAdapter[T], values: Attributes) -> T:
        try:
            return adapter.validate_python(values)
        except ValidationError as error:
            raise SchemaError(f"{self.model.__name__}.{problems(error)[0]}") from None

    @cached_property
    def _some(self) -> TypeAdapter[Attributes]:
        """Checks some of the attributes, each by itself."""
        checks: dict[str, Any] = {
            name: Annotated[(one.info.annotation, *one.info.metadata)] if one.info.metadata else one.info.annotation
            for name, one in self.attributes.items()
        }
        for name, check in _validators(self.model):
            for each in checks if name == "*" else (name,):
                checks[each] = Annotated[checks[each], check]
        some = cast(Any, TypedDict)(self.model.__name__, checks, total=False)
        some.__pydantic_config__ = {**_config(self.model), "alias_generator": None}
        return TypeAdapter(some)

    # --- declaration ------------------------------------------------------------------------------------------------

    def _attribute(self, name: str, info: FieldInfo) -> Attribute:
        config = _config(self.model)
        if info.validation_alias is not None and not (config.get("populate_by_name") or config.get("validate_by_name")):
            raise SchemaError(
                f"{self.model.__name__}.{name} has an alias: have the model accept names too, by populate_by_name"
            )
        try:
            return Attribute.of(name, info)
        except SchemaError as error:
            raise SchemaError(f"{self.model.__name__}.{error}") from None

    def _check_order(self, attribute: Attribute) -> None:
        """Whether that by which it merges is there, and has an order."""
        if not isinstance(attribute.policy, MaxBy):
            return
        by = self.attributes.get(attribute.policy.by)
        problem = "is no attribute" if by is None else by.mismatch(Max)
        if problem:
            raise SchemaError(f"{self.model.__name__}.{attribute.name}: MaxBy({attribute.policy.by!r}): {problem}")

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
        known = {name: value for name, value in attributes.items() if name in self.attributes}
        return Snapshot(self._read(known, key), version, schema, created, updated, frozenset(known))

    def is_current(self, found: Snapshot[M], fields: Mapping[bytes, bytes]) -> bool:
        """Whether these fields are as this version of the model, or a later one, writes them.

        They are not if an attribute has no rank that has to have one: it merged by another policy once.
        """
        unranked = any(field in fields and field + RANK not in fields for field in self._ranked)
        return found.schema > self.version or (found.schema == self.version and not unranked)

    def migrating(self, found: Snapshot[M], fields: Mapping[bytes, bytes], codec: Codec, key: str) -> list[Change]:
        """What writes a record back that was migrated from these fields."""
        told = {name: getattr(found.record, name) for name in found.told}
        changes = self.changing(told, fields, codec, keep_ttl=True)
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
        unions: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
        for field, data in fields.items():
            name = _attribute_in(field)
            if name is None:
                continue
            _, is_member, member = field.partition(MEMBER)
            try:
                if is_member:
                    unions[name][codec.decode(member)] = codec.decode(data) if data else _NOTHING
                else:
                    found[name] = codec.decode(data)
            except (DecodeError, TypeError) as error:  # TypeError: nothing that can be a member
                raise DecodeError(str(error), f"{key}[{field.decode(errors='backslashreplace')}]") from None
        for name, members in unions.items():
            try:
                found[name] = self._joined(name, found.get(name), members)
            except TypeError as error:
                raise DecodeError(f"no members of a union: {error}", f"{key}[{name}]") from None
        return found

    def _joined(self, name: str, plain: Any, members: Mapping[Any, Any]) -> Any:
        """A union, and what is there of the same name from when it was none; or the other way round."""
        is_union = name in self.attributes and self.attributes[name].policy == Union
        if plain is not None and not is_union:
            return plain
        if any(item is not _NOTHING for item in members.values()):
            pairs = {member: None if item is _NOTHING else item for member, item in members.items()}
            return {**cast(Any, plain), **pairs} if isinstance(plain, dict) else pairs
        return {*cast(Any, plain), *members} if isinstance(plain, list | tuple | Set) else set(members)

    @cached_property
    def _ranked(self) -> list[bytes]:
        """The fields that have ranks."""
        ranked = (one for one in self.attributes.values() if one.policy.name in ("max", "min", "max-by"))
        return [attribute.field for attribute in ranked]

    def _read(self, attributes: Attributes, key: str) -> M:
        unions = {name: a.empty for name, a in self.attributes.items() if a.policy == Union and a.info.is_required()}
        try:
            return self._adapter.validate_python(unions | attributes, strict=False)
        except ValidationError as error:
            raise DecodeError(f"no {self.model.__name__}: {problems(error)[0]}", key) from None


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
    """The attribute that a field is of, None if it is of none, or a rank."""
    return None if field.partition(MEMBER)[0].endswith(RANK) else _owner(field)


def _owner(field: bytes) -> str | None:
    """The attribute that a field is of, or the rank of, None if it is of none."""
    if field.startswith(_HEAD):
        return None
    return field.partition(MEMBER)[0].removesuffix(RANK).decode(errors="backslashreplace")


def _fields_of(model: type) -> dict[str, FieldInfo]:
    return getattr(model, "__pydantic_fields__", {})


def _config(model: type) -> ConfigDict:
    return getattr(model, "model_config", None) or getattr(model, "__pydantic_config__", None) or ConfigDict()


def _unseen(model: type) -> list[str]:
    """The attributes of classes that pydantic has not seen: subclasses of a pydantic dataclass that are none."""
    unseen = (cls for cls in model.__mro__ if _fields_of(cls) and "__pydantic_fields__" not in vars(cls))
    hints = [hint for cls in unseen for hint in get_annotations(cls).items()]
    return [name for name, hint in hints if name not in _fields_of(model) and "ClassVar" not in str(hint)]


def _said_by(record: object) -> set[str]:
    """The attributes that somebody has set; of a dataclass, all."""
    return set(record.model_fields_set if isinstance(record, BaseModel) else _fields_of(type(record)))


def _validators(model: type) -> Iterator[tuple[str, Any]]:
    """The model's validators that look at one attribute alone, and which ("*": all)."""
    for decorator in cast(Any, model).__pydantic_decorators__.field_validators.values():
        if len(signature(decorator.func).parameters) == (2 if decorator.info.mode == "wrap" else 1):
            for name in decorator.info.fields:
                yield name, _VALIDATORS[decorator.info.mode](decorator.func)
