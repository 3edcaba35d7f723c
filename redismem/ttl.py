"""A time to live, as callers say it and as the server counts it."""

import math
from enum import Enum
from typing import Final

from redismem.errors import InvalidTTL

LONGEST_SECONDS: Final = 100 * 365.25 * 86_400
"""A century: longer is a mistake, and far longer overflows the server's clock."""


class Keep(Enum):
    """The type of `KEEP_TTL`."""

    TTL = "keep"


KEEP_TTL: Final = Keep.TTL
"""Given as a ttl: a key that exists keeps the TTL it has, a new one gets none."""

TTL = float | None | Keep
"""Seconds, or None for no expiry, or `KEEP_TTL`."""

FOREVER_MS: Final = 0
KEEP_MS: Final = -1


def milliseconds(ttl: TTL) -> int:
    """`ttl` as the scripts take it: milliseconds (at least 1), `FOREVER_MS` or `KEEP_MS`. Raises `InvalidTTL`."""
    if ttl is None:
        return FOREVER_MS
    if ttl is KEEP_TTL:
        return KEEP_MS
    if type(ttl) not in (int, float) or math.isnan(ttl):
        raise InvalidTTL(f"ttl {ttl!r}: give a number of seconds, or None for no expiry")
    if not 0 < ttl <= LONGEST_SECONDS:
        raise InvalidTTL(f"ttl {ttl!r}: give more than 0, at most {LONGEST_SECONDS:.0f} seconds, or None for no expiry")
    return max(1, round(ttl * 1000))
