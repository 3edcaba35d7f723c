"""What operators ask of a memory: who holds which lock, and what there is to migrate; on every server."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from redismem import Memory
from redismem.errors import ConfigError
from redismem.ops import api
from redismem.stores.record import Migrated
from tests.contract.flavours import Place
from tests.contract.test_migrations import Customer, Named, Person
from tests.servers import NAMES

pytestmark = pytest.mark.parametrize("place", [f"sync-{name}" for name in NAMES], indirect=True)


@pytest.fixture
def memory(place: Place) -> Iterator[Memory]:
    with cast(Any, place.open()).blocking as memory:
        yield memory


def until(condition: Any, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return answer


# --- locks ----------------------------------------------------------------------------------------------------------


def test_who_holds_which_lock(place: Place, memory: Memory) -> None:
    assert list(api.locks(memory)) == []
    memory.records("lock", Person).merge("ann", "lock", {"name": "x"})
    other = cast(Any, place.open(prefix="other")).blocking
    readers = [memory.lock("b*[b]", "ç:{}", shared=True, lease=60) for _ in range(2)]
    with memory.lock("ann", lease=90) as lock, other.lock("ann"), readers[0], readers[1]:
        held = {(one.user_id, one.name, one.token): one for one in api.locks(memory)}
        mine = held[("ann", "default", lock.token)]
        assert (mine.shared, mine.waiters) == (False, 0)
        assert 60 < mine.left <= 90
        assert len(mine.owner) == 16
        theirs = [held[("b*[b]", "ç:{}", one.token)] for one in readers]
        assert [one.shared for one in theirs] == [True, True]
        assert theirs[0].owner != theirs[1].owner
        assert len(held) == 3
        with place.raw() as raw:
            raw.hset("redismem:user:{ann}:lock:default", "dead", "w 1 1")
        assert len(list(api.locks(memory))) == 3, "a lease that is over holds nothing"
    other.close()
    assert list(api.locks(memory)) == []


def test_who_waits(place: Place, memory: Memory) -> None:
    def wait() -> None:
        with memory.lock("ann", wait=30):
            pass

    waiters = [threading.Thread(target=wait) for _ in range(2)]
    with memory.lock("ann"):
        for waiter in waiters:
            waiter.start()
        until(lambda: [one.waiters for one in api.locks(memory)] == [2])
    for waiter in waiters:
        waiter.join()


def test_a_look_at_many_locks_takes_few_round_trips_and_changes_nothing(place: Place, memory: Memory) -> None:
    locks = [memory.lock(f"u{number}") for number in range(50)]
    for lock in locks:
        assert lock.acquire()
    list(api.locks(memory))
    with place.raw() as raw:
        before = {name: raw.dump(name) for name in raw.scan_iter()}
        trips = memory.stats().round_trips
        assert len({one.user_id for one in api.locks(memory)}) == 50
        assert memory.stats().round_trips - trips <= 8
        assert before == {name: raw.dump(name) for name in raw.scan_iter()}
    for lock in locks:
        lock.release()


# --- health ---------------------------------------------------------------------------------------------------------


def test_the_last_save(memory: Memory, place: Place) -> None:
    assert place.server is not None
    saved = memory.health().last_save
    if place.server.process is not None:
        assert saved is not None
        assert saved.tzinfo is UTC
        assert timedelta(0) <= datetime.now(UTC) - saved < timedelta(hours=1)


# --- migrations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 100])
def test_everything_is_migrated(place: Place, memory: Memory, batch_size: int) -> None:
    old = memory.records("person", Person)
    for user in range(5):
        old.merge_many(f"u{user}", {str(number): Person(name="Ann Lee") for number in range(5)})
    with place.raw() as raw:
        raw.hset("redismem:user:{u1}:record:person:3", "name", b"\xc1")
        raw.set("redismem:user:{u1}:record:person:text", "no hash")
        raw.hset("redismem:user:{u1}:record:person:a:b", "no", "record of ours")

    def told(model: type, name: str | None, **how: Any) -> list[str]:
        said = api.migrate(memory, model, name, batch_size=batch_size, **how)
        return sorted(one if isinstance(one, Migrated) else str(one) for one in set(said))

    damaged = "redismem:user:{u1}:record:person:3[name]: "
    for dry_run, outcome in ((True, Migrated.OUTDATED), (False, Migrated.DONE), (False, Migrated.CURRENT)):
        said = told(Named, "person", dry_run=dry_run)
        assert said[0] == outcome
        assert len(said) == 2
        assert said[1].startswith(damaged)
    assert memory.records("person", Named).get("u1", "4") == Named(first="Ann", last="Lee")
    assert api.migratable(memory, Named, "person") == 25

    memory.contexts.update_context("ann", "Hi", "Hello")
    assert told(Customer, None) == ["migrated"]
    assert told(Customer, None) == ["current"]
    assert memory.contexts.of(Customer).get_user_context("ann").nick == "ANN"
    with pytest.raises(ConfigError, match="Named is no UserContext: say --name"):
        told(Named, None)
