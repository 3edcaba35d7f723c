"""The worker processes of a replay, as their parent sees them: started, fed, listened to, killed, ended."""

import multiprocessing
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from redismem.ops.replay.meter import Meter
from redismem.ops.replay.recording import Recording
from redismem.ops.replay.site import Site
from redismem.ops.replay.worker import Job, Report, work

_spawn: Final = multiprocessing.get_context("spawn")  # a forked child would share its parent's connections
_LEAVES_WITHIN: Final = 5.0


class Worker:
    """One worker process; its number is its own, and its replacement has another."""

    def __init__(self, number: int, client_name: str, job: Job) -> None:
        self.number = number
        self.client_name = client_name
        self.meter = Meter()
        self.runs: dict[str, Recording] = {}
        """What it works on, by session id."""
        self.is_killed = False
        self.pipe: Connection[Any, Any]
        self.pipe, far_end = _spawn.Pipe()
        self._process: SpawnProcess = _spawn.Process(target=work, args=(far_end, job), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        far_end.close()

    def give(self, recording: Recording) -> None:
        """Hand it a run."""
        self.runs[recording.session_id] = recording
        with suppress(OSError):  # it is dead: its pipe will tell
            self.pipe.send(recording)

    def hear(self) -> Report | None:
        """Its next report; None when it is dead and has nothing left to say."""
        try:
            report: Report = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.meter = report.meter
        if report.finished is not None:
            self.runs.pop(report.finished, None)
        return report

    def kill(self) -> None:
        """End it with SIGKILL, without warning."""
        self.is_killed = True
        self._process.kill()

    def bury(self) -> str:
        """Wait for the end of a process that hung up or was killed; how it ended, in words."""
        self.pipe.close()
        self._process.join(_LEAVES_WITHIN)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Crew:
    """All workers of a replay, living and dead."""

    def __init__(self, site: Site, prefix: str, think: float) -> None:
        self.workers: list[Worker] = []
        self._site = site
        self._prefix = prefix
        self._think = think
        self._departed = Meter()
        self._hired = 0

    def hire(self) -> Worker:
        """One more worker."""
        self._hired += 1
        name = f"{self._prefix}-worker-{os.getpid()}-{self._hired}".replace(":", "-")
        worker = Worker(self._hired, name, Job(self._site.url(name), self._prefix, self._think))
        self.workers.append(worker)
        return worker

    def speaking(self) -> list[Worker]:
        """The workers that have something to say or have died; waits until there are any."""
        ready = wait([worker.pipe for worker in self.workers])
        return [worker for worker in self.workers if worker.pipe in ready]

    def bury(self, worker: Worker) -> str:
        """Part with a dead worker; when this returns, nothing of it can reach the server any more."""
        self.workers.remove(worker)
        end = worker.bury()
        self._departed.merge(worker.meter)
        self._site.wait_until_gone(worker.client_name)
        return end

    @property
    def messages(self) -> int:
        """How many messages all of them have done, as far as they have told."""
        return self._departed.messages + sum(worker.meter.messages for worker in self.workers)

    def meter(self) -> Meter:
        """What all of them measured together."""
        total = Meter()
        for meter in (self._departed, *(worker.meter for worker in self.workers)):
            total.merge(meter)
        return total

    def disband(self, *, at_once: bool) -> None:
        """Part with everyone: in good order, or `at_once`."""
        for worker in self.workers:
            if at_once:
                worker.kill()
            else:
                worker.pipe.close()
        while self.workers:
            self.bury(self.workers[0])


@contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """Processes started meanwhile never see Ctrl-C, which a terminal sends to all: the parent ends them in its way."""
    resource_tracker.ensure_running()  # it would come with the first process, and unblock SIGINT on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
