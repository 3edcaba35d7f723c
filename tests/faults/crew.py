"""Worker processes of a fault test: started, spoken to, killed, and none of them left at the end."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final
from unittest.mock import patch

SPAWN: Final = multiprocessing.get_context("spawn")
WITHIN: Final = 60.0
"""Seconds for which a worker may be silent on a loaded machine."""


@dataclass
class Member:
    """One worker, and the pipe to it."""

    index: int
    process: BaseProcess
    pipe: Connection

    def tell(self, message: Any = "go") -> None:
        """Say something to the worker."""
        self.pipe.send(message)

    def hear(self) -> Any:
        """What the worker says next."""
        assert self.pipe.poll(WITHIN), f"worker {self.index} says nothing"
        return self.pipe.recv()

    def signal(self, number: signal.Signals) -> None:
        """As kill -number."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.join()


def member(index: int, work: Callable[..., None], *args: Any, environment: Mapping[str, str] | None = None) -> Member:
    """A process that runs `work(pipe, index, *args)`."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=work, args=(theirs, index, *args), daemon=True)
    with patch.dict(os.environ, environment or {}):
        process.start()
    theirs.close()
    return Member(index, process, ours)


@contextmanager
def crew(size: int, work: Callable[..., None], *args: Any) -> Iterator[list[Member]]:
    """So many processes. Those that are in the list at the end are killed, and then it is known that they ended."""
    members: list[Member] = []
    try:
        members += (member(index, work, *args) for index in range(size))
        yield members
    finally:
        for one in members:
            one.kill()
            one.pipe.close()


def gather(members: list[Member]) -> None:
    """Wait until each has said that it is ready, then let all begin."""
    for one in members:
        assert one.hear() == "ready"
    for one in members:
        one.tell()


def in_child(work: Callable[[], object]) -> int:
    """The status of a forked child that does this: 0 if it did."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # a child that hangs is killed
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
