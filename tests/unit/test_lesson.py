"""What runs teach: turns, uses, entities and facts, from any message that could be recorded."""

import json
from typing import Any

import pytest

from redismem.ops.replay.knowledge import merged
from redismem.ops.replay.lesson import Lesson, Use, episode, lessons, skills
from redismem.ops.replay.recording import Recording
from redismem.ops.replay.travel import Customer, Flight, Reservation, Travel, facts, found
from redismem.ops.replay.verdict import OneOf

LEG = {"flight_number": "HAT1", "date": "2024-05-20", "price": 120, "origin": "JFK", "destination": "SEA"}
BOOKED = {"reservation_id": "R1", "user_id": "u1", "cabin": "economy", "flights": [LEG], "total_baggages": 2}
PROFILE = {"membership": "gold", "payment_methods": {"card": {"amount": 1}}, "reservations": ["R1", "R2"]}


def called(answer: Any, *, name: str = "look", asked: str = '{"user_id": "u1"}') -> list[dict[str, Any]]:
    call = {"id": "c1", "function": {"name": name, "arguments": asked}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": answer},
    ]


def taught(answer: Any, **how: Any) -> Lesson:
    return list(lessons(Recording("s", "u", called(answer, **how))))[-1]


def test_a_use_went_well_unless_the_answer_begins_with_error() -> None:
    assert taught("Error: no").use == Use("look", success=False)
    assert [taught(answer).use for answer in ("no Error", "", None)] == [Use("look", success=True)] * 3


def test_an_answer_to_no_call_is_no_use() -> None:
    (lesson,) = lessons(Recording("s", "u", [{"role": "tool", "tool_call_id": "c9", "content": json.dumps(BOOKED)}]))
    assert (lesson.use, lesson.travel, lesson.facts) == (None, Travel(), [])


def test_the_later_of_two_calls_with_one_id_is_answered() -> None:
    run = [*called("a", name="first"), *called("b", name="second")]
    assert [lesson.use for lesson in lessons(Recording("s", "u", run))] == [
        None,
        Use("first", success=True),
        None,
        Use("second", success=True),
    ]


def test_a_turn_has_all_of_its_message() -> None:
    call, answer = (lesson.turn for lesson in lessons(Recording("s", "u", called("yes"))))
    assert (call.role, call.content, call.metadata["content"]) == ("assistant", "", None)
    assert call.metadata["tool_calls"][0]["id"] == "c1"
    assert (answer.role, answer.content, answer.metadata) == ("tool", "yes", {"tool_call_id": "c1"})
    (parts,) = lessons(Recording("s", "u", [{"role": "user", "content": [{"text": "Hi"}]}]))
    assert (parts.turn.content, parts.turn.metadata) == ("", {"content": [{"text": "Hi"}]})


@pytest.mark.parametrize(("reward", "success", "score"), [(1.0, True, 1.0), (0.5, False, 0.5), (None, None, 0.0)])
def test_an_episode(reward: float | None, success: bool | None, score: float) -> None:
    one = episode(Recording("s", None, called("yes"), "t", reward))
    assert (one.memory_id, one.session_id, one.task_id, one.user_id) == ("s", "s", "t", None)
    assert (one.content, one.tags, one.success, one.score) == ("tool: yes", {"look"}, success, score)
    assert [skill.skill_name for skill in skills(Recording("s", "u", called("yes")))] == ["look"]


def test_entities_are_known_by_their_shape() -> None:
    travel = found(json.dumps({"all": [PROFILE, [BOOKED]]}), '{"user_id": "u1"}')
    (customer,), (reservation,), (flight,) = travel.customers, travel.reservations, travel.flights
    assert (customer.id, customer.payment_methods, customer.reservations) == ("u1", {"card"}, {"R1", "R2"})
    assert (reservation.customer_id, reservation.flights, reservation.bags) == ("u1", {"HAT1 2024-05-20"}, 2)
    assert (flight.days, flight.lowest_fare, flight.highest_fare) == ({"2024-05-20"}, 120.0, 120.0)
    searched = found(
        json.dumps([{"flight_number": "HAT2", "prices": {"a": 9, "b": 30, "c": None}}]), '{"date": "today"}'
    )
    (flight,) = searched.flights
    assert (flight.days, flight.lowest_fare, flight.highest_fare) == ({"today"}, 9.0, 30.0)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        "",
        "[" * 100_000,
        '{"reservation_id": "R1", "total_baggages": NaN}',
        '{"reservation_id": ["R1"]}',
        '{"reservation_id": " "}',
        '{"reservation_id": "R1", "flights": [{"flight_number": "%s"}]}' % ("9" * 99),
        '{"flight_number": "ﷺ"}',
        '{"flight_number": "H1", "price": NaN}',
        '{"flight_number": "H1", "price": -1}',
        '{"flight_number": "H1", "date": [1]}',
        '{"membership": "gold"}',
        '{"membership": {}, "user_id": "u1"}',
        '{"membership": "gold", "user_id": "%s"}' % ("u" * 41),
        '{"membership": "gold", "user_id": "u1", "reservations": [{}]}',
    ],
)
def test_what_is_malformed_says_nothing(answer: Any) -> None:
    assert found(answer, "no arguments") == Travel()


def test_facts_are_surer_from_a_things_own_record() -> None:
    told = {(one.subject, one.predicate, one.object): one.confidence for one in facts(found(json.dumps(PROFILE), "{}"))}
    assert told == {}
    profile = found(json.dumps(PROFILE), '{"user_id": "u1"}')
    told = {(one.subject, one.predicate, one.object): one.confidence for one in facts(profile)}
    assert told == {
        ("u1", "has membership", "gold"): 0.9,
        ("u1", "has reservation", "R1"): 0.6,
        ("u1", "has reservation", "R2"): 0.6,
    }
    own = {(one.predicate, one.object): one.confidence for one in facts(found(json.dumps(BOOKED), ""))}
    assert own == {
        ("has reservation", "R1"): 0.9,
        ("has cabin", "economy"): 0.9,
        ("has flight", "HAT1 2024-05-20"): 0.9,
        ("flies on", "2024-05-20"): 0.6,
    }
    assert {(fact.source, fact.user_id) for fact in taught(json.dumps(BOOKED)).facts} == {("s", "u")}


def test_what_runs_find_out_is_merged_as_the_models_say() -> None:
    first = [Travel(customers=[Customer(id="u", email="a", membership="gold", mentions=1, reservations={"R1"})])]
    first.append(Travel(customers=[Customer(id="u", email="b", membership="silver", mentions=2)]))
    second = [Travel(customers=[Customer(id="u", membership="regular", mentions=4, reservations={"R1", "R2"})])]
    known = merged([first, second])["customers id=u"]
    assert (known["mentions"], known["reservations"], known["payment_methods"]) == (7, {"R1", "R2"}, frozenset())
    assert known["membership"] == OneOf(frozenset({"silver", "regular"}))
    assert known["email"] == OneOf(frozenset({"a"}))
    fares = [Travel(flights=[Flight(number="H1", lowest_fare=fare, highest_fare=fare)]) for fare in (3.0, 1.0, 2.0)]
    known = merged([fares])["flights key=h1"]
    assert (known["lowest_fare"], known["highest_fare"], known["origin"]) == (1.0, 3.0, None)
    bags = [Travel(reservations=[Reservation(id="R", bags=bags, status=None)]) for bags in (1, 3, None)]
    known = merged([bags])["reservations id=R"]
    assert (known["bags"], known["status"]) == (3, None)
