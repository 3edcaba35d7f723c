"""What ranking promises: each part helps where it should, and hurts little where it cannot help."""

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from redismem.search import Document, Hashing, Index, Query, Weights, wording
from redismem.search.moments import Interval, mentioned
from redismem.search.texts import Stemmer, words
from tests.conversations import Talk, conversation, recall
from tests.dialogues import dialogue

NOW = datetime(2024, 3, 15, 12, tzinfo=UTC).timestamp()
ALONE = Weights(session=0, before=(0, 0), after=(0, 0), speaker=0, time=0, answer=0)


def conversations() -> Iterator[Talk]:
    for seed in range(3):
        documents, questions = conversation(seed)
        yield random.Random(seed).sample(documents, len(documents)), questions


def dialogues() -> Iterator[Talk]:
    for seed in range(2):
        documents, questions = dialogue(seed)
        vectors = Hashing().embed([one.text for one in documents])
        yield [replace(one, vector=vector) for one, vector in zip(documents, vectors, strict=True)], questions


def named(index: Index, question: str) -> Query:
    del index
    return Query(vector=Hashing().embed([question])[0])


def nameless(index: Index, question: str) -> Query:
    return named(index, index.nameless(question))


def test_evidence_is_found_in_dialogues() -> None:
    assert recall(dialogues(), ALONE) < 0.75
    assert recall(dialogues()) > 0.95


def test_vectors_find_more_when_questions_come_without_names() -> None:
    assert recall(dialogues(), asking=nameless) > recall(dialogues(), asking=named) + 0.05


def test_each_part_of_the_context_finds_more() -> None:
    neighbours = replace(ALONE, before=Weights().before, after=Weights().after)
    found = [
        recall(conversations(), weights)
        for weights in (ALONE, neighbours, replace(neighbours, session=0.5, speaker=0.5), Weights())
    ]
    assert found == sorted(found)
    assert found[1] > found[0] + 0.1
    assert found[3] > found[1] + 0.05


def test_context_does_no_harm_where_there_is_none() -> None:
    """Every text by itself, asked for by some of its own words: as good as FTS5 alone."""
    documents, _ = conversation(7)
    distinct = list({document.text: replace(document, session=None) for document in documents}.values())
    index = Index()
    index.apply(distinct, [])
    bare = sqlite3.connect(":memory:")
    bare.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize='porter')")
    bare.executemany("INSERT INTO t(rowid, text) VALUES (?, ?)", enumerate(one.text for one in distinct))
    draw, ours, theirs = random.Random(7), 0, 0
    for number, document in enumerate(distinct):
        said = words(document.text)
        question = " ".join(draw.sample(said, min(4, len(said))))
        ours += document.id in [hit.id for hit in index.search(Query(question))]
        match = " OR ".join(f'"{word}"' for word in words(question))
        rows = bare.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10", (match,)).fetchall()
        theirs += (number,) in rows
    bare.close()
    assert ours >= 0.97 * theirs


def talk(*said: tuple[str, str]) -> list[Document]:
    return [Document(f"t{number}", text, NOW + number, "talk", speaker) for number, (speaker, text) in enumerate(said)]


def index_of(documents: list[Document]) -> Index:
    index = Index()
    index.apply(documents, [])
    return index


def best(documents: list[Document], query: Query | str, weights: Weights | None = None) -> str:
    index = Index(weights)
    index.apply(documents, [])
    return index.search(Query(query) if isinstance(query, str) else query)[0].id


def test_who_is_named_is_who_speaks_not_who_says_the_name() -> None:
    said = talk(
        ("Ann", "Bob, have you been climbing?"), ("Bob", "Yes, climbing is fun."), ("Ann", "Good for you, Bob!")
    )
    assert best(said, "What did Bob say about climbing?") == "t1"
    assert best(said, "What did Ann say about climbing?") == "t0"


def test_a_name_that_nobody_bears_is_a_word() -> None:
    said = talk(("Ann", "I met Zelda at the fair."), ("Bob", "I met nobody."))
    assert best(said, "Who met Zelda?") == "t0"


def test_a_word_that_is_in_the_names_of_many_is_none_of_them() -> None:
    said = [Document(f"t{number}", "a seat", NOW, speaker=f"customer {number}") for number in range(200)]
    index = Index()
    index.apply(said, [])
    hits = index.search(Query("the seat of customer 7", limit=200))
    assert hits[0].id == "t7"
    assert [hit.id for hit in hits if hit.parts["speaker"]] == ["t7"]
    index.apply([], [f"t{number}" for number in range(2, 200)])
    assert all(hit.parts["speaker"] for hit in index.search(Query("the seat of a customer")))


def test_names_come_and_go() -> None:
    index = Index()
    for round_ in range(5):
        said = [Document(f"t{number}", "a seat", NOW, speaker=f"guest{round_}x{number}") for number in range(1000)]
        index.apply(said, [])
        hits = {hit.id: hit.parts for hit in index.search(Query(f"seat of guest{round_}x7", limit=300))}
        assert [one for one, parts in hits.items() if parts["speaker"]] == ["t7"]
        assert "speaker" not in index.search(Query(f"seat of guest{round_ - 1}x7"))[0].parts


def test_an_answer_is_found_beside_its_question() -> None:
    said = talk(("Ann", "Morning!"), ("Ann", "Which telescope is it?"), ("Bob", "A green one."), ("Ann", "Bye."))
    said += [Document("other", "Nothing to see", NOW, "elsewhere", "Bob")]
    index = Index()
    index.apply(said, [])
    found = [hit.id for hit in index.search(Query("telescope"))]
    assert found[:2] == ["t1", "t2"]
    assert "other" not in found


def test_when_wants_a_time_and_how_many_a_number() -> None:
    said = [
        Document("no", "the kayak arrived"),
        Document("time", "the kayak came last week"),
        Document("n", "7 of a kayak"),
    ]
    assert best(said, "when did you see the kayak") == "time"
    assert best(said, "how many kayak trips") == "n"


def test_importance_and_recency_decide_between_equals_only() -> None:
    same = [
        Document("old", "a lamp", NOW - 9e6),
        Document("new", "a lamp", NOW),
        Document("big", "a lamp", NOW - 9e6, importance=1),
    ]
    index = Index()
    index.apply([*same, Document("part", "a carpet and the lamp of a neighbour who left", NOW, importance=1)], [])
    assert [hit.id for hit in index.search(Query("red lamp a"))][:2] == ["big", "new"]
    assert best([*same, Document("both", "lamp, carpet", 0.0)], "carpet lamp") == "both"


def test_text_and_vector_agree_on_the_best() -> None:
    def at(angle: float) -> np.ndarray:
        return np.array([np.cos(angle), np.sin(angle)], np.float32)

    said = [
        Document("text", "a violin", vector=at(1.5)),
        Document("vector", "nothing", vector=at(0.0)),
        Document("both", "a violin", vector=at(0.1)),
    ]
    index = Index()
    index.apply(said, [])
    hits = {hit.id: hit for hit in index.search(Query("violin", vector=at(0.0)))}
    assert next(iter(hits)) == "both"
    assert set(hits) == {"text", "vector", "both"}
    assert hits["both"].parts["fusion"] > max(hits["text"].parts["fusion"], hits["vector"].parts["fusion"])


def test_scores_are_comparable() -> None:
    said = [Document("all", "red lamp"), Document("half", "red"), Document("none", "green carpet")]
    index = Index()
    index.apply(said, [])
    all_, half = index.search(Query("red lamp"))
    assert (all_.id, half.id) == ("all", "half")
    assert 1 >= all_.score > 0.5 > half.score > 0
    assert [hit.id for hit in index.search(Query("red lamp", min_score=0.5))] == ["all"]
    assert index.search(Query("lamp lamp lamp"))[0].score == pytest.approx(index.search(Query("lamp"))[0].score)


def day(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def intervals(text: str, now: float, oldest: float) -> list[Interval]:
    moments, _ = mentioned(text, now, oldest)
    return [interval for moment in moments for interval in moment.intervals]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("on 31 June 2023", "2023-01-01", "2024-01-01"),
        ("in 2022?", "2022-01-01", "2023-01-01"),
        ("on 7 May 2023", "2023-05-07", "2023-05-08"),
        ("on May 7th, 2023", "2023-05-07", "2023-05-08"),
        ("2023-05-07", "2023-05-07", "2023-05-08"),
        ("2023-12", "2023-12-01", "2024-01-01"),
        ("in December 2023", "2023-12-01", "2024-01-01"),
        ("yesterday", "2024-03-14", "2024-03-15"),
        ("today", "2024-03-15", "2024-03-16"),
        ("last week", "2024-03-04", "2024-03-11"),
        ("last weekend", "2024-03-09", "2024-03-11"),
        ("this month", "2024-03-01", "2024-04-01"),
        ("last month", "2024-02-01", "2024-03-01"),
        ("last year", "2023-01-01", "2024-01-01"),
        ("last Friday", "2024-03-08", "2024-03-09"),
        ("on Thursday", "2024-03-14", "2024-03-15"),
    ],
)
def test_times_that_a_question_mentions(text: str, start: str, end: str) -> None:
    moments, rest = mentioned(f"What was said {text} about it", NOW, day("2024-01-01"))
    assert [moment.intervals for moment in moments if moment.intervals] == [((day(start), day(end)),)]
    assert rest.startswith("What was said ")
    assert rest.endswith(" about it")
    assert sorted(words(rest) + [word for one in moments for word in words(one.said)]) == sorted(
        words(f"What was said {text} about it")
    )


def test_a_month_is_that_of_any_year() -> None:
    assert intervals("What happened in May?", NOW, day("2022-02-02")) == [
        (day(f"{year}-05-01"), day(f"{year}-06-01")) for year in (2022, 2023, 2024)
    ]


def test_some_weeks_ago_is_about_then() -> None:
    ((start, end),) = intervals("two weeks ago", NOW, 0)
    assert start < day("2024-03-01") < end
    assert end - start < 9 * 86400


@pytest.mark.parametrize("text", ["may I march on?", "31 of June on", "0 May", "version 12023", "", "now"])
def test_times_that_are_none(text: str) -> None:
    assert intervals(text, NOW, 0) == []


@pytest.mark.parametrize("now", [float("-inf"), float("inf"), -1e12, 1e15, 0.0])
def test_times_of_strange_clocks(now: float) -> None:
    mentioned("yesterday, last year, in May, 999 years ago", now, -1e18)


def test_who_asks_for_a_time_gets_what_was_said_then() -> None:
    said = [Document(month, "I repaired the kettle", day(f"2023-{month}-12")) for month in ("03", "05", "08")]
    assert best(said, "What was repaired in May?") == "05"
    assert best(said, Query("What was repaired last month?", now=day("2023-04-01"))) == "03"


def test_the_words_of_a_time_are_no_words_apart() -> None:
    said = [
        Document("said", "We adopted a beagle", day("2023-05-08"), "a"),
        Document("other", "8 pounds of food in 2023, and 8 bowls for the beagle", day("2023-01-08"), "b"),
        Document("later", "The vet comes on 8 May 2023, for the beagle", day("2023-04-02"), "c"),
    ]
    assert best(said, "Which dog came, a beagle, on 8 May, 2023?") in ("said", "later")
    parts = {hit.id: hit.parts["turn"] for hit in index_of(said).search(Query("the beagle on 8 May, 2023"))}
    assert parts["later"] > parts["said"] > parts["other"]


def test_many_times_are_as_few_words_as_others() -> None:
    dates = [f"on {day} May {year}" for year in range(2000, 2030) for day in range(1, 20)]
    asked = wording.read("the beagle", dates * 2, lambda _: (), Stemmer(), 32)
    assert len(set(asked.terms)) == len(asked.terms) == 32
    assert len(wording.read("the beagle", ["in May", "in May"], lambda _: (), Stemmer(), 32).terms) == 2
    assert wording.read("what did she do", ["in June"], lambda _: (), Stemmer(), 32).terms == ((frozenset({"june"}),),)


def test_a_time_when_nothing_was_said_is_its_words() -> None:
    told = [
        Document("may", "[8 May, 2023] Ann: we adopted a beagle", NOW),
        Document("june", "[9 June, 2023] Ann: the beagle sleeps", NOW),
    ]
    assert best(told, "What about the beagle in June?") == "june"
    assert best(told, "What about the beagle on 8 May?") == "may"


def test_of_those_who_share_a_name_the_one_is_meant_who_is_named_in_full() -> None:
    said = [
        Document("joe", "the kettle", NOW + 1, speaker="Joe Smith"),
        Document("anne", "the kettle", NOW, speaker="Dr. Anne Smith"),
        Document("a", "the kettle", NOW + 2, speaker="Speaker A"),
    ]

    def lifted(question: str) -> set[str]:
        return {hit.id for hit in index_of(said).search(Query(question)) if hit.parts.get("speaker")}

    assert best(said, "the kettle of Anne Smith") == "anne"
    assert lifted("the kettle of Anne Smith") == {"anne"}
    assert lifted("the kettle of Smith") == {"joe", "anne"}
    assert lifted("what is a kettle") == set()
    assert lifted("the kettle of speaker A") == {"a"}


def test_a_question_may_mean_a_speaker_or_a_time_alone() -> None:
    said = [
        Document("rome", "We ate pizza in Rome", day("2024-05-01"), speaker="Ann"),
        Document("order", "Refunded the order", day("2024-05-09"), speaker="Bob"),
        Document("oslo", "Cancelled the flight to Oslo", day("2024-05-09"), speaker="Ann"),
        Document("seat", "Seat was changed", day("2024-05-10T10:00"), speaker="Bob"),
    ]
    index = Index()
    index.apply(said, [])

    def found(question: str) -> set[str]:
        return {hit.id for hit in index.search(Query(question, now=day("2024-05-10T12:00")))}

    assert found("What did Ann say?") == {"rome", "oslo"}
    assert found("Tell me about Bob") == {"order", "seat"}
    assert found("What happened yesterday?") == {"order", "oslo"}
    assert found("What did Ann do on 9 May 2024?") == {"oslo"}
    assert found("What happened?") == set()
    assert all(hit.score <= 0.5 for hit in index.search(Query("What did Ann say?")))
    assert index.search(Query("flight yesterday", now=day("2024-05-10T12:00")))[0].id == "oslo"


def test_what_was_said_at_one_instant_is_in_the_order_of_its_ids() -> None:
    said = [Document(f"t{number}", f"line {'kayak' * (number == 9)}", NOW, "talk") for number in range(12)]
    for seed in range(3):
        index = Index(replace(Weights(), session=0))
        index.apply(random.Random(seed).sample(said, 12), [])
        assert [hit.id for hit in index.search(Query("kayak"))] == ["t9", "t10", "t8", "t11", "t7"]
