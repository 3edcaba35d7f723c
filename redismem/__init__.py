"""Shared memory for fleets of AI-agent workers, on the Redis or Valkey a team already runs."""

from redismem import errors
from redismem.config import Settings
from redismem.health import Health
from redismem.link.base import Stats
from redismem.memory import AsyncMemory, Memory, create_store
from redismem.op import Handle
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.sessions import MISSING, AsyncSessionStore, SessionInfo, SessionStore, Values
from redismem.ttl import KEEP_TTL

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "MISSING",
    "AsyncMemory",
    "AsyncSessionStore",
    "Handle",
    "Health",
    "InMemorySessionStore",
    "Memory",
    "SessionInfo",
    "SessionStore",
    "Settings",
    "Stats",
    "Values",
    "create_store",
    "errors",
]
