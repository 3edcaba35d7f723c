"""What travel agents find out about: customers, reservations and flights, as the results of their tools describe them.

Entities are recognised by their shape: an object with a ``reservation_id`` is a reservation, with a ``flight_number`` a
flight, with a ``membership`` a customer. What has another shape, or is malformed, says nothing.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar, cast

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from redismem.stores.identity import Id, NaturalKey
from redismem.stores.policy import FillMissing, Max, Min, Sum, Union
from redismem.stores.semantics import SemanticMemory

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]
Fare = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Customer(BaseModel, frozen=True):
    """Somebody who travels."""

    id: Annotated[Text, Id]
    email: Annotated[str | None, FillMissing] = None
    membership: Text | None = None
    payment_methods: Annotated[frozenset[Text], Union] = frozenset()
    reservations: Annotated[frozenset[Text], Union] = frozenset()
    mentions: Annotated[int, Sum] = 0
    """How often a tool spoke of it."""


class Reservation(BaseModel, frozen=True):
    """A journey that somebody has booked."""

    id: Annotated[Text, Id]
    customer_id: Annotated[Text | None, FillMissing] = None
    origin: Annotated[str | None, FillMissing] = None
    destination: Annotated[str | None, FillMissing] = None
    cabin: Text | None = None
    status: Text | None = None
    flights: Annotated[frozenset[Text], Union] = frozenset()
    """Every flight that it was ever for, with its day."""
    bags: Annotated[int | None, Max, Field(ge=0, le=1000)] = None
    mentions: Annotated[int, Sum] = 0


class Flight(BaseModel, frozen=True):
    """A flight, on all its days."""

    number: Annotated[str, NaturalKey, Field(pattern="^[A-Za-z0-9 -]{1,20}$")]
    origin: Annotated[str | None, FillMissing] = None
    destination: Annotated[str | None, FillMissing] = None
    days: Annotated[frozenset[Text], Union] = frozenset()
    lowest_fare: Annotated[Fare | None, Min] = None
    highest_fare: Annotated[Fare | None, Max] = None
    mentions: Annotated[int, Sum] = 0


class Travel(BaseModel):
    """All that is known of a user's travels."""

    customers: list[Customer] = []
    reservations: list[Reservation] = []
    flights: list[Flight] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.customers or self.reservations or self.flights)


E = TypeVar("E", bound=BaseModel)
Shape = Mapping[str, Any]

_HEARD: Final = 0.6
_SEEN: Final = 0.9


def found(result: object, asked: object) -> Travel:
    """What the result of a tool tells, given the arguments that it was called with; both as JSON."""
    travel, arguments = Travel(), _parsed(asked)
    about: Shape = cast("Shape", arguments) if isinstance(arguments, dict) else {}
    for shape in _shapes(_parsed(result)):
        if "membership" in shape:
            travel.customers.extend(_valid(Customer, _customer(shape, about)))
        if "reservation_id" in shape:
            travel.reservations.extend(_valid(Reservation, _reservation(shape)))
        if "flight_number" in shape:
            travel.flights.extend(_valid(Flight, _flight(shape, about)))
    return travel


def facts(travel: Travel) -> Iterator[SemanticMemory]:
    """What follows from it, more surely from a thing's own record than from another's."""
    for customer in travel.customers:
        yield _fact(customer.id, "has membership", customer.membership, _SEEN)
        for reservation_id in sorted(customer.reservations):
            yield _fact(customer.id, "has reservation", reservation_id, _HEARD)
    for reservation in travel.reservations:
        if reservation.customer_id is not None:
            yield _fact(reservation.customer_id, "has reservation", reservation.id, _SEEN)
        if reservation.cabin is not None:
            yield _fact(reservation.id, "has cabin", reservation.cabin, _SEEN)
        if reservation.status is not None:
            yield _fact(reservation.id, "has status", reservation.status, _SEEN)
        for leg in sorted(reservation.flights):
            yield _fact(reservation.id, "has flight", leg, _SEEN)
    for flight in travel.flights:
        for day in sorted(flight.days):
            yield _fact(flight.number, "flies on", day, _HEARD)


def _fact(subject: str, predicate: str, what: str | None, confidence: float) -> SemanticMemory:
    return SemanticMemory(subject=subject, predicate=predicate, object=what or "none", confidence=confidence)


def _customer(shape: Shape, asked: Shape) -> dict[str, Any]:
    return {
        "id": shape.get("user_id", asked.get("user_id")),
        "email": shape.get("email"),
        "membership": shape["membership"],
        "payment_methods": _members(shape.get("payment_methods")),
        "reservations": _members(shape.get("reservations")),
        "mentions": 1,
    }


def _reservation(shape: Shape) -> dict[str, Any]:
    legs = [cast("Shape", leg) for leg in _members(shape.get("flights")) if isinstance(leg, dict)]
    return {
        "id": shape["reservation_id"],
        "customer_id": shape.get("user_id"),
        **_ends(shape),
        "cabin": shape.get("cabin"),
        "status": shape.get("status"),
        "flights": [f"{leg.get('flight_number')} {leg.get('date')}" for leg in legs],
        "bags": shape.get("total_baggages"),
        "mentions": 1,
    }


def _flight(shape: Shape, asked: Shape) -> dict[str, Any]:
    """A reservation says the price of a flight, a search those of all cabins, and takes the day for granted."""
    prices, day = shape.get("prices"), shape.get("date", asked.get("date"))
    told = cast("Shape", prices).values() if isinstance(prices, dict) else [shape.get("price")]
    fares = sorted(fare for fare in told if isinstance(fare, int | float))
    return {
        "number": shape["flight_number"],
        **_ends(shape),
        "days": [] if day is None else [day],
        "lowest_fare": fares[0] if fares else None,
        "highest_fare": fares[-1] if fares else None,
        "mentions": 1,
    }


def _ends(shape: Shape) -> dict[str, Any]:
    return {"origin": shape.get("origin"), "destination": shape.get("destination")}


def _members(value: object) -> list[Any]:
    """The items of a list, the keys of an object."""
    return list(cast("list[Any]", value)) if isinstance(value, list | dict) else []


def _valid(model: type[E], attributes: dict[str, Any]) -> list[E]:
    try:
        return [model.model_validate(attributes)]
    except ValidationError:
        return []


def _parsed(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _shapes(document: object) -> Iterator[Shape]:
    """Every object in a document, the outer before the inner."""
    left = [document]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield cast("Shape", one)
            left.extend(reversed(list(cast("Shape", one).values())))
        elif isinstance(one, list):
            left.extend(reversed(cast("list[object]", one)))
