"""Workers of two versions write to the same records while all of them are migrated, over and over, and killed."""

import random
from multiprocessing.connection import Connection
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from redismem import Max, Memory, Sum, Union, migration
from redismem.ops import api
from redismem.stores.record import Migrated
from tests.faults.crew import crew, gather, member
from tests.faults.figures import LONG, Figures
from tests.servers import Server

ROUNDS = 3_000 if LONG else 150
USERS = 4
RECORDS = 10
WORKERS = 2


class Trip(BaseModel, frozen=True):
    """The first version."""

    place: str = ""
    told_by: Annotated[frozenset[str], Union] = frozenset()
    visits: Annotated[int, Sum] = 0


class Journey(BaseModel, frozen=True):
    """The second: a place is split in two, and what told_by held is in sources."""

    town: str = ""
    country: str = ""
    sources: Annotated[frozenset[str], Union] = frozenset()
    visits: Annotated[int, Sum] = 0
    rank: Annotated[int, Max] = 0


@migration(Journey, from_=1)
def split(attributes: dict[str, Any]) -> dict[str, Any]:
    if "place" in attributes:
        attributes["town"], _, attributes["country"] = attributes.pop("place").partition(", ")
    if "told_by" in attributes:
        attributes["sources"] = attributes.get("sources", set()) | attributes.pop("told_by")
    return attributes


def chosen(dice: random.Random) -> tuple[str, str]:
    return f"u{dice.randrange(USERS)}", str(dice.randrange(RECORDS))


def write(pipe: Connection, index: int, url: str) -> None:
    """Visit trips as a worker of one version; say how often each was visited."""
    dice, is_old = random.Random(index), index % 2 == 0
    visits: dict[tuple[str, str], int] = {}
    with Memory(url) as memory:
        old, new = memory.records("trip", Trip), memory.records("trip", Journey)
        pipe.send("ready")
        pipe.recv()
        for number in range(ROUNDS):
            place = chosen(dice)
            said = {f"{index}-{number}"}
            if is_old:
                old.merge(*place, {"visits": 1, "told_by": said})
            else:
                new.merge(*place, {"visits": 1, "sources": said, "rank": number})
            if number % 10 == 0:
                (old if is_old else new).get(*place)
            visits[place] = visits.get(place, 0) + 1
        pipe.send(visits)


def migrate(pipe: Connection, _: int, url: str) -> None:
    """Migrate everything, over and over."""
    with Memory(url) as memory:
        pipe.send("ready")
        pipe.recv()
        while True:
            for one in api.migrate(memory, Journey, "trip", batch_size=7):
                assert isinstance(one, Migrated)
            pipe.send("all of it")


@pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)
def test_nothing_is_lost_while_two_versions_write_and_all_is_migrated(server: Server, figure: Figures) -> None:
    with Memory(server.url) as memory:
        old, new = memory.records("trip", Trip), memory.records("trip", Journey)
        for user in range(USERS):
            old.merge_many(f"u{user}", {str(number): Trip(place="Lisboa, Portugal") for number in range(RECORDS)})
        with crew(2 * WORKERS, write, server.url) as workers:
            migrator = member(99, migrate, server.url)
            workers.append(migrator)
            gather(workers)
            assert migrator.hear() == "all of it"
            migrator.kill()
            told = [worker.hear() for worker in workers[:-1]]
        once = list(api.migrate(memory, Journey, "trip"))
        assert set(once) <= {Migrated.DONE, Migrated.CURRENT}
        assert len(once) == USERS * RECORDS
        assert set(api.migrate(memory, Journey, "trip")) == {Migrated.CURRENT}
        found = {(f"u{user}", number): one for user in range(USERS) for number, one in new.get_all(f"u{user}").items()}
        sources = [source for one in found.values() for source in one.sources]
        for place, one in found.items():
            assert one.visits == sum(visits.get(place, 0) for visits in told)
            assert (one.town, one.country) == ("Lisboa", "Portugal")
        assert len(sources) == len(set(sources)) == 2 * WORKERS * ROUNDS
        new.merge("u0", "0", {"town": "Porto"})
        old.merge("u0", "0", {"visits": 1})
        assert new.get("u0", "0").town == "Porto"  # type: ignore[union-attr]
    figure("migrations", "writes beside them", 2 * WORKERS * ROUNDS)
