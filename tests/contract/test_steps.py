"""Batches that are steps of a job: whoever does a step again, it takes effect once, on every server."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from redismem import AsyncMemory, Id, SemanticMemory, SkillMemory, Sum
from redismem.batch import BatchLink
from redismem.errors import ConfigError
from tests.contract.flavours import on_servers, on_valkey, results

Opener = Callable[..., AsyncMemory]


class Trip(BaseModel, frozen=True):
    """A trip."""

    id: Annotated[str, Id]
    days: Annotated[int, Sum] = 0


class Trips(BaseModel):
    """What is known."""

    trips: list[Trip] = []


def calls(batch: Any, id_: str) -> list[Any]:
    """Of which none may take effect twice."""
    sessions = batch.sessions
    return [
        sessions.increment(id_, "n", "count"),
        sessions.compare_and_set(id_, "n", "flag", 0, 1),
        sessions.update(id_, "n", "list", lambda items: [*items, 1], default=[]),
        batch.history.append(id_, "user", "Hi"),
        batch.skills.use("plan", success=True, scope=id_),
        batch.entities.of(Trips).merge(id_, Trips(trips=[Trip(id="7", days=3)])),
        batch.semantics.add(SemanticMemory(subject="u", predicate="likes", object="trips"), scope=id_),
        batch.records("trip", Trip).merge(id_, "7", {"id": "7", "days": 2}),
        sessions.increment(id_, "n", "count", 10),
    ]


async def prepared(memory: AsyncMemory, id_: str) -> None:
    await memory.sessions.save(id_, "n", "flag", 0)
    await memory.skills.add(SkillMemory(skill_name="plan"), scope=id_)


async def effects(memory: AsyncMemory, id_: str) -> list[Any]:
    """What there is of the calls."""
    values = await memory.sessions.get_all(id_, "n")
    skill, trip = await memory.skills.get("plan", scope=id_), await memory.records("trip", Trip).get(id_, "7")
    (entity,) = (await memory.entities.of(Trips).load(id_)).trips
    counts = [await memory.history.count(id_), await memory.semantics.count(scope=id_)]
    assert skill is not None
    assert trip is not None
    return [dict(values), *counts, skill.uses, entity.days, trip.days]


ONCE = [{"count": 11, "flag": 1, "list": [1]}, 1, 1, 1, 3, 2]
TWICE = [{"count": 22, "flag": 1, "list": [1, 1]}, 2, 1, 2, 6, 4]


@on_servers
async def test_a_step_that_is_done_again_takes_effect_once(opened: Opener) -> None:
    memory, successor = opened(operation_memory=60), opened(operation_memory=60)
    await prepared(memory, "s")
    async with memory.batch(job="j", step=1) as batch:
        first = calls(batch, "s")
    for worker in (successor, memory, successor):
        async with worker.batch(job="j", step=1) as batch:
            again = calls(batch, "s")
        assert [handle.error() for handle in again] == [None] * len(again)
        assert [again[0].result(), again[-1].result(), again[3].result().number] == [1, 11, 1]
    assert results(first[:2]) == [1, True]
    assert await effects(memory, "s") == ONCE
    async with successor.batch(job="j", step=2) as batch:
        calls(batch, "s")
    assert await effects(memory, "s") == TWICE


@on_servers
async def test_a_step_that_was_broken_off_anywhere_is_completed(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, successor = opened(operation_memory=60), opened(operation_memory=60)
    send = BatchLink.send
    for arrived in range(10):
        id_ = f"s{arrived}"
        await prepared(memory, id_)

        async def broken_off(link: BatchLink) -> None:
            for operation, _ in link._enlisted[arrived:]:  # noqa: B023  (called within the turn)
                operation.close()
            del link._enlisted[arrived:]  # noqa: B023
            await send(link)

        with monkeypatch.context() as patched:
            patched.setattr(BatchLink, "send", broken_off)
            async with memory.batch(job="j", step=1) as batch:
                calls(batch, id_)
        async with successor.batch(job="j", step=1) as batch:
            calls(batch, id_)
        assert await effects(memory, id_) == ONCE


@on_valkey
async def test_jobs_and_calls_are_told_apart(opened: Opener) -> None:
    memory = opened(operation_memory=60)
    for job in ("a", "b", "0.1:a", "ä" * 300):
        async with memory.batch(job=job, step=1) as batch:
            for by in (1, 2, 3):
                batch.sessions.increment("s", "n", "count", by)
    assert await memory.sessions.load("s", "n", "count") == 4 * 6


@on_valkey
async def test_a_call_that_was_refused_may_be_granted_when_the_step_is_done_again(opened: Opener) -> None:
    memory = opened(operation_memory=60)
    for granted in (False, True, True):
        async with memory.batch(job="j", step=1) as batch:
            swapped = batch.sessions.compare_and_set("s", "n", "flag", 0, 1)
            counted = batch.sessions.increment("s", "n", "count")
        assert (swapped.result(), counted.result()) == (granted, 1)
        if not granted:
            await memory.sessions.save("s", "n", "flag", 0)


@on_valkey
@pytest.mark.parametrize(("job", "step"), [("", 1), ("j", 0), ("j", -1), ("j", True), ("j", 1.0), ("j", 2**53)])
async def test_what_is_no_step(opened: Opener, job: str, step: int) -> None:
    with pytest.raises(ConfigError, match="give a name, and a whole number of at least 1"):
        async with opened().batch(job, step):
            pass
