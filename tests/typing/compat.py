"""Checked by mypy and pyright, never run: names of earlier systems have the types of the operations behind them."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from redismem.compat.architecture import (
    AsyncEpisodicMemoryStore,
    AsyncSemanticMemoryStore,
    AsyncSkillMemoryStore,
    EpisodicMemory,
    SemanticMemory,
    SkillMemory,
)
from redismem.compat.memory_system import UserContext, memory_system
from redismem.compat.sessions import MemoryStore, create_store


def plain_names(
    episodes: AsyncEpisodicMemoryStore, semantic: AsyncSemanticMemoryStore, skills: AsyncSkillMemoryStore
) -> None:
    assert_type(create_store("memory://"), MemoryStore)
    assert_type(episodes.add_episode(EpisodicMemory(content="Hello")), str)
    assert_type(episodes.get_episode("e"), EpisodicMemory | None)
    assert_type(episodes.search_episodes("problem", task_id="t", limit=5), list[EpisodicMemory])
    assert_type(episodes.stream_episodes(batch_size=10), Iterator[list[EpisodicMemory]])
    assert_type(semantic.search_semantic("redis", 5), list[SemanticMemory])
    fact = SemanticMemory(subject="Ann", predicate="likes", object="tea")
    assert_type(semantic.add_semantic(semantic=fact, ttl=60), bool)
    assert_type(semantic.query_semantic("Ann", fresh=True), list[SemanticMemory])
    assert_type(skills.get_skill(skill_name="book_flight", scope="team"), SkillMemory | None)
    assert_type(skills.search_skills("flight", limit=5), list[SkillMemory])


async def awaited_names(
    episodes: AsyncEpisodicMemoryStore, semantic: AsyncSemanticMemoryStore, skills: AsyncSkillMemoryStore
) -> None:
    assert_type(await memory_system.get_user_context("42"), UserContext)
    assert_type(await memory_system.update_context("42", "Hi", "Hello"), UserContext)
    assert_type(await episodes.add_episode_async(EpisodicMemory(content="Hello")), str)
    assert_type(await episodes.get_episode_async("e"), EpisodicMemory | None)
    assert_type(await episodes.search_episodes_async("problem", min_score=0.5), list[EpisodicMemory])
    assert_type(episodes.stream_episodes_async(100, 0.5), AsyncIterator[list[EpisodicMemory]])
    assert_type(await semantic.search_semantic_async("redis", fresh=True), list[SemanticMemory])
    fact = SemanticMemory(subject="Ann", predicate="likes", object="tea")
    assert_type(await semantic.add_semantic_async(semantic=fact), bool)
    assert_type(await skills.get_skill_async(skill_name="book_flight"), SkillMemory | None)
    assert_type(await skills.get_skill_async("book_flight"), SkillMemory | None)
