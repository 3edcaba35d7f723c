"""Async memory for parallel agents: three stores, each operation awaited (`*_async`) or plain."""

from typing import ClassVar

from redismem.compat.named import Named, Operation, documents
from redismem.stores.episodes import EpisodicMemory
from redismem.stores.semantics import SemanticMemory
from redismem.stores.skills import SkillMemory

__all__ = [
    "AsyncEpisodicMemoryStore",
    "AsyncSemanticMemoryStore",
    "AsyncSkillMemoryStore",
    "EpisodicMemory",
    "SemanticMemory",
    "SkillMemory",
]


class AsyncEpisodicMemoryStore(Named):
    """Episodes: `redismem.stores.episodes`."""

    part = "episodes"
    table: ClassVar = {
        "add_episode": Operation("add"),
        "add_episodes": Operation("add_many"),
        "get_episode": Operation("get"),
        "update_episode": Operation("update"),
        "delete_episode": Operation("delete"),
        "search_episodes": Operation("search", documents),
        "stream_episodes": Operation("stream", streams=True),
    }


class AsyncSemanticMemoryStore(Named):
    """Facts: `redismem.stores.semantics`."""

    part = "semantics"
    table: ClassVar = {
        "add_semantic": Operation("add"),
        "get_semantic": Operation("get"),
        "delete_semantic": Operation("delete"),
        "search_semantic": Operation("search", documents),
        "query_semantic": Operation("query"),
    }


class AsyncSkillMemoryStore(Named):
    """Skills: `redismem.stores.skills`."""

    part = "skills"
    table: ClassVar = {
        "add_skill": Operation("add"),
        "get_skill": Operation("get"),
        "use_skill": Operation("use"),
        "delete_skill": Operation("delete"),
        "search_skills": Operation("search", documents),
    }
