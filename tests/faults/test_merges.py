"""Merges by real processes at once, whatever hypothesis thinks of: what is left is what the model says.

Of the policies whose order does not matter the outcome is known exactly; a merge that is sent twice changes it only
where the policy adds.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from redismem import Max, MaxBy, Memory, Min, Sum, Union
from redismem.codec import Codec
from redismem.stores.rank import rank, tie_break
from tests.faults.crew import Member, crew
from tests.faults.figures import LONG, Figures
from tests.servers import Server

WORKERS = 3
servers = pytest.mark.parametrize("server", ["valkey9", "redis62"], indirect=True)


class Note(BaseModel, frozen=True):
    total: Annotated[int, Sum] = 0
    tags: Annotated[frozenset[str], Union] = frozenset()
    best: Annotated[float | None, Max] = None
    oldest: Annotated[datetime | None, Min] = None
    said: Annotated[str | None, MaxBy("sure")] = None
    sure: Annotated[float | None, Max] = None


Writes = list[tuple[str, dict[str, Any]]]

values = st.fixed_dictionaries(
    {},
    optional={
        "total": st.integers(-(10**15), 10**15),
        "tags": st.frozensets(st.text(max_size=3), max_size=3),
        "best": st.floats(allow_nan=False),
        "oldest": st.datetimes(timezones=st.just(UTC)),
    },
) | st.fixed_dictionaries({"said": st.text(max_size=2), "sure": st.sampled_from([0.0, 0.5, 0.25, 1.0])})
writes = st.lists(st.tuples(st.sampled_from("ab"), values), max_size=8)


def work(pipe: Connection, _: int, url: str) -> None:
    """Merge what comes through the pipe."""
    with Memory(url) as memory:
        notes = memory.records("note", Note)
        pipe.send("ready")
        while True:
            for record_id, write in pipe.recv():
                notes.merge("42", record_id, write)
            pipe.send("done")


@pytest.fixture
def workers(server: Server) -> Iterator[list[Member]]:
    with ExitStack() as stack:
        members = stack.enter_context(crew(WORKERS, work, server.url))
        for member in members:
            assert member.hear() == "ready"
        yield members


def expected(all_writes: Writes, record_id: str) -> Note:
    """What these writes come to, in whatever order."""
    mine = [write for name, write in all_writes if name == record_id]

    def given_for(name: str) -> list[Any]:
        return [write[name] for write in mine if name in write]

    pairs = [(write["said"], write["sure"]) for write in mine if "said" in write]
    said = max(pairs, key=lambda pair: rank(pair[1]) + tie_break(Codec().encode(pair[0])), default=(None, None))
    return Note(
        total=sum(given_for("total")),
        tags=frozenset().union(*given_for("tags")),
        best=max(given_for("best"), default=None),
        oldest=min(given_for("oldest"), default=None),
        said=said[0],
        sure=max((sure for _, sure in pairs), default=None),
    )


@servers
def test_the_order_of_merges_makes_no_difference(server: Server, workers: list[Member], figure: Figures) -> None:
    with Memory(server.url) as memory:
        notes = memory.records("note", Note)

        @settings(
            max_examples=3_000 if LONG else 60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            database=None,
        )
        @given(st.lists(writes, min_size=WORKERS, max_size=WORKERS))
        def together(shares: list[Writes]) -> None:
            notes.delete("42", "a", "b")
            for member, share in zip(workers, shares, strict=True):
                member.tell(share)
            for member in workers:
                assert member.hear() == "done"
            everything = [write for share in shares for write in share]
            for record_id in {name for name, _ in everything}:
                found = notes.snapshot("42", record_id)
                assert found is not None
                assert found.record == expected(everything, record_id)
                for name, write in everything:  # once more: nothing but the sums may change
                    if name == record_id:
                        notes.merge("42", name, {key: value for key, value in write.items() if key != "total"})
                again = notes.snapshot("42", record_id)
                assert again == found
            figure("merges of concurrent processes", "merges", len(everything))

        together()
