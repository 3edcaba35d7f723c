"""Where code of earlier memory systems runs: each kind of server, empty, by its URL."""

import pytest

from tests.servers import Server


@pytest.fixture
def url(server: Server) -> str:
    return server.url
