"""Fixtures of the fault tests."""

import pytest

from tests.faults.figures import Figures


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figures:
    """Takes what a test measures: `tests.faults.figures`."""
    return Figures(request.node.nodeid)
