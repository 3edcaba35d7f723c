"""What attackers and accidents write: names and values that break things, and bytes that nobody encoded.

Under the profile "ci" some 10^5 hostile names and values go to one Valkey, in batches. Each call ends in a typed error
or in an exact round trip, and no triple of names ever reaches the value of another one.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redismem import AsyncMemory, Memory
from redismem.codec import Codec
from redismem.errors import DecodeError, EncodeError, InvalidKey, LimitExceeded, RedisMemError
from tests.contract.flavours import Place, on_real_servers
from tests.servers import Server, redis_cli
from tests.strategies import hostile

Names = tuple[Any, Any, Any]

# names that differ by little are worth more than names that differ by much: half of them come from one small pool
_NEAR = (
    *(
        "a",
        "b",
        "a:b",
        "b:a",
        "{a}",
        "a}",
        "{a",
        "a*",
        "?",
        "%61",
        "A",
        "a\0",
        "\0a",
        "a ",
        "é",
        "e\u0301",
        "ns:a",
        "meta",
    ),
    *("", None, 7, b"a"),
)
names = st.one_of(st.sampled_from(_NEAR), hostile)
leaves = st.one_of(
    hostile,
    hostile.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(
        [None, True, False, object, 1j, range(3), bytearray(b"x"), Exception(), float, "\x28\xb5\x2f\xfd", b"\x1f\x8b"]
    ),
)
values = st.one_of(
    leaves,
    st.lists(leaves, max_size=3),
    st.dictionaries(st.one_of(hostile, st.integers(), st.booleans()), leaves, max_size=3),
    st.tuples(leaves, st.lists(leaves, max_size=2)),
)
triples = st.tuples(names, names, names)


@pytest.fixture(scope="module")
def hostile_memory(shared_server: Callable[[str], Server]) -> Iterator[Memory]:
    server = shared_server("valkey9")
    redis_cli(server, "FLUSHALL")
    with Memory(server.url) as memory:
        memory.sessions.save("s", "n", "k", 1)
        yield memory


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down, and NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (one, math.copysign(1, one)) == (
            other,
            math.copysign(1, other),
        )
    return bool(one == other)


# 25 triples and values are 100 hostile things: with the 1,000 examples of "ci", 10^5
@given(st.lists(st.tuples(triples, values), min_size=25, max_size=25))
@settings(max_examples=settings().max_examples)
def test_hostile_names_and_values_come_back_or_are_refused(
    hostile_memory: Memory, saves: list[tuple[Names, Any]]
) -> None:
    with hostile_memory.batch() as batch:
        saved = [batch.sessions.save(*triple, value) for triple, value in saves]
    expected: dict[Names, Any] = {}
    for (triple, value), handle in zip(saves, saved, strict=True):
        if (error := handle.error()) is None:
            expected[triple] = value
        else:
            assert isinstance(error, (InvalidKey, EncodeError, LimitExceeded)), error
    with hostile_memory.batch() as batch:
        loaded = {triple: batch.sessions.load(*triple, _MISSING) for triple in expected}
        everything = {triple[:2]: batch.sessions.get_all(*triple[:2]) for triple in expected}
    for triple, value in expected.items():
        assert same(loaded[triple].result(), value)
        assert same(everything[triple[:2]].result()[triple[2]], value)


_MISSING = object()


@given(one=triples, other=triples)
@example(one=("a", "b:c", "k"), other=("a:b", "c", "k"))
@example(one=("a}:ns:n", "n", "k"), other=("a", "n}:ns:n", "k"))
@example(one=("a", "n", "k"), other=("%61", "n", "k"))
def test_two_triples_never_share_a_value(hostile_memory: Memory, one: Names, other: Names) -> None:
    if one == other:
        return
    sessions = hostile_memory.sessions
    try:
        sessions.save(*one, "one", ttl=1000)
        sessions.save(*other, "other", ttl=1000)
    except InvalidKey:
        return
    assert sessions.load(*one) == "one"
    assert sessions.load(*other) == "other"
    assert sessions.delete(*other) is True
    assert sessions.load(*one) == "one"
    if one[0] != other[0]:
        sessions.save(*other, "other")
        sessions.end(other[0])
        assert sessions.load(*one) == "one"
    assert one[0] in set(sessions.scan(1000))
    assert one[1] in sessions.namespaces(one[0])
    sessions.end(one[0])


@given(names)
def test_a_hostile_user_is_exactly_that_user(hostile_memory: Memory, user: Any) -> None:
    sessions = hostile_memory.sessions
    sessions.end("owned")
    try:
        sessions.save("owned", "n", "k", 1, user_id=user)
    except InvalidKey:
        assert sessions.info("owned") is None
        return
    info = sessions.info("owned")
    assert info is not None
    assert info.user_id == user
    assert sessions.load("owned", "n", "k", user_id=user) == 1
    if user is not None:
        with pytest.raises(RedisMemError):
            sessions.load("owned", "n", "k", user_id=user + "x")


# --- poison ---------------------------------------------------------------------------------------------------------

_codec = Codec()


def _is_poison(data: bytes) -> bool:
    try:
        _codec.decode(data)
    except DecodeError:
        return True
    return False


_random = random.Random(20240229)
POISON = {
    "empty": b"",
    "text": b"hello",
    "json": b'{"a": 1}',
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "no integer": b"12x",
    "integer with a sign": b"+5",
    "integer of a megabyte": b"9" * 1_000_000,
    "unused byte of msgpack": b"\xc1",
    "half a document": b"\x93\x01\x02",
    "two documents": b"\xc0\xc0",
    "array of 2^32 items": b"\xdd\xff\xff\xff\xff",
    "map of 2^32 items": b"\xdf\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "100,000 levels": b"\x91" * 100_000,
    "unknown extension": b"\xd4\x63\x00",
    "text that is no UTF-8": b"\xa2\xff\xfe",
    "half a zstd frame": b"\x28\xb5\x2f\xfd\x04\x00",
    "half a gzip frame": b"\x1f\x8b\x08\x00\x00",
    **{
        f"random {number}": data
        for number in range(40)
        if _is_poison(data := _random.randbytes(_random.choice([1, 2, 3, 8, 100, 5000])))
    },
}


@pytest.fixture
async def poisoned(place: Place) -> AsyncIterator[AsyncMemory]:
    """A namespace with good values, and poison that redis-cli has put among them."""
    assert place.server is not None
    memory = place.open()
    await memory.sessions.save_many("s", "n", {"good": [1], "better": 5, "best": None})
    for name, data in POISON.items():
        redis_cli(place.server, "-x", "HSET", "redismem:session:{s}:ns:n", name, stdin=data)
    yield memory
    await memory.aclose()


@on_real_servers
async def test_a_poisoned_value_names_itself_and_hides_nothing(poisoned: AsyncMemory) -> None:
    assert len(POISON) > 40
    store, good = poisoned.sessions, {"good": [1], "better": 5, "best": None}
    everything = await store.get_all("s", "n")
    assert everything == good
    assert set(everything.unreadable) == set(POISON)
    some = await store.load_many("s", "n", ["good", "text", "random 0", "missing"])
    assert some == {"good": [1]}
    assert set(some.unreadable) == {"text"} | ({"random 0"} & set(POISON))
    for name in POISON:
        where = f"redismem:session:{{s}}:ns:n[{name}]"
        assert everything.unreadable[name].key == where
        with pytest.raises(DecodeError) as caught:
            await store.load("s", "n", name)
        assert caught.value.key == where
        assert where in str(caught.value)
    assert await store.load("s", "n", "good") == [1]


@on_real_servers
async def test_poison_can_be_handled(poisoned: AsyncMemory) -> None:
    store = poisoned.sessions
    for name in ("text", "empty"):
        with pytest.raises(DecodeError):
            await store.update("s", "n", name, lambda value: value)
        with pytest.raises(DecodeError):
            await store.compare_and_set("s", "n", name, 1, 2)
        with pytest.raises(RedisMemError):
            await store.increment("s", "n", name)
        assert await store.ttl("s", "n", name) is None
        assert await store.expire("s", "n", name, 100) is True
    await store.save("s", "n", "text", "cured")
    assert await store.load("s", "n", "text") == "cured"
    assert await store.delete("s", "n", "empty") is True
    assert "empty" not in (await store.get_all("s", "n")).unreadable
    async with poisoned.batch() as batch:
        poison, good = batch.sessions.load("s", "n", "json"), batch.sessions.load("s", "n", "better")
    assert isinstance(poison.error(), DecodeError)
    assert good.result() == 5
    assert await store.end("s") == len(POISON) + 2


@on_real_servers
async def test_a_field_whose_name_is_no_text_is_reported(place: Place, poisoned: AsyncMemory) -> None:
    assert place.server is not None
    for name in (b"\xff\xfe", b"a\x80"):
        redis_cli(place.server, "HSET", "redismem:session:{s}:ns:n", name, "5")
    everything = await poisoned.sessions.get_all("s", "n")
    assert everything == {"good": [1], "better": 5, "best": None}
    assert len(everything.unreadable) == len(POISON) + 2


@on_real_servers
async def test_a_key_of_another_type_is_a_typed_error(place: Place, poisoned: AsyncMemory) -> None:
    assert place.server is not None
    store = poisoned.sessions
    redis_cli(place.server, "SET", "redismem:session:{s}:ns:text", "hello")
    redis_cli(place.server, "RPUSH", "redismem:session:{t}:meta", "hello")
    outcomes = await asyncio.gather(
        store.load("s", "text", "k"),
        store.get_all("s", "text"),
        store.save("s", "text", "k", 1),
        store.increment("s", "text", "k"),
        store.save("t", "n", "k", 1),
        store.info("t"),
        return_exceptions=True,
    )
    assert [outcome for outcome in outcomes if not isinstance(outcome, RedisMemError)] == []
    assert await store.load("s", "n", "good") == [1]
    assert redis_cli(place.server, "EXISTS", "redismem:session:{t}:ns:n") == "0"
