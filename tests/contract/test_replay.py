"""Replays: what they leave, that a death at any moment changes nothing of it, and that the check sees every flaw."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis

from redismem import AsyncMemory, EpisodicMemory, Memory, SemanticMemory, SkillMemory
from redismem.batch import BatchLink
from redismem.errors import ConfigError, Conflict
from redismem.ops.replay.agent import Agent, Place, counts
from redismem.ops.replay.check import check
from redismem.ops.replay.job import Outcome, Plan, Replay, Watcher
from redismem.ops.replay.meter import Meter
from redismem.ops.replay.recording import Recording, read
from redismem.ops.replay.site import Site
from redismem.ops.replay.travel import Customer, Reservation, Travel
from redismem.ops.replay.verdict import Verdict
from tests.servers import REAL, Server

TAU_BENCH = Path(__file__).parents[3] / "shared" / "data" / "tau-bench-airline" / "trajectories.json"

on_real_servers = pytest.mark.parametrize("server", REAL, indirect=True)


@pytest.fixture(scope="module")
def sample() -> list[Recording]:
    with resources.as_file(resources.files("redismem.ops.replay") / "sample.jsonl") as path:
        return read([path])


@pytest.fixture
def memory(valkey: Server) -> Iterator[Memory]:
    with Memory(valkey.url) as memory:
        yield memory


def redismem(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "redismem.ops.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def size(server: Server) -> int:
    with redis.Redis(port=server.port) as client:
        return int(client.dbsize())


# --- whole replays --------------------------------------------------------------------------------------------------


@on_real_servers
def test_nothing_is_lost_and_nothing_is_left(server: Server, sample: list[Recording]) -> None:
    with Site(server.url) as site, Replay(site, sample, Plan(workers=2)) as replay:
        replay.play(Watcher())
        verdict = replay.check()
        outcome = replay.outcome(verdict)
        assert verdict == Verdict(expired=166)
        assert size(server) > 12
    assert outcome.ok
    assert outcome.memories == {
        "episodes": (12, 12),
        "successes": (11, 11),
        "skills": (30, 30),
        "uses": (41, 41),
        "uses that went well": (40, 40),
        "facts": (19, 19),
        "entities": (7, 7),
        "attributes": (58, 58),
        "turns": (166, 166),
    }
    assert (outcome.messages, outcome.sessions, outcome.expired, outcome.workers, outcome.killed) == (
        166,
        12,
        166,
        2,
        0,
    )
    assert outcome.operations > outcome.round_trips > 4 * 166
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert outcome.operations_per_second > 0
    assert size(server) == 0


def test_replays_do_not_meet(valkey: Server, sample: list[Recording]) -> None:
    with Site(valkey.url) as site, Replay(site, sample, Plan(workers=1)) as one, Replay(site, sample, Plan(1)) as other:
        one.play(Watcher())
        other.play(Watcher())
        assert one.prefix != other.prefix
        assert one.check() == other.check() == Verdict(expired=166)
    assert size(valkey) == 0


def test_keys_can_be_kept_and_a_password_is_no_obstacle(
    new_server: Callable[..., Server], sample: list[Recording]
) -> None:
    server = new_server("valkey9", "--requirepass", "p%ss")
    url = f"redis://:p%25ss@127.0.0.1:{server.port}/2"
    with Site(url) as site, Replay(site, sample, Plan(workers=1), keep=True) as replay:
        replay.play(Watcher())
    with Memory(url, prefix=replay.prefix) as memory:
        kept = set(memory.sessions.scan())
        episodes = memory.episodes.search("a night train for a bicycle", limit=1)
    assert kept >= {recording.session_id for recording in sample}
    assert [one.document.memory_id for one in episodes] == ["trip-night-train"]


def test_agents_take_turns_when_there_are_few(valkey: Server, sample: list[Recording]) -> None:
    with Site(valkey.url) as site, Replay(site, sample, Plan(workers=1, agents=1)) as replay:
        replay.play(Watcher())
        assert replay.check() == Verdict(expired=166)


def test_a_memory_inside_one_process_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="memory:// lives inside one process"):
        Site("memory://")


@pytest.mark.skipif(not TAU_BENCH.exists(), reason="the tau-bench trajectories are not beside the project")
def test_the_whole_of_tau_bench_with_three_workers_killed() -> None:
    done = redismem("replay", TAU_BENCH, "--workers", "4", "--kill", "3", "--json", "--url", "embedded://")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert list(outcome) == [field.name for field in fields(Outcome)]
    assert outcome["messages"] == outcome["expired"] == 5308
    assert (outcome["sessions"], outcome["killed"], outcome["lost"], outcome["torn"]) == (200, 3, 0, 0)
    counts = {
        "episodes": 200,
        "successes": 84,
        "skills": 14,
        "uses": 1164,
        "uses that went well": 1091,
        "facts": 1044,
        "entities": 528,
        "attributes": 3875,
        "turns": 5308,
    }
    assert outcome["memories"] == {name: [count, count] for name, count in counts.items()}


# --- agents that die ------------------------------------------------------------------------------------------------


class Death(Exception):
    """An agent's end, at a moment of the test's choice."""


class Mortal(Meter):
    """Ends its agent before the call that would be operation number `last`, or a batch that begins with it."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    @contextmanager
    def timing(self, operations: int = 1) -> Generator[None]:
        if self.operations >= self.last:
            raise Death
        with super().timing(operations):
            yield

    async def time(self, call: Any) -> Any:
        try:
            return await super().time(call)
        finally:
            call.close()


async def played(url: str, recordings: Iterable[Recording], meter: Meter) -> None:
    async with AsyncMemory(url) as memory:
        await asyncio.gather(*(Agent(memory, recording, meter).replay() for recording in recordings))


def copies(sample: Sequence[Recording], session_id: str, number: int) -> list[Recording]:
    """One run of the sample several times, under ids of their own, by a few users."""
    (run,) = (recording for recording in sample if recording.session_id == session_id)
    return [replace(run, session_id=f"{session_id}-{n}", user_id=f"user-{n % 12}") for n in range(number)]


async def test_an_agent_may_die_between_any_two_calls(valkey: Server, memory: Memory, sample: list[Recording]) -> None:
    runs, deaths, meter = copies(sample, "trip-cancel", 130), 0, Meter()
    for last, run in enumerate(runs):
        try:
            await played(valkey.url, [run], Mortal(last))
        except Death:
            deaths += 1
    assert 90 < deaths < 130  # the last ones live to the end, so no call was left out
    await played(valkey.url, runs, meter)
    assert (checked(memory, runs).findings, meter.lost, meter.torn) == ([], 0, 0)


async def test_an_agent_may_die_again_and_again(valkey: Server, memory: Memory, sample: list[Recording]) -> None:
    for number, run in enumerate(sample):
        for life in range(1_000):
            try:
                await played(valkey.url, [run], Mortal(6 + number + life % 9))
            except Death:
                continue
            break
        assert life > 2
    assert checked(memory, sample).findings == []


class Torn:
    """In the place of `BatchLink.send`: of one of an agent's batches only the first calls arrive, and it dies."""

    def __init__(self, batch: int, arrived: int) -> None:
        self.batch = batch
        self.arrived = arrived
        self.was_whole = False
        self._send = BatchLink.send

    async def __call__(self, link: BatchLink) -> None:
        self.batch -= 1
        if self.batch >= 0:
            return await self._send(link)
        self.was_whole = len(link._enlisted) <= self.arrived
        for operation, _ in link._enlisted[self.arrived :]:
            operation.close()
        del link._enlisted[self.arrived :]
        await self._send(link)
        raise Death


@pytest.mark.parametrize("batch", [0, 1, 4, 8])  # the opening, the first message, two results of tools
async def test_an_agent_may_die_in_the_middle_of_a_batch(
    batch: int, valkey: Server, memory: Memory, sample: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, last = copies(sample, "trip-cancel", 12), False
    for arrived, run in enumerate(runs):
        torn = Torn(batch, arrived)
        with monkeypatch.context() as patched:
            patched.setattr(BatchLink, "send", lambda link, torn=torn: torn(link))
            with pytest.raises(Death):
                await played(valkey.url, [run], Meter())
        last = torn.was_whole
    assert last
    meter = Meter()
    await played(valkey.url, runs, meter)
    assert (checked(memory, runs).findings, meter.torn) == ([], 0)


async def test_two_agents_on_one_run_are_noticed(valkey: Server, sample: list[Recording]) -> None:
    with pytest.raises(Conflict, match="another agent"):
        await played(valkey.url, [sample[0], sample[0]], Meter())


# --- the check sees every flaw --------------------------------------------------------------------------------------

INES = "user-ines"
RUN = "trip-lisbon"


def checked(memory: Memory, recordings: Sequence[Recording]) -> Verdict:
    """The verdict once the short-lived keys are gone."""
    while any(memory.sessions.get_all(recording.session_id, "presence") for recording in recordings):
        pass
    return check(memory, recordings)


def weaken(memory: Memory) -> None:
    fact = SemanticMemory(subject="ines", predicate="has membership", object="silver", user_id="ines")
    memory.semantics.delete(fact.memory_id)
    memory.semantics.add(fact.model_copy(update={"confidence": 0.7, "source": "trip-lisbon-hotel"}))


def travels(memory: Memory, *found: Customer | Reservation) -> None:
    customers = [one for one in found if isinstance(one, Customer)]
    reservations = [one for one in found if isinstance(one, Reservation)]
    memory.entities.of(Travel).merge("ines", Travel(customers=customers, reservations=reservations))


def fail(episode: EpisodicMemory) -> EpisodicMemory:
    return episode.model_copy(update={"success": False})


def poison(memory: Memory, client: "redis.Redis") -> None:
    client.hset(f"redismem:session:{{{RUN}}}:ns:messages", "000001", b"\xc1")


FLAWS: dict[str, tuple[Callable[[Memory, "redis.Redis"], Any], int, int]] = {
    "nothing": (lambda memory, client: None, 0, 0),
    "a message is missing": (lambda memory, client: memory.sessions.delete(RUN, "messages", "000003"), 1, 0),
    "a message differs": (
        lambda memory, client: memory.sessions.save(RUN, "messages", "000003", {"role": "user"}),
        0,
        1,
    ),
    "a message too many": (lambda memory, client: memory.sessions.save(RUN, "messages", "000099", {}), 0, 1),
    "a message is poisoned": (poison, 0, 1),
    "a count is missing": (lambda memory, client: memory.sessions.delete(RUN, "counters", "role:user"), 1, 0),
    "a count is doubled": (lambda memory, client: memory.sessions.increment(RUN, "counters", "role:user"), 0, 1),
    "a count has another type": (lambda memory, client: memory.sessions.save(RUN, "counters", "role:user", 3.0), 0, 1),
    "a flag differs": (lambda memory, client: memory.sessions.save(RUN, "flags", "status", "open", 60), 0, 1),
    "a flag never expires": (lambda memory, client: memory.sessions.save(RUN, "flags", "status", "done"), 0, 1),
    "the position is behind": (lambda memory, client: memory.sessions.increment(RUN, "flags", "position", -1), 0, 1),
    "a short-lived key stays": (lambda memory, client: memory.sessions.save(RUN, "presence", "000002", 2), 1, 0),
    "a namespace too many": (lambda memory, client: memory.sessions.save(RUN, "stray", "key", 1), 0, 1),
    "a session too many": (lambda memory, client: memory.sessions.save("stray", "flags", "key", 1), 0, 1),
    "another owner": (lambda memory, client: client.hset(f"redismem:session:{{{RUN}}}:meta", "user_id", "eve"), 0, 1),
    "a user's count differs": (
        lambda memory, client: memory.sessions.increment(INES, "shared", f"messages:{RUN}"),
        0,
        1,
    ),
    "a user's progress went back": (
        lambda memory, client: memory.sessions.update(INES, "shared", "progress", lambda runs: runs | {RUN: 1}),
        0,
        1,
    ),
    "a user's state is gone": (lambda memory, client: memory.sessions.end(INES), 4, 0),
    "a run is gone": (lambda memory, client: memory.sessions.end(RUN), 13 + 7 + 3, 0),
    "an episode is missing": (lambda memory, client: memory.episodes.delete(RUN), 1, 0),
    "an episode differs": (lambda memory, client: memory.episodes.update(RUN, fail), 0, 1),
    "an episode too many": (lambda memory, client: memory.episodes.add(EpisodicMemory(content="?")), 0, 1),
    "a use is counted twice": (lambda memory, client: memory.skills.use("book_train", success=True), 0, 1),
    "a skill too many": (lambda memory, client: memory.skills.add(SkillMemory(skill_name="fly")), 0, 1),
    "a skill is missing": (lambda memory, client: memory.skills.delete("book_train"), 1, 0),
    "a fact is missing": (
        lambda memory, client: memory.semantics.delete(memory.semantics.query(predicate="has cabin")[0].memory_id),
        1,
        0,
    ),
    "a fact too many": (
        lambda memory, client: memory.semantics.add(SemanticMemory(subject="ines", predicate="is", object="here")),
        0,
        1,
    ),
    "a fact is less sure": (lambda memory, client: weaken(memory), 0, 1),
    "a sum is one too high": (lambda memory, client: travels(memory, Customer(id="ines", mentions=1)), 0, 1),
    "an attribute differs": (lambda memory, client: travels(memory, Customer(id="ines", membership="gold")), 0, 1),
    "a member too many": (
        lambda memory, client: travels(memory, Customer(id="ines", reservations=frozenset({"X"}))),
        0,
        1,
    ),
    "an entity too many": (lambda memory, client: travels(memory, Reservation(id="X")), 0, 1),
    "the entities are gone": (lambda memory, client: memory.entities.of(Travel).forget("ines"), 3, 0),
    "a turn twice": (
        lambda memory, client: memory.history.append("ines", "assistant", "Boa viagem!", conversation=RUN),
        0,
        1,
    ),
    "a conversation too many": (lambda memory, client: memory.history.append("ines", "user", "?"), 0, 1),
    "the turns are gone": (lambda memory, client: memory.history.clear("ines", conversation=RUN), 13, 0),
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_the_check_sees(flaw: str, valkey: Server, memory: Memory, sample: list[Recording]) -> None:
    runs = [recording for recording in sample if recording.user_id == "ines"]
    await played(valkey.url, runs, Meter())
    assert checked(memory, runs) == Verdict(expired=38)
    plant, lost, torn = FLAWS[flaw]
    with redis.Redis(port=valkey.port) as client:
        plant(memory, client)
    verdict = check(memory, runs)
    assert (verdict.lost, verdict.torn) == (lost, torn), verdict.findings
    assert len(verdict.findings) == lost + torn
    assert verdict.expired == 38 - (flaw == "a short-lived key stays")


async def test_a_key_that_goes_before_its_time_is_lost(valkey: Server, sample: list[Recording]) -> None:
    async with AsyncMemory(valkey.url) as memory:
        ttl = memory.sessions.ttl

        async def robbed(session_id: str, namespace: str, key: str) -> float | None:
            await memory.sessions.delete(session_id, namespace, key)
            return await ttl(session_id, namespace, key)

        memory.sessions.ttl = robbed  # type: ignore[method-assign]
        meter = Meter()
        await Agent(memory, sample[0], meter).replay()
    assert meter.lost == len(sample[0].messages)


def test_a_loss_on_the_way_is_the_exit_status(valkey: Server, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    message = {"role": "user", "content": "…"}
    path.write_text("".join(json.dumps({"session_id": f"s{n}", "messages": [message] * 50}) + "\n" for n in range(40)))
    command = [sys.executable, "-m", "redismem.ops.cli", "replay", path, "--url", valkey.url, "--json"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        redis.Redis(port=valkey.port) as client,
    ):
        stolen = False
        while not stolen and process.poll() is None:
            for name in client.scan_iter("*:session:{s0}:ns:messages"):
                stolen = bool(client.hdel(name, "000000"))
        out, err = process.communicate()
    assert stolen
    assert process.returncode == 1
    assert (json.loads(out)["lost"], json.loads(out)["torn"]) == (1, 0)
    assert err.decode().strip() == "lost: s0/messages[000000] is missing"


def test_places_are_named() -> None:
    run = Recording("s", "u", [{"role": "user"}])
    assert counts(run, run.messages[0]) == {
        Place("s", "counters", "role:user"): 1,
        Place("user-u", "shared", "messages:s"): 1,
    }
