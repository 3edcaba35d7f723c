"""Arguments: what callers may give for numbers and moments, checked before anything is sent."""

import math
from datetime import datetime
from typing import Any, Final

from redismem.errors import ConfigError

GREATEST: Final = 2**52
"""Numbers of the server are exact twice as far: after a version that a worker gives, there is always a next one."""


def natural(what: str, number: Any) -> int:
    """A whole number from 1 on. Raises `ConfigError`, which names the argument."""
    if type(number) is int and 0 < number <= GREATEST:
        return number
    raise ConfigError(f"{what}={number!r}: give a whole number from 1 to 2**52")


def number(what: str, value: Any) -> float:
    """A number that others are less or greater than. Raises `ConfigError`, which names the argument."""
    if isinstance(value, int | float) and not math.isnan(value):
        return value
    raise ConfigError(f"{what}={value!r}: give a number")


def moment(what: str, value: Any) -> datetime:
    """A datetime that means the same everywhere. Raises `ConfigError`, which names the argument."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ConfigError(f"{what}={value!r}: give a datetime with a time zone")


def seconds(what: str, value: Any) -> float | None:
    """A moment in seconds since 1970; None if none is given. Raises `ConfigError`, which names the argument."""
    return None if value is None else moment(what, value).timestamp()
