"""Many processes merge overlapping extractions of the same entities: what is left is what the model says."""

import random
from multiprocessing.connection import Connection
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict

from redismem import Id, Memory, NaturalKey, SimpleMemory, Sum, Union
from redismem.stores.crm import SimpleContact
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.servers import Server

PROCESSES = 16 if LONG else 4
ROUNDS = 100 if LONG else 12
PEOPLE = 50


class Person(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: Annotated[str, NaturalKey]
    uid: Annotated[str | None, Id] = None
    mentions: Annotated[int, Sum] = 0
    heard_from: Annotated[frozenset[int], Union] = frozenset()
    city: str | None = None
    phone: str | None = None


class People(BaseModel):
    people: list[Person] = []


def mention(worker: int, number: int, dice: random.Random) -> Person:
    """A part of what there is to know of somebody."""
    facts: dict[str, Any] = {"uid": f"p{number}", "city": f"city {number}", "phone": f"+{number}"}
    told = {key: value for key, value in facts.items() if dice.random() < 0.5}
    name = dice.choice([f"Person {number}", f"person  {number}", f" PERSON {number}"])
    return Person(name=name, mentions=1, heard_from=frozenset({worker}), **told)


def work(pipe: Connection, index: int, url: str) -> None:
    """Merge extractions of half of the people each; say how often each was mentioned, and what it took."""
    dice = random.Random(index)
    mentions = dict.fromkeys(range(PEOPLE), 0)
    with Memory(url) as memory:
        people = memory.entities.of(People)
        people.load("warm")
        pipe.send("ready")
        pipe.recv()
        for _ in range(ROUNDS):
            chosen = dice.sample(range(PEOPLE), PEOPLE // 2)
            people.merge("42", People(people=[mention(index, number, dice) for number in chosen]))
            for number in chosen:
                mentions[number] += 1
        pipe.send((mentions, memory.stats().retries))


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_overlapping_extractions_make_each_entity_once(server: Server, figure: Figures) -> None:
    with crew(PROCESSES, work, server.url) as workers, Memory(server.url) as memory:
        gather(workers)
        told = [worker.hear() for worker in workers]
        people = memory.entities.of(People)
        found = {one.name.casefold().split()[1]: one for one in people.load("42").people}
        assert len(people.load("42").people) == len(found) == PEOPLE
        for number in range(PEOPLE):
            one = found[str(number)]
            assert one.mentions == sum(mentions[number] for mentions, _ in told)
            assert one.heard_from == {worker for worker, (mentions, _) in enumerate(told) if mentions[number]}
            assert (one.uid, one.city, one.phone) == (f"p{number}", f"city {number}", f"+{number}")
        assert people.validate("42") == []
        assert sum(retries for _, retries in told) == 0
        assert memory.entities.merge("42", SimpleMemory(contacts=[SimpleContact(name="x")])).counts()["added"] == 1
    figure("overlapping extractions", "merges of 25 entities", PROCESSES * ROUNDS)
    figure("overlapping extractions", "duplicates", len(found) - PEOPLE)
