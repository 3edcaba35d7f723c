"""The key contract: readable, injective, one hash tag per session, nothing that a glob would take for a pattern."""

import dataclasses
import re
from collections.abc import Callable
from enum import Enum

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from redismem.errors import ConfigError, InvalidKey
from redismem.keys import MAX_BYTES, Keys, decode_segment, encode_segment, escape_glob, field
from tests.strategies import HOSTILE, hostile

KEYS = Keys()
SEGMENT = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+")
KEY = re.compile(r"redismem:session:\{[A-Za-z0-9._~%-]+\}:(?:meta|(?:ns|ttl):[A-Za-z0-9._~%-]+)")
PARTS = re.compile(r"redismem:session:\{([^{}:]+)\}:(ns|ttl):([^{}:]+)")
BUILDERS: list[Callable[[str], str]] = [
    KEYS.session_meta,
    lambda text: KEYS.session_namespace(text, "ns"),
    lambda text: KEYS.session_namespace("id", text),
    lambda text: KEYS.session_deadlines(text, "ns"),
    lambda text: KEYS.session_deadlines("id", text),
]


def nameable(text: str) -> bool:
    """What an id may be, said without the code under test."""
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        return False
    return sum(1 if SEGMENT.fullmatch(chr(byte)) else 3 for byte in text.encode()) <= 512


names = hostile.filter(nameable) | st.from_regex(r"(%[0-9A-Fa-f]{2}|[a:%{}*-])+", fullmatch=True).filter(nameable)


class Colour(str, Enum):  # noqa: UP042 -- unlike a StrEnum it formats as Colour.RED
    RED = "red"


class Impostor:
    """Equal to the id "a", with its hash, but no str."""

    def __eq__(self, other: object) -> bool:
        return other == "a"

    def __hash__(self) -> int:
        return hash("a")


def hash_tag(key: str) -> str:
    """What a cluster hashes, by its specification."""
    start = key.index("{")
    return key[start + 1 : key.index("}", start)]


def glob(pattern: str) -> re.Pattern[str]:
    """A server's glob without character classes, as a regular expression."""

    def translate(match: re.Match[str]) -> str:
        assert match[0] != "[", "an unescaped class"
        return {"*": ".*", "?": "."}.get(match[0]) or re.escape(match[0][-1])

    return re.compile(re.sub(r"\\.|.", translate, pattern, flags=re.DOTALL), re.DOTALL)


def test_keys_are_readable() -> None:
    assert KEYS.session_meta("abc") == "redismem:session:{abc}:meta"
    assert KEYS.session_namespace("abc", "flags") == "redismem:session:{abc}:ns:flags"
    assert KEYS.session_deadlines("abc", "flags") == "redismem:session:{abc}:ttl:flags"
    assert KEYS.session_meta("user:42/é") == "redismem:session:{user%3A42%2F%C3%A9}:meta"
    assert Keys("acme:prod").session_meta("abc") == "acme:prod:session:{abc}:meta"


@given(names, names)
def test_a_key_tells_which_id_and_name_it_was_made_of(session_id: str, namespace: str) -> None:
    for kind, build in ("ns", KEYS.session_namespace), ("ttl", KEYS.session_deadlines):
        match = PARTS.fullmatch(build(session_id, namespace))
        assert match is not None
        assert match[2] == kind
        assert (decode_segment(match[1]), decode_segment(match[3])) == (session_id, namespace)
    assert KEYS.session_id_of(KEYS.session_meta(session_id)) == session_id
    assert KEYS.session_id_of(KEYS.session_meta(session_id).encode()) == session_id


@given(names, names, names)
def test_keys_of_users_tell_what_they_were_made_of(user_id: str, name: str, record_id: str) -> None:
    keys = Keys("acme-1:prod.eu")
    record, lock, context = keys.record(user_id, name, record_id), keys.lock(user_id, name), keys.context(user_id)
    assert keys.record_ids_of(record) == keys.record_ids_of(record.encode()) == (user_id, record_id)
    assert keys.lock_names_of(lock) == (user_id, name)
    assert keys.context_id_of(context) == user_id
    patterns = {record: keys.record_pattern(name), lock: keys.lock_pattern(), context: keys.context_pattern()}
    others = [keys.records(user_id, name), keys.lock_queue(user_id, name), keys.deadlines(record), KEYS.lock("a", "b")]
    for key in (*patterns, *others):
        assert {made for made, pattern in patterns.items() if glob(pattern).fullmatch(key)} == {key} & patterns.keys()
    for read, made in (keys.record_ids_of, record), (keys.lock_names_of, lock), (keys.context_id_of, context):
        for key in {*patterns, *others, f"{record}:x", f"{lock}:x", "x" + record, lock.replace(":prod", "")} - {made}:
            with pytest.raises(InvalidKey):
                read(key)


@given(st.tuples(names, names), st.tuples(names, names))
@example(("a:b", "c"), ("a", "b:c"))
@example(("a", "%3A"), ("a", ":"))
@example(("a}", "b"), ("a", "}b"))
@example(("\u00e9", "n"), ("e\u0301", "n"))
def test_two_sessions_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert KEYS.session_namespace(*one) != KEYS.session_namespace(*other)
    assert KEYS.session_deadlines(*one) != KEYS.session_deadlines(*other)
    assert (KEYS.session_meta(one[0]) == KEYS.session_meta(other[0])) is (one[0] == other[0])
    kinds = KEYS.session_namespace(*one), KEYS.session_deadlines(*other), KEYS.session_meta(one[0])
    assert len(set(kinds)) == len(kinds)


@given(hostile)
def test_any_text_is_a_key_or_a_typed_error(text: str) -> None:
    for build in BUILDERS:
        if nameable(text):
            assert KEY.fullmatch(build(text))
        else:
            with pytest.raises(InvalidKey):
                build(text)


@given(names, names)
def test_the_hash_tag_is_the_id_alone(session_id: str, namespace: str) -> None:
    keys = Keys("acme:prod")
    tags = {
        hash_tag(keys.session_meta(session_id)),
        hash_tag(keys.session_namespace(session_id, namespace)),
        hash_tag(keys.session_deadlines(session_id, namespace)),
    }
    assert tags == {encode_segment(session_id, "session_id")}


@given(names, names)
def test_an_id_is_no_pattern_for_another(one: str, other: str) -> None:
    for build in BUILDERS:
        assert (glob(build(one)).fullmatch(build(other)) is not None) is (one == other)


@given(names)
def test_segments_round_trip(text: str) -> None:
    segment = encode_segment(text, "name")
    assert SEGMENT.fullmatch(segment)
    assert len(segment) <= MAX_BYTES
    assert decode_segment(segment) == text


def test_segments_are_bounded_by_their_encoded_bytes() -> None:
    assert encode_segment("x" * 512, "name") == "x" * 512
    assert decode_segment(encode_segment("/" * 170, "name")) == "/" * 170
    for text in "x" * 513, "/" * 171, "é" * 86, "x" * 65_536, "/" * 65_536:
        with pytest.raises(InvalidKey, match=r"^name .*512 bytes"):
            encode_segment(text, "name")


@given(st.text("%aAcC3f40:é{", max_size=8) | hostile)
@example("%61")
@example("%c3%a9")
@example("%C3")
@example("%ED%A0%80")
@example("a%")
@example("a%4")
@example("a\n")
def test_a_segment_is_read_only_as_it_is_written(segment: str) -> None:
    try:
        text = decode_segment(segment)
    except InvalidKey:
        assert not SEGMENT.fullmatch(segment) or "%" in segment or len(segment) > MAX_BYTES
    else:
        assert encode_segment(text, "name") == segment


@pytest.mark.parametrize(
    "segment", ["", "%61", "%c3%a9", "%C3", "%ED%A0%80", "a%", "%4", "a b", "é", "{", None, b"a", 1]
)
def test_what_is_no_segment_is_refused(segment: str) -> None:
    with pytest.raises(InvalidKey, match="segment"):
        decode_segment(segment)


@pytest.mark.parametrize(
    "key",
    [
        "redismem:session:{}:meta",
        "redismem:session:{a}:meta:x",
        "redismem:session:{a}:ns:meta",
        "redismem:session:{a}b}:meta",
        "redismem:session:{%61}:meta",
        "redismem:session:a:meta",
        "redismem:user:{a}:meta",
        "redismem2:session:{a}:meta",
        "x:redismem:session:{a}:meta",
        "redismem:session:{",
        "",
        b"redismem:session:{\xff}:meta",
        None,
        7,
    ],
)
def test_what_is_no_meta_key_has_no_session_id(key: str) -> None:
    with pytest.raises(InvalidKey, match="meta key"):
        KEYS.session_id_of(key)


@given(hostile)
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    pattern = escape_glob(text)
    assert glob(pattern).fullmatch(text)
    assert not glob(pattern).fullmatch(text + "x")
    assert not glob(pattern).fullmatch("x" + text)
    assert re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL) == text


def test_every_glob_character_is_escaped() -> None:
    assert escape_glob(r"a*?[]\^-z") == r"a\*\?\[\]\\\^\-z"


@given(names, names)
def test_the_pattern_finds_the_sessions_of_its_own_prefix_only(session_id: str, namespace: str) -> None:
    keys = Keys("acme-1:prod.eu")
    pattern = glob(keys.session_meta_pattern())
    assert keys.session_meta_pattern() == r"acme\-1:prod.eu:session:{*}:meta"
    assert pattern.fullmatch(keys.session_meta(session_id))
    assert not pattern.fullmatch(keys.session_namespace(session_id, namespace))
    assert not pattern.fullmatch(KEYS.session_meta(session_id))
    assert not pattern.fullmatch(Keys("acme-1:prod-eu").session_meta(session_id))


@given(hostile)
def test_a_field_is_the_key_itself(key: str) -> None:
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raw = b""
    if 0 < len(raw) <= 512:
        assert field(key) == raw
    else:
        with pytest.raises(InvalidKey, match=r"^key "):
            field(key)


def test_fields_are_bounded_by_their_bytes() -> None:
    assert field("é" * 256).decode() == "é" * 256
    with pytest.raises(InvalidKey, match=r"^key .*512 bytes"):
        field("é" * 256 + "x")


@pytest.mark.parametrize("value", [None, 1, 1.0, True, b"a", ["a"], {"a"}, {"a": 1}, ("a",), Impostor(), object()])
def test_what_is_no_str_is_refused_even_where_an_equal_key_is_cached(value: str) -> None:
    for cached in "a", "1", "True", "None":
        for build in BUILDERS:
            build(cached)
    for build in BUILDERS:
        with pytest.raises(InvalidKey, match=r"must be a str, not \w+"):
            build(value)
    with pytest.raises(InvalidKey, match=r"^key must be a str"):
        field(value)


def test_the_namespace_may_not_be_left_out() -> None:
    with pytest.raises(InvalidKey, match=r"^namespace must be a str, not NoneType"):
        KEYS.session_namespace("a", None)  # type: ignore[arg-type]


def test_an_enum_of_str_counts_by_its_characters() -> None:
    for build in BUILDERS:
        assert build(Colour.RED) == build("red")
    assert field(Colour.RED) == b"red"
    assert type(encode_segment(Colour.RED, "name")) is str


@pytest.mark.parametrize("text", [text for text in HOSTILE if not nameable(text)])
def test_an_error_names_the_argument_and_stays_short(text: str) -> None:
    with pytest.raises(InvalidKey, match=r"^session_id ") as wrong_id:
        KEYS.session_namespace(text, "ns")
    with pytest.raises(InvalidKey, match=r"^namespace ") as wrong_name:
        KEYS.session_namespace("id", text)
    assert max(len(str(wrong_id.value)), len(str(wrong_name.value))) < 140


@pytest.mark.parametrize("prefix", ["redismem", "a", "acme:prod", "a.b_c~d-e:1"])
def test_a_prefix_is_one_or_more_segments(prefix: str) -> None:
    assert Keys(prefix).session_id_of(Keys(prefix).session_meta("a")) == "a"


@pytest.mark.parametrize(
    "prefix", ["", ":", "a:", ":a", "a::b", "a b", "a*", "{a}", "a}", "a%", "é", "a\n", "\ud800", None, 1, b"a", ["a"]]
)
def test_any_other_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        Keys(prefix)


def test_keys_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        KEYS.prefix = "other"  # type: ignore[misc]
    assert not hasattr(KEYS, "__dict__")
