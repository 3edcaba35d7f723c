"""Operation ids: how an operation that must not be applied twice may still be sent twice.

Each client (a memory, in one process) numbers the operations that it has under way at one time with slots, and gives
every operation the next generation. The script that applies it remembers the generation and the reply, one for each
client and slot, so what is remembered is bounded by what is under way. Sent again after a lost reply, it is answered
from there; arriving late, after its sender gave up and used the slot for something else, it is too.
"""

import itertools
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

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
    def one(self) -> Generator[Operation]:
        """The id of one operation, from before it is first sent until nobody waits for its reply any more."""
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
