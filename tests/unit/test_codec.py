"""Values come back exactly, or are refused with their path; bytes decode, or are a `DecodeError`, whatever they are."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gzip
import io
import itertools
import math
import random
import re
import struct
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo, available_timezones

import msgpack
import numpy as np
import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from redismem import codec as module
from redismem.codec import MAX_DEPTH, MAX_DIGITS, Codec
from redismem.errors import ConfigError, DecodeError, EncodeError, LimitExceeded

CODEC = Codec()
BARE = Codec(compress_threshold=None)
ZONES = sorted({"Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Etc/UTC"} & available_timezones())
DTYPES = [
    "?",
    "i1",
    "u1",
    *(order + kind for order in "<>" for kind in ("i4", "i8", "u2", "f2", "f4", "f8", "c8", "c16")),
]

needs_zones = pytest.mark.skipif(len(ZONES) < 4, reason="no time zone data on this machine")
tries_harder = settings(max_examples=2 * settings().max_examples)


def numbered(cases: Sequence[object]) -> list[str]:
    """Ids for cases whose repr is long, or not unique, or raises."""
    return [f"{number}-{type(case).__name__}" for number, case in enumerate(cases)]


@pytest.fixture
def zstd() -> Any:
    """The zstandard module, where there is one."""
    return pytest.importorskip("zstandard")


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most bytes allocated since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# --- what "exactly" means -----------------------------------------------------------------------------------------


def identical(one: Any, other: Any) -> bool:
    """Nothing tells the two apart: types, bits, order and time zones are the same all the way down."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return struct.pack("<d", one) == struct.pack("<d", other)
        case list() | tuple():
            return len(one) == len(other) and all(map(identical, one, other))
        case dict():
            return identical(list(one.items()), list(other.items()))
        case set() | frozenset():
            return len(one) == len(other) and all(any(identical(x, y) for y in other) for x in one)
        case Decimal():
            return identical([*one.as_tuple()], [*other.as_tuple()])
        case dt.datetime():
            return moment(one) == moment(other)
        case np.ndarray():
            return [one.dtype.str, one.shape, one.tobytes()] == [other.dtype.str, other.shape, other.tobytes()]
        case _:
            equal: bool = one == other
            return equal


def moment(value: dt.datetime) -> tuple[object, ...]:
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else value.tzinfo
    return value.replace(tzinfo=None, fold=0), value.fold, type(value.tzinfo), zone, value.utcoffset()


def test_identical_tells_apart_what_equality_does_not() -> None:
    pairs: list[tuple[Any, Any]] = [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([], ()),
        ({1}, {True}),
        ({1}, frozenset({1})),
        (Decimal("1.0"), Decimal("1")),
        (Decimal(0), Decimal("-0")),
        (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, fold=1)),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))),
        (np.zeros(2, "f4"), np.zeros(2, "f8")),
        (np.zeros((2, 1)), np.zeros(2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([[1]], [[True]]),
    ]
    assert not any(identical(one, other) for one, other in pairs)
    assert identical([math.nan, {(1, -0.0): b"x"}, np.eye(2)], [math.nan, {(1, -0.0): b"x"}, np.eye(2)])


# --- every supported value ----------------------------------------------------------------------------------------

# CPython reads an offset of less than a second as UTC, so such a datetime is refused
hours = st.timedeltas(dt.timedelta(seconds=1), dt.timedelta(hours=23))
offsets = hours.map(dt.timezone) | hours.map(lambda east: dt.timezone(-east)) | st.just(dt.timezone(dt.timedelta(0)))
zones = st.sampled_from([None, dt.UTC, *map(ZoneInfo, ZONES)]) | offsets
moments = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1)
)
decimals = st.decimals() | st.sampled_from(
    [Decimal(text) for text in ("-0", "-0E+5", "-NaN123", "1E-999999", "-Infinity")]
)
texts = st.text(st.characters(codec="utf-8"))
integers = st.integers() | st.integers(-(2**70), 2**70) | st.integers(0, 80).map(lambda power: -(2**power))
hashable_leaves = st.one_of(
    *(st.none(), st.booleans(), integers, st.floats(), texts, st.binary()),
    *(st.dates(), moments, st.uuids(), decimals.filter(lambda number: not number.is_snan())),
)


@st.composite
def arrays(draw: st.DrawFn) -> "np.ndarray[Any, Any]":
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.lists(st.integers(0, 3), max_size=4))
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
values = st.recursive(
    hashable_leaves | arrays() | decimals | hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(texts | hashables, inner, max_size=5),
        st.sets(hashables, max_size=5),
    ),
    max_leaves=25,
)


def round_trip(value: Any, codec: Codec = CODEC) -> Any:
    return codec.decode(codec.encode(value))


@given(values, st.sampled_from([BARE, CODEC, Codec(0), Codec(0, "gzip"), Codec(64, "off")]))
@tries_harder
def test_every_value_comes_back_exactly(value: Any, codec: Codec) -> None:
    assert identical(round_trip(value, codec), value)


CORNERS: list[Any] = [
    *(0, -1, 127, 128, 2**53 + 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 10**30),
    *(10**5000, -(10**5000), 10**MAX_DIGITS - 1, 10**MAX_DIGITS, -(10**MAX_DIGITS), 1 << 500_000),
    *(True, False, None, 0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, struct.unpack("<d", b"\1" * 8)[0]),
    *("", b"", [], {}, (), set(), frozenset(), "a\0b", "\U0001f9e0", b"\x00\xff", "28", "-", b"7"),
    *(
        [[], {}, (), set()],
        {"": {}, b"": b"", (): ()},
        {1: "i", -1: 1, 1.5: "f", None: 0, b"1": 2, "1": 3},
    ),
    *([2**64, -(2**63) - 1, 10**5000], {2**64: 2**64}, {(1, (2, frozenset({3, "x"}))): {(), ((),)}}),
    *(dt.date.min, dt.date.max, dt.datetime.min, dt.datetime.max, dt.datetime(2024, 5, 20, 10, fold=1)),
    *(dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    dt.datetime(2024, 5, 20, tzinfo=dt.UTC, fold=1),
    dt.datetime(2024, 5, 20, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=7, microseconds=9))),
    *(UUID(int=0), UUID(int=2**128 - 1), Decimal("0.10"), Decimal("-0E-7"), Decimal("sNaN7"), Decimal("1e999999")),
    *(np.array(7), np.zeros((0, 3), "f4"), np.zeros((2, 0, 2), "c16"), np.arange(24.0).reshape(2, 3, 4)),
    *(np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(10)[::3], np.array([1, 2], ">i2"), np.array([True])),
]


@pytest.mark.parametrize("value", CORNERS, ids=numbered(CORNERS))
def test_corners_come_back_exactly(value: Any) -> None:
    assert identical(round_trip(value), value)
    assert identical(round_trip([value]), [value])
    assert identical(round_trip((value,)), (value,))


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="CPython's own limit")
@pytest.mark.parametrize("limit", [640, 4300, 0])
def test_integers_of_any_size_whatever_the_interpreter_prints(limit: int) -> None:
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        for digits in 600, 639, 640, 641, 4300, 4301, 19_999, 20_000, 20_001, 60_000:
            for number in 10**digits, -(10**digits), 10**digits - 1, 10 ** (digits - 1) + 7:
                assert round_trip(number) == number
    finally:
        sys.set_int_max_str_digits(usual)


@given(st.integers(0, 20_050), st.integers(-(10**6), 10**6))
def test_long_integers(digits: int, near: int) -> None:
    assert round_trip(10**digits + near) == 10**digits + near


@needs_zones
def test_a_zone_keeps_its_rules_and_the_second_of_two_equal_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = dt.datetime(2024, 10, 27, 2, 30, tzinfo=berlin)
    second = first.replace(fold=1)
    for value in first, second, dt.datetime(2024, 3, 31, 2, 30, tzinfo=berlin), dt.datetime.min.replace(tzinfo=berlin):
        assert round_trip(value).tzinfo is berlin
        assert identical(round_trip(value), value)
    assert round_trip(second) - round_trip(first) == dt.timedelta(0)
    assert round_trip(second).timestamp() - round_trip(first).timestamp() == 3600
    assert b"2024-10-27T02:30:00+01:00[Europe/Berlin][_fold=1]" in CODEC.encode(second)
    assert round_trip(dt.datetime(2024, 5, 20, tzinfo=ZoneInfo("Etc/UTC"))).tzinfo is ZoneInfo("Etc/UTC")


def test_the_zone_of_a_timestamp_is_utc_itself() -> None:
    assert round_trip(dt.datetime(2024, 5, 20, tzinfo=dt.UTC)).tzinfo is dt.UTC
    assert round_trip(dt.datetime(2024, 5, 20, tzinfo=dt.UTC, fold=1)).tzinfo is dt.UTC


def test_decoded_arrays_can_be_written_and_share_nothing() -> None:
    data = CODEC.encode([np.arange(3), np.zeros((0, 2))])
    one, other = CODEC.decode(data), CODEC.decode(data)
    one[0][0] = 99
    assert other[0][0] == 0
    assert all(array.flags.owndata and array.flags.writeable and array.flags.c_contiguous for array in one)


def test_a_uuid_keeps_its_value_if_not_where_it_came_from() -> None:
    assert round_trip(UUID(int=5, is_safe=SafeUUID.safe)) == UUID(int=5)


def test_no_decimal_context_gets_in_the_way() -> None:
    written = CODEC.encode(Decimal("1.23456789E+50"))
    with decimal.localcontext(decimal.Context(prec=2, capitals=0, traps=[])):
        assert CODEC.encode(Decimal("1.23456789E+50")) == written
        assert identical(CODEC.decode(written), Decimal("1.23456789E+50"))
        with pytest.raises(DecodeError):
            CODEC.decode(extension(8, b"12x"))


# --- the bytes ----------------------------------------------------------------------------------------------------


@given(integers)
def test_an_integer_is_decimal_text(number: int) -> None:
    assert CODEC.encode(number) == str(number).encode()


@given(st.recursive(st.none() | st.booleans() | st.floats() | texts | st.binary(), st.lists))
def test_json_like_data_is_what_bare_msgpack_writes(value: Any) -> None:
    assert BARE.encode(value) == msgpack.packb(value)


def test_bytes_are_as_documented() -> None:
    utc, day = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.date(2024, 5, 20)
    assert CODEC.encode(utc) == b"\xd6\xff\0\0\0\0"
    assert CODEC.encode([2**64]) == b"\x91" + extension(1, b"\1" + bytes(8))
    assert CODEC.encode((1, "a")) == extension(2, b"\x92\1\xa1a")
    assert CODEC.encode({2, 1}) == extension(3, b"\x92\1\2")
    assert CODEC.encode(frozenset({1})) == extension(4, b"\x91\1")
    assert CODEC.encode(day) == extension(5, b"2024-05-20")
    assert CODEC.encode(dt.datetime(2024, 5, 20, 10)) == extension(6, b"2024-05-20T10:00:00")
    assert CODEC.encode(UUID(int=7)) == extension(7, UUID(int=7).bytes)
    assert CODEC.encode(Decimal("1.50")) == extension(8, b"1.50")
    assert CODEC.encode(np.array([[1, 2]], "<u2")) == extension(9, b"\x93\xa3<u2\x92\1\2\xc4\4\1\0\2\0")


def test_equal_sets_give_equal_bytes() -> None:
    orders = [set(order) for order in itertools.permutations([0, 8, 16, 2**64, 64])]  # all meet in one slot
    assert len({tuple(elements) for elements in orders}) > 1, "nothing would be proved"
    assert len({CODEC.encode(elements) for elements in orders}) == 1
    assert len({CODEC.encode({"k": [frozenset(elements)]}) for elements in orders}) == 1


@given(st.sets(hashables, max_size=6), st.randoms(use_true_random=False))
def test_sets_do_not_remember_how_they_grew(elements: set[Any], random: random.Random) -> None:
    shuffled = random.sample(list(elements), len(elements))
    assert BARE.encode(set(shuffled)) == BARE.encode(elements)


def extension(code: int, payload: bytes) -> bytes:
    """An extension as msgpack has it, built without the codec."""
    packed: bytes = msgpack.packb(msgpack.ExtType(code, payload))
    return packed


# --- what is refused ----------------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


class Zone(dt.tzinfo):
    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1)

    def tzname(self, _: dt.datetime | None) -> str:
        return "UTC+01:00"

    def dst(self, _: dt.datetime | None) -> None:
        return None


class BrokenZone(Zone):
    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        raise LookupError("no such place")


class BrokenRepr:
    def __repr__(self) -> str:
        raise RecursionError


@dataclasses.dataclass
class Note:
    text: str


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {}


NEW_YEAR = dt.datetime(2024, 1, 1)
REFUSED: list[tuple[object, str]] = [
    (object(), "object is not stored"),
    (len, "not stored"),
    (int, "not stored"),
    (1j, "complex is not stored"),
    (Fraction(1, 3), "Fraction is not stored"),
    (range(3), "range is not stored"),
    (Level.LOW, r"\.value"),
    (Point(1), "only tuple itself"),
    (Text("a"), "only str itself"),
    (collections.OrderedDict(), "only dict itself"),
    (collections.defaultdict(int), "only dict itself"),
    (collections.Counter(), "only dict itself"),
    (bytearray(b"x"), r"bytes\(\)"),
    (memoryview(b"x"), r"bytes\(\)"),
    (msgpack.ExtType(7, b"x"), "chosen by redismem"),
    (msgpack.Timestamp(1), "chosen by redismem"),
    (dt.time(1), r"\.isoformat\(\)"),
    (dt.timedelta(1), r"\.total_seconds\(\)"),
    (Note("x"), r"asdict\(\)"),
    (Model(), r"\.model_dump\(\)"),
    (BrokenRepr(), "BrokenRepr is not stored"),
    (np.float64(1), "only float itself"),
    (np.int64(1), r"\.item\(\)"),
    (np.array(["a"]), "numeric dtypes"),
    (np.array([None]), "numeric dtypes"),
    (np.array(["2024-01-01"], "M8[s]"), "numeric dtypes"),
    (np.zeros(1, np.longdouble), "numeric dtypes"),
    (np.zeros(1, np.clongdouble), "numeric dtypes"),
    (np.zeros(1, [("a", "i4")]), "numeric dtypes"),
    (np.zeros(1, np.dtype("i4", metadata={"unit": "m"})), "numeric dtypes"),
    (np.ma.array([1]), "MaskedArray"),
    (np.array([1]).view(type("Vector", (np.ndarray,), {})), "Vector is not stored"),
    (NEW_YEAR.replace(tzinfo=Zone()), "ZoneInfo by key"),
    (NEW_YEAR.replace(tzinfo=BrokenZone()), "no such place"),
    (NEW_YEAR.replace(tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")), "ZoneInfo by key"),
    ("\ud800", "lone surrogate"),
    ("x" * 100_000 + "\udfff", "lone surrogate"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=numbered([value for value, _ in REFUSED]))
def test_what_would_not_come_back_exactly_is_refused(value: object, reason: str) -> None:
    places: list[tuple[object, str]] = [
        (value, "$"),
        ([0, value], "$[1]"),
        ({"a": {"b": (1, value)}}, "$.a.b[1]"),
        ({"items": [{}, {}, {}, {"owner": value}]}, "$.items[3].owner"),
        ([value, value], "$[0]"),
    ]
    for whole, path in places:
        with pytest.raises(EncodeError, match=reason) as refused:
            CODEC.encode(whole)
        assert refused.value.path == path
        assert str(refused.value).startswith(f"{path}: ")
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", ["2023-05-08T13:56:00Z", "2023-05-08T13:56:00.5-03:30", "1683554160"])
def test_a_moment_that_pydantic_has_read_comes_back_in_a_zone_of_the_standard_library(text: str) -> None:
    moment = TypeAdapter(dt.datetime).validate_python(text)
    read = CODEC.decode(CODEC.encode([moment]))[0]
    assert read == moment
    assert type(read.tzinfo) is dt.timezone
    assert read.utcoffset() == moment.utcoffset()
    assert CODEC.encode([read]) == CODEC.encode([moment])


def test_a_zone_that_cannot_be_found_again_is_refused() -> None:
    utc = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
    for key in None, "Nowhere/At/All", "a]b", "../UTC":
        zone = ZoneInfo.from_file(io.BytesIO(utc), key=key)
        with pytest.raises(EncodeError, match=r"^\$\.at: "):
            CODEC.encode({"at": NEW_YEAR.replace(tzinfo=zone)})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"two words": object()}, "$['two words']"),
        ({1: object()}, "$[1]"),
        ({(1, "a"): object()}, "$[(1, 'a')]"),
        ({b"x": [object()]}, "$[b'x'][0]"),
        ({"x" * 60: object()}, "$['xxxxxxxxxxxx...xxxxxxxxxxxxx']"),
        ({"a": {Point(1): 1}}, "$.a[Point(x=1)] (key)"),
        ({"\ud800": 1}, r"$['\ud800'] (key)"),
        ({"a": {Text("b")}}, "$.a{'b'}"),
        ({10**5000: object()}, "$[<int>]"),
        ([1, (2, [3, frozenset({(4, 1j)})])], "$[1][1][1]{(4, 1j)}[1]"),
    ],
)
def test_an_error_says_where(value: object, path: str) -> None:
    with pytest.raises(EncodeError) as refused:
        CODEC.encode(value)
    assert refused.value.path == path


def nested(wrap: Callable[[Any], Any], depth: int) -> Any:
    """`depth` containers, one in another."""
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPPINGS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "key": lambda value: {"deep": value} if isinstance(value, dict) else (value,),
    "mixed": lambda value: ([value, 1], {"a": value}, (value, 2))[random.Random(repr(value)[:9]).randrange(3)],
}


def on_a_small_stack(work: Callable[[], Any]) -> Any:
    """The result of `work`, run in a thread that has as little stack as a thread may well have."""
    usual = threading.stack_size(256 * 1024)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()
    finally:
        threading.stack_size(usual)


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_the_deepest_value_that_is_written_can_be_read(kind: str) -> None:
    deepest, too_deep = nested(WRAPPINGS[kind], MAX_DEPTH), nested(WRAPPINGS[kind], MAX_DEPTH + 1)
    assert identical(on_a_small_stack(lambda: round_trip(deepest)), deepest)
    with pytest.raises(EncodeError, match="nests deeper than 100 levels"):
        on_a_small_stack(lambda: CODEC.encode(too_deep))


@pytest.mark.parametrize(
    "leaf", [2**70, UUID(int=1), NEW_YEAR, np.eye(2), Decimal(1), "x", NEW_YEAR.replace(tzinfo=dt.UTC)]
)
def test_the_deepest_container_may_hold_anything(leaf: object) -> None:
    value: Any = leaf
    for _ in range(MAX_DEPTH):
        value = (value,)
    assert identical(on_a_small_stack(lambda: round_trip(value)), value)


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_endless_nesting_is_refused(kind: str, depth: int) -> None:
    value = nested(WRAPPINGS[kind], depth)
    with pytest.raises(EncodeError, match="nests deeper"):
        on_a_small_stack(lambda: CODEC.encode(value))


def circles() -> Iterator[tuple[Any, str]]:
    items: list[Any] = [1]
    items.append(items)
    yield items, "$[1]"
    fields: dict[str, Any] = {"a": {"b": []}}
    fields["a"]["b"].append(fields)
    yield fields, "$.a.b[0]"
    pair: tuple[list[Any], int] = ([], 1)
    pair[0].append(pair)
    yield pair, "$[0][0]"
    tree: list[Any] = []
    tree += [tree] * 10
    yield tree, "$[0]"


@pytest.mark.parametrize(("value", "path"), list(circles()), ids=["list", "dict", "tuple", "tree"])
def test_circles_are_refused(value: Any, path: str, peak: Callable[[], int]) -> None:
    with pytest.raises(EncodeError, match="a container that it is in") as refused:
        on_a_small_stack(lambda: CODEC.encode(value))
    assert refused.value.path == path
    assert peak() < 1_000_000


class Holder:
    """Its `__dict__` is a dict whose values some interpreters keep elsewhere."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


def test_the_attributes_of_an_object_are_a_dict_like_any_other() -> None:
    holder = Holder(a=1, b=[2])
    assert round_trip(vars(holder)) == {"a": 1, "b": [2]}
    with pytest.raises(EncodeError, match=r"^\$\.raw: bytearray"):
        CODEC.encode(vars(Holder(raw=bytearray())))
    with pytest.raises(EncodeError, match="nests deeper"):
        on_a_small_stack(lambda: CODEC.encode(vars(Holder(deep=nested(WRAPPINGS["list"], 10_000)))))


@pytest.mark.parametrize("lookalike", [memoryview(b"x"), msgpack.ExtType(2, b"\x90"), msgpack.Timestamp(1)])
def test_keys_and_elements_are_judged_like_values(lookalike: Any) -> None:
    for value in {lookalike: 1}, {lookalike}, frozenset({lookalike}), {("a", lookalike): 1}:
        with pytest.raises(EncodeError, match=type(lookalike).__name__):
            CODEC.encode(value)


def test_sharing_is_no_circle() -> None:
    shared = [1, {"a": 2}]
    assert round_trip([shared, shared, {"x": shared}]) == [shared, shared, {"x": shared}]


def test_too_little_call_stack_is_an_encode_error() -> None:
    value = nested(WRAPPINGS["tuple"], MAX_DEPTH)

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            CODEC.encode(value)

    with pytest.raises(EncodeError):
        descend(sys.getrecursionlimit() - stack_depth() - 60)


def stack_depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    return depth


# --- limits agree -------------------------------------------------------------------------------------------------


@given(values, st.integers(1, 200))
def test_what_is_written_under_a_limit_is_read_under_it(value: Any, limit: int) -> None:
    codec = Codec(max_value_bytes=limit)
    try:
        data = codec.encode(value)
    except LimitExceeded:
        event("refused")
        assert len(BARE.encode(value)) > limit
    else:
        event("stored")
        assert identical(codec.decode(data), value)


@pytest.mark.parametrize("compression", ["off", "gzip", "auto"])
def test_the_limit_is_on_the_document_before_compression(compression: Any) -> None:
    exact = Codec(compression=compression, max_value_bytes=10_003)
    assert round_trip("x" * 10_000, exact) == "x" * 10_000
    with pytest.raises(LimitExceeded, match="10004 bytes, more than max_value_bytes=10003"):
        exact.encode("x" * 10_001)
    written = Codec(compression=compression).encode("x" * 10_001)
    with pytest.raises(DecodeError, match="max_value_bytes=10003"):
        exact.decode(written)
    with pytest.raises(LimitExceeded, match="max_value_bytes=5"):
        Codec(max_value_bytes=5).encode(123456)
    with pytest.raises(DecodeError, match="max_value_bytes=5"):
        Codec(max_value_bytes=5).decode(b"123456")


# --- hostile bytes ------------------------------------------------------------------------------------------------


def survives(data: bytes, codec: Codec = CODEC) -> None:
    """Bytes decode, or are a `DecodeError` that says why."""
    try:
        codec.decode(data)
    except DecodeError as error:
        event("refused")
        assert error.key is None  # noqa: PT017 -- decoding is as good an outcome
        assert len(str(error)) > len("cannot be read: ")  # noqa: PT017
    else:
        event("decoded")


HEADS = [*range(256), b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00", b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff", b"-", b"0"]
heads = st.sampled_from(HEADS).map(lambda head: head if isinstance(head, bytes) else bytes([head]))
fragments = st.one_of(
    heads,
    st.binary(max_size=6),
    values.map(BARE.encode),
    st.builds(extension, st.integers(0, 12), st.binary(max_size=20) | values.map(BARE.encode)),
    st.sampled_from(
        [b"2024-05-20", b"2024-W01-1", b"T25:00", b"[../../etc/passwd]", b"[/etc/passwd]", b"[_fold=1]", b"[a]"]
    ),
)


@given(st.binary(max_size=64) | st.lists(fragments, max_size=8).map(b"".join))
@tries_harder
def test_random_bytes(data: bytes) -> None:
    survives(data)


@given(st.lists(fragments, max_size=4).map(b"".join), st.integers(-3, 12), heads)
@tries_harder
def test_random_payloads_of_every_extension(payload: bytes, code: int, head: bytes) -> None:
    header = b"\xc8" + struct.pack(">Hb", len(payload), code)
    survives(header + payload)
    survives(b"\x92" + header + payload + b"\xc0")
    survives(b"\x81" + header + payload + head)


@given(values, st.sampled_from([BARE, Codec(0), Codec(0, "gzip")]), st.data())
@tries_harder
def test_damaged_documents(value: Any, codec: Codec, data: st.DataObject) -> None:
    document = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 3), "damages")):
        at = data.draw(st.integers(0, len(document)), "at")
        until = at + data.draw(st.integers(0, 4), "length")
        document[at:until] = data.draw(
            heads | st.binary(max_size=4) | st.just(bytes(document[at : until + 4])), "patch"
        )
    survives(bytes(document), codec)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xc1", b"\x00", b"\x7f", b"\xe0", b"\xff", b"\xcc\xff", b"\xd3" + b"\xff" * 8, extension(1, b"\x07")),
        *(b"\xc0\xc0", b"\xa1", b"\xa1\xff", b"\x92\x01", b"\x81\x90\x01", b"\x81\x80\x01", b"hello", b"{}", b"[1]"),
        *(
            b"\x28",
            b"\x28\xb5\x2f\xfd",
            b"\x1f",
            b"\x1f\x8b",
            b"\x1f\x8b\x08",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
        ),
        *(b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + struct.pack(">Iq", 0, 2**62), b"\xc7\x01\xff\x00"),
        *(extension(0, b""), extension(10, b""), extension(127, b"x"), b"\xd4\x80\x00"),
        *(
            extension(2, b""),
            extension(2, b"\xa3abc"),
            extension(2, b"\x01"),
            extension(2, b"\x91\x01\x01"),
            extension(2, b"\x92\x01"),
        ),
        *(extension(3, b"\x91\x90"), extension(4, b"\x91\x80"), extension(3, b"\x91" + extension(8, b"sNaN"))),
        *(
            extension(5, b"2024-13-01"),
            extension(5, b"\xff"),
            extension(6, b"now"),
            extension(6, b""),
            extension(6, b"[a][b]"),
        ),
        *(extension(6, b"2024-01-01[Nowhere/At_All]"), extension(6, b"2024-01-01[../../../etc/passwd]")),
        *(
            extension(6, b"2024-01-01[/etc/passwd]"),
            extension(6, b"2024-01-01[Europe]"),
            extension(6, b"2024-01-01[\0]"),
        ),
        *(extension(7, b"short"), extension(8, b"12x"), extension(8, b""), extension(8, b"\xff")),
        b"\x81" + extension(2, b"\x91\x90") + b"\x01",
    ],
    ids=repr,
)
def test_bytes_that_are_no_value(data: bytes) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode(data)


@pytest.mark.parametrize(
    "parts",
    [
        ["<i4", [2], b"\0" * 7],
        ["<i4", [2], b"\0" * 9],
        ["<i4", [-1], b"\0" * 4],
        ["<i4", [-1, -1], b"\0" * 4],
        ["<i4", [True], b"\0" * 4],
        ["<i4", [1.0], b"\0" * 4],
        ["<i4", [2**40, 0], b"\0"],
        ["<i4", [2**62, 2**62, 0], b""],
        ["|u1", [2**62, 4], b""],
        ["|u1", [2**32, 2**32], b""],
        ["<i4", [0] * 100, b""],
        ["<i4", 1, b"\0" * 4],
        ["<i4", [1], "\0" * 4],
        ["|O", [1], b"\0" * 8],
        ["O", [1], b"\0" * 8],
        ["<f16", [1], b"\0" * 16],
        ["<U1", [1], b"\0" * 4],
        ["|V4", [1], b"\0" * 4],
        ["<M8[s]", [1], b"\0" * 8],
        ["i4,(1000000000,)i4", [0], b""],
        [["<i4"], [1], b"\0" * 4],
        [None, [1], b"\0" * 4],
        ["<i4", [1]],
        ["<i4", [1], b"\0" * 4, 1],
        [],
        ["<i4", [1], msgpack.ExtType(7, b"\0" * 16)],
    ],
    ids=repr,
)
def test_arrays_that_are_none(parts: list[Any]) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode(extension(9, msgpack.packb(parts)))


@given(st.text("0123456789+-_ .eE\n\0x", max_size=8).map(str.encode))
@example(b"-0")
@example(b"00")
@example(b"01")
@example(b"-")
@example(b"--1")
@example(b"1_0")
@example(b"1\n")
@example(b"-01")
@example(b"1.0")
@example(b"9" * (MAX_DIGITS + 1))
def test_only_canonical_integers_are_read(text: bytes) -> None:
    assume(text[:1] in [bytes([digit]) for digit in b"-0123456789"])
    if re.fullmatch(rb"0|-?[1-9][0-9]{0,19999}", text):
        assert CODEC.encode(CODEC.decode(text)) == text
    else:
        with pytest.raises(DecodeError, match="integer"):
            CODEC.decode(text)


@pytest.mark.parametrize("number", [0, -1, 5, 2**32, -(2**63), 2**64 - 1, 10**30])
def test_an_integer_in_msgpack_is_not_what_is_written(number: int) -> None:
    data = msgpack.packb(number) if abs(number) < 2**64 else extension(1, number.to_bytes(16, "big"))
    with pytest.raises(DecodeError):
        CODEC.decode(data)


def extensions(depth: int, code: int = 2, inner: bytes = b"\x90") -> bytes:
    """Extensions of one-element arrays, one in another, built from the inside."""
    layers = [inner]
    size = len(inner)
    for _ in range(depth):
        header = b"\x91\xc9" + struct.pack(">Ib", size, code)
        layers.append(header)
        size += len(header)
    return b"".join(reversed(layers))


BOMBS = {
    "arrays": b"\x91" * 100_000 + b"\xc0",
    "open arrays": b"\x91" * 1_000_000,
    "maps": b"\x81\xa1a" * 100_000 + b"\xc0",
    "maps as keys": b"\x81" * 100_000 + b"\xc0",
    "tuples": extensions(10_000),
    "frozensets": extensions(10_000, code=4),
    "sets": extensions(10_000, code=3),
    "unknown": extensions(10_000, code=77),
    "arrays of numbers": extensions(10_000, code=9),
    "just too deep": extensions(MAX_DEPTH + 1),
    "tuples of deep arrays": extensions(MAX_DEPTH + 1, inner=b"\x91" * 1000 + b"\xc0"),
    "in zlib": gzip.compress(b"\x91" * 1_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_depth_bombs_do_not_smash_a_small_stack(bomb: bytes) -> None:
    with pytest.raises(DecodeError):
        on_a_small_stack(lambda: CODEC.decode(bomb))


def test_the_deepest_foreign_document_does_not_smash_a_small_stack() -> None:
    inner = b"\xc0"
    for _ in range(MAX_DEPTH - 1):
        inner = b"\x91" * 1000 + b"\xc9" + struct.pack(">Ib", len(inner) + 1, 2) + b"\x91" + inner

    def decode_and_drop() -> type:
        return type(CODEC.decode(inner))

    assert on_a_small_stack(decode_and_drop) is list


@pytest.mark.parametrize(
    "bomb",
    [
        (b"\xdd" + struct.pack(">I", 1_000_000)) * 1000 + bytes(1_000_000),
        b"\x91\xc9"
        + struct.pack(">Ib", 1_005_000, 2)
        + (b"\xdd" + struct.pack(">I", 1_000_000)) * 1000
        + bytes(1_000_000),
        b"\x81\xa1a" + (b"\xdd" + struct.pack(">I", 2**32 - 1)) * 1000,
        (b"\xdc\xff\xff") * 300,
    ],
    ids=["arrays", "arrays in a tuple", "arrays in a map", "small"],
)
def test_a_claim_of_elements_takes_no_memory(bomb: bytes, peak: Callable[[], int]) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode(bomb)
    assert peak() < 8_000_000


def zeros(compressor: Any, megabytes: int) -> bytes:
    parts: list[bytes] = [compressor.compress(bytes(1_000_000)) for _ in range(megabytes)]
    return b"".join([*parts, compressor.flush()])


def test_a_gzip_bomb_is_not_unpacked(peak: Callable[[], int]) -> None:
    bomb = zeros(zlib.compressobj(9, wbits=31), 200)
    tracemalloc.reset_peak()
    with pytest.raises(DecodeError, match="more than max_value_bytes=1000000"):
        Codec(max_value_bytes=1_000_000).decode(bomb)
    assert peak() < 5_000_000


@pytest.mark.parametrize("size", [200_000_000, -1])
def test_a_zstd_bomb_is_not_unpacked(size: int, zstd: Any, peak: Callable[[], int]) -> None:
    bomb = zeros(zstd.ZstdCompressor(level=1).compressobj(size=size), 200)
    tracemalloc.reset_peak()
    with pytest.raises(DecodeError, match="max_value_bytes=1000000"):
        Codec(max_value_bytes=1_000_000).decode(bomb)
    assert peak() < 5_000_000


def test_a_zstd_frame_cannot_lie_about_its_size(zstd: Any, peak: Callable[[], int]) -> None:
    frame = bytearray(zstd.ZstdCompressor(level=1).compress(bytes(50_000_000)))
    assert zstd.frame_content_size(bytes(frame)) == 50_000_000
    at = frame.index(struct.pack("<I", 50_000_000))
    tracemalloc.reset_peak()
    for lie in 0, 1, 1000, 999_999:
        frame[at : at + 4] = struct.pack("<I", lie)
        with pytest.raises(DecodeError):
            Codec(max_value_bytes=1_000_000).decode(bytes(frame))
    assert peak() < 5_000_000


# --- compression --------------------------------------------------------------------------------------------------

PROSE = " ".join(random.Random(7).choices(["agent", "memory", "flight", "reservation", "user", "tool", "42"], k=4000))


def test_a_gzip_document_is_one_standard_member() -> None:
    data = Codec(compression="gzip").encode(PROSE)
    assert len(data) < len(PROSE) / 2
    assert gzip.decompress(data) == msgpack.packb(PROSE)
    assert data[4:8] == bytes(4), "no time of writing: the same value gives the same bytes"


@pytest.mark.parametrize("compression", ["auto", "zstd"])
def test_a_zstd_document_is_one_standard_frame(compression: Any, zstd: Any) -> None:
    data = Codec(compression=compression).encode(PROSE)
    assert len(data) < len(PROSE) / 2
    assert zstd.frame_content_size(data) == len(msgpack.packb(PROSE))
    assert zstd.decompress(data) == msgpack.packb(PROSE)


@pytest.mark.parametrize("writer", ["auto", "gzip", "off"])
@pytest.mark.parametrize("reader", ["auto", "gzip", "off"])
def test_reading_does_not_depend_on_the_setting(writer: Any, reader: Any) -> None:
    assert Codec(compression=reader).decode(Codec(compression=writer).encode(PROSE)) == PROSE


def test_only_what_reaches_the_threshold_and_shrinks_is_compressed() -> None:
    assert Codec(100).encode("x" * 97) == msgpack.packb("x" * 97)
    assert Codec(100).encode("x" * 98) != msgpack.packb("x" * 98)
    assert Codec(0).encode("x") == msgpack.packb("x")
    assert Codec(None).encode(PROSE) == Codec(compression="off").encode(PROSE) == msgpack.packb(PROSE)
    for size in 5_000, 60_000, 200_000, 2_000_000:
        noise = random.Random(size).randbytes(size)
        for compression in "auto", "gzip":
            assert Codec(compression=compression).encode(noise) == msgpack.packb(noise)
    mostly_noise = PROSE.encode() + random.Random(1).randbytes(900_000)
    for codec in CODEC, Codec(compression="gzip"):
        assert codec.encode(mostly_noise) == msgpack.packb(mostly_noise), "too little to save"
    assert CODEC.encode(10**10_000) == b"1" + b"0" * 10_000, "integers stay text"


@pytest.mark.parametrize("size", [66_000, 1_000_000, 1_100_000, 3_000_000])
@pytest.mark.parametrize("compression", ["auto", "gzip"])
def test_large_values_come_back(size: int, compression: Any) -> None:
    codec = Codec(compression=compression)
    text = (PROSE * (size // len(PROSE) + 1))[:size]
    assert round_trip(text, codec) == text
    half = text.encode()[: size // 2] + random.Random(1).randbytes(size // 2)
    assert round_trip(half, codec) == half


@pytest.mark.parametrize("size", [1_000_000, 1_100_000])
def test_gzip_is_too_slow_for_large_values_unless_asked_for(
    size: int, zstd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (PROSE * (size // len(PROSE) + 1))[:size]
    document = msgpack.packb(text)
    assert gzip.decompress(Codec(compression="gzip").encode(text)) == document
    assert zstd.decompress(Codec(compression="zstd").encode(text)) == document
    assert zstd.decompress(CODEC.encode(text)) == document
    monkeypatch.setattr(module, "zstandard", None)
    by_auto = CODEC.encode(text)
    assert by_auto == document if size > 2**20 else gzip.decompress(by_auto) == document


def test_without_zstandard(zstd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zstd.compress(msgpack.packb(PROSE))
    monkeypatch.setattr(module, "zstandard", None)
    assert gzip.decompress(CODEC.encode(PROSE)) == msgpack.packb(PROSE)
    with pytest.raises(DecodeError, match=r"install redismem\[zstd\]"):
        CODEC.decode(data)
    with pytest.raises(ConfigError, match=r"install redismem\[zstd\]"):
        Codec(compression="zstd")


@pytest.mark.parametrize("library", ["zstandard", "gzip"])
def test_damaged_frames(library: str) -> None:
    framed = pytest.importorskip(library).compress
    data = framed(msgpack.packb(PROSE))
    assert CODEC.decode(data) == PROSE
    for broken in data[:-1], data + b"\0", data + data, data[:20], data[:4] + data[8:]:
        with pytest.raises(DecodeError):
            CODEC.decode(broken)
    for inner in b"", b"12", b"\x07", data, b"\xc1":
        with pytest.raises(DecodeError):
            CODEC.decode(framed(inner))


def test_one_codec_serves_many_threads() -> None:
    texts = [f"{number} {PROSE[number:]}" for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(round_trip, texts)) == texts
            assert list(pool.map(lambda text: round_trip(text, Codec(compression="gzip")), texts)) == texts


@pytest.mark.parametrize("setting", [{"compression": "lz4"}, {"compress_threshold": -1}, {"max_value_bytes": 0}])
def test_settings_that_cannot_work(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Codec(**setting)


def test_a_codec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CODEC.max_value_bytes = 1  # type: ignore[misc]
    assert not hasattr(CODEC, "__dict__")


def test_an_error_has_a_message_for_whoever_knows_the_key() -> None:
    with pytest.raises(DecodeError) as unreadable:
        CODEC.decode(b"hello")
    assert str(DecodeError(unreadable.value.message, "k[f]")).startswith("k[f]: cannot be read: nothing that redismem")
