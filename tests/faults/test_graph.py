"""Real processes add and delete entities and relationships of one user at random, and some of them are killed.

Nobody ever sees a relationship with an end that is not there: not those who look at the server itself, nor the
workers, to whom it would be a `DecodeError`.
"""

import random
from multiprocessing.connection import Connection

import pytest
import redis

from redismem import GraphEntity, Memory, Relationship
from redismem.errors import MissingEntity
from redismem.stores.graph import GraphStore
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.graphs import flaws
from tests.servers import Server

WORKERS = 3
LOOKS = 2_000 if LONG else 50
IDS = tuple(f"entity {number}" for number in range(8))
servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)


def act(graph: GraphStore, rng: random.Random) -> bool:
    """Something at random. False if an end was missing."""
    source, target = rng.choice(IDS), rng.choice(IDS)
    related = Relationship(source=source, type=rng.choice("ab"), target=target, properties={rng.choice("xy"): 1})
    try:
        match rng.randrange(6):
            case 0:
                graph.add_entity("42", source, rng.choice(("k", "l")), {rng.choice("xy"): 1})
            case 1:
                graph.merge("42", [GraphEntity(id=source, kind="k")], [related])
            case 2:
                graph.delete_entity("42", source)
            case 3:
                graph.delete_relationship("42", related.source, related.type, related.target)
            case 4:
                graph.neighbours("42", source)
                graph.paths("42", source, target, direction="both")
            case _:
                graph.add_relationship("42", related.source, related.type, related.target, related.properties)
    except MissingEntity:
        return False
    return True


def work(pipe: Connection, index: int, url: str) -> None:
    """Act until told to stop, and say how often, and how often an end was missing."""
    rng = random.Random(index)
    done: list[bool] = []
    with Memory(url) as memory:
        memory.health()
        pipe.send("ready")
        pipe.recv()
        while len(done) < 100 or not pipe.poll():
            done.append(act(memory.graph, rng))
        pipe.send((len(done), done.count(False)))


@servers
def test_no_relationship_dangles_whoever_deletes_its_ends(server: Server, figure: Figures) -> None:
    with redis.Redis(port=server.port) as raw, crew(WORKERS, work, server.url) as members:
        gather(members)
        for look in range(LOOKS):
            assert flaws(raw, "42") == []
            if look == LOOKS // 2:
                members[-1].kill()
        alive = members[:-1]
        for one in alive:
            one.tell("stop")
        calls, refused = (sum(counts) for counts in zip(*(one.hear() for one in alive), strict=True))
        assert flaws(raw, "42") == []
    assert refused > 0
    fault = "ends of relationships deleted by others"
    figure(fault, "calls of the workers that were not killed", calls)
    figure(fault, "relationships refused, an end being gone", refused)
    figure(fault, "looks at the server between calls, none of which found a dangling relationship", LOOKS)
