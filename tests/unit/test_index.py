"""The local index holds what it was given, filters as a plain loop would, and takes any text for a text."""

import random
import threading
import tracemalloc
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redismem.errors import SchemaError
from redismem.search import Document, Hit, Index, Query
from redismem.search.database import Database
from redismem.search.documents import Documents
from redismem.search.texts import Stemmer, Texts

WORDS = ("river", "stone", "bird", "lantern")
NAMES = st.sampled_from([None, "a", "b"])
TAGS = st.frozensets(st.sampled_from(["x", "y", "z"]), max_size=3)
TIMES = st.integers(0, 5).map(float)
DOCUMENTS = st.builds(
    Document,
    id=st.integers(0, 9).map(str),
    text=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
    at=TIMES,
    session=NAMES,
    speaker=NAMES,
    user=NAMES,
    task_id=NAMES,
    tags=TAGS,
    score=TIMES,
    success=st.sampled_from([None, True, False]),
    vector=st.none() | st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).map(np.array),
)
QUERIES = st.fixed_dictionaries(
    {
        "session": NAMES,
        "speaker": NAMES,
        "user": NAMES,
        "task_id": NAMES,
        "tags": TAGS,
        "any_tags": TAGS,
        "success_only": st.booleans(),
        "min_reward": st.none() | TIMES,
        "since": st.none() | TIMES,
        "until": st.none() | TIMES,
    }
)
STEPS = st.lists(
    st.tuples(st.lists(DOCUMENTS, max_size=6), st.lists(st.integers(0, 9).map(str), max_size=4)), max_size=6
)


def index_of(*documents: Document) -> Index:
    index = Index()
    index.apply(documents, [])
    return index


def ids(hits: Iterable[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def found(text: str, *texts: str) -> list[str]:
    index = index_of(*(Document(str(number), one) for number, one in enumerate(texts)))
    return sorted(ids(index.search(Query(text))))


def passes(document: Document, query: Query) -> bool:
    named = all(
        getattr(query, name) in {None, getattr(document, name)} for name in ("session", "speaker", "user", "task_id")
    )
    return (
        named
        and query.tags <= document.tags
        and (not query.any_tags or bool(query.any_tags & document.tags))
        and (not query.success_only or document.success is True)
        and (query.min_reward is None or document.score >= query.min_reward)
        and (query.since is None or document.at >= query.since)
        and (query.until is None or document.at < query.until)
    )


@settings(deadline=None, max_examples=50)
@given(STEPS, QUERIES, st.sampled_from(WORDS))
def test_what_is_found_is_what_a_plain_loop_finds(steps: Any, filters: dict[str, Any], word: str) -> None:
    index, model = Index(), dict[str, Document]()
    for upserts, deletes in steps:
        index.apply(upserts, deletes)
        for one in deletes:
            model.pop(one, None)
        model.update({document.id: document for document in upserts})
        assert len(index) == len(model)
        query = Query(**filters)
        passing = {one for one, document in model.items() if passes(document, query)}
        newest_first = sorted(passing, key=lambda one: (-model[one].at, one))
        assert ids(index.search(query)) == newest_first
        hits = index.search(Query(word, **filters))
        assert set(ids(hits)) <= passing
        assert {one for one in passing if word in model[one].text.split()} <= set(ids(hits))
        vector = np.array([1.0, 0.5, 0.25])
        near = {one for one in passing if model[one].vector is not None and model[one].vector @ vector > 1e-6}
        hits = index.search(Query(vector=vector, **filters))
        assert near <= set(ids(hits)) <= passing
        assert all(0 <= hit.score <= 1 and all(0 <= part <= 1 for part in hit.parts.values()) for hit in hits)
    index.close()


@settings(deadline=None, max_examples=50)
@given(STEPS, st.sampled_from(WORDS))
def test_neighbours_are_those_of_an_index_made_at_once(steps: Any, word: str) -> None:
    grown, model = Index(), dict[str, Document]()
    for upserts, deletes in steps:
        grown.apply(upserts, deletes)
        grown.search(Query(word))  # orders conversations in between
        for one in deletes:
            model.pop(one, None)
        model.update({document.id: document for document in upserts})
    anew = index_of(*model.values())
    for query in (Query(word), Query(vector=[1.0, 0.5, 0.25])):
        mine, others = ({hit.id: hit.parts for hit in index.search(query)} for index in (grown, anew))
        assert mine.keys() == others.keys()
        assert all(mine[one] == pytest.approx(others[one], abs=1e-5) for one in mine)


@settings(deadline=None, max_examples=50)
@given(STEPS, st.sampled_from(WORDS))
def test_what_is_loaded_is_what_is_applied(steps: Any, word: str) -> None:
    loaded, applied = Index(), Index()
    for number, (upserts, deletes) in enumerate(steps):
        loaded.load(Documents.of(upserts))
        if number % 2:
            loaded.apply([], deletes)
            applied.apply(upserts, [])
            applied.apply([], deletes)
        else:
            applied.apply(upserts, [])
    for query in (Query(), Query(word), Query(vector=[1.0, 0.5, 0.25])):
        assert ids(loaded.search(query)) == ids(applied.search(query))


def test_texts_that_could_not_be_taken_in_still_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(Document("1", "river"))
    index.load(Documents(["1", "2"], ["bird", "stone"]))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", _full)
        with pytest.raises(MemoryError):
            index.load_waiting()
    index.load(Documents(["2"], ["lantern"]))
    assert [ids(index.search(Query(word))) for word in WORDS] == [[], [], ["1"], ["2"]]


def _full(*_: Any) -> None:
    raise MemoryError


def test_documents_load_while_texts_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    index, apply, going, go_on = Index(), Texts.apply, threading.Event(), threading.Event()

    def slow(self: Texts, *args: Any) -> None:
        going.set()
        assert go_on.wait(60)
        apply(self, *args)

    monkeypatch.setattr(Texts, "apply", slow)
    index.load(Documents(["1", "2"], ["river", "bird"]))
    thread = threading.Thread(target=index.load_waiting)
    thread.start()
    assert going.wait(60)
    index.load(Documents(["2", "3"], ["lantern", "stone"]))
    go_on.set()
    assert [ids(index.search(Query(word))) for word in WORDS] == [["1"], ["3"], [], ["2"]]
    thread.join(60)


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text_is_a_text(text: str) -> None:
    index = index_of(Document("said", text), Document("other", "a lantern"))
    index.search(Query(text))
    assert ids(index.search(Query("lantern")))[0] == "other" or "lantern" in text.lower()


@pytest.mark.parametrize(
    "text",
    ['"', 'river"', "river AND", "NOT river", "river NEAR(stone)", "text:river", "riv*", "^river", "(river", "-river",
     "river OR OR", "{text}: river", "river + stone", "river\0stone", "'; DROP TABLE texts; --", "river\ud800"],
)  # fmt: skip
def test_a_question_is_never_syntax(text: str) -> None:
    index = index_of(Document("1", "the river bends"), Document("2", "no such thing, text near drop table"))
    hits = index.search(Query(text))
    assert ("river" in text) <= ("1" in ids(hits))
    assert ids(index.search(Query("river"))) == ["1"]


def test_words_are_found_whatever_their_form() -> None:
    assert found("RUNNING", "they run", "a rune") == ["0"]
    assert found("cafe", "Le Café", "cafe\u0301 noir", "coffee") == ["0", "1"]
    assert found("naïve", "NAIVE") == ["0"]
    assert found("buying", "I bought it", "they buy", "by the way") == ["0", "1"]
    assert found("children", "my child", "kids") == ["0", "1"]
    assert found("try", "she tried", "trying", "a trial") == ["0", "1"]
    assert found("who died?", "they die", "dying", "a diary") == ["0", "1"]
    assert found("favourite color", "my favorite", "the colour") == ["0", "1"]
    assert found("東京", "東京 タワー") == ["0"]
    assert found("well-known", "well known") == ["0"]
    assert found("who is it?", "it is who", "river") == ["0"]
    assert found("🙂", "🙂") == found("!?", "!?") == []


def test_question_words_carry_no_weight() -> None:
    assert found("what did they do to the stone", "what did they do", "a stone") == ["1"]


def test_a_lone_surrogate_keeps_nobody_out() -> None:
    index = index_of(Document("1", "river \ud800"), Document("2", "river"))
    assert sorted(ids(index.search(Query("river")))) == ["1", "2"]


def test_a_document_without_text_is_refused_before_others_are_taken_in() -> None:
    index = index_of(Document("1", "river"))
    with pytest.raises(TypeError, match="'7'"):
        index.apply([Document("6", "bird"), Document("7", None), Document("8", "stone")], ["1"])  # type: ignore[arg-type]
    assert ids(index.search(Query())) == ["1"]


@pytest.mark.parametrize(
    "damage",
    [
        {"id": ""},
        {"id": b"7"},
        {"tags": 5},
        {"tags": [b"a"]},
        {"tags": frozenset({"a", 5})},
        {"session": 5},
        {"speaker": 5},
        {"user": b"u"},
        {"task_id": ["t"]},
        {"at": float("nan")},
        {"at": "5"},
        {"at": [1.0, 2.0]},
        {"order": 10**400},
        {"importance": None},
        {"score": [[1.0], []]},
    ],
)
def test_a_damaged_document_changes_nothing(damage: dict[str, Any]) -> None:
    index = index_of(Document("1", "river"))
    damaged = Document(**{"id": "7", "text": "river", **damage})
    for documents in ([damaged], [Document("6", "river"), damaged]):
        with pytest.raises(TypeError):
            index.apply(documents, ["1"])
        assert ids(index.search(Query())) == ids(index.search(Query("river"))) == ["1"]


def test_damage_of_one_costs_the_others_nothing() -> None:
    """An array of numbers and one long text would take as much for each of them."""
    tracemalloc.start()
    try:
        with pytest.raises(TypeError):
            Documents([str(number) for number in range(1000)], ["river"] * 1000, score=[0.0] * 999 + ["x" * 100_000])  # type: ignore[list-item]
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("vector", [[1.0], [1.0, float("nan")], [[1.0, 2.0]], []])
def test_vectors_that_do_not_fit_change_nothing(vector: Any) -> None:
    index = index_of(Document("1", "river", vector=np.array([1.0, 0.0], np.float32)))
    with pytest.raises(SchemaError):
        index.apply([Document("2", "stone"), Document("3", "bird", vector=np.array(vector))], ["1"])
    assert len(index) == 1
    with pytest.raises(SchemaError):
        index.search(Query(vector=vector))
    assert ids(index.search(Query(vector=[2.0, 0.1]))) == ["1"]


def test_a_replaced_document_is_as_it_is_now() -> None:
    index = index_of(Document("1", "river", importance=0.1), Document("2", "stone"))
    index.apply([Document("1", "river", importance=0.9)], [])
    assert index.search(Query("river"))[0].parts["importance"] == pytest.approx(0.9)
    index.apply([Document("1", "bird")], [])
    assert ids(index.search(Query("river"))) == []
    assert ids(index.search(Query("bird"))) == ["1"]
    index.apply([Document("1", "lantern")], ["1", "2"])
    assert ids(index.search(Query())) == ["1"]


def test_limits() -> None:
    index = index_of(*(Document(str(number), "river stone" if number else "river") for number in range(30)))
    assert len(index.search(Query("river", limit=7))) == 7
    assert index.search(Query("river", limit=0)) == []
    assert len(index.search(Query("river", limit=10**9))) == 30
    hits = index.search(Query("stone river", limit=100))
    some = index.search(Query("stone river", limit=100, min_score=hits[0].score))
    assert ids(some) == [hit.id for hit in hits if hit.score == hits[0].score] != ids(hits)


@pytest.mark.parametrize("text", ["river", "when was the river and the bird there", ""])
@pytest.mark.parametrize("vector", [None, [1.0, 0.5]])
def test_what_is_found_first_does_not_depend_on_the_limit(text: str, vector: list[float] | None) -> None:
    draw = random.Random(4)
    index = index_of(
        *(
            Document(
                str(number),
                " ".join(draw.choices((*WORDS, "2023", "hill", "road"), k=draw.randint(1, 8))),
                at=float(number),
                session=str(number // 20),
                vector=np.array([draw.random(), draw.random()]),
            )
            for number in range(1500)
        )
    )
    all_, ten = (index.search(Query(text, vector, limit=limit)) for limit in (200, 10))
    assert [(hit.id, hit.score) for hit in all_[:10]] == [(hit.id, hit.score) for hit in ten]
    assert len(all_) == 200
    least = all_[20].score
    good = [hit.id for hit in all_ if hit.score >= least]
    assert ids(index.search(Query(text, vector, limit=200, min_score=least))) == good


@pytest.mark.parametrize("asked", [Query("a river"), Query(vector=[1.0, 0.3, 0.5])])
def test_of_many_equals_the_newest_are_found_whatever_came_first(asked: Query) -> None:
    vector = np.array([0.9, 0.4, 0.1])
    equals = [Document(f"{number:04}", "the river", at=number // 2, vector=vector) for number in range(2000)]
    equals.append(Document("good", "the river", at=500, importance=1.0, vector=vector))
    for seed in range(3):
        index = index_of(*random.Random(seed).sample(equals, len(equals)))
        assert ids(index.search(replace(asked, limit=5))) == ["good", "1998", "1999", "1996", "1997"]
    index = index_of(*(Document(f"{number:04}", "the river", vector=vector) for number in reversed(range(2000))))
    assert ids(index.search(replace(asked, limit=3))) == ["0000", "0001", "0002"]


def test_of_many_equals_those_are_found_that_the_question_names() -> None:
    said = [Document(str(number), "the river", at=number * 86400 + 3600, speaker="Ann") for number in range(2000)]
    index = index_of(*said, Document("bob", "the river", speaker="Bob"))
    assert ids(index.search(Query("Bob's river", limit=1))) == ["bob"]
    assert ids(index.search(Query("the river on 7 May 1973", limit=1))) == ["1222"]


def test_a_long_question_costs_no_more_than_some_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stemmed, stems = list[int](), Stemmer.stems
    index = index_of(Document("1", "word7 river"))
    index.search(Query("river"))

    def counted(self: Stemmer, given: Sequence[str]) -> list[str]:
        stemmed.append(len(given))
        return stems(self, given)

    monkeypatch.setattr(Stemmer, "stems", counted)
    assert ids(index.search(Query(" ".join(f"word{number % 50_000}" for number in range(100_000))))) == ["1"]
    assert ids(index.search(Query("river " * 100_000))) == ["1"]
    assert stemmed[0] <= 300
    assert stemmed[1] <= 2


def test_of_very_frequent_words_the_latest_rows_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redismem.search.searching._MOST_ROWS", 20)
    index = index_of(*(Document(str(number), f"river {'bird' * (number == 3)}", at=number) for number in range(100)))
    hits = index.search(Query("river bird", limit=100))
    assert hits[0].id == "3"
    assert set(ids(hits[1:])) == {str(number) for number in range(81, 100)}, "what one word leaves goes to the other"


def test_behind_a_filter_every_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redismem.search.searching._MOST_ROWS", 20)
    index = index_of(*(Document(str(number), "river bird", at=number, user=f"u{number}") for number in range(100)))
    assert ids(index.search(Query("river bird", user="u3"))) == ["3"]
    assert ids(index.search(Query("river bird", until=2.0))) == ["1", "0"]


def test_texts_of_any_length_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redismem.search.texts._MOST_LETTERS", 20)
    index = index_of(*(Document(str(number), f"{'river ' * 9} bird{number}") for number in range(9)))
    assert [ids(index.search(Query(f"bird{number}"))) for number in range(9)] == [[str(one)] for one in range(9)]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_letters_are_the_same(form: Literal["NFC", "NFD"]) -> None:
    told, asked = unicodedata.normalize(form, "Résumé"), unicodedata.normalize("NFD", "résumé")
    index = index_of(Document("1", told), Document("2", "river", speaker=unicodedata.normalize(form, "Zoë")))
    assert ids(index.search(Query(asked))) == ids(index.search(Query("resume"))) == ["1"]
    assert ids(index.search(Query(unicodedata.normalize("NFD", "What did Zoë say?")))) == ["2"]


def test_memory_is_counted_and_given_back() -> None:
    index, empty = Index(), Index().nbytes
    index.apply([Document(str(number), "river " * 50, vector=np.ones(64, np.float32)) for number in range(1000)], [])
    assert index.nbytes - empty > 1000 * (300 + 256)
    rows = index.nbytes
    for round_ in range(5):
        fresh = [Document(f"{round_}:{number}", "stone " * 50, session=f"{round_}:{number}") for number in range(1000)]
        index.apply(fresh, ids(index.search(Query(limit=1000))))
    assert len(index) == 1000
    assert index.nbytes < 3 * rows
    assert len(index._columns.names["session"]) <= 3001
    assert ids(index.search(Query(session="4:7"))) == ["4:7"]


def test_threads_may_search_while_others_write() -> None:
    index, failures = Index(), list[BaseException]()

    def work(number: int) -> None:
        try:
            for step in range(60):
                one = Document(f"{number}", f"river {number} {step}", session="s", at=step)
                index.apply([one], [])
                hits = index.search(Query(f"{number}", session="s"))
                assert hits[0].id == f"{number}"
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(100 + number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(index) == 4


def test_stems_stay_right_however_many_words_there_were() -> None:
    stemmer = Stemmer()
    assert stemmer.stems(["running", "running", "runs"]) == ["run"] * 3
    for start in range(0, 3000, 300):
        given = [f"word{number}" for number in range(start, start + 300)]
        assert stemmer.stems([*given, "running"]) == [*given, "run"]
    assert len(stemmer._known) <= 1000


def test_names_of_those_who_speak_are_left_out_of_a_question_for_an_embedder() -> None:
    index = index_of(Document("1", "hello", speaker="Ren\u00e9e Berg"), Document("2", "well", speaker="Bo"))
    assert index.nameless("Did Rene\u0301e\u2019s sister call Bo, or berg?").split() == [
        "Did",
        "sister",
        "call",
        ",",
        "or",
        "?",
    ]
    assert index.nameless("Bobby's bow") == "Bobby's bow"
    assert index.nameless("Bo?") == "Bo?"
    index.apply([], ["2"])
    assert index.nameless("Bo called") == "Bo called"
