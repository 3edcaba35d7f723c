"""The server's clock is asked again when it answers late, as an answer is only as exact as it is quick."""

import asyncio
from typing import Any, cast

import pytest

from redismem.link.base import Link
from redismem.stores.store import ServerClock

AHEAD = 1_700_000_000.0


class SlowLink:
    """Its server is `AHEAD` of this process' clock; each answer takes as long as it says."""

    def __init__(self, *takes: float) -> None:
        self.now = 0.0
        self.asked = 0
        self._takes = takes

    def clock(self) -> float:
        return self.now

    async def execute(self, command: str) -> list[bytes]:
        assert command == "TIME"
        self.now += self._takes[min(self.asked, len(self._takes) - 1)]  # all of it before the server answers
        self.asked += 1
        seconds, micros = divmod(round((self.now + AHEAD) * 1e6), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]


@pytest.mark.parametrize(
    ("takes", "asked", "off"),
    [((0.001,), 1, 0.001), ((4.0, 0.002), 2, 0.002), ((2.0, 0.5, 0.01), 3, 0.01), ((0.08, 0.06, 0.1), 3, 0.031)],
)
def test_the_soonest_answer_counts(
    takes: tuple[float, ...], asked: int, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, server = SlowLink(*takes), ServerClock()
    monkeypatch.setattr("redismem.stores.store.clock", link.clock)
    for _ in range(3):
        said = asyncio.run(server.asked(cast(Link, cast(Any, link))))
        assert link.asked == asked, "what is known is known for a while"
        assert said == pytest.approx(link.now + AHEAD, abs=off)
    link.now += 601
    asyncio.run(server.asked(cast(Link, cast(Any, link))))
    assert link.asked > asked
