"""A batch steps many operations together: on a link that is a script, so that every exchange is seen."""

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import pytest

from redismem import Handle, errors
from redismem.batch import BatchLink
from redismem.link.base import Command, Link, Patience, Reply
from redismem.link.endpoint import endpoint_of
from redismem.link.faults import Fault
from redismem.link.features import Features
from redismem.op import run


class ScriptedLink(Link):
    """Answers each command with `OK <command>`; keeps what it was asked, and how long it was told to sleep."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__(endpoint_of("memory://", linger=0), Patience(retries=0))
        self.exchanges: list[list[Command]] = []
        self.fresh: list[bool] = []
        self.slept: list[float] = []
        self._fails_at = fails_at

    async def exchange(self, commands: Sequence[Command], *, fresh: bool) -> list[Reply]:
        if tuple(commands) == (Features.QUESTION,):
            return [[[b"hsetex"], [b"hpexpire"], None]]
        self.exchanges.append(list(commands))
        self.fresh.append(fresh)
        if len(self.exchanges) == self._fails_at:
            raise Fault(ConnectionResetError("gone"), unsent=False)
        return [errors.ServerError("refused") if command[0] == "BAD" else f"OK {command[-1]}" for command in commands]

    async def aclose(self) -> None:
        raise AssertionError("a batch leaves the link beneath open")

    def exclusive(self, key: str) -> NoReturn:
        raise AssertionError("nothing in a batch needs a connection of its own")

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def ask(link: Link, *words: str) -> list[str]:
    """An operation that asks once for each word, one after the other."""
    return [await link.execute("GET", word) for word in words]


def sent(link: Link, *operations: Callable[[BatchLink], Awaitable[Any]]) -> list[Handle[Any]]:
    """The handles of these operations after they were sent together."""
    batch = BatchLink(link)
    handles: list[Handle[Any]] = [batch.enlist(operation(batch)) for operation in operations]  # type: ignore[arg-type]
    run(batch.send())
    return handles


def test_operations_go_out_together_and_each_gets_its_replies() -> None:
    link = ScriptedLink()
    handles = sent(link, *(lambda batch, word=word: ask(batch, word) for word in "abc"))
    assert link.exchanges == [[("GET", "a"), ("GET", "b"), ("GET", "c")]]
    assert [handle.result() for handle in handles] == [["OK a"], ["OK b"], ["OK c"]]
    assert all(handle.done() for handle in handles)
    assert [handle.error() for handle in handles] == [None, None, None]


def test_those_that_need_more_ask_again_together() -> None:
    link = ScriptedLink()
    handles = sent(
        link,
        lambda batch: ask(batch, "a", "b", "c"),
        lambda batch: ask(batch, "x"),
        lambda batch: ask(batch),
        lambda batch: ask(batch, "p", "q"),
    )
    assert link.exchanges == [[("GET", "a"), ("GET", "x"), ("GET", "p")], [("GET", "b"), ("GET", "q")], [("GET", "c")]]
    assert [handle.result() for handle in handles] == [["OK a", "OK b", "OK c"], ["OK x"], [], ["OK p", "OK q"]]


def test_an_operation_may_ask_for_several_replies_at_once() -> None:
    async def two(batch: Link) -> list[Reply]:
        return await batch.pipeline((("GET", "a"), ("GET", "b")))

    link = ScriptedLink()
    handles = sent(link, two, lambda batch: ask(batch, "c"), two)
    assert len(link.exchanges) == 1
    assert [handle.result() for handle in handles] == [["OK a", "OK b"], ["OK c"], ["OK a", "OK b"]]


def test_nothing_is_sent_for_nothing() -> None:
    link = ScriptedLink()
    assert sent(link) == []
    assert sent(link, lambda batch: ask(batch))[0].result() == []
    assert link.exchanges == []


def test_each_has_its_own_error() -> None:
    async def fail(_: Link) -> None:
        raise ZeroDivisionError

    async def fail_later(batch: Link) -> None:
        await batch.execute("GET", "a")
        raise KeyError("later")

    link = ScriptedLink()
    handles = sent(link, fail, lambda batch: ask(batch, "a", "b"), lambda batch: batch.execute("BAD"), fail_later)
    assert handles[1].result() == ["OK a", "OK b"]
    for handle, kind in zip((handles[0], *handles[2:]), (ZeroDivisionError, errors.ServerError, KeyError), strict=True):
        assert isinstance(handle.error(), kind)
        with pytest.raises(kind):
            handle.result()


def test_an_operation_may_catch_its_error() -> None:
    async def careful(batch: Link) -> list[str]:
        try:
            return await batch.execute("BAD")
        except errors.ServerError:
            return await ask(batch, "instead")

    assert sent(ScriptedLink(), careful)[0].result() == ["OK instead"]


def test_a_handle_is_not_ready_before_the_batch_was_sent() -> None:
    batch = BatchLink(ScriptedLink())
    handle = batch.enlist(ask(batch, "a"))
    assert not handle.done()
    for _ in range(2):
        with pytest.raises(errors.NotReady):
            handle.result()
        with pytest.raises(errors.NotReady):
            handle.error()
    run(batch.send())
    assert handle.result() == ["OK a"]


def test_asking_too_early_again_and_again_keeps_nothing() -> None:
    handle = BatchLink(ScriptedLink()).enlist(never := ask(ScriptedLink()))
    lengths = set[int]()
    for _ in range(5):
        with pytest.raises(errors.NotReady) as caught:
            handle.result()
        trace, length = caught.value.__traceback__, 0
        while trace is not None:
            trace, length = trace.tb_next, length + 1
        lengths.add(length)
    never.close()
    assert len(lengths) == 1


def test_a_discarded_batch_sends_nothing() -> None:
    link = ScriptedLink()
    batch = BatchLink(link)
    handle = batch.enlist(ask(batch, "a"))
    batch.discard()
    run(batch.send())
    assert link.exchanges == []
    assert not handle.done()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a coroutine that was never awaited
        del batch
        gc.collect()


def test_the_batch_waits_as_long_as_its_slowest() -> None:
    async def nap(batch: Link, seconds: float, word: str) -> list[str]:
        await batch.sleep(seconds)
        return await ask(batch, word)

    link = ScriptedLink()
    handles = sent(
        link, lambda batch: nap(batch, 3, "a"), lambda batch: nap(batch, 5, "b"), lambda batch: ask(batch, "c", "d")
    )
    assert link.slept == [5]
    assert link.exchanges == [[("GET", "c")], [("GET", "a"), ("GET", "b"), ("GET", "d")]]
    assert [handle.result() for handle in handles] == [["OK a"], ["OK b"], ["OK c", "OK d"]]


def test_waiting_for_anything_but_the_server_is_an_error_of_its_own() -> None:
    async def wait(batch: Link) -> None:
        await asyncio.sleep(0)

    link = ScriptedLink()
    handles = sent(link, wait, lambda batch: ask(batch, "a"))
    assert isinstance(handles[0].error(), errors.Suspended)
    assert handles[1].result() == ["OK a"]


@pytest.mark.parametrize("retries", [(True, True), (True, False), (False, False)])
def test_a_step_is_repeated_only_if_all_of_it_may_be(retries: tuple[bool, bool]) -> None:
    link = ScriptedLink()
    sent(link, *(lambda batch, retry=retry: batch.execute("GET", "a", retry=retry) for retry in retries))
    assert link.fresh == [not all(retries)]


def test_a_link_that_fails_fails_the_batch_and_what_is_unfinished() -> None:
    link = ScriptedLink(fails_at=2)
    batch = BatchLink(link)
    one = batch.enlist(ask(batch, "a"))
    two = batch.enlist(ask(batch, "b", "c"))
    with pytest.raises(errors.Unavailable, match="may have been applied"):
        run(batch.send())
    assert one.result() == ["OK a"]
    assert isinstance(two.error(), errors.Unavailable)
    with pytest.raises(errors.Unavailable):
        two.result()


def test_a_link_that_fails_before_anything_was_sent_fails_all() -> None:
    class Dead(ScriptedLink):
        async def exchange(self, commands: Sequence[Command], *, fresh: bool) -> list[Reply]:
            raise Fault(ConnectionRefusedError("nobody there"), unsent=True)

    batch = BatchLink(Dead())
    handles = [batch.enlist(ask(batch, word)) for word in "ab"]
    with pytest.raises(errors.Unavailable):
        run(batch.send())
    assert [type(handle.error()) for handle in handles] == [errors.Unavailable] * 2


def test_a_batch_that_is_interrupted_before_anything_was_sent_drops_its_operations() -> None:
    class Interrupted(ScriptedLink):
        async def features(self) -> Features:
            raise asyncio.CancelledError

    batch = BatchLink(Interrupted())
    operation = ask(batch, "a")
    batch.enlist(operation)
    with pytest.raises(asyncio.CancelledError):
        run(batch.send())
    assert operation.cr_frame is None
    with warnings.catch_warnings(record=True) as never_awaited:
        del operation
        gc.collect()
    assert never_awaited == []
