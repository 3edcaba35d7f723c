"""The times that a question mentions, as intervals: "in May", "on 7 May 2023", "last week", "3 days ago", "2023".

English; everything is UTC.
An interval is a pair of seconds since 1970, its end not included. Of a day that does not exist the year counts.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

Interval: TypeAlias = tuple[float, float]

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH: Final = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_YEAR: Final = r"(?P<year>(?:19|20)\d\d)\b"
_PAST: Final = {"day": 1, "week": 7, "month": 30.4, "year": 365.25}
_MOST_YEARS: Final = 50
_LATEST: Final = 250_000_000_000  # the year 9892: datetime ends soon after

_PATTERNS: Final = tuple(
    re.compile(rf"\b{pattern}", re.IGNORECASE)
    for pattern in (
        r"(?P<year>(?:19|20)\d\d)-(?P<number>\d\d)(?:-(?P<day>\d\d))?\b",
        rf"{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH} {_DAY}(?:,? {_YEAR})?",
        rf"{_MONTH},?(?: of)? {_YEAR}",
        rf"(?:in|last|this|during|since|until|by|of|early|late|mid) {_MONTH}",
        _YEAR,
        r"(?P<word>today|yesterday|tonight)\b",
        rf"(?:last|this|on) (?P<weekday>{'|'.join(_DAYS)})\b",
        r"(?P<which>last|this|past|previous) (?P<unit>week(?P<end>end)?|month|year)\b",
        r"(?P<count>\d{1,3}|an?|two|three|four|five|six) (?P<ago>day|week|month|year)s? ago\b",
    )
)
_COUNTS: Final = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@dataclass(frozen=True, slots=True)
class Moment:
    """How a text says when, and the intervals that this may be."""

    said: str
    intervals: tuple[Interval, ...]


def mentioned(text: str, now: float, oldest: float) -> tuple[list[Moment], str]:
    """The moments that a text mentions, seen from `now`, and the rest of the text.

    A month without a year: of each year since `oldest`.
    """
    try:
        today = datetime.fromtimestamp(min(now, _LATEST), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        first = datetime.fromtimestamp(max(oldest, now - _MOST_YEARS * 366 * 86400), UTC).year
    except (OverflowError, ValueError, OSError):
        return [], text
    found: list[Moment] = []

    def understand(match: re.Match[str]) -> str:
        found.append(Moment(match[0], tuple(_intervals(match.groupdict(), today, first))))
        return " "  # what was understood as a whole is not looked at in parts

    for pattern in _PATTERNS:
        text = pattern.sub(understand, text)
    return found, text


def _intervals(parts: dict[str, str | None], today: datetime, first: int) -> Iterator[Interval]:
    for name, reading in _READINGS.items():
        if parts.get(name):
            try:
                yield from ((a.timestamp(), b.timestamp()) for a, b in reading(parts, today, first))
            except (OverflowError, ValueError):
                continue  # 31 June
            return


_Spans: TypeAlias = list[tuple[datetime, datetime]]
_Parts: TypeAlias = dict[str, str | None]


def _date(parts: _Parts, today: datetime, first: int) -> _Spans:
    month = int(parts.get("number") or 0) or _MONTHS.index((parts.get("month") or "")[:3].lower()) + 1
    day = parts.get("day")
    year = parts.get("year")
    spans: _Spans = []
    for each in [int(year)] if year else range(first, today.year + 1):
        start = datetime(each, month, int(day or 1), tzinfo=UTC)
        spans.append((start, start + timedelta(days=1) if day else _next_month(start)))
    return spans


def _next_month(start: datetime) -> datetime:
    return (start.replace(day=1) + timedelta(days=32)).replace(day=1)


def _year(parts: _Parts, today: datetime, first: int) -> _Spans:
    del today, first
    year = int(parts["year"] or 0)
    return [(datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC))]


def _word(parts: _Parts, today: datetime, first: int) -> _Spans:
    del first
    start = today - timedelta(days=(parts["word"] or "").lower() == "yesterday")
    return [(start, start + timedelta(days=1))]


def _weekday(parts: _Parts, today: datetime, first: int) -> _Spans:
    del first
    behind = (today.weekday() - _DAYS.index((parts["weekday"] or "").lower())) % 7
    start = today - timedelta(days=behind or 7)
    return [(start, start + timedelta(days=1))]


def _unit(parts: _Parts, today: datetime, first: int) -> _Spans:
    del first
    is_this = (parts["which"] or "").lower() == "this"
    unit = (parts["unit"] or "").lower()
    if unit.startswith("week"):
        start = today - timedelta(days=today.weekday() + (0 if is_this else 7))
        return [(start + timedelta(days=5 if parts["end"] else 0), start + timedelta(days=7))]
    if unit == "month":
        start = today.replace(day=1)
        start = start if is_this else (start - timedelta(days=1)).replace(day=1)
        return [(start, _next_month(start))]
    start = today.replace(year=today.year - (not is_this), month=1, day=1)
    return [(start, start.replace(year=start.year + 1))]


def _ago(parts: _Parts, today: datetime, first: int) -> _Spans:
    """People round: three weeks ago is some days before or after."""
    del first
    given = (parts["count"] or "").lower()
    days = _PAST[(parts["ago"] or "").lower()]
    middle = today - timedelta(days=(_COUNTS.get(given) or int(given)) * days)
    return [(middle - timedelta(days=days / 2), middle + timedelta(days=days / 2 + 1))]


_READINGS: Final[dict[str, Callable[[_Parts, datetime, int], _Spans]]] = {
    "number": _date,
    "month": _date,
    "year": _year,
    "word": _word,
    "weekday": _weekday,
    "which": _unit,
    "count": _ago,
}
