"""Threads: checkpoints of whole states, in both flavours on every server."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from redismem import AsyncMemory, AsyncThreadStore, Durability, Written
from redismem.errors import (
    ConfigError,
    Conflict,
    DecodeError,
    EncodeError,
    InvalidKey,
    InvalidTTL,
    NotDurable,
    SchemaError,
)
from redismem.stores.plain import plain
from tests.contract.flavours import SOON, Place, all_raise, eventually, on_real_servers, on_servers, results
from tests.contract.test_effects import link_of
from tests.contract.test_history import losing_replies
from tests.contract.test_round_trips import Calls, behind_a_proxy
from tests.servers import NAMES

awaited_on_servers = pytest.mark.parametrize("place", [f"async-{name}" for name in NAMES], indirect=True)


class Message(BaseModel):
    type: str
    content: str
    at: datetime | None = None


class Old:
    def dict(self) -> Any:
        return {"type": "old", "parts": [Message(type="human", content="Hi")]}


@dataclass
class Said:
    content: str


class Colour(str, Enum):  # noqa: UP042 -- unlike a StrEnum it formats as Colour.RED
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Opaque:
    def __str__(self) -> str:
        return "opaque"


@pytest.fixture
def threads(memory: AsyncMemory) -> AsyncThreadStore:
    return memory.threads


async def numbers(threads: AsyncThreadStore, thread_id: str = "t") -> list[int]:
    return [version.number for version in await threads.versions(thread_id)]


async def latest(threads: AsyncThreadStore, thread_id: str = "t") -> tuple[int, Any] | None:
    found = await threads.get(thread_id)
    return found and (found.version, found.state)


@on_servers
async def test_a_state_comes_back(threads: AsyncThreadStore) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    messages = [Message(type="human", content="Hi", at=at), Old(), {"role": "user"}, Said("Hey"), Opaque()]
    written = await threads.put("t", {"messages": messages, "step": 3, "level": Level.HIGH})
    assert (written.version, written.latest, written.is_latest) == (1, 1, True)
    found = await threads.get("t")
    assert found is not None
    assert found.state == {
        "messages": [
            {"type": "human", "content": "Hi", "at": at},
            {"type": "old", "parts": [{"type": "human", "content": "Hi", "at": None}]},
            {"role": "user"},
            {"type": "Said", "content": "Hey"},
            {"type": "Opaque", "content": "opaque"},
        ],
        "step": 3,
        "level": 3,
    }
    assert type(found.state["level"]) is int
    assert (found.version, found.latest, found.at) == (1, 1, written.at)
    assert before < found.at < before + timedelta(minutes=2)
    assert await threads.get("t", 2) is await threads.get("u") is await threads.info("u") is None
    assert await threads.versions("u") == []


@on_servers
async def test_versions_grow(threads: AsyncThreadStore) -> None:
    for step in range(3):
        assert (await threads.put("t", {"step": step})).version == step + 1
    assert await numbers(threads) == [3, 2, 1]
    assert [version.number for version in await threads.versions("t", 2)] == [3, 2]
    assert await latest(threads) == (3, {"step": 2})
    first = await threads.get("t", 1)
    assert first is not None
    assert (first.version, first.state, first.latest) == (1, {"step": 0}, 3)
    assert (await threads.put("t", "later", version=10)).is_latest
    assert (await threads.put("t", "next")).version == 11
    assert (await threads.put("u", "greatest", version=2**52)).is_latest
    assert [(await threads.put("u", "next")).version - 2**52 for _ in range(2)] == [1, 2]
    info = await threads.info("t")
    assert info is not None
    assert (info.latest, info.checkpoints, info.ttl) == ((await threads.versions("t"))[0], 5, None)


@on_servers
async def test_the_latest_never_moves_back(threads: AsyncThreadStore) -> None:
    await threads.put("t", "new", version=9)
    late = await threads.put("t", "old", version=8)
    assert (late.version, late.latest, late.is_latest) == (8, 9, False)
    assert await latest(threads) == (9, "new")
    old = await threads.get("t", 8)
    assert old is not None
    assert old.state == "old"
    assert await numbers(threads) == [9, 8]
    await threads.put("t", "older", version=7, keep=2)
    assert await numbers(threads) == [9, 8], "it was the oldest of three, and two are kept"


@on_servers
async def test_a_checkpoint_never_changes(threads: AsyncThreadStore) -> None:
    written = await threads.put("t", {"a": 1}, version=2)
    assert await threads.put("t", {"a": 1}, version=2) == written
    with pytest.raises(Conflict, match="version 2"):
        await threads.put("t", {"a": 2}, version=2)
    assert await latest(threads) == (2, {"a": 1})
    assert await threads.put("t", {"a": 1}) == Written(3, (await threads.versions("t"))[0].at, 3)


@on_servers
async def test_update(threads: AsyncThreadStore) -> None:
    assert (await threads.update("t", lambda state: state + 1, 0)).state == 1
    updated = await threads.update("t", lambda state: state + 1)
    assert (updated.version, updated.state, updated.latest) == (2, 2, 2)
    assert await threads.get("t") == updated


@on_servers
async def test_an_update_that_returns_nothing_loses_nothing(threads: AsyncThreadStore) -> None:
    await threads.put("t", {"notes": [1]})
    with pytest.raises(SchemaError, match=r"'t': the function must return the new state"):
        await threads.update("t", lambda state: state["notes"].append(2))
    found = await threads.get("t")
    assert found is not None
    assert (found.version, found.state) == (1, {"notes": [1]})
    assert (await threads.update("new", lambda state: state)).state is None


@awaited_on_servers
async def test_update_starts_over_when_others_were_faster(threads: AsyncThreadStore) -> None:
    seen: list[Any] = []

    async def note(state: Any) -> Any:
        if not seen:
            await threads.put("t", "rival")
        seen.append(state)
        return [state]

    assert (await threads.update("t", note, "new")).state == ["rival"]
    assert seen == ["new", "rival"]


@awaited_on_servers
async def test_update_is_not_misled_by_dropped_checkpoints(threads: AsyncThreadStore) -> None:
    async def count(state: Any) -> Any:
        if state == 0:
            for number in range(10, 15):
                await threads.put("t", number, keep=2)
        return state + 1

    await threads.put("t", 0)
    assert (await threads.update("t", count, keep=2)).state == 15
    assert await numbers(threads) == [7, 6]


@awaited_on_servers
async def test_update_gives_up(opened: Any) -> None:
    threads = opened(update_attempts=3).threads

    async def same(_: Any) -> str:
        await threads.put("t", "same")
        return "same"

    with pytest.raises(Conflict, match="every attempt"):
        await threads.update("t", same)
    assert await numbers(threads) == [3, 2, 1], "an equal state of another worker is not this one's"


@on_servers
async def test_prune(threads: AsyncThreadStore, place: Place) -> None:
    for step in range(6):
        await threads.put("t", step)
    assert await threads.prune("t", 4) == 2
    assert await threads.prune("t", 4) == 0
    assert await numbers(threads) == [6, 5, 4, 3]
    assert await threads.get("t", 2) is None
    await threads.put("t", 6, keep=1)
    assert await numbers(threads) == [7]
    with place.raw() as raw:
        assert raw.hkeys("redismem:thread:{t}:states") == [b"7"]
    assert await threads.prune("nobody", 1) == 0


@on_servers
async def test_the_settings_bound_a_thread(opened: Any, place: Place) -> None:
    threads = opened(thread_checkpoints=2, thread_ttl=100).threads
    for step in range(4):
        await threads.put("t", step)
    assert await numbers(threads) == [4, 3]
    info = await threads.info("t")
    assert info is not None
    assert 90 < info.ttl <= 100
    await threads.put("t", 5, keep=3, ttl=None)
    assert await numbers(threads) == [5, 4, 3]
    assert (await threads.info("t")).ttl is None


@on_servers
async def test_copy(threads: AsyncThreadStore, place: Place) -> None:
    for step in range(3):
        await threads.put("t", {"step": step}, ttl=100)
    await threads.prune("t", 2)
    assert await threads.copy("t", "a b:*") == 2
    assert await threads.versions("a b:*") == await threads.versions("t")
    assert await latest(threads, "a b:*") == (3, {"step": 2})
    assert (await threads.info("a b:*")).ttl is None  # type: ignore[union-attr]
    await threads.put("a b:*", "forked")
    assert await latest(threads) == (3, {"step": 2})
    await all_raise(Conflict, threads.copy("t", "a b:*"), threads.copy("t", "t"))
    assert await threads.copy("nobody", "u") == 0
    assert await threads.copy("t", "u", ttl=50) == 2
    assert 40 < (await threads.info("u")).ttl <= 50  # type: ignore[union-attr, operator]


@on_servers
async def test_threads_are_listed_and_deleted(threads: AsyncThreadStore, place: Place) -> None:
    ids = ["a b:*", "t", "{x}", "é"]
    for thread_id in ids:
        await threads.put(thread_id, 1)
    with place.raw() as raw:
        raw.zadd("redismem:thread:{%zz}:versions", {"x": 1})
    assert sorted({thread_id async for thread_id in threads.scan(batch_size=2)}) == ids
    with place.raw() as raw:
        raw.delete("redismem:thread:{%zz}:versions")
    await threads.put("t", 2)
    assert await threads.delete("t") == 2
    assert await threads.delete("t") == 0
    assert await threads.get("t") is None
    assert sorted({thread_id async for thread_id in threads.scan()}) == sorted(set(ids) - {"t"})
    for thread_id in ids:
        await threads.delete(thread_id)
    assert [name for name in place.left_over() if not name.endswith(b":ops")] == []


@on_servers
async def test_threads_end(threads: AsyncThreadStore, place: Place) -> None:
    await threads.put("t", 1, ttl=100)
    await threads.put("t", 2)
    with place.raw() as raw:
        for key in ("versions", "states"):
            assert 90_000 < raw.pttl(f"redismem:thread:{{t}}:{key}") <= 100_000
    assert await threads.expire("t", None)
    assert (await threads.info("t")).ttl is None  # type: ignore[union-attr]
    assert await threads.expire("t", SOON)
    assert not await threads.expire("u", SOON)

    async def is_empty() -> bool:
        return not place.left_over()

    await eventually(is_empty)


@on_servers
async def test_in_a_batch(memory: AsyncMemory, threads: AsyncThreadStore) -> None:
    await threads.put("u", 0)
    async with memory.batch() as batch:
        written = [batch.threads.put("t", step) for step in range(3)]
        refused = batch.threads.put("t", "other", version=1)
        found = batch.threads.get("t")
        updated = batch.threads.update("u", lambda state: state + 1)
        copied = batch.threads.copy("u", "v")
    assert [one.version for one in results(written)] == [1, 2, 3]
    assert isinstance(refused.error(), Conflict)
    assert found.result().state == 2  # type: ignore[union-attr]
    assert updated.result().state == 1
    assert copied.result() in (1, 2)


@on_servers
async def test_a_write_whose_reply_is_lost_takes_place_once(
    memory: AsyncMemory, threads: AsyncThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = losing_replies(link_of(memory), monkeypatch)
    assert (await threads.put("t", "a")).version == 1
    assert (await threads.put("t", "b", version=2)).version == 2
    assert (await threads.update("t", lambda _: "c")).version == 3
    assert await threads.prune("t", 2) == 1
    assert await threads.copy("t", "u") == 2
    with pytest.raises(Conflict):
        await threads.put("t", "x", version=2)
    assert await threads.delete("t") == 2
    assert await numbers(threads, "u") == [3, 2]
    assert len(calls) > 14


@on_servers
async def test_bad_input_is_refused_and_changes_nothing(threads: AsyncThreadStore, place: Place) -> None:
    circle: list[Any] = []
    circle.append(circle)
    await all_raise(InvalidKey, threads.put("", 1), threads.get("x" * 600), threads.copy("t", ""), threads.delete(""))
    await all_raise(EncodeError, threads.put("t", circle), threads.put("t", "\ud800"), threads.put("t", {Opaque()}))
    wrong: Any = "1"
    await all_raise(
        ConfigError,
        threads.put("t", 1, version=0),
        threads.put("t", 1, version=2**52 + 1),
        threads.put("t", 1, version=wrong),
        threads.put("t", 1, keep=0),
        threads.get("t", -1),
        threads.versions("t", 0),
        threads.prune("t", 0),
    )
    await all_raise(InvalidTTL, threads.put("t", 1, ttl=0), threads.expire("t", math.inf))
    assert place.left_over() == []


@on_servers
async def test_damage_hides_no_other_checkpoint(threads: AsyncThreadStore, place: Place) -> None:
    for step in range(3):
        await threads.put("t", step)
    with place.raw() as raw:
        raw.hset("redismem:thread:{t}:states", "2", b"\xc1")
        raw.hdel("redismem:thread:{t}:states", "1")
    for version in (1, 2):
        with pytest.raises(DecodeError) as damaged:
            await threads.get("t", version)
        assert damaged.value.key == f"redismem:thread:{{t}}:states[{version}]"
    assert await latest(threads) == (3, 2)
    assert await numbers(threads) == [3, 2, 1]
    assert await threads.copy("t", "u") == 2
    with place.raw() as raw:
        raw.zadd("redismem:thread:{t}:versions", {"foreign": 9})
    await all_raise(DecodeError, threads.versions("t"), threads.info("t"))


@on_real_servers
async def test_writes_wait_for_replicas_if_asked_to(threads: AsyncThreadStore) -> None:
    safe = Durability(replicas=1, timeout=0.01)
    await all_raise(
        NotDurable,
        threads.put("t", 1, durable=safe),
        threads.put("t", 2, durable=safe),
        threads.prune("t", 1, durable=safe),
        threads.copy("t", "u", durable=safe),
        threads.expire("t", 100, durable=safe),
        threads.delete("u", durable=safe),
    )
    assert await numbers(threads) == [2]


@on_real_servers
async def test_each_is_one_round_trip(place: Place) -> None:
    async with behind_a_proxy(place, thread_checkpoints=10) as counted:
        threads = counted.memory.threads
        one: Calls = {
            "put": lambda: threads.put("t", {"messages": [Said("x")] * 100}, ttl=100),
            "get": lambda: threads.get("t"),
            "get of a version": lambda: threads.get("t", 1),
            "versions": lambda: threads.versions("t"),
            "info": lambda: threads.info("t"),
            "prune": lambda: threads.prune("t", 5),
            "expire": lambda: threads.expire("t", 100),
            "delete": lambda: threads.delete("t"),
        }
        two: Calls = {
            "update": lambda: threads.update("t", lambda state: state),
            "copy": lambda: threads.copy("t", "u"),
        }
        await counted.counts(one | two)  # every script is there now
        await threads.delete("u")
        assert await counted.counts(one | two) == dict.fromkeys(one, 1) | dict.fromkeys(two, 2)


def test_plain_data_is_of_plain_types() -> None:
    array = np.ones(3)
    state = {
        Colour.RED: OrderedDict(a=Level.HIGH),
        "tuple": (Colour.RED, bytearray(b"x")),
        "sets": [{1, 2}, frozenset({Level.HIGH})],
        "array": array,
        "class": Message,
    }
    found = plain(state)
    assert found["array"] is array
    del found["array"]
    assert found.pop("class")["type"] == "ModelMetaclass"
    assert repr(found) == repr({"red": {"a": 3}, "tuple": ("red", b"x"), "sets": [{1, 2}, frozenset({3})]})
