"""The main job: recorded agent runs, replayed by several worker processes on one memory, then checked to the last bit.

`Replay` is the parent: it hands runs to its workers, listens to them, kills some with SIGKILL where it is asked to,
replaces those that died, and at the end reads everything back. `redismem.ops.replay.agent` says what is stored, and why
a kill can neither lose nor double anything.
"""

import random
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from redismem.errors import LinkError, RedisMemError
from redismem.memory import Memory
from redismem.ops.replay.agent import PRESENCE_TTL
from redismem.ops.replay.check import check
from redismem.ops.replay.crew import Crew, Worker
from redismem.ops.replay.recording import Recording
from redismem.ops.replay.site import Site
from redismem.ops.replay.verdict import Tally, Verdict

_MOST_FAILURES: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """The report of a replay. Counts of what workers did leave out the last moments of those that were killed."""

    messages: int
    sessions: int
    operations: int
    operations_per_second: float
    round_trips: int
    p50_ms: float
    p99_ms: float
    lost: int
    torn: int
    expired: int
    workers: int
    killed: int
    memories: dict[str, Tally]
    """Of each kind of memory, how much there must be, and how much there is as it must be."""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost and nothing torn."""
        return not self.lost and not self.torn


@dataclass(frozen=True, slots=True)
class Plan:
    """How to replay."""

    workers: int = 4
    agents: int = 8
    """Runs that one worker replays at a time."""
    kill: int = 0
    """Workers to kill on the way, spread over the replay."""
    seed: int = 0
    """Chooses the victims."""
    think: float = 0.0
    """Seconds that an agent ponders each message."""


class Watcher:
    """Told what happens during a replay; this one ignores it."""

    def advanced(self, done: int, total: int) -> None:
        """So many messages are done."""

    def happened(self, event: str) -> None:
        """A worker died, or something else that is worth a line."""


class Replay:
    """One replay. Leaving its `with` block ends what still runs, and forgets the keys unless they are to be kept.

    `prefix`: of the keys, which are then kept; None: a fresh one below that of the settings, so replays do not meet.
    """

    def __init__(
        self,
        site: Site,
        recordings: Sequence[Recording],
        plan: Plan,
        *,
        prefix: str | None = None,
        keep: bool = False,
    ) -> None:
        self.prefix = prefix or f"{site.prefix}:replay-{secrets.token_hex(4)}"
        self.memory = Memory(site.url("redismem-replay"), prefix=self.prefix)
        self._site = site
        self._recordings = recordings
        self._plan = plan
        self._keep = keep or prefix is not None
        self._watcher = Watcher()
        self._crew = Crew(site, self.prefix, plan.think)
        self._waiting = deque(recordings)
        self._unfinished = {recording.session_id for recording in recordings}
        self._messages = sum(len(recording.messages) for recording in recordings)
        self._kills_due = deque(self._messages * (i + 1) // (plan.kill + 1) for i in range(plan.kill))
        self._random = random.Random(plan.seed)
        self._killed = self._failed = 0
        self._began: float | None = None
        self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self.memory, suppress(LinkError) if kind else nullcontext():
            self._crew.disband(at_once=True)
            if not self._keep:
                self._site.forget(self.prefix)

    def play(self, watcher: Watcher) -> None:
        """Replay everything. Raises `LinkError`, and `RedisMemError` when workers keep failing."""
        self._watcher = watcher
        watcher.advanced(0, self._messages)
        for _ in range(self._plan.workers):
            self._crew.hire()
        while self._unfinished:
            for worker in self._crew.speaking():
                self._hear(worker)
            self._kill_if_due()
        self._seconds = time.monotonic() - (self._began or 0.0)
        watcher.advanced(self._messages, self._messages)  # a killed worker's last messages are done, but it told nobody
        self._crew.disband(at_once=False)
        if self._kills_due:
            self._watcher.happened(f"{len(self._kills_due)} workers were not killed: the replay was over before")

    def check(self) -> Verdict:
        """Read everything back, once the short-lived keys must be gone, and compare. Raises `LinkError`."""
        time.sleep(PRESENCE_TTL)
        verdict, meter = check(self.memory, self._recordings), self._crew.meter()
        verdict.lose("short-lived keys", "had gone before their time", meter.lost)
        verdict.tear("calls", "were refused that had to succeed", meter.torn)
        return verdict

    def outcome(self, verdict: Verdict) -> Outcome:
        """The report of what was played and found."""
        meter = self._crew.meter()
        return Outcome(
            messages=self._messages,
            sessions=len(self._recordings),
            operations=meter.operations,
            operations_per_second=round(meter.operations / self._seconds, 1),
            round_trips=meter.round_trips,
            p50_ms=round(meter.latencies.percentile(0.50) * 1000, 3),
            p99_ms=round(meter.latencies.percentile(0.99) * 1000, 3),
            lost=verdict.lost,
            torn=verdict.torn,
            expired=verdict.expired,
            workers=self._plan.workers,
            killed=self._killed,
            memories=verdict.memories,
        )

    def _hear(self, worker: Worker) -> None:
        report = worker.hear()
        if report is None:
            self._replace(worker)
            return
        if self._began is None:
            self._began = time.monotonic()
        if report.finished is not None:
            self._unfinished.discard(report.finished)
        if report.trouble is not None:
            self._watcher.happened(f"worker {worker.number} failed:\n{report.trouble.rstrip()}")
            return
        while self._waiting and len(worker.runs) < self._plan.agents:
            worker.give(self._waiting.popleft())
        self._watcher.advanced(self._crew.messages, self._messages)

    def _kill_if_due(self) -> None:
        while self._kills_due and self._crew.messages >= self._kills_due[0]:
            victims = [worker for worker in self._crew.workers if worker.runs and not worker.is_killed]
            if not victims:
                return
            self._random.choice(victims).kill()
            self._kills_due.popleft()
            self._killed += 1

    def _replace(self, dead: Worker) -> None:
        """Hand on what a dead worker leaves behind, which nobody writes to any more when `bury` returns."""
        end = self._crew.bury(dead)
        if not dead.is_killed:
            self._failed += 1
            if self._failed > _MOST_FAILURES:
                raise RedisMemError(f"gave up after {self._failed} workers had failed; the last one ended with {end}")
        self._waiting.extendleft(dead.runs.values())
        successor = self._crew.hire()
        self._watcher.happened(
            f"worker {dead.number} ended with {end} after {dead.meter.messages} messages; "
            f"its {len(dead.runs)} runs go on, and worker {successor.number} takes its place"
        )
