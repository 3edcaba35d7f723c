"""What is noted of documents ends with the last of them, and lasts if one of them does: everywhere, both flavours."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from redismem import AsyncMemory, EpisodicMemory, SemanticMemory, SkillMemory
from redismem.search.embedder import Hashing
from tests.contract.flavours import SOON, Place, eventually, nothing_is_left, on_servers


def episode(number: int, **more: Any) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=f"Episode {number} about bookings", **more)


def ends(place: Place) -> dict[str, float]:
    """For how many seconds log, meta and use of the default scope's episodes live: infinity without end."""
    with place.raw() as raw:
        left = {what: raw.pttl(f"redismem:scope:{{default}}:{what}:episodes") for what in ("log", "meta", "use")}
    return {what: math.inf if one == -1 else one / 1000 for what, one in left.items() if one != -2}


def end(place: Place) -> float:
    """The one end that all three have."""
    log, meta, use = ends(place).values()
    assert log == pytest.approx(meta, abs=0.1)
    assert use == pytest.approx(meta, abs=0.1)
    return meta


def change(place: Place) -> int:
    with place.raw() as raw:
        return int(raw.hget("redismem:scope:{default}:meta:episodes", "change") or 0)


async def all_has_ended(place: Place) -> None:
    async def is_gone() -> bool:
        return not ends(place)

    await eventually(is_gone)


@on_servers
async def test_what_is_noted_ends_with_the_last_document(memory: AsyncMemory, place: Place) -> None:
    for turn in range(3):
        await memory.episodes.add(episode(turn), ttl=SOON)
        await memory.episodes.get(f"e{turn}")
        await memory.skills.add(SkillMemory(skill_name=f"s{turn}", description="book a seat"), ttl=SOON)
        await memory.skills.use("s0", success=True)
        await memory.semantics.add(SemanticMemory(subject="Ann", predicate="likes", object=str(turn)), ttl=SOON)
    await memory.episodes.delete("e1")
    await nothing_is_left(place)


@on_servers
async def test_the_end_moves_outwards_only(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(1), ttl=100)
    first = end(place)
    assert 100 <= first < 110
    await memory.episodes.add(episode(2), ttl=10)
    assert first - 5 < end(place) <= first
    await memory.episodes.add_many([episode(3), episode(4)], ttl=1000)
    longer = end(place)
    assert 1000 <= longer < 1100
    await memory.episodes.delete("e3", "e4")
    await memory.episodes.update("e1", lambda one: one.model_copy(update={"content": "other"}))
    assert longer - 5 < end(place) <= longer
    await memory.episodes.add(episode(5))
    assert end(place) == math.inf
    await memory.episodes.add(episode(6), ttl=100)
    await memory.episodes.delete("e5")
    assert end(place) == math.inf
    assert await memory.episodes.forget() == 3
    await memory.episodes.add(episode(7), ttl=100)
    assert 100 <= end(place) < 110


@on_servers
async def test_what_comes_later_ends_with_the_rest(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(1), ttl=100)
    await memory.episodes.delete("e1")
    assert set(ends(place)) == {"log", "meta"}, "there is nothing to be used"
    await memory.episodes.add(episode(2), ttl=50)
    assert 90 < end(place) < 110
    with place.raw() as raw:
        raw.delete("redismem:scope:{default}:use:episodes")
    await memory.episodes.get("e2")
    await memory.episodes.delete("e9")
    assert 90 < end(place) < 110


@on_servers
async def test_one_that_takes_the_place_of_others_lasts(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add_many([episode(1), episode(2)], ttl=100)
    compact = memory.episodes.compact
    assert await compact(lambda _: [], before=datetime(2000, 1, 1, tzinfo=UTC)) == 0
    assert end(place) < math.inf
    assert await compact(lambda old: [EpisodicMemory(content=f"{len(old)} bookings")], before=datetime.now(UTC)) == 1
    assert end(place) == math.inf


@on_servers
async def test_a_fact_that_is_told_again_for_longer_lengthens(memory: AsyncMemory, place: Place) -> None:
    fact, left = SemanticMemory(subject="Ann", predicate="likes", object="tea", confidence=0.9), list[int]()
    for ttl in (10, 100, None):
        await memory.semantics.add(fact, ttl=ttl)
        fact = fact.model_copy(update={"confidence": 0.4})
        with place.raw() as raw:
            left.append(raw.pttl("redismem:scope:{default}:meta:semantics"))
    assert 10_000 <= left[0] < 20_000
    assert 100_000 <= left[1] < 120_000
    assert left[2] == -1


@on_servers
async def test_who_missed_the_end_sees_what_came_after(
    memory: AsyncMemory, opened: Callable[..., AsyncMemory], place: Place
) -> None:
    """A reader that has some of it, one that has none, and one that had read before anything was."""
    early, late, searched = opened(), opened(), memory.episodes.search
    assert await early.episodes.search("bookings") == []
    await memory.episodes.add_many([episode(1), episode(2)], ttl=100)
    assert len(await searched("bookings")) == 2
    with place.raw() as raw:
        raw.delete(*raw.scan_iter("redismem:scope:*"))
    assert await searched("bookings") == []
    await memory.episodes.add(episode(1), ttl=SOON)
    await searched("bookings")
    before = change(place)
    await all_has_ended(place)
    assert await searched("bookings") == []
    await memory.episodes.add(episode(3), ttl=100)
    assert 100 <= end(place) < 110, "what has ended before does not make it last"
    assert change(place) > before
    await memory.episodes.add(episode(4), ttl=100)
    for reader in (memory, early, late):
        assert {one.document.memory_id for one in await reader.episodes.search("bookings")} == {"e3", "e4"}


@on_servers
async def test_where_meta_was_evicted_documents_may_last(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(1), ttl=100)
    with place.raw() as raw:
        raw.delete("redismem:scope:{default}:meta:episodes")
    await memory.episodes.add(episode(2), ttl=100)
    assert end(place) == math.inf


@on_servers
async def test_to_embed_nothing_leaves_nothing(opened: Callable[..., AsyncMemory], place: Place) -> None:
    memory = opened(embedder=Hashing())
    assert await memory.episodes.embed() == 0
    await nothing_is_left(place)
    await memory.episodes.add(episode(1), ttl=SOON)
    assert await memory.episodes.embed() == 0
    await nothing_is_left(place)


@on_servers
async def test_what_only_has_an_embedder_is_yet_to_begin(memory: AsyncMemory, place: Place) -> None:
    with place.raw() as raw:
        raw.hset("redismem:scope:{default}:meta:episodes", "embedder", "another")
    await memory.episodes.add(episode(1), ttl=100)
    assert end(place) < 110


@pytest.mark.parametrize("place", ["sync-valkey9", "async-valkey9-nohsetex"], indirect=True)
async def test_documents_that_are_over_but_not_yet_removed_do_not_last(
    place: Place, new_server: Callable[..., Any]
) -> None:
    assert place.server is not None
    place.server = new_server("valkey9", *place.server.arguments[:-2], "--enable-debug-command", "local")
    memory = place.open()
    with place.raw() as raw:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        await memory.episodes.add(episode(1), ttl=SOON)
        await all_has_ended(place)
        assert raw.hlen("redismem:scope:{default}:episodes") == 1
    await memory.episodes.add(episode(2), ttl=100)
    assert end(place) < 110
    await memory.aclose()
