"""Async memory for parallel agents: three stores, each operation awaited (`*_async`) or plain.

Many may read and write at once, in any number of processes: nothing is locked, and nothing is lost.
"""

from redismem.compat.named import Named, named, searching, streaming
from redismem.durability import Durability
from redismem.stores.documents import DEFAULT_SCOPE
from redismem.stores.episodes import EpisodeOperations, EpisodicMemory
from redismem.stores.semantics import SemanticMemory, SemanticOperations
from redismem.stores.skills import SkillMemory, SkillOperations

__all__ = [
    "AsyncEpisodicMemoryStore",
    "AsyncSemanticMemoryStore",
    "AsyncSkillMemoryStore",
    "EpisodicMemory",
    "SemanticMemory",
    "SkillMemory",
]


def _add_semantic(
    semantic: SemanticMemory, *, scope: str = DEFAULT_SCOPE, ttl: float | None = None, durable: Durability | None = None
) -> bool:
    """`SemanticOperations.add`, with the name that a fact has here."""
    raise NotImplementedError


def _get_skill(skill_name: str, *, scope: str = DEFAULT_SCOPE) -> SkillMemory | None:
    """`SkillOperations.get`, with the name that the id of a skill has here."""
    raise NotImplementedError


class AsyncEpisodicMemoryStore(Named):
    """Episodes: `redismem.stores.episodes`."""

    part = "episodes"
    add_episode_async, add_episode = named(EpisodeOperations.add)
    add_episodes_async, add_episodes = named(EpisodeOperations.add_many)
    get_episode_async, get_episode = named(EpisodeOperations.get)
    update_episode_async, update_episode = named(EpisodeOperations.update)
    delete_episode_async, delete_episode = named(EpisodeOperations.delete)
    search_episodes_async, search_episodes = searching(EpisodeOperations.search)
    stream_episodes_async, stream_episodes = streaming(EpisodeOperations.stream)


class AsyncSemanticMemoryStore(Named):
    """Facts: `redismem.stores.semantics`."""

    part = "semantics"
    add_semantic_async, add_semantic = named(SemanticOperations.add, like=_add_semantic)
    get_semantic_async, get_semantic = named(SemanticOperations.get)
    delete_semantic_async, delete_semantic = named(SemanticOperations.delete)
    search_semantic_async, search_semantic = searching(SemanticOperations.search)
    query_semantic_async, query_semantic = named(SemanticOperations.query)


class AsyncSkillMemoryStore(Named):
    """Skills: `redismem.stores.skills`."""

    part = "skills"
    add_skill_async, add_skill = named(SkillOperations.add)
    get_skill_async, get_skill = named(SkillOperations.get, like=_get_skill)
    use_skill_async, use_skill = named(SkillOperations.use)
    delete_skill_async, delete_skill = named(SkillOperations.delete)
    search_skills_async, search_skills = searching(SkillOperations.search)
