"""Episodes, facts and skills: stored, found, forgotten; everywhere, in both flavours."""

import asyncio
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from redismem import AsyncMemory, EpisodicMemory, SemanticMemory, SkillMemory
from redismem.codec import Codec
from redismem.errors import ConfigError, Conflict, DecodeError, EncodeError, InvalidKey, SchemaError
from tests.contract.flavours import SOON, Place, all_raise, eventually, nothing_is_left, on_servers, results

pytestmark = on_servers


def episode(number: int, **more: Any) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=f"Episode {number} about bookings", **more)


async def ids(memory: AsyncMemory, *args: Any, **kwargs: Any) -> list[str]:
    """What a search of episodes finds."""
    return [one.document.memory_id for one in await memory.episodes.search(*args, **kwargs)]


# --- episodes -------------------------------------------------------------------------------------------------------


async def test_an_episode_comes_back(memory: AsyncMemory) -> None:
    told = episode(
        1,
        task_id="t",
        session_id="s",
        user_id="u",
        speaker="Ann",
        tags=frozenset({"a", "b"}),
        success=False,
        score=0.5,
        importance=0.9,
        created_at=datetime(2024, 5, 6, tzinfo=UTC),
        metadata={"steps": [1, 2], "to": "Lisboa"},
    )
    assert await memory.episodes.add(told) == "e1"
    assert await memory.episodes.get("e1") == told
    assert await memory.episodes.get("e2") is await memory.episodes.get("e1", scope="other") is None
    assert await memory.episodes.get_many(["e2", "e1"]) == [told]
    assert await memory.episodes.count() == 1
    with_time = await memory.episodes.get(await memory.episodes.add(EpisodicMemory(content="now")))
    assert with_time is not None
    assert abs(with_time.created_at - datetime.now(UTC)) < timedelta(minutes=5)


async def test_every_filter(memory: AsyncMemory) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    await memory.episodes.add_many(
        episode(
            number,
            task_id=f"t{number % 2}",
            session_id=f"s{number % 3}",
            user_id=f"u{number % 2}",
            speaker=("Ann", "Bob")[number % 2],
            tags=frozenset({"all", f"tag{number}"}),
            success=[True, False, None][number % 3],
            score=number / 10,
            created_at=start + timedelta(days=number),
        )
        for number in range(6)
    )
    for filters, expected in (
        ({}, "543210"),
        ({"task_id": "t1"}, "531"),
        ({"session_id": "s0"}, "30"),
        ({"user_id": "u0"}, "420"),
        ({"speaker": "Bob"}, "531"),
        ({"tags": ["all", "tag2"]}, "2"),
        ({"tags": ["none"]}, ""),
        ({"success_only": True}, "30"),
        ({"min_score": 0.35}, "54"),
        ({"since": start + timedelta(days=2), "until": start + timedelta(days=4)}, "32"),
        ({"limit": 2}, "54"),
        ({"task_id": "t1", "session_id": "s0", "success_only": True}, "3"),
    ):
        expected_ids = [f"e{number}" for number in expected]
        assert await ids(memory, **filters) == expected_ids, filters
        assert set(await ids(memory, "bookings", **(filters | {"min_score": 0.0}))) >= set(expected_ids[:0])
    assert await ids(memory, "episode 4") == await ids(memory, "episode 4", limit=99)
    assert (await ids(memory, "episode 4"))[0] == "e4"
    assert await ids(memory, "zeppelin") == []


async def test_scores_mean_something(memory: AsyncMemory) -> None:
    await memory.episodes.add(
        EpisodicMemory(memory_id="a", content="The flight to Lisboa was cancelled by the airline")
    )
    await memory.episodes.add(EpisodicMemory(memory_id="b", content="Ann likes her coffee without milk, and flight"))
    found = await memory.episodes.search("cancelled flights to Lisboa")
    assert found[0].document.memory_id == "a"
    assert all(0 < one.score <= 1 for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert await ids(memory, "cancelled flights to Lisboa", min_score=found[0].score) == ["a"]


async def test_a_search_sees_every_write_before_it(memory: AsyncMemory, opened: Callable[..., AsyncMemory]) -> None:
    other = opened()
    assert await ids(memory, "bookings") == []
    for number in range(5):
        await other.episodes.add(episode(number))
        assert set(await ids(memory, "bookings")) == {f"e{n}" for n in range(number + 1)}
    assert await other.episodes.delete("e3", "e9") == 1
    assert "e3" not in await ids(memory, "bookings")
    await other.episodes.update("e2", lambda one: one.model_copy(update={"content": "about zeppelins"}))
    assert await ids(memory, "zeppelin") == ["e2"]
    assert "e2" not in await ids(memory, "bookings")


async def test_a_fresh_search_sees_what_other_processes_have_just_written(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = opened(coherence="ttl", l1_ttl=600), opened()
    monkeypatch.setattr("redismem.stores.store.is_anything_kept", lambda: False)  # L1 hears nothing of the writer
    searches: list[Callable[..., Any]] = [
        reader.episodes.search,
        partial(reader.episodes.search, "bookings"),
        partial(reader.semantics.search, "tea"),
        partial(reader.semantics.query, "Ann"),
        reader.skills.search,
        partial(reader.skills.search, "fly"),
    ]
    for search in searches:
        assert await search() == await search() == []
    await writer.episodes.add(episode(1))
    await writer.semantics.add(fact("Ann", "likes", "tea"))
    await writer.skills.add(SkillMemory(skill_name="fly"))
    for search in searches:
        assert len(await search(fresh=True)) == 1
    for search in searches:
        assert len(await search()) == 1, "what a fresh one was told stays"
    assert await writer.episodes.delete("e1") == 1
    assert len(await reader.episodes.search()) == 1, "the test can fail"
    assert await reader.episodes.search(fresh=True) == []


async def test_who_missed_too_much_reads_anew(opened: Callable[..., AsyncMemory]) -> None:
    reader, writer = opened(change_log=10), opened(change_log=10)
    await writer.episodes.add(episode(0))
    assert await ids(reader, "bookings") == ["e0"]
    await writer.episodes.delete("e0")
    for number in range(1, 400):  # logs are trimmed in whole nodes
        await writer.episodes.add(episode(number))
    assert len(await ids(reader, "bookings", limit=1000)) == 399
    assert "e0" not in await ids(reader, "bookings", limit=1000)


async def test_many_changes_come_in_parts(opened: Callable[..., AsyncMemory]) -> None:
    reader, writer = opened(), opened()
    assert await ids(reader) == []
    for start in range(0, 5000, 1000):
        await writer.episodes.add_many(episode(number) for number in range(start, start + 1000))
    assert len(await ids(reader, limit=9999)) == 5000


async def test_an_episode_ends_and_is_not_found(memory: AsyncMemory, opened: Callable[..., AsyncMemory]) -> None:
    late = opened()
    await memory.episodes.add(episode(1), ttl=SOON)
    await memory.episodes.add(episode(2), ttl=100)
    await memory.episodes.add(episode(3))

    async def is_over() -> bool:
        return await memory.episodes.get("e1") is None

    await eventually(is_over)

    async def is_not_found() -> bool:
        return set(await ids(memory, "bookings")) == {"e2", "e3"}

    await eventually(is_not_found)
    assert set(await ids(late, "bookings")) == {"e2", "e3"}
    await memory.episodes.update("e2", lambda one: one.model_copy(update={"score": 1.0}))
    assert (await memory.episodes.get("e2")).score == 1.0  # type: ignore[union-attr]


async def test_a_stream_has_everything_in_batches(memory: AsyncMemory) -> None:
    await memory.episodes.add_many(episode(number, score=number / 1000) for number in range(1000))
    met: list[str] = []
    sizes: list[int] = []
    async for batch in memory.episodes.stream(batch_size=50, min_score=0.5):
        met += [one.memory_id for one in batch]
        sizes.append(len(batch))
    assert sorted(set(met)) == sorted(f"e{number}" for number in range(500, 1000))
    assert max(sizes) < 500


async def test_updates_start_over(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(1))
    seen: list[str] = []
    with place.raw() as raw:
        key = "redismem:scope:{default}:episodes"
        (before,) = raw.hvals(key)

        def fn(one: EpisodicMemory) -> EpisodicMemory:
            seen.append(one.content)
            if len(seen) == 1:
                raw.hset(key, "e1", before.replace(b"bookings", b"parcels "))
            return one.model_copy(update={"score": 1.0})

        changed = await memory.episodes.update("e1", fn)
    assert changed is not None
    assert len(seen) == 2
    assert changed.content.endswith("parcels ")
    assert await memory.episodes.update("e2", fn) is None


async def test_update_gives_up(opened: Callable[..., AsyncMemory], place: Place) -> None:
    memory = opened(update_attempts=2)
    await memory.episodes.add(episode(1))

    def disturbed(one: EpisodicMemory) -> EpisodicMemory:
        with place.raw() as raw:
            other = b"\x82\xa9memory_id\xa2e1\xa7content\xa1" + bytes([97 + len(seen)])
            raw.hset("redismem:scope:{default}:episodes", "e1", other)
        seen.append(one)
        return one

    seen: list[EpisodicMemory] = []
    with pytest.raises(Conflict, match="each of 2 attempts"):
        await memory.episodes.update("e1", disturbed)


async def test_the_least_used_go_when_there_are_too_many(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(max_documents=5)
    for number in range(5):
        await memory.episodes.add(episode(number, importance=0.9 if number == 1 else 0.1))
    for _ in range(30):
        await memory.episodes.get("e0")
    await memory.episodes.add_many(episode(number, importance=0.1) for number in range(5, 8))
    kept = set(await ids(memory, "bookings"))
    assert len(kept) == await memory.episodes.count() == 5
    assert {"e0", "e1"} < kept
    assert set(await ids(opened(), "bookings")) == kept


async def test_what_cannot_be_read_hides_nothing(
    memory: AsyncMemory, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await memory.episodes.add_many([episode(1), episode(2)])
    with place.raw() as raw:
        raw.hset("redismem:scope:{default}:episodes", "e1", b"\xc1")
        raw.hset("redismem:scope:{default}:episodes", "e3", b"\x81\xa1x\x01")
        said = raw.hget("redismem:scope:{default}:episodes", "e2")
        for number, wrong in enumerate((b"\xaasession_id\x90", b"\xaaimportance\xa1x"), start=4):
            raw.hset("redismem:scope:{default}:episodes", f"e{number}", bytes([said[0] + 1]) + said[1:] + wrong)
    assert await ids(memory, "bookings") == ["e2"]
    assert [[one.memory_id for one in batch] async for batch in memory.episodes.stream()] == [["e2"]]
    assert "scope:{default}:episodes[e1]: cannot be read" in caplog.text
    with pytest.raises(DecodeError, match=r"scope:{default}:episodes\[e1\]"):
        await memory.episodes.get("e1")
    await all_raise(InvalidKey, memory.episodes.add(episode(1), scope=""), memory.episodes.search("x", scope="\ud800"))


async def test_in_a_batch(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        added = [batch.episodes.add(episode(number)) for number in range(20)]
        facts = batch.semantics.add(SemanticMemory(subject="a", predicate="is", object="b"))
        skill = batch.skills.add(SkillMemory(skill_name="s"))
    assert results(added) == [f"e{number}" for number in range(20)]
    assert facts.result()
    assert skill.result()
    async with memory.batch() as batch:
        found, got = batch.episodes.search("bookings", limit=50), batch.episodes.get("e7")
    assert len(found.result()) == 20
    assert got.result() == (await memory.episodes.get_many(["e7"]))[0]


async def test_nothing_is_left(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add_many([episode(1), episode(2)], ttl=100)
    await memory.skills.add(SkillMemory(skill_name="s"))
    await memory.skills.use("s", success=True)
    await memory.semantics.add(SemanticMemory(subject="a", predicate="is", object="b"))
    assert await memory.episodes.forget() == 2
    assert await memory.skills.forget() == await memory.semantics.forget() == 1
    assert await memory.episodes.forget() == 0
    assert await ids(memory, "bookings") == []
    await memory.episodes.add(episode(3))
    assert await ids(memory, "bookings") == ["e3"]
    await memory.episodes.forget()
    await nothing_is_left(place)


async def test_turns_of_one_instant_stand_as_they_were_told(opened: Callable[..., AsyncMemory]) -> None:
    """The neighbours of what is found are those that were told next to it, whatever the ids are."""
    memory, at = opened(), datetime(2024, 5, 6, tzinfo=UTC)
    for session, when in (("s1", at), ("s2", None)):
        order = ["told", "zebra", "next", "b", "c", "a", "aa"]
        turns = [
            EpisodicMemory(memory_id=f"{session}{name}", content=f"{name}.", session_id=session, created_at=when)
            for name in order
        ]
        await memory.episodes.add_many(turns[:4])
        for turn in turns[4:]:
            await memory.episodes.add(turn)
        await memory.episodes.update(f"{session}next", lambda one: one.model_copy(update={"score": 1.0}))
        for reader in (memory, opened()):
            found = await ids(reader, "zebra", session_id=session, limit=5)
            assert found == [f"{session}{name}" for name in ("zebra", "next", "told", "b")]


# --- facts ----------------------------------------------------------------------------------------------------------


def fact(subject: str, predicate: str, object_: str, confidence: float = 1.0, **more: Any) -> SemanticMemory:
    return SemanticMemory(subject=subject, predicate=predicate, object=object_, confidence=confidence, **more)


async def test_a_fact_is_known_once_with_the_higher_confidence(memory: AsyncMemory) -> None:
    assert await memory.semantics.add(fact("Ann", "likes", "coffee", 0.5, source="chat"))
    assert not await memory.semantics.add(fact("ann", "LIKES", " coffee", 0.3, source="guess"))
    assert await memory.semantics.add(fact("Ann", "likes", "Coffee", 0.9, source="form"))
    (known,) = await memory.semantics.query("ANN")
    assert (known.source, round(known.confidence, 3)) == ("form", 0.9)
    assert await memory.semantics.count() == 1


async def test_facts_are_asked_by_their_parts_and_by_text(memory: AsyncMemory) -> None:
    await memory.semantics.add_many(
        [
            fact("Ann", "likes", "coffee", 0.9),
            fact("Ann", "lives in", "Lisboa", 0.4),
            fact("Bob", "likes", "tea", 0.7),
        ]
    )
    assert [one.object for one in await memory.semantics.query("ann")] == ["coffee", "Lisboa"]
    assert [one.object for one in await memory.semantics.query(predicate="likes")] == ["coffee", "tea"]
    assert [one.subject for one in await memory.semantics.query(object="TEA")] == ["Bob"]
    for sure in (await memory.semantics.query("ann", min_confidence=0.5), await memory.semantics.query("ann", "likes")):
        assert [one.object for one in sure] == ["coffee"]
    assert len(await memory.semantics.query(limit=2)) == 2
    assert (await memory.semantics.search("where does Ann live?"))[0].document.object == "Lisboa"
    learned = (await memory.semantics.query("bob"))[0]
    assert await memory.semantics.get(learned.memory_id) is not None
    assert await memory.semantics.delete(learned.memory_id) == 1
    assert await memory.semantics.query("bob") == []


async def test_confidence_fades(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(confidence_half_life=86_400)
    two_days_ago = datetime.now(UTC) - timedelta(days=2)
    await memory.semantics.add(fact("Ann", "likes", "coffee", 0.8, created_at=two_days_ago))
    (known,) = await memory.semantics.query("Ann")
    assert known.confidence == pytest.approx(0.2, abs=0.01)


# --- skills ---------------------------------------------------------------------------------------------------------


async def test_skills_count_uses_and_successes(memory: AsyncMemory, opened: Callable[..., AsyncMemory]) -> None:
    other = opened()
    for name in ("book_flight", "cancel_flight", "refund"):
        assert await memory.skills.add(SkillMemory(skill_name=name, description="about flights and refunds"))
    await asyncio.gather(
        *(one.skills.use("refund", success=number % 10 > 0) for one in (memory, other) for number in range(20))
    )
    await memory.skills.use("cancel_flight", success=False)
    assert not await memory.skills.use("unknown", success=True)
    refund = await memory.skills.get("refund")
    assert refund is not None
    assert (refund.uses, refund.successes) == (40, 36)
    assert not await memory.skills.add(refund.model_copy(update={"content": "new steps", "uses": 5}))
    again = await other.skills.get("refund")
    assert again is not None
    assert (again.uses, again.successes, again.content) == (40, 36, "new steps")
    assert [one.document.skill_name for one in await memory.skills.search()] == [
        "refund",
        "book_flight",
        "cancel_flight",
    ]
    late = opened()
    (first, *_) = await late.skills.search("cancel a flight")
    assert (first.document.skill_name, first.document.uses) == ("cancel_flight", 1)


# --- compaction -----------------------------------------------------------------------------------------------------

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def summary(episodes: list[EpisodicMemory]) -> list[EpisodicMemory]:
    """One for all."""
    listed = " ".join(one.memory_id for one in episodes)
    return [EpisodicMemory(memory_id=f"sum-{episodes[0].memory_id}", content=f"{listed} bookings", created_at=LONG_AGO)]


async def test_the_old_are_summed_up(memory: AsyncMemory, opened: Callable[..., AsyncMemory]) -> None:
    reader = opened()
    days = [LONG_AGO + timedelta(days=number) for number in range(7)]
    await memory.episodes.add_many(episode(number, created_at=at) for number, at in enumerate(days))
    assert len(await ids(reader, "bookings")) == 7
    assert await memory.episodes.compact(summary, before=days[5], batch_size=3) == 5 - 2
    assert sorted(await ids(reader, "bookings")) == ["e5", "e6", "sum-e0", "sum-e3"]
    first = await reader.episodes.get("sum-e0")
    assert first is not None
    assert first.content == "e0 e1 e2 bookings"
    assert await memory.episodes.compact(lambda _: [], before=days[6]) == 3
    assert await ids(reader) == ["e6"]


async def test_what_changes_meanwhile_is_left_alone(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add_many(episode(number, created_at=LONG_AGO) for number in range(4))
    key = "redismem:scope:{default}:episodes"

    def meddling(episodes: list[EpisodicMemory]) -> list[EpisodicMemory]:
        if episodes[0].memory_id == "e2":
            with place.raw() as raw:
                raw.hset(key, "e3", raw.hget(key, "e2"))
        return summary(episodes)

    assert await memory.episodes.compact(meddling, before=datetime.now(UTC), batch_size=2) == 1
    with place.raw() as raw:
        assert sorted(raw.hkeys(key)) == [b"e2", b"e3", b"sum-e0"]


async def test_what_was_noted_of_the_expired_is_forgotten(memory: AsyncMemory, place: Place) -> None:
    await memory.semantics.add(fact("Ann", "lasts", "and so does what is noted"))
    await memory.semantics.add_many([fact(f"s{number}", "is", "old") for number in range(50)], ttl=SOON)

    async def is_gone() -> bool:
        return not await memory.semantics.query(predicate="is")

    await eventually(is_gone)
    for number in range(100):
        await memory.semantics.add(fact("Ann", "counts", str(number % 5)))
    with place.raw() as raw:
        assert raw.zcard("redismem:scope:{default}:use:semantics") < 25
        assert raw.hlen("redismem:scope:{default}:meta:semantics") < 25


# --- batches --------------------------------------------------------------------------------------------------------


async def test_adds_of_a_batch_leave_together_and_fail_alone(memory: AsyncMemory) -> None:
    async with memory.batch() as batch:
        added = [batch.episodes.add(episode(number)) for number in range(5)]
        broken = batch.episodes.add(episode(5, metadata={"what": object()}))
        wrong = batch.episodes.add("no episode")
        others = [batch.episodes.add(episode(number), ttl=50) for number in range(6, 9)]
        facts = [batch.semantics.add(fact("Ann", "likes", "tea", sure)) for sure in (0.5, 0.4, 0.6)]
        skills = [batch.skills.add(SkillMemory(skill_name=name)) for name in ("a", "b", "a")]
        last = batch.episodes.add(episode(9))
    assert results([*added, *others, last]) == [f"e{number}" for number in (0, 1, 2, 3, 4, 6, 7, 8, 9)]
    assert isinstance(broken.error(), EncodeError)
    assert isinstance(wrong.error(), SchemaError)
    assert results(facts) == [True, False, True]
    assert results(skills) == [True, True, False]
    assert sorted(await ids(memory, limit=20)) == [f"e{number}" for number in (0, 1, 2, 3, 4, 6, 7, 8, 9)]


async def test_adds_of_a_batch_are_one_call(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(0))
    before = memory.stats()
    async with memory.batch() as batch:
        for number in range(100):
            batch.episodes.add(episode(number))
    after = memory.stats()
    assert after.round_trips == before.round_trips + 1
    assert after.commands == before.commands + 1
    async with memory.batch() as batch:
        for number in range(4):
            batch.episodes.add(episode(number), scope=f"s{number % 2}")
    assert memory.stats().commands == after.commands + 4


async def test_calls_of_the_first_batch_of_a_process_are_in_order(opened: Callable[..., AsyncMemory]) -> None:
    for kept in (False, True):
        memory = opened()  # it does not know the server's clock yet
        async with memory.batch() as batch:
            batch.skills.add(SkillMemory(skill_name="book"))
            used = batch.skills.use("book", success=True)
            batch.episodes.add(episode(1))
            read = batch.episodes.get("e1")
            gone = None if kept else batch.episodes.delete("e1")
        assert used.result()
        assert read.result() is not None
        assert gone is None or gone.result() == 1
        assert (await memory.episodes.get("e1") is not None) is kept
        skill = await memory.skills.get("book")
        assert skill is not None
        assert skill.uses == 1 + kept


async def test_what_cannot_be_stored_does_not_send_the_others_of_a_batch_one_by_one(memory: AsyncMemory) -> None:
    await memory.episodes.add(episode(0))
    before = memory.stats()
    async with memory.batch() as batch:
        added = [batch.episodes.add(episode(number)) for number in range(50)]
        broken = [batch.episodes.add(episode(number, metadata={"what": object()})) for number in range(50, 53)]
        gone = batch.episodes.delete("e7")
    assert results(added) == [f"e{number}" for number in range(50)]
    assert [type(one.error()) for one in broken] == [EncodeError] * 3
    assert gone.result() == 1
    assert memory.stats().round_trips == before.round_trips + 1


# --- what was found by trying to break it ---------------------------------------------------------------------------


async def test_what_takes_the_place_of_the_old_must_not_replace_another(memory: AsyncMemory) -> None:
    await memory.episodes.add_many(episode(number, created_at=LONG_AGO) for number in range(4))
    await memory.episodes.add(EpisodicMemory(memory_id="2020", content="is there"))
    with pytest.raises(Conflict, match="the id of another"):
        await memory.episodes.compact(
            lambda old: [EpisodicMemory(memory_id="2020", content=old[0].content)], before=LONG_AGO + timedelta(1)
        )
    assert await memory.episodes.count() == 5
    assert await memory.episodes.compact(lambda old: old[:1], before=LONG_AGO + timedelta(1), batch_size=2) == 2
    assert sorted(await ids(memory, limit=9)) == ["2020", "e0", "e2"]


async def test_what_others_took_meanwhile_is_not_summed_up(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add_many(episode(number, created_at=LONG_AGO) for number in range(4))
    batches: list[list[EpisodicMemory]] = []

    def alone(old: list[EpisodicMemory]) -> list[EpisodicMemory]:
        batches.append(old)
        with place.raw() as raw:
            raw.delete("redismem:scope:{default}:episodes")
        return []

    assert await memory.episodes.compact(alone, before=datetime.now(UTC), batch_size=2) == 0
    assert [len(old) for old in batches] == [2]


async def test_skills_keep_their_counts_through_changes(memory: AsyncMemory) -> None:
    await memory.skills.add(SkillMemory(skill_name="a", created_at=LONG_AGO))
    for success in (True, True, False):
        await memory.skills.use("a", success=success)
    seen: list[int] = []

    def described(skill: SkillMemory) -> SkillMemory:
        seen.append(skill.uses)
        return skill.model_copy(update={"description": "better"})

    changed = await memory.skills.update("a", described)
    assert changed is not None
    assert (changed.uses, changed.successes, changed.description) == (3, 2, "better")
    assert await memory.skills.compact(lambda old: [described(one) for one in old], before=datetime.now(UTC)) == 0
    kept = await memory.skills.get("a")
    assert kept is not None
    assert (kept.uses, kept.successes, seen) == (3, 2, [3, 3])


async def test_an_update_makes_no_other_document_of_it(memory: AsyncMemory) -> None:
    await memory.episodes.add(episode(1))
    tea = fact("Ann", "likes", "tea")
    await memory.semantics.add(tea)
    await all_raise(
        InvalidKey,
        memory.episodes.update("e1", lambda one: one.model_copy(update={"memory_id": "e2"})),
        memory.semantics.update(tea.memory_id, lambda one: one.model_copy(update={"object": "coffee"})),
        memory.episodes.add(EpisodicMemory(memory_id="", content="nobody")),
        memory.episodes.add(EpisodicMemory(memory_id="x" * 600, content="too long")),
    )
    await all_raise(SchemaError, memory.episodes.update("e1", lambda one: None))
    await all_raise(ConfigError, memory.episodes.search(tags="flights"))
    assert await memory.semantics.update(tea.memory_id, lambda one: one.model_copy(update={"confidence": 0.1}))
    assert await memory.semantics.add(fact("Ann", "likes", "tea", 0.5))


async def test_what_has_faded_gives_way(opened: Callable[..., AsyncMemory]) -> None:
    memory = opened(confidence_half_life=3600.0)
    hours_ago = datetime.now(UTC) - timedelta(hours=4)
    await memory.semantics.add(fact("Ann", "lives in", "Oslo", 0.9, created_at=hours_ago))
    assert not await memory.semantics.add(fact("Ann", "lives in", "Oslo", 0.05))
    assert await memory.semantics.add(fact("Ann", "lives in", "Oslo", 0.5))
    (known,) = await memory.semantics.query("Ann")
    assert known.confidence == pytest.approx(0.5, abs=0.01)


async def test_queries_note_only_what_they_give(memory: AsyncMemory, opened: Callable[..., AsyncMemory]) -> None:
    bounded = opened(max_documents=10)
    await bounded.semantics.add_many(fact(f"s{number}", "is", "x", number / 10) for number in range(1, 11))
    for _ in range(20):
        assert [one.subject for one in await bounded.semantics.query(predicate="is", limit=1)] == ["s10"]
    await bounded.semantics.add(fact("new", "is", "x", 0.01))
    left = {one.subject for one in await memory.semantics.query(predicate="is")}
    assert {"s10", "new"} <= left, "what was just stored stays, and what is used"
    assert len(left) == 10


async def test_ids_that_only_look_alike_are_different(memory: AsyncMemory) -> None:
    await memory.semantics.add_many([fact("a\0b", "c", "d"), fact("a", "b\0c", "d")])
    assert await memory.semantics.count() == 2


# --- what cannot be read, or means something else to others, is not stored ------------------------------------------


async def test_what_the_model_refuses_is_not_stored(memory: AsyncMemory) -> None:
    await memory.episodes.add(episode(1, created_at=LONG_AGO))
    await memory.semantics.add(fact("Ann", "likes", "tea", 0.5))
    await memory.skills.add(SkillMemory(skill_name="s"))
    tea = fact("Ann", "likes", "tea").memory_id
    for change, kind, attribute in (
        (memory.episodes.update("e1", lambda one: one.model_copy(update={"success": "maybe"})), "episodes", "success"),
        (memory.episodes.add(EpisodicMemory.model_construct(memory_id="e2")), "episodes", "content"),
        (memory.episodes.add(episode(2).model_copy(update={"score": float("nan")})), "episodes", "score"),
        (memory.episodes.add_many([episode(2), episode(3).model_copy(update={"content": 3})]), "episodes", "content"),
        (
            memory.episodes.compact(
                lambda old: [old[0].model_copy(update={"importance": 2.0})], before=LONG_AGO + timedelta(1)
            ),
            "episodes",
            "importance",
        ),
        (
            memory.semantics.update(tea, lambda one: one.model_copy(update={"confidence": 5.0})),
            "semantics",
            "confidence",
        ),
        (memory.semantics.add(fact("Bob", "is", "x").model_copy(update={"subject": None})), "semantics", "subject"),
        (memory.skills.add(SkillMemory.model_construct()), "skills", "skill_name"),
    ):
        with pytest.raises(SchemaError, match=rf"{kind}: no \w+: {attribute}: "):
            await change
    assert await memory.episodes.get("e1") == episode(1, created_at=LONG_AGO)
    assert await memory.episodes.count() == await memory.semantics.count() == await memory.skills.count() == 1
    assert await memory.semantics.add(fact("Ann", "likes", "tea", 0.9))  # none that was refused is surer
    tagged = await memory.episodes.update("e1", lambda one: one.model_copy(update={"tags": ["b", "a"], "score": "0.5"}))
    assert tagged is not None
    read = await memory.episodes.get("e1")  # what means the same is stored as what it means
    assert read == episode(1, created_at=LONG_AGO, tags={"a", "b"}, score=0.5)


async def test_what_nobody_would_read_again_is_refused(memory: AsyncMemory) -> None:
    class Moody(EpisodicMemory):
        mood: str = "fine"

    class Same(EpisodicMemory):
        @property
        def shouted(self) -> str:
            return self.content.upper()

    with pytest.raises(SchemaError, match="mood"):
        await memory.episodes.add(Moody(memory_id="e1", content="bookings"))
    with pytest.raises(ValidationError, match="mood"):
        EpisodicMemory(content="bookings", mood="fine")  # type: ignore[call-arg]
    await memory.episodes.add(Same(memory_id="e2", content="bookings"))
    assert await ids(memory, "bookings") == ["e2"]


async def test_what_later_versions_tell_of_a_document_is_passed_over(memory: AsyncMemory, place: Place) -> None:
    await memory.episodes.add(episode(1))
    key = "redismem:scope:{default}:episodes"
    with place.raw() as raw:
        told = Codec().decode(raw.hget(key, "e1"))
        raw.hset(key, "e1", Codec().encode(told | {"mood": "fine"}))
    assert (await memory.episodes.get("e1")).memory_id == "e1"
    assert await ids(memory, "bookings") == ["e1"]


async def test_a_score_below_zero_is_left_out_only_if_that_is_asked(memory: AsyncMemory) -> None:
    await memory.episodes.add_many([episode(1, score=-1), episode(2, score=0.5)])
    assert set(await ids(memory)) == {"e1", "e2"}
    assert await ids(memory, min_score=0.25) == await ids(memory, "  ", min_score=0.25) == ["e2"]
    assert set(await ids(memory, min_score=-2)) == {"e1", "e2"}
    for least, count in ((0.0, 2), (0.25, 1)):
        assert [len(batch) async for batch in memory.episodes.stream(min_score=least)] == [count]


async def test_an_update_gives_what_was_stored(memory: AsyncMemory) -> None:
    await memory.skills.add(SkillMemory(skill_name="s"))
    await memory.skills.use("s", success=True)
    updated = await memory.skills.update("s", lambda one: one.model_copy(update={"uses": 100, "tags": ["a", "a"]}))
    assert updated == await memory.skills.get("s")
    assert updated is not None
    assert (updated.uses, updated.tags) == (1, {"a"})


async def test_facts_of_a_user_and_skills_of_a_time(memory: AsyncMemory) -> None:
    for user in ("u1", "u2", None):
        await memory.semantics.add(fact("Ann", "likes", f"tea of {user}", user_id=user))
    assert [one.object for one in await memory.semantics.query("ann", user_id="u1")] == ["tea of u1"]
    assert len(await memory.semantics.query("ann")) == 3
    for year in (2020, 2021, 2022):
        await memory.skills.add(SkillMemory(skill_name=f"s{year}", created_at=datetime(year, 1, 1, tzinfo=UTC)))
    since, until = datetime(2021, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)
    for query in (None, "s2020 s2021 s2022"):
        found = await memory.skills.search(query, since=since, until=until)
        assert [one.document.skill_name for one in found] == ["s2021"]
    await all_raise(ConfigError, memory.skills.search(since=datetime(2021, 1, 1)))


async def test_facts_of_lone_surrogates_are_refused(memory: AsyncMemory) -> None:
    wrong = fact("Ann", "likes", "\ud800")
    await all_raise(InvalidKey, memory.semantics.add(wrong), memory.semantics.query("\ud800"))
    assert await memory.semantics.count() == 0


async def test_times_without_a_time_zone_are_refused(memory: AsyncMemory) -> None:
    noon = datetime(2024, 5, 1, 12)
    await all_raise(
        SchemaError,
        memory.episodes.add(episode(1, created_at=noon)),
        memory.semantics.add(fact("Ann", "likes", "tea", created_at=noon)),
        memory.skills.add(SkillMemory(skill_name="s", created_at=noon)),
    )
    await all_raise(
        ConfigError,
        *(memory.episodes.search(**{name: noon}) for name in ("since", "until", "now")),
        *(memory.semantics.search(**{name: noon}) for name in ("since", "until")),
        memory.episodes.search(since="2020"),
        memory.episodes.compact(lambda old: old, before=noon),
    )
    assert await memory.episodes.count() == await memory.semantics.count() == await memory.skills.count() == 0


async def test_times_that_were_stored_without_a_time_zone_are_utc(
    memory: AsyncMemory, opened: Callable[..., AsyncMemory], place: Place
) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    await memory.episodes.add(episode(1, created_at=noon))
    stored = Codec().encode({"memory_id": "e1", "content": "bookings", "created_at": noon.replace(tzinfo=None)})
    with place.raw() as raw:
        raw.hset("redismem:scope:{default}:episodes", "e1", stored)
    (found,) = await opened().episodes.search("bookings", since=noon, until=noon + timedelta(microseconds=1))
    assert found.document.created_at == noon
    assert await memory.episodes.update("e1", lambda one: one) == found.document


async def test_until_excludes_its_bound(memory: AsyncMemory) -> None:
    await memory.episodes.add(episode(1, created_at=LONG_AGO))
    assert await ids(memory, since=LONG_AGO) == ["e1"]
    assert await ids(memory, until=LONG_AGO) == []


async def test_arguments_that_cannot_work(memory: AsyncMemory) -> None:
    await memory.episodes.add(episode(1, created_at=LONG_AGO))
    for wrong in (None, "x", 1.5, -1, 0):
        await all_raise(
            ConfigError,
            memory.episodes.search(limit=wrong),
            memory.episodes.search("bookings", limit=wrong),
            memory.semantics.query(limit=wrong),
            memory.skills.search(limit=wrong),
            anext(memory.episodes.stream(batch_size=wrong)),
            memory.episodes.compact(lambda old: old, before=datetime.now(UTC), batch_size=wrong),
        )
    for wrong in (float("nan"), "x", None):
        await all_raise(
            ConfigError,
            *(
                search(query, min_score=wrong)
                for search in (memory.episodes.search, memory.semantics.search, memory.skills.search)
                for query in ("bookings", None)
            ),
            memory.semantics.query(min_confidence=wrong),
            anext(memory.episodes.stream(min_score=wrong)),
        )
    await all_raise(ConfigError, memory.episodes.search(5))
    await all_raise(InvalidKey, memory.episodes.delete(["e1"]), memory.episodes.delete(5))
    await all_raise(SchemaError, memory.episodes.compact(lambda _: None, before=datetime.now(UTC)))
    assert await ids(memory) == ["e1"]


# --- conversations --------------------------------------------------------------------------------------------------


async def test_what_was_said_to_one_user_on_one_day_is_a_conversation(memory: AsyncMemory) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    asked = EpisodicMemory(memory_id="asked", content="Which telescope is it?", created_at=noon)
    told = EpisodicMemory(memory_id="told", content="A green one.", created_at=noon + timedelta(minutes=1))

    async def found(scope: str, first: dict[str, Any], then: dict[str, Any]) -> list[str]:
        episodes = [asked.model_copy(update=first), told.model_copy(update=then)]
        await memory.episodes.add_many(episodes, scope=scope)
        return await ids(memory, "telescope", scope=scope)

    ann, bob = {"speaker": "Ann"}, {"speaker": "Bob"}
    late, early = noon.replace(hour=23, minute=59), noon + timedelta(hours=12)
    east = timezone(timedelta(hours=3))
    assert await found("speakers", ann, bob) == ["asked", "told"]
    assert await found("users", ann | {"user_id": "u"}, bob | {"user_id": "u"}) == ["asked", "told"]
    assert await found("a day of UTC", ann, bob | {"created_at": late.astimezone(east)}) == ["asked", "told"]
    assert await found("nobody", {}, {}) == ["asked"]
    assert await found("one of them", ann, {}) == ["asked"]
    assert await found("another user", ann | {"user_id": "u"}, bob | {"user_id": "v"}) == ["asked"]
    assert await found("another day", ann | {"created_at": late}, bob | {"created_at": early}) == ["asked"]
    assert await found("sessions", ann | {"session_id": "s"}, bob | {"session_id": "t"}) == ["asked"]


# --- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_each_once_in_batches_of_one_size(memory: AsyncMemory) -> None:
    await memory.episodes.add_many(EpisodicMemory(memory_id=f"e{number}", content="short") for number in range(25))
    assert [len(batch) async for batch in memory.episodes.stream(batch_size=10)] == [10, 10, 5]
    await memory.episodes.add_many(EpisodicMemory(memory_id=f"e{number}", content="x" * 200) for number in range(3000))
    met: list[str] = []
    async for batch in memory.episodes.stream(batch_size=20):
        assert len(batch) <= 20
        met += [one.memory_id for one in batch]
        if len(met) == 200:  # the server's table shrinks
            await memory.episodes.delete(*(f"e{number}" for number in range(200, 3000)))
    assert len(met) == len(set(met))
    assert {f"e{number}" for number in range(200)} <= set(met)


async def test_skills_are_read_in_pages_with_what_was_counted_of_each(
    memory: AsyncMemory, opened: Callable[..., AsyncMemory], place: Place
) -> None:
    """Neither a stream nor the first search of a process reads all that was ever counted in a scope."""
    names = [f"skill {number} é" for number in range(250)]
    async with memory.batch() as batch:
        for name in names:
            batch.skills.add(SkillMemory(skill_name=name, content="x" * 80), ttl=600 if "7" in name else None)
    async with memory.batch() as batch:
        for number, name in enumerate(names[:200]):
            batch.skills.use(name, success=number % 2 == 0)
    with place.raw() as raw:
        others = {f"uses:{'x' * 8000}{number}": 1 for number in range(1000)}  # 8 MB
        raw.hset("redismem:scope:{default}:meta:skills", mapping=others)
    known: dict[str, tuple[int, int]] = {}
    reader = opened()
    await reader.skills.search("nothing", scope="other")
    tracemalloc.start()
    try:
        async for some in memory.skills.stream(batch_size=50):
            known |= {one.skill_name: (one.uses, one.successes) for one in some}
        found = await reader.skills.search(limit=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    expected = {name: (1, int(number % 2 == 0)) if number < 200 else (0, 0) for number, name in enumerate(names)}
    assert known == expected
    assert {one.document.skill_name: (one.document.uses, one.document.successes) for one in found} == expected


# --- facts that are told again --------------------------------------------------------------------------------------


async def test_a_fact_lives_as_long_as_the_telling_that_gives_it_longest(opened: Callable[..., AsyncMemory]) -> None:
    reader, writer = opened(embedder="hashing"), opened(embedder="hashing")
    told = {"restaurant": (2 * SOON, None), "long": (2 * SOON, 100), "short": (100, SOON), "gone": (4 * SOON, SOON)}
    for name, (ttl, _) in told.items():
        await writer.semantics.add(fact(name, "is", "x", 0.9), ttl=ttl)
    await reader.semantics.query(predicate="is")  # it knows when they end
    for name, (_, ttl) in told.items():
        await writer.semantics.add(fact(name, "is", "x", 0.8), ttl=ttl)

    async def is_over() -> bool:
        return not await writer.semantics.query("gone")

    await eventually(is_over)  # so is what the others were first told with
    for one in (reader, opened(embedder="hashing")):
        assert {known.subject for known in await one.semantics.query(predicate="is")} == {"restaurant", "long", "short"}
        assert (await one.semantics.search("restaurnat"))[0].document.subject == "restaurant"  # by its embedding


async def test_what_is_known_of_one_user_is_not_taken_by_another(memory: AsyncMemory) -> None:
    told = [fact("customer", "likes", "tea", sure, user_id=user) for user, sure in (("ann", 0.9), ("bob", 0.5))]
    assert await memory.semantics.add_many([*told, fact("customer", "likes", "tea", 0.1)]) == [True] * 3
    for user in ("ann", "bob"):
        assert [one.document.user_id for one in await memory.semantics.search("tea", user_id=user)] == [user]
    assert not await memory.semantics.add(fact("Customer", "likes", "TEA", 0.3, user_id="bob"))
    # the identity of what is stored must never change
    assert fact("customer", "likes", "tea").memory_id == "5cbc734f5225eee6ec763ea95aee09de"


async def test_what_is_dated_in_the_future_can_be_corrected(memory: AsyncMemory) -> None:
    some_day = datetime.now(UTC) + timedelta(days=3650)
    assert await memory.semantics.add(fact("Ann", "likes", "tea", 0.2, created_at=some_day))
    assert not await memory.semantics.add(fact("Ann", "likes", "tea", 0.1))
    assert await memory.semantics.add(fact("Ann", "likes", "milk", 0.5))
    assert [one.object for one in await memory.semantics.query("Ann")] == ["milk", "tea"]
    assert await memory.semantics.add(fact("Ann", "likes", "tea", 0.9))
    assert [one.object for one in await memory.semantics.query("Ann")] == ["tea", "milk"]
