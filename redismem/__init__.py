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
from redismem.stores.episodes import AsyncEpisodeStore, EpisodeStore, EpisodicMemory
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
from redismem.stores.history import AsyncHistoryStore, HistoryStore, NewTurn, Turn, Turns
from redismem.stores.identity import Id, NaturalKey
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.policy import Expires, FillMissing, KeepFirst, Latest, Max, MaxBy, Min, Sum, Union
from redismem.stores.preferences import AsyncPreferenceStore, PreferenceStore
from redismem.stores.record import AsyncRecordStore, Merged, Records, RecordStore
from redismem.stores.semantics import AsyncSemanticStore, SemanticMemory, SemanticStore
from redismem.stores.sessions import MISSING, AsyncSessionStore, Copy, SessionInfo, SessionStore
from redismem.stores.shape import Snapshot, migration
from redismem.stores.skills import AsyncSkillStore, SkillMemory, SkillStore
from redismem.stores.states import AsyncStateStore, SessionState, StateStore
from redismem.stores.temporal import AsyncTemporalStore, TemporalStore
from redismem.stores.threads import AsyncThreadStore, Checkpoint, ThreadInfo, ThreadStore, Version, Written
from redismem.stores.values import Values
from redismem.ttl import KEEP_TTL

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "MISSING",
    "AsyncContextStore",
    "AsyncEntityStore",
    "AsyncEpisodeStore",
    "AsyncGraphStore",
    "AsyncHistoryStore",
    "AsyncMemory",
    "AsyncPreferenceStore",
    "AsyncRecordStore",
    "AsyncSemanticStore",
    "AsyncSessionStore",
    "AsyncSkillStore",
    "AsyncStateStore",
    "AsyncTemporalStore",
    "AsyncThreadStore",
    "Checkpoint",
    "ContextStore",
    "Copy",
    "Durability",
    "EntityStore",
    "EpisodeStore",
    "EpisodicMemory",
    "Expires",
    "FillMissing",
    "GraphEntity",
    "GraphPath",
    "GraphSize",
    "GraphStore",
    "Handle",
    "Health",
    "HistoryStore",
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
    "NewTurn",
    "PreferenceStore",
    "RecordStore",
    "Records",
    "Relationship",
    "SemanticMemory",
    "SemanticStore",
    "SessionInfo",
    "SessionState",
    "SessionStore",
    "Settings",
    "SimpleMemory",
    "SkillMemory",
    "SkillStore",
    "Snapshot",
    "StateStore",
    "Stats",
    "Step",
    "Sum",
    "TemporalStore",
    "ThreadInfo",
    "ThreadStore",
    "Turn",
    "Turns",
    "Union",
    "UserContext",
    "Values",
    "Version",
    "Written",
    "create_store",
    "errors",
    "migration",
]
