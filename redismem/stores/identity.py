"""What makes two mentions the same entity: an id if both have one, else a natural key such as a name.

A model marks the attribute: ``id: Annotated[str | None, Id]``, ``name: Annotated[str, NaturalKey]``. Natural keys are
compared without regard to case, spaces and the forms that unicode has for one text.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Final, cast

from redismem.errors import SchemaError

_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """Marks an attribute."""

    name: str


Id: Final = Identity("id")
"""Given by the system that owns the entity. Two entities with different ids are never one."""
NaturalKey: Final = Identity("key")
"""Names the entity while there is no id, or none yet."""


def identities(entity: Any) -> tuple[str, str]:
    """`id=...` and `key=...` of an entity, each "" if it has none. Raises `SchemaError` if it has neither."""
    marks = _marks(cast(Any, type(entity)))
    known = {mark.name: f"{mark.name}={normal(mark, value)}" for mark, value in _values(entity, marks)}
    if not known:
        raise SchemaError(f"{entity!r} has neither an id nor a natural key, so nobody could find it again")
    return known.get("id", ""), known.get("key", "")


def normal(mark: Identity, value: Any) -> str:
    """What is compared. Of a text that is too long for a field, what stands for it."""
    text = str(value)
    if mark is NaturalKey:
        text = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
    if len(text.encode()) > _LONGEST:
        return "~" + blake2b(text.encode(), digest_size=16).hexdigest()
    return text


def _values(entity: Any, marks: dict[Identity, tuple[str, ...]]) -> Iterator[tuple[Identity, Any]]:
    for mark, names in marks.items():
        values = [getattr(entity, name) for name in names]
        if all(value is not None and str(value).strip() for value in values):
            yield mark, values[0] if len(values) == 1 else "\0".join(normal(mark, value) for value in values)


@cache
def _marks(model: type) -> dict[Identity, tuple[str, ...]]:
    """The attributes with each mark; several natural keys are one together. Raises `SchemaError` if there is none."""
    fields: dict[str, Any] = getattr(model, "__pydantic_fields__", {})
    marks: dict[Identity, tuple[str, ...]] = {}
    for name, info in fields.items():
        for mark in info.metadata:
            if isinstance(mark, Identity):
                marks[mark] = (*marks.get(mark, ()), name)
    if not marks or len(marks.get(Id, ())) > 1:
        raise SchemaError(f"{model.__name__}: mark one attribute as Id, or some as NaturalKey, in Annotated[...]")
    return marks


def is_entity(model: object) -> bool:
    """Whether a type is a model with an identity."""
    try:
        return bool(_marks(cast(Any, model)))
    except (SchemaError, TypeError):
        return False
