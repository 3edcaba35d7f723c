"""Transactions on every server, in both flavours: all or nothing, and only if what was read is still so."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from redismem import KEEP_TTL, AsyncMemory, AsyncSessionStore, Memory, SessionStore
from redismem.coordination.fence import Fence
from redismem.coordination.transaction import VERBS, ReadLink
from redismem.durability import Durability
from redismem.errors import (
    Conflict,
    EncodeError,
    InvalidKey,
    InvalidTTL,
    LimitExceeded,
    NotDurable,
    NotReady,
    OwnerMismatch,
    PartitionMismatch,
    RedisMemError,
    StaleFence,
    Suspended,
    WrongType,
)
from redismem.link.features import ExpiryTier
from redismem.op import run
from redismem.scripts import script
from tests.contract.flavours import (
    SOON,
    Awaited,
    Place,
    all_raise,
    eventually,
    gone,
    on_real_servers,
    on_servers,
    on_valkey,
    once_on_each_server,
    results,
)
from tests.servers import Server

READS = ("load", "load_many", "get_all", "ttl", "info", "namespaces")


class AwaitedAttempt:
    """What the block of a blocking transaction gets, with reads that are awaited."""

    def __init__(self, attempt: Any) -> None:
        self.sessions = Awaited(attempt.sessions)
        for name in (*VERBS, "save_many"):
            setattr(self.sessions, name, getattr(attempt.sessions, name))


class AwaitedTransaction:
    """A blocking transaction with the surface of an asyncio one."""

    def __init__(self, blocking: Any) -> None:
        self.blocking = blocking

    async def __aenter__(self) -> AwaitedAttempt:
        return AwaitedAttempt(self.blocking.__enter__())

    async def __aexit__(self, *error: Any) -> None:
        self.blocking.__exit__(*error)

    async def run(self, fn: Callable[[Any], Awaitable[Any]]) -> Any:
        return self.blocking.run(lambda attempt: run(fn(AwaitedAttempt(attempt))))  # type: ignore[arg-type]


def transaction(memory: AsyncMemory, *ids: str, **options: Any) -> Any:
    """A transaction of either flavour, to be awaited."""
    blocking = getattr(memory, "blocking", None)
    if blocking is None:
        return memory.transaction(*ids, **options)
    return AwaitedTransaction(blocking.transaction(*ids, **options))


async def once(memory: AsyncMemory, work: Callable[[Any], Awaitable[Any]]) -> None:
    """One attempt at a transaction on "s"."""
    async with transaction(memory, "s") as t:
        await work(t.sessions)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """EXEC can never tell, so every transaction ends by comparing."""

    async def aborted(*_: Any) -> None:
        return None

    monkeypatch.setattr(ReadLink, "apply", aborted)


def content(place: Place) -> dict[bytes, Any]:
    """All that is on the server."""
    with place.raw() as raw:
        return {name: raw.hgetall(name) if raw.type(name) == b"hash" else raw.zrange(name, 0, -1, withscores=True)
                for name in raw.scan_iter() if raw.exists(name)}  # fmt: skip


def deadlines(place: Place) -> dict[bytes, float]:
    """When every key and, where the server expires fields, every field ends: milliseconds; -1: never."""
    found: dict[bytes, float] = {}
    with place.raw() as raw:
        for name in content(place):
            found[name] = _moment(raw.pttl(name))
            for field in raw.hkeys(name) if raw.type(name) == b"hash" else ():
                try:
                    (left,) = raw.execute_command("HPTTL", name, "FIELDS", 1, field)
                except redis.ResponseError:
                    continue
                found[name + b" " + field] = _moment(left)
    return found


def _moment(left_ms: int) -> float:
    return left_ms if left_ms < 0 else time.time() * 1000 + left_ms


# --- what it does ---------------------------------------------------------------------------------------------------


@on_servers
async def test_reads_answer_at_once_and_writes_at_the_end(memory: AsyncMemory) -> None:
    sessions = memory.sessions
    await sessions.save_many("s", "n", {"a": 1, "b": [2], "gone": "x"}, ttl=100)
    async with transaction(memory, "s") as t:
        assert await t.sessions.load("s", "n", "a") == 1
        assert await t.sessions.load("s", "n", "missing", "default") == "default"
        assert await t.sessions.load_many("s", "n", ["a", "b", "missing"]) == {"a": 1, "b": [2]}
        assert await t.sessions.get_all("s", "n") == {"a": 1, "b": [2], "gone": "x"}
        assert await t.sessions.ttl("s", "n", "a") == pytest.approx(100, abs=5)
        assert await t.sessions.namespaces("s") == ["n"]
        assert (await t.sessions.info("s")).namespaces == ("n",)
        handles = [
            t.sessions.save("s", "n", "a", {"v": 1}, KEEP_TTL),
            t.sessions.save_many("s", "m", {"k": 1, "l": 2}, ttl=50),
            t.sessions.save_many("s", "m", {}),
            t.sessions.increment("s", "usage", "tokens", 312),
            t.sessions.increment("s", "usage", "tokens", ttl=50),
            t.sessions.delete("s", "n", "gone"),
            t.sessions.delete("s", "n", "gone"),
            t.sessions.expire("s", "n", "b", 10),
            t.sessions.expire("s", "n", "missing", 10),
        ]
        assert await t.sessions.load("s", "n", "a") == 1, "reads do not see what is queued"
        assert await sessions.load("s", "m", "k") is None
        with pytest.raises(NotReady):
            handles[0].result()
    assert results(handles) == [None, None, None, 312, 313, True, False, True, False]
    assert await sessions.get_all("s", "n") == {"a": {"v": 1}, "b": [2]}
    assert await sessions.get_all("s", "m") == {"k": 1, "l": 2}
    assert await sessions.ttl("s", "n", "a") == pytest.approx(100, abs=5)
    assert await sessions.ttl("s", "n", "b") == pytest.approx(10, abs=5)
    assert await sessions.ttl("s", "usage", "tokens") == pytest.approx(50, abs=5)
    assert (await sessions.info("s")).namespaces == ("m", "n", "usage")


@on_servers
async def test_run_gives_what_the_function_gives(memory: AsyncMemory) -> None:
    async def move(t: Any) -> Any:
        left = await t.sessions.load("s", "from", "tokens") - 30
        t.sessions.save("s", "from", "tokens", left)
        return left, t.sessions.increment("s", "to", "tokens", 30)

    await memory.sessions.save("s", "from", "tokens", 100)
    left, handle = await transaction(memory, "s").run(move)
    assert (left, handle.result()) == (70, 30)
    assert await memory.sessions.load("s", "from", "tokens") == 70


@on_servers
async def test_an_exception_in_the_block_discards_everything(memory: AsyncMemory) -> None:
    async def fail(sessions: Any) -> None:
        assert await sessions.load("s", "n", "k") == 1
        handles.append(sessions.save("s", "n", "k", 2))
        raise ZeroDivisionError

    handles: list[Any] = []
    await memory.sessions.save("s", "n", "k", 1)
    with pytest.raises(ZeroDivisionError):
        await once(memory, fail)
    with pytest.raises(ZeroDivisionError):
        await transaction(memory, "s").run(lambda t: fail(t.sessions))
    assert [handle.done() for handle in handles] == [False, False]
    assert await memory.sessions.load("s", "n", "k") == 1


@on_servers
async def test_wrong_input_is_raised_where_it_is_given(memory: AsyncMemory) -> None:
    async with transaction(memory, "s") as t:
        await all_raise(InvalidKey, *(t.sessions.load("s", "n", key) for key in ("", 1)))
        for call, kind in (
            (lambda: t.sessions.save("s", "n", "", 1), InvalidKey),
            (lambda: t.sessions.save("s", "n", "k", object()), EncodeError),
            (lambda: t.sessions.save("s", "n", "k", 1, ttl=-1), InvalidTTL),
            (lambda: t.sessions.increment("s", "n", "k", 2**64), LimitExceeded),
        ):
            with pytest.raises(kind):
                call()
    assert await memory.sessions.namespaces("s") == []


@on_servers
async def test_outside_its_block_a_transaction_takes_no_calls(memory: AsyncMemory) -> None:
    async with transaction(memory, "s") as t:
        pass
    with pytest.raises(NotReady):
        await t.sessions.load("s", "n", "k")
    with pytest.raises(NotReady):
        t.sessions.save("s", "n", "k", 1)


@on_servers
async def test_nothing_in_it_is_nothing_sent(memory: AsyncMemory) -> None:
    await memory.sessions.load("s", "n", "k")
    before = memory.stats()
    async with transaction(memory, "s"):
        pass
    assert memory.stats() == before


@on_servers
async def test_round_trips(memory: AsyncMemory, rival: SessionStore) -> None:
    """One for each read, one for the end, one more where EXEC aborts."""

    async def work(t: Any) -> None:
        await t.sessions.load("s", "n", "k")
        await t.sessions.get_all("s", "m")
        t.sessions.save("s", "n", "k", 1)
        t.sessions.increment("s", "m", "k")

    await transaction(memory, "s").run(work)
    before = memory.stats().round_trips
    await transaction(memory, "s").run(work)
    assert memory.stats().round_trips - before == 3
    async with transaction(memory, "s") as t:
        await work(t)
        rival.save("s", "n", "other", 1)
    assert memory.stats().round_trips - before == 7
    async with transaction(memory, "s") as t:
        t.sessions.save("s", "n", "k", 1)
    assert memory.stats().round_trips - before == 8


# --- partitions -----------------------------------------------------------------------------------------------------


@on_servers
async def test_one_id_is_a_partition(memory: AsyncMemory) -> None:
    await memory.sessions.load("s", "n", "k")
    before = memory.stats()
    for ids in (("s", "t"), ("s", "s", "t"), ()):
        with pytest.raises(PartitionMismatch):
            transaction(memory, *ids)
    for ids in (("",), ("s", ""), (1,), ("x" * 600,)):
        with pytest.raises(InvalidKey):
            transaction(memory, *ids)
    async with transaction(memory, "s", "s") as t:
        await all_raise(
            PartitionMismatch,
            t.sessions.load("t", "n", "k"),
            t.sessions.load_many("t", "n", ["k"]),
            t.sessions.get_all("t", "n"),
            t.sessions.ttl("t", "n", "k"),
            t.sessions.info("t"),
        )
        for call in (
            lambda: t.sessions.save("t", "n", "k", 1),
            lambda: t.sessions.save_many("t", "n", {"k": 1}),
            lambda: t.sessions.delete("t", "n", "k"),
            lambda: t.sessions.increment("t", "n", "k"),
            lambda: t.sessions.expire("t", "n", "k", 1),
        ):
            with pytest.raises(PartitionMismatch, match="'s' and cannot reach 't'"):
                call()
    assert memory.stats() == before, "nothing was sent"


@on_servers
async def test_ids_that_need_encoding(memory: AsyncMemory) -> None:
    for session_id in ("a b", "}:{", "ä", "*"):
        async with transaction(memory, session_id) as t:
            assert await t.sessions.get_all(session_id, "n:x") == {}
            t.sessions.save(session_id, "n:x", "k", 1)
        assert await memory.sessions.load(session_id, "n:x", "k") == 1


# --- conflicts ------------------------------------------------------------------------------------------------------

Read = Callable[[Any], Awaitable[Any]]
Change = Callable[[SessionStore], Any]

CONFLICTS: dict[str, tuple[Read, Change]] = {
    "load": (lambda s: s.load("s", "n", "k"), lambda s: s.save("s", "n", "k", 2)),
    "load, deleted": (lambda s: s.load("s", "n", "k"), lambda s: s.delete("s", "n", "k")),
    "load, created": (lambda s: s.load("s", "n", "new"), lambda s: s.save("s", "n", "new", None)),
    "load, of a new session": (lambda s: s.load("s", "x", "new"), lambda s: s.save("s", "x", "new", 1)),
    "load, ended": (lambda s: s.load("s", "n", "k"), lambda s: s.end("s")),
    "load_many": (lambda s: s.load_many("s", "n", ["k", "new"]), lambda s: s.save("s", "n", "new", 2)),
    "get_all": (lambda s: s.get_all("s", "n"), lambda s: s.increment("s", "n", "k")),
    "get_all, created": (lambda s: s.get_all("s", "n"), lambda s: s.save("s", "n", "new", 2)),
    "get_all, deleted": (lambda s: s.get_all("s", "n"), lambda s: s.delete("s", "n", "l")),
    "get_all, deleted before its end": (lambda s: s.get_all("s", "n"), lambda s: s.delete("s", "n", "timed")),
    "ttl": (lambda s: s.ttl("s", "n", "k"), lambda s: s.expire("s", "n", "k", 100)),
    "ttl, other": (lambda s: s.ttl("s", "n", "timed"), lambda s: s.expire("s", "n", "timed", 200)),
    "ttl, none": (lambda s: s.ttl("s", "n", "timed"), lambda s: s.expire("s", "n", "timed", None)),
    "ttl, created": (lambda s: s.ttl("s", "n", "new"), lambda s: s.save("s", "n", "new", 1)),
    "info": (lambda s: s.info("s"), lambda s: s.save("s", "new", "k", 1)),
    "info, deleted": (lambda s: s.info("s"), lambda s: s.delete("s", "m", "k")),
    "info, ended": (lambda s: s.info("s"), lambda s: s.end("s")),
    "info, created": (lambda s: s.info("s"), lambda s: (s.end("s"), time.sleep(0.002), s.save("s", "n", "k", 1))),
    "info, owned": (lambda s: s.info("s"), lambda s: s.save("s", "n", "k", 1, user_id="ann")),
    "namespaces": (lambda s: s.namespaces("s"), lambda s: s.save("s", "new", "k", 1)),
    "owner": (lambda s: s.load("s", "m", "k", user_id="u"), lambda s: s.save("s", "m", "k", 9, user_id="u")),
}
HARMLESS: dict[str, tuple[Read, Change]] = {
    "another key": (lambda s: s.load("s", "n", "k"), lambda s: s.save("s", "n", "other", 2)),
    "another namespace": (lambda s: s.get_all("s", "n"), lambda s: s.save("s", "m", "k", 2)),
    "another session": (lambda s: s.get_all("s", "n"), lambda s: s.save("t", "n", "k", 2)),
    "the same value": (lambda s: s.load("s", "n", "k"), lambda s: s.save("s", "n", "k", 1, ttl=100)),
    "there and back": (
        lambda s: s.load("s", "n", "k"),
        lambda s: (s.increment("s", "n", "k"), s.save("s", "n", "k", 1)),
    ),
    "another TTL": (lambda s: s.get_all("s", "n"), lambda s: s.expire("s", "n", "k", 100)),
    "a key without TTL": (lambda s: s.ttl("s", "n", "timed"), lambda s: s.save("s", "n", "k", 2)),
    "activity": (lambda s: s.info("s"), lambda s: s.touch("s", 100)),
    "nothing read": (lambda s: asyncio.sleep(0), lambda s: s.end("s")),
}


@once_on_each_server
@pytest.mark.parametrize("case", CONFLICTS)
async def test_what_was_read_may_not_change(case: str, place: Place, memory: AsyncMemory, rival: SessionStore) -> None:
    async def only_read(sessions: Any) -> None:
        await read(sessions)
        change(rival)

    async def write_too(sessions: Any) -> None:
        await only_read(sessions)
        sessions.save("s", "written", "k", 1)

    read, change = CONFLICTS[case]
    if case.startswith("ttl") and place.server is not None and place.server.process is None:
        pytest.skip("to fakeredis a new TTL is no change of a watched key")
    for work in (only_read, write_too):
        await memory.sessions.end("s")
        await prepare(memory.sessions)
        with pytest.raises(Conflict, match="'s'"):
            await once(memory, work)
        assert await memory.sessions.load("s", "written", "k") is None


async def prepare(sessions: AsyncSessionStore) -> None:
    await sessions.save_many("s", "n", {"k": 1, "l": 1})
    await sessions.save("s", "n", "timed", 1, ttl=100)
    await sessions.save("s", "m", "k", 1)


@once_on_each_server
@pytest.mark.parametrize("case", HARMLESS)
async def test_what_was_not_read_may(case: str, memory: AsyncMemory, rival: SessionStore) -> None:
    read, change = HARMLESS[case]
    await prepare(memory.sessions)
    async with transaction(memory, "s") as t:
        await read(t.sessions)
        change(rival)
        t.sessions.save("s", "written", "k", 1)
    assert await memory.sessions.load("s", "written", "k") == 1


@on_servers
async def test_comparing_tells_what_is_the_same(memory: AsyncMemory, compared: None) -> None:
    sessions = memory.sessions
    values = {f"k{i}": bytes([i]) * i for i in range(200)} | {"empty": b"", "none": None, "zero": 0}
    await sessions.save_many("s", "n", values, user_id="u")
    await sessions.save_many("s", "timed", {"a": 1, "b": 2}, ttl=100)

    async def everything(t: Any) -> None:
        assert await t.sessions.get_all("s", "n", user_id="u") == values
        assert await t.sessions.get_all("s", "timed") == {"a": 1, "b": 2}
        assert await t.sessions.get_all("s", "missing") == {}
        assert await t.sessions.load("s", "n", "empty", user_id="u") == b""
        assert await t.sessions.load_many("s", "n", ["none", "missing", "k7"]) == {"none": None, "k7": values["k7"]}
        assert await t.sessions.ttl("s", "timed", "a", user_id="u") is not None
        assert await t.sessions.ttl("s", "n", "zero") is None
        assert await t.sessions.ttl("s", "n", "missing") is None
        assert (await t.sessions.info("s", user_id="u")).user_id == "u"
        assert await t.sessions.info("s") is not None
        t.sessions.increment("s", "n", "counted")

    for _ in range(3):
        await transaction(memory, "s", attempts=1).run(everything)
        values["counted"] = values.get("counted", 0) + 1
    with pytest.raises(OwnerMismatch):
        async with transaction(memory, "s") as t:
            await t.sessions.load("s", "n", "zero", user_id="v")
    async with transaction(memory, "nobody") as t:
        assert await t.sessions.info("nobody") is None
        t.sessions.save("nobody", "n", "k", 1)
    assert await sessions.load("nobody", "n", "k") == 1


@on_servers
async def test_run_starts_over_until_nobody_interferes(memory: AsyncMemory, rival: SessionStore) -> None:
    calls = 0

    async def work(t: Any) -> int:
        nonlocal calls
        calls += 1
        found = await t.sessions.load("s", "n", "k", 0)
        if calls < 4:
            rival.increment("s", "n", "k")
        t.sessions.save("s", "n", "k", found + 100)
        return found

    assert await transaction(memory, "s").run(work) == 3
    assert calls == 4
    assert await memory.sessions.load("s", "n", "k") == 103


@on_servers
async def test_run_gives_up(opened: Callable[..., AsyncMemory], place: Place) -> None:
    memory = opened(update_attempts=3)
    rival, calls = place.open_rival(memory), 0

    async def work(t: Any) -> None:
        nonlocal calls
        calls += 1
        await t.sessions.load("s", "n", "k")
        rival.increment("s", "n", "k")
        t.sessions.save("s", "n", "k", -1)

    with pytest.raises(Conflict, match=r"at every attempt \(3\)"):
        await transaction(memory, "s").run(work)
    with pytest.raises(Conflict):
        await transaction(memory, "s", attempts=2).run(work)
    assert calls == 5
    assert await memory.sessions.load("s", "n", "k") == 5
    rival.close()


@on_servers
async def test_it_may_conflict_with_its_own_memory(memory: AsyncMemory) -> None:
    async def work(sessions: Any) -> None:
        await sessions.load("s", "n", "k")
        await memory.sessions.save("s", "n", "k", 1)
        sessions.save("s", "n", "k", 2)

    with pytest.raises(Conflict):
        await once(memory, work)


# --- refusals -------------------------------------------------------------------------------------------------------

Write = Callable[[Any], Any]

REFUSALS: dict[str, tuple[type[RedisMemError], Write]] = {
    "not an integer": (WrongType, lambda s: s.increment("s", "n", "text")),
    "made no integer": (WrongType, lambda s: (s.save("s", "n", "int", "x"), s.increment("s", "n", "int"))),
    "overflow": (LimitExceeded, lambda s: (s.save("s", "n", "int", 2**63 - 1), s.increment("s", "n", "int"))),
    "owner": (OwnerMismatch, lambda s: s.save("s", "n", "text", 1, user_id="bob")),
    "keys": (LimitExceeded, lambda s: [s.save("s", "n", f"{i}", 1) for i in range(5)]),
    "namespaces": (LimitExceeded, lambda s: [s.save("s", f"{i}", "k", 1) for i in range(5)]),
}


@once_on_each_server
@pytest.mark.parametrize("reads", [True, False], ids=["with reads", "without"])
@pytest.mark.parametrize("case", REFUSALS)
async def test_one_refused_write_undoes_all(
    case: str, reads: bool, place: Place, opened: Callable[..., AsyncMemory]
) -> None:
    async def work(s: Any) -> None:
        if reads:
            await s.get_all("s", "timed")
        handles.extend(
            (
                s.save("s", "n", "int", [1]),
                s.save("s", "n", "int", 8, ttl=1000),
                s.increment("s", "n", "int"),
                s.increment("s", "n", "added", 5, ttl=5000),
                s.save("s", "timed", "a", 1),
                s.expire("s", "timed", "c", 1),
                s.expire("s", "timed", "b", None),
                s.delete("s", "single", "k"),
                s.save_many("s", "new", {"k": 1, "l": 1}, ttl=1000),
                s.delete("s", "new", "l"),
                s.delete("s", "n", "added"),
            )
        )
        refused(s)
        handles.append(s.delete("s", "n", "text"))

    handles: list[Any] = []
    memory = opened(max_fields=5, max_namespaces=5)
    sessions = memory.sessions
    await sessions.save_many("s", "n", {"int": 7, "text": "x"}, user_id="ann")
    await sessions.save_many("s", "timed", {"a": 1, "b": 2}, ttl=100)
    await sessions.save("s", "timed", "c", 3, ttl=200)
    await sessions.save("s", "single", "k", 3, ttl=300)
    there, ends = content(place), deadlines(place)
    kind, refused = REFUSALS[case]
    with pytest.raises(kind):
        await once(memory, work)
    assert content(place) == there
    assert deadlines(place) == pytest.approx(ends, abs=5000)
    assert not any(handle.done() for handle in handles)


@on_servers
async def test_a_limit_counts_what_the_transaction_itself_does(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(max_fields=2, max_namespaces=2)
    await memory.sessions.save_many("s", "n", {"a": 1, "b": 1})
    await memory.sessions.save("s", "m", "a", 1)
    async with transaction(memory, "s") as t:
        t.sessions.delete("s", "n", "a")
        t.sessions.save("s", "n", "c", 1)
        t.sessions.delete("s", "m", "a")
        t.sessions.save("s", "o", "a", 1)
    assert await memory.sessions.get_all("s", "n") == {"b": 1, "c": 1}
    assert await memory.sessions.namespaces("s") == ["n", "o"]


@on_servers
async def test_namespaces_that_hold_nothing_do_not_count(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(max_namespaces=2)
    await memory.sessions.save("s", "n", "k", 1)
    await memory.sessions.save("s", "brief", "k", 1, ttl=SOON)
    await gone(memory.sessions, "k", namespace="brief")
    async with transaction(memory, "s") as t:
        assert await t.sessions.load("s", "n", "k") == 1
        saved = t.sessions.save("s", "o", "k", 1), t.sessions.increment("s", "n", "k")
    assert results(list(saved)) == [None, 2]
    assert await memory.sessions.namespaces("s") == ["n", "o"]

    async def too_many(sessions: Any) -> None:
        sessions.increment("s", "n", "k")
        sessions.save("s", "third", "k", 1)

    with pytest.raises(LimitExceeded):
        await once(memory, too_many)
    assert await memory.sessions.load("s", "n", "k") == 2


# --- sessions as a whole --------------------------------------------------------------------------------------------


@on_servers
async def test_writes_extend_the_session_with_all_its_namespaces(
    opened: Callable[..., AsyncMemory], rival: SessionStore
) -> None:
    memory = opened(session_ttl=100)
    await memory.sessions.save("s", "n", "k", 1)
    rival.save("s", "unknown", "k", 1)
    rival.touch("s", 1)
    async with transaction(memory, "s") as t:
        assert await t.sessions.load("s", "n", "k") == 1
        t.sessions.save("s", "m", "k", 1)
    for namespace in ("n", "m", "unknown"):
        assert await memory.sessions.ttl("s", namespace, "k") == pytest.approx(100, abs=10)
    assert (await memory.sessions.info("s")).ttl == pytest.approx(100, abs=10)


@on_servers
async def test_reads_do_not_extend_it(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(session_ttl=100, refresh_on_read=True)
    await memory.sessions.save("s", "n", "k", 1)
    await memory.sessions.touch("s", 50)
    async with transaction(memory, "s") as t:
        assert await t.sessions.load("s", "n", "k") == 1
        assert (await t.sessions.info("s")).ttl < 60


# --- what else writes and reads have --------------------------------------------------------------------------------


@on_servers
async def test_l1_hears_of_the_writes_and_is_not_asked(opened: Callable[..., AsyncMemory], place: Place) -> None:
    memory = opened(coherence="ttl")
    await memory.sessions.save("s", "n", "k", 1)
    assert await memory.sessions.load("s", "n", "k") == 1
    with place.raw() as raw:
        raw.hset("redismem:session:{s}:ns:n", "k", 2)
    assert await memory.sessions.load("s", "n", "k") == 1, "L1 says so"
    async with transaction(memory, "s") as t:
        assert await t.sessions.load("s", "n", "k") == 2
        t.sessions.increment("s", "n", "k")
        t.sessions.save("s", "m", "k", 1)
    assert await memory.sessions.load("s", "n", "k") == 3
    assert await memory.sessions.load("s", "m", "k") == 1


@on_servers
async def test_a_stale_fence_undoes_all(memory: AsyncMemory) -> None:
    async def work(sessions: Any) -> None:
        sessions.save("s", "n", "k", "stale")
        sessions.increment("s", "n", "count", fence=earlier)

    earlier, later = Fence("redismem:user:{u}:lock", 7), Fence("redismem:user:{u}:lock", 8)
    async with transaction(memory, "s") as t:
        t.sessions.save("s", "n", "k", "fresh", fence=later)
        count = t.sessions.increment("s", "n", "count", fence=later)
    assert count.result() == 1
    with pytest.raises(StaleFence):
        await once(memory, work)
    assert await memory.sessions.get_all("s", "n") == {"k": "fresh", "count": 1}


@on_valkey
@pytest.mark.parametrize("reads", [True, False], ids=["with reads", "without"])
async def test_what_is_not_confirmed_is_applied_all_the_same(memory: AsyncMemory, reads: bool) -> None:
    async def work(sessions: Any) -> None:
        if reads:
            await sessions.load("s", "n", "k")
        handles.append(sessions.save("s", "n", "k", 1, durable=Durability(replicas=1, timeout=0.01)))
        handles.append(sessions.increment("s", "n", "count"))

    handles: list[Any] = []
    with pytest.raises(NotDurable):
        await once(memory, work)
    assert isinstance(handles[0].error(), NotDurable)
    assert handles[1].result() == 1
    assert await memory.sessions.get_all("s", "n") == {"k": 1, "count": 1}


# --- many at once ---------------------------------------------------------------------------------------------------


def add_one(t: Any) -> None:
    t.sessions.save("s", "a", "k", t.sessions.load("s", "a", "k", 0) + 1)
    t.sessions.save("s", "b", "k", t.sessions.load("s", "b", "k", 0) + 1)


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_threads_lose_nothing(server: Server) -> None:
    with Memory(server.url, update_attempts=1000) as memory, ThreadPoolExecutor(8) as pool:
        unit = memory.transaction("s")
        for done in [pool.submit(unit.run, add_one) for _ in range(100)]:
            done.result()
        assert memory.sessions.load("s", "a", "k") == memory.sessions.load("s", "b", "k") == 100


@pytest.mark.parametrize("server", ["valkey9", "redis62", "fakeredis"], indirect=True)
async def test_tasks_lose_nothing(server: Server) -> None:
    async with AsyncMemory(server.url, update_attempts=1000) as memory:

        async def add_one(t: Any) -> None:
            a, b = await asyncio.gather(t.sessions.load("s", "a", "k", 0), t.sessions.load("s", "b", "k", 0))
            t.sessions.save("s", "a", "k", a + 1)
            t.sessions.save("s", "b", "k", b + 1)

        await asyncio.gather(*(memory.transaction("s").run(add_one) for _ in range(50)))
        assert await memory.sessions.load("s", "a", "k") == await memory.sessions.load("s", "b", "k") == 50


def test_a_blocking_transaction_takes_plain_functions(valkey: Server) -> None:
    async def wait(t: Any) -> None:
        t.sessions.save("s", "n", "k", 1)
        await asyncio.sleep(0)

    with Memory(valkey.url) as memory:
        with pytest.raises(Suspended):
            memory.transaction("s").run(wait)
        assert memory.sessions.load("s", "n", "k") is None


@on_valkey
async def test_connections_go_back(place: Place, memory: AsyncMemory) -> None:
    async def work(t: Any) -> None:
        t.sessions.save("s", "n", "k", await t.sessions.load("s", "n", "k", 0) + 1)

    async def fail(t: Any) -> None:
        await work(t)
        raise ZeroDivisionError

    for _ in range(20):
        await transaction(memory, "s").run(work)
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            await transaction(memory, "s").run(fail)

    async def few() -> bool:
        with place.raw() as raw:
            return len(raw.client_list()) <= 4

    await eventually(few)


@on_real_servers
async def test_many_keys_and_large_values(memory: AsyncMemory, rival: SessionStore) -> None:
    many = {f"k{i}": i for i in range(20_000)}
    async with transaction(memory, "s") as t:
        t.sessions.save_many("s", "n", many, ttl=1000)
        t.sessions.save("s", "m", "k", b"x" * 1_000_000)
    async with transaction(memory, "s") as t:
        assert await t.sessions.get_all("s", "n") == many
        assert await t.sessions.load("s", "m", "k") == b"x" * 1_000_000
        rival.save("s", "m", "other", 1)
        t.sessions.increment("s", "n", "k1")
    assert await memory.sessions.load("s", "n", "k1") == 2


@pytest.mark.parametrize("tier", ExpiryTier)
def test_every_change_of_a_verb_can_be_undone(tier: ExpiryTier) -> None:
    """The script refuses commands that it knows nothing of; this finds them before a server does."""
    source = script("transaction", tier).source
    known = source[source.index("local changes") : source.index("local touched")]
    for verb in VERBS:
        for command in {word for word in _words(script(verb, tier).source) if word.isupper()}:
            assert f"{command} = " in known, f"{verb} calls {command}"


def _words(source: str) -> list[str]:
    return [part.split("'")[1] for part in source.split("call(")[1:] if part.startswith("'")]
