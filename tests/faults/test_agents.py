"""Eight processes do everything to everything at once: nothing is lost, nothing is there twice, and sums are exact.

Every operation of a plan is one call to one store, and all processes follow the same plan, each in an order of its
own; half of them are threads' processes, half have an event loop. What must be there afterwards follows from the plan.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from redismem import (
    AsyncMemory,
    EpisodicMemory,
    GraphEntity,
    Memory,
    Relationship,
    SemanticMemory,
    SimpleMemory,
    SkillMemory,
)
from tests.faults.crew import crew, gather
from tests.faults.figures import LONG, Figures
from tests.servers import Server

pytestmark = pytest.mark.timeout(900 if LONG else 120)

PROCESSES = 8
STEPS = 600 if LONG else 12
AT_ONCE = 10
USER = "42"
TOTAL = PROCESSES * STEPS
ALL = [f"{me}-{step}" for me in range(PROCESSES) for step in range(STEPS)]

Act = Callable[[Any, int, int], Any]


def merge_entities(memory: Any, me: int, step: int) -> Any:
    """All tell of the same ten accounts, in spellings of their own, and each of a contact and a part of a case."""
    name = f"Acme {step % 10}"
    account = {"name": name.upper() if me % 2 else name, **({"id": f"a{step % 10}"} if me == 0 else {})}
    contact = {"name": f"Contact {me}-{step}", "account_name": name}
    part = {"status": "open"} if me % 2 else {"priority": "high"}
    found = {"accounts": [account], "contacts": [contact], "cases": [{"subject": f"Case {step}", **part}]}
    return memory.entities.merge(USER, SimpleMemory.model_validate(found))


def merge_graph(memory: Any, me: int, step: int) -> Any:
    """Everybody knows the hub, and of each node one relationship to it."""
    hub, node = GraphEntity(id="hub", kind="place"), GraphEntity(id=f"{me}-{step}", kind="node")
    return memory.graph.merge(USER, [hub, node], [Relationship(source=node.id, type="at", target="hub")])


def learn(memory: Any, me: int, step: int) -> Any:
    """All tell each of these facts, with a confidence of their own."""
    fact = SemanticMemory(subject=f"subject {step}", predicate="is", object="known", confidence=(me + 1) / PROCESSES)
    return memory.semantics.add(fact)


PLAN: dict[str, Act] = {
    "sessions.increment": lambda memory, me, step: memory.sessions.increment("s", "counts", f"{step % 3}", by=step),
    "sessions.save": lambda memory, me, step: memory.sessions.save("s", "own", f"{me}-{step}", [me, step]),
    "sessions.update": lambda memory, me, step: memory.sessions.update(
        "s", "lists", f"{step % 5}", lambda known: [*known, f"{me}-{step}"], default=[]
    ),
    "sessions.delete": lambda memory, me, step: memory.sessions.delete("s", "doomed", f"{me}-{step}"),
    "contexts": lambda memory, me, step: memory.contexts.update_context(USER, f"{me}-{step}", f"{me}-{step}"),
    "entities": merge_entities,
    "episodes.add": lambda memory, me, step: memory.episodes.add(
        EpisodicMemory(memory_id=f"{me}-{step}", content=f"Solved problem {step}", task_id=f"{me}", score=step / STEPS)
    ),
    "episodes.add again": lambda memory, me, step: memory.episodes.add(
        EpisodicMemory(memory_id="contested", content=f"{me}-{step}", task_id=f"{me}-{step}")
    ),
    "episodes.search": lambda memory, me, step: memory.episodes.search("problem", task_id=f"{me}", limit=5),
    "semantics.add": learn,
    "semantics.query": lambda memory, me, step: memory.semantics.query(subject=f"subject {step}"),
    "skills.use": lambda memory, me, step: memory.skills.use(f"skill {step % 2}", success=step % 4 > 0),
    "skills.search": lambda memory, me, step: memory.skills.search("skill"),
    "history": lambda memory, me, step: memory.history.append(USER, "user", f"{me}-{step}"),
    "threads": lambda memory, me, step: memory.threads.put("t", {"by": f"{me}-{step}"}),
    "graph.merge": merge_graph,
    "graph.add_entity": lambda memory, me, step: memory.graph.add_entity(USER, "hub", "place", {f"{me}-{step}": step}),
}


def work(pipe: Connection, index: int, url: str) -> None:
    """Follow the plan, in an order of this process' own."""
    acts = [(act, step) for act in PLAN.values() for step in range(STEPS)]
    random.Random(index).shuffle(acts)
    if index % 2:
        asyncio.run(work_in_tasks(pipe, index, url, acts))
        return
    with Memory(url, update_attempts=10_000) as memory:
        memory.health()
        pipe.send("ready")
        pipe.recv()
        for act, step in acts:
            act(memory, index, step)
        pipe.send("done")


async def work_in_tasks(pipe: Connection, index: int, url: str, acts: list[tuple[Act, int]]) -> None:
    """The same, several at once."""
    async with AsyncMemory(url, update_attempts=10_000) as memory:
        await memory.health()
        pipe.send("ready")
        pipe.recv()
        left = iter(acts)

        async def agent() -> None:
            for act, step in left:
                await act(memory, index, step)

        await asyncio.gather(*(agent() for _ in range(AT_ONCE)))
        pipe.send("done")


@pytest.mark.parametrize("server", ["valkey9", "redis62"] if LONG else ["valkey9"], indirect=True)
def test_eight_processes_do_everything_at_once(server: Server, figure: Figures) -> None:
    with Memory(server.url) as memory:
        memory.sessions.save_many("s", "doomed", dict.fromkeys(ALL, 1))
        for number in range(2):
            memory.skills.add(SkillMemory(skill_name=f"skill {number}"))
        with crew(PROCESSES, work, server.url) as members:
            gather(members)
            for one in members:
                assert one.hear() == "done"
        verify_sessions(memory)
        verify_documents(memory)
        verify_user(memory)
    fault = "eight processes do everything to everything"
    figure(fault, "calls", TOTAL * len(PLAN))
    figure(fault, "lost, twice there, or counted wrong", 0)


def verify_sessions(memory: Memory) -> None:
    sums = {f"{rest}": PROCESSES * sum(step for step in range(STEPS) if step % 3 == rest) for rest in range(3)}
    assert memory.sessions.get_all("s", "counts") == sums
    own = {f"{me}-{step}": [me, step] for me in range(PROCESSES) for step in range(STEPS)}
    assert memory.sessions.get_all("s", "own") == own
    lists = memory.sessions.get_all("s", "lists").values()
    assert sorted(itertools.chain.from_iterable(lists)) == sorted(ALL)
    assert memory.sessions.get_all("s", "doomed") == {}


def verify_documents(memory: Memory) -> None:
    found = [one.document for one in memory.episodes.search(limit=2 * TOTAL)]
    assert sorted(one.memory_id for one in found) == sorted([*ALL, "contested"])
    assert memory.episodes.count() == TOTAL + 1
    streamed = {one.memory_id: one for batch in memory.episodes.stream() for one in batch}
    assert streamed == {one.memory_id: one for one in found}
    assert streamed["contested"].content == streamed["contested"].task_id
    assert sorted(round(one.score * STEPS) for one in found) == sorted(
        [0, *(step for step in range(STEPS) for _ in range(PROCESSES))]
    )

    facts = memory.semantics.query(predicate="is", limit=TOTAL)
    assert sorted(fact.subject for fact in facts) == sorted(f"subject {step}" for step in range(STEPS))
    assert [fact.confidence for fact in facts] == pytest.approx([1.0] * STEPS, abs=0.001)

    uses = {rest: [step % 4 > 0 for step in range(STEPS) if step % 2 == rest] * PROCESSES for rest in range(2)}
    skills = {number: memory.skills.get(f"skill {number}") for number in range(2)}
    assert {number: (skill.uses, skill.successes) for number, skill in skills.items() if skill} == {
        number: (len(outcomes), sum(outcomes)) for number, outcomes in uses.items()
    }


def verify_user(memory: Memory) -> None:
    context = memory.contexts.get_user_context(USER)
    assert context.conversations_count == TOTAL
    assert context.last_message == context.last_response

    known = memory.entities.load(USER)
    assert sorted(one.id or "" for one in known.accounts) == sorted({f"a{step % 10}" for step in range(STEPS)})
    assert sorted(one.name for one in known.contacts) == sorted(f"Contact {name}" for name in ALL)
    assert sorted((one.subject, one.status, one.priority) for one in known.cases) == sorted(
        (f"Case {step}", "open", "high") for step in range(STEPS)
    )

    turns = memory.history.turns(USER)
    assert [turn.number for turn in turns] == list(range(1, TOTAL + 1))
    assert sorted(turn.content for turn in turns) == sorted(ALL)

    versions = [memory.threads.get("t", version) for version in range(1, TOTAL + 1)]
    assert sorted(one.state["by"] for one in versions if one) == sorted(ALL)
    latest = memory.threads.get("t")
    assert latest is not None
    assert latest.version == latest.latest == TOTAL

    size = memory.graph.count(USER)
    assert (size.entities, size.relationships) == (TOTAL + 1, TOTAL)
    assert sorted(one.source for one in memory.graph.relationships(USER)) == sorted(ALL)
    hub = memory.graph.get_entity(USER, "hub")
    assert hub is not None
    assert hub.properties == {f"{me}-{step}": step for me in range(PROCESSES) for step in range(STEPS)}
