"""How each attribute of a model merges when two workers write at once, declared beside its type.

    class Lead(BaseModel, frozen=True):
        status: str = "new"  # Latest, as everything that says nothing else
        visits: Annotated[int, Sum] = 0
        tags: Annotated[frozenset[str], Union] = frozenset()
        email: Annotated[str | None, FillMissing] = None
        segment: Annotated[str | None, MaxBy("confidence")] = None
        confidence: Annotated[float, Max] = 0.0
        task: Annotated[str | None, Expires(3600)] = None

============  ==========================================================  =============================
`Latest`      what was written last, by the server's order                idempotent
`Sum`         of integers                                                 commutative
`Max`, `Min`  the greatest, the smallest                                  commutative and idempotent
`MaxBy`       what came with the greatest value of another attribute      commutative and idempotent
`Union`       of sets: every member; of dicts: every key, the latest      commutative for sets, idempotent
`KeepFirst`   what was written first, None too                            idempotent
`FillMissing` what was written first and was not None                     idempotent
============  ==========================================================  =============================

None says nothing, except to `Latest` and `KeepFirst`.
"""

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

from redismem.ttl import milliseconds


@dataclass(frozen=True, slots=True)
class Policy:
    """How an attribute merges."""

    name: str


Latest: Final = Policy("latest")
Sum: Final = Policy("sum")
Max: Final = Policy("max")
Min: Final = Policy("min")
Union: Final = Policy("union")
KeepFirst: Final = Policy("keep-first")
FillMissing: Final = Policy("fill-missing")


@dataclass(frozen=True, slots=True, init=False)
class MaxBy(Policy):
    """The value that came with the greatest value of the attribute `by`; between equals, always the same one."""

    by: str

    def __init__(self, by: str) -> None:
        object.__setattr__(self, "name", "max-by")
        object.__setattr__(self, "by", by)


@dataclass(frozen=True, slots=True)
class Expires:
    """The attribute is forgotten so many `seconds` after it was last written. Raises `InvalidTTL`."""

    seconds: float

    def __post_init__(self) -> None:
        milliseconds(self.seconds)


def parts(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each type that an annotation allows, with what `Annotated` says of it; of a union, each of its types."""
    annotation = getattr(annotation, "__value__", annotation)  # of an alias that `type` has declared
    if get_origin(annotation) is Annotated:
        for kind, said in parts(annotation.__origin__):
            yield kind, (*said, *annotation.__metadata__)
    elif get_origin(annotation) in (typing.Union, types.UnionType):
        for kind in get_args(annotation):
            yield from parts(kind)
    else:
        yield annotation, ()
