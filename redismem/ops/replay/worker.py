"""One worker process of a replay: agents as tasks on one `AsyncMemory`, and a pipe to the parent.

The parent sends recordings. The worker sends a `Report` as soon as it is connected, one at the end of each run, and
one every few milliseconds in between. Its figures are running totals, so a worker that is killed takes little with it.
A pipe belongs to one worker alone: there is no lock that a dying one could keep. When the parent hangs up, the worker
ends; when an agent fails, the worker says why, and ends.
"""

import asyncio
import contextlib
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, cast

from redismem.memory import AsyncMemory
from redismem.ops.replay.agent import Agent
from redismem.ops.replay.meter import Meter
from redismem.ops.replay.recording import Recording

_REPORT_INTERVAL: Final = 0.02
_OPERATION_MEMORY: Final = 600.0
"""For how many seconds what a worker did must not be done again by its successor."""
_UPDATE_ATTEMPTS: Final = 10_000
"""However many runs of one user there are at a time, each gets its turn in the end."""


@dataclass(frozen=True, slots=True)
class Job:
    """Where a worker works, and how."""

    url: str
    prefix: str
    think: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells its parent."""

    meter: Meter
    finished: str | None = None
    """The run that has just come to its end."""
    trouble: str | None = None
    """Why the worker ends: the traceback of an agent's failure."""


def work(pipe: "Connection[Any, Any]", job: Job) -> None:
    """The body of the process; it ends with status 1 after a failure."""
    worker = _Worker(pipe, job)
    try:
        asyncio.run(worker.run())
    except asyncio.CancelledError:
        return
    except Exception as error:
        worker.report(trouble="".join(traceback.format_exception(_first(error))))
        raise SystemExit(1) from None


def _first(error: Exception) -> Exception:
    """Of a group, its first member: one is enough to say what went wrong."""
    return cast("ExceptionGroup[Exception]", error).exceptions[0] if isinstance(error, ExceptionGroup) else error


class _Worker:
    def __init__(self, pipe: "Connection[Any, Any]", job: Job) -> None:
        self._pipe = pipe
        self._job = job
        self._memory = AsyncMemory(
            job.url, prefix=job.prefix, update_attempts=_UPDATE_ATTEMPTS, operation_memory=_OPERATION_MEMORY
        )
        self._meter = Meter()

    async def run(self) -> None:
        """Work until the parent hangs up, which cancels this. Raises a group of what agents raised."""
        loop = asyncio.get_running_loop()
        hang_up: asyncio.Future[None] = loop.create_future()
        async with self._memory, asyncio.TaskGroup() as tasks:
            await self._memory.health()  # connected before it asks for work
            tasks.create_task(self._keep_reporting())
            loop.add_reader(self._pipe.fileno(), self._receive, tasks, hang_up)
            await hang_up

    def report(self, finished: str | None = None, trouble: str | None = None) -> None:
        """Tell the parent, if there still is one."""
        self._meter.round_trips = self._memory.stats().round_trips
        with contextlib.suppress(OSError):
            self._pipe.send(Report(self._meter, finished, trouble))

    async def _keep_reporting(self) -> None:
        while True:
            self.report()
            await asyncio.sleep(_REPORT_INTERVAL)

    def _receive(self, tasks: asyncio.TaskGroup, hang_up: "asyncio.Future[None]") -> None:
        try:
            recording = self._pipe.recv()
        except (EOFError, OSError):
            hang_up.cancel()
        else:
            tasks.create_task(self._replay(recording))

    async def _replay(self, recording: Recording) -> None:
        await Agent(self._memory, recording, self._meter, self._job.think).replay()
        self.report(recording.session_id)
