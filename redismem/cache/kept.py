"""A stored value that is asked for again and again: each time a value that nobody else holds, as if decoded anew.

What cannot change is given to everybody as it is. A small dict, list or set is decoded once and then copied with all
that it holds, which takes a fraction of the time of decoding it again. Anything else is decoded each time.
"""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from redismem.codec import Codec

MOST_BYTES: Final = 8192
"""Longer documents are kept as bytes only: as Python objects they could take many times as much memory."""

_FROZEN: Final[frozenset[type]] = frozenset({str, int, float, bool, bytes, type(None), datetime, date, UUID, Decimal})
_MOST_BOXES: Final = 32


class Kept:
    """One stored value, as its bytes until it is first asked for.

    `again` gives the value. Raises `DecodeError`, every time, if it cannot be read.
    """

    __slots__ = ("again",)

    def __init__(self, codec: Codec, data: bytes) -> None:
        self.again: Callable[[], Any] = partial(_first, self, codec, data)


class _TooLarge(Exception):
    """Copying would not pay."""


def _first(kept: Kept, codec: Codec, data: bytes) -> Any:
    value = codec.decode(data)
    if type(value) in _FROZEN:
        kept.again = lambda: value
        return value
    try:
        kept.again = _Copiers().of(value) if len(data) <= MOST_BYTES else codec.reader(data)
    except _TooLarge:
        kept.again = codec.reader(data)
    return kept.again()


class _Copiers:
    """Functions that copy one value each, with all that it holds."""

    def __init__(self) -> None:
        self._boxes = 0

    def of(self, value: Any) -> Callable[[], Any]:
        """The function for this value, which must not change from now on. Raises `_TooLarge`."""
        kind = cast(Any, type(value))
        self._boxes += 1
        if self._boxes > _MOST_BOXES or kind not in (dict, list, set):
            raise _TooLarge
        if kind is set:
            return value.copy  # type: ignore[no-any-return]
        items = value.items() if kind is dict else enumerate(value)
        inner = [(place, self.of(item)) for place, item in items if type(item) not in _FROZEN]
        return partial(_copy, value, inner) if inner else value.copy


def _copy(value: Any, inner: list[tuple[Any, Callable[[], Any]]]) -> Any:
    copied = value.copy()
    for place, again in inner:
        copied[place] = again()
    return copied
