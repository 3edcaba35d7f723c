"""Histories: order, numbers and bounds of what was said, in both flavours on every server."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redismem import AsyncHistoryStore, AsyncMemory, Durability, Memory, NewTurn, Turn
from redismem.codec import Codec
from redismem.errors import (
    ConfigError,
    EncodeError,
    InvalidKey,
    InvalidTTL,
    LimitExceeded,
    NotDurable,
    SchemaError,
    WrongType,
)
from redismem.link.base import Command, Link, Reply
from redismem.link.faults import Fault, NoScript
from tests.contract.flavours import SOON, Place, all_raise, eventually, on_real_servers, on_servers, results
from tests.contract.test_effects import link_of
from tests.contract.test_round_trips import Calls, behind_a_proxy
from tests.servers import NAMES

KEY = "redismem:user:{42}:history:default"


@pytest.fixture
def history(memory: AsyncMemory) -> AsyncHistoryStore:
    return memory.history


def said(*contents: str, **more: Any) -> list[NewTurn]:
    return [NewTurn(role="user", content=content, **more) for content in contents]


async def contents(history: AsyncHistoryStore, *args: Any, **options: Any) -> str:
    """What is said in the turns that are there, of one letter each."""
    return "".join(turn.content for turn in await history.turns("42", *args, **options))


def losing_replies(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """Every first reply of a script that the server has applied is lost. The calls."""
    exchange, calls = link.exchange, list[Command]()

    async def losing(commands: Sequence[Command], **options: Any) -> list[Reply]:
        replies = await exchange(commands, **options)
        if commands[-1][0] in ("EVALSHA", "EVAL") and not isinstance(replies[-1], NoScript):
            calls.append(commands[-1])
            if len(calls) % 2:
                raise Fault(ConnectionResetError("cut before the reply"), unsent=False)
        return replies

    monkeypatch.setattr(link, "exchange", losing)
    monkeypatch.setattr(link, "patience", type(link.patience)(backoff_base=0.0001, backoff_cap=0.001))
    return calls


@on_servers
async def test_what_was_said_comes_back(history: AsyncHistoryStore) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    about = {"model": "m", "parts": [1, None, b"\0"]}
    first = await history.append("42", "user", "Hi, ünïcode 🙂\0\n", metadata=about)
    second = await history.append("42", "assistant", "Hello", tokens=7)
    assert await history.turns("42") == [first, second]
    assert (first.number, first.role, first.content, first.metadata) == (1, "user", "Hi, ünïcode 🙂\0\n", about)
    assert first.tokens == math.ceil(len("Hi, ünïcode 🙂\0\n".encode()) / 4)
    assert (second.number, second.tokens, second.metadata) == (2, 7, {})
    assert before < first.at <= second.at < before + timedelta(minutes=2)
    assert await history.count("42") == 2
    assert await history.turns("43") == await history.turns("42", conversation="other") == []
    assert await history.count("43") == 0
    with pytest.raises(ValueError, match="frozen"):
        first.content = "Bye"  # type: ignore[misc]


@on_servers
async def test_many_turns_at_once(history: AsyncHistoryStore) -> None:
    await history.append("42", "user", "a")
    given = [NewTurn(role="tool", content="b", metadata={"x": 1}), {"role": "user", "content": "c", "tokens": 3}]
    appended = await history.extend("42", given)
    assert [(turn.number, turn.role, turn.content, turn.tokens) for turn in appended] == [
        (2, "tool", "b", 1),
        (3, "user", "c", 3),
    ]
    assert (await history.turns("42"))[1:] == appended
    assert await history.extend("42", []) == []
    assert [turn.number for turn in await history.extend("43", appended)] == [1, 2]
    assert [turn.tokens for turn in await history.turns("43")] == [1, 3]


@on_servers
async def test_what_is_read_may_be_bounded(history: AsyncHistoryStore) -> None:
    turns = await history.extend("42", said("a", "b", tokens=5) + said("c", "d", "e", tokens=10))
    assert await contents(history, 2) == "de"
    assert await contents(history, 9) == "abcde"
    assert await contents(history, since=2) == "cde"
    assert await contents(history, 1, since=2) == "e"
    assert await contents(history, since=0) == "abcde"
    assert await contents(history, since=5) == await contents(history, since=99) == ""
    assert await contents(history, since=turns[0].at) == "abcde"
    assert await contents(history, since=turns[0].at + timedelta(microseconds=1)) == ""
    assert await contents(history, since=datetime(1969, 1, 1, tzinfo=UTC)) == "abcde"
    assert await contents(history, max_tokens=9) == ""
    assert await contents(history, max_tokens=10) == "e"
    assert await contents(history, max_tokens=34) == "cde"
    assert await contents(history, max_tokens=35) == "bcde"
    assert await contents(history, 2, max_tokens=35) == "de"
    assert await contents(history, max_tokens=1000) == "abcde"


@on_servers
async def test_turns_since_a_time(history: AsyncHistoryStore) -> None:
    first = await history.append("42", "user", "a")

    async def later() -> bool:
        return (await history.append("42", "user", "b")).at > first.at

    await eventually(later)
    last = (await history.turns("42", 1))[0]
    found = await history.turns("42", since=last.at)
    assert found == [turn for turn in await history.turns("42") if turn.at >= last.at]
    assert 0 < len(found) < await history.count("42")


@on_servers
async def test_text_for_a_prompt(history: AsyncHistoryStore) -> None:
    assert await history.context_text("42") == ""
    await history.append("42", "user", "Hi", tokens=4)
    await history.append("42", "assistant", "Hello\nthere", tokens=4)
    assert await history.context_text("42") == "user: Hi\nassistant: Hello\nthere"
    assert await history.context_text("42", max_turns=1) == "assistant: Hello\nthere"
    assert await history.context_text("42", max_tokens=7) == "assistant: Hello\nthere"
    assert await history.context_text("42", max_tokens=8) == "user: Hi\nassistant: Hello\nthere"
    assert await history.context_text("42", max_tokens=3) == ""


@on_servers
async def test_the_oldest_turns_go(history: AsyncHistoryStore) -> None:
    for content in "abcde":
        await history.append("42", "user", content, max_turns=3)
    assert [(turn.number, turn.content) for turn in await history.turns("42")] == [(3, "c"), (4, "d"), (5, "e")]
    await history.extend("42", said(*"fghij"), max_turns=2)
    assert [turn.number for turn in await history.turns("42")] == [9, 10]
    assert (await history.append("42", "user", "k")).number == 11
    assert await contents(history) == "ijk"
    assert await contents(history, since=3) == "ijk"


@on_servers
async def test_bounds_are_exact(history: AsyncHistoryStore) -> None:
    size = len(Codec().encode("xxxx"))
    for number in range(10):
        await history.append("42", "user", "xxxx", max_bytes=3 * size, conversation="bytes")
        await history.append("42", "user", "xxxx", max_bytes=4 * size - 1, conversation="fewer")
        await history.append("42", "user", "xxxx", tokens=10, max_tokens=39, conversation="tokens")
        for conversation in ("bytes", "fewer", "tokens"):
            assert await history.count("42", conversation=conversation) == min(number + 1, 3)
    more = {"m": "x" * size}
    await history.append("42", "user", "", metadata=more, max_bytes=len(Codec().encode(more)) + 1, conversation="bytes")
    assert await history.count("42", conversation="bytes") == 1
    await all_raise(
        LimitExceeded,
        history.append("42", "user", "xxxx", max_bytes=size - 1),
        history.append("42", "user", "x", tokens=11, max_tokens=10),
        history.extend("42", said("x", "xxxx"), max_bytes=size - 1),
    )
    assert await history.count("42") == 0


@on_servers
async def test_bounds_of_the_settings(opened: Any, place: Place) -> None:
    history = opened(history_max_turns=3, history_max_tokens=100, history_ttl=100).history
    await history.extend("42", said(*"abcde", tokens=10))
    assert await contents(history) == "cde"
    await history.append("42", "user", "f", tokens=10, max_turns=2)
    assert await contents(history) == "ef"
    await history.append("42", "user", "g", tokens=95)
    assert await contents(history) == "g"
    with place.raw() as raw:
        assert 90_000 < raw.pttl(KEY) <= 100_000
        await history.append("42", "user", "h", ttl=None)
        assert raw.pttl(KEY) == -1


@on_servers
async def test_conversations(history: AsyncHistoryStore, place: Place) -> None:
    for conversation in ("b", "a b:*", "b", "default"):
        await history.append("42", "user", "x", conversation=conversation)
    await history.append("43", "user", "x", conversation="other")
    assert await history.conversations("42") == ["a b:*", "b", "default"]
    assert await history.clear("42", conversation="b") == 2
    assert await history.clear("42", conversation="b") == 0
    assert await history.conversations("42") == ["a b:*", "default"]
    assert await history.turns("42", conversation="b") == []
    assert (await history.append("42", "user", "x", conversation="b")).number == 1
    for conversation in await history.conversations("42"):
        assert await history.clear("42", conversation=conversation) > 0
    assert await history.clear("43", conversation="other") == 1
    assert [name for name in place.left_over() if not name.endswith(b":ops")] == []


@on_servers
async def test_a_conversation_that_is_there_is_listed_to_its_last_millisecond(history: AsyncHistoryStore) -> None:
    for _ in range(20):
        await history.append("42", "user", "x", ttl=0.02)
        listed, turns = await history.conversations("42"), await history.turns("42")
        while turns:
            assert listed == ["default"]
            listed, turns = await history.conversations("42"), await history.turns("42")


@on_servers
async def test_conversations_end(history: AsyncHistoryStore, place: Place) -> None:
    await history.append("42", "user", "x", conversation="brief", ttl=SOON)
    await history.append("42", "user", "x", conversation="long", ttl=100)
    with place.raw() as raw:
        assert 90_000 < raw.pttl("redismem:user:{42}:conversations") <= 100_000
    await history.append("42", "user", "x", conversation="long")
    assert await history.expire("42", 50, conversation="long")
    assert not await history.expire("42", 50, conversation="none")
    with place.raw() as raw:
        assert 40_000 < raw.pttl("redismem:user:{42}:history:long") <= 50_000

    async def is_over() -> bool:
        return await history.conversations("42") == ["long"]

    await eventually(is_over)
    assert await history.turns("42", conversation="brief") == []
    assert await history.expire("42", None, conversation="long")
    with place.raw() as raw:
        assert raw.pttl("redismem:user:{42}:history:long") == raw.pttl("redismem:user:{42}:conversations") == -1
        assert raw.zrange("redismem:user:{42}:conversations", 0, -1) == [b"long"]
    assert (await history.append("42", "user", "x", conversation="brief", ttl=SOON)).number == 1
    assert await history.expire("42", SOON, conversation="long")

    async def is_empty() -> bool:
        return not place.left_over()

    await eventually(is_empty)


@on_servers
async def test_in_a_batch(memory: AsyncMemory, history: AsyncHistoryStore) -> None:
    async with memory.batch() as batch:
        appended = [batch.history.append("42", "user", content) for content in "abc"]
        text = batch.history.context_text("42", max_turns=2)
        refused = batch.history.append("42", "", "x")
    assert [turn.number for turn in results(appended)] == [1, 2, 3]
    assert text.result() == "user: b\nuser: c"
    assert isinstance(refused.error(), SchemaError)
    assert await contents(history) == "abc"


@on_servers
async def test_an_append_whose_reply_is_lost_takes_place_once(
    memory: AsyncMemory, history: AsyncHistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = losing_replies(link_of(memory), monkeypatch)
    first = await history.append("42", "user", "a")
    more = await history.extend("42", said(*"bc"), max_turns=2)
    assert [turn.number for turn in (first, *more)] == [1, 2, 3]
    assert await history.turns("42") == more
    assert await history.clear("42") == 2
    assert len(calls) == 8


@on_servers
async def test_bad_input_is_refused_and_changes_nothing(history: AsyncHistoryStore, place: Place) -> None:
    wrong: Any = "two"
    wrong_content: Any = b"x"
    await all_raise(
        SchemaError,
        history.append("42", "", "x"),
        history.append("42", "x" * 101, "x"),
        history.append("42", "\ud800", "x"),
        history.append("42", "user", wrong_content),
        history.append("42", "user", "x", tokens=-1),
        history.extend("42", [*said("x"), {"role": "user"}]),
        history.extend("42", [{"role": "user", "content": "x", "name": "y"}]),
        history.extend("42", [wrong]),
    )
    await all_raise(
        InvalidKey,
        history.append("", "user", "x"),
        history.append("42", "user", "x", conversation=""),
        history.turns("x" * 600),
        history.conversations(""),
    )
    await all_raise(
        EncodeError,
        history.append("42", "user", "\ud800"),
        history.append("42", "user", "x", metadata={"x": object()}),
    )
    await all_raise(
        ConfigError,
        history.append("42", "user", "x", max_turns=0),
        history.turns("42", 0),
        history.turns("42", since=-1),
        history.turns("42", since=wrong),
        history.turns("42", since=datetime(2026, 1, 1)),
        history.context_text("42", max_tokens=-5),
    )
    await all_raise(InvalidTTL, history.append("42", "user", "x", ttl=0), history.expire("42", math.nan))
    assert place.left_over() == []


@on_servers
async def test_damage_hides_nothing_else(history: AsyncHistoryStore, place: Place) -> None:
    await history.append("42", "user", "a")
    with place.raw() as raw:
        damaged = {"role": "user", "content": b"\xc1", "tokens": "1", "before": "2 1"}
        for number, change in enumerate(({}, {"content": b"5"}), 2):
            raw.xadd(KEY, damaged | change, id=f"{number}-99999999999999")
        raw.xadd(KEY, damaged | {"content": b"\xa1x", "metadata": b"\xc1"}, id="4-99999999999999")
    found = await history.turns("42")
    assert [turn.content for turn in found] == ["a"]
    assert {number: error.key for number, error in found.unreadable.items()} == {
        number: f"{KEY}[{number}]" for number in (2, 3, 4)
    }
    assert (await history.append("42", "user", "b")).number == 5
    assert await history.context_text("42") == "user: a\nuser: b"
    with place.raw() as raw:
        raw.set("redismem:user:{43}:history:default", "x")
    await all_raise(WrongType, history.count("43"), history.append("43", "user", "x"), history.turns("43"))


@on_servers
async def test_the_time_never_goes_back(history: AsyncHistoryStore, place: Place) -> None:
    await history.append("42", "user", "a")
    with place.raw() as raw:
        ahead = {"role": "user", "content": b"\xa1b", "tokens": "1", "before": "2 1"}
        raw.xadd(KEY, ahead, id="2-99999999999999")
    assert (await history.append("42", "user", "c")).at == (await history.turns("42"))[1].at
    assert await contents(history, since=datetime(3000, 1, 1, tzinfo=UTC)) == "bc"


@on_real_servers
async def test_appends_wait_for_replicas_if_asked_to(history: AsyncHistoryStore) -> None:
    safe = Durability(replicas=1, timeout=0.01)
    await all_raise(
        NotDurable,
        history.append("42", "user", "x", durable=safe),
        history.extend("42", said("y"), durable=safe),
        history.expire("42", 100, durable=safe),
    )
    assert await history.count("42") == 2
    await all_raise(NotDurable, history.clear("42", durable=safe))


@on_real_servers
async def test_each_is_one_round_trip(place: Place) -> None:
    async with behind_a_proxy(place, history_max_turns=50, history_max_bytes=1000) as counted:
        history = counted.memory.history
        calls: Calls = {
            "append": lambda: history.append("42", "user", "x", ttl=100),
            "extend": lambda: history.extend("42", said(*"abcdefgh" * 20), max_tokens=30),
            "turns": lambda: history.turns("42"),
            "turns since": lambda: history.turns("42", 10, since=datetime.now(UTC) - timedelta(hours=1)),
            "context_text": lambda: history.context_text("42", max_tokens=10),
            "count": lambda: history.count("42"),
            "conversations": lambda: history.conversations("42"),
            "expire": lambda: history.expire("42", 100),
            "clear": lambda: history.clear("42"),
        }
        await counted.counts(calls)  # every script is there now
        assert await counted.counts(calls) == dict.fromkeys(calls, 1)


# --- against a list -------------------------------------------------------------------------------------------------

bounds = st.integers(1, 40) | st.none()
some_turns = st.lists(st.builds(NewTurn, role=st.just("user"), content=st.text(max_size=8), tokens=st.integers(0, 9)))
steps = st.lists(st.tuples(some_turns, bounds, bounds, bounds), max_size=8)


def fits(turns: Sequence[NewTurn], most: int | None, most_bytes: int | None, most_tokens: int | None) -> bool:
    """Whether these turns may be there together."""
    return (
        (most is None or len(turns) <= most)
        and (most_bytes is None or sum(len(Codec().encode(turn.content)) for turn in turns) <= most_bytes)
        and (most_tokens is None or sum(turn.tokens or 0 for turn in turns) <= most_tokens)
    )


def take(history: Any, model: list[Turn], turns: list[NewTurn], limits: tuple[int | None, ...]) -> None:
    """The same step in both."""
    options: Any = dict(zip(("max_turns", "max_bytes", "max_tokens"), limits, strict=True))
    if not all(fits([turn], *limits) for turn in turns):
        with pytest.raises(LimitExceeded):
            history.extend("42", turns, **options)
        return
    model += history.extend("42", turns, **options)
    while turns and not fits(model, *limits):
        del model[0]


@pytest.mark.parametrize("name", NAMES)
def test_as_a_list_would(name: str, shared_server: Any) -> None:
    @settings(max_examples=40)
    @given(steps, bounds, bounds, st.integers(0, 30))
    def run(steps: Any, last: int | None, max_tokens: int | None, since: int) -> None:
        history.clear("42")
        model: list[Turn] = []
        for turns, *limits in steps:
            take(history, model, turns, tuple(limits))
            assert history.turns("42") == model
        wanted = [turn for turn in model if turn.number > since]
        while wanted and not fits(wanted, last, None, max_tokens):
            del wanted[0]
        assert history.turns("42", last, since=since, max_tokens=max_tokens) == wanted

    with Memory(shared_server(name).url) as memory:
        history = memory.history
        run()
