"""One coroutine, three flavours: signatures, values, errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest

from redismem import AsyncMemory, Memory, errors
from redismem.op import Asyncio, Batched, Blocking, Handle, op, stream
from redismem.stores.sessions import AsyncSessionStore, SessionBatch, SessionOperations, SessionStore


class Body:
    @op
    async def double(self, number: int, *, plus: int = 0) -> int:
        """Twice the number."""
        return 2 * number + plus

    @op
    async def fail(self) -> None:
        raise KeyError("mine")

    @op
    async def wait(self) -> None:
        await asyncio.sleep(0)

    @stream
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


class Plain(Body, Blocking):
    pass


class Awaited(Body, Asyncio):
    pass


def test_blocking_is_a_plain_call():
    assert Plain().double(4, plus=1) == 9
    with pytest.raises(KeyError, match="mine"):
        Plain().fail()


async def test_asyncio_is_the_coroutine_itself():
    assert inspect.iscoroutinefunction(Awaited.double)
    assert await Awaited().double(4) == 8


async def test_streams_in_both_flavours():
    assert list(Plain().count(3)) == [0, 1, 2]
    assert [number async for number in Awaited().count(3)] == [0, 1, 2]


def test_a_stream_may_be_left_early():
    numbers = Plain().count(10)
    assert next(numbers) == 0
    numbers.close()


def test_waiting_in_a_blocking_call_is_a_clear_error():
    with pytest.raises(errors.Suspended, match=r"Body\.wait waits for an event loop"):
        Plain().wait()


@pytest.mark.parametrize("flavour", [SessionStore, AsyncSessionStore, SessionBatch])
@pytest.mark.parametrize("name", ["load", "save_many", "compare_and_set", "update", "info"])
def test_every_flavour_has_the_signature_and_the_text_of_the_body(flavour, name):
    body = vars(SessionOperations)[name].body
    assert inspect.signature(getattr(flavour, name)) == inspect.signature(body)
    assert getattr(flavour, name).__doc__ == body.__doc__
    assert getattr(flavour, name).__name__ == name


def test_a_bound_signature_leaves_self_out():
    with Memory("memory://") as memory:
        assert list(inspect.signature(memory.sessions.load).parameters) == [
            "session_id",
            "namespace",
            "key",
            "default",
            "user_id",
            "fresh",
        ]
    ttl = AsyncMemory("memory://").sessions.ttl
    assert list(inspect.signature(ttl).parameters) == ["session_id", "namespace", "key", "user_id"]


def test_a_joined_save_has_the_signature_of_the_body():
    ours, body = inspect.signature(SessionBatch.save), inspect.signature(vars(SessionOperations)["save"].body)
    assert ours.parameters == body.parameters


def test_a_batched_stream_says_why_not():
    class InBatch(Body, Batched):
        pass

    with pytest.raises(errors.RedisMemError, match="outside the batch"):
        InBatch().count(3)


def test_a_handle_before_the_batch_was_sent():
    handle: Handle[int] = Handle()
    assert not handle.done()
    for ask in (handle.result, handle.error):
        with pytest.raises(errors.NotReady):
            ask()
    handle.resolve(3)
    assert (handle.done(), handle.result(), handle.error()) == (True, 3, None)


def test_calls_outside_the_block_of_a_batch_are_refused():
    with Memory("memory://") as memory:
        batch = memory.batch()
        with pytest.raises(errors.NotReady, match="inside its `with` block"):
            batch.sessions.load("s", "n", "k")
        with batch:
            inside = batch.sessions.save("s", "n", "k", 1)
        assert inside.result() is None
        with pytest.raises(errors.NotReady):
            batch.sessions.save("s", "n", "k", 2)
