"""Preferences and temporal values: each a field, with or without an end, in both flavours on every server."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from redismem import AsyncMemory, AsyncPreferenceStore, AsyncTemporalStore, Durability
from redismem.errors import DecodeError, EncodeError, InvalidKey, InvalidTTL, NotDurable, WrongType
from tests.contract.flavours import (
    SOON,
    Place,
    all_raise,
    eventually,
    nothing_is_left,
    on_real_servers,
    on_servers,
    once_on_each_server,
)
from tests.contract.test_coherence import listening, round_trips
from tests.contract.test_effects import link_of
from tests.contract.test_history import losing_replies

PREFERENCES = "redismem:user:{42}:preferences"
TEMPORAL = "redismem:user:{42}:temporal"


@pytest.fixture
def preferences(memory: AsyncMemory) -> AsyncPreferenceStore:
    return memory.preferences


@pytest.fixture
def temporal(memory: AsyncMemory) -> AsyncTemporalStore:
    return memory.temporal


# --- preferences ------------------------------------------------------------------------------------------------------


@on_servers
async def test_preferences_stay(preferences: AsyncPreferenceStore, place: Place) -> None:
    await preferences.set("42", "tone", "brief")
    await preferences.set_many("42", {"languages": ("pt", "de"), "tone": "friendly", "a:b *": None})
    assert await preferences.get("42", "tone") == "friendly"
    assert await preferences.get("42", "a:b *", "default") is None
    assert await preferences.get("42", "missing", "default") == "default"
    assert await preferences.get("43", "tone") is None
    found = await preferences.get_all("42")
    assert list(found.items()) == [("a:b *", None), ("languages", ("pt", "de")), ("tone", "friendly")]
    assert (found.unreadable, found.stale_for) == ({}, None)
    assert await preferences.delete("42", "tone")
    assert not await preferences.delete("42", "tone")
    await preferences.set_many("42", {})
    with place.raw() as raw:
        assert raw.pttl(PREFERENCES) == -1
        assert raw.hkeys(PREFERENCES) == [b"languages", b"a:b *"]
    assert await preferences.forget("42") == 2
    assert await preferences.forget("42") == 0
    assert await preferences.get_all("42") == {}
    await nothing_is_left(place)


@once_on_each_server
async def test_very_many_at_once(preferences: AsyncPreferenceStore) -> None:
    many = {f"key {number:05}": number for number in range(5_000)}
    await preferences.set_many("42", many)
    assert await preferences.get_all("42") == many
    assert await preferences.forget("42") == 5_000


@once_on_each_server
async def test_preferences_before_a_prompt(preferences: AsyncPreferenceStore) -> None:
    assert await preferences.apply("42", "Answer.") == "Answer."
    stated: dict[str, Any] = {
        "tone": "brief,\n  and friendly",
        "emoji": False,
        "languages": {"pt", "de", "en"},
        "hours": {"from": 9, "to": 17.5},
        "cities": ["Lisboa", "Porto"],
    }
    await preferences.set_many("42", stated)
    lines = [
        "User preferences:",
        "- cities: Lisboa, Porto",
        "- emoji: no",
        "- hours: from: 9, to: 17.5",
        "- languages: de, en, pt",
        "- tone: brief, and friendly",
    ]
    whole = "\n".join([*lines, "", "Answer."])
    assert await preferences.apply("42", "Answer.") == whole
    assert await preferences.apply("42", "") == whole.removesuffix("Answer.")


@once_on_each_server
async def test_what_is_put_before_a_prompt_is_bounded(preferences: AsyncPreferenceStore) -> None:
    await preferences.set_many("42", {"a": "x", "b": "y" * 5_000, "c": "z"})
    all_but_b = "User preferences:\n- a: x\n- c: z\n\n"
    assert await preferences.apply("42", "Go.") == f"{all_but_b}Go."
    assert await preferences.apply("42", "Go.", max_chars=len(all_but_b)) == f"{all_but_b}Go."
    assert await preferences.apply("42", "Go.", max_chars=len(all_but_b) - 1) == "User preferences:\n- a: x\n\nGo."
    for most in (0, -1, 20):
        assert await preferences.apply("42", "Go.", max_chars=most) == "Go."


# --- temporal values --------------------------------------------------------------------------------------------------


@on_servers
async def test_temporal_values_end(temporal: AsyncTemporalStore, place: Place) -> None:
    await temporal.put("42", "code", 4711, 100)
    await temporal.put("42", "typing", True, ttl=SOON)
    assert await temporal.get("42", "code") == 4711
    assert 90 < (await temporal.ttl("42", "code") or 0) <= 100
    await temporal.put("42", "code", 4712, 50)
    assert 40 < (await temporal.ttl("42", "code") or 0) <= 50

    async def is_over() -> bool:
        return await temporal.get_all("42") == {"code": 4712}

    await eventually(is_over)
    assert await temporal.get("42", "typing", "over") == "over"
    assert await temporal.ttl("42", "typing") is await temporal.ttl("43", "code") is None
    assert not await temporal.delete("42", "typing")
    assert await temporal.delete("42", "code")
    await temporal.put("42", "code", 1, 100)
    await temporal.put("42", "brief", 1, SOON)

    async def one_is_left() -> bool:
        return await temporal.get("42", "brief") is None

    await eventually(one_is_left)
    assert await temporal.forget("42") == 1
    await nothing_is_left(place)


@once_on_each_server
async def test_nothing_outlives_its_data(temporal: AsyncTemporalStore, place: Place) -> None:
    for number in range(3):
        await temporal.put("42", f"{number}", number, SOON)
    await nothing_is_left(place)


@on_servers
async def test_both_are_each_others_neighbours(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        batch.preferences.set("42", "k", 1)
        batch.temporal.put("42", "k", 2, 100)
        deleted = batch.preferences.delete("42", "other")
        text = batch.preferences.apply("42", "Go.")
        refused = batch.temporal.put("42", "k", 2, 0)
    assert not deleted.result()
    assert text.result() == "User preferences:\n- k: 1\n\nGo."
    assert isinstance(refused.error(), InvalidTTL)
    assert (await memory.preferences.get("42", "k"), await memory.temporal.get("42", "k")) == (1, 2)
    assert await memory.preferences.forget("42") == 1
    assert await memory.temporal.get("42", "k") == 2


# --- what they have in common -----------------------------------------------------------------------------------------


@once_on_each_server
async def test_bad_input_is_refused_and_changes_nothing(memory: AsyncMemory, place: Place) -> None:
    preferences, temporal = memory.preferences, memory.temporal
    never: Any = None
    await all_raise(
        InvalidTTL,
        temporal.put("42", "k", 1, never),
        temporal.put("42", "k", 1, -1),
        temporal.put("42", "k", 1, math.nan),
    )
    await all_raise(
        InvalidKey,
        preferences.set("", "k", 1),
        preferences.set_many("42", {"k": 1, "": 2}),
        preferences.get("42", ""),
        preferences.apply("x" * 600, "Go."),
        temporal.put("42", "x" * 600, 1, 5),
        temporal.ttl("42", ""),
        temporal.delete("42", ""),
    )
    await all_raise(EncodeError, preferences.set_many("42", {"k": 1, "l": object()}), temporal.put("42", "k", {1j}, 5))
    assert place.left_over() == []


@once_on_each_server
async def test_damage_hides_nothing_else(memory: AsyncMemory, place: Place) -> None:
    await memory.preferences.set("42", "tone", "brief")
    await memory.temporal.put("42", "k", 1, 100)
    with place.raw() as raw:
        raw.hset(PREFERENCES, mapping={"damaged": b"\xc1", b"\xff": b"1"})
        raw.hset(TEMPORAL, "damaged", b"\xc1")
        raw.set("redismem:user:{43}:temporal", "x")
        raw.set("redismem:user:{43}:preferences", "x")
    found = await memory.preferences.get_all("42")
    assert (found, set(found.unreadable)) == ({"tone": "brief"}, {"damaged", r"\xff"})
    assert found.unreadable["damaged"].key == f"{PREFERENCES}[damaged]"
    assert await memory.preferences.apply("42", "Go.") == "User preferences:\n- tone: brief\n\nGo."
    assert await memory.temporal.get_all("42") == {"k": 1}
    for damaged in (memory.preferences, memory.temporal):
        with pytest.raises(DecodeError, match=r"\[damaged\]"):
            await damaged.get("42", "damaged")
    await all_raise(
        WrongType,
        memory.preferences.get("43", "k"),
        memory.preferences.set("43", "k", 1),
        memory.temporal.get_all("43"),
        memory.temporal.put("43", "k", 1, 5),
    )


@on_servers
async def test_a_lost_reply_changes_no_answer(memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = losing_replies(link_of(memory), monkeypatch)
    await memory.preferences.set_many("42", {"a": 1, "b": 2, "c": 3})
    assert await memory.preferences.delete("42", "a")
    assert await memory.preferences.forget("42") == 2
    assert len(calls) == 6


@on_real_servers
async def test_durable_writes_wait(memory: AsyncMemory) -> None:
    unheard = Durability(replicas=1, timeout=0.01)
    await all_raise(
        NotDurable,
        memory.preferences.set("42", "tone", "brief", durable=unheard),
        memory.temporal.put("42", "k", 1, 100, durable=unheard),
        memory.temporal.delete("42", "k", durable=unheard),
    )
    assert await memory.preferences.get("42", "tone") == "brief"


@pytest.mark.parametrize("place", ["sync-valkey9", "async-redis70"], indirect=True)
async def test_l1_answers_and_hears_of_changes(place: Place, opened: Callable[..., AsyncMemory]) -> None:
    memory, rival = await listening(opened(coherence="tracking")), opened()
    await memory.preferences.set("42", "likes", ["tea"])
    await memory.temporal.put("42", "code", 1, 0.4)

    async def is_free() -> bool:
        before = round_trips(memory)
        await memory.preferences.apply("42", "Go.")
        await memory.preferences.get("42", "likes")
        await memory.preferences.get("42", "missing")
        return round_trips(memory) == before

    await eventually(is_free)
    (await memory.preferences.get("42", "likes")).append("coffee")
    assert await memory.preferences.get_all("42") == {"likes": ["tea"]}
    await memory.preferences.set("42", "likes", ["water"])
    assert await memory.preferences.get("42", "likes") == ["water"], "its own write is seen at once"
    await rival.preferences.set("42", "likes", [])

    async def is_heard_of() -> bool:
        return await memory.preferences.get("42", "likes") == []

    await eventually(is_heard_of)
    await rival.preferences.set("42", "likes", ["milk"])
    assert await memory.preferences.get("42", "likes", fresh=True) == ["milk"]

    async def has_ended() -> bool:
        return await memory.temporal.get("42", "code") is None

    await eventually(has_ended)
    assert await rival.temporal.get("42", "code") is None
