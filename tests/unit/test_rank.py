"""Ranks compare as what they are ranks of."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redismem.errors import SchemaError
from redismem.stores.rank import inverse, rank, tie_break

numbers = st.one_of(
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.booleans(),
)
moments = st.datetimes(timezones=st.just(UTC))
comparable = st.one_of(*(st.tuples(kind, kind) for kind in (numbers, st.text(), moments, st.dates(), st.timedeltas())))


@given(comparable)
@example((0.1, Decimal("0.100")))
@example((-1e-300, 0))
@example((-1e-300, -1e-299))
@example((1e-300, 5e-324))
@example((math.inf, 10**400))
@example((-math.inf, -(10**400)))
@example(("a", "a\0"))
@example((datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)))
def test_ranks_compare_as_values_do(pair: tuple[Any, Any]) -> None:
    one, other = sorted(pair)
    assert rank(one) <= rank(other)
    assert inverse(rank(one)) >= inverse(rank(other))
    if one != other and not _too_close(one, other):
        assert rank(one) < rank(other)


@given(comparable)
def test_ranks_are_text_that_every_locale_sorts_alike(pair: tuple[Any, Any]) -> None:
    for value in pair:
        assert set(rank(value) + tie_break(rank(value))) <= set(b"0123456789abcdef")


@given(st.tuples(st.text(), st.text()))
def test_no_rank_begins_with_another(pair: tuple[str, str]) -> None:
    one, other = map(rank, pair)
    assert one == other or not (one.startswith(other) or other.startswith(one))


@pytest.mark.parametrize("value", [None, math.nan, Decimal("nan"), [], {}, b"", object()])
def test_what_has_no_order_has_no_rank(value: Any) -> None:
    with pytest.raises(SchemaError):
        rank(value)


def test_moments_without_a_zone_are_utc() -> None:
    assert rank(datetime(2024, 1, 1)) == rank(datetime(2024, 1, 1, tzinfo=UTC))
    assert rank(date(2024, 1, 1)) < rank(date(2024, 1, 2))
    assert rank(timedelta(microseconds=1)) > rank(timedelta(0))


def _too_close(one: Any, other: Any) -> bool:
    """Of decimals, what is left of a number's fraction as a float."""
    return isinstance(one, Decimal | float) and isinstance(other, Decimal | float) and float(one) == float(other)


@pytest.mark.parametrize("value", [math.nan, *map(Decimal, ("NaN", "sNaN", "1E+20000000", "-1E-20000000"))])
def test_what_has_no_rank_is_refused_at_once(value: float | Decimal) -> None:
    with pytest.raises(SchemaError):
        rank(value)
