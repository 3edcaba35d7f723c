"""What a thread does while the server answers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redismem import Memory, errors
from redismem.link.base import Link
from redismem.op import run
from tests.servers import Server


@pytest.fixture
def link(valkey: Server) -> Iterator[Link]:
    with Memory(valkey.url) as memory:
        run(memory._link.execute("PING"))
        yield memory._link


def ask(link: Link, *command: str, meanwhile: Callable[[], None] | None = None) -> Any:
    with link.meanwhile(meanwhile):
        return run(link.execute(*command))


def test_work_is_done_once_between_question_and_answer(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[str]()
    send, receive = link.send, link.receive  # type: ignore[attr-defined]
    monkeypatch.setattr(link, "send", lambda *given: (steps.append("send"), send(*given)))
    monkeypatch.setattr(link, "receive", lambda *given, **how: (steps.append("receive"), receive(*given, **how))[1])
    with link.meanwhile(lambda: steps.append("work")):
        assert [run(link.execute("ECHO", word)) for word in "ab"] == [b"a", b"b"]
    assert ask(link, "ECHO", "c") == b"c"
    assert steps == ["send", "work", "receive", *["send", "receive"] * 2]


def test_calls_in_between_get_their_own_answers(link: Link) -> None:
    got = list[Any]()

    def work() -> None:
        got.append(ask(link, "ECHO", "x", meanwhile=lambda: got.append(ask(link, "ECHO", "inner"))))

    assert [ask(link, "ECHO", word, meanwhile=work) for word in "ab"] == [b"a", b"b"]
    assert got == [b"inner", b"x"] * 2
    assert len([one for one in link._connections if one.is_connected]) == 1  # type: ignore[attr-defined]


def test_what_work_raises_is_the_calls_and_costs_a_connection(link: Link) -> None:
    def work() -> None:
        raise errors.SchemaError("no")

    with pytest.raises(errors.SchemaError):
        ask(link, "ECHO", "lost", meanwhile=work)
    assert ask(link, "ECHO", "b") == b"b"


def test_work_of_a_block_without_a_call_is_not_done_later(link: Link) -> None:
    done = list[int]()
    with link.meanwhile(lambda: done.append(1)):
        pass
    assert ask(link, "ECHO", "a") == b"a"
    assert done == []
