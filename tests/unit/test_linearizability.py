"""The checker of histories: what one store can have said passes, what it cannot is found."""

import itertools
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redismem.errors import Unavailable
from tests.faults.linearizability import Operation, Recorder, Value, recorded, step, violations


def op(called: float, returned: float, verb: str, *arguments: Any, says: Any = None) -> Operation:
    return Operation("k", verb, arguments, int(called), returned, says)


NEVER = math.inf

GOOD = {
    "nothing": [],
    "one after the other": [op(1, 2, "save", 1), op(3, 4, "load", says=1), op(5, 6, "increment", 2, says=3)],
    "a read during a write may see it": [op(1, 9, "save", 1), op(2, 3, "load", says=1)],
    "a read during a write may not see it": [op(1, 9, "save", 1), op(2, 3, "load", says=None)],
    "the later of two writes at once may be the first": [
        op(1, 9, "save", 1),
        op(2, 8, "save", 2),
        op(10, 11, "load", says=1),
    ],
    "what has no outcome may have happened": [op(1, NEVER, "save", 1), op(2, 3, "load", says=1)],
    "or never": [op(1, NEVER, "save", 1), op(2, 3, "load", says=None)],
    "or late": [op(1, NEVER, "save", 1), op(2, 3, "load", says=None), op(4, 5, "load", says=1)],
    "two increments without an outcome": [
        op(1, NEVER, "increment", 1),
        op(2, NEVER, "increment", 1),
        op(3, 4, "increment", 1, says=2),
        op(5, 6, "load", says=3),
    ],
    "compare and set": [
        op(1, 2, "compare_and_set", None, 1, says=True),
        op(3, 4, "compare_and_set", None, 2, says=False),
        op(3, 9, "compare_and_set", 1, 3, says=True),
        op(3, 9, "compare_and_set", 1, 4, says=False),
        op(10, 11, "delete", says=True),
        op(12, 13, "delete", says=False),
    ],
}

BAD = {
    "a stale read": [op(1, 2, "save", 1), op(3, 4, "save", 2), op(5, 6, "load", says=1)],
    "a read from nowhere": [op(1, 2, "load", says=1)],
    "a write that comes and goes": [
        op(1, 9, "save", 1),
        op(2, 3, "load", says=1),
        op(4, 5, "load", says=None),
    ],
    "a lost update": [op(1, 9, "increment", 1, says=1), op(2, 8, "increment", 1, says=1)],
    "an increment applied twice": [op(1, 2, "increment", 1, says=1), op(3, 4, "increment", 1, says=3)],
    "a call before its time": [op(1, 2, "load", says=7), op(3, NEVER, "save", 7)],
    "one without an outcome that happened twice": [
        op(1, NEVER, "increment", 1),
        op(3, 4, "load", says=1),
        op(5, 6, "load", says=2),
    ],
    "two winners": [
        op(1, 9, "compare_and_set", None, 1, says=True),
        op(2, 8, "compare_and_set", None, 2, says=True),
    ],
    "deleted twice": [op(1, 2, "save", 1), op(3, 9, "delete", says=True), op(4, 8, "delete", says=True)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name: str) -> None:
    assert violations(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name: str) -> None:
    (violation,) = violations(BAD[name])
    assert violation.key == "k"
    assert violation.explained < violation.operations


def test_it_says_where_the_story_ends() -> None:
    history = BAD["a stale read"]
    (violation,) = violations(history)
    assert violation.stuck_at == (history[2],)
    assert (violation.explained, violation.value) == (2, 2)


def test_each_key_has_a_story_of_its_own() -> None:
    good, bad = GOOD["compare and set"], BAD["a lost update"]
    history = [*good, *(replace(operation, key="bad") for operation in bad)]
    assert [violation.key for violation in violations(history)] == ["bad"]


# --- against a search without any cleverness --------------------------------------------------------------------------

small = st.integers(0, 2)
effects: st.SearchStrategy[tuple[str, tuple[Any, ...]]] = st.one_of(
    st.tuples(st.just("save"), st.tuples(small)),
    st.tuples(st.just("increment"), st.just((1,))),
    st.tuples(st.just("compare_and_set"), st.tuples(st.none() | small, small)),
    st.tuples(st.sampled_from(["load", "delete"]), st.just(())),
)


def is_plain(order: Sequence[Operation], value: Value = None) -> bool:
    """Whether the operations, one after the other, say what they are said to have said."""
    for operation in order:
        value, said = step(value, operation)
        if not operation.is_pending and said != operation.result:
            return False
    return True


def by_force(history: Sequence[Operation]) -> bool:
    """Whether any order of any choice of the pending operations will do."""
    pending = [one for one in history if one.is_pending]
    returned = [one for one in history if not one.is_pending]
    chosen = itertools.chain.from_iterable(itertools.combinations(pending, n) for n in range(len(pending) + 1))
    return any(
        all(not later.returned < earlier.called for earlier, later in itertools.combinations(order, 2))
        and is_plain(order)
        for some in chosen
        for order in itertools.permutations([*returned, *some])
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """A few operations at once, that say anything."""
    history: list[Operation] = []
    for _ in range(draw(st.integers(0, 5))):
        verb, arguments = draw(effects)
        called = draw(st.integers(0, 12))
        says: Any = {"save": st.none(), "compare_and_set": st.booleans(), "delete": st.booleans()}.get(
            verb, st.none() | st.integers(0, 3) if verb == "load" else st.integers(1, 3)
        )
        returned = draw(st.just(math.inf) | st.integers(called, 13))
        history.append(Operation("k", verb, arguments, called, returned, draw(says)))
    return history


@given(histories())
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    assert (violations(history) == []) == by_force(history)


# --- histories of a store that is one ---------------------------------------------------------------------------------


def simulated(dice: random.Random, processes: int, operations: int, lost: float = 0.05) -> list[Operation]:
    """What processes are told by one store: each operation takes place at a moment between its call and its return."""
    moments: list[tuple[int, Operation]] = []
    for process in range(processes):
        now = process
        for number in range(operations):
            called = now + dice.randrange(1, 20) * processes
            happens = called + dice.randrange(20) * processes
            now = happens + dice.randrange(20) * processes
            unique = process + processes * (number + 1) * 1000
            verb, arguments = dice.choice(
                [
                    ("load", ()),
                    ("save", (unique,)),
                    ("increment", (1,)),
                    ("delete", ()),
                    ("compare_and_set", (None, unique)),
                ]
            )
            operation = Operation("k", verb, arguments, called, float(now))
            if dice.random() < lost:
                late = happens if dice.random() < 0.5 else 10**9  # or never
                moments.append((late, replace(operation, returned=math.inf)))
            else:
                moments.append((happens, operation))
    told: list[Operation] = []
    value: Value = None
    for moment, operation in sorted(moments, key=lambda one: one[0]):
        after, said = step(value, operation)
        value = value if moment == 10**9 else after
        told.append(operation if operation.is_pending else replace(operation, result=said))
    return told


seeds = st.integers(0, 2**32)


@given(seeds, st.integers(1, 6))
def test_what_one_store_says_passes(seed: int, processes: int) -> None:
    assert violations(simulated(random.Random(seed), processes, 20)) == []


def after(history: Iterable[Operation]) -> int:
    return 1 + int(max((one.returned for one in history if not one.is_pending), default=0))


@given(seeds)
def test_a_stale_read_is_found(seed: int) -> None:
    history = simulated(random.Random(seed), 4, 10)
    end = after(history)
    history += [op(end, end + 1, "save", -100), op(end + 2, end + 3, "save", -200)]
    assert violations([*history, op(end + 4, end + 5, "load", says=-200)]) == []
    assert violations([*history, op(end + 4, end + 5, "load", says=-100)])


@given(seeds)
def test_a_lost_update_is_found(seed: int) -> None:
    """Two read the same value, both replace it, and both are told that it went well."""
    history = simulated(random.Random(seed), 4, 10)
    end = after(history)
    history += [op(end, end + 1, "save", -100)]
    first, second = (op(end + 2, end + 9, "compare_and_set", -100, new, says=True) for new in (-200, -300))
    assert violations([*history, first, replace(second, result=False)]) == []
    assert violations([*history, first, second])


@given(seeds)
def test_a_read_that_is_changed_is_found(seed: int) -> None:
    history = simulated(random.Random(seed), 4, 20)
    reads = [number for number, one in enumerate(history) if one.verb == "load" and not one.is_pending]
    for number in reads[:1]:
        history[number] = replace(history[number], result=-1)
        assert violations(history)


def test_long_histories_take_a_second() -> None:
    true = simulated(random.Random(1), 4, 1_000, lost=0.005)
    false = simulated(random.Random(1), 4, 1_000, lost=0)
    false.append(op(after(false), after(false) + 1, "load", says=-1))
    began = time.monotonic()
    assert violations(true) == []
    (violation,) = violations(false)
    assert (violation.explained, violation.is_certain) == (len(false) - 1, True)
    assert time.monotonic() - began < 20


# --- recording --------------------------------------------------------------------------------------------------------


class Store:
    """Says what it was asked, and fails at the third call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def increment(self, *arguments: Any) -> int:
        self.calls.append(arguments)
        if len(self.calls) == 3:
            raise Unavailable("gone")
        return len(self.calls)


def test_recording(tmp_path: Path) -> None:
    store, log = Store(), tmp_path / "log"
    before = time.monotonic_ns()
    with Recorder(store, "s", "n", log) as recorder:
        assert [recorder.call("increment", "k", by) for by in (1, 1, 5, 1)] == [1, 2, None, 4]
    assert store.calls[2] == ("s", "n", "k", 5)
    history = sorted(recorded(log), key=lambda one: one.called)
    assert [(one.effect, one.result, one.is_pending) for one in history] == [
        (("increment", (1,)), 1, False),
        (("increment", (1,)), 2, False),
        (("increment", (5,)), None, True),
        (("increment", (1,)), 4, False),
    ]
    times = [time for one in history for time in (one.called, one.returned) if time < math.inf]
    assert times == sorted(times)
    assert before <= times[0]
    assert [violation.explained for violation in violations(history)] == [2], "5 and 1 are not 2"
