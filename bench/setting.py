"""Where and on what everything is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import data
from redismem import Memory

SESSION, NAMESPACE, HASH = "bench", "values", "bare:values"
FIELDS = 100
KEYS = data.keys(FIELDS)
VALUE = data.value()
RAW = VALUE.encode()
TTL = 60.0
TTL_MS = 60_000


@dataclass(frozen=True, slots=True)
class Bench:
    """One server, a bare client of it, and how long to measure."""

    url: str
    bare: Any
    quick: bool = False

    def size(self, full: int, quick: int = 3) -> int:
        """How many of something: fewer when only the machinery is tried."""
        return quick if self.quick else full

    def fill(self, memory: Memory) -> None:
        """The same fields for both sides."""
        values = dict.fromkeys(KEYS, VALUE)
        memory.sessions.save_many(SESSION, NAMESPACE, values)
        self.bare.hset(HASH, mapping=dict.fromkeys(KEYS, RAW))
        assert memory.sessions.get_all(SESSION, NAMESPACE) == values


def saving(memory: Memory) -> Callable[[str], object]:
    """redismem's save of one key with a TTL."""
    return partial(memory.sessions.save, SESSION, NAMESPACE, value=VALUE, ttl=TTL)


def hsetex(client: Any) -> Callable[[str], object]:
    """The same with a bare client."""
    return partial(client.hsetex, HASH, value=RAW, px=TTL_MS)
