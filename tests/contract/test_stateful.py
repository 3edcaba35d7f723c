"""Two processes do to one server what hypothesis thinks of, and must always agree with the oracle.

Time: a TTL is either so long that it never ends here, or so short that the step waits until it has ended and moves the
oracle's clock. A session whose own end is near is not given short TTLs: it may linger for its resolution.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from redismem import KEEP_TTL, MISSING, Memory, SessionInfo, SessionStore, Settings, Values
from redismem.batch import Batch
from redismem.errors import RedisMemError
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.store import Shared
from tests.contract.flavours import Place
from tests.servers import NAMES

VALUES = (
    *(None, True, False, 0, 1, -5, 1.0, 2**53 + 1, 2**63 - 1, 2**64, "", "x", b"x", "5", [], {}, [1], [True], (1,)),
    *({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": True, "b": 2}, {1}, "long and dull " * 500),
)
MOMENT = 0.001

sessions = st.sampled_from(["s", "t"])
places = st.tuples(sessions, st.sampled_from(["n", "m", "ns:n"]), st.sampled_from(["a", "b", "c"]))
users = st.sampled_from([None, None, None, "u", "v"])
values = st.sampled_from(VALUES)
steps = st.sampled_from([1, 1, -3, 2**62, 2**63 - 1])
lives = st.sampled_from([None, 1_000, 5_000])
ttls = st.one_of(lives, st.just(KEEP_TTL))
mappings = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), values, max_size=4)

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_fields": 2, "max_namespaces": 2},
    {"session_ttl": 10_000},
    {"session_ttl": 10_000, "refresh_on_read": True},
    {"max_namespaces": 1, "session_ttl": 10_000, "compression": "off"},
)


def comparable(outcome: Any) -> Any:
    """What must be equal: values to their types, times roughly, errors by their type."""
    match outcome:
        case RedisMemError():
            return type(outcome)
        case SessionInfo():
            left = None if outcome.ttl is None else round(outcome.ttl, -3)
            return outcome.session_id, outcome.user_id, left, outcome.namespaces
        case Values():
            return sorted((key, repr(value)) for key, value in outcome.items())
        case _:
            return repr(outcome)


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The call's value or its error."""
    try:
        return call(*args, **kwargs)
    except RedisMemError as error:
        return error


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so, for ten seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "what should have expired is still there"


class SessionsAgainstTheOracle(RuleBasedStateMachine):
    """`memory` and `forget_all` come from the test."""

    memory: Memory
    forget_all: Callable[[], None]

    @initialize(configuration=st.sampled_from(CONFIGURATIONS))
    def begin(self, configuration: dict[str, Any]) -> None:
        self.now = 1e9
        self.settings = Settings.of("memory://", **configuration)
        self.oracle = InMemorySessionStore(lambda: self.now, self.settings)
        shared = [Shared.of(self.settings, self.memory._link) for _ in range(2)]
        self.stores = [SessionStore(each) for each in shared]
        self.batches = [lambda each=each: Batch(each) for each in shared]

    def teardown(self) -> None:
        self.forget_all()

    def both(self, process: int, name: str, *args: Any, **kwargs: Any) -> Any:
        """The same call on a process' store and on the oracle, with the same outcome; the oracle's."""
        expected = outcome(getattr(self.oracle, name), *args, **kwargs)
        actual = outcome(getattr(self.stores[process], name), *args, **kwargs)
        assert comparable(actual) == comparable(expected), f"{name}: {actual!r} is not {expected!r}"
        return expected

    @rule(process=st.integers(0, 1), place=places, value=values, ttl=ttls, user=users)
    def save(self, process: int, place: tuple[str, str, str], value: Any, ttl: Any, user: Any) -> None:
        self.both(process, "save", *place, value, ttl, user_id=user)

    @rule(process=st.integers(0, 1), place=places, mapping=mappings, ttl=ttls, user=users)
    def save_many(
        self, process: int, place: tuple[str, str, str], mapping: Mapping[str, Any], ttl: Any, user: Any
    ) -> None:
        if mapping:  # an empty one asks nothing of the server, not even whose session it is
            self.both(process, "save_many", *place[:2], mapping, ttl, user_id=user)

    @rule(process=st.integers(0, 1), place=places, user=users)
    def read(self, process: int, place: tuple[str, str, str], user: Any) -> None:
        self.both(process, "load", *place, "default", user_id=user)
        self.both(process, "load_many", *place[:2], ["a", "c", "d", "a"], user_id=user)
        self.both(process, "get_all", *place[:2], user_id=user)

    @rule(process=st.integers(0, 1), place=places, user=users)
    def delete(self, process: int, place: tuple[str, str, str], user: Any) -> None:
        self.both(process, "delete", *place, user_id=user)

    @rule(process=st.integers(0, 1), place=places, by=steps, ttl=lives, user=users)
    def increment(self, process: int, place: tuple[str, str, str], by: int, ttl: Any, user: Any) -> None:
        self.both(process, "increment", *place, by, ttl, user_id=user)

    @rule(
        process=st.integers(0, 1),
        place=places,
        expected=values,
        value=values,
        ttl=ttls,
        user=users,
        guess=st.booleans(),
    )
    def compare_and_set(
        self, process: int, place: tuple[str, str, str], expected: Any, value: Any, ttl: Any, user: Any, guess: bool
    ) -> None:
        if not guess:
            expected = self.oracle.load(*place, MISSING)
        self.both(process, "compare_and_set", *place, expected, value, ttl, user_id=user)

    @rule(process=st.integers(0, 1), place=places, default=values, ttl=ttls, user=users)
    def update(self, process: int, place: tuple[str, str, str], default: Any, ttl: Any, user: Any) -> None:
        self.both(process, "update", *place, lambda value: [repr(value)[-20:]], default, ttl, user_id=user)

    @rule(process=st.integers(0, 1), place=places, ttl=lives, user=users)
    def expire(self, process: int, place: tuple[str, str, str], ttl: Any, user: Any) -> None:
        self.both(process, "expire", *place, ttl, user_id=user)

    @rule(process=st.integers(0, 1), place=places)
    def ttl(self, process: int, place: tuple[str, str, str]) -> None:
        expected, actual = self.oracle.ttl(*place), self.stores[process].ttl(*place)
        assert (actual is None) == (expected is None)
        assert actual == pytest.approx(expected, abs=100)

    @rule(process=st.integers(0, 1), session=sessions, ttl=lives, user=users)
    def touch(self, process: int, session: str, ttl: Any, user: Any) -> None:
        if not self.settings.refresh_on_read:  # a read that follows at once may count up to a second later
            self.both(process, "touch", session, ttl, user_id=user)

    @rule(process=st.integers(0, 1), session=sessions, user=users)
    def end(self, process: int, session: str, user: Any) -> None:
        self.both(process, "end", session, user_id=user)

    @rule(process=st.integers(0, 1), session=sessions)
    def look(self, process: int, session: str) -> None:
        self.both(process, "info", session)
        self.both(process, "namespaces", session)
        assert sorted(set(self.stores[process].scan(3))) == sorted(self.oracle.scan())

    @rule(process=st.integers(0, 1), place=places, value=values, user=users)
    def let_a_key_expire(self, process: int, place: tuple[str, str, str], value: Any, user: Any) -> None:
        info = self.oracle.info(place[0])
        if info is None or (info.ttl is not None and info.ttl < 100):
            return
        if self.both(process, "save", *place, value, MOMENT, user_id=user) is None:
            until(lambda: self.stores[process].load(*place, MISSING) is MISSING)
            self.now += MOMENT

    @rule(process=st.integers(0, 1), session=sessions, user=users)
    def let_a_session_expire(self, process: int, session: str, user: Any) -> None:
        if self.both(process, "touch", session, MOMENT, user_id=user) is True:
            until(lambda: self.stores[process].info(session) is None)
            self.now += MOMENT

    @rule(process=st.integers(0, 1), place=places, more=places, mapping=mappings, value=values, by=steps, user=users)
    def batch(
        self,
        process: int,
        place: tuple[str, str, str],
        more: tuple[str, str, str],
        mapping: Mapping[str, Any],
        value: Any,
        by: int,
        user: Any,
    ) -> None:
        if self.settings.max_namespaces is not None:  # making room takes a save several steps, and then others pass it
            return
        calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("save", (*place, value, 1_000), {}),
            ("save", (*more, by, 1_000), {}),
            *(("save", (*place[:2], key, item), {}) for key, item in mapping.items()),
            ("increment", (*more, by), {}),
            ("load", place, {"user_id": user}),
            ("save", (*place, value), {"user_id": user}),
            ("delete", more, {}),
            ("get_all", place[:2], {}),
        ]
        with self.batches[process]() as batch:
            handles = [getattr(batch.sessions, name)(*args, **kwargs) for name, args, kwargs in calls]
        for (name, args, kwargs), handle in zip(calls, handles, strict=True):
            expected, actual = outcome(getattr(self.oracle, name), *args, **kwargs), outcome(handle.result)
            assert comparable(actual) == comparable(expected), f"{name}{args}: {actual!r} is not {expected!r}"


@pytest.mark.timeout(600)  # a failure takes its time to be made small
@pytest.mark.parametrize("place", [f"sync-{name}" for name in NAMES], indirect=True)
def test_the_store_does_what_the_oracle_does(place: Place) -> None:
    assert place.server is not None
    effort = settings(max_examples=max(20, settings().max_examples // 4), stateful_step_count=40)
    with Memory(place.server.url) as memory:
        place.fake.extend(server for name, server in memory._link.endpoint.options.items() if name == "server")

        class Machine(SessionsAgainstTheOracle):
            pass

        Machine.memory = memory
        Machine.forget_all = staticmethod(place.raw().flushall)
        run_state_machine_as_test(Machine, settings=effort)
