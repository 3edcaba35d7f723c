"""Shared memory for fleets of AI-agent workers, on the Redis or Valkey a team already runs."""

from redismem import errors
from redismem.cache.reads import L1Stats
from redismem.config import Settings
from redismem.durability import Durability
from redismem.health import Health
from redismem.memory import AsyncMemory, Memory, Stats, create_store
from redismem.op import Handle
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.sessions import MISSING, AsyncSessionStore, Copy, SessionInfo, SessionStore, Values
from redismem.ttl import KEEP_TTL

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "MISSING",
    "AsyncMemory",
    "AsyncSessionStore",
    "Copy",
    "Durability",
    "Handle",
    "Health",
    "InMemorySessionStore",
    "L1Stats",
    "Memory",
    "SessionInfo",
    "SessionStore",
    "Settings",
    "Stats",
    "Values",
    "create_store",
    "errors",
]
