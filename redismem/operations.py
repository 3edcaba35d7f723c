"""Operation ids: how an operation that must not be applied twice may still be sent twice.

Each client (a memory, in one process) numbers the operations that it has under way at one time with slots, and gives
every operation the next generation. The script that applies it remembers the generation and the reply, one for each
client and slot, so what is remembered is bounded by what is under way. Sent again after a lost reply, it is answered
from there; arriving late, after its sender gave up and used the slot for something else, it is too.

The calls of one step of a job have ids of their own: the job and which call it is stand for client and slot, the step
for the generation. So another process that takes the job over may do the step again, and it takes effect once.
"""

import itertools
import os
import secrets
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from redismem.errors import ConfigError
from redismem.link.base import Argument
from redismem.ttl import milliseconds

Operation = tuple[Argument, Argument, Argument]
"""Id, generation and for how many milliseconds the server remembers it: what the scripts take."""

IDEMPOTENT: Final[Operation] = ("", 0, 0)
"""Stands for the id of an operation that may be applied twice."""


class Operations:
    """The operation ids of one client. Thread-safe, task-safe and fork-safe. `memory` is seconds."""

    def __init__(self, memory: float) -> None:
        self._memory_ms = milliseconds(memory)
        self._restart()

    @contextmanager
    def one(self, verb: str) -> Generator[Operation]:
        """The id of one operation, from before it is first sent until nobody waits for its reply any more."""
        del verb
        if self._process != os.getpid():
            self._restart()
        client, free = self._client, self._free
        try:
            slot = free.pop()
        except IndexError:
            slot = next(self._slots)
        try:
            yield f"{client}.{slot}", next(self._generations), self._memory_ms
        finally:
            free.append(slot)

    def _restart(self) -> None:
        """Become another client: a forked child is none of its parent's."""
        self._process = os.getpid()
        self._client = secrets.token_hex(6)
        self._free: list[int] = []
        self._slots = itertools.count()
        self._generations = itertools.count(1)


class StepOperations(Operations):
    """The operation ids of one step of a job: the same ones, whoever does it. `call` says which call is running.

    Raises `ConfigError` for a job without a name, or a step that is no number from 1 on.
    """

    def __init__(self, memory: float, job: str, step: int, call: Callable[[], int]) -> None:
        super().__init__(memory)
        if not job or type(step) is not int or not 0 < step < 2**53:
            raise ConfigError(f"job={job!r}, step={step!r}: give a name, and a whole number of at least 1")
        self._job = job
        self._step = step
        self._call = call
        self._sent: Counter[tuple[int, str]] = Counter()

    @contextmanager
    def one(self, verb: str) -> Generator[Operation]:
        """See `Operations.one`: a call that begins anew has another id, and the same one if it is made again.

        What it does on the way (a migration) is of another verb, and so is not taken for it.
        """
        call = self._call()
        self._sent[call, verb] += 1
        yield f"{call}.{self._sent[call, verb]}.{verb}:{self._job}", self._step, self._memory_ms
