"""What a model may declare of its attributes."""

import dataclasses
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, create_model

from redismem import Expires, FillMissing, Max, MaxBy, Min, Sum, Union, UserContext
from redismem.errors import SchemaError
from redismem.stores.shape import shape


def model(annotation: Any, default: Any = None, **more: Any) -> type[BaseModel]:
    return create_model("Declared", x=(annotation, default), **more)


@pytest.mark.parametrize(
    ("annotation", "policy"),
    [
        (Annotated[int, Sum], Sum),
        (Annotated[int, Sum] | None, Sum),
        (Annotated[PositiveInt | None, Sum], Sum),
        (Annotated[Annotated[int, Field(ge=5)], Sum] | None, Sum),
        (Annotated[Any, Sum], Sum),
        (Annotated[str, FillMissing, Field(min_length=3)] | Annotated[int, FillMissing] | None, FillMissing),
        (Annotated[Set[str], Union], Union),
        (Annotated[Mapping[str, int], Union] | None, Union),
        (Annotated[frozenset[str], Union, Field(min_length=2)], Union),
        (Annotated[AwareDatetime | None, Max], Max),
        (Annotated[datetime, Min] | None, Min),
    ],
    ids=str,
)
def test_policies_are_found_within_unions(annotation: Any, policy: Any) -> None:
    assert shape(model(annotation)).attributes["x"].policy == policy


def test_expiry_is_found_within_unions() -> None:
    assert shape(model(Annotated[str, Expires(2)] | None)).attributes["x"].ttl_ms == 2000


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[str, Sum],
        Annotated[float, Sum],
        Annotated[bool, Sum],
        Annotated[int | float, Sum],
        Annotated[list[str], Union],
        Annotated[tuple[str, ...] | None, Union],
        Annotated[str, Union],
        Annotated[dict[str, int], Max],
        Annotated[list[int] | None, Min],
        Annotated[bytes, Max],
        Annotated[Annotated[int, Max], Min],
        Annotated[int, Max] | Annotated[str, Min],
        Annotated[str, MaxBy("y")],
        Annotated[str, MaxBy("nothing")],
    ],
    ids=str,
)
def test_a_policy_that_a_type_does_not_allow(annotation: Any) -> None:
    with pytest.raises(SchemaError, match=r"Declared\.x"):
        shape(model(annotation, y=(dict[str, int], {})))


def test_what_could_not_be_read_again() -> None:
    for refused in (model(Annotated[str, Expires(1)], ...), model(str, Field(alias="y"))):
        with pytest.raises(SchemaError, match=r"Declared\.x"):
            shape(refused)
    shape(model(str, Field(alias="y"), __config__=ConfigDict(populate_by_name=True)))


def test_subclasses_that_pydantic_has_not_seen() -> None:
    @dataclasses.dataclass(frozen=True)
    class Standard(UserContext):
        mood: str = "fine"

    class Bare(UserContext):
        mood: str = "fine"

    class Same(UserContext):
        kinds: ClassVar[int] = 1

    for refused in (Standard, Bare):
        with pytest.raises(SchemaError, match="mood"):
            shape(refused)
    shape(Same)
