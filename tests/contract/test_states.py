"""States: task, context stack and variables that many workers share, in both flavours on every server."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest

from redismem import AsyncMemory, AsyncStateStore, Memory
from redismem.errors import (
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKey,
    InvalidTTL,
    LimitExceeded,
    WrongType,
)
from tests.contract.flavours import (
    SOON,
    Place,
    all_raise,
    eventually,
    nothing_is_left,
    on_servers,
    once_on_each_server,
    results,
)
from tests.contract.test_effects import link_of
from tests.contract.test_history import losing_replies
from tests.faults.crew import crew, gather
from tests.servers import Server

KEY = "redismem:session:{s1}:state"


@pytest.fixture
def states(memory: AsyncMemory) -> AsyncStateStore:
    return memory.states


@on_servers
async def test_a_state_as_a_whole(states: AsyncStateStore) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    nothing = await states.get("s1")
    assert (nothing.session_id, nothing.task, nothing.context_stack, nothing.variables) == ("s1", None, (), {})
    assert nothing.last_active is nothing.ttl is None
    await states.set_task("s1", {"book": "flight"})
    assert await states.push("s1", "gathering") == 1
    assert await states.push("s1", ["paying", 2]) == 2
    await states.set_variable("s1", "to", "Lisboa")
    await states.set_variables("s1", {"seats": 2, "a:b 🙂": None})
    await states.set_variables("s1", {})
    state = await states.get("s1")
    assert (state.task, state.context_stack) == ({"book": "flight"}, ("gathering", ["paying", 2]))
    assert state.variables == {"to": "Lisboa", "seats": 2, "a:b 🙂": None}
    assert state.last_active
    assert before < state.last_active < before + timedelta(minutes=2)
    assert state.ttl is None
    assert asdict(state)["unreadable"] == {}
    with pytest.raises(FrozenInstanceError):
        state.task = 1  # type: ignore[misc]
    assert nothing.task is None
    assert (await states.get("s2")).task is None


@on_servers
async def test_a_stack(states: AsyncStateStore) -> None:
    assert await states.pop("s1") is await states.peek("s1") is None
    assert await states.pop("s1", "empty") == await states.peek("s1", "empty") == "empty"
    contexts: list[Any] = [0, None, "x" * 10_000, b"\0 \xff", {"deep": [1]}, 2**70, " "]
    for depth, context in enumerate(contexts, 1):
        assert await states.push("s1", context) == depth
        assert await states.peek("s1", "empty") == context
    assert (await states.get("s1")).context_stack == tuple(contexts)
    for context in reversed(contexts):
        assert await states.pop("s1", "empty") == context
    assert await states.pop("s1", "empty") == await states.peek("s1", "empty") == "empty"
    assert await states.push("s1", "again") == 1


@once_on_each_server
async def test_a_stack_is_bounded(opened: Callable[..., AsyncMemory]) -> None:
    states = opened(state_max_depth=3).states
    for depth in range(3):
        await states.push("s1", depth)
    before = await states.get("s1")
    await all_raise(LimitExceeded, states.push("s1", 3), states.push("s1", 3, max_depth=2))
    assert await states.get("s1") == before
    assert await states.push("s1", 3, max_depth=4) == 4
    assert await states.pop("s1") == 3


@on_servers
async def test_variables(states: AsyncStateStore) -> None:
    assert await states.get_variable("s1", "n", "none") == "none"
    assert await states.increment_variable("s1", "n") == 1
    assert await states.increment_variable("s1", "n", 2**62) == 2**62 + 1
    assert await states.increment_variable("s1", "n", -(2**62)) == 1
    await states.set_variable("s1", "text", "x")
    await all_raise(
        LimitExceeded, states.increment_variable("s1", "n", 2**63 - 1), states.increment_variable("s1", "n", 2**63)
    )
    await all_raise(WrongType, states.increment_variable("s1", "text"))
    assert await states.get_variable("s1", "n") == 1
    assert await states.delete_variable("s1", "n")
    assert not await states.delete_variable("s1", "n")
    assert (await states.get("s1")).variables == {"text": "x"}
    assert not await states.delete_variable("s2", "n")
    assert (await states.get("s2")).last_active is None


@once_on_each_server
async def test_every_write_is_activity(states: AsyncStateStore, place: Place) -> None:
    await states.push("s1", "x")
    await states.set_variables("s1", {"a": 1, "b": 2})
    writes = (
        lambda: states.set_task("s1", "y"),
        lambda: states.set_variable("s1", "a", 1),
        lambda: states.increment_variable("s1", "b"),
        lambda: states.delete_variable("s1", "b"),
        lambda: states.push("s1", "y"),
        lambda: states.pop("s1"),
        lambda: states.touch("s1"),
    )
    reads = (lambda: states.get("s1"), lambda: states.peek("s1"), lambda: states.get_variable("s1", "a"))
    for calls, moves in ((writes, True), (reads, False)):
        for number, call in enumerate(calls):
            with place.raw() as raw:
                raw.hset(KEY, "last_active", 1_000)
            await call()
            at = (await states.get("s1")).last_active
            assert at
            assert (at.year > 2000) is moves, number


@once_on_each_server
async def test_a_state_ends_as_a_whole(states: AsyncStateStore, place: Place) -> None:
    await states.set_task("s1", "x", 100)
    assert 90 < ((await states.get("s1")).ttl or 0) <= 100
    await states.push("s1", "y")
    assert 90 < ((await states.get("s1")).ttl or 0) <= 100
    await states.set_variable("s1", "n", 1, ttl=50)
    assert 40 < ((await states.get("s1")).ttl or 0) <= 50
    assert await states.touch("s1", None)
    assert (await states.get("s1")).ttl is None
    assert not await states.touch("s2", 5)
    await states.pop("s1", ttl=SOON)
    await eventually(lambda: _is_over(states))
    assert await states.push("s1", "z") == 1
    assert (await states.get("s1")).ttl is None
    assert await states.clear("s1")
    assert not await states.clear("s1")
    await nothing_is_left(place)


async def _is_over(states: AsyncStateStore) -> bool:
    return (await states.get("s1")).last_active is None


@once_on_each_server
async def test_the_ttl_of_the_settings(opened: Callable[..., AsyncMemory]) -> None:
    states = opened(state_ttl=100).states
    await states.push("s1", "x")
    assert 90 < ((await states.get("s1")).ttl or 0) <= 100
    await states.touch("s1", 5)
    await states.increment_variable("s1", "n")
    assert 90 < ((await states.get("s1")).ttl or 0) <= 100
    await states.set_task("s1", "y", None)
    assert (await states.get("s1")).ttl is None


@once_on_each_server
async def test_a_state_is_beside_the_session(memory: AsyncMemory) -> None:
    await memory.sessions.save("s1", "n", "k", 1)
    await memory.states.push("s1", "x")
    info = await memory.sessions.info("s1")
    assert info
    assert info.namespaces == ("n",)
    assert await memory.states.clear("s1")
    assert await memory.sessions.load("s1", "n", "k") == 1


@on_servers
async def test_in_a_batch(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        pushed = [batch.states.push("s1", context) for context in "abc"]
        popped = [batch.states.pop("s1") for _ in range(4)]
        full = batch.states.push("s1", "d", max_depth=0)
    assert results(pushed) == [1, 2, 3]
    assert results(popped) == ["c", "b", "a", None]
    assert isinstance(full.error(), ConfigError)


@on_servers
async def test_what_is_popped_is_popped_once_though_replies_are_lost(
    memory: AsyncMemory, states: AsyncStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = losing_replies(link_of(memory), monkeypatch)
    for context in (b" \n\0", None, "c"):
        await states.push("s1", context)
    assert (await states.get("s1")).context_stack == (b" \n\0", None, "c")
    assert [await states.pop("s1", "empty") for _ in range(4)] == ["c", None, b" \n\0", "empty"]
    assert await states.increment_variable("s1", "n", 5) == 5
    assert await states.delete_variable("s1", "n")
    assert await states.clear("s1")
    assert len(calls) > 20


@once_on_each_server
async def test_bad_input_is_refused_and_changes_nothing(states: AsyncStateStore, place: Place) -> None:
    wrong: Any = True
    await all_raise(
        InvalidKey,
        states.get(""),
        states.push("x" * 600, 1),
        states.set_variable("s1", "", 1),
        states.get_variable("s1", "\ud800"),
    )
    await all_raise(EncodeError, states.push("s1", object()), states.set_variables("s1", {"a": 1, "b": 1j}))
    await all_raise(ConfigError, states.push("s1", 1, max_depth=0), states.push("s1", 1, max_depth=wrong))
    await all_raise(LimitExceeded, states.increment_variable("s1", "n", wrong))
    await all_raise(InvalidTTL, states.push("s1", 1, 0), states.touch("s1", math.inf))
    assert place.left_over() == []


@once_on_each_server
async def test_damage_hides_nothing_else(states: AsyncStateStore, place: Place) -> None:
    for context in "abc":
        await states.push("s1", context)
    await states.set_variables("s1", {"good": 1, "bad": 2})
    with place.raw() as raw:
        raw.hset(KEY, mapping={"context:2": b"\xc1", "variable:bad": b"\xc1", "last_active": b"\xa1x", "other": "1"})
    state = await states.get("s1")
    assert (state.context_stack, state.variables, state.last_active) == (("a", "c"), {"good": 1}, None)
    assert {field: error.key for field, error in state.unreadable.items()} == {
        "context:2": f"{KEY}[context:2]",
        "variable:bad": f"{KEY}[variable:bad]",
    }
    assert await states.pop("s1") == "c"
    await all_raise(DecodeError, states.peek("s1"), states.get_variable("s1", "bad"), states.pop("s1"))
    assert await states.pop("s1") == "a", "what cannot be read bars nobody from the rest"
    with place.raw() as raw:
        raw.set("redismem:session:{s2}:state", "x")
    await all_raise(WrongType, states.get("s2"), states.push("s2", 1), states.pop("s2"), states.peek("s2"))


WORKERS, ROUNDS = 3, 60


def push_and_pop(pipe: Connection, index: int, url: str) -> None:
    """Push two, pop one, again and again; count in a variable, and set another."""
    with Memory(url) as memory:
        states = memory.states
        memory.health()
        pipe.send("ready")
        pipe.recv()
        popped: list[Any] = []
        for number in range(ROUNDS):
            for part in "ab":
                states.push("s1", f"{index} {number} {part}", max_depth=1_000)
            popped.append(states.pop("s1"))
            states.increment_variable("s1", "n")
            states.set_variable("s1", f"of {index}", number)
        pipe.send(popped)
        pipe.recv()


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_processes_share_a_state(server: Server) -> None:
    with Memory(server.url) as memory, crew(WORKERS, push_and_pop, server.url) as members:
        gather(members)
        popped = [context for one in members for context in one.hear()]
        state = memory.states.get("s1")
        pushed = {f"{index} {number} {part}" for index in range(WORKERS) for number in range(ROUNDS) for part in "ab"}
        assert Counter([*popped, *state.context_stack]) == Counter(pushed), "none is lost, none is popped twice"
        counted = {f"of {index}": ROUNDS - 1 for index in range(WORKERS)}
        assert state.variables == {"n": WORKERS * ROUNDS, **counted}
