"""Plain data: what the state of an agent becomes when it is stored, and stays when it is read.

Whatever has `model_dump` or `dict` (messages of the common frameworks do) is what that gives; subclasses of plain
types, enums and mappings are what they stand for; anything else is ``{"type": <name>, "content": <text>}``. The name
is for people: nothing is ever made of it again.
"""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from redismem.codec import MAX_DEPTH
from redismem.errors import EncodeError

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes, datetime, date, UUID, Decimal})
_SEQUENCES: Final[tuple[Any, ...]] = (list, tuple, set, frozenset)


def plain(state: object) -> Any:
    """The state as plain data. Raises `EncodeError` for what has none; what `model_dump` raises goes through."""
    try:
        return _plain(state, 0)
    except TypeError as error:  # what was to be a key or a member of a set cannot be one
        raise EncodeError(str(error)) from error


def _plain(value: Any, depth: int) -> Any:
    if type(value) in _PLAIN or _is_array(value):
        return value
    if depth > MAX_DEPTH:
        raise EncodeError(f"nested deeper than {MAX_DEPTH}, or in a circle")
    below = partial(_plain, depth=depth + 1)
    whole: Any = value  # which no case narrows
    match value:
        case Enum():
            return below(value.value)
        case str():
            return str.__str__(value)
        case int() | float():
            return int(value) if isinstance(value, int) else float(value)
        case bytes() | bytearray():
            return bytes(value)
        case Mapping():
            return {below(key): below(item) for key, item in whole.items()}
        case list() | tuple() | set() | frozenset():
            return next(kind for kind in _SEQUENCES if isinstance(whole, kind))(map(below, whole))
        case _:
            return below(_dumped(value))


def _dumped(value: Any) -> dict[Any, Any]:
    """What an object says of itself, or its type and content."""
    for name in ("model_dump", "dict"):
        dump = getattr(value, name, None)
        if callable(dump) and not isinstance(value, type):
            return dict(cast(Any, dump()))
    content = getattr(value, "content", None)
    return {"type": type(value).__name__, "content": str(value) if content is None else content}


def _is_array(value: object) -> bool:
    """Whether it is a numpy array, without importing numpy."""
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray"
