"""Local replicas of scopes follow what others write, however much it is."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from redismem import AsyncMemory, EpisodicMemory
from redismem.search import Index
from tests.contract.flavours import on_servers

pytestmark = on_servers


def episodes(start: int, end: int) -> list[EpisodicMemory]:
    return [EpisodicMemory(memory_id=f"e{number}", content=f"river bird{number}") for number in range(start, end)]


async def ids(memory: AsyncMemory, query: str) -> list[str]:
    return [one.document.memory_id for one in await memory.episodes.search(query, limit=1)]


async def test_much_is_followed_in_a_thread_and_little_is_not(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    assert await ids(reader, "river") == []
    where, apply = list[threading.Thread](), Index.apply

    def noted(self: Index, *args: Any) -> None:
        where.append(threading.current_thread())
        apply(self, *args)

    monkeypatch.setattr(Index, "apply", noted)
    await writer.episodes.add_many(episodes(0, 10))
    assert await ids(reader, "bird3") == ["e3"]
    few = set(where)
    where.clear()
    await writer.episodes.add_many(episodes(10, 900))
    found = await asyncio.gather(*(ids(reader, f"bird{number}") for number in range(890, 900)))
    assert found == [[f"e{number}"] for number in range(890, 900)]
    assert set(where) - few


async def test_what_was_taken_in_half_is_read_anew(
    opened: Callable[..., AsyncMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = opened(), opened()
    await writer.episodes.add_many(episodes(0, 10))
    assert await ids(reader, "bird3") == ["e3"]
    await writer.episodes.add_many(episodes(10, 20))

    def failing(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Index, "apply", failing)
        with pytest.raises(MemoryError):
            await ids(reader, "bird13")
    assert await ids(reader, "bird13") == ["e13"]
