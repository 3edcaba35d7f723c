"""Shared memory for fleets of AI-agent workers, on the Redis or Valkey a team already runs."""

from redismem import errors
from redismem.cache.reads import L1Stats
from redismem.config import Settings
from redismem.durability import Durability
from redismem.health import Health
from redismem.memory import AsyncMemory, Memory, Stats, create_store
from redismem.op import Handle
from redismem.stores.contexts import AsyncContextStore, ContextStore, UserContext
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.policy import Expires, FillMissing, KeepFirst, Latest, Max, MaxBy, Min, Sum, Union
from redismem.stores.record import AsyncRecordStore, Merged, RecordStore
from redismem.stores.sessions import MISSING, AsyncSessionStore, Copy, SessionInfo, SessionStore, Values
from redismem.stores.shape import Snapshot, migration
from redismem.ttl import KEEP_TTL

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "MISSING",
    "AsyncContextStore",
    "AsyncMemory",
    "AsyncRecordStore",
    "AsyncSessionStore",
    "ContextStore",
    "Copy",
    "Durability",
    "Expires",
    "FillMissing",
    "Handle",
    "Health",
    "InMemorySessionStore",
    "KeepFirst",
    "L1Stats",
    "Latest",
    "Max",
    "MaxBy",
    "Memory",
    "Merged",
    "Min",
    "RecordStore",
    "SessionInfo",
    "SessionStore",
    "Settings",
    "Snapshot",
    "Stats",
    "Sum",
    "Union",
    "UserContext",
    "Values",
    "create_store",
    "errors",
    "migration",
]
