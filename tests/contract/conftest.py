"""Fixtures for bodies that run in every place: `tests.contract.flavours` says how."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from redismem import AsyncMemory, AsyncSessionStore, SessionStore
from tests.conftest import emptied
from tests.contract.flavours import ORACLE, SERVED, Place
from tests.servers import Server


@pytest.fixture(params=[*SERVED, ORACLE])
def place(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Place:
    """Each flavour on each kind of server, empty, and the oracle."""
    flavour, _, name = request.param.partition("-")
    return Place(flavour, emptied(shared_server(name)) if name else None)


@pytest.fixture
async def opened(place: Place) -> AsyncIterator[Callable[..., AsyncMemory]]:
    """Opens memories with settings of the test's; they are closed with it."""
    memories: list[AsyncMemory] = []

    def open_(url: str | None = None, **settings: object) -> AsyncMemory:
        memories.append(place.open(url, **settings))
        return memories[-1]

    yield open_
    for memory in memories:
        await memory.aclose()


@pytest.fixture
def memory(opened: Callable[..., AsyncMemory]) -> AsyncMemory:
    return opened()


@pytest.fixture
def store(memory: AsyncMemory) -> AsyncSessionStore:
    return memory.sessions


@pytest.fixture
def rival(place: Place, memory: AsyncMemory) -> Iterator[SessionStore]:
    """Another process' store on the data of `store`; its calls block."""
    rival = place.open_rival(memory)
    yield rival
    if place.server is not None:
        rival.close()
