"""What makes two mentions the same entity: an id if both have one, else a natural key such as a name.

A model marks the attribute: ``id: Annotated[str | None, Id]``, ``name: Annotated[str, NaturalKey]``. Natural keys are
compared without regard to case, spaces (of which NUL is one) and the forms that unicode has for one text.
"""

import types
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

from redismem.errors import SchemaError
from redismem.keys import utf8

_LONGEST: Final = 200
_UNIONS: Final = (Union, types.UnionType)
_BETWEEN: Final = "\0"


@dataclass(frozen=True, slots=True)
class Identity:
    """Marks an attribute."""

    name: str


Id: Final = Identity("id")
"""Given by the system that owns the entity. Two entities with different ids are never one."""
NaturalKey: Final = Identity("key")
"""Names the entity while there is no id, or none yet."""


def identities(entity: Any) -> tuple[str, str]:
    """`id=...` and `key=...` of an entity, each "" if it has none.

    Raises `SchemaError` if it has neither, `InvalidKey` for a lone surrogate in them.
    """
    marks = _marks(cast(Any, type(entity)))
    known = {mark.name: f"{mark.name}={_short(text)}" for mark, text in _texts(entity, marks)}
    if not known:
        raise SchemaError(f"{entity!r} has neither an id nor a natural key, so nobody could find it again")
    return known.get("id", ""), known.get("key", "")


def blank(entity: Any) -> set[str]:
    """The attributes that are to tell what it is, and are blank: whoever knows better is right."""
    marks = _marks(cast(Any, type(entity)))
    return {name for mark, names in marks.items() for name in names if not normal(mark, getattr(entity, name)).strip()}


def normal(mark: Identity, value: Any) -> str:
    """What is compared. Of a text that is too long for a field, what stands for it.

    Raises `InvalidKey` for a lone surrogate.
    """
    text = str(value)
    if mark is NaturalKey:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = " ".join(text.replace(_BETWEEN, " ").split())
    return _short(text)


def _short(text: str) -> str:
    raw = utf8(text, "identity")
    return text if len(raw) <= _LONGEST else "~" + blake2b(raw, digest_size=16).hexdigest()


def _texts(entity: Any, marks: dict[Identity, tuple[str, ...]]) -> Iterator[tuple[Identity, str]]:
    """What is compared of each mark all of whose attributes are there."""
    for mark, names in marks.items():
        texts = [normal(mark, value) for name in names if (value := getattr(entity, name)) is not None]
        if len(texts) == len(names) and all(map(str.strip, texts)):
            yield mark, _BETWEEN.join(texts)


@cache
def _marks(model: type) -> dict[Identity, tuple[str, ...]]:
    """The attributes with each mark; several natural keys are one together. Raises `SchemaError` if there is none."""
    fields: dict[str, Any] = getattr(model, "__pydantic_fields__", {})
    marks: dict[Identity, tuple[str, ...]] = {}
    for name, info in fields.items():
        for mark in {said for said in (*info.metadata, *_said(info.annotation)) if isinstance(said, Identity)}:
            marks[mark] = (*marks.get(mark, ()), name)
    if not marks or len(marks.get(Id, ())) > 1:
        raise SchemaError(f"{model.__name__}: mark one attribute as Id, or some as NaturalKey, in Annotated[...]")
    return marks


def _said(annotation: object) -> Iterator[object]:
    """What `Annotated` says of a type, within unions too, such as of `Annotated[str, Id] | None`."""
    if get_origin(annotation) is Annotated:
        yield from cast(Any, annotation).__metadata__
        yield from _said(cast(Any, annotation).__origin__)
    elif get_origin(annotation) in _UNIONS:
        for inner in get_args(annotation):
            yield from _said(inner)


def marked(model: type, mark: Identity | None = None) -> list[str]:
    """The attributes with a mark, or with any."""
    return [name for one, names in _marks(model).items() if mark in (None, one) for name in names]


def is_entity(model: object) -> bool:
    """Whether a type is a model with an identity."""
    try:
        return isinstance(model, type) and bool(_marks(model))
    except SchemaError:
        return False
