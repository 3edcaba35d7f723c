"""Every store at three sizes: a write and a read must not become slower by how much there is already.

Each size has a database of its own. All are filled first; then they take turns.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, cycle, islice
from typing import Annotated, Any, Final

from pydantic import BaseModel

from bench.measure import Race, Side, each, race
from bench.report import Bound, Result
from bench.setting import VALUE, Bench
from redismem import EpisodicMemory, GraphEntity, Memory, Relationship, SemanticMemory, SimpleMemory, SkillMemory, Sum
from redismem.stores.crm import SimpleContact
from redismem.stores.record import RecordStore

SMALL: Final = 100
LARGER: Final = (10_000, 100_000)
QUICK: Final = 300
ONE: Final = "one"
"""The session, user, scope or thread that holds all the items."""

_ROUND: Final = 50
_PAGE: Final = 1_000

Call = Callable[[Memory, int], object]


class Lead(BaseModel, frozen=True):
    """A record whose attributes merge in two ways."""

    note: str
    visits: Annotated[int, Sum] = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A store and its items, which are numbered."""

    items: str
    """What there is more or less of, and in what."""
    fill: Callable[[Memory, range], object]
    """Store these items, at most a thousand."""
    get: Call
    write: Call
    drop: Call | None = None
    """Undo the write of a new item; None: what is written takes the place of another."""


def _in_batch(memory: Memory, numbers: range, write: Callable[[Any, int], object]) -> None:
    with memory.batch() as batch:
        for number in numbers:
            write(batch, number)


@cache
def _leads(memory: Memory) -> RecordStore[Lead]:
    return memory.records("lead", Lead)


def _lead(number: int) -> Lead:
    return Lead(note=VALUE, visits=number)


def _episode(number: int) -> EpisodicMemory:
    return EpisodicMemory(memory_id=f"e{number}", content=VALUE, session_id=f"s{number // 50}")


def _fact(number: int) -> SemanticMemory:
    return SemanticMemory(subject=f"person {number}", predicate="lives in", object=VALUE, confidence=0.9)


def _skill(number: int) -> SkillMemory:
    return SkillMemory(skill_name=f"skill{number}", content=VALUE)


def _contact(number: int) -> SimpleContact:
    return SimpleContact(id=f"c{number}", name=f"Contact {number}", account_name="Acme")


def _merge_contacts(memory: Memory, numbers: range) -> None:
    memory.entities.merge(ONE, SimpleMemory(contacts=[_contact(number) for number in numbers]))


def _tell_of_contact(memory: Memory, number: int) -> None:
    """Something new of a contact, one of the first hundred: every size has these."""
    told = SimpleContact(id=f"c{number % SMALL}", name=f"Contact {number % SMALL}", account_name=f"Account {number}")
    memory.entities.merge(ONE, SimpleMemory(contacts=[told]))


def _merge_graph(memory: Memory, numbers: range) -> None:
    entities = [GraphEntity(id=f"g{number}", kind="person", properties={"note": VALUE}) for number in numbers]
    known = [Relationship(source=f"g{number}", type="knows", target=f"g{number % SMALL}") for number in numbers]
    memory.graph.merge(ONE, entities, known)


KINDS: Final = {
    "sessions": Kind(
        "keys of a session's namespace",
        lambda memory, numbers: memory.sessions.save_many(ONE, "values", {f"k{n}": VALUE for n in numbers}),
        lambda memory, n: memory.sessions.load(ONE, "values", f"k{n}"),
        lambda memory, n: memory.sessions.save(ONE, "values", f"k{n}", VALUE),
        lambda memory, n: memory.sessions.delete(ONE, "values", f"k{n}"),
    ),
    "records": Kind(
        "records of a user",
        lambda memory, numbers: _leads(memory).merge_many(ONE, {f"r{n}": _lead(n) for n in numbers}),
        lambda memory, n: _leads(memory).get(ONE, f"r{n}"),
        lambda memory, n: _leads(memory).merge(ONE, f"r{n}", _lead(n)),
        lambda memory, n: _leads(memory).delete(ONE, f"r{n}"),
    ),
    "contexts": Kind(
        "users with a context",
        lambda memory, numbers: _in_batch(
            memory, numbers, lambda batch, n: batch.contexts.update_context(f"u{n}", "Hi", VALUE)
        ),
        lambda memory, n: memory.contexts.get_user_context(f"u{n}"),
        lambda memory, n: memory.contexts.update_context(f"u{n}", "Hi", VALUE),
        lambda memory, n: memory.contexts.forget(f"u{n}"),
    ),
    "entities": Kind(
        "entities of a user",
        _merge_contacts,
        lambda memory, n: memory.entities.find_users(_contact(n)),
        _tell_of_contact,
    ),
    "episodes": Kind(
        "episodes of a scope",
        lambda memory, numbers: memory.episodes.add_many(map(_episode, numbers), scope=ONE),
        lambda memory, n: memory.episodes.get(f"e{n}", scope=ONE),
        lambda memory, n: memory.episodes.add(_episode(n), scope=ONE),
        lambda memory, n: memory.episodes.delete(f"e{n}", scope=ONE),
    ),
    "semantics": Kind(
        "facts of a scope",
        lambda memory, numbers: memory.semantics.add_many(map(_fact, numbers), scope=ONE),
        lambda memory, n: memory.semantics.get(_fact(n).memory_id, scope=ONE),
        lambda memory, n: memory.semantics.add(_fact(n), scope=ONE),
        lambda memory, n: memory.semantics.delete(_fact(n).memory_id, scope=ONE),
    ),
    "skills": Kind(
        "skills of a scope",
        lambda memory, numbers: _in_batch(memory, numbers, lambda batch, n: batch.skills.add(_skill(n), scope=ONE)),
        lambda memory, n: memory.skills.get(f"skill{n}", scope=ONE),
        lambda memory, n: memory.skills.add(_skill(n), scope=ONE),
        lambda memory, n: memory.skills.delete(f"skill{n}", scope=ONE),
    ),
    "history": Kind(
        "turns of a conversation",
        lambda memory, numbers: memory.history.extend(ONE, [{"role": "user", "content": VALUE}] * len(numbers)),
        lambda memory, _: memory.history.turns(ONE, 10),
        lambda memory, _: memory.history.append(ONE, "user", VALUE),
    ),
    "threads": Kind(
        "checkpoints of a thread",
        lambda memory, numbers: _in_batch(
            memory, numbers, lambda batch, n: batch.threads.put(ONE, VALUE, version=n + 1)
        ),
        lambda memory, n: memory.threads.get(ONE, n + 1),
        lambda memory, _: memory.threads.put(ONE, VALUE),
    ),
    "graph": Kind(
        "entities of a graph",
        _merge_graph,
        lambda memory, n: memory.graph.neighbours(ONE, f"g{n}", direction="out"),
        lambda memory, n: _merge_graph(memory, range(n, n + 1)),
        lambda memory, n: memory.graph.delete_entity(ONE, f"g{n}"),
    ),
}


def sizes(kind: Kind, bench: Bench) -> Iterator[Result]:
    """Reads and writes among many items, against the same among a hundred."""
    with ExitStack() as stack:
        small, *larger = (
            (items, stack.enter_context(_filled(kind, bench, database, items)))
            for database, items in enumerate((SMALL, *(bench.size(items, QUICK) for items in LARGER)))
        )
        # a write may push the oldest out, so all reads come first
        for verb, side in (("get", _getting), ("write", _writing)):
            for items, memory in larger:
                result = race(side(kind, items, memory), [side(kind, *small)], bench.size(60))
                yield _speed(f"{verb}, {items:,} {kind.items}", result)


def cases() -> dict[str, Callable[[Bench], Iterator[Result]]]:
    """A case for each store."""
    return {f"sizes-{name}": partial(sizes, kind) for name, kind in KINDS.items()}


def _filled(kind: Kind, bench: Bench, database: int, items: int) -> Memory:
    """A memory of so many items: more push the oldest out, where a store has such a bound."""
    url = f"{bench.url.rpartition('/')[0]}/{database}"
    memory = Memory(url, history_max_turns=items, thread_checkpoints=items)
    for start in range(0, items, _PAGE):
        kind.fill(memory, range(start, min(start + _PAGE, items)))
    return memory


def _getting(kind: Kind, items: int, memory: Memory) -> Side:
    chosen = random.Random(items).sample(range(items), items)
    return each(f"{items:,}", partial(kind.get, memory), cycle(chosen), _ROUND)


def _writing(kind: Kind, items: int, memory: Memory) -> Side:
    fresh = count(10**6)

    def one_round() -> float:
        numbers = list(islice(fresh, _ROUND))
        began = time.perf_counter()
        for number in numbers:
            kind.write(memory, number)
        took = time.perf_counter() - began
        if kind.drop is not None:
            for number in numbers:
                kind.drop(memory, number)
        return took / _ROUND

    return Side(f"{items:,}", one_round)


def _speed(measure: str, result: Race) -> Result:
    ours, theirs = f"{1 / result.ours:,.0f} /s", f"{1 / result.theirs:,.0f} /s, {result.peer}"
    return Result(measure, ours, theirs, result.speed_ratio, Bound(0.9, at_least=True))
