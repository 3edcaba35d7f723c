"""Embeddings: made by workers, kept beside documents, searched by all who have the same embedder; everywhere."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from redismem import AsyncMemory, EpisodicMemory, SemanticMemory, SkillMemory
from redismem import search as searching
from redismem.errors import ConfigError, EmbedderFailed, SchemaError
from redismem.search import Hashing
from tests.contract.flavours import SOON, Place, eventually, on_servers

pytestmark = on_servers

MEANINGS = {"dog": 0, "puppy": 0, "hound": 0, "car": 1, "automobile": 1}
VECTORS = "redismem:scope:{default}:vectors:episodes"

Opened = Callable[..., AsyncMemory]


def meaning(texts: Sequence[str]) -> list[list[float]]:
    """One number for each meaning of which a text has a word."""
    rows = [[0.0, 0.0, 0.1] for _ in texts]
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            if word in MEANINGS:
                row[MEANINGS[word]] = 1.0
    return rows


MEANING = searching.Callable(meaning, 3, "meaning-1")


def told(number: int, content: str) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=content)


async def ids(memory: AsyncMemory, query: str, **more: Any) -> list[str]:
    return [one.document.memory_id for one in await memory.episodes.search(query, min_score=0.2, **more)]


async def test_what_was_said_in_other_words_is_found(opened: Opened) -> None:
    writer, reader, bare = opened(embedder=MEANING), opened(embedder=MEANING), opened()
    await writer.episodes.add_many([told(1, "Her dog sleeps"), told(2, "A red automobile")])
    assert await ids(reader, "puppy") == ["e1"]  # it read the collection
    await writer.episodes.add(told(3, "The hound again"))
    assert sorted(await ids(reader, "puppy")) == ["e1", "e3"]  # it read the log
    assert await ids(reader, "car") == await ids(writer, "car") == ["e2"]
    assert await ids(bare, "puppy") == []
    assert await ids(bare, "dog") == ["e1"]


async def test_a_question_is_embedded_without_the_names_of_those_who_speak(opened: Opened) -> None:
    asked: list[str] = []

    def noting(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return meaning(texts)

    memory = opened(embedder=searching.Callable(noting, 3, "noting-1"))
    said = {"content": "Ann, your hound!", "speaker": "Bo Berg", "session_id": "s1"}
    await memory.episodes.add_many([EpisodicMemory(**said), EpisodicMemory(**(said | {"speaker": "Ann"}))])
    asked.clear()
    for question in ("When did Ann's dog bark at BO?", "Ann?", "Carl's car"):
        await memory.episodes.search(question)
    assert [" ".join(one.split()) for one in asked] == ["When did dog bark at ?", "Ann?", "Carl's car"]


async def test_one_round_trip_each(opened: Opened) -> None:
    memory = opened(embedder=MEANING)
    await memory.episodes.add(told(1, "dog"))
    await ids(memory, "puppy")
    before = memory.stats().round_trips
    await memory.episodes.add(told(2, "hound"))
    assert memory.stats().round_trips == before + 1
    assert len(await ids(memory, "puppy")) == 2
    assert memory.stats().round_trips == before + 2


async def test_they_are_raw_numbers_beside_their_documents(opened: Opened, place: Place) -> None:
    memory = opened(embedder=MEANING)
    await memory.episodes.add_many([told(1, "dog"), told(2, "car")])
    with place.raw() as raw:
        assert np.frombuffer(raw.hget(VECTORS, "e1"), "<f4").tolist() == pytest.approx([1, 0, 0.1])
        await memory.episodes.update("e1", lambda one: one.model_copy(update={"content": "automobile"}))
        assert np.frombuffer(raw.hget(VECTORS, "e1"), "<f4").tolist() == pytest.approx([0, 1, 0.1])
        await memory.episodes.delete("e2")
        assert raw.hkeys(VECTORS) == [b"e1"]
        await memory.episodes.forget()
        assert not raw.exists(VECTORS)


async def test_they_end_with_their_documents(opened: Opened, place: Place) -> None:
    memory = opened(embedder=MEANING)
    await memory.episodes.add(told(1, "dog"), ttl=SOON)
    await memory.episodes.add(told(2, "hound"), ttl=100)
    await memory.episodes.update("e2", lambda one: one)
    assert await ids(memory, "puppy") in (["e2"], ["e1", "e2"], ["e2", "e1"])
    while await memory.episodes.get("e1"):
        pass
    with place.raw() as raw:
        assert await ids(memory, "puppy") == ["e2"]
        await memory.episodes.update("e2", lambda one: one)
        assert raw.hkeys(VECTORS) == [b"e2"]
        await memory.episodes.add(told(2, "hound"), ttl=SOON)

        async def is_gone() -> bool:
            return VECTORS.encode() not in place.left_over()

        await eventually(is_gone)


async def test_the_least_used_go_with_theirs(opened: Opened, place: Place) -> None:
    memory = opened(embedder=MEANING, max_documents=2)
    await memory.episodes.add_many([told(number, "dog") for number in range(5)])
    with place.raw() as raw:
        assert raw.hlen(VECTORS) == raw.hlen("redismem:scope:{default}:episodes") == 2


async def test_facts_and_skills_have_them_too(opened: Opened) -> None:
    memory = opened(embedder=MEANING)
    await memory.semantics.add(SemanticMemory(subject="Ann", predicate="has", object="puppy"))
    await memory.semantics.add(SemanticMemory(subject="Bob", predicate="has", object="car"))
    await memory.skills.add(SkillMemory(skill_name="walk", description="the dog"))
    assert (await memory.semantics.search("hound"))[0].document.subject == "Ann"
    assert (await memory.skills.search("hound"))[0].document.skill_name == "walk"


async def test_those_of_two_embedders_are_not_compared(opened: Opened) -> None:
    old, new = opened(embedder=MEANING), opened(embedder=searching.Callable(meaning, 3, "meaning-2"))
    await old.episodes.add(told(1, "dog"))
    await new.episodes.add(told(2, "hound"))
    assert await ids(old, "puppy") == ["e1"]
    assert await ids(new, "puppy") == []
    assert sorted(await ids(old, "hound")) == ["e1", "e2"]  # by meaning, and by word
    assert await new.episodes.embed() == 2
    assert sorted(await ids(new, "puppy")) == ["e1", "e2"]
    assert await new.episodes.embed() == 0


async def test_what_workers_without_an_embedder_write_can_be_embedded(opened: Opened, place: Place) -> None:
    bare, memory = opened(), opened(embedder=MEANING)
    await memory.episodes.add(told(1, "dog"))
    await bare.episodes.add(told(1, "car"))
    await bare.episodes.add(told(2, "puppy"))
    assert await ids(memory, "hound") == []
    with pytest.raises(ConfigError, match="embedder"):
        await bare.episodes.embed()
    assert await memory.episodes.embed(batch_size=1) == 2
    assert await ids(memory, "hound") == ["e2"]
    assert await ids(memory, "automobile") == ["e1"]


async def test_an_embedder_that_fails_changes_nothing(opened: Opened) -> None:
    for function in (
        lambda texts: [[float("nan")] * 3 for _ in texts],
        lambda texts: [[1.0] * 2 for _ in texts],
        lambda _: [[1.0] * 3] * 7,
        lambda texts: [[1.0] * 3, [1.0] * 2],
    ):
        memory = opened(embedder=searching.Callable(function, 3, "broken"))
        with pytest.raises(SchemaError, match="broken"):
            await memory.episodes.add(told(1, "dog"))
    assert await opened().episodes.count() == 0


async def test_an_embedder_that_is_away_keeps_nobody_from_working(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    away = [False]

    def model(texts: Sequence[str]) -> list[list[float]]:
        if away[0]:
            raise ConnectionError(f"no answer to {texts}")
        return meaning(texts)

    memory = opened(embedder=searching.Callable(model, 3, "remote"))
    await memory.episodes.add(told(1, "dog"))
    away[0] = True
    await memory.episodes.add(told(2, "hound"))
    await memory.semantics.add(SemanticMemory(subject="Ann", predicate="has", object="hound"))
    assert await memory.episodes.update("e1", lambda one: one.model_copy(update={"content": "puppy"})) is not None
    assert await ids(memory, "hound") == ["e2"]  # by its word
    assert len(caplog.records) == 4
    assert {(record.name, record.levelname) for record in caplog.records} == {("redismem", "WARNING")}
    assert "remote: it raised ConnectionError" in caplog.text
    assert not {"hound", "puppy"} & set(caplog.text.split())
    with pytest.raises(EmbedderFailed, match="remote") as failed:
        await memory.episodes.embed()
    assert isinstance(failed.value.__cause__, ConnectionError)
    away[0] = False
    assert await memory.episodes.embed() == 2
    assert sorted(await ids(memory, "dog")) == ["e1", "e2"]


async def test_an_embedder_that_would_have_to_be_awaited(opened: Opened) -> None:
    async def embed(texts: Sequence[str]) -> list[list[float]]:
        return meaning(texts)

    class Asynchronous:
        name, dimensions = "asynchronous", 3

        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            return meaning(texts)

    with pytest.raises(ConfigError, match="plain function"):
        searching.Callable(embed, 3, "asynchronous")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="plain function"):
        opened(embedder=Asynchronous())
    memory = opened(embedder=searching.Callable(lambda texts: embed(texts), 3, "hidden"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(SchemaError, match="hidden: it must give rows of numbers, not a coroutine"):
        await memory.episodes.add(told(1, "dog"))
    for wrong in (0, 1.5):
        with pytest.raises(ConfigError, match="batch_size"):
            await memory.episodes.embed(batch_size=wrong)


async def test_what_nobody_made_hides_nothing(opened: Opened, place: Place) -> None:
    writer, reader = opened(embedder=MEANING), opened(embedder=MEANING)
    await writer.episodes.add_many([told(number, "dog") for number in range(4)])
    with place.raw() as raw:
        raw.hset(VECTORS, "e0", b"short")
        raw.hset(VECTORS, "e1", np.full(3, np.nan, "<f4").tobytes())
        raw.hset(VECTORS, "e2", b"")
    assert await ids(reader, "puppy") == ["e3"]
    assert len(await ids(reader, "dog")) == 4


async def test_in_a_batch(opened: Opened) -> None:
    memory = opened(embedder=MEANING)
    async with memory.batch() as batch:
        batch.episodes.add(told(1, "dog"))
        batch.episodes.add_many([told(2, "car"), told(3, "hound")])
    assert sorted(await ids(memory, "puppy")) == ["e1", "e3"]


async def test_tasks_go_on_while_a_model_works(opened: Opened, place: Place) -> None:
    threads: list[threading.Thread] = []

    def slow(texts: Sequence[str]) -> list[list[float]]:
        threads.append(threading.current_thread())
        return meaning(texts)

    memory = opened(embedder=searching.Callable(slow, 3, "slow"))
    await memory.episodes.add(told(1, "dog"))
    await ids(memory, "puppy")
    assert len(threads) == 2
    is_here = [thread is threading.current_thread() for thread in threads]
    assert is_here == [place.flavour == "sync"] * 2


async def test_without_a_model_words_that_are_spelled_alike_are_alike(opened: Opened) -> None:
    memory = opened(embedder=Hashing())
    await memory.episodes.add_many([told(1, "We booked the restaurant"), told(2, "It rained all day")])
    for one in (memory, opened(embedder="hashing")):
        assert (await one.episodes.search("restaurnat"))[0].document.memory_id == "e1"


async def test_weights_are_a_setting(opened: Opened) -> None:
    memory = opened(embedder=MEANING, weights={"vector": 0.0, "fusion": 0.0})
    await memory.episodes.add(told(1, "dog"))
    assert await ids(memory, "puppy") == []
    assert await ids(memory, "dog") == ["e1"]


async def test_names_that_stand_for_no_embedder(opened: Opened) -> None:
    for wrong in ("word2vec", 7):
        with pytest.raises(ConfigError, match="embedder"):
            opened(embedder=wrong)
