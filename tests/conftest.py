"""Servers as fixtures, and how hard hypothesis tries.

- `server`: each kind in turn; `@pytest.mark.parametrize("server", REAL, indirect=True)` leaves fakeredis out.
- `valkey`: Valkey 9 alone.
- `new_server`: private ones, to kill and restart: `new_server("redis70", "--maxmemory", "4mb", appendonly=True)`.
- `figure`: takes what a fault test measures.

A shared server starts when a test first asks for it, once in a pytest process, and is empty whenever a test gets it.
Where a server is not installed its tests are skipped; with CI=true they fail.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests.faults.figures import Figures
from tests.servers import NAMES, Missing, Server, launch

CI = os.environ.get("CI", "").lower() == "true"

# A shared machine stalls now and then: neither deadlines nor slow generation say anything about the code.
settings.register_profile("dev", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=1_000, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "dev"))


def started(name: str, *arguments: str, appendonly: bool = False) -> Server:
    """`launch`, or the end of this test."""
    try:
        return launch(name, *arguments, appendonly=appendonly)
    except Missing as missing:
        if CI:
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def emptied(server: Server) -> Server:
    """The server as if new: no data, and no script that an earlier test left."""
    if server.process is not None:
        with redis.Redis(port=server.port) as client:
            client.flushall()
            client.script_flush()
    return server


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Callable[[str], Server]]:
    """The one server of that name in this process."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(started(name)))


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Server:
    """Each kind of server in turn, empty."""
    return emptied(shared_server(request.param))


@pytest.fixture
def valkey(shared_server: Callable[[str], Server]) -> Server:
    """Valkey 9, empty."""
    return emptied(shared_server("valkey9"))


@pytest.fixture
def new_server() -> Iterator[Callable[..., Server]]:
    """`launch`: servers of this test alone, ended with it."""
    with ExitStack() as stack:

        def new(name: str = "valkey9", *arguments: str, appendonly: bool = False) -> Server:
            return stack.enter_context(started(name, *arguments, appendonly=appendonly))

        yield new


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figures:
    """Takes what a test measures: `tests.faults.figures`."""
    return Figures(request.node.nodeid)
