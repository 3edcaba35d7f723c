"""Shared memory for fleets of AI-agent workers, on the Redis or Valkey a team already runs."""

from redismem import errors
from redismem.cache.reads import L1Stats
from redismem.config import Settings
from redismem.durability import Durability
from redismem.health import Health
from redismem.memory import AsyncMemory, Memory, Stats, create_store
from redismem.op import Handle
from redismem.stores.contexts import AsyncContextStore, ContextStore, UserContext
from redismem.stores.crm import SimpleMemory
from redismem.stores.entities import AsyncEntityStore, EntityStore, MergeReport
from redismem.stores.graph import (
    AsyncGraphStore,
    GraphEntity,
    GraphPath,
    GraphSize,
    GraphStore,
    Neighbour,
    Relationship,
    Step,
)
from redismem.stores.identity import Id, NaturalKey
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
    "AsyncEntityStore",
    "AsyncGraphStore",
    "AsyncMemory",
    "AsyncRecordStore",
    "AsyncSessionStore",
    "ContextStore",
    "Copy",
    "Durability",
    "EntityStore",
    "Expires",
    "FillMissing",
    "GraphEntity",
    "GraphPath",
    "GraphSize",
    "GraphStore",
    "Handle",
    "Health",
    "Id",
    "InMemorySessionStore",
    "KeepFirst",
    "L1Stats",
    "Latest",
    "Max",
    "MaxBy",
    "Memory",
    "MergeReport",
    "Merged",
    "Min",
    "NaturalKey",
    "Neighbour",
    "RecordStore",
    "Relationship",
    "SessionInfo",
    "SessionStore",
    "Settings",
    "SimpleMemory",
    "Snapshot",
    "Stats",
    "Step",
    "Sum",
    "Union",
    "UserContext",
    "Values",
    "create_store",
    "errors",
    "migration",
]
