"""L1 by itself: against a simple model, its bounds, its placeholders, and the copies that it hands out."""

import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from redismem.cache.kept import MOST_BYTES, Kept
from redismem.cache.l1 import L1, OVERHEAD, Fill, What
from redismem.codec import Codec
from redismem.errors import DecodeError
from redismem.op import UNKNOWN

NAMES = st.sampled_from(["a", "b", "c"])
FIELDS = st.sampled_from([b"x", b"y", b"z"])
QUESTIONS = st.lists(FIELDS, max_size=3, unique=True).map(tuple)
LIFE = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(entries: int = 1_000, size: int = 10**9) -> tuple[L1[Any], Clock]:
    clock = Clock()
    l1: L1[Any] = L1(entries, size, clock)
    l1.good_until = math.inf
    return l1, clock


def found(fields: tuple[bytes, ...], server: Mapping[bytes, tuple[Any, float]]) -> dict[What, tuple[Any, float, int]]:
    """What a read says that finds this on the server."""
    if not fields:
        life = min((life for _, life in server.values()), default=math.inf)
        return {None: ({field: value for field, (value, _) in server.items()}, life, 1)}
    return {field: (*server.get(field, (None, math.inf)), 1) for field in fields}


def put(l1: L1[Any], name: str, field: bytes, value: Any = 1, size: int = 1, life: float = math.inf) -> bool:
    """A read that finds this."""
    fill, leads = l1.fill(name, (field,), LIFE)
    assert leads
    return l1.end(fill, {field: (value, life, size)})


class Model(RuleBasedStateMachine):
    """A server with its changes told at once, and L1 in front of it: whatever L1 says is what the server would say."""

    reads = Bundle("reads")

    @initialize(entries=st.integers(1, 12), size=st.integers(4, 40))
    def begin(self, entries: int, size: int) -> None:
        self.clock = Clock()
        self.l1: L1[int] = L1(entries, size, self.clock)
        self.l1.good_until = math.inf
        self.entries, self.size = entries, size
        self.server: dict[str, dict[bytes, tuple[int, float]]] = {name: {} for name in "abc"}
        self.number = 0

    def living(self, name: str) -> dict[bytes, tuple[int, float]]:
        now = self.clock.now
        return {field: (value, ends) for field, (value, ends) in self.server[name].items() if now < ends}

    @rule(name=NAMES, field=FIELDS, life=st.sampled_from([3.0, 30.0, math.inf]))
    def write(self, name: str, field: bytes, life: float) -> None:
        self.number += 1
        self.server[name][field] = self.number, self.clock.now + life
        self.l1.invalidate(name)

    @rule(name=NAMES, field=FIELDS)
    def delete(self, name: str, field: bytes) -> None:
        self.server[name].pop(field, None)
        self.l1.drop(name)

    @rule()
    def flush_all(self) -> None:
        for fields in self.server.values():
            fields.clear()
        self.l1.flush()

    @rule(target=reads, name=NAMES, fields=QUESTIONS, join=st.booleans(), size=st.integers(0, 12))
    def send(self, name: str, fields: tuple[bytes, ...], join: bool, size: int) -> Any:
        """The server answers at once; the answer arrives whenever."""
        if not self.l1.admits(name, fields):
            return multiple()
        fill, leads = self.l1.fill(name, fields, LIFE, join=join)
        if not leads:
            assert not fill.ended
            assert fill.fields == fields
            return multiple()
        now, living = self.clock.now, self.living(name)
        said = {field: (value, ends - now) for field, (value, ends) in living.items()}
        return fill, {what: (*item[:2], size) for what, item in found(fields, said).items()}

    @rule(read=consumes(reads), fails=st.booleans())
    def arrive(self, read: tuple[Fill, dict[What, Any]], fails: bool) -> None:
        fill, said = read
        self.l1.end(fill, {} if fails else said, UNKNOWN if fails else 1)
        assert fill.ended

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(name=NAMES, field=FIELDS)
    def get(self, name: str, field: bytes) -> None:
        value = self.l1.get(name, field)
        if value is not UNKNOWN:
            assert value == self.living(name).get(field, (None,))[0]

    @rule(name=NAMES, fields=QUESTIONS)
    def get_together(self, name: str, fields: tuple[bytes, ...]) -> None:
        entries = self.l1.entries_for(name, fields)
        if entries is None:
            return
        self.l1.served(entries)
        values = {field: value for field, (value, _) in self.living(name).items()}
        if fields:
            assert [entry.of(field) for entry, field in zip(entries, fields, strict=True)] == list(
                map(values.get, fields)
            )
        else:
            assert entries[0].value == values

    @rule(name=NAMES, field=FIELDS, until=st.sampled_from([-1.0, 1.0]))
    def nobody_listens(self, name: str, field: bytes, until: float) -> None:
        self.l1.good_until = self.clock.now + until
        known = self.l1.get(name, field) is not UNKNOWN or self.l1.entries_for(name, (field,)) is not None
        assert not (known and until < 0)
        self.l1.good_until = math.inf

    @invariant()
    def bounds_are_kept_and_books_are_right(self) -> None:
        l1 = self.l1
        units = l1._units.values()
        assert l1.entries == sum(len(unit.entries) for unit in units) <= self.entries
        assert l1.bytes == sum(entry.size for unit in units for entry in unit.entries.values()) <= self.size
        assert all(unit.entries or unit.fills for unit in units), "an empty unit was left behind"
        queued = [*l1._small, *l1._main]
        assert l1.entries + l1._dead_entries == len(queued)
        assert l1.bytes + l1._dead_bytes == sum(entry.size for entry in queued) <= self.size
        assert l1._small_entries == len(l1._small)


test_model = Model.TestCase


def test_a_reply_that_a_change_has_overtaken_is_not_kept() -> None:
    l1, _ = made()
    fill, _ = l1.fill("a", (b"x",), LIFE)
    l1.invalidate("a")
    assert not l1.end(fill, {b"x": (1, math.inf, 1)})
    assert l1.get("a", b"x") is UNKNOWN
    assert l1.entries == 0


def test_nobody_joins_a_read_from_before_a_change() -> None:
    l1, _ = made()
    before, _ = l1.fill("a", (b"x",), LIFE)
    assert l1.fill("a", (b"x",), LIFE) == (before, False)
    l1.drop("a")
    after, leads = l1.fill("a", (b"x",), LIFE)
    assert leads
    assert l1.end(after, {b"x": (2, math.inf, 1)})
    assert not l1.end(before, {b"x": (1, math.inf, 1)})
    assert l1.get("a", b"x") == 2


def test_nobody_joins_a_read_that_takes_too_long() -> None:
    l1, clock = made()
    l1.fill("a", (b"x",), LIFE)
    clock.now += LIFE
    assert l1.fill("a", (b"x",), LIFE)[1]


def test_a_fresh_read_joins_nobody_and_replaces_what_is_kept() -> None:
    l1, _ = made()
    put(l1, "a", b"x", 1)
    slow, _ = l1.fill("a", (b"x",), LIFE)
    fresh, leads = l1.fill("a", (b"x",), LIFE, join=False)
    assert leads
    l1.end(fresh, {b"x": (2, math.inf, 1)})
    assert l1.get("a", b"x") == 2
    assert l1.end(slow, {b"x": (1, math.inf, 1)})


def test_whoever_waits_for_a_read_is_told_of_its_end() -> None:
    l1, _ = made()
    fill, _ = l1.fill("a", (b"x",), LIFE)
    over = threading.Event()
    fill.on_end(over.set)
    l1.end(fill, {}, "reply")
    assert over.is_set()
    assert fill.reply == "reply"
    late = threading.Event()
    fill.on_end(late.set)
    assert late.is_set()


def test_an_entry_lives_as_long_as_the_server_says_and_no_longer_than_it_may() -> None:
    l1, clock = made()
    put(l1, "a", b"short", life=3.0)
    put(l1, "a", b"long", life=30.0)
    clock.now += 2.9
    assert l1.get("a", b"short") == l1.get("a", b"long") == 1
    clock.now += 0.1
    assert l1.get("a", b"short") is UNKNOWN
    clock.now += LIFE - 3.1
    assert l1.get("a", b"long") == 1
    clock.now += 0.1
    assert l1.get("a", b"long") is UNKNOWN


def test_grace_is_for_what_is_to_be_read_again_and_not_for_what_has_expired() -> None:
    l1, clock = made()
    put(l1, "a", b"expiring", life=LIFE + 1)
    put(l1, "a", b"lasting")
    clock.now += LIFE + 0.5
    assert l1.entries_for("a", (b"lasting",)) is None
    assert l1.entries_for("a", (b"lasting",), 5.0) is not None
    assert l1.entries_for("a", (b"expiring",), 5.0) is not None
    clock.now += 0.5
    assert l1.entries_for("a", (b"expiring",), 5.0) is None
    clock.now += 4.0
    assert l1.entries_for("a", (b"lasting",), 5.0) is None


def test_fields_read_at_different_moments_do_not_answer_together() -> None:
    l1, _ = made()
    put(l1, "a", b"x")
    put(l1, "a", b"y")
    assert l1.entries_for("a", (b"x", b"y")) is None
    fill, _ = l1.fill("a", (b"x", b"y"), LIFE)
    l1.end(fill, {b"x": (2, math.inf, 1), b"y": (None, math.inf, 1)})
    entries = l1.entries_for("a", (b"x", b"y"))
    assert entries is not None
    assert [entry.value for entry in entries] == [2, None]


def test_a_whole_hash_answers_for_its_fields_and_for_those_it_has_not() -> None:
    l1, _ = made()
    fill, _ = l1.fill("a", (), LIFE)
    l1.end(fill, {None: ({b"x": 1}, math.inf, 1)})
    assert l1.get("a", b"x") == 1
    assert l1.get("a", b"y") is None
    entries = l1.entries_for("a", (b"y", b"x"))
    assert entries is not None
    assert [entry.of(field) for entry, field in zip(entries, (b"y", b"x"), strict=True)] == [None, 1]


def test_a_scan_leaves_what_is_used() -> None:
    l1, _ = made(entries=100)
    used = [b"%d" % number for number in range(50)]
    for field in used:
        put(l1, "used", field)
        l1.get("used", field)
    for number in range(10_000):
        name = f"scan{number}"
        if l1.admits(name, (b"x",)):
            put(l1, name, b"x")
    assert l1.entries <= 100
    assert sum(l1.get("used", field) is not UNKNOWN for field in used) == 50


def test_nothing_is_served_when_nobody_says_that_it_is_good() -> None:
    l1, clock = made()
    put(l1, "a", b"x")
    l1.good_until = clock.now + 1.0
    assert l1.get("a", b"x") == 1
    clock.now += 1.0
    assert l1.get("a", b"x") is UNKNOWN
    assert l1.entries_for("a", (b"x",), 60.0) is None
    l1.good_until = clock.now + 1.0
    assert l1.get("a", b"x") == 1


def test_what_comes_again_soon_after_it_went_stays_longer() -> None:
    l1, _ = made(entries=10)
    put(l1, "again", b"x")
    for number in range(15):
        put(l1, "scan", b"%d" % number)
    assert l1.get("again", b"x") is UNKNOWN
    put(l1, "again", b"x")
    for number in range(15, 40):
        put(l1, "scan", b"%d" % number)
    assert l1.get("again", b"x") == 1


def test_while_there_is_no_room_only_what_is_asked_for_twice_is_kept() -> None:
    l1, _ = made(entries=10)
    for number in range(10):
        assert l1.admits("a", (b"%d" % number,))
        put(l1, "a", b"%d" % number)
    assert not l1.admits("b", (b"x",))
    assert l1.admits("b", (b"x",))
    l1.drop("a")
    assert l1.admits("c", (b"x",))


def test_what_is_too_large_is_not_kept_at_the_expense_of_all_else() -> None:
    l1, _ = made(size=100)
    put(l1, "a", b"x", size=10)
    put(l1, "a", b"y", size=90)
    assert l1.get("a", b"x") == 1
    assert l1.get("a", b"y") is UNKNOWN


def test_what_was_dropped_is_let_go_of_although_it_was_dropped_in_one_step() -> None:
    l1, _ = made(entries=10_000, size=1_000_000)
    for turn in range(1_000):
        for number in range(10):
            put(l1, "a", b"%d" % number, size=1_000)
        l1.drop("a")
        assert l1.entries == l1.bytes == 0, turn
        assert len(l1._small) + len(l1._main) <= 10_000 // 8 + 20
    assert sum(entry.size for entry in [*l1._small, *l1._main]) <= 1_000_000 // 8 + 10_000


def test_threads_share_it() -> None:
    l1: L1[int] = L1(200, 10**6, lambda: 0.0)
    l1.good_until = 1.0
    wrong: list[Any] = []

    def work(seed: int) -> None:
        for turn in range(3_000):
            name = f"h{(turn * 7 + seed) % 40}"
            match turn % 5:
                case 0:
                    l1.drop(name)
                case 1 if turn % 500 == 1:
                    l1.flush()
                case _:
                    field = b"%d" % (turn % 11)
                    value = l1.get(name, field)
                    if value not in (UNKNOWN, hash((name, field))):
                        wrong.append(value)
                    fill, leads = l1.fill(name, (field,), LIFE)
                    if leads:
                        l1.end(fill, {field: (hash((name, field)), math.inf, 1)})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert l1.entries == sum(len(unit.entries) for unit in l1._units.values()) <= 200
    assert not any(unit.fills for unit in l1._units.values())


# --- copies -----------------------------------------------------------------------------------------------------------

CODEC = Codec()
NESTED = {"role": "tool", "calls": [{"id": 1, "of": ["a", {"b"}]}], "at": datetime(2026, 3, 13, tzinfo=UTC)}


@pytest.mark.parametrize(
    "value",
    [
        *(7, "text", b"bytes", None, 1.5, datetime(2026, 3, 13, tzinfo=UTC)),
        *({}, [], {"a": 1}, [1, 2], {1, 2}, NESTED, [[[[]]]], (1, [2]), {"t": ([],)}, [{"k": n} for n in range(200)]),
        {"long": "x" * MOST_BYTES, "list": []},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_each_copy_is_equal_and_nobody_elses(value: Any) -> None:
    kept = Kept(CODEC, CODEC.encode(value))
    first, second = kept.again(), kept.again()
    assert first == second == value
    spoil(first)
    spoil(second)
    assert kept.again() == value
    assert list(map(type, parts(kept.again()))) == list(map(type, parts(value)))


@pytest.mark.filterwarnings("ignore:.*NaN")
def test_arrays_are_nobody_elses() -> None:
    kept = Kept(CODEC, CODEC.encode({"v": np.arange(3)}))
    kept.again()["v"][0] = 9
    assert kept.again()["v"].tolist() == [0, 1, 2]


def parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *(part for item in cast(dict[Any, Any], value).items() for each in item for part in parts(each))]
    if isinstance(value, (list, tuple)):
        return [value, *(part for item in cast(list[Any], value) for part in parts(item))]
    return [value]


def spoil(value: Any) -> None:
    """Change everything in it that can be."""
    for part in parts(value):
        if isinstance(part, dict):
            part["spoilt"] = True
        elif isinstance(part, list):
            cast(list[Any], part).append("spoilt")
        elif isinstance(part, set):
            cast(set[Any], part).add("spoilt")


@pytest.mark.parametrize("data", [b"\x00rubbish", b"\xc1", b"\x93\x01", b"12x"])
def test_what_cannot_be_read_says_so_every_time(data: bytes) -> None:
    kept = Kept(CODEC, data)
    for _ in range(3):
        with pytest.raises(DecodeError):
            kept.again()


def test_overhead_is_about_right() -> None:
    """What an entry takes, measured on messages of some hundred bytes: between one and three times what is counted."""
    import tracemalloc

    documents = [CODEC.encode({"role": "user", "content": f"{number} " + "x" * 400}) for number in range(2_000)]
    l1: L1[Kept] = L1(10**6, 10**9, lambda: 0.0)
    l1.good_until = 1.0
    tracemalloc.start()
    try:
        for number, document in enumerate(documents):
            data = bytes(bytearray(document))
            put(l1, f"redismem:session:{{run-{number // 4}}}:ns:m", b"%d" % number, Kept(CODEC, data), len(data))
            del data
        for number in range(2_000):
            value = l1.get(f"redismem:session:{{run-{number // 4}}}:ns:m", b"%d" % number)
            assert isinstance(value, Kept)
            value.again()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = l1.bytes + len(documents) * OVERHEAD
    assert counted / 2 < taken < counted * 2
