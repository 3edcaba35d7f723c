"""Checked by mypy and pyright, never run: what type checkers make of each flavour of an operation."""

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, assert_type

from redismem import (
    AsyncMemory,
    Checkpoint,
    GraphEntity,
    GraphPath,
    GraphSize,
    Handle,
    Memory,
    Neighbour,
    SessionInfo,
    SessionState,
    SessionStore,
    Stats,
    Turn,
    Turns,
    Values,
    Written,
    create_store,
)
from redismem.health import Health


def a_blocking_call_is_a_value(memory: Memory) -> None:
    sessions = memory.sessions
    assert_type(sessions.load("s", "n", "k"), Any)
    assert_type(sessions.get_all("s", "n"), Values)
    assert_type(sessions.increment("s", "n", "k", by=2, ttl=1.5), int)
    assert_type(sessions.delete("s", "n", "k"), bool)
    assert_type(sessions.info("s"), SessionInfo | None)
    assert_type(sessions.scan(batch_size=10), Iterator[str])
    assert_type(memory.history.append("42", "user", "Hi"), Turn)
    assert_type(memory.threads.get("t"), Checkpoint | None)
    assert_type(memory.states.get("s"), SessionState)
    assert_type(memory.preferences.get_all("42"), Values)
    assert_type(memory.temporal.delete("42", "k"), bool)
    assert_type(memory.health(), Health)
    assert_type(memory.stats(), Stats)
    assert_type(create_store("memory://"), SessionStore)


async def an_async_call_is_awaited(memory: AsyncMemory) -> None:
    sessions = memory.sessions
    loading = assert_type(sessions.load("s", "n", "k"), Coroutine[Any, Any, Any])
    adding = assert_type(sessions.increment("s", "n", "k"), Coroutine[Any, Any, int])
    assert_type(await loading, Any)
    assert_type(await adding, int)
    assert_type(await sessions.get_all("s", "n"), Values)
    assert_type(await sessions.info("s"), SessionInfo | None)
    assert_type(await memory.history.turns("42", since=3), Turns)
    assert_type(memory.threads.scan(), AsyncIterator[str])
    assert_type(await memory.states.push("s", "x"), int)
    assert_type(await memory.preferences.apply("42", "Go."), str)
    assert_type(sessions.scan(), AsyncIterator[str])
    assert_type(await memory.health(), Health)


def a_batched_call_is_a_handle(memory: Memory) -> None:
    with memory.batch() as batch:
        assert_type(batch.sessions.increment("s", "n", "k"), Handle[int])
        assert_type(batch.sessions.save("s", "n", "k", 1, ttl=2), Handle[None])
        assert_type(batch.threads.put("t", 1), Handle[Written])
        assert_type(batch.temporal.forget("42"), Handle[int])
        assert_type(batch.sessions.increment("s", "n", "k").result(), int)


async def a_batched_call_is_a_handle_in_async_too(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        assert_type(batch.sessions.delete("s", "n", "k"), Handle[bool])


async def graphs_have_each_flavour_too(memory: Memory, other: AsyncMemory) -> None:
    assert_type(memory.graph.paths("42", "a", "b", "t", max_length=3), list[GraphPath])
    assert_type(memory.graph.entities("42"), Iterator[GraphEntity])
    assert_type(await other.graph.neighbours("42", "a", limit=None), list[Neighbour])
    with memory.batch() as batch:
        assert_type(batch.graph.merge("42"), Handle[GraphSize])


def wrong_calls_are_seen(memory: Memory, other: AsyncMemory) -> None:
    memory.sessions.load("s", "n")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    memory.sessions.save("s", "n", "k", 1, ttl="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memory.sessions.load(1, "n", "k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    other.sessions.nothing()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
