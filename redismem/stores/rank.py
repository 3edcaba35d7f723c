"""Ranks: text that compares as the values do, so that a server can keep the greatest without reading it.

A rank is made of `0-9a-f` only: such text compares alike everywhere, whatever the server's locale. Numbers, whole or
not, compare with each other; of texts, dates, moments and everything else only the like of each other do. Of Decimals
that differ after more than 15 decimal places the ranks may be equal: whoever ranks them adds a `tie_break`.
"""

import math
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from typing import Any, Final

from redismem.errors import SchemaError

_INVERSE: Final = bytes.maketrans(b"0123456789abcdef", b"fedcba9876543210")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LENGTH: Final = 4
_MOST_PLACES: Final = 20_000
_ENDLESS: Final = {math.inf: b"f", -math.inf: b"0"}


def rank(value: Any) -> bytes:
    """The rank of one value. Raises `SchemaError` for one that has no order: NaN, None, containers."""
    for kinds, ranked in _RANKS:
        if isinstance(value, kinds):
            return ranked(value)
    raise SchemaError(f"a value of type {type(value).__name__} has no rank: Max, Min and MaxBy take what has an order")


def inverse(ranked: bytes) -> bytes:
    """A rank that is the smaller the greater this one is. Of two ranks neither may begin with the other."""
    return ranked.translate(_INVERSE)


def tie_break(data: bytes) -> bytes:
    """What decides between different values of one rank: the same everywhere, and nothing else."""
    return blake2b(data, digest_size=8).hexdigest().encode()


def _number(value: int | float | Decimal) -> bytes:
    """The sign, then length and digits of what is whole, then the bits of the rest: of floats, exactly."""
    if (isinstance(value, Decimal) and value.is_nan()) or (isinstance(value, float) and math.isnan(value)):
        raise SchemaError("NaN has no rank: it is neither greater nor smaller than anything")
    if value in _ENDLESS:
        return _ENDLESS[float(value)]
    if isinstance(value, Decimal) and not -_MOST_PLACES <= value.adjusted() <= _MOST_PLACES:
        raise SchemaError(f"a number of more than {_MOST_PLACES} places is too long to be ranked")
    return b"8" + _magnitude(value) if value >= 0 else b"7" + inverse(_magnitude(-value))


def _magnitude(value: int | float | Decimal) -> bytes:
    whole = math.floor(value)
    digits = b"%x" % whole
    if len(digits) >= 16**_LENGTH:
        raise SchemaError(f"a number of {len(digits)} hexadecimal digits is too long to be ranked")
    rest = struct.pack(">d", float(Fraction(value) - whole)).hex().encode()
    return b"%0*x" % (_LENGTH, len(digits)) + digits + rest


def _moment(value: datetime) -> bytes:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return _number((aware - _EPOCH) // _MICROSECOND)


def _text(value: str) -> bytes:
    """Two digits for each byte; the end is smaller than any byte."""
    return b"".join(b"%04x" % (byte + 1) for byte in value.encode()) + b"0000"


_RANKS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], bytes]], ...]] = (
    ((int, float, Decimal), _number),
    (str, _text),
    (datetime, _moment),
    (date, lambda value: _number(value.toordinal())),
    (timedelta, lambda value: _number(value // _MICROSECOND)),
    (time, lambda value: _text(value.isoformat())),
)
