"""A graph as a dictionary, and what may be wrong with one on a server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from redismem import GraphEntity, GraphPath, Neighbour, Relationship, Step
from redismem.keys import encode_segment

Triple = tuple[str, str, str]


@dataclass
class Model:
    """What `memory.graph` should be, for one user."""

    entities: dict[str, GraphEntity] = field(default_factory=dict[str, GraphEntity])
    relationships: dict[Triple, Relationship] = field(default_factory=dict[Triple, Relationship])

    def missing(self, entities: list[GraphEntity], relationships: list[Relationship]) -> tuple[str, ...]:
        there = {*self.entities, *(one.id for one in entities)}
        ends = (end for one in relationships for end in (one.source, one.target))
        return tuple(dict.fromkeys(end for end in ends if end not in there))

    def merge(self, entities: list[GraphEntity], relationships: list[Relationship]) -> tuple[int, int]:
        before = len(self.entities), len(self.relationships)
        for one in entities:
            known = self.entities.get(one.id, one)
            self.entities[one.id] = one.model_copy(update={"properties": known.properties | one.properties})
        for rel in relationships:
            triple = rel.source, rel.type, rel.target
            was = self.relationships.get(triple, rel)
            self.relationships[triple] = rel.model_copy(update={"properties": was.properties | rel.properties})
        return len(self.entities) - before[0], len(self.relationships) - before[1]

    def delete_entity(self, entity_id: str) -> bool:
        for triple in [triple for triple in self.relationships if entity_id in (triple[0], triple[2])]:
            del self.relationships[triple]
        return self.entities.pop(entity_id, None) is not None

    def steps(self, here: str, types: tuple[str, ...], direction: str) -> list[tuple[Triple, str]]:
        """Each relationship of an entity, once, and the id of its other end."""
        found: list[tuple[Triple, str]] = []
        for triple in self.relationships:
            source, type_, target = triple
            if types and type_ not in types:
                continue
            if direction != "in" and source == here:
                found.append((triple, target))
            elif direction != "out" and target == here:
                found.append((triple, source))
        return found

    def neighbours(self, here: str, types: tuple[str, ...], direction: str) -> list[Neighbour]:
        return [
            Neighbour(self.relationships[triple], self.entities[other])
            for triple, other in self.steps(here, types, direction)
        ]

    def paths(
        self, source: str, target: str, types: tuple[str, ...], direction: str, longest: int
    ) -> Iterator[GraphPath]:
        def walk(entities: tuple[str, ...], steps: tuple[Step, ...]) -> Iterator[GraphPath]:
            if entities[-1] == target:
                yield GraphPath(entities, steps)
            elif len(steps) < longest:
                for triple, other in self.steps(entities[-1], types, direction):
                    if other not in entities:
                        yield from walk((*entities, other), (*steps, Step(*triple)))

        if source in self.entities:
            yield from walk((source,), ())


def flaws(raw: redis.Redis, user_id: str) -> list[str]:
    """What contradicts itself in a stored graph, read at one moment."""
    key = f"redismem:user:{{{encode_segment(user_id, 'user_id')}}}:graph:"
    with raw.pipeline(transaction=True) as pipe:
        for name in ("entities", "out", "in"):
            pipe.zrange(key + name, 0, -1)
        pipe.hgetall(key + "properties")
        listed, out, into, stored = cast(Any, pipe.execute())
    heads = {field: data.split(b" ") for field, data in stored.items() if field.count(b" ") in (0, 2)}
    entities = {field: words[0] for field, words in heads.items() if b" " not in field}
    ends = {end for member in out for end in member.split(b" ")[::2]}
    values = {b"%b %b" % (field, name) for field, words in heads.items() for name in words[1:]}
    wrong = {
        "dangling": ends - entities.keys(),
        "in only one direction": set(out) ^ {b" ".join(member.split(b" ")[::-1]) for member in into},
        "listed otherwise": set(listed) ^ {b"%b %b" % (kind, name) for name, kind in entities.items()},
        "properties of what is not there": {field for field in heads if b" " in field} - set(out),
        "values that nobody lists, or none": values ^ (stored.keys() - heads.keys()),
    }
    return [f"{what}: {sorted(names)}" for what, names in wrong.items() if names]
